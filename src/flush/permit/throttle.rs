//! How much the sink is given per second: calls, items and bytes.
//!
//! A flusher asks *before* it forms a batch, so that a sink that must not be called yet makes the
//! batches grow. A call is one, and so a call waits until one may be made. But how many items and
//! bytes a batch will have is not known then; they are charged afterwards, and run into debt: the
//! next batch waits until that is paid. In any time the sink gets at most what the rate allows,
//! and `burst`, and one batch. Why not a crate: `docs/decisions/0013-own-throttle.md`.

use std::time::{Duration, Instant};

use super::meter::Meter;
use super::within;
use crate::config::ConfigError;

/// How much the sink is given per second, over all flushers. No limit unless told otherwise.
///
/// What is over the limit waits in the queue, and the batches grow; nothing is refused or lost.
///
/// ```
/// use sluicegate::Throttle;
///
/// let throttle = Throttle::default().calls_per_second(20.0).bytes_per_second(8e6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    pub(crate) calls_per_second: Option<f64>,
    pub(crate) items_per_second: Option<f64>,
    pub(crate) bytes_per_second: Option<f64>,
    pub(crate) burst: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            calls_per_second: None,
            items_per_second: None,
            bytes_per_second: None,
            burst: Duration::from_millis(100),
        }
    }
}

impl Throttle {
    /// How often the sink is called per second; `None`, the default, for no limit.
    #[must_use]
    pub fn calls_per_second(mut self, calls: impl Into<Option<f64>>) -> Self {
        self.calls_per_second = calls.into();
        self
    }

    /// Items per second; `None`, the default, for no limit. A batch goes out whole, and the next
    /// waits accordingly.
    #[must_use]
    pub fn items_per_second(mut self, items: impl Into<Option<f64>>) -> Self {
        self.items_per_second = items.into();
        self
    }

    /// Bytes per second, by the engine's weight function; `None`, the default, for no limit. A
    /// batch goes out whole, and the next waits accordingly.
    #[must_use]
    pub fn bytes_per_second(mut self, bytes: impl Into<Option<f64>>) -> Self {
        self.bytes_per_second = bytes.into();
        self
    }

    /// How much of what was not used is saved up: what the rates allow in this time. 100 ms unless
    /// told otherwise; one call is always allowed.
    #[must_use]
    pub fn burst(mut self, worth: Duration) -> Self {
        self.burst = worth;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        // By name, so that a new value cannot be forgotten here.
        let Self { calls_per_second, items_per_second, bytes_per_second, burst: _ } = *self;
        for (key, rate) in [
            ("throttle.calls_per_second", calls_per_second),
            ("throttle.items_per_second", items_per_second),
            ("throttle.bytes_per_second", bytes_per_second),
        ] {
            let Some(rate) = rate else { continue };
            within(rate.is_finite() && rate > 0.0, key, rate, "a number more than 0")?;
        }
        Ok(())
    }
}

/// What has been given, and so when there may be more.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    calls: Option<Meter>,
    items: Option<Meter>,
    bytes: Option<Meter>,
}

impl Buckets {
    /// Starts with `burst` saved up.
    pub(crate) fn new(throttle: Throttle, now: Instant) -> Self {
        let Throttle { calls_per_second, items_per_second, bytes_per_second, burst } = throttle;
        let owing = |rate: Option<f64>| rate.map(|rate| Meter::in_debt(rate, burst, now));
        Self {
            calls: calls_per_second.map(|rate| Meter::whole(rate, burst, now)),
            items: owing(items_per_second),
            bytes: owing(bytes_per_second),
        }
    }

    /// When the sink may be called; `None` for now.
    pub(crate) fn ready_at(&self, now: Instant) -> Option<Instant> {
        let meters = [&self.calls, &self.items, &self.bytes];
        meters.into_iter().flatten().filter_map(|meter| meter.ready_at(now)).max()
    }

    /// A call will be made.
    pub(crate) fn charge_call(&mut self, now: Instant) {
        if let Some(calls) = &mut self.calls {
            calls.charge(now, 1);
        }
    }

    /// It was not made after all.
    pub(crate) fn refund_call(&mut self) {
        if let Some(calls) = &mut self.calls {
            calls.refund();
        }
    }

