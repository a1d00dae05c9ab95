//! Parking of a flusher: it sleeps at no cost, misses no item, and is woken once per batch.
//!
//! A producer must not make a system call per item, nor write a shared line per item. So the
//! flusher says at which *position* it wants to be woken, and a producer compares. Both sides meet
//! in one read-modify-write of the same word, the ring's `tail`, so that one of them is always
//! second and sees the other.
//!
//! ```text
//!  producer                                   flusher
//!  P1 tail: CAS p → p+1          (AcqRel)     F1 at ← W                  (AcqRel swap)
//!  P2 slot.seq ← published       (Release)    F2 t ← tail + 0, an RMW    (AcqRel)
//!  P3 p+1 ≥ at?                  (Relaxed)    F3 t ≥ W, closed, or news: do not park
//!  P4 swap at ← nobody, unpark   (AcqRel)     F4 park, at most until the batch is due; at ← nobody
//! ```
//!
//! **No lost wake-up.** P1 and F2 have one order in the history of `tail`. P1 first: F2 reads a
//! tail at or past W and the flusher stays up. F2 first: P1 synchronises with F2, so P3 sees F1 (or
//! what came after it) and P4 wakes; an unpark that comes before F4 leaves its token, so F4 returns
//! at once. Whoever has other news (a flush, closing, a stop) writes it first, then does a
//! read-modify-write of `tail` in place of P1, then looks at `at` like P3: the same argument holds.
//!
//! **When the wake-up was decided.** The one who wakes reads the clock *before* P4 and leaves it as
//! the token. Every other add of a position ≥ W − 1 meets P3 or P4 after that swap, so **no such
//! add has returned before the stamp**: it bounds the age of the first item without a time stamp
//! per item, however late the flusher's thread then runs.
//!
//! **As a task** ([`Parking`]) the flusher does F1 to F3 once, in its first poll, and at F4 leaves a
//! waker where a thread would wait. From then on each poll only looks for the token: `at` is as F1
//! has left it until a waker's P4 has swapped it, and the token comes after P4. Whoever stops
//! waiting, woken, by the time or because it is dropped, swaps `at` back to nobody as the last part
//! of F4. So the argument is the same; what is new is that between two polls nobody waits, and a
//! wake-up then finds the waker, or the next poll the token.
//!
//! **Not promised.** Wakes may be spurious. At F3 the positions below W are claimed but perhaps not
//! published: the flusher waits for them (`PopError::Busy`).
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `wake`; with F2 as a plain load
//! (`wake_plain_load`) it must fail.

#[cfg(any(feature = "tokio", loom, shuttle))]
use std::task::{Context, Poll};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::parker::Parker;
use crate::clock::Clock;
use crate::ring::{Ring, Word, at_or_after};
use crate::sync::{AtomicBool, AtomicU64, Ordering, mutated, weaken};

/// Words of positions are even; this is nobody's.
const NOBODY: Word = 1;

/// The wake position of a shard, and the news for its flushers.
pub struct Wake {
    at: CachePadded<AtomicU64>,
    news: CachePadded<News>,
    parker: Parker,
    clock: Clock,
}

/// What a flusher must know besides the ring. Written rarely, so reading it costs nothing. Relaxed,
/// but for the order that the rendezvous gives.
struct News {
    /// Items before this position are to be flushed now.
    flush_to: AtomicU64,
    /// Items before this position hold bytes of the budget that somebody waits for.
    press_to: AtomicU64,
    /// Collect nothing more.
    stop: AtomicBool,
    /// How often something besides the ring has changed: what waits to be written again, or what a
    /// write under way held up.
    alarms: AtomicU64,
}

/// What a flusher sleeps for.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// Its first open item is at `first`, and it wants the ring to be claimed up to `position`.
    Items { first: u64, position: u64 },
    /// Whatever is in the ring has to wait, also if it is to be flushed or the ring was closed.
    Alarm,
}

/// Rings beside the one of a shard, for which its flusher sleeps as well.
pub trait Beside {
    /// What F1 to F3 are for these rings: the flusher wants all of them to be claimed up to
    /// `position` of an order of theirs. Calls `shared` for the shard's own ring, with the position
    /// to be woken at there; it says whether the flusher must stay up. False if it must.
    ///
    /// Whoever publishes there and finds that the flusher is to be woken calls [`Wake::wake`], after
    /// this has returned.
    fn lie_down(&self, position: u64, shared: &mut dyn FnMut(u64) -> bool) -> bool;
}

