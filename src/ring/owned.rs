//! A ring that one producer owns: the same slots, drained in the same way, but claimed by plain
//! stores.
//!
//! The compare-and-swap C1 of a shared ring does three things: it keeps producers apart, it meets
//! the close bit, and it meets a flusher on its way to sleep. With one producer the first is not
//! needed; the other two are done by an asymmetric [`Barrier`]. Bit 0 of `tail` means something
//! else here: *adding*, the owner is in the middle of a claim.
//!
//! ```text
//!   owner, for each claim                       who closes                   who wants the final tail
//!   A1 slot.seq == 2p, of every slot (Acquire)
//!   O1 tail ← 2p + adding        (Relaxed)      K1 closed ← true (Relaxed)
//!      light                                       heavy
//!   O2 closed? then tail ← 2p    (Relaxed)      ·······························  K2 tail, adding is down?
//!   O3 tail ← 2(p + k)           (Relaxed)                                              (Acquire)
//!      write the items
//!   R1 slot.seq ← 2p + 1         (Release)
//!      light
//!      is the flusher to be told?               (`flush::owned`)
//! ```
//!
//! **The tail is final.** If O2 misses K1 then O1 comes before the barrier, so a K2 after it sees
//! *adding*, or what O3 has written later. An owner that comes later sees K1 at O2 and claims nothing.
//! So once K2 has seen *adding* down, no claim comes after what it has read.
//!
//! **As in a shared ring** the claim comes before the publication, so `tail` is never behind `head`,
//! and what is claimed and not yet published is waited for ([`PopError::Busy`]).
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `owned`.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::barrier::Barrier;
use super::{
    Claim, Front, PopError, Push, PushError, Ring, Run, RunError, STEP, Word, at_or_after,
};
use crate::sync::{AtomicBool, AtomicU64, Ordering, mutated, weaken};

/// In `tail`: the owner is between O1 and O3.
const ADDING: Word = 1;
/// So many positions ahead nobody ever comes.
const FAR: Word = 1 << 62;

/// Closes any number of owned rings at once.
pub struct Closing {
    closed: CachePadded<AtomicBool>,
    barrier: Barrier,
}

impl Closing {
    pub fn new(barrier: Barrier) -> Self {
        Self { closed: CachePadded::new(AtomicBool::new(false)), barrier }
    }

    pub fn barrier(&self) -> Barrier {
        self.barrier
    }

    /// Refuses every push from now on, but for those under way: see [`OwnedRing::is_final`].
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed); // K1
        if !mutated("own_close_no_barrier") {
            self.barrier.heavy();
        }
    }

    /// As [`close`](Self::close), in a forked child, where no other thread is.
    pub fn close_in_child(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// A ring that one producer owns: what everyone else may do with it.
pub struct OwnedRing<T> {
    ring: Ring<T>,
    /// The flusher is to be told once this is reached; see `flush::owned`.
    at: CachePadded<AtomicU64>,
    closing: Arc<Closing>,
}

/// Its owner, who alone pushes. `Send`, but neither `Clone` nor `Sync`: so plain stores do.
pub struct Owner<T> {
    owned: Arc<OwnedRing<T>>,
    barrier: Barrier,
    _not_sync: PhantomData<Cell<()>>,
}

impl<T> Owner<T> {
    /// Makes its owner of an empty ring that nobody else knows.
    pub fn new(ring: Ring<T>, closing: Arc<Closing>) -> Self {
        // Quiet: its first item is told of.
        let first = ring.tail.load(Ordering::Relaxed).wrapping_add(STEP);
        let (barrier, at) = (closing.barrier, CachePadded::new(AtomicU64::new(first)));
        Self { owned: Arc::new(OwnedRing { ring, at, closing }), barrier, _not_sync: PhantomData }
    }

    pub fn ring(&self) -> &Arc<OwnedRing<T>> {
        &self.owned
    }

    /// What `tail` says: nobody else writes it.
    #[inline(always)]
    fn tail(&self) -> Word {
        self.owned.ring.tail.load(Ordering::Relaxed)
    }

    /// To be asked after each push, with the word that it returned: whether the flusher is to be
    /// told.
    #[inline(always)]
    pub fn is_to_tell(&self, end: Word) -> bool {
        if !mutated("own_tell_unordered") {
            self.barrier.light(); // between O3 and this look
        }
        at_or_after(end, self.owned.at.load(Ordering::Relaxed))
    }

    /// Claims up to `max` positions in a row: as many as had free slots.
    fn claim(&self, max: u64) -> Result<Claim<'_, T>, RunError> {
        let word = self.tail();
        match self.free_run(word, max) {
            0 => Err(self.why_none(word)),
            count => self.claim_free(word, count),
        }
    }

    /// As that of the ring. Slots are freed in order, by who has the lock of the shard's order: of
    /// slots that are all free the last tells.
    fn free_run(&self, word: Word, max: u64) -> u64 {
        let ring = &self.owned.ring;
        let max = max.min(ring.capacity() as u64);
        let last = word.wrapping_add((max - 1) * STEP);
        let order = weaken("relaxed_claim_look", Ordering::Acquire); // A1
        match ring.slot(last).seq.load(order) == last {
            true => max,
            false => ring.free_run(word, max),
        }
    }

    /// Claims positions of which the slots are free.
    #[inline(always)]
    fn claim_free(&self, word: Word, count: u64) -> Result<Claim<'_, T>, RunError> {
        let OwnedRing { ring, closing, .. } = &*self.owned;
        let early = mutated("own_closed_before_adding") && closing.is_closed();
        ring.tail.store(word | ADDING, Ordering::Relaxed); // O1
        if !mutated("own_claim_unordered") {
            self.barrier.light();
        }
        if closing.is_closed() && !mutated("own_closed_before_adding") || early {
            ring.tail.store(word, Ordering::Relaxed); // O2
            return Err(RunError::Closed);
        }
        ring.tail.store(word.wrapping_add(count * STEP), Ordering::Relaxed); // O3
        Ok(Claim { ring, word, count })
    }

    #[cold]
    fn why_none(&self, word: Word) -> RunError {
        match self.owned.closing.is_closed() {
            true => RunError::Closed,
            false => self.owned.ring.why_full(word),
        }
    }
}

