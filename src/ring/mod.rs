//! A bounded Vyukov queue for many producers and many consumers, which can be closed, and moves
//! items in runs.
//!
//! Each slot carries a sequence number that says whose turn it is. A position `p` is the number of
//! items pushed before the one that will sit there; the slot of `p` is `p mod n` in a ring of `n`
//! slots. In memory a position is a *word*, `2p`, so that bit 0 is free to say something else and
//! words wrap around by themselves:
//!
//! ```text
//!   tail   2p       the next push gets position p          slot.seq   2p          free for p
//!          2p + 1   closed: p items, and never one more               2p + 1      published
//!   head   2p       the next pop gets position p                      2(p + n)    free for p + n, one lap later
//!
//!   producer                                              consumer
//!   A1 slot.seq == 2p, of every slot of the run (Acquire)  A2 slot.seq == 2p + 1, likewise (Acquire)
//!   C1 tail: CAS 2p → 2(p + k)                  (AcqRel)   C2 head: CAS 2p → 2(p + k)     (Relaxed)
//!      write the items                                        move the items out
//!   R1 slot.seq ← 2p + 1                        (Release)  R2 slot.seq ← 2(p + n)         (Release)
//! ```
//!
//! **Why it is sound.** A CAS on `tail` gives positions to one producer, one on `head` to one
//! consumer, and no position is given twice. A producer's access to the slot lies between A1 and
//! R1, a consumer's between A2 and R2. A2 reads what R1 wrote, A1 what R2 wrote a lap earlier, so
//! no two accesses to one slot overlap, and each sees the one before. *Every* slot of a run is
//! looked at: with two consumers slots are freed out of order, and a free last slot says nothing
//! about the others. C1 and C2 order nothing of this; C1 is `AcqRel` for the flusher's wake
//! position (`wait`). A1 has a second task: a slot that is taken already was published after its
//! producer's C1, so the look at `tail` that follows A1 is not older than that, and a stale first
//! look never makes a ring with room appear full.
//!
//! **Closing** sets bit 0 of `tail` in one read-modify-write. Every claim is a CAS that expects it
//! clear, so no claim comes after, and the position beside the bit is the exact number of items
//! ever pushed.
//!
//! **No user code** runs between a claim and its publication: no `Drop`, no closure, no allocation.
//! No panic can leave a hole.
//!
//! **Not promised.** It is not lock-free in the textbook sense: a producer that the OS stops
//! between C1 and R1 holds up the items behind it ([`PopError::Busy`] names that), and a consumer
//! stopped between C2 and R2 makes later pushes report [`PushError::Busy`]. Full and empty are what
//! this thread saw a moment ago.
//!
//! **Source**: D. Vyukov, "Bounded MPMC queue", 1024cores.net. The close bit and the runs are ours.
//!
//! **Checked by** `loom-tests/tests/loom.rs`, modules `ring` and `close`, and by the mutants that
//! they must kill.

mod barrier;
mod error;
mod fork;
pub(crate) mod front;
#[cfg(all(unix, not(any(loom, shuttle, miri))))]
mod huge;
mod memory;
pub(crate) mod owned;
pub(crate) mod push;
mod region;
mod slot;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;

use std::fmt;
use std::mem;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering, mutated, weaken};
pub use barrier::Barrier;
pub use error::{CapacityError, PopError, PushError, RunError};
pub(crate) use fork::{CloseInChild, enlist, generation, in_child};
pub(crate) use front::{Front, Run};
use memory::Slots;
pub(crate) use memory::{Got, InPages, Pages};
pub(crate) use owned::{Closing, OwnedRing, Owner};
pub(crate) use push::Push;
use slot::Slot;

/// What `tail` and `head` hold: twice a position, and in `tail` the close bit.
pub(crate) type Word = u64;

/// Bit 0 of `tail`.
const CLOSED: Word = 1;
/// From one position to the next.
const STEP: Word = 2;

/// The smallest capacity of a [`Ring`].
pub const CAPACITY_MIN: usize = 2;
/// The largest capacity of a [`Ring`].
pub const CAPACITY_MAX: usize = 1 << 30;

