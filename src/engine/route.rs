//! Where a producer's items go: its home.
//!
//! Order of one producer is order of one ring. So a producer changes its ring only when every item
//! that it has added has met its fate: then no later item can overtake an earlier one, whatever the
//! two rings' flushers do.
//!
//! ```text
//!   Home::Sticky      one ring for life, or until `rehome`, which waits for the fates
//!   Home::FollowCpu   looks at its CPU every LOOK_EVERY adds; if that is another node's, and all
//!                     it has added has met its fate, and none of its calls waits: the next item
//!                     goes there, else it stays and looks again
//!   with a key        the ring of the item's key, whatever the node
//! ```
//!
//! A producer that never pauses is never without an item in flight, so it stays where it is:
//! `rehome` moves it for sure.

use std::sync::Arc;

use super::producer::Producer;
use crate::error::FlushError;
use crate::error::Refused;
use crate::flush::Resolution;
use crate::flush::{Serving, Shard, Shared};
use crate::mode::{Mode, RunRefused};
use crate::ring::Front;
use crate::sync::{Mutex, lock, mutated};

/// Adds from one look at the CPU to the next.
const LOOK_EVERY: u32 = 64;

/// Where a producer's items go.
pub(super) enum Route<T, M: Mode<T>> {
    /// To this shard.
    Home(Arc<Shard<T, M>>),
    /// To the shard of the item's key.
    Keyed,
    /// To a shard of the node that its thread runs on.
    Following(Mutex<Following>),
}

/// A producer that follows its thread.
#[derive(Clone, Copy)]
pub(super) struct Following {
    shard: usize,
    /// Position after the last item that it has added there.
    end: u64,
    /// Adds until it looks at its CPU.
    adds: u32,
    /// Calls that wait there for room.
    waiting: usize,
}

impl Following {
    fn at(shard: usize) -> Self {
        Self { shard, end: 0, adds: LOOK_EVERY, waiting: 0 }
    }

    /// Moves if it is time to, and nothing is in the way.
    fn look<T, M: Mode<T>>(&mut self, shared: &Shared<T, M>) {
        self.adds -= 1;
        if self.adds > 0 {
            return;
        }
        self.adds = LOOK_EVERY;
        let placed = &shared.placed;
        let node = placed.home();
        if self.waiting > 0 || node == placed.node_of(self.shard) {
            return;
        }
        if shared.ledger.resolved(self.shard) >= self.end || mutated("move_at_once") {
            *self = Self::at(placed.next_shard(node));
        }
    }
}

impl<T, M: Mode<T>> Route<T, M> {
    /// For a producer on that node; without one on the node of the CPU that it runs on now.
    pub fn new(shared: &Shared<T, M>, node: Option<usize>) -> Self {
        if shared.shards.len() == 1 {
            return Self::Home(Arc::clone(shared.any()));
        }
        if shared.is_keyed() {
            return Self::Keyed;
        }
        let placed = &shared.placed;
        let shard = placed.next_shard(node.unwrap_or_else(|| placed.home()));
        match node {
            None if shared.follows => Self::Following(Mutex::new(Following::at(shard))),
            _ => Self::Home(Arc::clone(&shared.shards[shard])),
        }
    }

