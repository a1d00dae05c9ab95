//! What the engine can say about itself: the [`Tally`] of items and the [`Stats`] around it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::batch::FlushReason;
use crate::config::DropReason;
use crate::flush::BreakerState;

/// Where the items are. At every moment, exactly:
/// `enqueued == flushed_ok + flushed_fail + dropped + unknown + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Items taken in. Final once the engine is closed.
    pub enqueued: u64,
    /// Items that the sink has taken.
    pub flushed_ok: u64,
    /// Items that the sink has refused, with nothing of them applied.
    pub flushed_fail: u64,
    /// Items let go on purpose, by a policy that the caller chose: a full queue, an age.
    pub dropped: u64,
    /// Items written of which it cannot be known whether they took effect: the sink said so,
    /// panicked, or was left behind.
    pub unknown: u64,
    /// Items that have met no fate yet: queued, in a batch, or handed back by shutdown.
    pub in_flight: u64,
}

impl Tally {
    /// Whether the items add up. It is a defect of the engine if they do not.
    #[must_use]
    pub fn balances(&self) -> bool {
        let fates = [self.flushed_ok, self.flushed_fail, self.dropped, self.unknown];
        fates.iter().try_fold(self.in_flight, |sum, fate| sum.checked_add(*fate))
            == Some(self.enqueued)
    }
}

/// A snapshot of everything that the engine counts; all of one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Where the items are.
    pub tally: Tally,
    /// Batches given to the sink for the first time, whatever came of it.
    pub batches: u64,
    /// Calls of the sink: batches, tries again, and parts.
    pub writes: u64,
    /// Of these, tries again of items that had failed.
    pub retries: u64,
    /// Parts that batches were split into, to find bad items or because they were too large.
    pub splits: u64,
    /// Batches and parts that wait to be written again, or behind such.
    pub retry_batches: u64,
    /// Their items.
    pub retry_items: u64,
    /// Batches and parts that could not wait because too many did; their items have failed.
    pub retry_overflows: u64,
    /// Where the breaker stands; closed without one.
    pub breaker: BreakerState,
    /// Writes that may be in flight at once, where that adapts.
    pub writes_max: Option<usize>,
    /// Calls of a sink or of a callback that did not return in time: their flushers were left behind.
    pub hung: u64,
    /// Items that the dead-letter sink has taken; they count as `flushed_fail` or `unknown`.
    pub dead_lettered: u64,
    /// Items that it has not taken.
    pub dead_letter_failures: u64,
    /// Items in the ring, claimed by an add and not drained yet.
    pub queue_depth: u64,
    /// Slots of the ring.
    pub queue_capacity: u64,
    /// An upper bound for the age of the oldest item in flight; `None` when there is none.
    pub oldest_age: Option<Duration>,
    /// Bytes of the items in flight, and for a moment of those being refused, where there is a
    /// `max_queue_bytes`; else 0.
    pub queue_bytes: u64,
    /// Producers, threads and tasks, asleep because the queue is full.
    pub waiting_producers: usize,
    /// Items let go on purpose, by reason: what `tally.dropped` consists of.
    pub drops: Drops,
    /// Adds that gave an item back because the queue was full (a time-out counts, and an item
    /// larger than the budget); a run counts once. The items are in no tally.
    pub rejected: u64,
    /// Items that went to another node's ring because that of their home was full
    /// ([`Overflow::Nearest`](crate::Overflow::Nearest)).
    pub overflowed: u64,
    /// Batches that a flusher of another shard has taken ([`steal`](crate::Builder::steal)).
    pub stolen: u64,
    /// Why batches were closed.
    pub flush_reasons: FlushReasons,
    /// Items in a batch.
    pub batch_size: Summary,
    /// Time that `Sink::write` took.
    pub flush_duration: DurationSummary,
    /// Age of the first item of a batch when the sink had answered; an upper bound.
    pub batch_age: DurationSummary,
    /// How long after `max_batch_delay` batches of reason `time` were closed.
    pub timer_lateness: DurationSummary,
    /// How the time of batches was spent: one value of each for every batch, or part of one, whose
    /// items met their fate.
    pub phases: Phases<DurationSummary>,
    /// Times that a flusher slept for its next batch.
    pub parks: u64,
    /// Times that a flusher met an item whose producer had claimed its slot and not published it.
    pub stalls: u64,
    /// Panics of `Sink::write`, caught.
    pub sink_panics: u64,
    /// Panics of the caller's functions (weight, on_failed, `Drop` of an item), caught.
    pub callback_panics: u64,
}

