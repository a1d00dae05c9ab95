//! Shutting down: within a deadline, with a report in which nothing is missing.

use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Batcher;
use crate::batch::BatchId;
use crate::flush::{Activity, DeadLetters, FailedItem, Seat, Shard, Shared, Writing};
use crate::mode::Mode;
use crate::sink::{Flusher, WriteError};
use crate::sync::{sleep, try_lock};
use crate::telemetry::{Stats, Tally};

/// How long past its deadline shutdown waits for flushers to come back, once no write starts any
/// more.
const STOP_GRACE: Duration = Duration::from_millis(50);

/// What became of everything; the last word of [`Batcher::shutdown`].
#[derive(Debug)]
#[must_use = "it holds the items that were not flushed"]
pub struct Shutdown<T> {
    /// Where the items are. `in_flight` are those in `unflushed`, and those that a stopped producer
    /// had claimed a slot for and never published.
    pub tally: Tally,
    /// The figures of the whole run.
    pub stats: Stats,
    /// Items handed back, those of each shard oldest first: no sink has seen them, or none has taken them and they
    /// waited to be tried again. Nothing of them was applied. A batch of which only some items
    /// failed comes part by part.
    pub unflushed: Vec<T>,
    /// Items that the sink did not take, unless the builder's `on_failed` has taken them.
    pub failed: Vec<FailedItem<T>>,
    /// Failed items beyond `failed_kept`: counted in the tally, and gone.
    pub failed_discarded: u64,
    /// Flushers that did not come back in time.
    pub left_behind: Vec<LeftBehind>,
    /// What sinks said on closing.
    pub close_errors: Vec<(Flusher, WriteError)>,
}

/// A flusher that did not come back from the caller's code in time; its thread lives on until that
/// returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftBehind {
    /// Which.
    pub flusher: Flusher,
    /// Where it was.
    pub stuck: Stuck,
}

/// Where a flusher was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stuck {
    /// In `Sink::write`, or in a future of `AsyncSink::write` that blocks the thread (then each
    /// write in flight has an entry), or in `on_dropped` for an item that was too old for it. The items of the
    /// batch count as `unknown`.
    Writing {
        /// The batch.
        batch: BatchId,
        /// Its items.
        items: u64,
    },
    /// In the dead-letter sink, `on_failed`, or a waker of an ack. The batch's fates were settled
    /// before.
    Reporting {
        /// The batch.
        batch: BatchId,
    },
    /// In the factory, for a flusher that takes the place of one that was left behind.
    Opening,
    /// In `Sink::close`.
    Closing,
    /// In `weight`, `key` or `max_age_since`, or in `on_dropped` for items that came too late. What
    /// the weight function had in hand cannot be handed back and stays `in_flight`.
    Collecting,
    /// In the process that this one was forked from, and so are the items: `unflushed` is empty
    /// here, so that none is written twice.
    Forked,
}

/// In a child process: what was added is in flight, in the parent.
fn in_parent(enqueued: u64) -> Tally {
    Tally { enqueued, in_flight: enqueued, ..Tally::default() }
}

impl<T> Shutdown<T> {
    /// Of an engine that has ended.
    pub(super) fn of<M: Mode<T>>(
        shared: &Shared<T, M>,
        unflushed: Vec<T>,
        left_behind: Vec<LeftBehind>,
    ) -> Self {
        let ledger = &shared.ledger;
        let (failed, failed_discarded) = ledger.take_failed();
        let stats = shared.stats();
        Self {
            tally: stats.tally,
            stats,
            unflushed,
            failed,
            failed_discarded,
            left_behind,
            close_errors: ledger.take_close_errors(),
        }
    }

    pub(super) fn in_child(flushers: usize, enqueued: u64) -> Self {
        let stats = Stats { tally: in_parent(enqueued), ..Stats::default() };
        let left = |index| LeftBehind { flusher: Flusher { index }, stuck: Stuck::Forked };
        Self {
            tally: stats.tally,
            stats,
            unflushed: Vec::new(),
            failed: Vec::new(),
            failed_discarded: 0,
            left_behind: (0..flushers).map(left).collect(),
            close_errors: Vec::new(),
        }
    }

    /// Whether every item was flushed, every flusher came back and every sink closed without an
    /// error.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.tally.flushed_ok == self.tally.enqueued
            && self.left_behind.is_empty()
            && self.close_errors.is_empty()
    }
}

impl<T, M: Mode<T>> Batcher<T, M> {
    pub(super) fn finish(&mut self, deadline: Duration) -> Shutdown<T> {
        let here = self.this_flusher();
        self.finish_from(deadline, here)
    }

