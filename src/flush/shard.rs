//! A shard: a ring, who waits at either end of it, and the lease to collect from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::gate::{Held, Load, Permit};
use super::owned::{Own, OwnedRings, Seen};
use crate::ack::{AckError, AckReason};
use crate::clock::Clock;
use crate::collect::{Buffer, Formed, Former, Step, View, Weight};
use crate::config::WhenFull;
use crate::error::Refused;
use crate::mode::{Mode, Plain, RunRefused, Tag};
use crate::ring::{Front, PopError, Push, Ring, Run, RunError, generation, in_child};
use crate::sync::{FLUSHER_LOOKS, FLUSHER_PAUSES, Mutex, mutated, pause};
use crate::telemetry::{ClosingCounter, Counter, nanos};
#[cfg(any(feature = "tokio", loom, shuttle))]
use crate::wait::Bell;
use crate::wait::{Beside, Budget, Charge, WaitList, Wake, Want};

/// A wait this short would have been worth spinning for; see `docs/decisions/0007-spin-budgets.md`.
const WORTH_SPINNING: Duration = Duration::from_micros(200);
/// Looks that even a quiet shard takes.
const LOOKS_MIN: u32 = if FLUSHER_LOOKS < 2 { FLUSHER_LOOKS } else { 2 };
/// How much more often a flusher looks for a single item than for the last one of a batch, if no
/// more than so many owned rings are to be looked at.
const EAGER: u32 = 8;
const EAGER_RINGS: usize = 8;
/// Between two looks at waiters beside whom there is room.
const NUDGE: Duration = Duration::from_millis(1);
/// Between two looks for an item whose producer has stopped between claim and publish.
pub const STALL_SLEEP: Duration = Duration::from_micros(200);

/// What an item must pass to get into the ring, besides finding room there.
pub struct Admission<T> {
    pub when_full: WhenFull,
    pub budget: Option<Budget>,
    pub weight: Option<Weight<T>>,
    /// Whether every item is stamped with the time of its add.
    pub stamped: bool,
    /// Where producers wait for room: one list for each shard, or one for all of them.
    pub rooms: Vec<Arc<WaitList>>,
}

impl<T> Default for Admission<T> {
    fn default() -> Self {
        Self {
            when_full: WhenFull::Block,
            budget: None,
            weight: None,
            stamped: false,
            rooms: Vec::new(),
        }
    }
}

impl<T> Admission<T> {
    /// The bytes to charge for an item: 0 where there is no budget.
    pub fn weigh(&self, item: &T) -> u64 {
        match (&self.budget, &self.weight) {
            (Some(_), Some(weight)) => weight(item) as u64,
            _ => 0,
        }
    }
}

/// What the shards of an engine have in common.
pub struct Common<T> {
    /// Which engine this is; never 0.
    pub engine: u64,
    pub admission: Arc<Admission<T>>,
    pub clock: Clock,
    start: Instant,
}

impl<T> Common<T> {
    /// For so many shards. `one_room`: a producer that waits takes room in any of them.
    pub fn new(
        engine: u64,
        mut admission: Admission<T>,
        clock: Clock,
        shards: usize,
        one_room: bool,
    ) -> Self {
        let rooms = if one_room && !mutated("own_rooms") { 1 } else { shards };
        admission.rooms = (0..rooms).map(|_| Arc::new(WaitList::new(clock.clone()))).collect();
        let start = clock.now();
        Self { engine, admission: Arc::new(admission), clock, start }
    }
}

