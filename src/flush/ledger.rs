//! The ledger: each item's fate, counted per batch under one lock, so that every reading of it adds
//! up.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use super::FailedItem;
use super::node::Node;
use super::write::Verdict;
use crate::batch::{Batch, BatchId};
use crate::clock::Clock;
use crate::sink::{Flusher, WriteError};
use crate::sync::{Condvar, Mutex, lock, mutated, wait, wait_timeout};
use crate::telemetry::{Distribution, FlushReasons, Stats, Tally};

/// What the flushers of an engine have done.
pub struct Ledger<T> {
    state: Mutex<State<T>>,
    /// A position was resolved, or a flusher has ended.
    changed: Condvar,
    clock: Clock,
}

struct State<T> {
    flushed_ok: u64,
    flushed_fail: u64,
    unknown: u64,
    frontier: Frontier,
    flushers: Vec<Activity>,
    /// Start no more writes: batches are handed back.
    stopping: bool,
    deadline: Option<Instant>,
    failed: VecDeque<FailedItem<T>>,
    failed_kept: usize,
    failed_discarded: u64,
    handed_back: Vec<(u64, Vec<T>)>,
    close_errors: Vec<(Flusher, WriteError)>,
    /// Callers that wait for `changed`.
    waiting: usize,
    counts: Counts,
}

struct Counts {
    batches: u64,
    reasons: FlushReasons,
    batch_size: Distribution,
    flush_duration: Distribution,
    batch_age: Distribution,
    timer_lateness: Distribution,
    sink_panics: u64,
    callback_panics: u64,
}

/// What a flusher is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It waits for items, or for the lease.
    Collecting,
    /// It is inside the sink with this batch.
    Writing { batch: BatchId, items: u64, position: u64, opened: Instant },
    /// The batch's fate is settled; it tells the caller's `on_failed`.
    Reporting { batch: BatchId },
    /// It closes its sink.
    Closing,
    /// It did not come back from one of these in time. Whatever it still does counts for nothing.
    LeftBehind,
    /// Its thread is through.
    Ended,
}

/// How waiting for a position ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Resolved,
    TimedOut,
    /// No flusher is left.
    Stopped,
}

/// Positions whose items have met their fate, though batches end out of order.
#[derive(Default)]
struct Frontier {
    /// Every item before this position has met its fate.
    resolved: u64,
    /// Ranges beyond it; never more than there are flushers.
    early: Vec<(u64, u64)>,
}

impl Frontier {
    fn resolve(&mut self, start: u64, end: u64) {
        if mutated("any_is_resolved") {
            self.resolved = self.resolved.max(end);
            return;
        }
        self.early.push((start, end));
        while let Some(next) = self.early.iter().position(|range| range.0 == self.resolved) {
            self.resolved = self.early.swap_remove(next).1;
        }
    }
}

