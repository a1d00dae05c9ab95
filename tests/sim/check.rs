//! What must hold, whatever happens: at each call of the sink, and after each step.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sluicegate::{Applied, BreakerState, Class, OnFailure, Stats, Tally, WhileOpen};

use super::fates::{Fate, Fates, Going};
use super::meter::{Bucket, Tokens};
use super::{Scenario, Seen};
use crate::common::assert_balances;

/// A call of the sink.
pub struct Call {
    pub at: Instant,
    pub ended: Instant,
    pub id: (u64, u32),
    pub bytes: u64,
    pub items: Vec<u64>,
    pub marked: Vec<Option<(Class, Applied)>>,
    pub said: Result<(), (Class, Applied)>,
}

pub struct Checks {
    pub scenario: Scenario,
    pub start: Instant,
    /// The sink is well from now on.
    pub well: bool,
    /// It has panicked, and a pump opens no other.
    pub gone: bool,
    pub halted: bool,
    pub fates: Fates,
    pub seen: Seen,
    /// Items that are in, in the order in which they went in.
    pub written: Vec<u64>,
    /// Letters that the dead-letter sink has taken, and those that it has not.
    pub buried: u64,
    pub unburied: u64,
    /// The dead-letter sink has panicked and is asked no more.
    pub grave_gone: bool,
    /// Items of each batch and part, by name.
    contents: HashMap<(u64, u32), Vec<u64>>,
    calls: u64,
    retries: u64,
    /// The last batch known to be formed.
    last_batch: u64,
    tokens: Option<Tokens>,
    throttle: [Option<Bucket>; 3],
    /// Bytes of the largest call.
    largest: u64,
}

impl Checks {
    pub fn new(scenario: Scenario, start: Instant) -> Self {
        let burst = 0.1; // the throttle's, in seconds
        let debt = |rate: Option<f64>| rate.map(|rate| Bucket::new(rate, rate * burst, start));
        let calls = scenario.calls_per_second;
        let calls = calls.map(|rate| Bucket::new(rate, (rate * burst).max(1.0), start));
        let bytes = scenario.weights.as_ref().and_then(|weights| weights.per_second);
        let throttle = [calls, debt(scenario.items_per_second), debt(bytes)];
        let mut tokens =
            scenario.retry.as_ref().map(|retry| Tokens::new(retry.budget, retry.floor, start));
        if let Some(tokens) = &mut tokens {
            tokens.either = scenario.max_age.is_some();
        }
        Self {
            scenario,
            start,
            well: false,
            gone: false,
            halted: false,
            fates: Fates::default(),
            seen: Seen::default(),
            written: Vec::new(),
            buried: 0,
            unburied: 0,
            grave_gone: false,
            contents: HashMap::new(),
            calls: 0,
            retries: 0,
            last_batch: 0,
            tokens,
            throttle,
            largest: 0,
        }
    }

    /// The sink was called.
    pub fn called(&mut self, call: &Call) {
        let Call { id, items, .. } = call;
        self.calls += 1;
        let known = self.contents.entry(*id).or_insert_with(|| items.clone());
        let same = known == items;
        self.fates.must(same, || format!("{id:?} has other items now"));
        self.size(call);
        let kinds = items.iter().map(|item| self.fates.item(*item).going);
        let kind = kinds.max_by_key(|going| *going == Going::Again).unwrap_or(Going::Fresh);
        self.rates(call, kind);
        for item in items {
            self.may_write(*item, call.at, kind);
            self.fates.call(*item, *id);
        }
        self.answered(call);
    }

    /// How much is in one call.
    fn size(&mut self, call: &Call) {
        let count = call.items.len();
        let size = self.scenario.size;
        self.fates.must((1..=size).contains(&count), || format!("{count} items, {size}"));
        let Some(weights) = &self.scenario.weights else { return };
        let sum: u64 = call.items.iter().map(|item| weights.of(*item)).sum();
        let most = weights.max_batch_bytes.unwrap_or(u64::MAX);
        let right = call.bytes == sum && (sum <= most || count == 1);
        self.fates.must(right, || format!("{sum} bytes, said {}, {most}", call.bytes));
        self.largest = self.largest.max(sum);
    }