impl<T> Push<T> for Owner<T> {
    #[inline(always)]
    fn push(&self, item: T) -> Result<Word, PushError<T>> {
        let word = self.tail();
        let slot = self.owned.ring.slot(word);
        // A1
        let claimed = match slot.seq.load(weaken("relaxed_claim_look", Ordering::Acquire)) == word {
            true => self.claim_free(word, 1),
            false => Err(self.why_none(word)),
        };
        match claimed {
            Ok(claim) => {
                claim.fill_slot(slot, word, item);
                Ok(claim.end())
            }
            Err(why) => Err(why.with(item)),
        }
    }

    fn push_run<U>(
        &self,
        front: &mut Front<'_, U>,
        max: usize,
        wrap: impl FnMut(U) -> T,
    ) -> Result<Word, RunError> {
        if front.is_empty() || max == 0 {
            return Ok(self.tail().wrapping_sub(FAR)); // nobody is to be told
        }
        let claim = self.claim(front.len().min(max) as u64)?;
        Ok(claim.publish_run(front, wrap))
    }

    fn look(&self) -> Result<(), RunError> {
        let word = self.tail();
        match self.owned.ring.free_run(word, 1) {
            0 => Err(self.why_none(word)),
            _ if self.owned.closing.is_closed() => Err(RunError::Closed),
            _ => Ok(()),
        }
    }
}

impl<T> OwnedRing<T> {
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Items ever claimed. What an add that has returned has claimed is in it.
    pub fn pushed(&self) -> u64 {
        self.ring.pushed()
    }

    /// Items ever taken out.
    pub fn popped(&self) -> u64 {
        self.ring.popped()
    }

    /// Whether the owner is not in the middle of a claim. Once the ring is closed and this was so,
    /// [`pushed`](Self::pushed) is final.
    pub fn is_final(&self) -> bool {
        self.ring.tail.load(Ordering::Acquire) & ADDING == 0 || mutated("own_adding_ignored") // K2
    }

    /// As [`Ring::pop_run`], by one at a time: slots are freed in order, and the owner relies on it. It
    /// publishes in order: of items that are all there the last tells.
    pub fn pop_run(&self, out: &mut Vec<T>, max: usize) -> Result<Run, PopError> {
        let ring = &self.ring;
        let max = max.min(ring.capacity());
        let published = |head: Word| {
            let last = head.wrapping_add((max as u64 - 1) * STEP);
            let order = weaken("relaxed_own_observe", Ordering::Acquire); // A2, pairs with R1
            match ring.slot(last).seq.load(order) == last.wrapping_add(1) {
                true => max,
                false => ring.published_run(head, max),
            }
        };
        ring.pop_published(out, published).map_err(|why| match why {
            PopError::Closed => PopError::Empty, // it has read *adding*
            why => why,
        })
    }

    /// As [`Ring::has_free`].
    pub fn has_free(&self, slots: u64) -> bool {
        self.ring.has_free(slots)
    }

    /// As [`Ring::published_before`].
    pub fn published_before(&self, position: u64) -> bool {
        self.ring.published_before(position)
    }

    /// The owner is to tell the flusher as soon as it has published up to `position`. What it
    /// published before is to be looked for after a heavy barrier.
    pub fn tell_at(&self, position: u64) {
        self.at.store(self.ring.word(position), Ordering::Relaxed);
    }

    /// The owner is to tell nobody.
    pub fn tell_nobody(&self) {
        self.tell_at(self.pushed().wrapping_add(FAR / STEP));
    }
}
