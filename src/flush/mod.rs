//! Flushers: each collects a batch while it holds the shard's lease, passes the lease on, and
//! writes.
//!
//! ```text
//!   flusher 0   collect ─┐ write ──────────────┐ collect ─┐ …
//!   flusher 1            └ collect ─┐ write ───┼──…       └ …
//!                          (lease)             └ settle: each item meets its fate in the ledger
//! ```
//!
//! One flusher of a shard collects at a time (leader), so n flushers still form full batches, in the
//! order of the ring; the batch stays in the cache of the thread that formed it (Schmidt et al.,
//! "Leader/Followers").

mod classify;
mod dead;
mod flusher;
mod gate;
mod ledger;
mod next;
mod owned;
mod permit;
mod policy;
mod report;
mod retries;
mod shard;
mod shards;
mod steal;
#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
mod tasks;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
mod work;
mod write;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use dead::{Asking, DeadLetterSink, DeadLetters};
pub use flusher::{FlusherThread, Opened};
#[cfg(any(loom, shuttle))]
pub use gate::Permit;
pub use gate::{Gate, Permits};
pub use ledger::{Activity, Ledger, Left, Resolution, Seat, Writing};
pub use next::Look;
pub use owned::{Own, OwnedRings};
pub use permit::{Adaptive, Breaker, BreakerState, Retry, Throttle, WhileOpen};
pub use policy::{Key, Policy};
pub use retries::{Bounds, Retries};
pub use shard::{Admission, Common, Lease, Shard};
pub use shards::Positions;
#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
pub use tasks::AsyncFlusherThread;
#[cfg(any(loom, shuttle))]
pub use work::Work;
pub use write::Writer;

use crate::ack::{AckError, AckReason};
use crate::batch::BatchId;
use crate::config::DropReason;
use crate::guard::{drop_each, guarded};
use crate::mode::{Mode, Plain, Tag};
use crate::placement::Placed;
use crate::ring::CloseInChild;
use crate::sink::{Applied, Flusher, WriteError};
use crate::sync::thread_local;

/// Takes failed items.
pub type OnFailed<T> = Arc<dyn Fn(FailedItem<T>) + Send + Sync>;

/// An item that the sink did not take.
pub struct FailedItem<T> {
    /// The item.
    pub item: T,
    /// Why. Items of a batch that failed as a whole share it.
    pub error: Arc<WriteError>,
    /// The batch it was in.
    pub batch: BatchId,
}

impl<T> fmt::Debug for FailedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedItem")
            .field("error", &self.error)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// Takes items that were let go.
pub type OnDropped<T> = Arc<dyn Fn(DroppedItem<T>) + Send + Sync>;

/// An item that was let go on purpose.
pub struct DroppedItem<T> {
    /// The item.
    pub item: T,
    /// Which policy it was.
    pub reason: DropReason,
}

impl<T> fmt::Debug for DroppedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DroppedItem").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// When an item is too old to be written.
pub struct Expiry<T> {
    pub max_age: Duration,
    /// Where the item itself says when it was added.
    pub added: Option<Added<T>>,
}

/// When an item was added.
pub type Added<T> = Arc<dyn Fn(&T) -> Instant + Send + Sync>;

/// What the flushers of an engine share.
pub struct Shared<T, M: Mode<T> = Plain> {
    /// At least one.
    pub shards: Vec<Arc<Shard<T, M>>>,
    /// Flushers of each shard; they are numbered shard by shard.
    pub flushers_each: usize,
    /// Where they are, and who is near whom.
    pub placed: Placed,
    /// Producers follow their threads from node to node.
    pub follows: bool,
    /// An item for which its home has no room may go to another shard.
    pub overflows: bool,
    /// A flusher with nothing to do may take batches of other shards.
    pub steals: bool,
    pub ledger: Ledger<T, M>,
    pub on_failed: Option<OnFailed<T>>,
    pub on_dropped: Option<OnDropped<T>>,
    pub expiry: Option<Expiry<T>>,
    pub policy: Policy<T>,
    pub dead: Option<DeadLetters<T>>,
    /// How long one call of a sink may take.
    pub write_timeout: Duration,
}

impl<T: Send, M: Mode<T>> CloseInChild for Shared<T, M> {
    fn close_in_child(&self) {
        self.shards.iter().for_each(|shard| shard.close_in_child());
    }
}

impl<T, M: Mode<T>> Shared<T, M> {
    /// Tells whoever is to know of an item that was let go; returns how many of the caller's
    /// functions panicked. The item is the callback's, or else the ack's, or else it is dropped.
    pub fn tell_dropped(&self, item: T, tag: Tag<T>, reason: DropReason) -> u64 {
        self.any().release(tag.bytes);
        let error = AckError::new(match reason {
            DropReason::Newest => AckReason::Newest,
            DropReason::Oldest => AckReason::Evicted,
            DropReason::Expired => AckReason::Expired,
        });
        let told = match (&self.on_dropped, tag.promise) {
            (Some(tell), promise) => {
                if let Some(promise) = promise {
                    promise.fail(error);
                }
                guarded(|| tell(DroppedItem { item, reason }))
            }
            (None, Some(promise)) => {
                let item = promise.fail_with(error, item);
                guarded(|| drop(item))
            }
            (None, None) => guarded(|| drop(item)),
        };
        u64::from(told.is_err())
    }

