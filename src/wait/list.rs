//! Producers that wait for room in a full ring: first come, first woken, threads and tasks in one
//! line.
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
//! **A task** does the same in pieces: it enters, tries again and leaves its waker in one poll; in
//! a later one it takes the token as a thread does after W4. Dropped in between, it leaves as one
//! whose time has come.
//!
//! **Whoever is woken must run** for the others to be: a task that is not polled, or whose thread
//! waits itself, would strand them. So a flusher that is about to sleep looks for waiters beside
//! room, wakes some, and looks again a millisecond later (`Shard::nudge`).
//!
//! **Not promised.** Strict fairness: a producer that does not wait may take the slot first; the
//! waiter then goes to the *front* of the list.
//!
//! **Checked by** `loom-tests/tests/loom.rs`, modules `room` and `cancel`.

use std::task::{Context, Poll};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::line::{Line, Waiter};
use crate::clock::Clock;
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, WAKES_AT_ONCE, fence, lock, mutated};

/// Times that one poll enters the line again before it lets others run.
const ROUNDS_MAX: u32 = 8;

/// The list; one beside each ring.
pub struct WaitList {
    waiting: CachePadded<AtomicUsize>,
    line: Mutex<Line>,
    clock: Clock,
}

/// Where a waiter enters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Back,
    /// It was woken, and another took its slot.
    Front,
}

/// Leaves the list again when dropped: room was found, or the caller's code panicked.
struct Leaving<'l>(&'l WaitList, &'l Waiter);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Self(list, waiter) = self;
        let listed = list.leave(waiter);
        list.vacate(waiter);
        if !listed && !mutated("no_forward") {
            list.wake(1); // the wake-up was for somebody who still waits
        }
    }
}

impl WaitList {
    pub fn new(clock: Clock) -> Self {
        Self {
            waiting: CachePadded::new(AtomicUsize::new(0)),
            line: Mutex::new(Line::default()),
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
            let waiter = match self.enter(place, &mut attempt) {
                Ok(waiter) => waiter,
                Err(done) => return Some(done),
            };
            let woken = waiter.parker.park(until, &self.clock).is_some(); // W4
            if !woken && self.leave(&waiter) {
                self.vacate(&waiter);
                return None;
            }
            self.vacate(&waiter);
            // A wake-up was meant for it, if at the last moment.
            match self.or_forward(&mut attempt) {
                Some(done) => {
                    self.next(&room);
                    return Some(done);
                }
                None if woken => place = Place::Front,
                None => return None,
            }
        }
    }

    /// As [`wait`](Self::wait), for a task that keeps its place in `waiter` between polls. One that
    /// is not polled again must [`cancel`](Self::cancel).
    pub fn poll<R>(
        &self,
        waiter: &mut Option<Waiter>,
        cx: &mut Context<'_>,
        room: impl Fn() -> bool,
        mut attempt: impl FnMut() -> Option<R>,
    ) -> Poll<R> {
        let mut place = Place::Back;
        for _ in 0..ROUNDS_MAX {
            if let Some(mine) = waiter.take() {
                if !mine.parker.poll(cx.waker()) {
                    *waiter = Some(mine);
                    return Poll::Pending;
                }
                self.vacate(&mine);
                if let Some(done) = self.or_forward(&mut attempt) {
                    self.next(&room);
                    return Poll::Ready(done);
                }
                place = Place::Front;
            }
            match self.enter(place, &mut attempt) {
                Ok(mine) => *waiter = Some(mine),
                Err(done) => return Poll::Ready(done),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets a task go that waited in vain; a wake-up that was meant for it goes to the next.
    pub fn cancel(&self, waiter: Waiter) {
        let listed = self.leave(&waiter);
        self.vacate(&waiter);
        if !listed && !mutated("cancel_no_forward") {
            self.wake(1);
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
            let mut line = lock(&self.line);
            let Some(parker) = line.pop() else { return };
            if mutated("notify_before_token") {
                parker.notify(None);
            }
            // Under the lock: who is off the list has its token, so that its place can be used
            // again at once.
            let waker = parker.leave_token(now);
            self.count(line);
            if !mutated("notify_before_token") {
                parker.notify(waker);
            }
        }
    }

    /// W5.
    fn next(&self, room: &impl Fn() -> bool) {
        if self.len() != 0 && room() && !mutated("no_next") {
            self.wake(1);
        }
    }

    /// Enters the list and tries once more; `Err` with what that brought, and off the list again.
    fn enter<R>(&self, place: Place, attempt: &mut impl FnMut() -> Option<R>) -> Result<Waiter, R> {
        let mut line = lock(&self.line);
        let waiter = line.enter(place == Place::Front); // W1
        self.count(line);
        if !mutated("no_fence_wait") {
            fence(Ordering::SeqCst); // W2, pairs with N2
        }
        if mutated("no_recheck") {
            return Ok(waiter);
        }
        let leaving = Leaving(self, &waiter);
        match attempt() {
            Some(done) => Err(done),
            None => {
                std::mem::forget(leaving);
                Ok(waiter) // W3
            }
        }
    }

    /// Tries with a wake-up in hand, and passes it on should the caller's code panic.
    fn or_forward<R>(&self, attempt: &mut impl FnMut() -> Option<R>) -> Option<R> {
        struct Forward<'l>(&'l WaitList);
        impl Drop for Forward<'_> {
            fn drop(&mut self) {
                self.0.wake(1);
            }
        }
        let forward = Forward(self);
        let done = attempt();
        std::mem::forget(forward);
        done
    }

    /// Takes the waiter off the list; false if it was off already, so that a wake-up is meant for
    /// it.
    fn leave(&self, waiter: &Waiter) -> bool {
        let mut line = lock(&self.line);
        let listed = line.leave(waiter);
        self.count(line);
        listed
    }

    /// Gives a place back whose token was taken, or to which nobody will give one.
    fn vacate(&self, waiter: &Waiter) {
        waiter.parker.clear();
        let mut line = lock(&self.line);
        line.vacate(waiter);
    }

    fn count(&self, line: MutexGuard<'_, Line>) {
        self.waiting.store(line.len(), Ordering::Relaxed);
        drop(line);
    }
}
