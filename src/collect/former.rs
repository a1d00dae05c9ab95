//! The forming batch as a state machine.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::marks::Marks;
use crate::batch::{Batch, BatchId, FlushReason};
use crate::config::FlushWhen;
use crate::guard::guarded;
use crate::mode::{Mode, Plain, Tag};
use crate::ring::Run;
use crate::telemetry::{Cause, Phases};

/// Bytes of an item.
pub type Weight<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// What closes a batch. Checked before: sizes are at least 1.
#[derive(Clone, Debug)]
pub struct Triggers {
    /// At most the queue's depth, so that it can be reached.
    pub max_batch_size: usize,
    pub max_batch_bytes: Option<u64>,
    pub max_batch_delay: Option<Duration>,
    pub flush_when: FlushWhen,
}

/// What a flusher saw.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Read before `tail`.
    pub now: Instant,
    /// Positions claimed so far.
    pub tail: u64,
    pub closed: bool,
    /// Items before this position are to be flushed now.
    pub flush_to: u64,
    /// Items before this position hold bytes of the budget that somebody waits for.
    pub press_to: u64,
}

/// A closed batch, with what its sink does not see.
pub struct Formed<T, M: Mode<T> = Plain> {
    pub batch: Batch<T>,
    /// Of the batch's items, one each.
    pub tags: M::Tags,
    /// Items whose weight function panicked. They fail alone.
    pub spoiled: Vec<(T, Tag<T>)>,
    /// Every position from the batch's first one to before this one has its item here, or was
    /// evicted.
    pub end: u64,
    /// How the time until now was spent.
    pub phases: Phases,
}

impl<T, M: Mode<T>> Formed<T, M> {
    /// Its items, spoiled ones too.
    pub fn count(&self) -> u64 {
        (self.batch.items.len() + self.spoiled.len()) as u64
    }
}

/// Empty memory for the next batch.
pub struct Buffer<T, M: Mode<T>> {
    pub items: Vec<T>,
    pub tags: M::Tags,
}

impl<T, M: Mode<T>> Default for Buffer<T, M> {
    fn default() -> Self {
        Self { items: Vec::new(), tags: M::Tags::default() }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until the ring is claimed up to `position`, or the time has come, or there is
    /// news.
    Wait { position: u64, until: Option<Instant> },
    /// Take items out of the ring, up to this position, then ask again.
    Drain { up_to: u64 },
    /// Close the batch.
    Close(FlushReason),
    /// Closed, and nothing is left.
    Done,
}

/// The forming batch of a shard.
pub struct Former<T, M: Mode<T> = Plain> {
    triggers: Triggers,
    /// See [`teach`](Self::teach).
    taught: (u64, u64),
    weight: Option<Weight<T>>,
    marks: Marks,
    /// Which of how many shards it is.
    shard: (usize, usize),
    /// Batches closed so far.
    closed: u64,
    /// Position of the first item that is in no batch yet. The items from here on are, in this
    /// order, in `items` and `spoiled`, in `carry`, and in the ring from `next` on.
    first: u64,
    /// Position of the next item to drain. Positions between two items were evicted.
    next: u64,
    items: Vec<T>,
    /// A buffer is to have room for a full batch and so many items more before the first is in it;
    /// `None`: it grows.
    spare: Option<usize>,
    tags: M::Tags,
    bytes: u64,
    /// No more may go into this batch: the next item would be too many bytes.
    sealed: bool,
    /// Drained, and for a later batch; each with its position.
    carry: VecDeque<(u64, M::Entry)>,
    /// On their way from the ring to `carry`.
    fresh: Vec<M::Entry>,
    /// Items whose weight function panicked. They travel with the batch and fail alone.
    spoiled: Vec<(T, Tag<T>)>,
    /// Bytes of a typical item, to guess how many are missing.
    typical: u64,
    /// Why this batch is to be closed, and with how many items: settled once. What comes while they
    /// are drained is for the next batch, or under steady input an overdue batch would grow until
    /// it is full.
    cut: Option<(FlushReason, u64)>,
    stages: Stages,
}

/// When the forming batch has come to its stages.
#[derive(Default)]
struct Stages {
    /// A flusher turned to it.
    turned: Option<Instant>,
    /// It was ready to be written.
    ready: Option<Instant>,
    /// What it waits for since when.
    held: Option<(Cause, Instant)>,
    phases: Phases,
}

impl Stages {
    /// It may not be written yet.
    fn hold(&mut self, cause: Cause, now: Instant) {
        self.ready.get_or_insert(now);
        self.release(now);
        self.held = Some((cause, now));
    }

