//! A producer with a ring of its own.

use std::fmt;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adding::{Patience, Way, item_back};
use super::{Batcher, Pump};
use crate::ack::{Ack, Promise, promise};
use crate::error::{AddError, AddManyError, AddReason, OwnedError, Refused};
use crate::flush::{Own, OwnedRings, Shard, Shared};
use crate::mode::{Mode, Plain, RunRefused, Tracked};
use crate::placement::{Placed, bind_memory};
use crate::ring::{CapacityError, Front, InPages, Owner, Pages, Ring};
use crate::sink::Sink;
use crate::sync::mutated;

/// Adds items to an engine through a ring of its own: no compare-and-swap for each item, no cache line
/// that another producer writes. An add takes half to four fifths of the time that it takes through a
/// [`Producer`](crate::Producer). `Send`, but neither `Clone` nor `Sync`: make one for each thread, on
/// that thread, with [`Batcher::owned_producer`].
///
/// What holds for a producer holds for it: order of its items, what a full queue does, exactly one
/// fate for each. Its ring has [`owned_depth`](crate::Builder::owned_depth) slots, and is full when
/// these are, whatever others have queued. Batches mix items of all rings of a shard.
///
/// Dropped, it leaves its items to the flushers; its slots are free for another once they are out.
/// An idle one costs the flushers nothing. It stays on the shard on which it was made, also with
/// [`Home::FollowCpu`](crate::Home), and never overflows to another.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::{Batcher, WriteError, sink::NullSink};
///
/// let batcher = Batcher::builder()
///     .owned_depth(1_024)
///     .spawn(|_| Ok::<_, WriteError>(NullSink))?;
/// std::thread::scope(|scope| {
///     for _ in 0..4 {
///         let mut producer = batcher.owned_producer()?;
///         scope.spawn(move || (0..1_000).for_each(|item| producer.add(item).unwrap()));
///     }
///     Ok::<(), sluicegate::OwnedError>(())
/// })?;
/// assert_eq!(batcher.shutdown(Duration::from_secs(5)).tally.flushed_ok, 4_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Two threads cannot share one:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<sluicegate::OwnedProducer<u64>>();
/// ```
pub struct OwnedProducer<T: Send + 'static, M: Mode<T> = Plain> {
    shard: Arc<Shard<T, M>>,
    owner: Owner<M::Entry>,
    own: Arc<Own<M::Entry>>,
    shared: Arc<Shared<T, M>>,
}

