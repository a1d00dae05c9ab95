//! A rate, kept as one instant (GCRA), which may run into debt.
//!
//! What is admitted moves `free_at` on by what it costs at that rate. How far `free_at` is ahead of
//! now is what is owed; up to `slack` may be owed without waiting. So nothing has to be filled up
//! from time to time, and no error adds up: time is counted in whole ticks, of which a nanosecond
//! has 2³², and is never added to a float. In whole nanoseconds, 300 MB/s would be off by a tenth.
//!
//! Absurd rates and amounts end at the largest number of ticks, which is later than any clock.

use std::time::{Duration, Instant};

use super::{FAR, later};

/// A nanosecond has two to the power of this many ticks. Any [`Duration`] fits in 126 bits then.
const TICK_BITS: u32 = 32;

/// So many units per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    origin: Instant,
    /// Ticks that one unit takes.
    cost: u128,
    /// Ticks that may be owed without waiting.
    slack: u128,
    /// Ticks after `origin` at which nothing is owed.
    free_at: u128,
}

impl Meter {
    /// Admits a unit when a whole one is there; in `burst` it saves up what it would admit in that
    /// time, but always one.
    pub(crate) fn whole(rate: f64, burst: Duration, now: Instant) -> Self {
        let mut meter = Self::in_debt(rate, burst, now);
        meter.slack = meter.slack.saturating_sub(meter.cost);
        meter
    }

    /// Admits any amount when nothing is owed beyond what was saved up in `burst`.
    pub(crate) fn in_debt(rate: f64, burst: Duration, now: Instant) -> Self {
        // A cast from a float ends at the largest number. Rounded up: never more than the rate.
        #[allow(clippy::cast_possible_truncation)]
        let cost = (ticks(Duration::from_secs(1)) as f64 / rate).ceil() as u128;
        Self { origin: now, cost: cost.max(1), slack: ticks(burst), free_at: 0 }
    }

    /// When it admits the next; `None` for now.
    pub(crate) fn ready_at(&self, now: Instant) -> Option<Instant> {
        let ready = self.free_at.saturating_sub(self.slack);
        // Rounded down to the clock's nanoseconds: a wait that was rounded up would not be charged,
        // and each would cost some of the rate.
        let wait = ready.saturating_sub(self.since_origin(now)) >> TICK_BITS;
        let wait = Duration::from_nanos_u128(wait.min(FAR.as_nanos()));
        (!wait.is_zero()).then(|| later(now, wait))
    }

    /// Writes down what was admitted.
    pub(crate) fn charge(&mut self, now: Instant, units: u64) {
        let from = self.free_at.max(self.since_origin(now));
        self.free_at = from.saturating_add(self.cost.saturating_mul(u128::from(units)));
    }

    /// Takes back what was charged for a unit that was not used after all.
    pub(crate) fn refund(&mut self) {
        self.free_at = self.free_at.saturating_sub(self.cost);
    }

    fn since_origin(&self, now: Instant) -> u128 {
        ticks(now.saturating_duration_since(self.origin))
    }
}

fn ticks(duration: Duration) -> u128 {
    duration.as_nanos() << TICK_BITS
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seeded::runner;

    const SECOND: Duration = Duration::from_secs(1);

    /// Units per second, from one in a fortnight to more than memory moves.
    fn rates() -> impl Strategy<Value = f64> {
        (-6.0..11.5_f64).prop_map(|power| 10_f64.powf(power))
    }

    #[test]
    #[allow(clippy::cast_possible_truncation)] // rates of this test fit
    fn the_long_run_has_the_rate_to_a_millionth() {
        let cases = (rates(), 0..2_000_u64, proptest::collection::vec(1..2_000_u64, 1..9));
        runner(200)
            .run(&cases, |(rate, burst, amounts)| {
                // Up to two thousandths of a second's worth at a time, and whole units.
                let scale = ((rate / 1e6) as u64).max(1);
                let start = Instant::now();
                let mut meter = Meter::in_debt(rate, Duration::from_millis(burst), start);
                meter.charge(start, (rate * 3.0) as u64 + 1); // more than was saved up
                let first = meter.ready_at(start).unwrap();
                let (mut now, mut units) = (first, 0);
                for amount in amounts.iter().cycle() {
                    meter.charge(now, amount * scale);
                    units += amount * scale;
                    let ready = meter.ready_at(now).unwrap();
                    prop_assert!(meter.ready_at(ready).is_none() && ready > now);
                    now = ready;
                    let seconds = (now - first).as_secs_f64();
                    if seconds > 1.0 {
                        let off = seconds * rate / units as f64 - 1.0;
                        prop_assert!(off.abs() < 1e-6, "{off}");
                        return Ok(());
                    }
                }
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn a_whole_meter_admits_its_burst_at_once_and_always_one() {
        let start = Instant::now();
        for (rate, burst, admitted) in [
            (100.0, SECOND / 10, 10),
            (100.0, SECOND / 100, 1),
            (100.0, Duration::ZERO, 1),
            (0.001, SECOND, 1),
            (3.0, SECOND, 3),
        ] {
            let mut meter = Meter::whole(rate, burst, start);
            let mut count = 0;
            while meter.ready_at(start).is_none() {
                meter.charge(start, 1);
                count += 1;
            }
            assert_eq!(count, admitted, "{rate} per second, {burst:?}");
            meter.refund();
            assert_eq!(meter.ready_at(start), None, "a unit that was not used is there again");
        }
    }

    #[test]
    fn no_value_is_too_absurd() {
        let values = (any::<f64>(), any::<Duration>(), any::<u64>(), any::<u32>());
        runner(500)
            .run(&values, |(rate, burst, units, later)| {
                let start = Instant::now();
                let now = start + Duration::from_secs(u64::from(later));
                for mut meter in
                    [Meter::whole(rate, burst, start), Meter::in_debt(rate, burst, start)]
                {
                    prop_assert_eq!(meter.ready_at(start), None, "the first is admitted at once");
                    for at in [now, start, now] {
                        meter.charge(at, units);
                        let ready = meter.ready_at(at);
                        prop_assert!(ready.is_none_or(|ready| ready > at));
                    }
                    meter.refund();
                }
                Ok(())
            })
            .unwrap();
    }
}
