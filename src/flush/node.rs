//! A node: its ring, who waits at either end of it, and the lease to collect from it.

use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::clock::Clock;
use crate::collect::{Former, Step, View};
use crate::ring::{PopError, Ring};
use crate::sync::{Backoff, FLUSHER_LOOKS, FLUSHER_PAUSES, Mutex, mutated, pause, sleep};
use crate::telemetry::{Counter, nanos};
use crate::wait::{WaitList, Wake};

/// A wait this short would have been worth spinning for; see `docs/decisions/0007-spin-budgets.md`.
const WORTH_SPINNING: Duration = Duration::from_micros(200);
/// Looks that even a quiet node takes.
const LOOKS_MIN: u32 = if FLUSHER_LOOKS < 2 { FLUSHER_LOOKS } else { 2 };
/// Between two looks for an item whose producer has stopped between claim and publish.
const STALL_SLEEP: Duration = Duration::from_micros(200);

/// One node of an engine.
pub struct Node<T> {
    /// Which engine this is; never 0.
    pub engine: u64,
    pub ring: Ring<T>,
    pub wake: Wake,
    pub room: WaitList,
    /// The right to take items out of the ring. Waiting for items happens under it, writing does
    /// not.
    pub lease: Mutex<Lease<T>>,
    pub clock: Clock,
    pub start: Instant,
    /// Of the oldest item in the ring, as nanoseconds after `start`: no add of it had returned
    /// before.
    pub oldest: Counter,
    pub parks: Counter,
    pub stalls: Counter,
}

/// What only the holder of the lease touches.
pub struct Lease<T> {
    pub former: Former<T>,
    /// Looks to take before parking next time: few where nothing comes, many where batches fill
    /// quickly.
    looks: u32,
}

/// What one turn of collecting has brought.
pub enum Turn<T> {
    /// A batch to write.
    Batch(Batch<T>),
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

impl<T> Node<T> {
    pub fn new(engine: u64, ring: Ring<T>, former: Former<T>, clock: Clock) -> Self {
        let start = clock.now();
        Self {
            engine,
            ring,
            wake: Wake::new(clock.clone()),
            room: WaitList::new(clock.clone()),
            lease: Mutex::new(Lease { former, looks: FLUSHER_LOOKS }),
            clock,
            start,
            oldest: Counter::new(0),
            parks: Counter::new(0),
            stalls: Counter::new(0),
        }
    }

    /// Refuses every add from now on, wakes everyone who waits for this node, and returns the items
    /// ever added.
    pub fn close(&self) -> u64 {
        let pushed = self.ring.close();
        if !mutated("close_no_wake") {
            self.wake.demand(&self.ring, u64::MAX);
        }
        self.room.closed();
        pushed
    }

    /// Asks the flushers to collect nothing more, whatever is left.
    pub fn stop(&self) {
        self.wake.stop(&self.ring);
    }

    /// Collects the next batch, waiting for it; `None` when there will be no more. `buffer` is for
    /// the next batch's items and is taken with the batch.
    pub fn collect(&self, lease: &mut Lease<T>, buffer: &mut Vec<T>) -> Option<Batch<T>> {
        let mut backoff = Backoff::default();
        loop {
            let stuck = match self.turn(lease, buffer, false) {
                Turn::Batch(batch) => return Some(batch),
                Turn::Done => return None,
                Turn::Progress => {
                    backoff = Backoff::default();
                    continue;
                }
                Turn::Wait { position, until } => {
                    self.wait(lease, position, until);
                    continue;
                }
                Turn::Stalled => !backoff.wait(),
            };
            if stuck {
                // What is overdue does not wait for the items behind a stopped producer.
                if let Turn::Batch(batch) = self.turn(lease, buffer, true) {
                    return Some(batch);
                }
                sleep(STALL_SLEEP);
            }
        }
    }