/// One shard of an engine.
pub struct Shard<T, M: Mode<T> = Plain> {
    /// Which of its engine's shards.
    pub index: usize,
    /// Which engine this is; never 0.
    pub engine: u64,
    /// Which process it was made in.
    pub generation: u64,
    /// The one that its producers share.
    pub ring: Ring<M::Entry>,
    /// Those that a producer owns each, where that was asked for.
    pub owned: Option<OwnedRings<M::Entry>>,
    /// Items of a full batch, as far as the builder knew.
    batch_size: usize,
    pub wake: Wake,
    pub room: Arc<WaitList>,
    pub admission: Arc<Admission<T>>,
    /// The right to take items out of the ring. Waiting for items happens under it, writing does
    /// not.
    // Padded: it is written all the time, and producers read what is beside it.
    pub lease: CachePadded<Mutex<Lease<T, M>>>,
    /// Where flushers that are tasks wait for the lease.
    #[cfg(any(feature = "tokio", loom, shuttle))]
    pub bell: Bell,
    pub clock: Clock,
    pub start: Instant,
    /// The oldest item that was in no batch when somebody last looked.
    pub oldest: CachePadded<Oldest>,
    pub parks: Counter,
    pub stalls: Counter,
    /// The most that the sink has shown to take in one call: items, and bytes by weight. No limit
    /// is known at `u64::MAX`.
    pub taught_items: Counter,
    pub taught_bytes: Counter,
    /// Items let go at the door. Read once for each tally, in which they count as enqueued and as
    /// dropped.
    pub newest: ClosingCounter,
}

/// An item in the queue.
#[derive(Default)]
pub struct Oldest {
    position: Counter,
    /// In nanoseconds after the engine's start: no add of it had returned before.
    since: Counter,
}

/// What only the holder of the lease touches.
pub struct Lease<T, M: Mode<T> = Plain> {
    pub former: Former<T, M>,
    /// Looks to take before parking next time: few where nothing comes, many where batches fill
    /// quickly.
    looks: u32,
}

/// What a look has seen besides the tail.
enum More {
    /// Nothing.
    Later,
    /// A ring is half full: its owner will wait for room before a batch is full.
    Crowded,
    /// Closed, but an owner is in the middle of a claim.
    Soon,
}

/// What one turn of collecting has brought.
#[allow(clippy::large_enum_variant)] // moved once a batch; a box would be an allocation
pub enum Turn<T, M: Mode<T> = Plain> {
    /// A batch to write.
    Batch(Formed<T, M>, Permit),
    /// A batch is ready, but there is no permit until then.
    Held { until: Option<Instant> },
    /// Some items were taken in; go on.
    Progress,
    /// The next item is claimed and not published.
    Stalled,
    /// Nothing to do until the ring is claimed up to `position`, or the time has come, or there is
    /// news.
    Wait { position: u64, until: Option<Instant> },
    /// Nothing is left, or the engine has stopped: no more turns.
    Done,
}

impl<T, M: Mode<T>> Shard<T, M> {
    pub fn new(
        index: usize,
        common: &Common<T>,
        ring: Ring<M::Entry>,
        former: Former<T, M>,
    ) -> Self {
        let Common { engine, admission, clock, start } = common;
        let rooms = &admission.rooms;
        Self {
            index,
            engine: *engine,
            generation: generation(),
            ring,
            owned: None,
            batch_size: former.max_batch_size().try_into().unwrap_or(usize::MAX),
            wake: Wake::new(clock.clone()),
            room: Arc::clone(&rooms[index.min(rooms.len() - 1)]),
            admission: Arc::clone(admission),
            #[cfg(any(feature = "tokio", loom, shuttle))]
            bell: Bell::default(),
            lease: CachePadded::new(Mutex::new(Lease { former, looks: FLUSHER_LOOKS })),
            clock: clock.clone(),
            start: *start,
            oldest: CachePadded::default(),
            parks: Counter::new(0),
            stalls: Counter::new(0),
            taught_items: Counter::new(u64::MAX),
            taught_bytes: Counter::new(u64::MAX),
            newest: ClosingCounter::default(),
        }
    }

    /// The same with rings that producers own.
    #[must_use]
    pub fn with_owned(mut self, owned: Option<OwnedRings<M::Entry>>) -> Self {
        self.owned = owned;
        self
    }

    /// Items ever added.
    pub fn pushed(&self) -> u64 {
        match &self.owned {
            None => self.ring.pushed(),
            Some(owned) => owned.pushed(&self.ring, self.forked()),
        }
    }