    #[cfg(feature = "futures")]
    /// The same place in the same order.
    pub fn same(&self) -> Self {
        match self {
            Self::Home(shard) => Self::Home(Arc::clone(shard)),
            Self::Keyed => Self::Keyed,
            Self::Following(state) => {
                Self::Following(Mutex::new(Following { waiting: 0, ..*lock(state) }))
            }
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> Producer<T, M> {
    /// The node that this producer's items go to, as an index into
    /// [`Plan::nodes`](crate::placement::Plan::nodes); `None` where each item goes to the shard of
    /// its key.
    #[must_use]
    pub fn home(&self) -> Option<usize> {
        match &self.route {
            Route::Keyed => None,
            _ => Some(self.shared.placed.node_of(self.home_shard())),
        }
    }

    /// Where the items go now, if not each to the shard of its key.
    fn home_shard(&self) -> usize {
        match &self.route {
            Route::Home(shard) => shard.index,
            Route::Keyed => self.shared.any().index,
            Route::Following(state) => lock(state).shard,
        }
    }

    /// Makes the node that the calling thread runs on this producer's home; does nothing where it
    /// is already, or where there is but one, or with a key.
    ///
    /// So that order holds, it asks for everything in the old ring to be flushed, and waits until
    /// it has met its fate. Where order does not matter, a new producer is quicker.
    ///
    /// # Errors
    /// As [`Batcher::flush`](crate::Batcher::flush); the producer stays where it was.
    pub fn rehome(&mut self, timeout: std::time::Duration) -> Result<(), FlushError> {
        let placed = &self.shared.placed;
        let node = placed.home();
        if self.home().is_none_or(|home| home == node) {
            return Ok(());
        }
        if self.shared.forked() {
            return Err(FlushError::Forked);
        }
        if Serving::is(self.shared.any().engine) {
            return Err(FlushError::Reentrant);
        }
        match self.shared.flush_shard(self.home_shard(), timeout) {
            Resolution::Resolved => {}
            Resolution::TimedOut => return Err(FlushError::Timeout(self.shared.tally())),
            Resolution::Stopped => return Err(FlushError::Stopped(self.shared.tally())),
        }
        let shard = placed.next_shard(node);
        match &self.route {
            Route::Following(state) => *lock(state) = Following::at(shard),
            _ => self.route = Route::Home(Arc::clone(&self.shared.shards[shard])),
        }
        self.on = None;
        Ok(())
    }

    /// The shard to which an item goes.
    pub(super) fn shard_of(&self, item: &T) -> &Shard<T, M> {
        match &self.route {
            Route::Home(shard) => shard,
            Route::Keyed => self.shared.keyed(item),
            Route::Following(state) => &self.shared.shards[lock(state).shard],
        }
    }

    /// As [`push`](Self::push), for one whose shard is not always the same.
    #[inline(never)]
    pub(super) fn push_routed(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        let shared = &self.shared;
        match &self.route {
            Route::Home(shard) => shard.push(entry),
            Route::Keyed => shared.keyed(M::item(&entry)).push(entry),
            Route::Following(state) => {
                let mut state = lock(state);
                state.look(shared);
                let shard = &shared.shards[state.shard];
                let end = M::push(shard, entry)?;
                shard.wake.published(end);
                state.end = shard.ring.position(end);
                Ok(())
            }
        }
    }

    /// Pushes a run of items that go to the same shard.
    pub(super) fn push_run(&self, front: &mut Front<'_, T>) -> Result<(), RunRefused> {
        let shared = &self.shared;
        match &self.route {
            Route::Home(shard) => shard.push_run(front, usize::MAX),
            Route::Keyed => {
                let Some(first) = front.items().first() else { return Ok(()) };
                let shard = shared.keyed(first).index;
                let same = |item: &&T| shared.keyed(item).index == shard;
                let run = front.items().iter().take_while(same).count();
                shared.shards[shard].push_run(front, run)
            }
            Route::Following(state) => {
                let mut state = lock(state);
                state.look(shared);
                let shard = &shared.shards[state.shard];
                let end = M::push_run(shard, front, usize::MAX)?;
                shard.wake.published(end);
                state.end = shard.ring.position(end);
                Ok(())
            }
        }
    }

    /// A call begins to wait: until [`go`](Self::go) this producer does not move.
    pub(super) fn stay(&self) {
        if let Route::Following(state) = &self.route {
            lock(state).waiting += 1;
        }
    }

    /// A call waits no longer.
    pub(super) fn go(&self) {
        if let Route::Following(state) = &self.route {
            lock(state).waiting -= 1;
        }
    }

    /// Tries the other shards, the nearest first, for an item for which `home` has no room.
    pub(super) fn overflow(
        &self,
        home: &Shard<T, M>,
        mut entry: M::Entry,
    ) -> Result<(), Refused<M::Entry>> {
        for shard in self.overflow_to(home) {
            match shard.push(entry) {
                Ok(()) => {
                    self.shared.ledger.overflowed.count();
                    return Ok(());
                }
                Err(Refused::Full(back) | Refused::Busy(back)) => entry = back,
                Err(refused) => return Err(refused),
            }
        }
        Err(Refused::Full(entry))
    }

    /// As [`overflow`](Self::overflow), for a run.
    pub(super) fn overflow_run(
        &self,
        home: &Shard<T, M>,
        front: &mut Front<'_, T>,
    ) -> Result<(), RunRefused> {
        for shard in self.overflow_to(home) {
            let before = front.len();
            match shard.push_run(front, usize::MAX) {
                Ok(()) => {
                    self.shared.ledger.overflowed.add((before - front.len()) as u64);
                    return Ok(());
                }
                Err(RunRefused::Full | RunRefused::Busy) => {}
                Err(refused) => return Err(refused),
            }
        }
        Err(RunRefused::Full)
    }

    fn overflow_to<'a>(&'a self, home: &Shard<T, M>) -> impl Iterator<Item = &'a Shard<T, M>> {
        let shared = &self.shared;
        let near = if shared.overflows { shared.placed.near(home.index) } else { &[] };
        near.iter().map(|&shard| &*shared.shards[shard])
    }
}
