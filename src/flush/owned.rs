//! The rings that producers own, beside the one that a shard's producers share, and the one order in
//! which all of them are drained.
//!
//! **One order.** Batches, flush barriers and the ledger count in positions of a shard. With one ring
//! these are the ring's own. With several, claims are put in order when somebody *looks*: each look
//! appends to the order what was claimed in each ring since the last one, and the rings are drained
//! as the order says.
//!
//! ```text
//!   ring 0 (shared)  ■■■■■ ■■            look 1: 5 of ring 0, 2 of ring 1
//!   ring 1           ■■ ■■■■             look 2: 2 of ring 0, 4 of ring 1, 1 of ring 2
//!   ring 2           ■                   order:  0 0 0 0 0 1 1 | 0 0 1 1 1 1 2
//! ```
//!
//! So order per producer holds; a position means the same to everyone; whoever asks for a flush looks,
//! and everything added before lies before the end of the order; and no ring is drained twice before
//! another that had items had its turn.
//!
//! **Quiet rings cost nothing.** A look goes through the *active* rings. A ring that had no item from
//! one sleep of the flusher to the next, or for some looks, turns quiet: its owner is to tell of the
//! next item. That costs the owner a lock, and makes the ring active again.
//!
//! **Sleeping.** The flusher tells each active ring at which position it wants to be woken (`at`), a
//! heavy barrier follows, then it looks at the tails once more. An owner publishes, then looks at
//! `at`. By the barrier one of the two sees the other. What is missing for a batch is shared out among
//! the rings, so that it cannot be there while no ring has its part: the parts less one, summed, are
//! less than what is missing. No ring sleeps past half its slots: its owner would wait for room.
//!
//! ```text
//!   owner                                        flusher, with the lock
//!   claims, publishes                            S1 at ← W, of each active ring
//!      light                                        heavy
//!   T1 at reached?                               S2 any tail at or past its W: do not sleep
//!   T2 lock; make the ring active; at ← nobody   S3 the same for the shared ring (`wait::wake`)
//!   T3 wake the flusher (P4 of `wait::wake`)     S4 unlock, sleep
//! ```
//!
//! T2 waits for the lock, so T3 comes after S3 and finds the flusher's wake position.
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `owned`, and by tests/owned.rs.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::clock::Clock;
use crate::ring::{Barrier, Closing, OwnedRing, Owner, PopError, Ring, Run};
use crate::sync::{Mutex, lock, mutated, try_lock};
use crate::wait::{Beside, WaitList};

/// So often a ring is looked at in vain, all rings together, from one search for those that have
/// turned quiet to the next, but no less than [`VAIN_LOOKS`] looks at all of them.
const VAIN_MAX: usize = 8_192;
const VAIN_LOOKS: usize = 4;

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
#[path = "owned_tests.rs"]
mod tests;

/// What an owner and the flushers share.
pub struct Own<E> {
    pub ring: Arc<OwnedRing<E>>,
    /// Where the owner waits for room.
    pub room: WaitList,
    /// Its number among the shard's owned rings.
    number: usize,
}

/// The owned rings of a shard.
pub struct OwnedRings<E> {
    /// Slots of each.
    depth: usize,
    /// Slots of all together, at most.
    slots_max: usize,
    closing: Arc<Closing>,
    clock: Clock,
    // Padded: flushers write it all the time.
    order: CachePadded<Mutex<Order<E>>>,
}

/// What a look has seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// End of the order.
    pub tail: u64,
    /// Its first position that was not drained.
    pub head: u64,
    /// Whether everything claimed before the look is in the order.
    pub all: bool,
    /// Closed, and the tail is final.
    pub closed: bool,
    /// Closed, but an owner is in the middle of a claim.
    pub closing: bool,
    /// A ring is half full.
    pub crowded: bool,
}

struct Order<E> {
    rings: Vec<Option<Place<E>>>,
    /// Numbers that no ring has.
    free: Vec<usize>,
    /// Numbers of the rings that are not quiet.
    active: Vec<usize>,
    /// Rings without an owner, not yet empty.
    orphans: usize,
    /// Of all rings.
    slots: usize,
    /// Of the shared ring.
    shared: Marks,
    segments: VecDeque<Segment>,
    tail: u64,
    /// Rings in which the last look that found anything has found something.
    moved: u64,
    /// How often a ring was looked at in vain since the last search for quiet ones.
    vain: usize,
}

