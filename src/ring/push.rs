//! What a shared ring and an owned one have in common for who pushes.

use super::{Front, PushError, RunError, Word};

/// Where items are pushed.
pub trait Push<T> {
    /// As [`Ring::try_push`](super::Ring::try_push); returns the word after the item's.
    fn push(&self, item: T) -> Result<Word, PushError<T>>;

    /// As [`Ring::try_push_run`](super::Ring::try_push_run), but at most `max`, each wrapped into an entry; returns the word
    /// after the last one's. `wrap` is ours: it is called between claim and publication.
    fn push_run<U>(
        &self,
        front: &mut Front<'_, U>,
        max: usize,
        wrap: impl FnMut(U) -> T,
    ) -> Result<Word, RunError>;

    /// Whether a push would be refused now, without claiming anything.
    fn look(&self) -> Result<(), RunError>;
}