    fn release(&mut self, now: Instant) {
        if let Some((cause, since)) = self.held.take() {
            self.phases.add(cause, now.saturating_duration_since(since));
        }
    }

    /// The batch is closed: how its time was spent. The next one may have come already.
    fn close(&mut self, opened: Instant, now: Instant, next: bool) -> Phases {
        self.release(now);
        let turned = self.turned.unwrap_or(now).max(opened);
        let ready = self.ready.unwrap_or(now).max(turned);
        let mut phases = std::mem::take(&mut self.phases);
        phases.queued = turned.saturating_duration_since(opened);
        phases.forming = ready.saturating_duration_since(turned);
        *self = Self { turned: next.then_some(now), ..Self::default() };
        phases
    }
}

impl<T, M: Mode<T>> Former<T, M> {
    pub fn new(triggers: Triggers, weight: Option<Weight<T>>, now: Instant) -> Self {
        Self {
            triggers,
            taught: (u64::MAX, u64::MAX),
            weight,
            marks: Marks::new(now),
            shard: (0, 1),
            closed: 0,
            first: 0,
            next: 0,
            items: Vec::new(),
            spare: None,
            tags: M::Tags::default(),
            bytes: 0,
            sealed: false,
            carry: VecDeque::new(),
            fresh: Vec::new(),
            spoiled: Vec::new(),
            typical: u64::MAX, // nothing is known: look after the first item
            cut: None,
            stages: Stages::default(),
        }
    }

    /// The same for one of several shards.
    #[must_use]
    pub fn of_shard(mut self, shard: usize, shards: usize) -> Self {
        self.shard = (shard, shards);
        self
    }

    /// The same with buffers that never move: with room for a full batch and so many items more.
    #[must_use]
    pub fn with_room(mut self, spare: usize) -> Self {
        self.spare = Some(spare);
        self
    }

    fn make_room(&mut self) {
        let Some(spare) = self.spare else { return };
        let room = self.triggers.max_batch_size.saturating_add(spare);
        if self.items.capacity() < room
            && self.items.try_reserve_exact(room - self.items.len()).is_err()
        {
            self.spare = None; // it grows, then
        }
    }

    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// Takes the buffer of the batch closed last back, for the one it was exchanged for.
    pub fn keep_buffer(&mut self, batch: &mut Vec<T>) {
        let next = self.items.len(); // rarely any
        self.make_room();
        self.items.append(batch);
        batch.extend(self.items.drain(..next)); // fits: as many as a batch has, at most
        mem::swap(&mut self.items, batch);
    }

    /// The batch is ready, but there is no permit: it goes on growing.
    pub fn hold(&mut self, cause: Cause, now: Instant) {
        self.stages.hold(cause, now);
        self.cut = None;
    }

    /// Narrows the triggers to what the sinks can take.
    pub fn limit(&mut self, max_batch_size: Option<usize>, max_batch_bytes: Option<u64>) {
        let triggers = &mut self.triggers;
        if let Some(limit) = max_batch_size {
            triggers.max_batch_size = triggers.max_batch_size.min(limit.max(1));
        }
        if let Some(limit) = max_batch_bytes.filter(|_| self.weight.is_some()) {
            let bytes = triggers.max_batch_bytes.unwrap_or(u64::MAX);
            triggers.max_batch_bytes = Some(bytes.min(limit.max(1)));
        }
    }

    /// What the sink has shown to take in one call, in items and in bytes; no limit is known at
    /// `u64::MAX`.
    pub fn teach(&mut self, items: u64, bytes: u64) {
        self.taught = (items, bytes);
    }

    /// Items of a full batch.
    pub fn max_batch_size(&self) -> u64 {
        (self.triggers.max_batch_size as u64).min(self.taught.0.max(1))
    }

