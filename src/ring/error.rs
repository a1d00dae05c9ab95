//! Why a ring did not take or give an item.

use std::fmt;

use super::{CAPACITY_MAX, CAPACITY_MIN};

/// Why [`Ring::try_push`](super::Ring::try_push) did not take the item; the item is inside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PushError<T> {
    /// Every slot holds an item.
    Full(T),
    /// A consumer has claimed the slot and is moving the item out: there is room in a moment.
    Busy(T),
    /// The ring is closed, for good.
    Closed(T),
}

impl<T> PushError<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::Busy(item) | Self::Closed(item) => item,
        }
    }

    fn reason(&self) -> RunError {
        match self {
            Self::Full(_) => RunError::Full,
            Self::Busy(_) => RunError::Busy,
            Self::Closed(_) => RunError::Closed,
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(..)", self.reason())
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().fmt(f)
    }
}

impl<T> std::error::Error for PushError<T> {}

/// Why [`Ring::try_push_run`](super::Ring::try_push_run) took no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// Every slot holds an item.
    Full,
    /// A consumer is moving the next item out: there is room in a moment.
    Busy,
    /// The ring is closed, for good.
    Closed,
}

impl RunError {
    /// The same of a single item, which is given back.
    #[inline(always)]
    pub(super) fn with<T>(self, item: T) -> PushError<T> {
        match self {
            Self::Full => PushError::Full(item),
            Self::Busy => PushError::Busy(item),
            Self::Closed => PushError::Closed(item),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the ring is full",
            Self::Busy => "the ring is full but for an item on its way out",
            Self::Closed => "the ring is closed",
        })
    }
}

impl std::error::Error for RunError {}

/// Why [`Ring::try_pop_run`](super::Ring::try_pop_run) gave no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PopError {
    /// Nothing was pushed that has not been popped.
    Empty,
    /// A producer has claimed the next slot and not published it yet.
    Busy,
    /// Nothing is left, and nothing will come: the ring is closed.
    Closed,
}

impl fmt::Display for PopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the ring is empty",
            Self::Busy => "the next item is not published yet",
            Self::Closed => "the ring is closed and empty",
        })
    }
}

impl std::error::Error for PopError {}

/// A capacity that no [`Ring`](super::Ring) can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityError {
    pub(super) got: usize,
    pub(super) memory: bool,
}

impl fmt::Display for CapacityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let got = self.got;
        if self.memory {
            write!(f, "no memory for a ring of {got} slots")
        } else {
            write!(
                f,
                "a ring's capacity must be a power of two from {CAPACITY_MIN} to {CAPACITY_MAX}, \
                 not {got}"
            )
        }
    }
}

impl std::error::Error for CapacityError {}
