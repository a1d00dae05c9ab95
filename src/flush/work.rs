//! What a flusher writes in one call: a batch, fresh or again, or a part of one.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::batch::Batch;
use crate::collect::Formed;
use crate::guard::drop_each;
use crate::mode::{Mode, Tag};
use crate::sink::WriteError;
use crate::telemetry::Phases;

/// Items on their way to the sink together, with their past.
pub struct Work<T, M: Mode<T>> {
    pub batch: Batch<T>,
    /// Of the batch's items, one each.
    pub tags: M::Tags,
    /// Items that fail alone, whatever the sink says: only a fresh batch has any.
    pub spoiled: Vec<(T, Tag<T>)>,
    /// Ring position after the last item of the whole batch.
    pub end: u64,
    pub past: Past,
}

/// What has happened to a work so far.
#[derive(Clone, Debug)]
pub struct Past {
    /// Where its first item stands in the whole batch.
    pub offset: u32,
    /// Writes of its items so far.
    pub attempts: u32,
    /// How many of them were to try the same items again.
    pub retries: u32,
    /// A write of them may have taken effect, though it failed.
    pub unknown: bool,
    /// It has waited behind others of its keys.
    pub parked: bool,
    /// The last of them that failed.
    pub failure: Option<Box<Failure>>,
    /// How its time was spent.
    pub phases: Phases,
}

/// A failed write.
#[derive(Clone, Debug)]
pub struct Failure {
    pub error: Arc<WriteError>,
    /// When items of this work first failed.
    pub first: Moment,
    /// When they last did.
    pub last: Moment,
    /// Nothing happens to the work before.
    pub due: Instant,
}

/// A moment, for us and, where it is `told`, for people.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: Instant,
    pub wall: SystemTime,
}

impl Moment {
    /// Now, which our clock shows as `at`.
    pub fn of(at: Instant, told: bool) -> Self {
        let wall = if told { SystemTime::now() } else { SystemTime::UNIX_EPOCH };
        Self { at, wall }
    }
}

impl<T, M: Mode<T>> Work<T, M> {
    /// A batch just formed.
    pub fn fresh(formed: Formed<T, M>) -> Self {
        let Formed { batch, tags, spoiled, end, phases } = formed;
        Self { batch, tags, spoiled, end, past: Past::new(phases) }
    }

    /// Whether it was never written.
    pub fn is_fresh(&self) -> bool {
        self.past.failure.is_none()
    }

    /// Its items, spoiled ones too.
    pub fn count(&self) -> u64 {
        (self.batch.items.len() + self.spoiled.len()) as u64
    }

    /// Drops its items and its error, which are the caller's; returns how many of the drops panicked.
    pub fn discard(&mut self) -> u64 {
        if self.batch.is_empty() && self.spoiled.is_empty() && self.is_fresh() {
            return 0;
        }
        let mut errors = Vec::from_iter(self.past.failure.take().map(|failure| failure.error));
        drop_each(&mut self.batch.items) + drop_each(&mut self.spoiled) + drop_each(&mut errors)
    }

    /// Where it stands among all the works of an engine.
    pub fn place(&self) -> Place {
        Place {
            position: self.batch.position,
            shard: self.batch.shard,
            offset: self.past.offset,
            part: self.batch.id.part(),
        }
    }
}

impl Past {
    pub fn new(phases: Phases) -> Self {
        Self {
            offset: 0,
            attempts: 0,
            retries: 0,
            parked: false,
            unknown: false,
            failure: None,
            phases,
        }
    }
}

/// The order in which works were added: by their first item. Those of several shards take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub position: u64,
    pub shard: usize,
    pub offset: u32,
    pub part: u32,
}
