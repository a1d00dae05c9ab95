//! What is counted per batch, beside the fates of items.

use std::time::{Duration, Instant};

use super::Writing;
use crate::batch::Batch;
use crate::flush::classify::Verdict;
use crate::flush::work::Past;
use crate::telemetry::{Distribution, FlushReasons, Phases};

#[derive(Clone)]
pub struct Counts {
    pub batches: u64,
    pub writes: u64,
    pub retries: u64,
    pub splits: u64,
    /// Works that were not taken to wait: too many did.
    pub overflows: u64,
    pub reasons: FlushReasons,
    pub batch_size: Distribution,
    pub flush_duration: Distribution,
    pub batch_age: Distribution,
    pub timer_lateness: Distribution,
    pub phases: Phases<Distribution>,
    pub sink_panics: u64,
    pub callback_panics: u64,
    /// Flushers that were left behind in a sink.
    pub hung: u64,
    /// Items that the dead-letter sink has taken, and those that it has not.
    pub dead_lettered: u64,
    pub dead_letter_failures: u64,
}

impl Counts {
    pub fn new(queue_depth: usize) -> Self {
        Self {
            batches: 0,
            writes: 0,
            retries: 0,
            splits: 0,
            overflows: 0,
            reasons: FlushReasons::default(),
            batch_size: Distribution::of_counts(queue_depth as u64),
            flush_duration: Distribution::of_durations(),
            batch_age: Distribution::of_durations(),
            timer_lateness: Distribution::of_durations(),
            phases: Phases::<()>::default().map(|()| Distribution::of_durations()),
            sink_panics: 0,
            callback_panics: 0,
            hung: 0,
            dead_lettered: 0,
            dead_letter_failures: 0,
        }
    }

    /// A write was left behind.
    pub fn left(&mut self, writing: &Writing, took: Duration, now: Instant) {
        self.hung += 1;
        self.writes += 1;
        self.flush_duration.record_duration(took);
        if let Some(reason) = writing.fresh {
            self.batches += 1;
            self.reasons.count(reason);
            self.batch_size.record(writing.items);
            self.batch_age.record_duration(now.saturating_duration_since(writing.opened));
        }
    }

    /// A write of so many items has ended. `batch` holds those that are in.
    pub fn record<T>(
        &mut self,
        batch: &Batch<T>,
        items: u64,
        past: &Past,
        verdict: &Verdict<T>,
        now: Instant,
    ) {
        self.writes += u64::from(verdict.wrote);
        self.sink_panics += u64::from(verdict.panicked);
        if verdict.wrote {
            self.flush_duration.record_duration(verdict.took);
        }
        if past.failure.is_none() && items > 0 {
            // While the breaker is open they may fail without the sink.
            self.batches += u64::from(verdict.wrote || verdict.whole.is_none());
            self.reasons.count(batch.reason);
            self.batch_size.record(items);
            self.batch_age.record_duration(now.saturating_duration_since(batch.opened));
            if let Some(late) = batch.late {
                self.timer_lateness.record_duration(late);
            }
        }
        if !batch.is_empty() || !verdict.lost.is_empty() {
            let spent = &past.phases;
            for ((_, phase), (_, time)) in self.phases.iter_mut().zip(spent.iter()) {
                phase.record_duration(*time);
            }
        }
    }
}
