//! The ledger: each item's fate, counted per batch under one lock, so that every reading of it adds
//! up.

mod barriers;
mod counts;
mod figures;
mod frontier;
mod slots;
mod state;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::time::Instant;

pub use barriers::Resolution;
use barriers::Task;
use counts::Counts;
use frontier::Frontier;
use slots::SlotState;
pub use slots::{Activity, Hung, Left, Seat, Slot, Writing};

use super::FailedItem;
use super::classify::Verdict;
use super::gate::{Gate, Held, Load, Permit};
use super::permit::BreakerState;
use super::retries::{Kind, Retries, Waiting};
use super::shard::earlier;
use super::work::{Place, Work};
use crate::batch::{Batch, BatchId};
use crate::clock::{Clock, Due};
use crate::config::OnFailure;
use crate::mode::{Mode, Plain, Tag};
use crate::sink::{Flusher, WriteError};
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, lock, mutated};
use crate::telemetry::{Cause, Counter};

/// What the flushers of an engine have done.
pub struct Ledger<T, M: Mode<T> = Plain> {
    state: Mutex<State<T, M>>,
    /// A position was resolved, or a flusher has ended.
    changed: Condvar,
    /// Nobody is to be left behind any more.
    watch: Condvar,
    /// When shutdown gives up, for the sinks to see.
    pub deadline: Due,
    /// Adds that gave the item back because the queue was full.
    pub rejected: Counter,
    /// Batches that a flusher of another shard has taken.
    pub stolen: Counter,
    /// Items that went to another ring because that of their home was full.
    pub overflowed: Counter,
    /// Works that wait, for a look without the lock. Who has seen an alarm sees what it was about.
    waiting: AtomicU64,
    /// Whether a write needs a permit.
    gated: bool,
    clock: Clock,
    /// Writes that a flusher may have under way at a time.
    width: usize,
}

struct State<T, M: Mode<T>> {
    flushed_ok: u64,
    flushed_fail: u64,
    unknown: u64,
    evicted: u64,
    expired: u64,
    /// One for each shard.
    frontiers: Vec<Frontier>,
    /// Batches that were not settled with their first write, by number.
    open: HashMap<u64, Open>,
    retries: Retries<T, M>,
    gate: Gate,
    order: OnFailure,
    /// A flusher waits with fresh batches for works that wait, maybe of another shard; it looks
    /// again after the next write.
    held_up: bool,
    /// What kept the last due work from being written.
    kept: Cause,
    /// Those of one flusher's first thread side by side, in the order of flushers; then those of
    /// threads that took the place of others.
    slots: Vec<SlotState<T, M>>,
    unwatched: bool,
    /// Start no more writes: batches are handed back.
    stopping: bool,
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
    /// Shards and positions of items that were evicted and are being told of. Few: one for each
    /// thread that evicts.
    telling: Vec<(usize, u64)>,
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

/// What to do besides collecting fresh items.
#[allow(clippy::large_enum_variant)] // moved once a batch; a box would be an allocation
pub enum Agenda<T, M: Mode<T>> {
    /// Write this, with this permit. `alarm`: others may go on meanwhile.
    Take { work: Work<T, M>, permit: Permit, alarm: bool },
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

/// What [`Ledger::begin`] says.
pub enum Begun<T, M: Mode<T>> {
    /// Write it. These are its spoiled items.
    Write(Vec<T>),
    /// It is too late to write: the items were handed back, and these are their tags.
    TooLate(M::Tags, Vec<Tag<T>>),
}

/// A batch whose fates are counted.
pub struct Settled<T, M: Mode<T>> {
    pub tags: M::Tags,
    /// Of the items that the weight function panicked on.
    pub spoiled: Vec<Tag<T>>,
    /// Something has changed that a sleeping flusher must know.
    pub alarm: bool,
    /// Somebody is to be told before [`Ledger::reported`].
    pub report: bool,
    /// The breaker has come into this state.
    pub breaker: Option<BreakerState>,
    /// The engine is to stop here.
    pub halt: bool,
}

impl<T, M: Mode<T>> Ledger<T, M> {
    pub fn new(
        flushers: usize,
        queue_depth: usize,
        failed_kept: usize,
        retries: Retries<T, M>,
        gate: Gate,
        clock: Clock,
    ) -> Self {
        let (gated, order, now) = (gate.is_any(), retries.order(), clock.now());
        let state = State {
            flushed_ok: 0,
            flushed_fail: 0,
            unknown: 0,
            evicted: 0,
            expired: 0,
            frontiers: vec![Frontier::with_capacity(flushers + 1)],
            open: HashMap::new(),
            retries,
            gate,
            order,
            held_up: false,
            kept: Cause::Throttle,
            slots: slots_of(flushers, 1, now),
            unwatched: false,
            stopping: false,
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
            watch: Condvar::new(),
            deadline: Due::new(now),
            rejected: Counter::new(0),
            stolen: Counter::new(0),
            overflowed: Counter::new(0),
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
        state.slots = slots_of(state.slots.len(), width, self.clock.now());
        state.frontiers = vec![Frontier::with_capacity(state.slots.len() + 1)];
        drop(state);
        self.width = width;
        self
    }

    /// The same for so many shards.
    #[must_use]
    pub fn with_shards(self, shards: usize) -> Self {
        let mut state = lock(&self.state);
        let ranges = state.slots.len() + 1;
        state.frontiers = (0..shards).map(|_| Frontier::with_capacity(ranges)).collect();
        drop(state);
        self
    }

    #[cfg(test)]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A permit for a fresh batch.
    pub fn permit(&self, now: Instant, load: Load) -> Result<Permit, Held> {
        if self.gated { lock(&self.state).gate.take(now, load) } else { Ok(Permit::Write(None)) }
    }

    /// What a flusher of that shard is to do besides collecting.
    pub fn agenda(&self, shard: usize) -> Agenda<T, M> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Agenda::Nothing;
        }
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let mut agenda = state.agenda(shard, now);
        if let Agenda::Take { alarm, .. } = &mut agenda
            && state.held_up
            && state.lets_fresh_pass()
        {
            (*alarm, state.held_up) = (true, false);
        }
        self.waiting.store(state.retries.len() as u64, Ordering::Relaxed);
        agenda
    }

