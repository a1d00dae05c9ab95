//! The ledger: each item's fate, counted per batch under one lock, so that every reading of it adds
//! up.

use std::collections::VecDeque;
use std::mem;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::FailedItem;
use super::node::Node;
use super::write::Verdict;
use crate::batch::{Batch, BatchId};
use crate::clock::Clock;
use crate::collect::Formed;
use crate::guard::guarded;
use crate::mode::{Mode, Plain, Tag};
use crate::ring::PopError;
use crate::sink::{Flusher, WriteError};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, mutated, wait, wait_timeout};
use crate::telemetry::{Counter, Distribution, Drops, FlushReasons, Stats, Tally};
use crate::wait::Budget;

/// What the flushers of an engine have done.
pub struct Ledger<T, M: Mode<T> = Plain> {
    state: Mutex<State<T, M>>,
    /// A position was resolved, or a flusher has ended.
    changed: Condvar,
    /// Adds that gave the item back because the queue was full.
    pub rejected: Counter,
    clock: Clock,
}

struct State<T, M: Mode<T>> {
    flushed_ok: u64,
    flushed_fail: u64,
    unknown: u64,
    evicted: u64,
    expired: u64,
    frontier: Frontier,
    flushers: Vec<Activity>,
    /// Tags of the batch that each flusher is writing, and of its spoiled items: whoever settles
    /// the batch takes them.
    written: Vec<(M::Tags, Vec<Tag<T>>)>,
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
    /// Tasks that wait for a position to be resolved.
    tasks: Vec<Task>,
    last_task: u64,
    /// Between leaving the ring and being told of.
    evicting: Vec<M::Entry>,
    /// Positions of items that were evicted and are being told of. Few: one for each thread that
    /// evicts.
    telling: Vec<u64>,
    counts: Counts,
}

