//! The stages behind a closed batch: write, classify, settle, report.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::{Begun, Settled};
use super::{Expiry, FailedItem, Node, Shared};
use crate::ack::{AckError, AckReason, Receipt};
use crate::batch::{Batch, BatchId};
use crate::clock::Clock;
use crate::collect::{Buffer, Formed};
use crate::config::DropReason;
use crate::guard::{drop_each, guarded};
use crate::mode::{Mode, Tag};
use crate::sink::{Applied, BoxError, Class, Flusher, Sink, WriteContext, WriteError};

/// Writes the batches of one flusher to its sink.
pub struct Writer<S> {
    flusher: Flusher,
    /// `None` after a panic, until it is opened again.
    sink: Option<S>,
    marked: Vec<(usize, WriteError)>,
}

/// What came of a write: how many items failed and how, and those items.
pub struct Verdict<T> {
    pub fail: u64,
    pub unknown: u64,
    /// The spoiled ones first, then in the order of the batch.
    pub failed: Vec<FailedItem<T>>,
    /// Where those that were in the batch stood.
    failed_at: Vec<usize>,
    /// Errors that belong to no item. They are the caller's, so they are dropped with care, later.
    pub surplus: Vec<Arc<WriteError>>,
    /// Items that the weight function panicked on; they are among the failed ones.
    pub spoiled: u64,
    started: Instant,
    pub took: Duration,
    pub panicked: bool,
}

/// What the sink said.
struct Answer {
    result: Result<(), WriteError>,
    started: Instant,
    took: Duration,
    panicked: bool,
}

impl<S> Writer<S> {
    pub fn new(flusher: Flusher, sink: S) -> Self {
        Self { flusher, sink: Some(sink), marked: Vec::new() }
    }

    pub fn sink(&mut self) -> Option<&mut S> {
        self.sink.as_mut()
    }

    /// Takes a batch through every stage and gives its empty buffer back. `None`: no more batches,
    /// the engine has stopped or has given up on this flusher.
    pub fn flush<T, M: Mode<T>>(
        &mut self,
        shared: &Shared<T, M>,
        mut formed: Formed<T, M>,
        reopen: &dyn Fn() -> Result<S, BoxError>,
    ) -> Option<Buffer<T, M>>
    where
        S: Sink<T>,
    {
        let Shared { node, ledger, .. } = shared;
        let expired = match &shared.expiry {
            Some(expiry) => expire(node, expiry, &mut formed),
            None => Vec::new(),
        };
        let begun = ledger.begin(self.flusher, formed, expired.len() as u64);
        let (mut batch, mut spoiled, deadline) = match begun {
            Begun::Write(batch, spoiled, deadline) => (batch, spoiled, deadline),
            Begun::TooLate(mut tags, spoiled) => {
                M::take_tags(&mut tags)
                    .chain(spoiled)
                    .for_each(|tag| node.let_go(tag, AckReason::HandedBack));
                tell_expired(shared, expired);
                return None;
            }
        };
        // Before the write: whoever waits for an item that is not in it must not wait for it.
        let late = !expired.is_empty() && {
            let panics = tell_expired(shared, expired);
            ledger.count_callback_panics(panics);
            ledger.is_left_behind(self.flusher)
        };
        if late {
            drop_each(&mut batch.items);
            drop_each(&mut spoiled);
            return None;
        }
        let answer = self.write(shared, &batch, deadline, reopen);
        if node.forked() {
            return None; // the sink has forked, and this is the child: the batch is the parent's
        }
        let mut verdict = classify(&mut batch, spoiled, answer, &mut self.marked);
        let told = shared.on_failed.is_some() && !verdict.failed.is_empty();
        let report = M::TRACKED || told;
        let Some(settled) = ledger.settle(self.flusher, &batch, &mut verdict, report) else {
            drop_each(&mut batch.items);
            verdict.discard();
            return None;
        };
        let Settled { mut tags, spoiled, positions } = settled;
        if report {
            // Acks first: whoever takes the failed items may take its time.
            let failed = fail_promises(shared, &mut verdict, &mut tags, spoiled);
            tell_flushed(node, batch.id, &verdict, &mut tags);
            let panics = tell_failed(shared, failed);
            ledger.reported(self.flusher, positions, &mut verdict.failed, panics);
        }
        if !verdict.failed.is_empty() {
            tracing::warn!(
                items = verdict.failed.len(),
                batch = batch.id.get(),
                "failed items are let go: more have failed than `failed_kept`"
            );
        }
        let mut items = mem::take(&mut batch.items);
        let panics = drop_each(&mut items) + verdict.discard();
        if panics > 0 {
            ledger.count_callback_panics(panics);
        }
        Some(Buffer { items, tags })
    }

