//! What a sink is given: a [`Batch`], the [`BatchId`] that names it, and the [`FlushReason`] that
//! closed it.

use std::fmt;
use std::time::{Duration, Instant};

/// Names a batch of one engine: 1 for the first, then counting up in the order in which batches
/// were formed. Of several shards each takes every n-th number. A batch that is written again keeps its name; a part of it, with other items than
/// any other part, has a name of its own: the batch's number and the number of the part.
///
/// One name never stands for two different sets of items, so a sink may use it to know what it has
/// written before. It shows as `17`, or `17.3` for the third part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    number: u64,
    part: u32,
}

impl BatchId {
    /// The name of a whole batch, as a store or a test has it; the engine counts its own.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number, part: 0 }
    }

    /// The name of a part of it, counted from 1.
    #[must_use]
    pub fn with_part(self, part: u32) -> Self {
        Self { part, ..self }
    }

    /// The number of the batch.
    #[must_use]
    pub fn get(self) -> u64 {
        self.number
    }

    /// The number of the part, from 1; 0 for the whole batch.
    #[must_use]
    pub fn part(self) -> u32 {
        self.part
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => write!(f, "{}", self.number),
            part => write!(f, "{}.{part}", self.number),
        }
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
    pub(crate) shard: usize,
    pub(crate) reason: FlushReason,
    pub(crate) bytes: u64,
    pub(crate) items: Vec<T>,
    /// Ring position of the first item of the whole batch.
    pub(crate) position: u64,
    /// No item of the batch was added before this moment.
    pub(crate) opened: Instant,
    /// How long after its time it was closed, where time was the reason.
    pub(crate) late: Option<Duration>,
}

impl<T> Batch<T> {
    /// The same batch without its items, for a part of it.
    pub(crate) fn emptied(&self) -> Self {
        let Self { id, shard, reason, bytes: _, items: _, position, opened, late: _ } = *self;
        Self { id, shard, reason, bytes: 0, items: Vec::new(), position, opened, late: None }
    }

    /// The batch's name; it stays the same when the batch is written again.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Which of the engine's shards it comes from: 0 where there is but one. Batches of a shard are
    /// formed in the order of its ring.
    #[must_use]
    pub fn shard(&self) -> usize {
        self.shard
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
            .field("id", &self.id)
            .field("shard", &self.shard)
            .field("reason", &self.reason)
            .field("items", &self.items.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
