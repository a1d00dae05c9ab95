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
//! **Not promised.** Wakes may be spurious. At F3 the positions below W are claimed but perhaps not
//! published: the flusher waits for them (`PopError::Busy`).
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `wake`; with F2 as a plain load
//! (`wake_plain_load`) it must fail.

use std::time::Instant;

use crossbeam_utils::CachePadded;

use super::parker::Parker;
use crate::clock::Clock;
use crate::ring::{Ring, Word, at_or_after};
use crate::sync::{AtomicBool, AtomicU64, Ordering, mutated};

/// Words of positions are even; this is nobody's.
const NOBODY: Word = 1;

/// The wake position of a node, and the news for its flushers.
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
}

impl Wake {
    pub fn new(clock: Clock) -> Self {
        Self {
            at: CachePadded::new(AtomicU64::new(NOBODY)),
            news: CachePadded::new(News {
                flush_to: AtomicU64::new(0),
                press_to: AtomicU64::new(0),
                stop: AtomicBool::new(false),
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

    #[cold]
    fn wake(&self) {
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

    /// Asks for every item there is to be written, so that the bytes they hold are given back.
    pub fn press<T>(&self, ring: &Ring<T>) {
        let position = ring.rendezvous().position;
        if self.news.press_to.fetch_max(position, Ordering::Relaxed) < position {
            self.announce(ring);
        }
    }

    /// Asks the flushers to collect nothing more.
    pub fn stop<T>(&self, ring: &Ring<T>) {
        self.news.stop.store(true, Ordering::Relaxed);
        self.announce(ring);
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

    /// Whether there is something that a flusher with its first open item at `first` must not sleep
    /// over.
    pub fn has_news(&self, first: u64) -> bool {
        self.stopped() || self.flush_to() > first || self.press_to() > first
    }

    /// Parks the flusher whose first open item is `first` until the ring has been claimed up to
    /// `position`, there is news, or the time has come. One flusher at a time: the holder of the
    /// collect lease.
    ///
    /// Returns a moment before which no add at `position - 1` or later had returned; `None` if it
    /// did not park, or if none is known.
    pub fn park<T>(
        &self,
        ring: &Ring<T>,
        first: u64,
        position: u64,
        until: Option<Instant>,
    ) -> Option<Instant> {
        self.at.swap(ring.word(position), Ordering::AcqRel); // F1
        let tail = ring.rendezvous(); // F2
        let news = self.has_news(first) && !mutated("no_news_look");
        let claimed = tail.position >= position && !mutated("no_claim_look");
        let up = claimed || tail.closed || news; // F3
        let stamp = if up { None } else { self.parker.park(until, &self.clock) }; // F4
        let now = self.clock.now(); // before the swap, like a waker's stamp
        // If a waker has won the swap and the time came first, its token is on its way: the next
        // park returns early. Its stamp is not known yet, and its add may have returned before
        // `now`.
        let alone = self.at.swap(NOBODY, Ordering::AcqRel) != NOBODY;
        if up { None } else { stamp.or(alone.then_some(now)) }
    }
}