impl Wake {
    pub fn new(clock: Clock) -> Self {
        Self {
            at: CachePadded::new(AtomicU64::new(NOBODY)),
            news: CachePadded::new(News {
                flush_to: AtomicU64::new(0),
                press_to: AtomicU64::new(0),
                stop: AtomicBool::new(false),
                alarms: AtomicU64::new(0),
            }),
            parker: Parker::default(),
            clock,
        }
    }

    /// A producer's side: call after publishing, with the word after the last item published.
    #[inline(always)]
    pub fn published(&self, end: Word) {
        let at = self.at.load(Ordering::Relaxed); // P3
        let end = if mutated("wake_off_by_one") { end.wrapping_sub(2) } else { end };
        if at != NOBODY && at_or_after(end, at) {
            self.wake();
        }
    }

    /// P4, also for who has published elsewhere: see [`Beside`].
    #[cold]
    pub fn wake(&self) {
        let stamp = self.clock.now(); // before the swap: see the module documentation
        if self.at.swap(NOBODY, Ordering::AcqRel) != NOBODY {
            self.parker.unpark(stamp); // P4
        }
    }

    /// Asks for every item before `position` to be flushed now.
    pub fn demand<T>(&self, ring: &Ring<T>, position: u64) {
        if mutated("news_after_announce") {
            self.announce(ring);
        }
        self.news.flush_to.fetch_max(position, Ordering::Relaxed);
        if !mutated("news_after_announce") {
            self.announce(ring);
        }
    }

    /// Asks for every item before `position` to be written, so that the bytes they hold are given
    /// back.
    pub fn press<T>(&self, ring: &Ring<T>, position: u64) {
        if self.news.press_to.fetch_max(position, Ordering::Relaxed) < position {
            self.announce(ring);
        }
    }

    /// Asks the flushers to collect nothing more.
    pub fn stop<T>(&self, ring: &Ring<T>) {
        self.news.stop.store(true, Ordering::Relaxed);
        self.announce(ring);
    }

    /// Tells the flusher that sleeps that something besides the ring has changed. To be called after
    /// the change; who reads [`alarms`](Self::alarms) first and then looks for changes misses none.
    pub fn alarm<T>(&self, ring: &Ring<T>) {
        // W1, pairs with W2: who sees the alarm sees the change.
        self.news.alarms.fetch_add(1, weaken("relaxed_alarm", Ordering::Release));
        self.announce(ring);
    }

    /// Whether a flusher sleeps, a moment ago.
    pub fn is_waited_for(&self) -> bool {
        self.at.load(Ordering::Relaxed) != NOBODY
    }

    /// How many alarms there were.
    pub fn alarms(&self) -> u64 {
        self.news.alarms.load(weaken("relaxed_alarms", Ordering::Acquire)) // W2, pairs with W1
    }

    fn announce<T>(&self, ring: &Ring<T>) {
        if !mutated("announce_without_rendezvous") {
            ring.rendezvous(); // in place of P1
        }
        if self.at.load(Ordering::Relaxed) != NOBODY {
            self.wake();
        }
    }

    /// Items before this position are to be flushed now.
    pub fn flush_to(&self) -> u64 {
        self.news.flush_to.load(Ordering::Relaxed)
    }

    /// Items before this position hold bytes that somebody waits for.
    pub fn press_to(&self) -> u64 {
        self.news.press_to.load(Ordering::Relaxed)
    }

    /// Whether the flushers are to stop.
    pub fn stopped(&self) -> bool {
        self.news.stop.load(Ordering::Relaxed)
    }

    /// Whether there is something that a flusher which wants this must not sleep over. `alarms` is
    /// how many there were when it last looked at everything else.
    pub fn has_news(&self, want: Want, alarms: u64) -> bool {
        let asked = match want {
            Want::Items { first, .. } => self.flush_to() > first || self.press_to() > first,
            Want::Alarm => false,
        };
        asked || self.stopped() || self.alarms() != alarms && !mutated("no_alarm_look")
    }

    /// Parks the flusher until there is what it wants, or news, or the time has come. One flusher
    /// at a time: the holder of the collect lease.
    ///
    /// Returns a moment before which no add at the position it wants, less one, or later had
    /// returned; `None` if it did not park, or if none is known.
    pub fn park<T>(
        &self,
        ring: &Ring<T>,
        beside: Option<&dyn Beside>,
        want: Want,
        alarms: u64,
        until: Option<Instant>,
    ) -> Option<Instant> {
        if !self.lie_down(ring, beside, want, alarms) {
            return None;
        }
        let stamp = self.parker.park(until, &self.clock); // F4
        self.get_up(stamp)
    }

