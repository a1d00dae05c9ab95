//! Producers that wait for room in a full ring: first come, first woken.
//!
//! ```text
//!  producer                                    flusher, after freeing a run of slots
//!  W1 enter the list, waiting ← length          N1 slot.seq ← free, each          (Release, R2 of the ring)
//!  W2 fence                       (SeqCst)      N2 fence                           (SeqCst)
//!  W3 try the ring again                        N3 waiting = 0? done               (Relaxed)
//!  W4 sleep until taken off the list            N4 take a few off the list, wake each
//!  W5 try again; was room, is room: wake the next
//! ```
//!
//! **No lost wake-up.** The two fences have one order. W2 first: N3 sees W1 and N4 finds the
//! waiter, or one before it. N2 first: W3 sees N1, so there is room (or another producer took it,
//! and then that slot will be freed in its turn). Closing sets its bit, then does N2 to N4 for
//! everyone.
//!
//! **Nobody sleeps beside room.** N4 wakes a few only: with many waiters the flusher would spend
//! its time waking them, and most would find the ring full again. Each one that finds room, and
//! leaves room, wakes the next: waking goes on as long as there is room, on the producers' time.
//! What W5 does not see of room was freed by a later run, whose N3 sees the waiters.
//!
//! **No wake-up is swallowed.** A waiter that leaves for another reason (it found room at W3, or
//! its time came) looks whether it is still on the list. If not, a wake-up was meant for it: it
//! uses it for one more try at the ring, or passes it on.
//!
//! **Not promised.** Strict fairness: a producer that does not wait may take the slot first; the
//! waiter then goes to the *front* of the list.
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `room`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::parker::Parker;
use crate::clock::Clock;
use crate::sync::{AtomicUsize, Mutex, Ordering, WAKES_AT_ONCE, fence, lock, mutated};

/// The list; one beside each ring.
pub struct WaitList {
    waiting: CachePadded<AtomicUsize>,
    inner: Mutex<Inner>,
    clock: Clock,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Arc<Parker>>,
    /// Parkers to be used again: waiting allocates only when more producers wait than ever before.
    spare: Vec<Arc<Parker>>,
}

/// Where a waiter enters.
#[derive(Clone, Copy)]
enum Place {
    Back,
    /// It was woken, and another took its slot.
    Front,
}

impl WaitList {
    pub fn new(clock: Clock) -> Self {
        Self {
            waiting: CachePadded::new(AtomicUsize::new(0)),
            inner: Mutex::new(Inner::default()),
            clock,
        }
    }

    /// Calls `attempt` until it returns something, sleeping in between until there may be room.
    /// `None` when the time came first. `room` says whether there is room for another producer's
    /// item.
    pub fn wait<R>(
        &self,
        until: Option<Instant>,
        room: impl Fn() -> bool,
        mut attempt: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let mut place = Place::Back;
        loop {
            let parker = self.enter(place); // W1
            if !mutated("no_fence_wait") {
                fence(Ordering::SeqCst); // W2, pairs with N2
            }
            if !mutated("no_recheck")
                && let Some(done) = attempt()
            {
                if self.leave(&parker) {
                    self.recycle(parker);
                } else if !mutated("no_forward") {
                    self.wake(1); // the wake-up was for somebody who still waits
                }
                return Some(done);
            }
            let woken = parker.park(until, &self.clock).is_some(); // W4
            if !woken && self.leave(&parker) {
                self.recycle(parker);
                return None;
            }
            // A wake-up was meant for it, if at the last moment.
            if woken {
                self.recycle(parker);
            }
            match attempt() {
                Some(done) => {
                    if self.len() != 0 && room() && !mutated("no_next") {
                        self.wake(1); // W5
                    }
                    return Some(done);
                }
                None if woken => place = Place::Front,
                None => return None,
            }
        }
    }

    /// To be called after `slots` slots were freed.
    #[inline]
    pub fn freed(&self, slots: usize) {
        self.announce(slots.min(WAKES_AT_ONCE));
    }

    /// To be called after the ring was closed: wakes everyone.
    pub fn closed(&self) {
        if !mutated("close_no_notify") {
            self.announce(if mutated("close_wakes_one") { 1 } else { usize::MAX });
        }
    }

    #[inline]
    fn announce(&self, wakes: usize) {
        if !mutated("no_fence_notify") {
            fence(Ordering::SeqCst); // N2, pairs with W2
        }
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.wake(wakes); // N3, N4
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    #[cold]
    fn wake(&self, count: usize) {
        let now = self.clock.now();
        for _ in 0..count {
            let mut inner = lock(&self.inner);
            let Some(parker) = inner.queue.pop_front() else { return };
            self.waiting.store(inner.queue.len(), Ordering::Relaxed);
            drop(inner);
            parker.unpark(now);
        }
    }

    fn enter(&self, place: Place) -> Arc<Parker> {
        let mut inner = lock(&self.inner);
        let parker = inner.spare.pop().unwrap_or_default();
        match place {
            Place::Back => inner.queue.push_back(Arc::clone(&parker)),
            Place::Front => inner.queue.push_front(Arc::clone(&parker)),
        }
        self.waiting.store(inner.queue.len(), Ordering::Relaxed);
        parker
    }

    /// Takes the waiter off the list; false if it was off already, so that a wake-up is meant for
    /// it.
    fn leave(&self, parker: &Arc<Parker>) -> bool {
        let mut inner = lock(&self.inner);
        let Some(index) = inner.queue.iter().position(|other| Arc::ptr_eq(other, parker)) else {
            return false;
        };
        inner.queue.remove(index);
        self.waiting.store(inner.queue.len(), Ordering::Relaxed);
        true
    }

    /// Keeps a parker whose token was taken, or to which nobody will give one.
    fn recycle(&self, parker: Arc<Parker>) {
        lock(&self.inner).spare.push(parker);
    }
}