impl<T> Ledger<T> {
    pub fn new(flushers: usize, queue_depth: usize, failed_kept: usize, clock: Clock) -> Self {
        let counts = Counts {
            batches: 0,
            reasons: FlushReasons::default(),
            batch_size: Distribution::of_counts(queue_depth as u64),
            flush_duration: Distribution::of_durations(),
            batch_age: Distribution::of_durations(),
            timer_lateness: Distribution::of_durations(),
            sink_panics: 0,
            callback_panics: 0,
        };
        let state = State {
            flushed_ok: 0,
            flushed_fail: 0,
            unknown: 0,
            frontier: Frontier { resolved: 0, early: Vec::with_capacity(flushers + 1) },
            flushers: vec![Activity::Collecting; flushers],
            stopping: false,
            deadline: None,
            failed: VecDeque::new(),
            failed_kept,
            failed_discarded: 0,
            handed_back: Vec::new(),
            close_errors: Vec::new(),
            waiting: 0,
            counts,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), clock }
    }

    /// A flusher is about to write; it learns when shutdown gives up on it, if that is known.
    /// `None`: it is too late to write, and the items were handed back.
    pub fn begin(
        &self,
        flusher: Flusher,
        mut batch: Batch<T>,
    ) -> Option<(Batch<T>, Option<Instant>)> {
        let mut state = lock(&self.state);
        if state.stopping && !mutated("begin_after_stop") {
            let mut items = mem::take(&mut batch.items);
            items.append(&mut batch.spoiled);
            state.handed_back.push((batch.position, items));
            return None;
        }
        state.flushers[flusher.index] = Activity::Writing {
            batch: batch.id,
            items: batch.positions(),
            position: batch.position,
            opened: batch.opened,
        };
        if mutated("resolve_at_begin") {
            state.frontier.resolve(batch.position, batch.position + batch.positions());
            self.notify(&state);
        }
        Some((batch, state.deadline))
    }

    /// Counts a batch's fates. False if the flusher was left behind meanwhile: then they were
    /// counted already.
    ///
    /// With failed items to `report`, flush barriers go on waiting until
    /// [`reported`](Self::reported).
    pub fn settle(
        &self,
        flusher: Flusher,
        batch: &Batch<T>,
        verdict: &mut Verdict<T>,
        report: bool,
    ) -> bool {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let state = &mut *state;
        let Activity::Writing { items, position, .. } = state.flushers[flusher.index] else {
            return false;
        };
        state.flushed_ok += items - verdict.fail - verdict.unknown;
        state.flushed_fail += verdict.fail;
        state.unknown += verdict.unknown;
        state.counts.record(batch, items, verdict, now);
        state.counts.callback_panics += verdict.spoiled;
        if report && !verdict.failed.is_empty() {
            state.flushers[flusher.index] = Activity::Reporting { batch: batch.id };
        } else {
            state.keep(&mut verdict.failed);
            state.flushers[flusher.index] = Activity::Collecting;
            state.frontier.resolve(position, position + items);
            self.notify(state);
        }
        true
    }

    /// The failed items of a batch were told; `panics` of the calls panicked.
    pub fn reported(&self, flusher: Flusher, batch: &Batch<T>, positions: u64, panics: u64) {
        let mut state = lock(&self.state);
        state.counts.callback_panics += panics;
        if let Activity::Reporting { .. } = state.flushers[flusher.index] {
            state.flushers[flusher.index] = Activity::Collecting;
        }
        state.frontier.resolve(batch.position, batch.position + positions);
        self.notify(&state);
    }

    pub fn count_callback_panics(&self, panics: u64) {
        lock(&self.state).counts.callback_panics += panics;
    }

    /// A flusher is about to close its sink.
    pub fn closing(&self, flusher: Flusher) {
        let mut state = lock(&self.state);
        if state.flushers[flusher.index] != Activity::LeftBehind {
            state.flushers[flusher.index] = Activity::Closing;
        }
    }

    /// A flusher's thread is through. With a batch in hand it has died, by a defect: then it is
    /// left behind.
    pub fn ended(&self, flusher: Flusher, close_error: Option<WriteError>) {
        self.leave_behind(|which, activity| {
            which == flusher && matches!(activity, Activity::Writing { .. })
        });
        let mut state = lock(&self.state);
        state.close_errors.extend(close_error.map(|error| (flusher, error)));
        if state.flushers[flusher.index] != Activity::LeftBehind {
            state.flushers[flusher.index] = Activity::Ended;
        }
        self.notify(&state);
    }

    /// Waits until every item before `position` has met its fate.
    pub fn wait_resolved(&self, position: u64, timeout: Duration) -> Resolution {
        let until = self.clock.now().checked_add(timeout);
        self.wait_for(until, |state| {
            if state.frontier.resolved >= position {
                Some(Resolution::Resolved)
            } else if state.all_gone() {
                Some(Resolution::Stopped)
            } else {
                None
            }
        })
        .unwrap_or(Resolution::TimedOut)
    }

    /// Sets the time at which shutdown gives up, for the sinks to see.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        lock(&self.state).deadline = deadline;
    }

    pub fn deadline(&self) -> Option<Instant> {
        lock(&self.state).deadline
    }

    /// Waits until every flusher has ended, but for those in `except`; false if the time came
    /// first.
    pub fn wait_ended(&self, until: Option<Instant>, except: Option<Flusher>) -> bool {
        self.wait_for(until, |state| {
            let gone = |(index, activity): (usize, &Activity)| {
                matches!(activity, Activity::Ended | Activity::LeftBehind)
                    || except.is_some_and(|flusher| flusher.index == index)
            };
            state.flushers.iter().enumerate().all(gone).then_some(())
        })
        .is_some()
    }

    /// From now on no write starts.
    pub fn stop(&self) {
        lock(&self.state).stopping = true;
    }

    /// Gives up on the flushers that `which` selects; the items of a write under way become
    /// `unknown`. Returns what each was at.
    pub fn leave_behind(
        &self,
        which: impl Fn(Flusher, Activity) -> bool,
    ) -> Vec<(Flusher, Activity)> {
        let mut state = lock(&self.state);
        let mut left = Vec::new();
        for index in 0..state.flushers.len() {
            let (flusher, activity) = (Flusher { index }, state.flushers[index]);
            let gone = matches!(activity, Activity::Ended | Activity::LeftBehind);
            if gone || !which(flusher, activity) {
                continue;
            }
            if let Activity::Writing { items, position, .. } = activity {
                state.unknown += items;
                state.frontier.resolve(position, position + items);
            }
            if !mutated("left_is_still_writing") {
                state.flushers[index] = Activity::LeftBehind;
            }
            left.push((flusher, activity));
        }
        self.notify(&state);
        left
    }

    /// Which flushers have ended in order.
    pub fn has_ended(&self, flusher: Flusher) -> bool {
        lock(&self.state).flushers[flusher.index] == Activity::Ended
    }

    /// Batches handed back because it was too late to write them, oldest first.
    pub fn take_handed_back(&self) -> Vec<T> {
        let mut batches = mem::take(&mut lock(&self.state).handed_back);
        batches.sort_by_key(|batch| batch.0);
        batches.into_iter().flat_map(|batch| batch.1).collect()
    }

    /// Failed items kept for the report, and how many more there were.
    pub fn take_failed(&self) -> (Vec<FailedItem<T>>, u64) {
        let mut state = lock(&self.state);
        (mem::take(&mut state.failed).into(), state.failed_discarded)
    }

    pub fn take_close_errors(&self) -> Vec<(Flusher, WriteError)> {
        mem::take(&mut lock(&self.state).close_errors)
    }

    pub fn tally(&self, node: &Node<T>) -> Tally {
        if mutated("count_before_lock") {
            let enqueued = node.ring.pushed();
            return lock(&self.state).tally_of(enqueued);
        }
        lock(&self.state).tally(node)
    }

    /// Everything, of one moment.
    pub fn stats(&self, node: &Node<T>) -> Stats {
        let state = lock(&self.state);
        let queue_depth = node.ring.len() as u64; // before the tally: what is queued is in flight
        let tally = state.tally(node);
        let now = self.clock.now();
        let oldest = state.oldest(node, tally.in_flight);
        let (reasons, batches) = (state.counts.reasons, state.counts.batches);
        let (sink_panics, callback_panics) =
            (state.counts.sink_panics, state.counts.callback_panics);
        let batch_size = state.counts.batch_size.clone();
        let flush_duration = state.counts.flush_duration.clone();
        let batch_age = state.counts.batch_age.clone();
        let timer_lateness = state.counts.timer_lateness.clone();
        drop(state); // quantiles take a while
        Stats {
            tally,
            batches,
            queue_depth,
            queue_capacity: node.ring.capacity() as u64,
            oldest_age: oldest.map(|oldest| now.saturating_duration_since(oldest)),
            waiting_producers: node.room.len(),
            flush_reasons: reasons,
            batch_size: batch_size.summary(),
            flush_duration: flush_duration.duration_summary(),
            batch_age: batch_age.duration_summary(),
            timer_lateness: timer_lateness.duration_summary(),
            parks: node.parks.get(),
            stalls: node.stalls.get(),
            sink_panics,
            callback_panics,
        }
    }

    fn wait_for<R>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&State<T>) -> Option<R>,
    ) -> Option<R> {
        let mut state = lock(&self.state);
        state.waiting += 1;
        let found = loop {
            if let Some(found) = look(&state) {
                break Some(found);
            }
            state = match until {
                None => wait(&self.changed, state),
                Some(until) => {
                    let left = until.saturating_duration_since(self.clock.now());
                    if left == Duration::ZERO {
                        break None;
                    }
                    wait_timeout(&self.changed, state, left)
                }
            };
        };
        state.waiting -= 1;
        found
    }

    fn notify(&self, state: &State<T>) {
        if state.waiting > 0 && !mutated("settle_no_notify") {
            self.changed.notify_all();
        }
    }
}

