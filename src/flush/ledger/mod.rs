//! The ledger: each item's fate, counted per batch under one lock, so that every reading of it adds
//! up.

mod counts;
mod frontier;
mod state;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ops::Range;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use counts::Counts;
use frontier::Frontier;

use super::FailedItem;
use super::classify::Verdict;
use super::gate::{Gate, Held, Load, Permit};
use super::node::{Node, earlier};
use super::permit::BreakerState;
use super::retries::{Kind, Retries, Waiting};
use super::work::{Place, Work};
use crate::batch::{Batch, BatchId};
use crate::clock::Clock;
use crate::config::OnFailure;
use crate::guard::guarded;
use crate::mode::{Mode, Plain, Tag};
use crate::ring::PopError;
use crate::sink::{Flusher, WriteError};
use crate::sync::{
    AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, mutated, wait, wait_timeout,
};
use crate::telemetry::{Cause, Counter, Drops, Stats, Tally};
use crate::wait::Budget;

/// What the flushers of an engine have done.
pub struct Ledger<T, M: Mode<T> = Plain> {
    state: Mutex<State<T, M>>,
    /// A position was resolved, or a flusher has ended.
    changed: Condvar,
    /// Adds that gave the item back because the queue was full.
    pub rejected: Counter,
    /// Works that wait, for a look without the lock. Who has seen an alarm sees what it was about.
    waiting: AtomicU64,
    /// Whether a write needs a permit.
    gated: bool,
    clock: Clock,
    /// Writes that a flusher may have under way at a time.
    width: usize,
}

/// A place for one write under way: each flusher has one, or more if its sink is async.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

struct State<T, M: Mode<T>> {
    flushed_ok: u64,
    flushed_fail: u64,
    unknown: u64,
    evicted: u64,
    expired: u64,
    frontier: Frontier,
    /// Batches that were not settled with their first write, by number.
    open: HashMap<u64, Open>,
    retries: Retries<T, M>,
    gate: Gate,
    order: OnFailure,
    /// What kept the last due work from being written.
    kept: Cause,
    /// What each slot is at; those of one flusher side by side.
    slots: Vec<Activity>,
    /// Tags of the batch that is written in each slot, and of its spoiled items: whoever settles
    /// the batch takes them.
    written: Vec<(M::Tags, Vec<Tag<T>>)>,
    /// Start no more writes: batches are handed back.
    stopping: bool,
    deadline: Option<Instant>,
    failed: VecDeque<FailedItem<T>>,
    failed_kept: usize,
    failed_discarded: u64,
    handed_back: Vec<(Place, Vec<T>)>,
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

/// A batch of which some items go on.
struct Open {
    /// Works that it is in now.
    works: usize,
    /// Parts that it was ever split into.
    parts: u32,
}

impl Open {
    fn next_part(&mut self, batch: BatchId) -> BatchId {
        self.parts += 1;
        batch.with_part(self.parts)
    }
}

struct Task {
    number: u64,
    position: u64,
    waker: Waker,
}

/// What a flusher is at.
#[derive(Clone, Copy, Debug)]
pub enum Activity {
    /// It waits for items, or for the lease.
    Collecting,
    /// It is inside the sink with this batch.
    Writing(Writing),
    /// The batch's fate is settled; it tells the caller's `on_failed`.
    Reporting { batch: BatchId },
    /// It closes its sink.
    Closing,
    /// It did not come back from one of these in time. Whatever it still does counts for nothing.
    LeftBehind,
    /// Its thread is through.
    Ended,
}

/// A write under way.
#[derive(Clone, Copy, Debug)]
pub struct Writing {
    pub batch: BatchId,
    pub items: u64,
    pub position: u64,
    pub end: u64,
    pub opened: Instant,
    pub permit: Permit,
}

/// What to do besides collecting fresh items.
#[allow(clippy::large_enum_variant)] // moved once a batch; a box would be an allocation
pub enum Agenda<T, M: Mode<T>> {
    /// Write this, with this permit.
    Take(Work<T, M>, Permit),
    /// Nothing until then. `fresh`: fresh items need not wait behind it.
    Wait { until: Option<Instant>, fresh: bool },
    /// Nothing at all.
    Nothing,
}

/// Items of a fresh batch that wait behind others of their keys.
pub struct Parked<T, M: Mode<T>> {
    /// The first one's place in the batch.
    pub first: usize,
    pub items: Vec<T>,
    pub tags: M::Tags,
    pub bytes: u64,
    pub keys: Vec<u64>,
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
    /// Write it. These are its spoiled items. Shutdown gives up at that time, if it is known.
    Write(Vec<T>, Option<Instant>),
    /// It is too late to write: the items were handed back, and these are their tags.
    TooLate(M::Tags, Vec<Tag<T>>),
}

/// A batch whose fates are counted.
pub struct Settled<T, M: Mode<T>> {
    pub tags: M::Tags,
    /// Of the items that the weight function panicked on.
    pub spoiled: Vec<Tag<T>>,
    /// For [`Ledger::reported`], if there is something to report.
    pub writing: Writing,
    /// Something has changed that a sleeping flusher must know.
    pub alarm: bool,
    /// Somebody is to be told before [`Ledger::reported`].
    pub report: bool,
    /// The breaker has come into this state.
    pub breaker: Option<BreakerState>,
    /// The engine is to stop here.
    pub halt: bool,
}

/// Flushers that were left behind, and the tags of the batches they were writing.
type Left<T, M> = (Vec<(Flusher, Activity)>, Vec<(BatchId, TagsOf<T, M>, Vec<Tag<T>>)>);
type TagsOf<T, M> = <M as crate::mode::Carry<T>>::Tags;

impl<T, M: Mode<T>> Ledger<T, M> {
    pub fn new(
        flushers: usize,
        queue_depth: usize,
        failed_kept: usize,
        retries: Retries<T, M>,
        gate: Gate,
        clock: Clock,
    ) -> Self {
        let (gated, order) = (gate.is_any(), retries.order());
        let state = State {
            flushed_ok: 0,
            flushed_fail: 0,
            unknown: 0,
            evicted: 0,
            expired: 0,
            frontier: Frontier::with_capacity(flushers + 1),
            open: HashMap::new(),
            retries,
            gate,
            order,
            kept: Cause::Throttle,
            slots: vec![Activity::Collecting; flushers],
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
            counts: Counts::new(queue_depth),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            rejected: Counter::new(0),
            waiting: AtomicU64::new(0),
            gated,
            clock,
            width: 1,
        }
    }