/// Bounded MPMC queue; see the [module documentation](self).
///
/// ```
/// use sluicegate::ring::{PopError, PushError, Ring};
///
/// let ring = Ring::new(4)?;
/// ring.try_push(1).unwrap();
/// let mut more = vec![2, 3, 4, 5];
/// assert_eq!(ring.try_push_run(&mut more), Ok(3)); // one claim; the fourth had no room
/// assert_eq!(more, [5]);
/// assert!(matches!(ring.try_push(6), Err(PushError::Full(6))));
///
/// let mut out = Vec::new();
/// assert_eq!(ring.try_pop_run(&mut out, 512), Ok(4));
/// assert_eq!(out, [1, 2, 3, 4]);
///
/// assert_eq!(ring.close(), 4); // exactly this many were pushed, ever
/// assert!(matches!(ring.try_push(7), Err(PushError::Closed(7))));
/// assert_eq!(ring.try_pop_run(&mut out, 1), Err(PopError::Closed));
/// # Ok::<(), sluicegate::ring::CapacityError>(())
/// ```
///
/// A ring is `Send` and `Sync` for items that are `Send`, and for no others:
///
/// ```
/// # use sluicegate::ring::Ring;
/// fn shared<T: Send + Sync>() {}
/// shared::<Ring<std::cell::Cell<u64>>>(); // not `Sync`: the ring moves items, it shares none
/// ```
/// ```compile_fail,E0277
/// # use sluicegate::ring::Ring;
/// fn shared<T: Sync>() {}
/// shared::<Ring<std::sync::MutexGuard<'static, u64>>>(); // tied to the thread that locked
/// ```
pub struct Ring<T> {
    /// Where the next push goes. Contended by producers.
    tail: CachePadded<AtomicU64>,
    /// Where the next pop comes from. Contended by consumers.
    head: CachePadded<AtomicU64>,
    slots: Slots<T>,
    mask: u64,
    /// The first word; 0 but in tests that start just before words wrap.
    start: Word,
}

// SAFETY: the items are all that a ring owns besides plain words and memory, which belongs to no
// thread, and it hands them on by value: whichever thread holds the ring may drop or take them,
// which is what `T: Send` allows.
unsafe impl<T: Send> Send for Ring<T> {}

// SAFETY: through `&Ring` an item is written only by the holder of a claim and moved out only by
// the winner of C2, so sharing the ring moves items between threads and never shares one: `T: Send`
// is enough, `T: Sync` is not needed.
unsafe impl<T: Send> Sync for Ring<T> {}

/// Positions won by C1: until they are published, this thread alone touches their slots.
#[must_use = "an unpublished claim stops every consumer behind it"]
struct Claim<'r, T> {
    ring: &'r Ring<T>,
    word: Word,
    count: u64,
}

impl<T> Ring<T> {
    /// A ring of `capacity` slots.
    ///
    /// # Errors
    /// [`CapacityError`] if `capacity` is not a power of two within
    /// [`CAPACITY_MIN`]`..=`[`CAPACITY_MAX`], or if the memory cannot be had.
    pub fn new(capacity: usize) -> Result<Self, CapacityError> {
        Self::starting_at(capacity, 0)
    }

    /// A ring whose positions count from `position` on, for tests near the wrap of a word
    /// (`position` 2⁶³ − 1).
    #[doc(hidden)]
    pub fn starting_at(capacity: usize, position: u64) -> Result<Self, CapacityError> {
        let slots = Slots::on_heap(capacity, first_lap(capacity, position)?)
            .ok_or(CapacityError { got: capacity, memory: true })?;
        Ok(Self::over(slots, position))
    }

    /// A ring of these slots, which [`first_lap`] made.
    fn over(slots: Slots<T>, position: u64) -> Self {
        let start = position.wrapping_mul(STEP);
        Self {
            tail: CachePadded::new(AtomicU64::new(start)),
            head: CachePadded::new(AtomicU64::new(start)),
            mask: slots.len() as u64 - 1,
            slots,
            start,
        }
    }