    /// Called for the flusher `here`, if it was one of this engine's that asked for it.
    pub(super) fn finish_from(&mut self, deadline: Duration, here: Option<Seat>) -> Shutdown<T> {
        self.finished = true;
        if self.shared.forked() {
            return self.forked();
        }
        let shared = Arc::clone(&self.shared);
        let (ledger, clock) = (&shared.ledger, &shared.any().clock);
        let until = clock.now().checked_add(deadline);
        ledger.deadline.set(until);
        shared.close();
        let in_time = ledger.wait_ended(until, here);
        ledger.unwatch();
        // A flusher cannot wait for itself.
        if !in_time || here.is_some() {
            ledger.stop();
            shared.stop();
            shared.give_up();
            if here.is_some() {
                self.leave_behind(here);
            }
        }
        // A write that is just about to end should not count as unknown, and flushers without one
        // hand back what they hold.
        let give_up = clock.now() + STOP_GRACE;
        ledger.wait_ended(Some(give_up), None);
        self.leave_behind(None);
        let left = ledger.left();
        self.join(give_up);
        shared.hand_back_waiting();
        let unflushed = self.take_unflushed(give_up);
        let stuck = left.iter().filter_map(|(flusher, at)| stuck(*flusher, *at));
        let mut report = Shutdown::of(&shared, unflushed, stuck.collect());
        if shared.dead.as_ref().is_some_and(DeadLetters::is_open) {
            let flusher = left.first().map_or(Flusher { index: 0 }, |(flusher, _)| *flusher);
            let error =
                WriteError::transient("the dead-letter sink is open: a flusher is left behind");
            report.close_errors.push((flusher, error));
        }
        report
    }

    /// Gives up on all flushers, or on one, and tells who waits for the items that they are writing.
    fn leave_behind(&self, which: Option<Seat>) {
        let left = self.shared.ledger.leave_behind(which);
        left.into_iter().for_each(|left| self.shared.tell_left(left));
    }

    /// What there is to say in a child process, where every lock may be held by a thread that is
    /// not there.
    fn forked(&mut self) -> Shutdown<T> {
        mem::forget((self.threads.clone(), self.watchdog.take())); // of the parent
        Shutdown::in_child(self.flushers, self.shared.pushed())
    }

    /// In a child process: what was added is in flight, in the parent.
    pub(super) fn forked_tally(&self) -> Tally {
        in_parent(self.shared.pushed())
    }

    /// Where this thread sits, if it is a flusher of this engine.
    pub(super) fn this_flusher(&self) -> Option<Seat> {
        self.threads.seat(thread::current().id())
    }

    /// Joins the threads that have ended; the others are left to themselves: those left behind, and
    /// any that is held up by the destructor of a thread-local, or by a waker.
    fn join(&mut self, give_up: Instant) {
        let now = || self.shared.any().clock.now();
        let ended = |seat| self.shared.ledger.has_ended(seat);
        let flushers = self.threads.take().into_iter().filter(|(seat, _)| ended(*seat));
        let flushers = flushers.map(|(_, thread)| thread);
        for thread in self.watchdog.take().into_iter().chain(flushers) {
            while !thread.is_finished() && now() < give_up {
                thread::yield_now();
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }

    /// What was not written: batches handed back, and what is in no batch.
    fn take_unflushed(&self, give_up: Instant) -> Vec<T> {
        let mut items = Vec::new();
        for shard in &self.shared.shards {
            take_rest(shard, &mut items, give_up);
        }
        // Batches are older than what was not in one yet.
        let mut unflushed = self.shared.ledger.take_handed_back();
        unflushed.append(&mut items);
        unflushed
    }
}

/// What is in no batch: the forming one, and the ring.
fn take_rest<T, M: Mode<T>>(shard: &Shard<T, M>, items: &mut Vec<T>, give_up: Instant) {
    loop {
        // Not all is out while a producer is between claiming its slot and publishing.
        let lease = try_lock(&shard.lease);
        if lease.is_some_and(|mut lease| shard.take_rest(&mut lease, items)) {
            return;
        }
        if shard.clock.now() >= give_up {
            shard.take_queued(items); // a flusher hangs in the weight function
            return;
        }
        sleep(Duration::from_millis(1));
    }
}

fn stuck(flusher: Flusher, at: Activity) -> Option<LeftBehind> {
    let stuck = match at {
        Activity::Writing(Writing { batch, items, .. }) => Stuck::Writing { batch, items },
        Activity::Reporting(Writing { batch, .. }) => Stuck::Reporting { batch },
        Activity::Closing => Stuck::Closing,
        Activity::Collecting => Stuck::Collecting,
        Activity::Opening => Stuck::Opening,
        Activity::Ended => return None,
    };
    Some(LeftBehind { flusher, stuck })
}
