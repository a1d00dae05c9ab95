//! What a sink is given: a [`Batch`], the [`BatchId`] that names it, and the [`FlushReason`] that
//! closed it.

use std::fmt;
use std::time::{Duration, Instant};

/// Names a batch of one engine: 1 for the first, then counting up in the order in which batches
/// were formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub(crate) u64);

impl BatchId {
    /// The name with this number, as a store or a test has it; the engine counts its own.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of the batch.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushReason {
    /// It holds `max_batch_size` items.
    Size,
    /// The next item would take it over `max_batch_bytes`, or it has just reached them; or a
    /// producer found no bytes left of `max_queue_bytes`.
    Bytes,
    /// Its first item is `max_batch_delay` old.
    Time,
    /// A flusher was free and the engine flushes when idle
    /// ([`FlushWhen::Idle`](crate::FlushWhen::Idle)).
    Idle,
    /// A caller asked for a flush.
    Flush,
    /// The engine is closing.
    Shutdown,
}

impl FlushReason {
    /// Every reason, in one fixed order.
    pub const ALL: [Self; 6] =
        [Self::Size, Self::Bytes, Self::Time, Self::Idle, Self::Flush, Self::Shutdown];

    /// The name used in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Bytes => "bytes",
            Self::Time => "time",
            Self::Idle => "idle",
            Self::Flush => "flush",
            Self::Shutdown => "shutdown",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for FlushReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The items that a [`Sink`](crate::Sink) is to write in one call, in the order in which they were
/// added.
///
/// Never empty. Dereferences to the slice of items.
pub struct Batch<T> {
    pub(crate) id: BatchId,
    pub(crate) reason: FlushReason,
    pub(crate) bytes: u64,
    pub(crate) items: Vec<T>,
    /// Ring position of the first item.
    pub(crate) position: u64,
    /// No item of the batch was added before this moment.
    pub(crate) opened: Instant,
    /// How long after its time it was closed, where time was the reason.
    pub(crate) late: Option<Duration>,
}

impl<T> Batch<T> {
    /// The batch's name; it stays the same when the batch is written again.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Why the batch was closed.
    #[must_use]
    pub fn reason(&self) -> FlushReason {
        self.reason
    }

    /// The items, oldest first.
    #[must_use]
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// Sum of the items' weights in bytes, as the builder's `weight` function gives them; 0 without
    /// one.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same batch, as far as its sink can see, with these items of it.
    #[cfg(feature = "testing")]
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn part(&self, items: Vec<T>) -> Self {
        Self { items, ..*self }
    }
}

impl<T> std::ops::Deref for Batch<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<'a, T> IntoIterator for &'a Batch<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<T> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("id", &self.id.0)
            .field("reason", &self.reason)
            .field("items", &self.items.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
