//! Where a producer's items go: its home.
//!
//! Order of one producer is order of one ring. So a producer changes its ring only when every item
//! that it has added has met its fate: then no later item can overtake an earlier one, whatever the
//! two rings' flushers do.
//!
//! ```text
//!   Home::Sticky      one ring for life, or until `rehome`, which waits for the fates
//!   Home::FollowCpu   looks at its CPU every LOOK_EVERY adds; if that is another node's, then the
//!                     first item for which all before it have met their fate, and none of its
//!                     calls is under way, goes there
//!   with a key        the ring of the item's key, whatever the node
//! ```
//!
//! A producer that never pauses is never without an item in flight, so it stays where it is:
//! `rehome` moves it for sure.
//!
//! Its lock is held for a moment before each push and after it, never during one: a push may call
//! the weight function, and that may add.

use std::sync::Arc;
use std::time::Duration;

use super::adding::Way;
use super::producer::Producer;
use crate::error::FlushError;
use crate::error::Refused;
use crate::flush::Resolution;
use crate::flush::{Own, Serving, Shard, Shared};
use crate::mode::{Mode, RunRefused};
use crate::ring::{Front, Word};
use crate::sync::{Mutex, MutexGuard, lock, mutated, planted};

/// Adds from one look at the CPU to the next.
const LOOK_EVERY: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 64 };

/// Where a producer's items go.
pub(super) struct Route<T, M: Mode<T>> {
    /// To this shard, all of them. On the hot path nothing else is looked at.
    home: Option<Arc<Shard<T, M>>>,
    /// Else to a shard of the node that its thread runs on; else to the shard of the item's key.
    following: Option<Mutex<Following>>,
}

/// A producer that follows its thread.
#[derive(Clone, Copy)]
pub(super) struct Following {
    shard: usize,
    /// Position in the shared ring after the last item that it has added there.
    end: u64,
    /// Beside owned rings: a position of the shard that all its items lie before, as was seen when they
    /// were out of the ring.
    before: Option<u64>,
    /// Adds until it looks at its CPU.
    adds: u32,
    /// Its CPU was another node's when it looked: it moves as soon as it may.
    away: bool,
    /// Calls that are under way there.
    calls: usize,
}

impl Following {
    fn at(shard: usize) -> Self {
        Self { shard, end: 0, before: None, adds: LOOK_EVERY, away: false, calls: 0 }
    }

    /// Moves if it is time to, and nothing is in the way.
    fn look<T, M: Mode<T>>(&mut self, shared: &Shared<T, M>) {
        let placed = &shared.placed;
        self.adds -= 1;
        if self.adds == 0 {
            self.adds = LOOK_EVERY;
            self.away = placed.home() != placed.node_of(self.shard);
        }
        if !self.away || self.calls > 0 {
            return;
        }
        let planted = mutated("move_at_once") || planted("move_at_once");
        if planted || self.all_met_their_fate(shared) {
            let node = placed.home(); // it may have come back since
            self.away = node != placed.node_of(self.shard);
            if self.away {
                *self = Self::at(placed.next_shard(node));
            }
        }
    }

    /// Whether everything that it has added has. Asked at each add while it is away: what is still
    /// in the ring has not, and to see that takes no lock.
    fn all_met_their_fate<T, M: Mode<T>>(&mut self, shared: &Shared<T, M>) -> bool {
        let shard = &shared.shards[self.shard];
        if shard.ring.popped() < self.end {
            return false;
        }
        let end = match shard.owned {
            None => self.end,
            Some(_) => *self.before.get_or_insert_with(|| shard.popped()),
        };
        shared.ledger.resolved(self.shard) >= end
    }
}

/// A call that is under way: until it is dropped, a producer that follows its thread does not move.
pub(super) struct Staying<'p, T: Send + 'static, M: Mode<T>> {
    producer: &'p Producer<T, M>,
    /// Position after what it has added.
    end: u64,
}

impl<T: Send + 'static, M: Mode<T>> Drop for Staying<'_, T, M> {
    fn drop(&mut self) {
        self.producer.go(self.end);
    }
}

impl<T, M: Mode<T>> Route<T, M> {
    /// For a producer on that node; without one on the node of the CPU that it runs on now.
    pub fn new(shared: &Shared<T, M>, node: Option<usize>) -> Self {
        if shared.shards.len() == 1 {
            return Self::to(shared.any());
        }
        if shared.is_keyed() {
            return Self { home: None, following: None };
        }
        let placed = &shared.placed;
        let shard = placed.next_shard(node.unwrap_or_else(|| placed.home()));
        match node {
            None if shared.follows => Self::follow(Following::at(shard)),
            _ => Self::to(&shared.shards[shard]),
        }
    }

    fn to(shard: &Arc<Shard<T, M>>) -> Self {
        Self { home: Some(Arc::clone(shard)), following: None }
    }

    fn follow(following: Following) -> Self {
        Self { home: None, following: Some(Mutex::new(following)) }
    }

    /// The shard that all items go to.
    #[inline(always)]
    pub fn home(&self) -> Option<&Shard<T, M>> {
        self.home.as_deref()
    }