    /// Number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Items in the ring a moment ago: between 0 and the capacity.
    #[must_use]
    pub fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire) & !CLOSED;
        // `head` may have moved on since.
        let len = (tail.wrapping_sub(head) / STEP).min(self.capacity() as u64);
        usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// Whether [`len`](Self::len) is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items ever pushed, counting those whose push has claimed its slot and is about to publish;
    /// final once closed.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.position(self.tail.load(Ordering::Acquire))
    }

    /// Items ever popped.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.position(self.head.load(Ordering::Acquire))
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.tail.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Refuses every push from now on and returns the exact number of items ever pushed. What is in
    /// the ring stays to be popped. Harmless when called again.
    pub fn close(&self) -> u64 {
        self.position(self.tail.fetch_or(CLOSED, Ordering::AcqRel))
    }

    /// Pushes one item; never waits for another thread.
    ///
    /// # Errors
    /// [`PushError`] says why not, and holds the item.
    #[inline]
    pub fn try_push(&self, item: T) -> Result<(), PushError<T>> {
        self.push(item).map(|_| ())
    }

    /// Pushes as many items from the front of `items` as there are free slots in a row, with one
    /// claim. Returns how many; the others stay in `items`, in their order. Items pushed in one run
    /// stand next to each other in the ring.
    ///
    /// # Errors
    /// [`RunError`] when there was room for none; `items` is untouched.
    pub fn try_push_run(&self, items: &mut Vec<T>) -> Result<usize, RunError> {
        let mut front = Front::new(items);
        let all = front.len();
        self.push_run(&mut front, all, |item| item)?;
        Ok(front.taken())
    }

    /// Pops up to `max` published items, with one claim, and appends them to `out` in the order of
    /// their positions.
    ///
    /// # Errors
    /// [`PopError`] when there was nothing to pop; `out` is untouched.
    pub fn try_pop_run(&self, out: &mut Vec<T>, max: usize) -> Result<usize, PopError> {
        if max == 0 {
            return Ok(0);
        }
        self.pop_run(out, max).map(|run| run.count)
    }

    /// As [`try_pop_run`](Self::try_pop_run) with a `max` of at least 1; says where the run began.
    pub(crate) fn pop_run(&self, out: &mut Vec<T>, max: usize) -> Result<Run, PopError> {
        self.pop_published(out, |head| self.published_run(head, max))
    }

    /// Pops as many items as `published` says there are.
    #[inline(always)]
    fn pop_published(
        &self,
        out: &mut Vec<T>,
        published: impl Fn(Word) -> usize,
    ) -> Result<Run, PopError> {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let count = published(head);
            if count == 0 {
                let now = self.head.load(Ordering::Relaxed);
                if now == head {
                    return Err(self.why_empty(head));
                }
                head = now; // another consumer was faster
                continue;
            }
            out.reserve(count); // before the claim: it may panic
            let next = head.wrapping_add(count as u64 * STEP);
            // C2
            match self.head.compare_exchange(head, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.move_out(head, count, out);
                    return Ok(Run { position: self.position(head), count });
                }
                Err(now) => head = now,
            }
        }
    }

    /// Reads `tail` in a read-modify-write, so that it has one order with every claim and with
    /// closing.
    pub(crate) fn rendezvous(&self) -> Tail {
        let word = if mutated("wake_plain_load") {
            self.tail.load(Ordering::Acquire)
        } else {
            self.tail.fetch_add(0, weaken("relaxed_rendezvous", Ordering::AcqRel))
        };
        Tail { position: self.position(word), closed: word & CLOSED != 0 }
    }

    /// Reads `tail`.
    pub(crate) fn tail(&self) -> Tail {
        let word = self.tail.load(Ordering::Acquire);
        Tail { position: self.position(word), closed: word & CLOSED != 0 }
    }

    /// Whether the item before `position` is published (or gone already). Only a hint for when to
    /// look again: it orders nothing.
    pub(crate) fn published_before(&self, position: u64) -> bool {
        let word = self.word(position).wrapping_sub(STEP);
        let seq = self.slot(word).seq.load(Ordering::Relaxed);
        at_or_after(seq, word.wrapping_add(1))
    }

    /// Whether so many slots in a row may be free. Only a hint for when to try again: it orders
    /// nothing, and one slot stands for all.
    pub(crate) fn has_free(&self, slots: u64) -> bool {
        let tail = self.tail.load(Ordering::Relaxed) & !CLOSED;
        let last = tail.wrapping_add(slots.wrapping_sub(1).wrapping_mul(STEP));
        at_or_after(self.slot(last).seq.load(Ordering::Relaxed), last)
    }

    pub(crate) fn word(&self, position: u64) -> Word {
        self.start.wrapping_add(position.wrapping_mul(STEP))
    }

    pub(crate) fn position(&self, word: Word) -> u64 {
        (word & !CLOSED).wrapping_sub(self.start) / STEP
    }

    #[inline(always)]
    fn index(&self, word: Word) -> usize {
        // The mask is below CAPACITY_MAX, so the index fits.
        #[allow(clippy::cast_possible_truncation)]
        let index = ((word / STEP) & self.mask) as usize;
        index
    }

    #[inline(always)]
    fn slot(&self, word: Word) -> &Slot<T> {
        // SAFETY: `mask` is the length of `slots` less one, so a masked index is within it.
        unsafe { self.slots.get_unchecked(self.index(word)) }
    }

    /// The slots of `count` positions from `word` on, but of one lap at most: in two parts, as they
    /// may lie across the end of the memory.
    #[inline(always)]
    fn run(&self, word: Word, count: usize) -> [&[Slot<T>]; 2] {
        let (before, from) = self.slots.split_at(self.index(word));
        let first = count.min(from.len());
        let second = (count - first).min(before.len());
        [&from[..first], &before[..second]]
    }

    /// Claims up to `max` positions in a row: as many as had free slots.
    #[inline(always)]
    fn claim(&self, max: u64) -> Result<Claim<'_, T>, RunError> {
        let mut tail = self.tail.load(Ordering::Relaxed); // may be stale: C1 fails then
        loop {
            if tail & CLOSED != 0 {
                return Err(RunError::Closed);
            }
            let count = self.free_run(tail, max);
            if count == 0 {
                let now = self.tail.load(Ordering::Relaxed);
                if now == tail {
                    return Err(self.why_full(tail));
                }
                tail = now; // the slot has gone to another producer
                continue;
            }
            let next = tail.wrapping_add(count * STEP);
            let order = weaken("relaxed_claim", Ordering::AcqRel);
            // C1
            match self.tail.compare_exchange_weak(tail, next, order, Ordering::Relaxed) {
                Ok(_) => return Ok(Claim { ring: self, word: tail, count }),
                // As if closing were a flag beside `tail`, looked at before the claim.
                Err(now) if mutated("separate_closed") && now == tail | CLOSED => {
                    self.tail.fetch_add(count * STEP, order);
                    return Ok(Claim { ring: self, word: tail, count });
                }
                Err(now) => tail = now,
            }
        }
    }

    /// Free slots in a row from `tail` on, `max` at most.
    #[inline(always)]
    fn free_run(&self, tail: Word, max: u64) -> u64 {
        if mutated("batch_last_only") && max > 1 {
            let last = tail.wrapping_add((max - 1) * STEP);
            return if self.slot(last).seq.load(Ordering::Acquire) == last { max } else { 0 };
        }
        // A1, pairs with R2. Ends after one lap at the latest: the first slot is not free for that
        // position.
        let order = weaken("relaxed_claim_look", Ordering::Acquire);
        let is_free = |slot: &Slot<T>, word| slot.seq.load(order) == word;
        if max == 1 {
            return u64::from(is_free(self.slot(tail), tail)); // of a single add: known when compiled
        }
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        self.count_run(tail, max, is_free) as u64
    }

    /// Published slots in a row from `head` on, `max` at most.
    #[inline(always)]
    fn published_run(&self, head: Word, max: usize) -> usize {
        let order = weaken("relaxed_observe", Ordering::Acquire); // A2, pairs with R1
        let is_published =
            |slot: &Slot<T>, word: Word| slot.seq.load(order) == word.wrapping_add(1);
        self.count_run(head, max, is_published)
    }

    /// How many slots in a row, from that of `from` on, are as they should be; `max` at most.
    #[inline(always)]
    fn count_run(&self, from: Word, max: usize, is_so: impl Fn(&Slot<T>, Word) -> bool) -> usize {
        let mut word = from;
        let mut count = 0;
        for part in self.run(from, max) {
            for slot in part {
                if !is_so(slot, word) {
                    return count;
                }
                count += 1;
                word = word.wrapping_add(STEP);
            }
        }
        count
    }

    /// Moves `count` items from `head` on to the end of `out`, which has room for them.
    #[inline(always)]
    fn move_out(&self, head: Word, count: usize, out: &mut Vec<T>) {
        debug_assert!(count <= self.slots.len());
        let free = weaken("relaxed_free", Ordering::Release);
        let lap = self.slots.len() as u64 * STEP;
        let len = out.len();
        let mut to = out.spare_capacity_mut()[..count].iter_mut();
        let mut next = head.wrapping_add(lap);
        for part in self.run(head, count) {
            for (slot, to) in part.iter().zip(&mut to) {
                if mutated("free_before_read") {
                    slot.seq.store(next, free);
                }
                slot.item.with_mut(|item| {
                    // SAFETY: initialised: A2 saw it published. Exclusive, and moved out once: C2
                    // gave this position to this call alone, and no producer writes the slot before
                    // R2.
                    to.write(unsafe { (*item).assume_init_read() });
                });
                if !mutated("free_before_read") {
                    slot.seq.store(next, free); // R2, pairs with A1
                }
                next = next.wrapping_add(STEP);
            }
        }
        // SAFETY: the loops have written the `count` places after `len`: a claim is no longer than
        // a lap, so the slots are as many.
        unsafe { out.set_len(len + count) };
    }

    #[cold]
    fn why_full(&self, tail: Word) -> RunError {
        let head = self.head.load(Ordering::Acquire);
        let used = tail.wrapping_sub(head) / STEP;
        if used < self.slots.len() as u64 { RunError::Busy } else { RunError::Full }
    }

    #[cold]
    fn why_empty(&self, head: Word) -> PopError {
        // A closed tail never changes again and `head` never passes it, so `Closed` is exact even
        // if `head` is stale.
        let tail = self.tail.load(Ordering::Acquire);
        if tail & !CLOSED != head && !mutated("empty_is_done") {
            PopError::Busy
        } else if tail & CLOSED != 0 {
            PopError::Closed
        } else {
            PopError::Empty
        }
    }
}