    fn max_batch_bytes(&self) -> Option<u64> {
        let taught = Some(self.taught.1).filter(|bytes| *bytes != u64::MAX);
        self.triggers.max_batch_bytes.into_iter().chain(taught).min()
    }

    /// Position of the first item that is in no batch yet.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Takes note that no add at `position` or later had returned before `moment`.
    pub fn mark(&mut self, position: u64, moment: Instant) {
        self.marks.record(position, moment);
    }

    /// When the first item is due, if it is there or comes next.
    pub fn due(&mut self) -> Option<Instant> {
        self.oldest().checked_add(self.triggers.max_batch_delay?)
    }

    /// When the items there are to be written: at once if they are ready, else when due.
    pub fn ready_at(&mut self) -> Option<Instant> {
        self.stages.ready.or_else(|| self.due())
    }

    /// No add of the first item, or of a later one, had returned before this moment.
    pub fn oldest(&mut self) -> Instant {
        self.marks.bound(self.first)
    }

    /// What to do, seeing this.
    pub fn step(&mut self, view: &View) -> Step {
        let size = self.max_batch_size();
        let pending = self.pending(view);
        let have = self.have();
        if pending > 0 {
            self.stages.turned.get_or_insert(view.now);
        }
        if self.sealed {
            return Step::Close(FlushReason::Bytes);
        }
        if self.cut.is_none() {
            let full = (pending >= size).then_some(FlushReason::Size);
            let reason = full.or_else(|| self.overdue(view, pending));
            self.cut = reason.map(|reason| (reason, pending.min(size)));
        }
        match self.cut {
            Some((_, count)) if have < count => Step::Drain { up_to: self.position_of(count) },
            Some((reason, _)) => Step::Close(reason),
            None if pending == 0 && view.closed => Step::Done,
            None => self.want(pending),
        }
    }

    /// Why the items there are to be written now, few as they may be.
    pub fn overdue(&mut self, view: &View, pending: u64) -> Option<FlushReason> {
        if pending == 0 {
            None
        } else if view.closed {
            Some(FlushReason::Shutdown)
        } else if view.flush_to > self.first {
            Some(FlushReason::Flush)
        } else if view.press_to > self.first {
            Some(FlushReason::Bytes)
        } else if self.triggers.flush_when == FlushWhen::Idle {
            Some(FlushReason::Idle)
        } else if self.due().is_some_and(|due| due <= view.now) {
            Some(FlushReason::Time)
        } else {
            None
        }
    }

    /// What to wait for: the end of the batch, or, where bytes count, about as many items as still
    /// fit.
    fn want(&mut self, pending: u64) -> Step {
        let have = self.have();
        let mut want = self.max_batch_size();
        if self.triggers.flush_when == FlushWhen::Idle {
            want = 1; // only reached when nothing is pending
        } else if let Some(max) = self.max_batch_bytes() {
            // A guess, so it looks no further ahead than the batch is long: heavier items than
            // before are noticed when it has doubled.
            let fit = max.saturating_sub(self.bytes).div_ceil(self.typical);
            want = want.min(have.saturating_add(fit.clamp(1, have.max(1))));
        }
        if pending >= want {
            return Step::Drain { up_to: self.position_of(want) };
        }
        let until = if pending == 0 { None } else { self.due() };
        Step::Wait { position: self.position_of(want), until }
    }

    /// Items that are there, in no batch yet.
    pub fn pending(&self, view: &View) -> u64 {
        self.held() + view.tail.saturating_sub(self.next)
    }

    /// Items that are out of the ring.
    fn held(&self) -> u64 {
        self.have() + self.carry.len() as u64
    }

    /// Where the ring must be drained to so that `count` items are out of it.
    fn position_of(&self, count: u64) -> u64 {
        self.next + count.saturating_sub(self.held())
    }

    /// Bytes of the items of this batch that are out of the ring.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Items of this batch that are out of the ring.
    pub fn have(&self) -> u64 {
        (self.items.len() + self.spoiled.len()) as u64
    }

    /// Whether the batch has an item.
    pub fn has_items(&self) -> bool {
        self.have() != 0
    }

    /// Position of the next item to drain.
    pub fn drained(&self) -> u64 {
        self.next
    }