    /// The same place in the same order.
    #[cfg(feature = "futures")]
    pub fn same(&self) -> Self {
        match (&self.home, &self.following) {
            (Some(shard), _) => Self::to(shard),
            (None, Some(state)) => Self::follow(Following { calls: 0, ..*lock(state) }),
            (None, None) => Self { home: None, following: None },
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> Way<T, M> for Producer<T, M> {
    fn shared(&self) -> &Shared<T, M> {
        &self.shared
    }

    #[inline(always)]
    fn any(&self) -> &Shard<T, M> {
        self.route.home().unwrap_or_else(|| self.shared.any())
    }

    fn own(&self) -> Option<&Own<M::Entry>> {
        None
    }

    fn shard_of(&self, item: &T) -> &Shard<T, M> {
        match self.route.home() {
            Some(shard) => shard,
            None if self.route.following.is_some() => {
                &self.shared.shards[self.state().map_or(0, |state| state.shard)]
            }
            None => self.shared.keyed(item),
        }
    }

    #[inline(always)]
    fn push(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        match self.route.home() {
            Some(shard) => shard.push(entry),
            None => self.push_routed(entry),
        }
    }

    fn push_run(&self, front: &mut Front<'_, T>) -> Result<(), RunRefused> {
        if let Some(shard) = self.route.home() {
            return shard.push_run(front, usize::MAX);
        }
        if self.route.following.is_some() {
            return self.following(|shard| M::push_run(shard, &shard.ring, front, usize::MAX));
        }
        let Some((first, others)) = front.items().split_first() else { return Ok(()) };
        let shard = self.shared.keyed(first);
        let same = |item: &&T| self.shared.keyed(item).index == shard.index;
        let run = 1 + others.iter().take_while(same).count();
        shard.push_run(front, run)
    }

    fn staying(&self) -> impl Sized {
        self.stay();
        Staying { producer: self, end: 0 }
    }
}

impl<T: Send + 'static, M: Mode<T>> Producer<T, M> {
    /// The node that this producer's items go to, as an index into
    /// [`Plan::nodes`](crate::placement::Plan::nodes); `None` where each item goes to the shard of
    /// its key.
    #[must_use]
    pub fn home(&self) -> Option<usize> {
        self.at().map(|shard| self.shared.placed.node_of(shard))
    }

    /// Makes the node that the calling thread runs on this producer's home; does nothing where it
    /// is already, or where there is but one, or with a key.
    ///
    /// So that order holds, it asks for everything in the old ring to be flushed, and waits until
    /// it has met its fate. Where order does not matter, a new producer is quicker.
    ///
    /// # Errors
    /// As [`Batcher::flush`](crate::Batcher::flush); the producer stays where it was.
    pub fn rehome(&mut self, timeout: Duration) -> Result<(), FlushError> {
        let placed = &self.shared.placed;
        let node = placed.home();
        if self.shared.forked() {
            return Err(FlushError::Forked);
        }
        if Serving::is(self.shared.any().engine) {
            return Err(FlushError::Reentrant);
        }
        let Some(old) = self.at().filter(|old| placed.node_of(*old) != node) else {
            return Ok(());
        };
        match self.shared.flush_shard(old, timeout) {
            Resolution::Resolved => {}
            Resolution::TimedOut => return Err(FlushError::Timeout(self.shared.tally())),
            Resolution::Stopped => return Err(FlushError::Stopped(self.shared.tally())),
        }
        let shard = placed.next_shard(node);
        self.route = match &self.route.following {
            Some(_) => Route::follow(Following::at(shard)),
            None => Route::to(&self.shared.shards[shard]),
        };
        self.on = None;
        Ok(())
    }

    /// The shard that its items go to, but for their keys.
    fn at(&self) -> Option<usize> {
        let home = self.route.home().map(|shard| shard.index);
        home.or_else(|| self.state().map(|state| state.shard))
    }

    /// As [`push`](Self::push), for one whose shard is not always the same.
    #[inline(never)]
    fn push_routed(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        match &self.route.following {
            Some(_) => self.following(|shard| M::push(shard, &shard.ring, entry)),
            None => self.shared.keyed(M::item(&entry)).push(entry),
        }
    }

    /// Pushes to where it is now, and takes note of how far its items reach there.
    fn following<E>(&self, push: impl FnOnce(&Shard<T, M>) -> Result<Word, E>) -> Result<(), E> {
        let at = self.state().map(|mut state| {
            state.look(&self.shared);
            state.calls += 1;
            state.shard
        });
        let Some(at) = at else { return push(self.shared.any()).map(drop) };
        let mut staying = Staying { producer: self, end: 0 };
        let shard = &self.shared.shards[at];
        let end = push(shard)?;
        shard.wake.published(end);
        staying.end = shard.ring.position(end);
        Ok(())
    }

    /// Where it is, if it follows its thread. In a child process nowhere: a thread of the parent may
    /// hold the lock, and every ring is closed.
    fn state(&self) -> Option<MutexGuard<'_, Following>> {
        let state = self.route.following.as_ref()?;
        (!self.shared.forked()).then(|| lock(state))
    }

    /// A call begins that may wait, until [`go`](Self::go).
    pub(super) fn stay(&self) {
        if let Some(mut state) = self.state() {
            state.calls += 1;
        }
    }

    /// A call is over; it has added what lies before that position.
    pub(super) fn go(&self, end: u64) {
        if let Some(mut state) = self.state() {
            state.calls -= 1;
            if end > state.end {
                (state.end, state.before) = (end, None);
            }
        }
    }
}
