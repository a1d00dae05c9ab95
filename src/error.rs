//! Errors of the engine's own; a sink's are in [`sink`](crate::sink).

use std::error::Error;
use std::fmt;
use std::io;

use crate::config::ConfigError;
use crate::ring::PushError;
use crate::sink::{BoxError, Flusher};
use crate::telemetry::Tally;

/// Why an item was not added; the item is inside.
///
/// `Debug` and `Display` never show the item, so that no item ever reaches a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AddError<T> {
    /// Every slot of the queue is in use, or all of its bytes, and the caller would not wait.
    Full(T),
    /// The engine is closed, for good.
    Closed(T),
    /// The queue stayed full until the deadline.
    Timeout(T),
    /// The queue is full and the caller is one of this engine's flushers, or is just being told of
    /// an item let go: it would wait for itself.
    Reentrant(T),
    /// The item alone is larger than `max_queue_bytes`.
    TooLarge {
        /// The item.
        item: T,
        /// What it weighs.
        bytes: u64,
        /// What the queue may hold.
        max_queue_bytes: u64,
    },
    /// This process was forked from the one with the flushers: nobody would write the item.
    Forked(T),
}

impl<T> AddError<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item)
            | Self::Closed(item)
            | Self::Timeout(item)
            | Self::Reentrant(item)
            | Self::TooLarge { item, .. }
            | Self::Forked(item) => item,
        }
    }

    /// Why, without the item.
    pub fn reason(&self) -> AddReason {
        match self {
            Self::Full(_) => AddReason::Full,
            Self::Closed(_) => AddReason::Closed,
            Self::Timeout(_) => AddReason::Timeout,
            Self::Reentrant(_) => AddReason::Reentrant,
            Self::TooLarge { bytes, max_queue_bytes, .. } => {
                AddReason::TooLarge { bytes: *bytes, max_queue_bytes: *max_queue_bytes }
            }
            Self::Forked(_) => AddReason::Forked,
        }
    }

    pub(crate) fn new(reason: AddReason, item: T) -> Self {
        match reason {
            AddReason::Full => Self::Full(item),
            AddReason::Closed => Self::Closed(item),
            AddReason::Timeout => Self::Timeout(item),
            AddReason::Reentrant => Self::Reentrant(item),
            AddReason::TooLarge { bytes, max_queue_bytes } => {
                Self::TooLarge { item, bytes, max_queue_bytes }
            }
            AddReason::Forked => Self::Forked(item),
        }
    }
}

impl<T> fmt::Debug for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, .. } => write!(f, "TooLarge({bytes} bytes, ..)"),
            _ => write!(f, "{:?}(..)", self.reason()),
        }
    }
}

impl<T> fmt::Display for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().fmt(f)
    }
}

impl<T> Error for AddError<T> {}

/// Why items were not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddReason {
    /// Every slot of the queue is in use, or all of its bytes.
    Full,
    /// The engine is closed, for good.
    Closed,
    /// The queue stayed full until the deadline.
    Timeout,
    /// The queue is full and the caller would wait for itself.
    Reentrant,
    /// The item alone is larger than the whole budget.
    TooLarge {
        /// What it weighs.
        bytes: u64,
        /// What the queue may hold.
        max_queue_bytes: u64,
    },
    /// The flushers are in the parent process.
    Forked,
}

impl fmt::Display for AddReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::Closed => "the engine is closed",
            Self::Timeout => "the queue stayed full until the deadline",
            Self::Reentrant => "the queue is full and a flusher cannot wait for itself",
            Self::TooLarge { bytes, max_queue_bytes } => {
                return write!(
                    f,
                    "the item has {bytes} bytes, and max_queue_bytes is {max_queue_bytes}"
                );
            }
            Self::Forked => "the engine's flushers are in the parent process",
        })
    }
}

/// Why an entry did not go into the ring; the entry is inside.
pub enum Refused<E> {
    /// The ring has no room.
    Full(E),
    /// The ring has room in a moment: an item is on its way out.
    Busy(E),
    /// The budget has no room.
    Short(E),
    /// Closed.
    Closed(E),
    /// So many bytes are more than the whole budget.
    TooLarge(E, u64),
}