impl<T> State<T> {
    /// Exact at this moment: fates are counted under the lock that is held, each after its item was
    /// enqueued, so the tail read now covers them all.
    fn tally(&self, node: &Node<T>) -> Tally {
        self.tally_of(node.ring.pushed())
    }

    fn tally_of(&self, enqueued: u64) -> Tally {
        let met = self.flushed_ok + self.flushed_fail + self.unknown;
        Tally {
            enqueued,
            flushed_ok: self.flushed_ok,
            flushed_fail: self.flushed_fail,
            dropped: 0,
            unknown: self.unknown,
            in_flight: enqueued - met,
        }
    }

    /// No add of any item in flight had returned before this moment.
    fn oldest(&self, node: &Node<T>, in_flight: u64) -> Option<Instant> {
        let mut queued = in_flight;
        let mut oldest = None;
        for activity in &self.flushers {
            if let Activity::Writing { items, opened, .. } = *activity {
                queued -= items;
                oldest = oldest.into_iter().chain([opened]).min();
            }
        }
        let in_queue = node.start + Duration::from_nanos(node.oldest.get());
        oldest.into_iter().chain((queued > 0).then_some(in_queue)).min()
    }

    fn all_gone(&self) -> bool {
        let gone = |a: &Activity| matches!(a, Activity::Ended | Activity::LeftBehind);
        self.flushers.iter().all(gone)
    }

    fn keep(&mut self, failed: &mut Vec<FailedItem<T>>) {
        let room = self.failed_kept.saturating_sub(self.failed.len()).min(failed.len());
        self.failed_discarded += (failed.len() - room) as u64;
        self.failed.extend(failed.drain(..room));
    }
}

impl Counts {
    fn record<T>(&mut self, batch: &Batch<T>, items: u64, verdict: &Verdict<T>, now: Instant) {
        self.batches += 1;
        self.reasons.count(batch.reason);
        self.batch_size.record(items);
        self.flush_duration.record_duration(verdict.took);
        self.batch_age.record_duration(now.saturating_duration_since(batch.opened));
        if let Some(late) = batch.late {
            self.timer_lateness.record_duration(late);
        }
        self.sink_panics += u64::from(verdict.panicked);
    }
}