/// How far a ring was looked at, in its own positions.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// What lies before is in the order.
    seen: u64,
    /// What `seen` was when the flusher last slept, or searched for quiet rings.
    before: u64,
    /// What the flusher waits for.
    wanted: u64,
}

struct Place<E> {
    own: Arc<Own<E>>,
    marks: Marks,
    active: bool,
    orphan: bool,
}

/// Some items of one ring that are drained one after the other.
struct Segment {
    /// `None` is the shared ring.
    ring: Option<usize>,
    /// Position of the first one in its ring, and in the order.
    at: u64,
    start: u64,
    count: u64,
}

impl<E> Place<E> {
    /// Everything that it was ever given is out of it.
    fn is_drained(&self) -> bool {
        let ring = &self.own.ring;
        ring.pushed() == self.marks.seen && ring.popped() == self.marks.seen
    }
}

impl<E> OwnedRings<E> {
    /// For rings of `depth` slots each, `slots_max` of all together.
    pub fn new(depth: usize, slots_max: usize, barrier: Barrier, clock: Clock) -> Self {
        let order = Order {
            rings: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
            orphans: 0,
            slots: 0,
            shared: Marks::default(),
            segments: VecDeque::new(),
            tail: 0,
            moved: 1,
            vain: 0,
        };
        Self {
            depth,
            slots_max,
            closing: Arc::new(Closing::new(barrier)),
            clock,
            order: CachePadded::new(Mutex::new(order)),
        }
    }

    /// Slots of each ring.
    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn barrier(&self) -> Barrier {
        self.closing.barrier()
    }

    /// Slots of the rings there are.
    pub fn slots(&self) -> usize {
        let mut order = lock(&self.order);
        order.bury_orphans(); // as in `adopt`
        order.slots
    }

    /// Takes a ring in, and gives it its owner. Else says how many slots there are left.
    pub fn adopt(&self, ring: Ring<E>) -> Result<(Owner<E>, Arc<Own<E>>), usize> {
        let owner = Owner::new(ring, Arc::clone(&self.closing));
        let mut order = lock(&self.order);
        order.bury_orphans(); // what was left in them is out, but the flusher has not looked since
        let slots = order.slots + owner.ring().capacity();
        if slots > self.slots_max {
            return Err(self.slots_max - order.slots);
        }
        order.slots = slots;
        let number = order.free.pop().unwrap_or(order.rings.len());
        let ring = Arc::clone(owner.ring());
        let own = Arc::new(Own { ring, room: WaitList::new(self.clock.clone()), number });
        let seen = own.ring.pushed();
        let marks = Marks { seen, before: seen, wanted: seen };
        let place = Place { own: Arc::clone(&own), marks, active: false, orphan: false };
        match order.rings.get_mut(number) {
            Some(free) => *free = Some(place),
            None => order.rings.push(Some(place)),
        }
        Ok((owner, own))
    }

    /// Its owner is gone. What is in it is drained as ever.
    pub fn orphan(&self, own: &Own<E>) {
        let mut order = lock(&self.order);
        order.orphans += 1;
        let Some(place) = order.place(own.number) else { return };
        place.orphan = true;
        order.activate(own.number);
        order.bury_orphans();
    }

    /// T2: the owner has come to where it was to tell.
    pub fn told(&self, own: &Own<E>) {
        let mut order = lock(&self.order);
        own.ring.tell_nobody();
        if !mutated("own_told_stays_quiet") {
            order.activate(own.number);
        }
    }

    /// A search for rings that have turned quiet, whatever there is to do.
    #[cfg(any(loom, shuttle))]
    pub fn sweep(&self) {
        lock(&self.order).sweep(self.barrier());
    }

    /// K1 for all of them. To be called before the shared ring is closed.
    pub fn close(&self) {
        self.closing.close();
    }

    /// To be called after the shared ring was closed: wakes the owners that wait for room.
    pub fn closed(&self) {
        let order = lock(&self.order);
        order.rings.iter().flatten().for_each(|place| place.own.room.closed());
    }

    pub fn close_in_child(&self) {
        self.closing.close_in_child();
    }