    fn write<T, M: Mode<T>>(
        &mut self,
        shared: &Shared<T, M>,
        batch: &Batch<T>,
        deadline: Option<Instant>,
        reopen: &dyn Fn() -> Result<S, BoxError>,
    ) -> Answer
    where
        S: Sink<T>,
    {
        let start = shared.node.clock.now();
        let answer = |result, panicked| {
            let took = shared.node.clock.now().saturating_duration_since(start);
            Answer { result, started: start, took, panicked }
        };
        if batch.is_empty() {
            return answer(Ok(()), false); // all of it spoiled: nothing for the sink
        }
        let sink = match &mut self.sink {
            Some(sink) => sink,
            closed => match reopen() {
                Ok(sink) => closed.insert(sink),
                Err(error) => return answer(Err(not_open(error)), false),
            },
        };
        self.marked.clear();
        let mut cx =
            WriteContext::new(self.flusher, &shared.node.clock, deadline, &mut self.marked);
        match guarded(|| sink.write(batch, &mut cx)) {
            Ok(result) => answer(result, false),
            Err(message) => {
                tracing::error!(
                    flusher = self.flusher.index,
                    batch = batch.id.get(),
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
    pub fn close<T>(&mut self, clock: &Clock, deadline: Option<Instant>) -> Option<WriteError>
    where
        S: Sink<T>,
    {
        let mut sink = self.sink.take()?;
        self.marked.clear();
        let mut cx = WriteContext::new(self.flusher, clock, deadline, &mut self.marked);
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

fn not_open(error: BoxError) -> WriteError {
    let text = guarded(move || error.to_string());
    let text = text.unwrap_or_else(|panic| format!("its error cannot be shown: {panic}"));
    WriteError::new(Class::Disconnected, format!("the sink did not open again: {text}"))
}

fn panicked_closing(message: &str) -> WriteError {
    WriteError::permanent(format!("the sink panicked while closing: {message}"))
}

/// Takes the items out of a batch that are too old to be written.
fn expire<T, M: Mode<T>>(
    node: &Node<T, M>,
    expiry: &Expiry<T>,
    formed: &mut Formed<T, M>,
) -> Vec<(T, Tag<T>)> {
    let now = node.clock.now();
    let is_old = |item: &T, tag: Option<&Tag<T>>| {
        let added = match &expiry.added {
            Some(added) => guarded(|| added(item)).ok(), // who cannot tell is not too old
            None => tag.and_then(|tag| node.added(tag.added)),
        };
        added.is_some_and(|added| now.saturating_duration_since(added) > expiry.max_age)
    };
    let Formed { batch, tags, .. } = formed;
    let mut items = batch.items.iter().enumerate();
    let Some((first, _)) = items.find(|(index, item)| is_old(item, M::tag(tags, *index))) else {
        return Vec::new();
    };
    let mut expired = Vec::new();
    let mut old_tags = M::take_tags(tags).collect::<Vec<_>>().into_iter();
    let capacity = batch.items.capacity();
    let old_items = mem::replace(&mut batch.items, Vec::with_capacity(capacity));
    for (index, item) in old_items.into_iter().enumerate() {
        let tag = old_tags.next().unwrap_or_default();
        if index == first || index > first && is_old(&item, Some(&tag)) {
            if let Some(weight) = &node.admission.weight {
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

fn tell_expired<T, M: Mode<T>>(shared: &Shared<T, M>, expired: Vec<(T, Tag<T>)>) -> u64 {
    let tell = |(item, tag)| shared.tell_dropped(item, tag, DropReason::Expired);
    expired.into_iter().map(tell).sum()
}

/// Gives each failed item's bytes back and resolves its ack, which takes the item unless there is
/// an `on_failed` to take it. Returns the items for that; what nobody takes stays in the verdict.
fn fail_promises<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    verdict: &mut Verdict<T>,
    tags: &mut M::Tags,
    spoiled: Vec<Tag<T>>,
) -> Vec<FailedItem<T>> {
    let in_batch = verdict.failed_at.drain(..).map(|index| M::take_tag(tags, index));
    let all = spoiled.into_iter().chain(in_batch);
    let mut told = Vec::new();
    for (failed, tag) in mem::take(&mut verdict.failed).into_iter().zip(all) {
        shared.node.release(tag.bytes);
        let FailedItem { item, error, batch } = failed;
        let ack_error = || AckError {
            reason: match error.what_applied() {
                Applied::Nothing => AckReason::Failed,
                Applied::Unknown => AckReason::Unknown,
            },
            item: None,
            error: Some(Arc::clone(&error)),
            batch: Some(batch),
        };
        let left = match (&shared.on_failed, tag.promise) {
            (Some(_), Some(promise)) => {
                promise.fail(ack_error());
                Some(item)
            }
            (None, Some(promise)) => promise.fail_with(ack_error(), item),
            (_, None) => Some(item),
        };
        let Some(item) = left else { continue };
        let failed = FailedItem { item, error, batch };
        if shared.on_failed.is_some() { &mut told } else { &mut verdict.failed }.push(failed);
    }
    told
}

/// Gives failed items to `on_failed`; returns how many calls panicked.
fn tell_failed<T, M: Mode<T>>(shared: &Shared<T, M>, failed: Vec<FailedItem<T>>) -> u64 {
    let Some(report) = &shared.on_failed else { return 0 };
    failed.into_iter().map(|failed| u64::from(guarded(|| report(failed)).is_err())).sum()
}

/// Resolves the acks of the items that are in, together, and gives their bytes back.
fn tell_flushed<T, M: Mode<T>>(
    node: &Node<T, M>,
    batch: BatchId,
    verdict: &Verdict<T>,
    tags: &mut M::Tags,
) {
    let mut bytes = 0;
    for tag in M::take_tags(tags) {
        bytes += tag.bytes;
        let Some(promise) = tag.promise else { continue };
        let added = node.added(tag.added).unwrap_or(verdict.started);
        promise.succeed(Receipt {
            batch,
            attempts: 1,
            queued: verdict.started.saturating_duration_since(added),
            writing: verdict.took,
        });
    }
    node.release(bytes);
}

/// Moves the items that failed out of the batch, each with its error.
fn classify<T>(
    batch: &mut Batch<T>,
    spoiled: Vec<T>,
    answer: Answer,
    marked: &mut Vec<(usize, WriteError)>,
) -> Verdict<T> {
    let mut verdict = Verdict {
        fail: 0,
        unknown: 0,
        failed: Vec::new(),
        failed_at: Vec::new(),
        surplus: Vec::new(),
        spoiled: spoiled.len() as u64,
        started: answer.started,
        took: answer.took,
        panicked: answer.panicked,
    };
    for item in spoiled {
        let error = WriteError::permanent("the weight function panicked on this item");
        verdict.fail(batch.id, item, Arc::new(error));
    }
    let whole = answer.result.err().map(Arc::new);
    if whole.is_none() && marked.is_empty() {
        return verdict;
    }
    // Stable: the first error given for an item stays first.
    marked.sort_by_key(|(index, _)| *index);
    let mut marked = marked.drain(..).peekable();
    let mut good = Vec::with_capacity(batch.items.capacity());
    for (index, item) in batch.items.drain(..).enumerate() {
        let error = marked.next_if(|(at, _)| *at == index).map(|(_, error)| Arc::new(error));
        while let Some((_, again)) = marked.next_if(|(at, _)| *at == index) {
            verdict.surplus.push(Arc::new(again));
        }
        match error.or_else(|| whole.clone()) {
            Some(error) => {
                verdict.failed_at.push(index);
                verdict.fail(batch.id, item, error);
            }
            None => good.push(item),
        }
    }
    verdict.surplus.extend(marked.map(|(_, error)| Arc::new(error)).chain(whole));
    batch.items = good;
    verdict
}

impl<T> Verdict<T> {
    /// Drops what is left in it; returns how many of the drops panicked.
    fn discard(mut self) -> u64 {
        drop_each(&mut self.failed) + drop_each(&mut self.surplus)
    }

    fn fail(&mut self, batch: BatchId, item: T, error: Arc<WriteError>) {
        match error.what_applied() {
            Applied::Nothing => self.fail += 1,
            Applied::Unknown => self.unknown += 1,
        }
        self.failed.push(FailedItem { item, error, batch });
    }
}
