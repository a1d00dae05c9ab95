//! How long a failed item waits for its next write, and how many retries there may be in all.
//!
//! **Delays** double from `initial_delay` to `max_delay`, and the wait is drawn evenly from nothing
//! to that ("full jitter": M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
//! 2015), so that what failed together does not come back together.
//!
//! **The budget** is for the engine as a whole. Delays alone do not help a sink that is overloaded:
//! with enough items each waiting its turn, retries are most of what it gets. So a retry needs a
//! token. Each fresh write brings `budget` of one, and beside them come `budget_floor` a second, so
//! that there is a way out when nothing fresh is written. Those of the floor go first: they are
//! lost when they are not used within a second, the others are kept, up to [`KEPT`].

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::meter::Meter;
use super::{FAR, later, nonzero, within};
use crate::config::ConfigError;

/// Tokens from fresh writes that are kept at most.
const KEPT: u64 = 100;
/// Parts of a token; whole numbers, so that ten tenths are one.
const TOKEN: u64 = 1_000_000_000;

/// How failed items are tried again.
///
/// An item waits a random time between nothing and a limit that doubles with each of its failures,
/// and needs a share of the budget, which bounds the retries of all items together.
///
/// ```
/// use sluicegate::Retry;
/// use std::time::Duration;
///
/// let retry = Retry::default().max_attempts(5).max_delay(Duration::from_secs(2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    pub(crate) initial_delay: Duration,
    pub(crate) max_delay: Duration,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) give_up_after: Option<Duration>,
    pub(crate) budget: f64,
    pub(crate) budget_floor: f64,
    pub(crate) max_items: Option<usize>,
    pub(crate) max_bytes: u64,
    pub(crate) unknown: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            max_attempts: Some(20),
            give_up_after: Some(Duration::from_secs(120)),
            budget: 0.2,
            budget_floor: 10.0,
            max_items: None,
            max_bytes: 64 << 20,
            unknown: false,
        }
    }
}

impl Retry {
    /// The most that an item waits after its first failure; each further failure doubles it.
    /// 100 ms unless told otherwise.
    #[must_use]
    pub fn initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// Where the doubling ends. 10 s unless told otherwise.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// How often an item is written at most, the first time included; `None` for no such limit.
    /// 20 unless told otherwise.
    #[must_use]
    pub fn max_attempts(mut self, writes: impl Into<Option<u32>>) -> Self {
        self.max_attempts = writes.into();
        self
    }

    /// How long after its first failure an item is no longer tried again; `None` for no such limit.
    /// Two minutes unless told otherwise.
    #[must_use]
    pub fn give_up_after(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.give_up_after = age.into();
        self
    }

    /// Retries per fresh write, over all items. 0.2 unless told otherwise: beside the floor, at most
    /// a sixth of what the sink gets is written again.
    #[must_use]
    pub fn budget(mut self, retries_per_write: f64) -> Self {
        self.budget = retries_per_write;
        self
    }

    /// Retries per second that are allowed beside the budget, however little is written; more than
    /// 0. 10 unless told otherwise.
    #[must_use]
    pub fn budget_floor(mut self, retries_per_second: f64) -> Self {
        self.budget_floor = retries_per_second;
        self
    }

    /// How many items may wait for a retry; `None`, the default, for as many as `queue_depth`
    /// and one batch for each write that may be in flight. A
    /// batch may always wait where no other does, however large. What finds no room has failed; but
    /// while there is none for a batch, fresh ones are not written, unless the engine is told not
    /// to hold by [`breaker(None)`](crate::Builder::breaker) or
    /// [`WhileOpen::DeadLetter`](crate::WhileOpen::DeadLetter).
    #[must_use]
    pub fn max_items(mut self, items: impl Into<Option<usize>>) -> Self {
        self.max_items = items.into();
        self
    }

    /// How many bytes the items that wait for a retry may have together, by the engine's weight
    /// function. 64 MiB unless told otherwise.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Whether to try again what may have taken effect already. Only for sinks that recognise a
    /// batch by its id, or an item by its key: any other may apply it twice. Off unless told
    /// otherwise.
    #[must_use]
    pub fn unknown(mut self, retry: bool) -> Self {
        self.unknown = retry;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        // By name, so that a new value cannot be forgotten here.
        let Self {
            initial_delay,
            max_delay,
            max_attempts,
            give_up_after,
            budget,
            budget_floor,
            max_items,
            max_bytes,
            unknown: _,
        } = *self;
        nonzero("retry.initial_delay", initial_delay)?;
        within(
            max_delay >= initial_delay,
            "retry.max_delay",
            format_args!("{max_delay:?}"),
            "at least retry.initial_delay",
        )?;
        nonzero("retry.max_attempts", max_attempts.unwrap_or(1))?;
        nonzero("retry.give_up_after", give_up_after.unwrap_or(max_delay))?;
        for (key, value) in [("retry.budget", budget), ("retry.budget_floor", budget_floor)] {
            within(value.is_finite() && value >= 0.0, key, value, "a number from 0 up")?;
        }
        within(
            budget_floor > 0.0,
            "retry.budget_floor",
            budget_floor,
            "more than 0: fresh writes may wait for retries, and bring them no tokens then",
        )?;
        nonzero("retry.max_items", max_items.unwrap_or(1))?;
        nonzero("retry.max_bytes", max_bytes)
    }