    /// Takes note that items before `head` are out of the ring: those not drained were evicted.
    pub fn skip_to(&mut self, head: u64) {
        if head > self.next {
            self.next = head;
            if self.held() == 0 {
                self.first = head;
            }
        }
    }

    /// Takes note that there are fewer items than there were: what to close is decided anew.
    pub fn reconsider(&mut self) {
        self.cut = None;
    }

    /// Takes in what `drain` appends to the vector it is given, in the order of positions. Returns
    /// how many.
    pub fn fill<E>(
        &mut self,
        drain: impl FnOnce(&mut Vec<M::Entry>) -> Result<Run, E>,
    ) -> Result<usize, E> {
        self.make_room();
        let run = if self.weight.is_some() {
            let run = drain(&mut self.fresh)?;
            self.skip_to(run.position);
            self.carry.extend((run.position..).zip(self.fresh.drain(..)));
            run
        } else {
            let empty = self.items.is_empty();
            let run = M::drain(&mut self.items, &mut self.tags, drain)?;
            if empty {
                self.first = run.position;
            }
            run
        };
        self.next = run.position + run.count as u64;
        self.refill();
        Ok(run.count)
    }

    /// Moves carried items into the batch while they fit. An item that is too large by itself
    /// travels alone.
    fn refill(&mut self) {
        let Some(weight) = self.weight.clone() else { return };
        let max = self.max_batch_bytes().unwrap_or(u64::MAX);
        while let Some((_, entry)) = self.carry.front() {
            if self.have() >= self.max_batch_size() {
                return;
            }
            let weighed = guarded(|| weight(M::item(entry)));
            let bytes = weighed.as_ref().map_or(0, |&bytes| bytes as u64);
            let sum = self.bytes.saturating_add(bytes);
            if sum > max && self.has_items() {
                self.sealed = true;
                return;
            }
            let Some((_, entry)) = self.carry.pop_front() else { return };
            match weighed {
                Ok(_) => M::put(entry, &mut self.items, &mut self.tags),
                Err(_) => self.spoiled.push(M::split(entry)),
            }
            self.bytes = sum;
            self.typical = (sum / self.have()).max(1);
            self.sealed = sum >= max;
            if self.sealed {
                return;
            }
        }
    }

    /// Closes the batch. `empty` is memory for the next one, and is taken.
    pub fn close(
        &mut self,
        reason: FlushReason,
        now: Instant,
        empty: &mut Buffer<T, M>,
    ) -> Formed<T, M> {
        let opened = self.oldest();
        let due = self.due().filter(|_| reason == FlushReason::Time);
        let (shard, shards) = self.shard;
        // The shards take turns, so that a number names one batch of the engine.
        let number = self.closed * shards as u64 + shard as u64 + 1;
        self.closed += 1;
        let batch = Batch {
            id: BatchId::new(number),
            shard,
            reason,
            bytes: mem::take(&mut self.bytes),
            position: self.first,
            opened,
            late: due.map(|due| now.saturating_duration_since(due)),
            items: mem::replace(&mut self.items, mem::take(&mut empty.items)),
        };
        let tags = mem::replace(&mut self.tags, mem::take(&mut empty.tags));
        let spoiled = mem::take(&mut self.spoiled);
        let end = self.carry.front().map_or(self.next, |(position, _)| *position);
        self.first = end;
        (self.sealed, self.cut) = (false, None);
        self.refill();
        let phases = self.stages.close(opened, now, self.held() > 0);
        Formed { batch, tags, spoiled, end, phases }
    }

    /// Everything that was drained and is in no batch, oldest first.
    pub fn take_rest(&mut self, mut each: impl FnMut(T, Tag<T>)) {
        self.first = self.next;
        let tags = M::take_tags(&mut self.tags).map(Some).chain(std::iter::repeat_with(|| None));
        for (item, tag) in self.items.drain(..).zip(tags) {
            each(item, tag.unwrap_or_default());
        }
        self.spoiled.drain(..).for_each(|(item, tag)| each(item, tag));
        for (_, entry) in self.carry.drain(..) {
            let (item, tag) = M::split(entry);
            each(item, tag);
        }
        (self.bytes, self.sealed, self.cut) = (0, false, None);
    }
}