    /// As [`park`](Self::park), for a task. The time is the caller's to watch.
    #[cfg(any(feature = "tokio", loom, shuttle))]
    pub fn parking<'a, T>(
        &'a self,
        ring: &'a Ring<T>,
        beside: Option<&'a dyn Beside>,
        want: Want,
        alarms: u64,
    ) -> Parking<'a, T> {
        Parking { wake: self, ring, beside, want, alarms, lies: false }
    }

    /// F1 to F3: false if there is no need to sleep.
    fn lie_down<T>(
        &self,
        ring: &Ring<T>,
        beside: Option<&dyn Beside>,
        want: Want,
        alarms: u64,
    ) -> bool {
        match (want, beside) {
            (Want::Items { position, .. }, None) => self.lie_down_at(ring, position, want, alarms),
            (Want::Items { position, .. }, Some(beside)) => {
                let up = |position| !self.lie_down_at(ring, position, want, alarms);
                let down = beside.lie_down(position, &mut { up });
                if !down {
                    self.at.swap(NOBODY, Ordering::AcqRel);
                }
                down
            }
            // Out of reach while nothing is taken out; should it be reached, it wakes in vain.
            (Want::Alarm, _) => {
                let far = ring.tail().position + 2 * ring.capacity() as u64;
                self.lie_down_at(ring, far, want, alarms)
            }
        }
    }

    fn lie_down_at<T>(&self, ring: &Ring<T>, position: u64, want: Want, alarms: u64) -> bool {
        self.at.swap(ring.word(position), Ordering::AcqRel); // F1
        let tail = ring.rendezvous(); // F2
        let news = self.has_news(want, alarms) && !mutated("no_news_look");
        let claimed = tail.position >= position && !mutated("no_claim_look");
        let closed = tail.closed && matches!(want, Want::Items { .. });
        let up = claimed || closed || news; // F3
        if up {
            self.at.swap(NOBODY, Ordering::AcqRel);
        }
        !up
    }

    /// The end of F4: with the stamp of the token, or without one because the time has come.
    fn get_up(&self, stamp: Option<Instant>) -> Option<Instant> {
        let now = self.clock.now(); // before the swap, like a waker's stamp
        // If a waker has won the swap and the time came first, its token is on its way: the next
        // park returns early. Its stamp is not known yet, and its add may have returned before
        // `now`.
        let alone = self.at.swap(NOBODY, Ordering::AcqRel) != NOBODY;
        stamp.or(alone.then_some(now))
    }
}

/// A flusher that parks as a task; made by [`Wake::parking`]. One at a time, as for
/// [`Wake::park`]. Dropped, it has got up.
#[cfg(any(feature = "tokio", loom, shuttle))]
pub struct Parking<'a, T> {
    wake: &'a Wake,
    ring: &'a Ring<T>,
    beside: Option<&'a dyn Beside>,
    want: Want,
    alarms: u64,
    /// It is past F3 and has not got up.
    lies: bool,
}

#[cfg(any(feature = "tokio", loom, shuttle))]
impl<T> Parking<'_, T> {
    /// Ready once there is what it wants, or news, with what [`Wake::park`] returns.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        let lies = || self.wake.lie_down(self.ring, self.beside, self.want, self.alarms);
        if !self.lies && !lies() {
            return Poll::Ready(None);
        }
        self.lies = true;
        match self.wake.parker.poll_stamp(cx.waker()) {
            Some(stamp) => {
                self.lies = false;
                Poll::Ready(self.wake.get_up(Some(stamp)))
            }
            None => Poll::Pending,
        }
    }

    /// The time has come, or there is something else to do. Returns what [`Wake::park`] does when
    /// its time has come.
    pub fn get_up(&mut self) -> Option<Instant> {
        if !std::mem::take(&mut self.lies) {
            return None;
        }
        let stamp = self.wake.get_up(None);
        self.wake.parker.forget_waker();
        stamp
    }
}

#[cfg(any(feature = "tokio", loom, shuttle))]
impl<T> Drop for Parking<'_, T> {
    fn drop(&mut self) {
        self.get_up();
    }
}