    /// How often, and how much in a time.
    fn rates(&mut self, call: &Call, kind: Going) {
        let at = call.at;
        let amounts = [(1.0, 1.0), (0.0, call.items.len() as f64), (0.0, call.bytes as f64)];
        for (bucket, (needed, amount)) in self.throttle.iter_mut().zip(amounts) {
            let there = bucket.as_mut().is_none_or(|bucket| bucket.take(at, needed, amount));
            self.fates.must(there, || format!("throttled, and written: {:?}", call.id));
        }
        if call.id.0 > self.last_batch {
            self.last_batch = call.id.0;
            if let Some(tokens) = &mut self.tokens {
                tokens.fresh();
            }
        }
        if kind == Going::Again {
            self.retries += 1;
            let kept = self.tokens.as_ref().map(|tokens| tokens.kept);
            let allowed = self.tokens.as_mut().is_some_and(|tokens| tokens.retry(at));
            let from_budget = self.tokens.as_ref().map(|tokens| tokens.kept) < kept;
            self.seen.add("retry from the budget", u64::from(from_budget));
            self.fates.must(allowed, || format!("{:?} has no token", call.id));
        }
    }

    fn parks(&self) -> bool {
        self.scenario.on_failure == OnFailure::ParkKey
    }

    /// Whether it may be written now.
    fn may_write(&mut self, number: u64, at: Instant, kind: Going) {
        let retry = self.scenario.retry.clone();
        let max_age = self.scenario.max_age;
        let since = self.scenario.added(number, self.start);
        let item = self.fates.item(number);
        item.retries += u32::from(kind == Going::Again);
        let item = item.clone();
        let old = |from: Instant| at.saturating_duration_since(from);
        let failing = item.first_failed.map_or(Duration::ZERO, old);
        if let Some(retry) = &retry {
            let late = item.first_failed.is_some() && failing >= retry.give_up_after;
            self.fates.must(!late, || format!("written, and has failed for {failing:?}: {item:?}"));
            let often = item.retries >= retry.max_attempts;
            self.fates.must(!often, || format!("one try too many: {item:?}"));
        }
        let twice = item.maybe && !retry.is_some_and(|retry| retry.unknown);
        self.fates.must(!twice, || format!("it may be in, and is written again: {item:?}"));
        let fresh = item.fate.is_none();
        self.fates.must(fresh, || format!("it has its fate, and is written: {item:?}"));
        if let Some(age) = max_age {
            let old = old(since.unwrap_or(item.added));
            self.fates.must(old <= age, || format!("written {old:?} after its add: {item:?}"));
        }
    }

    /// What the sink has said.
    fn answered(&mut self, call: &Call) {
        let Call { ended, items, marked, said, .. } = call;
        let mut refused = Vec::new();
        for (number, mark) in items.iter().zip(marked) {
            let Some(error) = mark.or(said.err()) else {
                self.written.push(*number);
                self.fates.meet(*number, Fate::In);
                continue;
            };
            let halved = mark.is_none()
                && matches!(error, (Class::Permanent | Class::TooLarge, Applied::Nothing));
            let item = self.fates.item(*number);
            item.first_failed.get_or_insert(*ended);
            item.maybe |= error.1 == Applied::Unknown;
            item.going = if halved { Going::Halved } else { Going::Again };
            refused.push(*number);
        }
        if refused.iter().any(|number| self.fates.item(*number).maybe) {
            refused.iter().for_each(|number| self.fates.item(*number).beside = true);
        }
    }

    /// The engine says that this item has failed for good.
    pub fn lost(&mut self, number: u64, applied: Applied) {
        let asked = self.fates.item(number).calls > 0;
        let unasked = self.gone || self.scenario.breaker == Some(WhileOpen::DeadLetter);
        self.fates.must(asked || unasked, || format!("{number} was never written, and failed"));
        self.fates.lost(number, applied);
    }

    /// After each step: what the engine says against what was seen.
    pub fn step(&mut self, tally: &Tally) {
        assert_balances(tally);
        let Fates { taken, failed, unknown, dropped, open, waiting, .. } = self.fates;
        assert_eq!(self.fates.wrong, None, "{:?}", self.scenario);
        let told = (tally.enqueued, tally.flushed_ok, tally.dropped);
        assert_eq!(told, (self.fates.added(), taken, dropped), "{:?}", self.scenario);
        let lost = (tally.flushed_fail, tally.unknown);
        // Without `on_failed` nobody hears of failed items before the end.
        if self.scenario.on_failed {
            assert_eq!((lost, tally.in_flight), ((failed, unknown), open), "{:?}", self.scenario);
            self.memory();
        } else {
            assert!(lost.0 >= failed && lost.1 >= unknown, "{lost:?} {:?}", self.scenario);
            let unheard = lost.0 + lost.1 - failed - unknown;
            assert_eq!(tally.in_flight + unheard, open, "{:?}", self.scenario);
            let unasked = self.gone || self.scenario.breaker == Some(WhileOpen::DeadLetter);
            assert!(unheard <= if unasked { open } else { waiting }, "{:?}", self.scenario);
        }
    }