impl<T> Push<T> for Ring<T> {
    #[inline(always)]
    fn push(&self, item: T) -> Result<Word, PushError<T>> {
        match self.claim(1) {
            Ok(claim) => Ok(claim.publish(item)),
            Err(why) => Err(why.with(item)),
        }
    }

    #[inline(always)]
    fn push_run<U>(
        &self,
        front: &mut Front<'_, U>,
        max: usize,
        wrap: impl FnMut(U) -> T,
    ) -> Result<Word, RunError> {
        if front.is_empty() || max == 0 {
            return Ok(self.start); // nothing was published, so nobody is to be woken
        }
        let claim = self.claim(front.len().min(max) as u64)?;
        Ok(claim.publish_run(front, wrap))
    }

    fn look(&self) -> Result<(), RunError> {
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED != 0 {
                return Err(RunError::Closed);
            }
            if self.free_run(tail, 1) != 0 {
                return Ok(());
            }
            let now = self.tail.load(Ordering::Relaxed);
            if now == tail {
                return Err(self.why_full(tail));
            }
            tail = now; // the slot has gone to another producer
        }
    }
}

impl<T> Claim<'_, T> {
    /// Fills and publishes a claim of one. No user code runs between C1 and R1.
    #[inline(always)]
    fn publish(self, item: T) -> Word {
        self.fill(self.word, item);
        self.end()
    }

    /// Fills and publishes the claim from the front of a vector.
    #[inline(always)]
    fn publish_run<U>(self, front: &mut Front<'_, U>, mut wrap: impl FnMut(U) -> T) -> Word {
        let mut word = self.word;
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        // SAFETY: the claim was made for `front`, so it is not longer.
        let mut items = unsafe { front.take(count) };
        for part in self.ring.run(word, count) {
            for (slot, item) in part.iter().zip(&mut items) {
                self.fill_slot(slot, word, wrap(item));
                word = word.wrapping_add(STEP);
            }
        }
        debug_assert_eq!(word, self.end(), "an item of the run was left out");
        word
    }

    fn end(&self) -> Word {
        self.word.wrapping_add(self.count * STEP)
    }

    #[inline(always)]
    fn fill(&self, word: Word, item: T) {
        self.fill_slot(self.ring.slot(word), word, item);
    }

    /// `slot` is that of the word.
    #[inline(always)]
    fn fill_slot(&self, slot: &Slot<T>, word: Word, item: T) {
        let order = weaken("relaxed_publish", Ordering::Release);
        if mutated("publish_before_write") {
            slot.seq.store(word.wrapping_add(1), order);
        }
        slot.item.with_mut(|cell| {
            // SAFETY: exclusive: C1 gave `word` to this claim alone, and consumers stay out until
            // R1. Nothing is overwritten: A1 saw `seq == word`, which R2 stores after the item
            // before was moved out (or `free_for` stored, when there was none).
            unsafe { (*cell).write(item) };
        });
        if !mutated("publish_before_write") {
            slot.seq.store(word.wrapping_add(1), order); // R1, pairs with A2
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        /// Goes on with the next item when the `Drop` of one panics.
        struct Rest<'r, T>(&'r Ring<T>, Word, Word);
        impl<T> Drop for Rest<'_, T> {
            fn drop(&mut self) {
                let Self(ring, word, tail) = self;
                while word != tail {
                    let at = *word;
                    *word = word.wrapping_add(STEP);
                    let rest = Rest(ring, *word, *tail);
                    ring.drop_item(at);
                    mem::forget(rest);
                }
            }
        }
        if mem::needs_drop::<T>() {
            let head = self.head.load(Ordering::Relaxed);
            let tail = self.tail.load(Ordering::Relaxed) & !CLOSED;
            drop(Rest(self, head, tail));
        }
    }
}

