//! What a sink with faults was asked and what it answered.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::Fault;
use crate::batch::{Batch, BatchId, FlushReason};
use crate::sink::{Applied, Class, Flusher, WriteContext, WriteError};
use crate::sync::{Mutex, lock};

/// The calls of all sinks that share a plan of faults, in the order in which they began. Clones show
/// the same calls.
#[derive(Clone, Debug, Default)]
pub struct FaultLog(Arc<Mutex<Vec<Call>>>);

/// A call of [`Sink::write`](crate::Sink::write).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// Who called.
    pub flusher: Flusher,
    /// The batch.
    pub batch: BatchId,
    /// Why it was closed.
    pub reason: FlushReason,
    /// Its items.
    pub items: usize,
    /// Its bytes; 0 without a `weight` function.
    pub bytes: u64,
    /// When the call began, by the engine's clock.
    pub at: Instant,
    /// The fault that the plan had for it. Poison is no fault of the call: it shows in the outcome.
    pub fault: Fault,
    /// Items that the inner sink was given; 0: it was not called.
    pub handed_on: usize,
    /// Items marked as failed, by their place in the batch.
    pub marked: Vec<usize>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet.
    Running,
    /// `Ok`; what is not marked is in.
    Ok,
    /// An error for the batch.
    Failed {
        /// Its class.
        class: Class,
        /// What it says has taken effect.
        applied: Applied,
    },
    /// It panicked.
    Panicked,
}

impl FaultLog {
    /// All calls.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.0).clone()
    }

    /// How many calls there were.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Whether there was none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many calls reached the inner sink.
    #[must_use]
    pub fn writes(&self) -> usize {
        lock(&self.0).iter().filter(|call| call.handed_on > 0).count()
    }

    /// How often this batch was tried.
    #[must_use]
    pub fn attempts(&self, batch: BatchId) -> usize {
        lock(&self.0).iter().filter(|call| call.batch == batch).count()
    }

    /// How each call ended.
    #[must_use]
    pub fn outcomes(&self) -> Vec<Outcome> {
        lock(&self.0).iter().map(|call| call.outcome).collect()
    }

    /// Enters a call that begins.
    pub(super) fn begin<T>(&self, batch: &Batch<T>, cx: &WriteContext<'_>) -> Entry {
        let call = Call {
            flusher: cx.flusher(),
            batch: batch.id(),
            reason: batch.reason(),
            items: batch.len(),
            bytes: batch.bytes(),
            at: cx.now(),
            fault: Fault::Ok,
            handed_on: 0,
            marked: Vec::new(),
            outcome: Outcome::Running,
        };
        let mut calls = lock(&self.0);
        calls.push(call);
        Entry { log: self.clone(), index: calls.len() - 1 }
    }
}

/// The place of a call that runs.
pub(super) struct Entry {
    log: FaultLog,
    index: usize,
}

impl Entry {
    /// Which call it is: 0 for the first.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Call)) {
        if let Some(call) = lock(&self.log.0).get_mut(self.index) {
            change(call);
        }
    }

    pub(super) fn end(&self, result: &Result<(), WriteError>) {
        let outcome = match result {
            Ok(()) => Outcome::Ok,
            Err(error) => Outcome::Failed { class: error.class(), applied: error.what_applied() },
        };
        self.update(|call| call.outcome = outcome);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if thread::panicking() {
            self.update(|call| {
                if call.outcome == Outcome::Running {
                    call.outcome = Outcome::Panicked;
                }
            });
        }
    }
}