    /// Whether somebody takes failed items.
    pub fn tells(&self) -> bool {
        self.on_failed.is_some() || self.dead.is_some()
    }

    /// For a call of a sink that begins now.
    pub fn asking(&self, flusher: Flusher) -> Asking<'_> {
        self.asking_at(flusher, self.any().clock.now())
    }

    /// For one that began at that time.
    pub fn asking_at(&self, flusher: Flusher, began: Instant) -> Asking<'_> {
        let deadline = began.checked_add(self.write_timeout);
        Asking { flusher, clock: &self.any().clock, deadline, shutdown: &self.ledger.deadline }
    }

    /// Tells who waits for the items of a write that was left behind.
    pub fn tell_left(&self, left: Left<T, M>) {
        let Left { batch, mut tags, spoiled } = left;
        let tags: Vec<_> = M::take_tags(&mut tags).chain(spoiled).collect();
        // First: a waker may take its time.
        self.any().release(tags.iter().map(|tag| tag.bytes).sum());
        for promise in tags.into_iter().filter_map(|tag| tag.promise) {
            let error = AckError::new(AckReason::Unknown);
            promise.fail(AckError { batch: Some(batch), ..error });
        }
    }

    /// Hands back whatever waits to be written again. To be called when nobody writes any more.
    pub fn hand_back_waiting(&self) {
        for mut work in self.ledger.take_waiting() {
            let items = std::mem::take(&mut work.batch.items);
            let tags = M::take_tags(&mut work.tags);
            match &work.past.failure {
                Some(failure) if work.past.unknown => {
                    tags.for_each(|tag| self.any().let_go(tag, AckReason::Unknown));
                    let (error, batch) = (&failure.error, work.batch.id);
                    let error = match error.what_applied() {
                        Applied::Unknown => Arc::clone(error),
                        Applied::Nothing => Arc::new(error.again("").applied(Applied::Unknown)),
                    };
                    let lost = |item| FailedItem { item, error: Arc::clone(&error), batch };
                    let mut left = self.ledger.lose_unknown(items.into_iter().map(lost).collect());
                    drop_each(&mut left);
                }
                _ => {
                    tags.for_each(|tag| self.any().let_go(tag, AckReason::HandedBack));
                    self.ledger.hand_back(work.place(), items);
                }
            }
            work.discard();
        }
    }

    /// The flush barrier: waits until every item added before this call has met its fate.
    pub fn flush(&self, timeout: Duration) -> Resolution {
        let positions = self.demand_all();
        self.ledger.wait_resolved(&positions, timeout)
    }

    /// As [`flush`](Self::flush), for the items of one shard.
    pub fn flush_shard(&self, index: usize, timeout: Duration) -> Resolution {
        let positions = self.demand_of(index);
        self.ledger.wait_resolved(&positions, timeout)
    }
}

/// What a thread is at for an engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It runs the engine's sinks and callbacks.
    Flusher,
    /// It tells of an item that was let go to make room.
    Dropper,
}

thread_local! {
    /// The engines whose sinks or callbacks may be running on this thread, the innermost last.
    // Not `const { … }`: loom's macro does not take it.
    #[allow(clippy::missing_const_for_thread_local)]
    static SERVING: RefCell<Vec<(u64, Role)>> = RefCell::new(Vec::new());
}

/// While it lives, this thread serves an engine's sinks or callbacks and must not wait for that
/// engine.
pub struct Serving;

impl Serving {
    pub fn engine(engine: u64) -> Self {
        Self::enter(engine, Role::Flusher)
    }

    /// The caller's code is told of an item that was let go. Should it add in its turn, to the same
    /// full queue, that lets go of nothing: or each item let go could lead to the next, for ever.
    pub fn dropping(engine: u64) -> Self {
        Self::enter(engine, Role::Dropper)
    }

    fn enter(engine: u64, role: Role) -> Self {
        let _ = SERVING.try_with(|serving| serving.borrow_mut().push((engine, role)));
        Self
    }

    /// Whether this thread serves that engine. While the thread is being torn down, it does not.
    pub fn is(engine: u64) -> bool {
        Self::any(|(of, _)| of == engine)
    }

    /// Whether this thread is just telling of an item that the engine let go.
    pub fn is_dropping(engine: u64) -> bool {
        Self::any(|entry| entry == (engine, Role::Dropper))
    }

    fn any(is: impl Fn((u64, Role)) -> bool) -> bool {
        SERVING.try_with(|serving| serving.borrow().iter().copied().any(is)).unwrap_or(false)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = SERVING.try_with(|serving| serving.borrow_mut().pop());
    }
}