    /// A look for the holder of the lease, who has drained up to `drained` and needs no more than
    /// `enough` items after that.
    pub fn look(&self, shared: &Ring<E>, drained: u64, enough: u64) -> Seen {
        let order = &mut *lock(&self.order);
        let is_closed = shared.is_closed();
        let mut is_final = order.is_final(is_closed); // before the tails
        let all = is_closed || order.tail.saturating_sub(drained) < enough;
        let mut crowded = false;
        if all {
            crowded = order.look(shared, is_closed);
            let vain_max = VAIN_MAX.max(VAIN_LOOKS * order.active.len());
            if order.vain >= vain_max && !is_closed {
                order.sweep(self.barrier());
            }
            order.bury_orphans();
        }
        if mutated("own_final_late") {
            is_final = order.is_final(is_closed);
        }
        let closed = is_closed && is_final;
        let head = order.head();
        Seen { tail: order.tail, head, all, closed, closing: is_closed && !closed, crowded }
    }

    /// Looks, and returns the end of the order: every add that has returned lies before it.
    pub fn tail(&self, shared: &Ring<E>) -> u64 {
        let mut order = lock(&self.order);
        if !mutated("own_flush_unseen") {
            order.look(shared, false);
        }
        order.tail
    }

    /// Items ever added. In a forked child, where somebody may have the lock who is not there, maybe
    /// only those of the shared ring.
    pub fn pushed(&self, shared: &Ring<E>, in_child: bool) -> u64 {
        let order = if in_child { try_lock(&self.order) } else { Some(lock(&self.order)) };
        let Some(order) = order else { return shared.pushed() };
        let unseen = |place: &Place<E>| place.own.ring.pushed() - place.marks.seen;
        let owned: u64 = order.of_active().map(unseen).sum();
        order.tail + owned + (shared.pushed() - order.shared.seen)
    }

    /// Items ever taken out.
    pub fn popped(&self) -> u64 {
        lock(&self.order).head()
    }

    /// Items in the rings a moment ago.
    pub fn len(&self, shared: &Ring<E>) -> usize {
        let order = lock(&self.order);
        shared.len() + order.of_active().map(|place| place.own.ring.len()).sum::<usize>()
    }

    /// Owners that wait for room.
    pub fn waiting(&self) -> usize {
        let order = lock(&self.order);
        order.rings.iter().flatten().map(|place| place.own.room.len()).sum()
    }