/// How many batches were closed for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReasons([u64; FlushReason::ALL.len()]);

impl FlushReasons {
    /// Batches closed for this reason.
    #[must_use]
    pub fn get(&self, reason: FlushReason) -> u64 {
        self.0[reason.index()]
    }

    /// Every reason with its number of batches.
    pub fn iter(&self) -> impl Iterator<Item = (FlushReason, u64)> + '_ {
        FlushReason::ALL.into_iter().map(|reason| (reason, self.get(reason)))
    }

    pub(crate) fn count(&mut self, reason: FlushReason) {
        self.0[reason.index()] += 1;
    }
}

/// How many items were let go for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    pub(crate) fn new(newest: u64, oldest: u64, expired: u64) -> Self {
        Self([newest, oldest, expired])
    }

    /// Items let go for this reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its number of items.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.get(reason)))
    }
}

/// How the time of batches was spent, from the add of the first item to the end of the write: why a
/// flush was slow. Of a duration each, or of a distribution of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases<V = Duration> {
    /// In the ring, before a flusher turned to the batch: all of them were busy.
    pub queued: V,
    /// Collecting items, until a trigger closed the batch.
    pub forming: V,
    /// Ready, and the breaker was open.
    pub held: V,
    /// Ready, and the throttle, the retry budget or the limit on writes in flight said to wait.
    pub throttled: V,
    /// In the sink, all writes of it together.
    pub writing: V,
    /// Between a failed write and the next try, as the retry's delay says.
    pub backing_off: V,
}

/// What a batch that is ready waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Breaker,
    Throttle,
}

impl Phases {
    pub(crate) fn add(&mut self, cause: Cause, time: Duration) {
        match cause {
            Cause::Breaker => self.held += time,
            Cause::Throttle => self.throttled += time,
        }
    }
}

impl<V> Phases<V> {
    /// The phases by the names used in metrics and reports, in the order of time.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &V)> {
        let Self { queued, forming, held, throttled, writing, backing_off } = self;
        [
            ("queued", queued),
            ("forming", forming),
            ("held", held),
            ("throttled", throttled),
            ("writing", writing),
            ("backing_off", backing_off),
        ]
        .into_iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut V)> {
        let Self { queued, forming, held, throttled, writing, backing_off } = self;
        [
            ("queued", queued),
            ("forming", forming),
            ("held", held),
            ("throttled", throttled),
            ("writing", writing),
            ("backing_off", backing_off),
        ]
        .into_iter()
    }

    pub(crate) fn map<W>(self, mut each: impl FnMut(V) -> W) -> Phases<W> {
        Phases {
            queued: each(self.queued),
            forming: each(self.forming),
            held: each(self.held),
            throttled: each(self.throttled),
            writing: each(self.writing),
            backing_off: each(self.backing_off),
        }
    }
}

/// A distribution in a few numbers. Quantiles are exact to within 0.1 %, or 1 % for durations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Values recorded.
    pub count: u64,
    /// Their mean; 0 when there are none.
    pub mean: f64,
    /// The smallest.
    pub min: u64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90 % of the values are at most this.
    pub p90: u64,
    /// 99 % of the values are at most this.
    pub p99: u64,
    /// 99.9 % of the values are at most this.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

