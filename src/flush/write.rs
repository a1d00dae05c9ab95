//! The stages behind a closed batch: write, classify, settle, report.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{FailedItem, Shared};
use crate::batch::{Batch, BatchId};
use crate::clock::Clock;
use crate::guard::{drop_each, guarded};
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
    pub failed: Vec<FailedItem<T>>,
    /// Errors that belong to no item. They are the caller's, so they are dropped with care, later.
    pub surplus: Vec<Arc<WriteError>>,
    /// Items that the weight function panicked on; they are among the failed ones.
    pub spoiled: u64,
    pub took: Duration,
    pub panicked: bool,
}

/// What the sink said.
struct Answer {
    result: Result<(), WriteError>,
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
    pub fn flush<T>(
        &mut self,
        shared: &Shared<T>,
        batch: Batch<T>,
        reopen: &dyn Fn() -> Result<S, BoxError>,
    ) -> Option<Vec<T>>
    where
        S: Sink<T>,
    {
        let (mut batch, deadline) = shared.ledger.begin(self.flusher, batch)?;
        let answer = self.write(shared, &batch, deadline, reopen);
        let positions = batch.positions();
        let mut verdict = classify(&mut batch, answer, &mut self.marked);
        let report = shared.on_failed.as_ref();
        if !shared.ledger.settle(self.flusher, &batch, &mut verdict, report.is_some()) {
            drop_each(&mut batch.items);
            verdict.discard();
            return None;
        }
        let mut panics = 0;
        if !verdict.failed.is_empty() {
            match report {
                Some(report) => {
                    for item in verdict.failed.drain(..) {
                        panics += u64::from(guarded(|| report(item)).is_err());
                    }
                    shared.ledger.reported(self.flusher, &batch, positions, panics);
                    panics = 0;
                }
                None => tracing::warn!(
                    items = verdict.failed.len(),
                    batch = batch.id.get(),
                    "failed items are let go: more have failed than `failed_kept`"
                ),
            }
        }
        let mut items = mem::take(&mut batch.items);
        panics += drop_each(&mut items) + verdict.discard();
        if panics > 0 {
            shared.ledger.count_callback_panics(panics);
        }
        Some(items)
    }

    fn write<T>(
        &mut self,
        shared: &Shared<T>,
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
            Answer { result, took, panicked }
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

/// Moves the items that failed out of the batch, each with its error.
fn classify<T>(
    batch: &mut Batch<T>,
    answer: Answer,
    marked: &mut Vec<(usize, WriteError)>,
) -> Verdict<T> {
    let mut verdict = Verdict {
        fail: 0,
        unknown: 0,
        failed: Vec::new(),
        surplus: Vec::new(),
        spoiled: batch.spoiled.len() as u64,
        took: answer.took,
        panicked: answer.panicked,
    };
    for item in batch.spoiled.drain(..) {
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
            Some(error) => verdict.fail(batch.id, item, error),
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
