//! The stages behind a permit: expire, write, classify, settle, report.

use std::mem;
use std::time::Instant;

use super::classify::{Answer, classify};
use super::gate::{Permit, Refusal};
use super::ledger::{Activity, Begun, Parked, Seat, Settled, Slot};
use super::permit::BreakerState;
use super::policy::key_of;
use super::report;
use super::work::Work;
use super::{Asking, Expiry, Shard, Shared};
use crate::ack::AckReason;
use crate::batch::Batch;
use crate::collect::Buffer;
use crate::guard::{drop_each, guarded};
use crate::mode::{Mode, Tag};
use crate::placement::Near;
use crate::sink::{Applied, BoxError, Class, Flusher, Sink, WriteError};
use crate::sync::mutated;

/// Writes the batches of one flusher to its sink.
pub struct Writer<S> {
    seat: Seat,
    /// `None` until it is opened: after a panic, or in the place of another.
    sink: Option<S>,
    marked: Vec<(usize, WriteError)>,
    /// Where its batches are to lie on a node.
    near: Option<Near>,
}

impl<S> Writer<S> {
    pub fn new(seat: Seat, sink: Option<S>) -> Self {
        Self { seat, sink, marked: Vec::new(), near: None }
    }

    /// The same, and what brings fresh batches to a node.
    #[cfg_attr(any(loom, shuttle), allow(dead_code))]
    pub fn near(self, near: Option<Near>) -> Self {
        Self { near, ..self }
    }

    /// Whose batches it writes.
    pub fn flusher(&self) -> Flusher {
        self.seat.flusher()
    }

    pub fn sink(&mut self) -> Option<&mut S> {
        self.sink.as_mut()
    }

    /// Opens the sink if it is not, before there is a batch that would have to wait for it. Where that
    /// fails, the first batch tries again, and fails with it.
    pub fn open<T, M: Mode<T>>(
        &mut self,
        shared: &Shared<T, M>,
        reopen: &dyn Fn() -> Result<S, BoxError>,
    ) {
        if self.sink.is_none() {
            shared.ledger.turn_to(self.seat, Activity::Opening);
            match reopen() {
                Ok(sink) => self.sink = Some(sink),
                Err(error) => {
                    tracing::warn!(error = %not_open(error), "the first batch tries again")
                }
            }
            shared.ledger.turn_to(self.seat, Activity::Collecting);
        }
    }

    /// Takes a work through every stage and gives its empty buffer back. `None`: no more works, the
    /// engine has stopped or has given up on this flusher.
    pub fn flush<T, M: Mode<T>>(
        &mut self,
        shared: &Shared<T, M>,
        mut work: Work<T, M>,
        permit: Permit,
        reopen: &dyn Fn() -> Result<S, BoxError>,
    ) -> Option<Buffer<T, M>>
    where
        S: Sink<T>,
    {
        let slot = self.seat.slot(0);
        let Started { spoiled, at, answer } = start(shared, slot, &mut work, permit)?;
        if let Some(near) = self.near.as_mut().filter(|_| answer.is_none() && work.is_fresh()) {
            near.bring(&work.batch.items, &shared.placed);
        }
        let answer = answer.unwrap_or_else(|| self.write(shared, &work.batch, at, reopen));
        finish(shared, slot, work, spoiled, answer, &mut self.marked)
    }

    fn write<T, M: Mode<T>>(
        &mut self,
        shared: &Shared<T, M>,
        batch: &Batch<T>,
        started: Instant,
        reopen: &dyn Fn() -> Result<S, BoxError>,
    ) -> Answer
    where
        S: Sink<T>,
    {
        let answer = |result, panicked| {
            let took = shared.any().clock.now().saturating_duration_since(started);
            Answer { result, started, took, panicked, wrote: true, last: false }
        };
        let sink = match &mut self.sink {
            Some(sink) => sink,
            closed => match reopen() {
                Ok(sink) => closed.insert(sink),
                Err(error) => return answer(Err(not_open(error)), false),
            },
        };
        self.marked.clear();
        let flusher = self.seat.flusher();
        let mut cx = shared.asking_at(flusher, started).context(&mut self.marked);
        match guarded(|| sink.write(batch, &mut cx)) {
            Ok(result) => answer(result, false),
            Err(message) => {
                tracing::error!(
                    flusher = flusher.index,
                    batch = %batch.id,
                    message,
                    "the sink panicked; its batch has failed, the sink is opened anew"
                );
                drop_each(&mut self.marked); // a list cut short says nothing about the others
                let broken = self.sink.take();
                let _ = guarded(|| drop(broken));
                let error = WriteError::permanent(format!("the sink panicked: {message}"));
                answer(Err(error.applied(Applied::Unknown)), true)
            }
        }
    }