    /// How long an item waits that has failed so many times.
    pub(crate) fn delay(&self, failures: u32, rng: &mut Rng) -> Duration {
        Duration::from_nanos_u128(rng.u128(0..=self.cap(failures).as_nanos()))
    }

    /// The longest that it waits.
    fn cap(&self, failures: u32) -> Duration {
        let initial = self.initial_delay.min(self.max_delay);
        if initial.is_zero() {
            return initial;
        }
        let doubled = 1_u128
            .checked_shl(failures.saturating_sub(1))
            .and_then(|factor| factor.checked_mul(initial.as_nanos()))
            .unwrap_or(u128::MAX);
        Duration::from_nanos_u128(doubled.min(self.max_delay.as_nanos()))
    }
}

/// The retries that there may be, over all items.
#[derive(Clone, Debug)]
pub(crate) struct RetryBudget {
    /// Parts of a token that one fresh write brings.
    share: u64,
    /// Parts of a token from fresh writes.
    kept: u64,
    floor: Option<Meter>,
}

impl RetryBudget {
    /// Starts with a second's worth of the floor.
    pub(crate) fn new(retry: &Retry, now: Instant) -> Self {
        // A cast from a float ends at 0 and at the largest number.
        #[allow(clippy::cast_possible_truncation)]
        let share = (retry.budget * TOKEN as f64).round() as u64;
        let floor = (retry.budget_floor > 0.0)
            .then(|| Meter::whole(retry.budget_floor, Duration::from_secs(1), now));
        Self { share, kept: 0, floor }
    }

    /// Something was written for the first time.
    pub(crate) fn fresh(&mut self) {
        self.kept = self.kept.saturating_add(self.share).min(KEPT * TOKEN);
    }

    /// It was not, after all.
    pub(crate) fn not_fresh(&mut self) {
        self.kept = self.kept.saturating_sub(self.share);
    }