    /// Items ever taken out of the rings.
    pub fn popped(&self) -> u64 {
        self.owned.as_ref().map_or_else(|| self.ring.popped(), OwnedRings::popped)
    }

    /// Items in the rings a moment ago.
    pub fn len(&self) -> usize {
        self.owned.as_ref().map_or_else(|| self.ring.len(), |owned| owned.len(&self.ring))
    }

    /// Slots of the rings.
    pub fn capacity(&self) -> usize {
        self.ring.capacity() + self.owned.as_ref().map_or(0, OwnedRings::slots)
    }

    /// Position after everything that was added before this call.
    fn tail(&self) -> u64 {
        // An add that has returned is before the tail that this reads, in the one order of
        // read-modify-writes.
        let tail = || self.ring.rendezvous().position;
        self.owned.as_ref().map_or_else(tail, |owned| owned.tail(&self.ring))
    }

    /// For the flusher's sleep.
    pub fn beside(&self) -> Option<&dyn Beside> {
        self.owned.as_ref().map(|owned| owned as &dyn Beside)
    }

    /// Items of a full batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Whether this process was forked from the one that has the flushers.
    ///
    /// A pump has none, so its copy in a child is as good as itself.
    pub fn forked(&self) -> bool {
        in_child(self.generation) && !matches!(self.clock, Clock::Test(_))
    }

    /// Now, as a tag says it; 0 where nobody asks for it.
    pub fn stamp(&self, asked: bool) -> u64 {
        if asked || self.admission.stamped {
            nanos(self.clock.now().saturating_duration_since(self.start)).saturating_add(1)
        } else {
            0
        }
    }