    /// When there is something of the first shard to write next, if fresh items are ready at that
    /// time.
    pub fn next_due(&self, fresh: Option<Instant>) -> Option<Instant> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        if state.stopping {
            return None;
        }
        let retry_at = state.gate.retry_at(now);
        let behind = !state.retries.is_empty() && !state.lets_fresh_pass();
        let due = earlier(fresh.filter(|_| !behind), state.retries.next_due(0, retry_at));
        let due = match state.gate.look(now) {
            Ok(()) => due,
            Err(held) => held.until.and_then(|at| due.map(|due| due.max(at))),
        };
        earlier(due, state.retries.next_hopeless(0))
    }

    /// A flusher is about to write what is left of a work after `expired` items were taken out.
    pub fn begin(
        &self,
        slot: Slot,
        work: &mut Work<T, M>,
        permit: Permit,
        expired: u64,
        now: Instant,
    ) -> Begun<T, M> {
        let (items, place) = (work.count(), work.place());
        let fresh = work.is_fresh() && !work.past.parked;
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
            state.gate.returned(permit, fresh);
            state.handed_back.push((place, items));
            return Begun::TooLate(tags, spoiled_tags);
        }
        let batch = &work.batch;
        if batch.is_empty() {
            state.gate.returned(permit, fresh);
        }
        let permit = if batch.is_empty() { Permit::Unneeded } else { permit };
        let (shard, position, opened, end) = (batch.shard, batch.position, batch.opened, work.end);
        let (batch, reason) = (batch.id, batch.reason);
        let fresh = work.is_fresh().then_some(reason).filter(|_| items > 0);
        let writing = Writing { batch, items, shard, position, end, opened, permit, fresh };
        let at = state.slot(slot);
        (at.at, at.since) = (Activity::Writing(writing), now);
        (at.tags, at.spoiled) = (tags, spoiled_tags);
        if mutated("resolve_at_begin") {
            state.frontiers[shard].resolve(position, end);
            self.changed(state);
        }
        Begun::Write(spoiled)
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
        let at = state.slot(slot);
        let writing = *at.writing()?;
        let (mut tags, spoiled) = (mem::take(&mut at.tags), mem::take(&mut at.spoiled));
        at.since = now;
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
        let held_up = mem::take(&mut state.held_up);
        let unblocked = state.gate.unblocked() || breaker.is_some() || held_up;
        let alarm =
            others && !mutated("no_alarm_again") || unblocked && !mutated("no_alarm_unblocked");
        let halt = state.order == OnFailure::Halt && !verdict.lost.is_empty();
        state.stopping |= halt;
        let report = M::TRACKED || tells && !verdict.lost.is_empty();
        if report {
            state.slot(slot).at = Activity::Reporting(writing);
        } else {
            if !verdict.lost.is_empty() {
                verdict.kept_out = verdict.lost.drain(..).map(|lost| lost.failed).collect();
                state.keep(&mut verdict.kept_out);
            }
            state.slot(slot).at = Activity::Collecting;
            state.finish(&writing);
            self.changed(state);
        }
        Some(Settled { tags, spoiled, alarm, report, breaker, halt })
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

    /// Everyone was told of a batch's fates; `failed` are the items that nobody took, `panics` of
    /// the calls panicked. False if the flusher was left behind meanwhile.
    pub fn reported(&self, slot: Slot, failed: &mut Vec<FailedItem<T>>, panics: u64) -> bool {
        let mut state = lock(&self.state);
        state.keep(failed);
        state.counts.callback_panics += panics;
        let at = state.slot(slot);
        let Activity::Reporting(writing) = at.at else { return false };
        at.at = Activity::Collecting;
        let left = at.left;
        if !left {
            state.finish(&writing);
        }
        self.changed(state);
        !left
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

    /// From now on no write starts.
    pub fn stop(&self) {
        lock(&self.state).stopping = true;
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
}

/// Slots of so many flushers.
fn slots_of<T, M: Mode<T>>(flushers: usize, width: usize, now: Instant) -> Vec<SlotState<T, M>> {
    let slots = (0..flushers * width).map(|slot| Flusher { index: slot / width });
    slots.map(|flusher| SlotState::new(flusher, now)).collect()
}