    /// When there will be a token, if nothing fresh is written before; `None` for now. A hundred
    /// years ahead where only a fresh write helps.
    pub(crate) fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        if self.kept >= TOKEN {
            return None;
        }
        match &self.floor {
            Some(floor) => floor.ready_at(now),
            None => Some(later(now, FAR)),
        }
    }

    /// Uses a token. One that was not there is paid back first.
    pub(crate) fn take(&mut self, now: Instant) {
        match &mut self.floor {
            Some(floor) if self.kept < TOKEN || floor.ready_at(now).is_none() => {
                floor.charge(now, 1);
            }
            _ => self.kept = self.kept.saturating_sub(TOKEN),
        }
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof};
    use proptest::test_runner::TestCaseError;

    use super::*;
    use crate::seeded::runner;

    fn budget(budget: f64, floor: f64, now: Instant) -> RetryBudget {
        RetryBudget::new(&Retry::default().budget(budget).budget_floor(floor), now)
    }

    /// Takes what is there now, and says how much that was.
    fn drain(budget: &mut RetryBudget, now: Instant) -> u64 {
        let mut taken = 0;
        while budget.ready_at(now).is_none() {
            budget.take(now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn each_bad_value_is_refused_under_its_own_key() {
        assert_eq!(Retry::default().check(), Ok(()));
        let no_limits = Retry::default().max_attempts(None).give_up_after(None).max_items(None);
        assert_eq!(no_limits.check(), Ok(()));
        let retry = Retry::default();
        for (bad, key) in [
            (retry.initial_delay(Duration::ZERO), "retry.initial_delay"),
            (retry.max_delay(Duration::from_millis(99)), "retry.max_delay"),
            (retry.max_attempts(0), "retry.max_attempts"),
            (retry.give_up_after(Duration::ZERO), "retry.give_up_after"),
            (retry.budget(-0.1), "retry.budget"),
            (retry.budget(f64::NAN), "retry.budget"),
            (retry.budget_floor(f64::INFINITY), "retry.budget_floor"),
            (retry.budget(0.0).budget_floor(0.0), "retry.budget_floor"),
            (retry.max_items(0), "retry.max_items"),
            (retry.max_bytes(0), "retry.max_bytes"),
        ] {
            let error = bad.check().expect_err("must be refused");
            assert_eq!(error.key(), key);
            assert!(error.to_string().starts_with(&format!("{key}: ")), "{error}");
        }
    }

    #[test]
    fn delays_double_up_to_the_limit_and_are_drawn_from_all_of_it() {
        let retry = Retry::default();
        let caps = [0, 1, 2, 3, 7, 8, 9, u32::MAX].map(|failures| retry.cap(failures).as_millis());
        assert_eq!(caps, [100, 100, 200, 400, 6_400, 10_000, 10_000, 10_000]);
        let mut rng = Rng::with_seed(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let tenth = retry.delay(1, &mut rng).as_nanos() / 10_000_001;
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1_150).contains(count)), "{tenths:?}");
    }

    #[test]
    fn no_delay_overflows_or_shrinks_with_more_failures() {
        let cases = (any::<Duration>(), any::<Duration>(), any::<u32>(), 0..300_u32, any::<u64>());
        runner(1_000)
            .run(&cases, |(initial, max, any, few, seed)| {
                let retry = Retry::default().initial_delay(initial).max_delay(max);
                let mut rng = Rng::with_seed(seed);
                for failures in [0, few, any, u32::MAX - 1, u32::MAX] {
                    let cap = retry.cap(failures);
                    prop_assert!(cap <= max && retry.delay(failures, &mut rng) <= cap);
                    prop_assert!(cap <= retry.cap(failures.saturating_add(1)));
                }
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn the_floor_is_there_at_the_start_and_comes_back_with_time() {
        let start = Instant::now();
        let mut budget = budget(0.0, 10.0, start);
        assert_eq!(drain(&mut budget, start), 10);
        assert_eq!(budget.ready_at(start), Some(start + Duration::from_millis(100)));
        assert_eq!(drain(&mut budget, start + Duration::from_millis(350)), 3);
        assert_eq!(
            drain(&mut budget, start + Duration::from_secs(3_600)),
            10,
            "one second's worth"
        );
    }

    #[test]
    fn fresh_writes_bring_tokens_that_are_kept_and_bounded() {
        let start = Instant::now();
        let mut tenth = budget(0.1, 0.0, start);
        assert!(tenth.ready_at(start).is_some_and(|ready| ready > start + FAR / 2));
        (0..9).for_each(|_| tenth.fresh());
        assert_eq!(drain(&mut tenth, start), 0);
        tenth.fresh();
        assert_eq!(drain(&mut tenth, start), 1, "ten tenths are one");
        (0..1_000_000).for_each(|_| tenth.fresh());
        assert_eq!(drain(&mut tenth, start + FAR), KEPT);
        let mut both = budget(1.0, 5.0, start);
        both.fresh();
        (0..5).for_each(|_| both.take(start));
        assert_eq!(both.ready_at(start), None, "the floor went first");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Fresh(u32),
        Drain,
        Advance(Duration),
    }

    #[test]
    fn retries_stay_within_the_budget_in_every_interval() {
        let op = prop_oneof![
            (0..2_000_u32).prop_map(Op::Fresh),
            Just(Op::Drain),
            (0..3_000_u64).prop_map(|ms| Op::Advance(Duration::from_millis(ms))),
        ];
        let cases = (0.0..3.0_f64, 0.0..50.0_f64, proptest::collection::vec(op, 1..60));
        runner(300).run(&cases, |(share, floor, ops)| within_bounds(share, floor, &ops)).unwrap();
    }

    /// After each step so much time has passed, so much was written and so often retried.
    fn within_bounds(share: f64, floor: f64, ops: &[Op]) -> Result<(), TestCaseError> {
        let start = Instant::now();
        let mut budget = budget(share, floor, start);
        let (mut now, mut fresh, mut taken) = (start, 0_u32, 0_u64);
        let mut marks = vec![(now, fresh, taken)];
        for op in ops {
            match op {
                Op::Fresh(writes) => {
                    (0..*writes).for_each(|_| budget.fresh());
                    fresh += writes;
                }
                Op::Drain => taken += drain(&mut budget, now),
                Op::Advance(by) => now += *by,
            }
            for (since, fresh_before, taken_before) in &marks {
                let bound = floor * (now - *since).as_secs_f64()
                    + floor.max(1.0)
                    + share * f64::from(fresh - fresh_before)
                    + KEPT as f64;
                prop_assert!((taken - taken_before) as f64 <= bound + 1e-3);
            }
            marks.push((now, fresh, taken));
        }
        Ok(())
    }
}