    /// When an item with this stamp was added.
    pub fn added(&self, stamp: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(stamp.checked_sub(1)?))
    }

    /// Takes bytes from the budget, if there is one.
    pub fn charge(
        &self,
        ring: &impl Push<M::Entry>,
        bytes: u64,
    ) -> Result<Option<Charge<'_>>, RunRefused> {
        self.charge_run(ring, &[bytes]).map(|(_, charge)| charge)
    }

    /// Takes bytes from the budget for as many items from the front as it has room for. Closed
    /// comes first: nobody may be left to give bytes back. A full ring comes before the bytes: they
    /// would be given back at once, which wakes a waiter, who would charge in its turn, and wake the
    /// first: for ever.
    pub fn charge_run(
        &self,
        ring: &impl Push<M::Entry>,
        items: &[u64],
    ) -> Result<(usize, Option<Charge<'_>>), RunRefused> {
        let Some(budget) = &self.admission.budget else { return Ok((items.len(), None)) };
        let Some(&first) = items.first() else { return Ok((0, None)) };
        let look = if mutated("charge_unseen") { Ok(()) } else { ring.look() };
        match look {
            Err(RunError::Closed) => Err(RunRefused::Closed),
            _ if first > budget.max() => Err(RunRefused::TooLarge { bytes: first }),
            Err(lack) => Err(lack.into()),
            Ok(()) => {
                let charged = budget.charge_run(&self.admission.rooms, items);
                charged.map(|(count, charge)| (count, Some(charge))).ok_or(RunRefused::Short)
            }
        }
    }

    /// To be called after items were pushed whose bytes were charged before. Who was short of those
    /// bytes may have pressed in between, when the items were not there yet: then the push comes
    /// after the press, and sees the waiter that was listed before it.
    pub fn pushed_charged(&self) {
        let anyone = self.admission.rooms.iter().any(|room| room.len() != 0);
        if anyone && !mutated("press_once") {
            self.press();
        }
    }

    /// To be called after an owner has told of a ring that was quiet: no press has found what is in
    /// it, nor has [`pushed_charged`](Self::pushed_charged).
    pub fn told(&self) {
        if self.admission.budget.is_some() && !mutated("own_press_unseen") {
            self.pushed_charged();
        }
    }

    /// Has every item there is written, so that the bytes they hold are given back.
    pub fn press(&self) {
        self.wake.press(&self.ring, self.tail());
    }

    /// Wakes waiters beside whom there is room. Those woken before may not be running: a task that
    /// is not polled, or whose thread waits itself.
    pub fn nudge(&self) -> bool {
        let beside_room = self.room.len() != 0 && self.has_room();
        if beside_room {
            self.room.freed(usize::MAX);
        }
        beside_room
    }

    /// Charges and pushes an entry, and wakes who waits for it.
    #[inline(always)]
    pub fn push(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        let end = M::push(self, &self.ring, entry)?;
        self.wake.published(end);
        Ok(())
    }

    /// As [`push`](Self::push), for as many items as go in with one claim, `max` at most.
    pub fn push_run(&self, front: &mut Front<'_, T>, max: usize) -> Result<(), RunRefused> {
        let end = M::push_run(self, &self.ring, front, max)?;
        self.wake.published(end);
        Ok(())
    }

    /// Gives bytes back to the budget.
    pub fn release(&self, bytes: u64) {
        if let Some(budget) = &self.admission.budget {
            budget.release(&self.admission.rooms, bytes);
        }
    }

    /// The sink did not take so much in one call: batches are to have half as much, of bytes where
    /// there is a weight, else of items. If a single item is too much, that item is at fault, and
    /// nothing was learned of batches.
    pub fn too_large(&self, items: usize, bytes: u64) {
        match (items, bytes) {
            (0 | 1, _) => {
                self.taught_items.set(u64::MAX);
                self.taught_bytes.set(u64::MAX);
            }
            (items, 0) => self.taught_items.set(self.taught_items.get().min(items as u64 / 2)),
            (_, bytes) => self.taught_bytes.set(self.taught_bytes.get().min(bytes.div_ceil(2))),
        }
    }

    /// The sink has taken so much in one call: batches may have as much.
    pub fn taken(&self, items: usize, bytes: u64) {
        if self.taught_items.get() < items as u64 {
            self.taught_items.set(items as u64);
        }
        if self.taught_bytes.get() < bytes {
            self.taught_bytes.set(bytes);
        }
    }

    /// Whether another item may find room.
    pub fn has_room(&self) -> bool {
        self.ring.len() < self.ring.capacity()
            && self.admission.budget.as_ref().is_none_or(|budget| budget.used() < budget.max())
    }

    /// An item has met a fate in which somebody else has it: gives its bytes back, and tells who
    /// waits for it.
    pub fn let_go(&self, tag: Tag<T>, reason: AckReason) {
        self.release(tag.bytes);
        if let Some(promise) = tag.promise {
            promise.fail(AckError::new(reason));
        }
    }

    /// No add of an item that is in no batch yet had returned before this moment; `None` if there
    /// is no such item.
    pub fn oldest(&self) -> Option<Instant> {
        let pending = self.pushed() > self.oldest.position.get();
        pending.then(|| self.looked_at())
    }

    /// The oldest item that was in no batch when somebody last looked, or the one that would have
    /// come next, was not added before this moment.
    pub fn looked_at(&self) -> Instant {
        self.start + Duration::from_nanos(self.oldest.since.get())
    }

    /// Items before that position are known to the ledger: nobody need count their age here, though
    /// the next look at the ring may come after a long write.
    pub fn begun(&self, end: u64) {
        self.oldest.position.raise(end);
    }

    /// Refuses every add from now on, wakes everyone who waits for this shard, and returns the items
    /// ever added to the shared ring, which the models compare with what producers were told.
    pub fn close(&self) -> u64 {
        if let Some(owned) = &self.owned {
            owned.close(); // first: see `OwnedRings::look`
        }
        let pushed = self.ring.close();
        self.newest.close();
        if !mutated("close_no_wake") {
            self.wake.demand(&self.ring, u64::MAX);
        }
        self.room.closed();
        if let Some(owned) = &self.owned {
            owned.closed();
        }
        pushed
    }

    /// In a forked child: refuses every add.
    pub fn close_in_child(&self) {
        if let Some(owned) = &self.owned {
            owned.close_in_child();
        }
        self.ring.close();
    }

    /// Asks for everything that was added before this call, and says up to which position that is.
    pub fn demand_all(&self) -> u64 {
        let position = if mutated("flush_to_head") { self.ring.popped() } else { self.tail() };
        if !mutated("flush_no_demand") {
            self.wake.demand(&self.ring, position);
        }
        position
    }

    /// Asks the flushers to collect nothing more, whatever is left.
    pub fn stop(&self) {
        self.wake.stop(&self.ring);
    }

    /// To be called after the lease was unlocked by somebody who is no flusher.
    pub fn lease_is_free(&self) {
        #[cfg(any(feature = "tokio", loom, shuttle))]
        self.bell.lease_is_free();
    }

    /// Writes that can be cut short are waited for no longer.
    pub fn give_up(&self) {
        #[cfg(any(feature = "tokio", loom, shuttle))]
        self.bell.give_up();
    }

    /// One turn: looks at the ring once, and acts on it. `partial`: write what is overdue though
    /// more is claimed. `permit` is asked before a batch is closed.
    pub fn turn(
        &self,
        lease: &mut Lease<T, M>,
        buffer: &mut Buffer<T, M>,
        partial: bool,
        permit: &mut dyn FnMut(Instant, Load) -> Result<Permit, Held>,
    ) -> Turn<T, M> {
        if self.wake.stopped() {
            return Turn::Done;
        }
        let former = &mut lease.former;
        let (view, more) = self.view(former);
        let step = match (former.step(&view), more) {
            (Step::Wait { .. }, More::Soon) => return Turn::Stalled,
            (Step::Wait { .. }, More::Crowded) => Step::Drain { up_to: view.tail },
            (step, _) => step,
        };
        let reason = match step {
            Step::Wait { position, until } => return Turn::Wait { position, until },
            Step::Done => return Turn::Done,
            Step::Close(reason) => reason,
            Step::Drain { up_to } => match self.drain(former, up_to) {
                // Mostly the batch is whole now: then there is no need to look at the ring again.
                Ok(()) => match former.step(&view) {
                    Step::Close(reason) => reason,
                    Step::Drain { .. } | Step::Wait { .. } | Step::Done => return Turn::Progress,
                },
                Err(PopError::Busy) if mutated("stalled_is_done") && view.closed => {
                    return Turn::Done;
                }
                Err(PopError::Busy) => {
                    let pending = former.pending(&view);
                    match former.overdue(&view, pending) {
                        Some(reason) if partial && former.has_items() => reason,
                        _ => return Turn::Stalled,
                    }
                }
                Err(PopError::Empty | PopError::Closed) => {
                    former.reconsider(); // evicted meanwhile
                    return Turn::Progress;
                }
            },
        };
        let load = Load { items: former.have(), bytes: former.bytes(), kind: None };
        match permit(view.now, load) {
            Ok(permit) => Turn::Batch(former.close(reason, view.now, buffer), permit),
            Err(Held { cause, until }) => {
                former.hold(cause, view.now);
                Turn::Held { until }
            }
        }
    }

    fn view(&self, former: &mut Former<T, M>) -> (View, More) {
        let flush_to = self.wake.flush_to(); // before the tail: closing sets this last
        let press_to = self.wake.press_to();
        former.teach(self.taught_items.get(), self.taught_bytes.get());
        let (now, tail, closed, more) = match &self.owned {
            None => self.see_ring(former),
            Some(owned) => self.see_rings(former, owned),
        };
        let oldest = former.oldest().saturating_duration_since(self.start);
        self.oldest.since.set(nanos(oldest));
        self.oldest.position.set(former.first());
        (View { now, tail, closed, flush_to, press_to }, more)
    }

    fn see_ring(&self, former: &mut Former<T, M>) -> (Instant, u64, bool, More) {
        former.skip_to(self.ring.popped()); // before the tail, which it never passes
        let now = self.clock.now(); // before the tail: no add behind that tail had returned by now
        let tail = self.ring.tail();
        former.mark(tail.position, now);
        (now, tail.position, tail.closed, More::Later)
    }

    fn see_rings(
        &self,
        former: &mut Former<T, M>,
        owned: &OwnedRings<M::Entry>,
    ) -> (Instant, u64, bool, More) {
        let now = self.clock.now(); // before the tails, as above
        let enough = former.max_batch_size().saturating_sub(former.have());
        let seen = owned.look(&self.ring, former.drained(), enough);
        former.skip_to(seen.head);
        if seen.all {
            former.mark(seen.tail, now);
        }
        let more = match seen {
            Seen { closing: true, .. } => More::Soon,
            Seen { crowded: true, .. } if former.drained() < seen.tail => More::Crowded,
            _ => More::Later,
        };
        (now, seen.tail, seen.closed, more)
    }

    /// Moves published items up to a position out of the ring; an error if there is none.
    fn drain(&self, former: &mut Former<T, M>, up_to: u64) -> Result<(), PopError> {
        let max = usize::try_from(up_to.saturating_sub(former.drained())).unwrap_or(usize::MAX);
        let drained = match &self.owned {
            None => former.fill(|entries| self.pop_run(entries, max)),
            Some(owned) => {
                let pop = |former: &mut Former<T, M>, max| {
                    former.fill(|entries| owned.pop_run(&self.ring, &self.room, entries, max))
                };
                pop(former, max).map(|mut count| {
                    // What follows may be of another ring.
                    while count < max
                        && let Ok(more) = pop(former, max - count)
                    {
                        count += more;
                    }
                    count
                })
            }
        };
        if drained == Err(PopError::Busy) {
            self.stalls.count();
        }
        drained.map(drop)
    }

    /// Takes items out of the shared ring, where there is none beside it.
    fn pop_run(&self, entries: &mut Vec<M::Entry>, max: usize) -> Result<Run, PopError> {
        if mutated("notify_before_free") {
            self.room.freed(max);
        }
        let run = self.ring.pop_run(entries, max)?;
        if !mutated("notify_before_free") {
            self.room.freed(run.count);
        }
        Ok(run)
    }

    /// Takes the oldest item of a ring out, the shared one if it is not said which. `or_any`: with
    /// several rings, and nothing in that one, the oldest of all; see [`OwnedRings::evict`].
    pub fn evict(
        &self,
        from: Option<&Own<M::Entry>>,
        or_any: bool,
        entries: &mut Vec<M::Entry>,
    ) -> Result<Run, PopError> {
        match &self.owned {
            None => self.ring.pop_run(entries, 1),
            Some(owned) => owned.evict(&self.ring, from, or_any, entries),
        }
    }

    /// Takes everything that is in no batch, oldest first, published or drained. False if more is
    /// to come: a producer has claimed a slot and not published it yet. To be called after closing.
    pub fn take_rest(&self, lease: &mut Lease<T, M>, items: &mut Vec<T>) -> bool {
        self.empty(Some(lease), items, AckReason::HandedBack)
    }

    /// As [`take_rest`](Self::take_rest), but for items in the ring alone. Needs no lease.
    pub fn take_queued(&self, items: &mut Vec<T>) -> bool {
        self.empty(None, items, AckReason::HandedBack)
    }

    /// As [`take_rest`](Self::take_rest), when nobody gets the items.
    pub fn abandon_rest(&self, lease: &mut Lease<T, M>, items: &mut Vec<T>) {
        self.empty(Some(lease), items, AckReason::Abandoned);
    }

    fn empty(
        &self,
        mut lease: Option<&mut Lease<T, M>>,
        items: &mut Vec<T>,
        reason: AckReason,
    ) -> bool {
        let mut take = |item, tag| {
            self.let_go(tag, reason);
            items.push(item);
        };
        if let Some(lease) = &mut lease {
            lease.former.take_rest(&mut take);
        }
        let mut entries = Vec::new();
        let all = match &self.owned {
            None => loop {
                if let Err(why) = self.ring.pop_run(&mut entries, self.ring.capacity()) {
                    break why != PopError::Busy;
                }
            },
            Some(owned) => owned.take_all(&self.ring, &mut entries),
        };
        for entry in entries {
            let (item, tag) = M::split(entry);
            take(item, tag);
        }
        if let Some(lease) = lease {
            lease.former.skip_to(self.popped());
        }
        all
    }

    /// Keeps away from the producers' cache lines until the batch that ends at `position` is there,
    /// or due, or there is news: a few looks at its last slot alone, then to sleep. `alarm` is when
    /// something else is to be done, `alarms` how many alarms there were before that was known.
    pub fn wait(
        &self,
        lease: &mut Lease<T, M>,
        position: u64,
        until: Option<Instant>,
        alarm: Option<Instant>,
        alarms: u64,
    ) {
        let Lease { former, looks } = lease;
        let first = former.first();
        let want = Want::Items { first, position };
        // The first item may come any moment from the last look at the ring on.
        let cut = earlier(until.or_else(|| former.due()), alarm);
        let rings = self.owned.as_ref().map_or(0, |owned| owned.aim(position));
        // One item is waited for eagerly: nobody fills the lines that these looks take.
        let often = if position <= first + 1 && rings <= EAGER_RINGS { EAGER } else { 1 };
        for _ in 0..*looks * often {
            pause(FLUSHER_PAUSES / often);
            if self.is_published(position) || self.wake.has_news(want, alarms) {
                *looks = FLUSHER_LOOKS;
                return;
            }
            if cut.is_some_and(|cut| cut <= self.clock.now()) {
                if until.is_some() || alarm == cut {
                    return;
                }
                break; // nothing was there: with a short delay that must not mean to look for ever
            }
        }
        let parked = self.clock.now();
        let (position, until) = self.doze(former, position, alarm, parked);
        let want = Want::Items { first, position };
        if let Some(stamp) = self.wake.park(&self.ring, self.beside(), want, alarms, until) {
            self.woken(former, position, stamp);
            *looks = if stamp.saturating_duration_since(parked) < WORTH_SPINNING {
                (*looks * 2).clamp(LOOKS_MIN, FLUSHER_LOOKS)
            } else {
                (*looks / 2).max(LOOKS_MIN)
            };
        }
    }

    /// Whether what the flusher has aimed at is published. Only a hint for when to look again.
    fn is_published(&self, position: u64) -> bool {
        match &self.owned {
            None => self.ring.published_before(position),
            Some(owned) => owned.is_hit(&self.ring),
        }
    }

    /// Up to where the ring is to be claimed for a sleeper to wake, and until when it sleeps at
    /// most.
    pub fn doze(
        &self,
        former: &mut Former<T, M>,
        position: u64,
        alarm: Option<Instant>,
        now: Instant,
    ) -> (u64, Option<Instant>) {
        let first = former.first();
        let empty = self.pushed() <= first;
        let (position, until) = if empty { (first + 1, None) } else { (position, former.due()) };
        (position, earlier(until, self.doze_held(alarm, now)))
    }

    /// As [`doze`](Self::doze), whatever is in the ring.
    pub fn doze_held(&self, until: Option<Instant>, now: Instant) -> Option<Instant> {
        earlier(until, self.nudge().then(|| now + NUDGE))
    }

    /// The sleep for that position has ended, with that stamp.
    pub fn woken(&self, former: &mut Former<T, M>, position: u64, stamp: Instant) {
        // With several rings a position below it may be given to a later item, but for the first.
        if self.owned.is_none() || position - 1 == former.first() {
            former.mark(position - 1, stamp);
        }
        self.parks.count();
    }

    /// Sleeps, whatever is in the ring, until then or until there is an alarm after the `alarms`
    /// that there were.
    pub fn wait_held(&self, until: Option<Instant>, alarms: u64) {
        let until = self.doze_held(until, self.clock.now());
        if self.wake.park(&self.ring, self.beside(), Want::Alarm, alarms, until).is_some() {
            self.parks.count();
        }
    }
}

/// The earlier of two times, where one is known.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
