//! The simplest sink that can be looked into.

use std::fmt;
use std::sync::Arc;

use crate::batch::Batch;
use crate::sink::{Sink, WriteContext, WriteError};
use crate::sync::{Mutex, lock};

/// Takes everything and keeps a clone of each item, in the order in which they came. Clones of a
/// recorder share what they keep.
///
/// ```
/// use sluicegate::testing::Recorder;
/// use sluicegate::{Batcher, TestClock};
///
/// let recorder = Recorder::new();
/// let mut pump = Batcher::builder().max_batch_size(2).pump(recorder.clone(), TestClock::new())?;
/// pump.producer().add_many(&mut vec!["a", "b"]).unwrap();
/// pump.run();
/// assert_eq!(recorder.items(), ["a", "b"]);
/// # Ok::<(), sluicegate::ConfigError>(())
/// ```
pub struct Recorder<T>(Arc<Mutex<Vec<T>>>);

impl<T> Recorder<T> {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }

    /// How many items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the items out of it.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl<T: Clone> Recorder<T> {
    /// The items, in the order in which they were written.
    #[must_use]
    pub fn items(&self) -> Vec<T> {
        lock(&self.0).clone()
    }
}

impl<T: Clone> Sink<T> for Recorder<T> {
    fn write(&mut self, batch: &Batch<T>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        // Cloned before the lock: an item's `clone` that panics leaves no half of a batch.
        let mut items = batch.to_vec();
        lock(&self.0).append(&mut items);
        Ok(())
    }
}

impl<T> Clone for Recorder<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Recorder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Recorder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("items", &self.len()).finish()
    }
}