    /// Closes the sink, if it is open.
    pub fn close<T>(&mut self, asking: Asking<'_>) -> Option<WriteError>
    where
        S: Sink<T>,
    {
        let mut sink = self.sink.take()?;
        self.marked.clear();
        let mut cx = asking.context(&mut self.marked);
        let closed = guarded(|| sink.close(&mut cx));
        drop_each(&mut self.marked); // there is no batch
        let dropped = guarded(|| drop(sink));
        match closed {
            Ok(Err(error)) => Some(error),
            Ok(Ok(())) => dropped.err().map(|message| panicked_closing(&message)),
            Err(message) => Some(panicked_closing(&message)),
        }
    }
}

/// A write that has begun.
pub struct Started<T> {
    pub spoiled: Vec<T>,
    pub at: Instant,
    /// What there is to say already: the sink is not to be asked.
    pub answer: Option<Answer>,
}

/// The stages before the sink. `None`: it is too late for this work, and for any other.
pub fn start<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    slot: Slot,
    work: &mut Work<T, M>,
    permit: Permit,
) -> Option<Started<T>> {
    let (spoiled, at) = begin(shared, slot, work, permit)?;
    if permit.is_probe() {
        report::breaker(BreakerState::HalfOpen);
    }
    let answer = match permit {
        Permit::Refuse(why) => Some(refused(work, why, at)),
        _ if work.batch.is_empty() => Some(Answer::unasked(Ok(()), at)), // spoiled, or parked
        _ => None,
    };
    Some(Started { spoiled, at, answer })
}

/// The stages after it; gives the work's empty buffer back. `None`: no more works, the engine has
/// given up on this flusher.
pub fn finish<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    slot: Slot,
    mut work: Work<T, M>,
    spoiled: Vec<T>,
    answer: Answer,
    marked: &mut Vec<(usize, WriteError)>,
) -> Option<Buffer<T, M>> {
    let Shared { ledger, policy, .. } = shared;
    if shared.forked() {
        return None; // the sink has forked, and this is the child: the batch is the parent's
    }
    work.past.attempts += u32::from(answer.wrote);
    work.past.phases.writing += answer.took;
    let (wrote, size, bytes) = (answer.wrote, work.batch.len(), work.batch.bytes);
    let mut verdict = classify(&mut work, spoiled, answer, marked, policy);
    if mutated("alarm_before_change") {
        shared.alarm();
    }
    let Some(settled) = ledger.settle(slot, &work, &mut verdict, shared.tells()) else {
        work.discard();
        verdict.discard();
        return None;
    };
    if wrote {
        learn(&shared.shards[work.batch.shard], size, bytes, verdict.whole.as_deref());
    }
    let Settled { mut tags, spoiled, alarm, report, breaker, halt } = settled;
    if halt && !mutated("halt_no_wake") {
        report::halted(work.batch.id);
        shared.close();
        shared.stop();
    } else if alarm && !mutated("alarm_before_change") {
        shared.alarm();
    }
    if let Some(state) = breaker {
        report::breaker(state);
    }
    let mut go_on = true;
    if report {
        let panics = report::fates(shared, slot, &work, &mut verdict, &mut tags, spoiled);
        go_on = ledger.reported(slot, &mut verdict.kept_out, panics);
    }
    report::let_go(&verdict.kept_out, work.batch.id);
    let mut items = mem::take(&mut work.batch.items);
    let panics = drop_each(&mut items) + verdict.discard() + work.discard();
    if panics > 0 {
        ledger.count_callback_panics(panics);
    }
    go_on.then_some(Buffer { items, tags })
}

pub fn not_open(error: BoxError) -> WriteError {
    let text = guarded(move || error.to_string());
    let text = text.unwrap_or_else(|panic| format!("its error cannot be shown: {panic}"));
    WriteError::new(Class::Disconnected, format!("the sink did not open again: {text}"))
}

/// Takes note of how much the sink takes in one call.
fn learn<T, M: Mode<T>>(shard: &Shard<T, M>, items: usize, bytes: u64, said: Option<&WriteError>) {
    match said {
        None => shard.taken(items, bytes),
        Some(error) if error.class() == Class::TooLarge => shard.too_large(items, bytes),
        Some(_) => {}
    }
}

pub fn panicked_closing(message: &str) -> WriteError {
    WriteError::permanent(format!("the sink panicked while closing: {message}"))
}

/// What is said in the sink's place when it is not asked.
fn refused<T, M: Mode<T>>(work: &Work<T, M>, why: Refusal, now: Instant) -> Answer {
    let error = match (why, &work.past.failure) {
        (Refusal::BreakerOpen, Some(failure)) => failure.error.again("the breaker is open; last: "),
        (Refusal::BreakerOpen, None) => WriteError::disconnected("the breaker is open"),
        (Refusal::TooLong, Some(failure)) => failure.error.again("it failed for too long; last: "),
        (Refusal::TooLong, None) => WriteError::transient("it failed for too long"),
    };
    Answer { last: true, ..Answer::unasked(Err(error), now) }
}