    /// Takes the next items of the order out, at most `max`, all of one ring, and tells who waits for
    /// room there.
    pub fn pop_run(
        &self,
        shared: &Ring<E>,
        room: &WaitList,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<Run, PopError> {
        let mut order = lock(&self.order);
        let (ring, run) = order.pop_run(shared, 0, out, max)?;
        match ring {
            Some(number) => order.freed(number, run.count),
            None => {
                drop(order); // a task's waker is the caller's code
                room.freed(run.count);
            }
        }
        Ok(run)
    }

    /// Takes the oldest item out of a ring, the shared one if it is none of these; if that is empty
    /// and `or_any`, the oldest of the shard. Tells who waits for room in another owned ring; for
    /// the shared one the caller does, who may be under a lock now.
    pub fn evict(
        &self,
        shared: &Ring<E>,
        from: Option<&Own<E>>,
        or_any: bool,
        out: &mut Vec<E>,
    ) -> Result<Run, PopError> {
        let mut order = lock(&self.order);
        order.look(shared, false);
        let from = from.map(|own| own.number);
        let or_any = or_any || mutated("own_evict_any");
        let at = order.segments.iter().position(|segment| segment.ring == from);
        let at = at.or(or_any.then_some(0)).ok_or(PopError::Empty)?;
        let head = order.head();
        let (ring, mut run) = order.pop_run(shared, at, out, 1)?;
        if mutated("own_evict_is_first") {
            run.position = head;
        }
        if let Some(number) = ring.filter(|_| ring != from) {
            order.freed(number, run.count); // who evicts from its own ring takes the place itself
        }
        Ok(run)
    }

    /// Takes everything out, in order. False if more is to come: a producer has claimed a slot, or is
    /// about to. To be called after closing.
    pub fn take_all(&self, shared: &Ring<E>, out: &mut Vec<E>) -> bool {
        let mut order = lock(&self.order);
        let is_final = order.is_final(true);
        order.look(shared, true);
        while !order.segments.is_empty() {
            if order.pop_run(shared, 0, out, usize::MAX).is_err() && !order.segments.is_empty() {
                return false;
            }
        }
        is_final
    }

    /// What the holder of the lease waits for awake: up to `position` in the order. Returns how many
    /// rings a look for it goes through.
    pub fn aim(&self, position: u64) -> usize {
        let mut order = lock(&self.order);
        let more = position.saturating_sub(order.tail).max(1);
        let part = more.div_ceil(order.moved.max(1));
        order.want(part, |_| part);
        order.active.len()
    }

    /// Whether a ring has come to where it was aimed at. Only a hint for when to look again.
    pub fn is_hit(&self, shared: &Ring<E>) -> bool {
        let order = lock(&self.order);
        shared.published_before(order.shared.wanted)
            || order.of_active().any(|place| place.own.ring.published_before(place.marks.wanted))
    }
}

impl<E: Send> Beside for OwnedRings<E> {
    /// S1 to S3.
    fn lie_down(&self, position: u64, shared: &mut dyn FnMut(u64) -> bool) -> bool {
        let order = &mut *lock(&self.order);
        let more = position.saturating_sub(order.tail).max(1);
        let shares = order.of_active().filter(|place| !place.is_quiet()).count() as u64
            + u64::from(order.shared.moved());
        let part = if mutated("own_whole_share") { more } else { more.div_ceil(shares.max(1)) };
        order.want(part, |place| if place.is_quiet() { 1 } else { part });
        for place in order.of_active() {
            place.own.ring.tell_at(place.marks.wanted); // S1
        }
        if !order.active.is_empty() && !mutated("own_no_barrier") {
            self.barrier().heavy();
        }
        let reached = |place: &Place<E>| place.own.ring.pushed() >= place.marks.wanted;
        let up = order.of_active().any(reached) && !mutated("own_no_second_look"); // S2
        let up = shared(order.shared.wanted) || up; // S3
        order.turn_quiet();
        !up
    }
}

impl<E> Place<E> {
    /// Half of the slots are free, as far as was looked. If they are not, it is crowded, and drained
    /// further.
    fn is_half_free(&self) -> bool {
        let used = self.marks.seen - self.own.ring.popped();
        used <= self.own.ring.capacity() as u64 / 2
    }

    /// Nothing came since the flusher last slept.
    fn is_quiet(&self) -> bool {
        !self.marks.moved() && (self.is_drained() || mutated("own_quiet_undrained"))
    }
}

impl Marks {
    /// Something came since the flusher last slept.
    fn moved(&self) -> bool {
        self.seen != self.before
    }
}

impl<E> Order<E> {
    fn place(&mut self, number: usize) -> Option<&mut Place<E>> {
        self.rings.get_mut(number)?.as_mut()
    }

    fn of_active(&self) -> impl Iterator<Item = &Place<E>> {
        self.active.iter().filter_map(|&number| self.rings[number].as_ref())
    }

    fn activate(&mut self, number: usize) {
        let Some(place) = self.place(number) else { return };
        if !place.active {
            place.active = true;
            self.active.push(number);
        }
    }

    /// Position of the first item that was not drained.
    fn head(&self) -> u64 {
        self.segments.front().map_or(self.tail, |segment| segment.start)
    }

    /// Whether no owner is in the middle of a claim; once they are refused, none ever will be.
    fn is_final(&self, is_closed: bool) -> bool {
        is_closed && self.rings.iter().flatten().all(|place| place.own.ring.is_final())
    }

    /// Puts what was claimed since the last look into the order. `quiet_too`: of rings whose owner is
    /// just about to tell of it, too. Returns whether a ring is half full.
    fn look(&mut self, shared: &Ring<E>, quiet_too: bool) -> bool {
        if quiet_too {
            (0..self.rings.len()).for_each(|number| self.activate(number));
        }
        let Self { rings, active, shared: marks, segments, tail, vain, .. } = self;
        let (mut moved, mut crowded) = (0, false);
        let mut append = |ring, marks: &mut Marks, pushed: u64| {
            let count = pushed - marks.seen;
            if count == 0 {
                return;
            }
            moved += 1;
            // After what is the end of the order still: what came between may have been let go.
            let goes_on = |last: &Segment| {
                last.ring == ring
                    && (last.start + last.count == *tail || mutated("own_joined_over_a_gap"))
            };
            match segments.back_mut() {
                Some(last) if goes_on(last) => last.count += count,
                _ => segments.push_back(Segment { ring, at: marks.seen, start: *tail, count }),
            }
            marks.seen = pushed;
            *tail += count;
        };
        append(None, marks, shared.rendezvous().position);
        for &number in active.iter() {
            let Some(place) = &mut rings[number] else { continue };
            let pushed = place.own.ring.pushed();
            *vain = vain.saturating_add(usize::from(pushed == place.marks.seen));
            append(Some(number), &mut place.marks, pushed);
            crowded |= place.own.ring.len() >= place.own.ring.capacity() / 2;
        }
        if moved > 0 {
            self.moved = moved;
        }
        crowded
    }