impl<E> Refused<E> {
    /// The entry.
    pub fn entry(&self) -> &E {
        match self {
            Self::Full(entry)
            | Self::Busy(entry)
            | Self::Short(entry)
            | Self::Closed(entry)
            | Self::TooLarge(entry, _) => entry,
        }
    }
}

impl<E> From<PushError<E>> for Refused<E> {
    #[inline(always)]
    fn from(error: PushError<E>) -> Self {
        match error {
            PushError::Full(entry) => Self::Full(entry),
            PushError::Busy(entry) => Self::Busy(entry),
            PushError::Closed(entry) => Self::Closed(entry),
        }
    }
}

/// Why [`add_many`](crate::Producer::add_many) stopped; what was not added is still in the vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddManyError {
    /// Items added before it stopped.
    pub added: usize,
    /// Why it stopped.
    pub reason: AddReason,
}

impl fmt::Display for AddManyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, after {} items", self.reason, self.added)
    }
}

impl Error for AddManyError {}

/// Why [`flush`](crate::Batcher::flush) did not see every item to its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushError {
    /// The time came first. The tally is of that moment; the items go on to their fate.
    Timeout(Tally),
    /// Called from a sink or a callback of this engine: that thread would wait for itself.
    Reentrant,
    /// No flusher is left to do it: the engine was shut down.
    Stopped(Tally),
    /// The flushers are in the process that this one was forked from.
    Forked,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(tally) => {
                write!(f, "not flushed in time, {} items in flight", tally.in_flight)
            }
            Self::Reentrant => f.write_str("a flusher cannot wait for itself to flush"),
            Self::Forked => f.write_str("the engine's flushers are in the parent process"),
            Self::Stopped(tally) => {
                write!(f, "no flusher is left, {} items in flight", tally.in_flight)
            }
        }
    }
}

impl Error for FlushError {}

/// Why there is no [`OwnedProducer`](crate::OwnedProducer) to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnedError {
    /// [`owned_depth`](crate::Builder::owned_depth) was not set.
    NotAsked,
    /// The owned rings of a shard have `queue_depth` slots together, and these are too few.
    NoSlots {
        /// Slots of each owned ring.
        depth: usize,
        /// Slots that are left.
        left: usize,
    },
    /// There is no memory for so many slots.
    Memory {
        /// Slots of each owned ring.
        depth: usize,
    },
    /// With a [`key`](crate::Builder::key) and several shards each item goes to the shard of its key.
    Keyed,
    /// The engine's flushers are in the process that this one was forked from.
    Forked,
}

impl fmt::Display for OwnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("no ring can be owned: set owned_depth"),
            Self::NoSlots { depth, left } => write!(
                f,
                "no {depth} slots for another owned ring, {left} are left of queue_depth: drop an \
                 owned producer, or set a smaller owned_depth or a larger queue_depth"
            ),
            Self::Memory { depth } => write!(f, "no memory for a ring of {depth} slots"),
            Self::Keyed => f.write_str("with a key and several shards no ring can be owned"),
            Self::Forked => f.write_str("the engine's flushers are in the parent process"),
        }
    }
}

impl Error for OwnedError {}

/// Why an engine did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// The configuration contradicts itself.
    Config(ConfigError),
    /// A sink did not open.
    Open {
        /// The flusher that it was for.
        flusher: Flusher,
        /// What the factory said.
        source: BoxError,
    },
    /// The system gave no thread.
    Thread(io::Error),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Open { flusher, source } => {
                write!(f, "the sink of flusher {} did not open: {source}", flusher.index)
            }
            Self::Thread(error) => write!(f, "no thread for a flusher: {error}"),
        }
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Open { source, .. } => Some(source.as_ref()),
            Self::Thread(error) => Some(error),
        }
    }
}

impl From<ConfigError> for SpawnError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