    /// One turn: looks at the ring once, and acts on it. `partial`: write what is overdue though
    /// more is claimed.
    pub fn turn(&self, lease: &mut Lease<T>, buffer: &mut Vec<T>, partial: bool) -> Turn<T> {
        if self.wake.stopped() {
            return Turn::Done;
        }
        let former = &mut lease.former;
        let view = self.view(former);
        match former.step(&view) {
            Step::Wait { position, until } => Turn::Wait { position, until },
            Step::Done => Turn::Done,
            Step::Close(reason) => {
                Turn::Batch(former.close(reason, view.now, std::mem::take(buffer)))
            }
            Step::Drain { up_to } => {
                if self.drain(former, up_to) {
                    return Turn::Progress;
                }
                if mutated("stalled_is_done") && view.closed {
                    return Turn::Done;
                }
                let pending = view.tail.saturating_sub(former.first());
                match former.overdue(&view, pending) {
                    Some(reason) if partial && former.has_items() => {
                        Turn::Batch(former.close(reason, view.now, std::mem::take(buffer)))
                    }
                    _ => Turn::Stalled,
                }
            }
        }
    }

    fn view(&self, former: &mut Former<T>) -> View {
        let flush_to = self.wake.flush_to(); // before the tail: closing sets this last
        let now = self.clock.now(); // before the tail: no add behind that tail had returned by now
        let tail = self.ring.tail();
        former.mark(tail.position, now);
        let oldest = former.oldest().saturating_duration_since(self.start);
        self.oldest.set(nanos(oldest));
        View { now, tail: tail.position, closed: tail.closed, flush_to }
    }

    /// Moves published items up to a position out of the ring; false if the next one is not
    /// published.
    fn drain(&self, former: &mut Former<T>, up_to: u64) -> bool {
        let max = usize::try_from(up_to.saturating_sub(former.drained())).unwrap_or(usize::MAX);
        if mutated("notify_before_free") {
            self.room.freed(max);
        }
        match former.fill(|items| self.ring.try_pop_run(items, max)) {
            Ok(count) => {
                if !mutated("notify_before_free") {
                    self.room.freed(count);
                }
                true
            }
            Err(PopError::Busy | PopError::Empty | PopError::Closed) => {
                self.stalls.count();
                false
            }
        }
    }

    /// Takes everything that is in no batch, oldest first, published or drained. False if more is
    /// to come: a producer has claimed a slot and not published it yet. To be called after closing.
    pub fn take_rest(&self, lease: &mut Lease<T>, items: &mut Vec<T>) -> bool {
        items.append(&mut lease.former.take_rest());
        let (count, all) = self.take_queued(items);
        lease.former.skip(count);
        all
    }

    /// As [`take_rest`](Self::take_rest), but for items in the ring alone; also says how many.
    /// Needs no lease.
    pub fn take_queued(&self, items: &mut Vec<T>) -> (usize, bool) {
        let before = items.len();
        loop {
            if let Err(why) = self.ring.try_pop_run(items, self.ring.capacity()) {
                return (items.len() - before, why != PopError::Busy);
            }
        }
    }

    /// Keeps away from the producers' cache lines until the batch that ends at `position` is there,
    /// or due, or there is news: a few looks at its last slot alone, then to sleep.
    fn wait(&self, lease: &mut Lease<T>, position: u64, until: Option<Instant>) {
        let Lease { former, looks } = lease;
        let first = former.first();
        // The first item may come any moment from the last look at the ring on.
        let cut = until.or_else(|| former.due());
        for _ in 0..*looks {
            pause(FLUSHER_PAUSES);
            if self.ring.published_before(position) || self.wake.has_news(first) {
                *looks = FLUSHER_LOOKS;
                return;
            }
            if cut.is_some_and(|cut| cut <= self.clock.now()) {
                if until.is_some() {
                    return;
                }
                break; // nothing was there: with a short delay that must not mean to look for ever
            }
        }
        let empty = self.ring.tail().position <= first;
        let (position, until) = if empty { (first + 1, None) } else { (position, former.due()) };
        let parked = self.clock.now();
        if let Some(stamp) = self.wake.park(&self.ring, first, position, until) {
            former.mark(position - 1, stamp);
            self.parks.count();
            *looks = if stamp.saturating_duration_since(parked) < WORTH_SPINNING {
                (*looks * 2).clamp(LOOKS_MIN, FLUSHER_LOOKS)
            } else {
                (*looks / 2).max(LOOKS_MIN)
            };
        }
    }
}