    /// The same for flushers that may each have so many writes under way.
    #[must_use]
    pub fn with_writes(mut self, width: usize) -> Self {
        let mut state = lock(&self.state);
        let slots = state.slots.len() * width;
        state.slots.resize(slots, Activity::Collecting);
        state.written.resize_with(slots, Default::default);
        state.frontier = Frontier::with_capacity(slots + 1);
        drop(state);
        self.width = width;
        self
    }

    /// One of a flusher's places for writes.
    pub fn slot(&self, flusher: Flusher, write: usize) -> Slot {
        debug_assert!(write < self.width, "no such place");
        Slot(flusher.index * self.width + write)
    }

    /// Whose place it is.
    pub fn flusher(&self, slot: Slot) -> Flusher {
        Flusher { index: slot.0 / self.width }
    }

    /// All of them.
    fn slots(&self, flusher: Flusher) -> Range<usize> {
        let first = flusher.index * self.width;
        first..first + self.width
    }

    /// A permit for a fresh batch.
    pub fn permit(&self, now: Instant, load: Load) -> Result<Permit, Held> {
        if self.gated { lock(&self.state).gate.take(now, load) } else { Ok(Permit::Write(None)) }
    }

    /// What is to be done besides collecting.
    pub fn agenda(&self) -> Agenda<T, M> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Agenda::Nothing;
        }
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let agenda = state.agenda(now);
        self.waiting.store(state.retries.len() as u64, Ordering::Relaxed);
        agenda
    }

    /// When there is something to write next, if fresh items are ready at that time.
    pub fn next_due(&self, fresh: Option<Instant>) -> Option<Instant> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let retry_at = state.gate.retry_at(now);
        let behind = !state.retries.is_empty() && !state.lets_fresh_pass();
        let due = earlier(fresh.filter(|_| !behind), state.retries.next_due(retry_at));
        let due = match state.gate.look(now) {
            Ok(()) => due,
            Err(held) => held.until.and_then(|at| due.map(|due| due.max(at))),
        };
        earlier(due, state.retries.next_hopeless())
    }

    /// A flusher is about to write what is left of a work after `expired` items were taken out.
    pub fn begin(
        &self,
        slot: Slot,
        work: &mut Work<T, M>,
        permit: Permit,
        expired: u64,
    ) -> Begun<T, M> {
        let items = work.count();
        let place = work.place();
        let (spoiled, spoiled_tags): (Vec<T>, Vec<Tag<T>>) =
            mem::take(&mut work.spoiled).into_iter().unzip();
        let tags = mem::take(&mut work.tags);
        let mut state = lock(&self.state);
        state.expired += expired;
        if expired > 0
            && let Some(open) = state.open.get_mut(&work.batch.id.get())
        {
            work.batch.id = open.next_part(work.batch.id); // these are other items than before
        }
        if state.stopping && !mutated("begin_after_stop") {
            let mut items = mem::take(&mut work.batch.items);
            items.extend(spoiled);
            state.gate.returned(permit);
            state.handed_back.push((place, items));
            return Begun::TooLate(tags, spoiled_tags);
        }
        let batch = &work.batch;
        if batch.is_empty() {
            state.gate.returned(permit);
        }
        let permit = if batch.is_empty() { Permit::Unneeded } else { permit };
        let (position, opened, end) = (batch.position, batch.opened, work.end);
        let batch = batch.id;
        let writing = Writing { batch, items, position, end, opened, permit };
        state.slots[slot.0] = Activity::Writing(writing);
        state.written[slot.0] = (tags, spoiled_tags);
        let deadline = state.deadline;
        if mutated("resolve_at_begin") {
            state.frontier.resolve(position, end);
            self.changed(state);
        }
        Begun::Write(spoiled, deadline)
    }

    /// Counts a write's fates, takes what goes on, and returns the tags of the others. `None` if
    /// the flusher was left behind meanwhile: then they were counted already.
    ///
    /// With something to report, flush barriers go on waiting until
    /// [`reported`](Self::reported): always where there are tags, and for failed items if somebody
    /// `tells` of them.
    pub fn settle(
        &self,
        slot: Slot,
        work: &Work<T, M>,
        verdict: &mut Verdict<T>,
        tells: bool,
    ) -> Option<Settled<T, M>> {
        let now = verdict.last.at;
        let mut state = lock(&self.state);
        let Activity::Writing(writing) = state.slots[slot.0] else { return None };
        let (mut tags, spoiled) = mem::take(&mut state.written[slot.0]);
        let others = state.slots.len() > self.width && !verdict.again.is_empty();
        let gone_on = state.take_again(work, verdict, &mut tags, now);
        if mutated("settle_in_two_steps") {
            drop(state);
            state = lock(&self.state);
        }
        self.waiting.store(state.retries.len() as u64, Ordering::Relaxed);
        let unknown = verdict.lost.iter().filter(|lost| lost.is_unknown()).count() as u64;
        let fail = verdict.lost.len() as u64 - unknown;
        state.flushed_ok += writing.items - gone_on - fail - unknown;
        state.flushed_fail += fail;
        state.unknown += unknown;
        state.counts.record(&work.batch, writing.items, &work.past, verdict, now);
        state.counts.callback_panics += spoiled.len() as u64;
        let breaker = state.gate.answered(now, writing.permit, Some(verdict.said()));
        let unblocked = state.gate.unblocked() || breaker.is_some();
        let alarm =
            others && !mutated("no_alarm_again") || unblocked && !mutated("no_alarm_unblocked");
        let halt = state.order == OnFailure::Halt && !verdict.lost.is_empty();
        state.stopping |= halt;
        let report = M::TRACKED || tells && !verdict.lost.is_empty();
        if report {
            state.slots[slot.0] = Activity::Reporting { batch: writing.batch };
        } else {
            if !verdict.lost.is_empty() {
                verdict.kept_out = verdict.lost.drain(..).map(|lost| lost.failed).collect();
                state.keep(&mut verdict.kept_out);
            }
            state.slots[slot.0] = Activity::Collecting;
            state.finish(&writing);
            self.changed(state);
        }
        Some(Settled { tags, spoiled, writing, alarm, report, breaker, halt })
    }

    /// Takes in items of a fresh batch whose keys are parked: they wait behind the others.
    pub fn park(&self, like: &Work<T, M>, parked: Parked<T, M>) {
        let Parked { first, items, tags, bytes, keys } = parked;
        let now = self.clock.now();
        let mut past = like.past.clone();
        past.parked = true;
        past.offset = u32::try_from(first).unwrap_or(u32::MAX);
        let mut state = lock(&self.state);
        let id = state.open_up(like.batch.id).next_part(like.batch.id);
        let batch = Batch { id, items, bytes, late: None, ..like.batch.emptied() };
        let work = Work { batch, tags, spoiled: Vec::new(), end: like.end, past };
        state.retries.insert(Waiting { work, kind: Kind::Parked, keys }, now);
        self.waiting.store(state.retries.len() as u64, Ordering::Relaxed);
    }

    /// For each key whether items of it wait; none once the engine stops.
    pub fn parked(&self, keys: &[u64]) -> Vec<bool> {
        let state = lock(&self.state);
        if state.stopping {
            return Vec::new();
        }
        keys.iter().map(|key| state.retries.parks(*key)).collect()
    }

    /// Whether anything waits to be written.
    pub fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes out whatever waits to be written, oldest first.
    pub fn take_waiting(&self) -> Vec<Work<T, M>> {
        let mut state = lock(&self.state);
        self.waiting.store(0, Ordering::Relaxed);
        state.retries.take_all()
    }

    /// These items may have been written, and nobody will write them again.
    pub fn lose_unknown(&self, mut failed: Vec<FailedItem<T>>) -> Vec<FailedItem<T>> {
        let mut state = lock(&self.state);
        state.unknown += failed.len() as u64;
        state.keep(&mut failed);
        failed
    }

    /// Nobody has written these items, and nobody will.
    pub fn hand_back(&self, place: Place, items: Vec<T>) {
        lock(&self.state).handed_back.push((place, items));
    }

    /// Whether the write in this slot was left behind.
    pub fn is_left_behind(&self, slot: Slot) -> bool {
        matches!(lock(&self.state).slots[slot.0], Activity::LeftBehind)
    }

    /// Everyone was told of a batch's fates; `failed` are the items that nobody took, `panics` of
    /// the calls panicked.
    pub fn reported(
        &self,
        slot: Slot,
        writing: &Writing,
        failed: &mut Vec<FailedItem<T>>,
        panics: u64,
    ) {
        let mut state = lock(&self.state);
        state.keep(failed);
        state.counts.callback_panics += panics;
        if let Activity::Reporting { .. } = state.slots[slot.0] {
            state.slots[slot.0] = Activity::Collecting;
        }
        state.finish(writing);
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

    /// What the dead-letter sink has taken, and what it has not.
    pub fn count_dead(&self, taken: u64, refused: u64) {
        let mut state = lock(&self.state);
        state.counts.dead_lettered += taken;
        state.counts.dead_letter_failures += refused;
    }

    pub fn count_callback_panics(&self, panics: u64) {
        lock(&self.state).counts.callback_panics += panics;
    }

    /// A flusher is about to close its sink.
    pub fn closing(&self, flusher: Flusher) {
        lock(&self.state).move_on(self.slots(flusher), Activity::Closing);
    }

    /// A flusher's thread is through. With a batch in hand it has died, by a defect: then it is
    /// left behind.
    pub fn ended(&self, flusher: Flusher, close_errors: Vec<WriteError>) {
        drop(self.leave_behind(|which, activity| {
            which == flusher && matches!(activity, Activity::Writing(_))
        }));
        let mut state = lock(&self.state);
        state.close_errors.extend(close_errors.into_iter().map(|error| (flusher, error)));
        state.move_on(self.slots(flusher), Activity::Ended);
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
                    || except.is_some_and(|flusher| self.slots(flusher).contains(&index))
            };
            state.slots.iter().enumerate().all(gone).then_some(())
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
    /// `unknown`. Returns what each was at, one entry for each write, and the tags of those items.
    pub fn leave_behind(&self, which: impl Fn(Flusher, Activity) -> bool) -> Left<T, M> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let (mut left, mut tags) = (Vec::new(), Vec::new());
        for index in 0..state.slots.len() {
            let (flusher, activity) = (Flusher { index: index / self.width }, state.slots[index]);
            let gone = matches!(activity, Activity::Ended | Activity::LeftBehind);
            if gone || !which(flusher, activity) {
                continue;
            }
            if let Activity::Writing(writing) = activity {
                state.unknown += writing.items;
                state.counts.hung += 1;
                state.gate.answered(now, writing.permit, None);
                state.finish(&writing);
                let (written, spoiled) = mem::take(&mut state.written[index]);
                tags.push((writing.batch, written, spoiled));
            }
            if !mutated("left_is_still_writing") {
                state.slots[index] = Activity::LeftBehind;
            }
            left.push((flusher, activity));
        }
        self.changed(state);
        if self.width > 1 {
            once_each(&mut left);
        }
        (left, tags)
    }

    /// Which flushers have ended in order.
    pub fn has_ended(&self, flusher: Flusher) -> bool {
        let state = lock(&self.state);
        state.slots[self.slots(flusher)].iter().all(|slot| matches!(slot, Activity::Ended))
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
        let mut state = lock(&self.state);
        let queue_depth = node.ring.len() as u64; // before the tally: what is queued is in flight
        let newest = node.newest.get();
        let tally = state.tally(node, newest);
        let drops = Drops::new(newest, state.evicted, state.expired);
        let now = self.clock.now();
        let oldest = state.oldest(node, tally.in_flight);
        let counts = state.counts.clone();
        let (breaker, writes_max) = (state.gate.state(now), state.gate.limit());
        let (retry_batches, retry_items) = (state.retries.len() as u64, state.retries.items());
        drop(state); // quantiles take a while
        Stats {
            tally,
            batches: counts.batches,
            writes: counts.writes,
            retries: counts.retries,
            splits: counts.splits,
            retry_batches,
            retry_items,
            retry_overflows: counts.overflows,
            breaker,
            writes_max,
            hung: counts.hung,
            dead_lettered: counts.dead_lettered,
            dead_letter_failures: counts.dead_letter_failures,
            queue_depth,
            queue_capacity: node.ring.capacity() as u64,
            oldest_age: oldest.map(|oldest| now.saturating_duration_since(oldest)),
            queue_bytes: node.admission.budget.as_ref().map_or(0, Budget::used),
            waiting_producers: node.room.len(),
            drops,
            rejected: self.rejected.get(),
            flush_reasons: counts.reasons,
            batch_size: counts.batch_size.summary(),
            flush_duration: counts.flush_duration.duration_summary(),
            batch_age: counts.batch_age.duration_summary(),
            timer_lateness: counts.timer_lateness.duration_summary(),
            phases: counts.phases.map(|phase| phase.duration_summary()),
            parks: node.parks.get(),
            stalls: node.stalls.get(),
            sink_panics: counts.sink_panics,
            callback_panics: counts.callback_panics,
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

/// Of a flusher with several places leaves the writes, or if it has none, one entry.
fn once_each(left: &mut Vec<(Flusher, Activity)>) {
    let writes = |at: &Activity| matches!(at, Activity::Writing(_) | Activity::Reporting { .. });
    let writing: Vec<Flusher> =
        left.iter().filter(|(_, at)| writes(at)).map(|(flusher, _)| *flusher).collect();
    left.retain(|(flusher, at)| writes(at) || !writing.contains(flusher));
    left.dedup_by(|one, other| one.0 == other.0 && !writes(&one.1));
}