    /// Takes items of one segment out; says which ring they are of.
    fn pop_run(
        &mut self,
        shared: &Ring<E>,
        at: usize,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<(Option<usize>, Run), PopError> {
        let segment = self.segments.get_mut(at).ok_or(PopError::Empty)?;
        let max = usize::try_from(segment.count).unwrap_or(usize::MAX).min(max);
        let run = match segment.ring {
            None => shared.pop_run(out, max),
            Some(number) => match &self.rings[number] {
                Some(place) => place.own.ring.pop_run(out, max),
                None => Err(PopError::Empty),
            },
        };
        let run = run?;
        debug_assert_eq!(run.position, segment.at, "nobody else takes items out");
        let (ring, start, count) = (segment.ring, segment.start, run.count as u64);
        segment.at += count;
        segment.start += count;
        segment.count -= count;
        if segment.count == 0 {
            self.segments.remove(at);
        }
        Ok((ring, Run { position: start, count: run.count }))
    }

    /// Tells the owner that waits for room in that ring: a thread, so that no code of the caller's
    /// runs.
    fn freed(&self, number: usize, count: usize) {
        // Not for each batch's worth: an owner that sleeps is to find room for a while.
        if let Some(place) = &self.rings[number]
            && place.is_half_free()
            && !mutated("own_room_unfreed")
        {
            place.own.room.freed(count);
        }
    }

    /// Sets what is waited for in each ring: its part of what is missing.
    fn want(&mut self, shared_part: u64, part: impl Fn(&Place<E>) -> u64) {
        let moved = self.shared.moved();
        self.shared.wanted = self.shared.seen + if moved { shared_part } else { 1 };
        for &number in &self.active {
            let Some(place) = &mut self.rings[number] else { continue };
            let half = (place.own.ring.capacity() as u64 / 2).max(1);
            let crowded = place.own.ring.popped() + half;
            place.marks.wanted = (place.marks.seen + part(place)).min(crowded);
        }
    }

    /// The end of a sleep's beginning, or of a search: rings that are told of an item at once are no
    /// longer looked at.
    fn turn_quiet(&mut self) {
        let Self { rings, active, shared, .. } = self;
        active.retain(|&number| {
            let Some(place) = &mut rings[number] else { return false };
            let quiet = place.is_quiet() && place.marks.wanted == place.marks.seen + 1;
            place.marks.before = place.marks.seen;
            place.active = !quiet || place.orphan;
            place.active
        });
        shared.before = shared.seen;
    }

    /// Searches for rings that have turned quiet while the flusher never slept.
    fn sweep(&mut self, barrier: Barrier) {
        self.vain = 0;
        let mut some = false;
        for &number in &self.active {
            let Some(place) = &mut self.rings[number] else { continue };
            place.marks.wanted = place.marks.seen + 1;
            if place.is_quiet() {
                place.own.ring.tell_at(place.marks.wanted);
                some = true;
            }
        }
        if some && !mutated("own_sweep_no_barrier") {
            barrier.heavy();
        }
        self.turn_quiet();
    }

    /// Lets go of rings that have no owner and are empty.
    fn bury_orphans(&mut self) {
        if self.orphans == 0 {
            return;
        }
        let Self { rings, active, free, orphans, slots, .. } = self;
        active.retain(|&number| {
            let empty = rings[number].take_if(|place| {
                place.orphan && (place.is_drained() || mutated("own_orphan_undrained"))
            });
            if let Some(place) = &empty {
                *slots -= place.own.ring.capacity();
                *orphans -= 1;
                free.push(number);
            }
            empty.is_none()
        });
    }
}