/// A distribution of durations; see [`Summary`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationSummary {
    /// Values recorded.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// The smallest.
    pub min: Duration,
    /// Half of the values are at most this.
    pub p50: Duration,
    /// 90 % of the values are at most this.
    pub p90: Duration,
    /// 99 % of the values are at most this.
    pub p99: Duration,
    /// 99.9 % of the values are at most this.
    pub p999: Duration,
    /// The largest.
    pub max: Duration,
}

/// A counter that orders nothing: Relaxed, and unseen by the models.
#[derive(Debug, Default)]
pub struct Counter(std::sync::atomic::AtomicU64);

impl Counter {
    pub const fn new(value: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(value))
    }

    /// Adds 1; returns what it was.
    pub fn count(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds so many.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Makes it at least so much.
    pub fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter with an end: what it says after [`close`](Self::close) is its last word. All is in one
/// word, so Relaxed does.
#[derive(Debug, Default)]
pub struct ClosingCounter(std::sync::atomic::AtomicU64);

impl ClosingCounter {
    const CLOSED: u64 = 1 << 63;

    /// Adds 1, unless closed; says whether it did.
    pub fn count(&self) -> bool {
        let order = Ordering::Relaxed;
        let next = |value| (value & Self::CLOSED == 0).then_some(value + 1);
        self.0.fetch_update(order, order, next).is_ok()
    }

    pub fn close(&self) {
        self.0.fetch_or(Self::CLOSED, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & !Self::CLOSED
    }
}

/// Longest duration told apart; longer ones count as this.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// A histogram of a fixed size: recording never allocates.
#[derive(Clone)]
pub struct Distribution {
    histogram: Histogram<u64>,
    /// Times that took no time: mostly all of some phase, and counted at no cost.
    zeros: u64,
}

impl Distribution {
    /// For values from 1 to `max`, to three digits.
    pub fn of_counts(max: u64) -> Self {
        Self::new(max, 3)
    }

    /// For durations, to two digits.
    pub fn of_durations() -> Self {
        Self::new(nanos(DURATION_MAX), 2)
    }

    fn new(max: u64, digits: u8) -> Self {
        let histogram = Histogram::new_with_bounds(1, max.max(2), digits);
        let histogram = histogram.expect("1 < 2 <= max, and at most 5 digits");
        Self { histogram, zeros: 0 }
    }

    pub fn record(&mut self, value: u64) {
        self.histogram.saturating_record(value);
    }

    pub fn record_duration(&mut self, value: Duration) {
        if value.is_zero() {
            self.zeros += 1;
        } else {
            self.record(nanos(value));
        }
    }

    /// Of everything recorded. Not to be recorded in any more.
    pub fn summary(mut self) -> Summary {
        if self.zeros > 0 {
            self.histogram.saturating_record_n(0, self.zeros);
        }
        let all = &self.histogram;
        if all.is_empty() {
            return Summary::default();
        }
        let at = |quantile| all.value_at_quantile(quantile).min(all.max());
        Summary {
            count: all.len(),
            mean: all.mean(),
            min: all.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: all.max(),
        }
    }

    pub fn duration_summary(self) -> DurationSummary {
        let Summary { count, mean, min, p50, p90, p99, p999, max } = self.summary();
        DurationSummary {
            count,
            mean: Duration::from_secs_f64(mean / 1e9),
            min: Duration::from_nanos(min),
            p50: Duration::from_nanos(p50),
            p90: Duration::from_nanos(p90),
            p99: Duration::from_nanos(p99),
            p999: Duration::from_nanos(p999),
            max: Duration::from_nanos(max),
        }
    }
}

/// Saturates after 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_closed_counter_keeps_its_word() {
        let counter = ClosingCounter::default();
        assert!(counter.count() && counter.count());
        counter.close();
        assert!(!counter.count());
        counter.close();
        assert_eq!(counter.get(), 2);
    }
}