impl<T> Ring<T> {
    /// Drops the item at `word`, if it was published. Only for the ring's own `Drop`.
    fn drop_item(&self, word: Word) {
        let slot = self.slot(word);
        // A position whose producer died between C1 and R1 (a killed thread) holds nothing.
        if slot.seq.load(Ordering::Relaxed) == word.wrapping_add(1) {
            slot.item.with_mut(|item| {
                // SAFETY: published and between head and tail, so initialised and not moved out;
                // called once for each position, by `Drop`, which has the ring to itself.
                unsafe { (*item).assume_init_drop() };
            });
        }
    }
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// Makes the slots of an empty ring, each from its index.
fn first_lap<T>(
    capacity: usize,
    position: u64,
) -> Result<impl Fn(usize) -> Slot<T>, CapacityError> {
    if !capacity.is_power_of_two() || !(CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity) {
        return Err(CapacityError { got: capacity, memory: false });
    }
    let start = position.wrapping_mul(STEP);
    let mask = capacity as u64 - 1;
    Ok(move |index| {
        // How far after `position` this slot comes round.
        let lap = (index as u64).wrapping_sub(position) & mask;
        Slot::free_for(start.wrapping_add(lap * STEP))
    })
}

/// Whether word `a` lies at or after word `b`, with wrap-around.
#[inline(always)]
pub(crate) fn at_or_after(a: Word, b: Word) -> bool {
    a.wrapping_sub(b) < 1 << 63
}

/// What `tail` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) position: u64,
    pub(crate) closed: bool,
}