impl<T: Send + 'static, M: Mode<T>> OwnedProducer<T, M> {
    /// On the node of the CPU that this thread runs on.
    pub(crate) fn new(shared: &Arc<Shared<T, M>>) -> Result<Self, OwnedError> {
        if shared.forked() {
            return Err(OwnedError::Forked);
        }
        if shared.is_keyed() && shared.shards.len() > 1 {
            return Err(OwnedError::Keyed);
        }
        let placed = &shared.placed;
        let shard = Arc::clone(&shared.shards[placed.next_shard(placed.home())]);
        let rings = shard.owned.as_ref().ok_or(OwnedError::NotAsked)?;
        let depth = rings.depth();
        let ring =
            ring_near(placed, shard.index, depth).map_err(|_| OwnedError::Memory { depth })?;
        let (owner, own) = rings.adopt(ring).map_err(|left| OwnedError::NoSlots { depth, left })?;
        Ok(Self { shard, owner, own, shared: Arc::clone(shared) })
    }

    /// As [`Producer::add`](crate::Producer::add).
    ///
    /// # Errors
    /// As there.
    #[inline(always)] // for the same reason
    pub fn add(&mut self, item: T) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(&self.shard, item, None), Patience::Policy)
    }

    /// As [`Producer::try_add`](crate::Producer::try_add).
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn try_add(&mut self, item: T) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(&self.shard, item, None), Patience::None)
    }

    /// As [`Producer::add_timeout`](crate::Producer::add_timeout).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn add_timeout(&mut self, item: T, timeout: Duration) -> Result<(), AddError<T>> {
        match self.push(M::entry(&self.shard, item, None)) {
            Ok(()) => Ok(()),
            Err(refused) => {
                let until = self.shard.clock.now().checked_add(timeout);
                self.refused(refused, Patience::Until(until)).map_err(item_back::<T, M>)
            }
        }
    }

    /// As [`Producer::add_deadline`](crate::Producer::add_deadline).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn add_deadline(&mut self, item: T, deadline: Instant) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(&self.shard, item, None), Patience::Until(Some(deadline)))
    }

    /// As [`Producer::add_many`](crate::Producer::add_many).
    ///
    /// # Errors
    /// As there.
    pub fn add_many(&mut self, items: &mut Vec<T>) -> Result<usize, AddManyError> {
        let mut front = Front::new(items);
        self.add_front(&mut front, true)?;
        Ok(front.taken())
    }

    /// As [`Producer::try_add_many`](crate::Producer::try_add_many).
    ///
    /// # Errors
    /// As there.
    pub fn try_add_many(&mut self, items: &mut Vec<T>) -> Result<usize, AddManyError> {
        let mut front = Front::new(items);
        match self.add_front(&mut front, false) {
            Ok(()) | Err(AddManyError { reason: AddReason::Full, .. }) => Ok(front.taken()),
            Err(error) => Err(error),
        }
    }

    /// The node that its items go to, as an index into
    /// [`Plan::nodes`](crate::placement::Plan::nodes).
    #[must_use]
    pub fn home(&self) -> usize {
        self.shared.placed.node_of(self.shard.index)
    }

    /// After a push up to that word.
    #[inline(always)]
    fn published(&self, end: u64) {
        if self.owner.is_to_tell(end) {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        if let Some(rings) = &self.shard.owned {
            rings.told(&self.own);
        }
        self.shard.told();
        if !mutated("own_told_no_wake") {
            self.shard.wake.wake();
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> Way<T, M> for OwnedProducer<T, M> {
    fn shared(&self) -> &Shared<T, M> {
        &self.shared
    }

    #[inline(always)]
    fn any(&self) -> &Shard<T, M> {
        &self.shard
    }

    fn own(&self) -> Option<&Own<M::Entry>> {
        Some(&self.own)
    }

    fn shard_of(&self, _: &T) -> &Shard<T, M> {
        &self.shard
    }

    #[inline(always)]
    fn push(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        let end = M::push(&self.shard, &self.owner, entry)?;
        self.published(end);
        Ok(())
    }

    fn push_run(&self, front: &mut Front<'_, T>) -> Result<(), RunRefused> {
        let end = M::push_run(&self.shard, &self.owner, front, usize::MAX)?;
        self.published(end);
        Ok(())
    }

    fn staying(&self) -> impl Sized {}
}

impl<T: Send + 'static> OwnedProducer<T, Tracked> {
    /// As [`Producer::add_with_ack`](crate::Producer::add_with_ack).
    ///
    /// # Errors
    /// As there.
    pub fn add_with_ack(&mut self, item: T) -> Result<Ack<T>, AddError<T>> {
        self.add_promised(item, Patience::Policy)
    }

    /// As [`Producer::try_add_with_ack`](crate::Producer::try_add_with_ack).
    ///
    /// # Errors
    /// As there.
    pub fn try_add_with_ack(&mut self, item: T) -> Result<Ack<T>, AddError<T>> {
        self.add_promised(item, Patience::None)
    }

    /// As [`Producer::add_with_ack_timeout`](crate::Producer::add_with_ack_timeout).
    ///
    /// # Errors
    /// As there.
    pub fn add_with_ack_timeout(
        &mut self,
        item: T,
        timeout: Duration,
    ) -> Result<Ack<T>, AddError<T>> {
        let until = self.shard.clock.now().checked_add(timeout);
        self.add_promised(item, Patience::Until(until))
    }

    fn add_promised(&mut self, item: T, patience: Patience) -> Result<Ack<T>, AddError<T>> {
        let Shard { engine, generation, clock, .. } = &*self.shard;
        let (promise, ack): (Promise<T>, Ack<T>) = promise(*engine, *generation, clock);
        let entry = Tracked::entry(&self.shard, item, Some(promise));
        self.add_entry(entry, patience).map(|()| ack)
    }
}

impl<T: Send + 'static, M: Mode<T>> Drop for OwnedProducer<T, M> {
    fn drop(&mut self) {
        if self.shared.forked() {
            return; // who has the lock may not be in this process
        }
        if let Some(rings) = &self.shard.owned {
            rings.orphan(&self.own);
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> fmt::Debug for OwnedProducer<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedProducer").field("home", &self.home()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static, M: Mode<T>> Batcher<T, M> {
    /// A producer with a ring of its own, for one thread; it belongs on the node of the CPU that the
    /// calling thread runs on. Needs [`owned_depth`](crate::Builder::owned_depth).
    ///
    /// # Errors
    /// [`OwnedError`].
    pub fn owned_producer(&self) -> Result<OwnedProducer<T, M>, OwnedError> {
        OwnedProducer::new(&self.shared)
    }
}

impl<T: Send + 'static, S: Sink<T>, M: Mode<T>> Pump<T, S, M> {
    /// As [`Batcher::owned_producer`].
    ///
    /// # Errors
    /// As there.
    pub fn owned_producer(&self) -> Result<OwnedProducer<T, M>, OwnedError> {
        OwnedProducer::new(self.shared())
    }
}

/// A ring on the node of a shard.
fn ring_near<E>(placed: &Placed, shard: usize, depth: usize) -> Result<Ring<E>, CapacityError> {
    let Some(node) = placed.memory_of(shard) else { return Ring::new(depth) };
    let bind = |memory: &[MaybeUninit<u8>]| bind_memory(memory, node);
    let (ring, InPages { bound, .. }) = Ring::in_pages(depth, Pages { huge: false }, bind)?;
    if let Some(Err(refused)) = bound {
        placed.lies(shard, Some(Err(refused)), None);
    }
    Ok(ring)
}

/// The rings that producers may own beside that of a shard.
pub(super) fn rings<E>(
    depth: Option<usize>,
    slots_max: usize,
    clock: crate::clock::Clock,
) -> Option<OwnedRings<E>> {
    let barrier = crate::ring::Barrier::detect;
    depth.map(|depth| OwnedRings::new(depth, slots_max, barrier(), clock))
}