    /// So much was in it.
    pub(crate) fn charge(&mut self, now: Instant, items: u64, bytes: u64) {
        for (meter, units) in [(&mut self.items, items), (&mut self.bytes, bytes)] {
            if let Some(meter) = meter {
                meter.charge(now, units);
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

    use super::*;
    use crate::seeded::runner;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_bad_value_is_refused_under_its_own_key() {
        let throttle = Throttle::default();
        assert_eq!(throttle.check(), Ok(()));
        assert_eq!(throttle.calls_per_second(0.01).burst(Duration::MAX).check(), Ok(()));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for (throttle, key) in [
                (throttle.calls_per_second(bad), "throttle.calls_per_second"),
                (throttle.items_per_second(bad), "throttle.items_per_second"),
                (throttle.bytes_per_second(bad), "throttle.bytes_per_second"),
            ] {
                assert_eq!(throttle.check().expect_err("must be refused").key(), key);
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let start = Instant::now();
        let mut buckets = Buckets::new(Throttle::default(), start);
        buckets.charge_call(start);
        buckets.charge(start, u64::MAX, u64::MAX);
        assert_eq!(buckets.ready_at(start), None);
    }

    #[test]
    fn a_batch_runs_into_debt_and_the_next_waits_until_it_is_paid() {
        let start = Instant::now();
        let mut buckets = Buckets::new(Throttle::default().items_per_second(1_000.0), start);
        buckets.charge(start, 600, 0); // 100 were saved up
        let paid = start + 500 * MS;
        assert_eq!(buckets.ready_at(start), Some(paid));
        assert_eq!(buckets.ready_at(paid - MS), Some(paid));
        assert_eq!(buckets.ready_at(paid), None);
    }

    #[test]
    fn the_slowest_of_all_limits_counts() {
        let start = Instant::now();
        let throttle = Throttle::default().burst(Duration::ZERO).calls_per_second(10.0);
        let throttle = throttle.items_per_second(100.0).bytes_per_second(1_000.0);
        for (items, bytes, wait) in [(1, 1, 100), (20, 1, 200), (20, 300, 300)] {
            let mut buckets = Buckets::new(throttle, start);
            buckets.charge_call(start);
            buckets.charge(start, items, bytes);
            assert_eq!(buckets.ready_at(start), Some(start + wait * MS), "{items}, {bytes}");
        }
    }

    #[test]
    fn a_call_that_was_not_made_costs_nothing() {
        let start = Instant::now();
        let mut buckets = Buckets::new(Throttle::default().calls_per_second(1.0), start);
        buckets.charge_call(start);
        assert!(buckets.ready_at(start).is_some());
        buckets.refund_call();
        assert_eq!(buckets.ready_at(start), None);
    }

    /// Of those who come at any times and keep to what `ready_at` says.
    #[test]
    fn in_any_time_the_sink_gets_its_rates_a_burst_and_one_batch() {
        let batch = (0..5_000_u64, 1..500_u64, 0..9_000_u64);
        let cases = (
            (1.0..2_000.0_f64, 10.0..9e4_f64, 10.0..9e5_f64, 0..500_u32),
            proptest::collection::vec(batch, 1..60),
        );
        runner(300).run(&cases, |(setup, batches)| within_bounds(setup, &batches)).unwrap();
    }

    fn within_bounds(
        (calls, items, bytes, burst): (f64, f64, f64, u32),
        batches: &[(u64, u64, u64)],
    ) -> Result<(), TestCaseError> {
        let throttle = Throttle::default().burst(burst * MS).calls_per_second(calls);
        let throttle = throttle.items_per_second(items).bytes_per_second(bytes);
        let start = Instant::now();
        let mut buckets = Buckets::new(throttle, start);
        let (mut now, mut sent) = (start, Vec::new());
        for (pause, in_batch, of_bytes) in batches {
            now += Duration::from_micros(*pause);
            while let Some(ready) = buckets.ready_at(now) {
                prop_assert!(ready > now);
                now = ready;
            }
            buckets.charge_call(now);
            buckets.charge(now, *in_batch, *of_bytes);
            sent.push((now, *in_batch, *of_bytes));
        }
        for from in 0..sent.len() {
            let (mut call_sum, mut item_sum, mut byte_sum) = (0.0, 0.0, 0.0);
            for (at, in_batch, of_bytes) in &sent[from..] {
                let seconds = (*at - sent[from].0).as_secs_f64() + 1e-8; // rounded to nanoseconds
                let saved = f64::from(burst) / 1e3;
                // Items and bytes without the last batch, which runs into debt.
                prop_assert!(item_sum <= items * (seconds + saved) + 1e-6);
                prop_assert!(byte_sum <= bytes * (seconds + saved) + 1e-6);
                (call_sum, item_sum) = (call_sum + 1.0, item_sum + *in_batch as f64);
                byte_sum += *of_bytes as f64;
                prop_assert!(call_sum <= calls * seconds + (calls * saved).max(1.0) + 1e-6);
            }
        }
        Ok(())
    }
}