struct Task {
    number: u64,
    position: u64,
    waker: Waker,
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
    Writing { batch: BatchId, items: u64, position: u64, end: u64, opened: Instant },
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

/// What [`Ledger::begin`] says.
pub enum Begun<T, M: Mode<T>> {
    /// Write it. Shutdown gives up at that time, if it is known.
    Write(Batch<T>, Vec<T>, Option<Instant>),
    /// It is too late to write: the items were handed back, and these are their tags.
    TooLate(M::Tags, Vec<Tag<T>>),
}

/// Positions whose items have met their fate, though batches end out of order.
#[derive(Default)]
struct Frontier {
    /// Every item before this position has met its fate.
    resolved: u64,
    /// Ranges beyond it, ascending and apart. Few: one between any two batches under way.
    early: Vec<(u64, u64)>,
}

impl Frontier {
    /// A range may be told twice: a batch covers positions that were evicted from its middle.
    fn resolve(&mut self, start: u64, end: u64) {
        if mutated("any_is_resolved") {
            self.resolved = self.resolved.max(end);
            return;
        }
        if start > self.resolved {
            // Joined with every range that it touches.
            let from = self.early.partition_point(|range| range.1 < start);
            let to = self.early.partition_point(|range| range.0 <= end);
            let (mut start, mut end) = (start, end);
            if let [first, .., last] | [first @ last] = &self.early[from..to] {
                (start, end) = (start.min(first.0), end.max(last.1));
            }
            self.early.splice(from..to, [(start, end)]);
            return;
        }
        self.resolved = self.resolved.max(end);
        let reached = self.early.partition_point(|range| range.0 <= self.resolved);
        for (_, end) in self.early.drain(..reached) {
            self.resolved = self.resolved.max(end);
        }
    }
}

/// A batch whose fates are counted.
pub struct Settled<T, M: Mode<T>> {
    pub tags: M::Tags,
    /// Of the items that the weight function panicked on.
    pub spoiled: Vec<Tag<T>>,
    /// For [`Ledger::reported`], if there is something to report.
    pub positions: (u64, u64),
}

/// Flushers that were left behind, and the tags of the batches they were writing.
type Left<T, M> = (Vec<(Flusher, Activity)>, Vec<(BatchId, TagsOf<T, M>, Vec<Tag<T>>)>);
type TagsOf<T, M> = <M as crate::mode::Carry<T>>::Tags;

impl<T, M: Mode<T>> Ledger<T, M> {
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
            evicted: 0,
            expired: 0,
            frontier: Frontier { resolved: 0, early: Vec::with_capacity(flushers + 1) },
            flushers: vec![Activity::Collecting; flushers],
            written: (0..flushers).map(|_| Default::default()).collect(),
            stopping: false,
            deadline: None,
            failed: VecDeque::new(),
            failed_kept,
            failed_discarded: 0,
            handed_back: Vec::new(),
            close_errors: Vec::new(),
            waiting: 0,
            tasks: Vec::new(),
            last_task: 0,
            evicting: Vec::new(),
            telling: Vec::new(),
            counts,
        };
        let rejected = Counter::new(0);
        Self { state: Mutex::new(state), changed: Condvar::new(), rejected, clock }
    }

    /// A flusher is about to write what is left of a batch after `expired` items were taken out.
    pub fn begin(&self, flusher: Flusher, formed: Formed<T, M>, expired: u64) -> Begun<T, M> {
        let items = formed.count();
        let Formed { mut batch, tags, spoiled, end } = formed;
        let (spoiled, spoiled_tags): (Vec<T>, Vec<Tag<T>>) = spoiled.into_iter().unzip();
        let mut state = lock(&self.state);
        state.expired += expired;
        if state.stopping && !mutated("begin_after_stop") {
            let mut items = mem::take(&mut batch.items);
            items.extend(spoiled);
            state.handed_back.push((batch.position, items));
            return Begun::TooLate(tags, spoiled_tags);
        }
        let (position, opened) = (batch.position, batch.opened);
        state.flushers[flusher.index] =
            Activity::Writing { batch: batch.id, items, position, end, opened };
        state.written[flusher.index] = (tags, spoiled_tags);
        let deadline = state.deadline;
        if mutated("resolve_at_begin") {
            state.frontier.resolve(position, end);
            self.changed(state);
        }
        Begun::Write(batch, spoiled, deadline)
    }

    /// Counts a batch's fates, and returns the tags of its items. `None` if the flusher was left
    /// behind meanwhile: then they were counted already.
    ///
    /// With something to `report`, flush barriers go on waiting until
    /// [`reported`](Self::reported).
    pub fn settle(
        &self,
        flusher: Flusher,
        batch: &Batch<T>,
        verdict: &mut Verdict<T>,
        report: bool,
    ) -> Option<Settled<T, M>> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let Activity::Writing { items, position, end, .. } = state.flushers[flusher.index] else {
            return None;
        };
        state.flushed_ok += items - verdict.fail - verdict.unknown;
        state.flushed_fail += verdict.fail;
        state.unknown += verdict.unknown;
        state.counts.record(batch, items, verdict, now);
        state.counts.callback_panics += verdict.spoiled;
        let (tags, spoiled) = mem::take(&mut state.written[flusher.index]);
        if report {
            state.flushers[flusher.index] = Activity::Reporting { batch: batch.id };
        } else {
            state.keep(&mut verdict.failed);
            state.flushers[flusher.index] = Activity::Collecting;
            state.frontier.resolve(position, end);
            self.changed(state);
        }
        Some(Settled { tags, spoiled, positions: (position, end) })
    }

    /// Whether the flusher was left behind.
    pub fn is_left_behind(&self, flusher: Flusher) -> bool {
        lock(&self.state).flushers[flusher.index] == Activity::LeftBehind
    }

    /// Everyone was told of a batch's fates; `failed` are the items that nobody took, `panics` of
    /// the calls panicked.
    pub fn reported(
        &self,
        flusher: Flusher,
        (position, end): (u64, u64),
        failed: &mut Vec<FailedItem<T>>,
        panics: u64,
    ) {
        let mut state = lock(&self.state);
        state.keep(failed);
        state.counts.callback_panics += panics;
        if let Activity::Reporting { .. } = state.flushers[flusher.index] {
            state.flushers[flusher.index] = Activity::Collecting;
        }
        state.frontier.resolve(position, end);
        self.changed(state);
    }

    /// Takes the oldest item out of the ring and counts it as dropped, in one step: no flush
    /// barrier is passed by an item that is between the two.
    ///
    /// With somebody to `tell`, barriers at positions after the one returned go on waiting until
    /// [`told`](Self::told).
    pub fn evict(&self, node: &Node<T, M>, tell: bool) -> Result<(u64, T, Tag<T>), PopError> {
        if mutated("evict_outside_the_lock") {
            let mut out = Vec::with_capacity(1);
            let run = node.ring.pop_run(&mut out, 1)?;
            let entry = out.pop().ok_or(PopError::Empty)?;
            let mut state = lock(&self.state);
            state.evicted += 1;
            state.frontier.resolve(run.position, run.position + 1);
            self.changed(state);
            let (item, tag) = M::split(entry);
            return Ok((run.position, item, tag));
        }
        let mut state = lock(&self.state);
        let run = node.ring.pop_run(&mut state.evicting, 1)?;
        let entry = state.evicting.pop().ok_or(PopError::Empty)?;
        state.evicted += 1;
        if !mutated("evict_unresolved") {
            state.frontier.resolve(run.position, run.position + 1);
        }
        if tell {
            state.telling.push(run.position);
            drop(state); // no barrier has got past it
        } else {
            self.changed(state);
        }
        let (item, tag) = M::split(entry);
        Ok((run.position, item, tag))
    }

    /// Whoever was to know of an evicted item was told; `panics` of the calls panicked.
    pub fn told(&self, position: u64, panics: u64) {
        let mut state = lock(&self.state);
        state.telling.retain(|telling| *telling != position);
        state.counts.callback_panics += panics;
        self.changed(state);
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
        drop(self.leave_behind(|which, activity| {
            which == flusher && matches!(activity, Activity::Writing { .. })
        }));
        let mut state = lock(&self.state);
        state.close_errors.extend(close_error.map(|error| (flusher, error)));
        if state.flushers[flusher.index] != Activity::LeftBehind {
            state.flushers[flusher.index] = Activity::Ended;
        }
        self.changed(state);
    }

    /// Waits until every item before `position` has met its fate.
    pub fn wait_resolved(&self, position: u64, timeout: Duration) -> Resolution {
        let until = self.clock.now().checked_add(timeout);
        let resolution = self.wait_for(until, |state| state.resolution(position));
        resolution.unwrap_or(Resolution::TimedOut)
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

    /// Waits, as a task, until every item before `position` has met its fate. `task` is its number
    /// between polls; one that is not polled again must [`forget`](Self::forget) it.
    pub fn poll_resolved(
        &self,
        position: u64,
        task: &mut Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<Resolution> {
        let waker = cx.waker().clone(); // the caller's code: not under the lock
        let mut state = lock(&self.state);
        let old = task.take().and_then(|number| state.take_task(number));
        let resolution = state.resolution(position);
        if resolution.is_none() {
            state.last_task += 1;
            *task = Some(state.last_task);
            let number = state.last_task;
            state.tasks.push(Task { number, position, waker });
        }
        drop(state);
        drop(old);
        resolution.map_or(Poll::Pending, Poll::Ready)
    }

    /// Forgets a task that waits no longer.
    pub fn forget(&self, task: u64) {
        let waker = lock(&self.state).take_task(task);
        drop(waker);
    }

    /// Gives up on the flushers that `which` selects; the items of a write under way become
    /// `unknown`. Returns what each was at, and the tags of those items.
    pub fn leave_behind(&self, which: impl Fn(Flusher, Activity) -> bool) -> Left<T, M> {
        let mut state = lock(&self.state);
        let (mut left, mut tags) = (Vec::new(), Vec::new());
        for index in 0..state.flushers.len() {
            let (flusher, activity) = (Flusher { index }, state.flushers[index]);
            let gone = matches!(activity, Activity::Ended | Activity::LeftBehind);
            if gone || !which(flusher, activity) {
                continue;
            }
            if let Activity::Writing { batch, items, position, end, .. } = activity {
                state.unknown += items;
                state.frontier.resolve(position, end);
                let (written, spoiled) = mem::take(&mut state.written[index]);
                tags.push((batch, written, spoiled));
            }
            if !mutated("left_is_still_writing") {
                state.flushers[index] = Activity::LeftBehind;
            }
            left.push((flusher, activity));
        }
        self.changed(state);
        (left, tags)
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

    pub fn tally(&self, node: &Node<T, M>) -> Tally {
        let newest = node.newest.get();
        if mutated("count_before_lock") {
            let enqueued = node.ring.pushed();
            return lock(&self.state).tally_of(enqueued, newest);
        }
        lock(&self.state).tally(node, newest)
    }

    /// Everything, of one moment.
    pub fn stats(&self, node: &Node<T, M>) -> Stats {
        let state = lock(&self.state);
        let queue_depth = node.ring.len() as u64; // before the tally: what is queued is in flight
        let newest = node.newest.get();
        let tally = state.tally(node, newest);
        let drops = Drops::new(newest, state.evicted, state.expired);
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
            queue_bytes: node.admission.budget.as_ref().map_or(0, Budget::used),
            waiting_producers: node.room.len(),
            drops,
            rejected: self.rejected.get(),
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
        mut look: impl FnMut(&State<T, M>) -> Option<R>,
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

    /// Lets go of the lock and wakes whoever waits for a change.
    fn changed(&self, mut state: MutexGuard<'_, State<T, M>>) {
        let tasks = if state.tasks.is_empty() { Vec::new() } else { state.take_resolved() };
        let waiting = state.waiting > 0;
        drop(state);
        if mutated("settle_no_notify") {
            return;
        }
        if waiting {
            self.changed.notify_all();
        }
        for task in tasks {
            let _ = guarded(|| task.waker.wake()); // the caller's code: not under the lock
        }
    }
}

impl<T, M: Mode<T>> State<T, M> {
    /// Exact at this moment: fates are counted under the lock that is held, each after its item was
    /// enqueued, so the tail read now covers them all.
    fn tally(&self, node: &Node<T, M>, newest: u64) -> Tally {
        self.tally_of(node.ring.pushed(), newest)
    }

    fn tally_of(&self, pushed: u64, newest: u64) -> Tally {
        let dropped = self.evicted + self.expired;
        let met = self.flushed_ok + self.flushed_fail + self.unknown + dropped;
        Tally {
            enqueued: pushed + newest,
            flushed_ok: self.flushed_ok,
            flushed_fail: self.flushed_fail,
            dropped: dropped + newest,
            unknown: self.unknown,
            in_flight: pushed - met,
        }
    }

    fn take_task(&mut self, number: u64) -> Option<Waker> {
        let index = self.tasks.iter().position(|task| task.number == number)?;
        Some(self.tasks.swap_remove(index).waker)
    }

    /// The tasks that need wait no longer.
    fn take_resolved(&mut self) -> Vec<Task> {
        let (resolved, gone) = (self.frontier.resolved, self.all_gone());
        self.tasks.extract_if(.., |task| gone || task.position <= resolved).collect()
    }

    fn resolution(&self, position: u64) -> Option<Resolution> {
        let telling = self.telling.iter().any(|telling| *telling < position);
        if self.frontier.resolved >= position && !telling {
            Some(Resolution::Resolved)
        } else {
            self.all_gone().then_some(Resolution::Stopped)
        }
    }

    /// No add of any item in flight had returned before this moment.
    fn oldest(&self, node: &Node<T, M>, in_flight: u64) -> Option<Instant> {
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