/// Everything before the sink is asked: takes out what is too old and what must wait behind others,
/// and takes note that the write begins. `None`: it is too late for it.
fn begin<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    slot: Slot,
    work: &mut Work<T, M>,
    permit: Permit,
) -> Option<(Vec<T>, Instant)> {
    let ledger = &shared.ledger;
    let shard = &**shared.any();
    let expired = match &shared.expiry {
        Some(expiry) => expire(shard, expiry, work),
        None => Vec::new(),
    };
    if work.is_fresh() && !work.past.parked && ledger.has_waiting() {
        park(shared, work);
    }
    let now = shard.clock.now();
    let mut spoiled = match ledger.begin(slot, work, permit, expired.len() as u64, now) {
        Begun::Write(spoiled) => spoiled,
        Begun::TooLate(mut tags, spoiled) => {
            let all = M::take_tags(&mut tags).chain(spoiled);
            all.for_each(|tag| shard.let_go(tag, AckReason::HandedBack));
            report::expired(shared, expired);
            return None;
        }
    };
    if work.is_fresh() {
        shared.shards[work.batch.shard].begun(work.end);
    }
    // Before the write: whoever waits for an item that is not in it must not wait for it.
    if expired.is_empty() {
        return Some((spoiled, now));
    }
    let panics = report::expired(shared, expired);
    ledger.count_callback_panics(panics);
    ledger.touch(slot);
    if ledger.is_left_behind(slot) {
        drop_each(&mut work.batch.items);
        drop_each(&mut spoiled);
        return None;
    }
    Some((spoiled, shard.clock.now()))
}

/// Sets items aside that wait behind a failed one of the same key.
fn park<T, M: Mode<T>>(shared: &Shared<T, M>, work: &mut Work<T, M>) {
    let Some(key) = shared.policy.parking() else { return };
    let keys: Vec<u64> = work.batch.items.iter().map(|item| key_of(key, item)).collect();
    let parked = shared.ledger.parked(&keys);
    if !parked.contains(&true) {
        return;
    }
    let weigh = |item: &T| match &shared.policy.weight {
        Some(weight) => guarded(|| weight(item)).unwrap_or(0) as u64,
        None => 0,
    };
    let first = parked.iter().position(|parked| *parked).unwrap_or(0);
    let (mut free, mut free_tags) = (Vec::new(), M::Tags::default());
    let mut behind =
        Parked { first, items: Vec::new(), tags: M::Tags::default(), bytes: 0, keys: Vec::new() };
    for (index, item) in mem::take(&mut work.batch.items).into_iter().enumerate() {
        let tag = M::take_tag(&mut work.tags, index);
        if parked[index] {
            behind.bytes = behind.bytes.saturating_add(weigh(&item));
            behind.keys.push(keys[index]);
            behind.items.push(item);
            M::put_tag(tag, &mut behind.tags);
        } else {
            free.push(item);
            M::put_tag(tag, &mut free_tags);
        }
    }
    behind.keys.sort_unstable();
    behind.keys.dedup();
    work.batch.bytes = work.batch.bytes.saturating_sub(behind.bytes);
    (work.batch.items, work.tags) = (free, free_tags);
    shared.ledger.park(work, behind);
}

/// Takes the items out of a work that are too old to be written.
fn expire<T, M: Mode<T>>(
    shard: &Shard<T, M>,
    expiry: &Expiry<T>,
    work: &mut Work<T, M>,
) -> Vec<(T, Tag<T>)> {
    let now = shard.clock.now();
    let is_old = |item: &T, tag: Option<&Tag<T>>| {
        let added = match &expiry.added {
            Some(added) => guarded(|| added(item)).ok(), // who cannot tell is not too old
            None => tag.and_then(|tag| shard.added(tag.added)),
        };
        added.is_some_and(|added| now.saturating_duration_since(added) > expiry.max_age)
    };
    let Work { batch, tags, .. } = work;
    let mut items = batch.items.iter().enumerate();
    let Some((first, _)) = items.find(|(index, item)| is_old(item, M::tag(tags, *index))) else {
        return Vec::new();
    };
    let mut expired = Vec::new();
    let mut old_tags = M::take_tags(tags).collect::<Vec<_>>().into_iter();
    let left = Vec::with_capacity(batch.items.len());
    let old_items = mem::replace(&mut batch.items, left);
    for (index, item) in old_items.into_iter().enumerate() {
        let tag = old_tags.next().unwrap_or_default();
        if index == first || index > first && is_old(&item, Some(&tag)) {
            if let Some(weight) = &shard.admission.weight {
                let bytes = guarded(|| weight(&item)).unwrap_or(0) as u64;
                batch.bytes = batch.bytes.saturating_sub(bytes);
            }
            expired.push((item, tag));
        } else {
            batch.items.push(item);
            M::put_tag(tag, tags);
        }
    }
    expired
}