    /// The most that may wait to be written again, or behind such: see `docs/failure.md`.
    fn waiting_max(&self) -> u64 {
        let Scenario { retry, size, on_failure, .. } = &self.scenario;
        let batch = *size as u64;
        match (on_failure, retry) {
            (OnFailure::Halt, _) => batch, // nothing passes it
            (OnFailure::Skip, None) => batch,
            // With no word on it: the queue, and a batch. And what is left of one in halves.
            (OnFailure::ParkKey, None) => self.scenario.depth as u64 + 2 * batch,
            (_, Some(retry)) => batch.max(retry.max_items as u64) + batch,
        }
    }

    /// Where everything is heard of, all that is in memory is known.
    fn memory(&self) {
        let Fates { open, open_bytes, waiting, waiting_bytes, .. } = self.fates;
        let Scenario { depth, size, retry, weights, .. } = &self.scenario;
        let most = self.waiting_max();
        assert!(waiting <= most, "{waiting} wait, {most}: {:?}", self.scenario);
        let parked = if self.parks() { most } else { 0 };
        let most = (depth + size) as u64 + parked;
        assert!(self.gone || open - waiting <= most, "{open}, {waiting}: {:?}", self.scenario);
        let Some(weights) = weights else { return };
        let most = weights.max_queue_bytes.unwrap_or(u64::MAX);
        assert!(open_bytes <= most, "{open_bytes} bytes, {most}: {:?}", self.scenario);
        let Some(most) = retry.as_ref().and(weights.max_waiting_bytes) else { return };
        let most = most.max(self.largest) + 2 * self.largest;
        assert!(waiting_bytes <= most, "{waiting_bytes} bytes wait: {:?}", self.scenario);
    }

    /// The engine's figures; they take their time.
    pub fn figures(&mut self, stats: &Stats) {
        self.step(&stats.tally);
        let scenario = &self.scenario;
        let Fates { open_bytes, waiting, .. } = self.fates;
        self.seen.add("open breaker", u64::from(stats.breaker != BreakerState::Closed));
        let (queued, waits) = (stats.queue_depth, stats.retry_items);
        assert!(queued <= scenario.depth as u64, "{queued} are queued: {scenario:?}");
        assert!(waits <= self.waiting_max(), "{waits} wait: {scenario:?}");
        let forming = stats.tally.in_flight.checked_sub(queued + waits);
        let fits = forming.is_some_and(|forming| forming <= scenario.size as u64);
        assert!(fits, "{queued} and {waits} of {}: {scenario:?}", stats.tally.in_flight);
        if scenario.on_failed && !self.gone {
            let parked = waits.checked_sub(waiting);
            assert!(parked == Some(0) || parked.is_some() && self.parks(), "{waits} {waiting}");
            self.seen.add("parked", parked.unwrap_or(0));
        }
        let weights = scenario.weights.as_ref();
        if weights.is_some_and(|weights| weights.max_queue_bytes.is_some()) {
            let exact = stats.queue_bytes == open_bytes;
            let right = exact || !scenario.on_failed && stats.queue_bytes < open_bytes;
            assert!(right, "{} bytes, {open_bytes}: {scenario:?}", stats.queue_bytes);
        }
        assert_eq!(stats.dead_lettered, self.buried);
        let unburied = stats.dead_letter_failures;
        assert!(unburied == self.unburied || self.grave_gone && unburied > self.unburied);
        assert_eq!(stats.writes_max.is_some(), scenario.adaptive.is_some());
        assert!(stats.writes_max.is_none_or(|most| most >= 1 && Some(most) <= scenario.adaptive));
        let exact = !self.gone && scenario.max_age.is_none();
        assert!(if exact { stats.writes == self.calls } else { stats.writes >= self.calls });
        assert!(if exact { stats.retries == self.retries } else { stats.retries >= self.retries });
        let overflows = stats.retry_overflows;
        assert!(overflows == 0 || !self.never_overflows(), "{overflows}: {:?}", self.scenario);
    }

    /// Where fresh batches wait while there is no room for them to fail, nothing is lost for that.
    fn never_overflows(&self) -> bool {
        let Scenario { retry, size, weights, breaker, on_failure, .. } = &self.scenario;
        let fits = retry.as_ref().is_none_or(|retry| *size <= retry.max_items)
            && weights.as_ref().is_none_or(|weights| weights.max_waiting_bytes.is_none());
        match on_failure {
            OnFailure::Halt => true,
            OnFailure::ParkKey => fits,
            OnFailure::Skip => fits && *breaker == Some(WhileOpen::Hold),
        }
    }

    /// Whether the engine has stopped because an item has failed.
    pub fn halts(&self, tally: &Tally) -> bool {
        let failed = tally.flushed_fail + tally.unknown;
        self.scenario.on_failure == OnFailure::Halt && failed > 0
    }
}
