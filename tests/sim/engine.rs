//! Builds the engine of a scenario and drives it, step by step.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sluicegate::{
    Ack, Adaptive, AddError, AddReason, Batcher, Breaker, Builder, DroppedItem, FailedItem, Mode,
    OnFailure, Producer, Pump, PumpStep, TestClock, Throttle,
};

use super::check::Checks;
use super::sink::{GraveSink, SimSink};
use super::{RetrySettings, Scenario, Seen, key_of};
use crate::common::{Rng, assert_balances};

type Shared = Arc<Mutex<Checks>>;
type Added = Result<Option<Ack<u64>>, AddError<u64>>;

/// An engine on its way through a scenario.
struct Run<M: Mode<u64>> {
    pump: Pump<u64, SimSink, M>,
    clock: TestClock,
    start: Instant,
    checks: Shared,
    /// Of items that have no fate yet, as far as their acks say.
    acks: Vec<(u64, Ack<u64>)>,
    rng: Rng,
    next: u64,
    closed: bool,
    thorough: bool,
}

impl Scenario {
    /// Runs it to the end.
    pub fn run(self) -> Seen {
        let clock = TestClock::new();
        let checks = Arc::new(Mutex::new(Checks::new(self.clone(), clock.now())));
        let Some(asks) = self.acks else {
            let builder = self.builder(Batcher::builder(), &clock, &checks);
            return self.drive(builder, clock, checks, |producer, item, _| {
                producer.try_add(item).map(|()| None)
            });
        };
        let mut builder = self.builder(Batcher::builder().with_acks(), &clock, &checks);
        if let Some(bytes) = self.weights.as_ref().and_then(|weights| weights.max_queue_bytes) {
            builder = builder.max_queue_bytes(bytes);
        }
        if let Some(age) = self.max_age.filter(|_| self.stamped) {
            builder = builder.max_age(age);
        }
        self.drive(builder, clock, checks, move |producer, item, rng| {
            if rng.one_in(asks) {
                producer.try_add_with_ack(item).map(Some)
            } else {
                producer.try_add(item).map(|()| None)
            }
        })
    }

    fn drive<M: Mode<u64>>(
        &self,
        builder: Builder<u64, M>,
        clock: TestClock,
        checks: Shared,
        add: impl Fn(&Producer<u64, M>, u64, &mut Rng) -> Added,
    ) -> Seen {
        let sink = SimSink::new(self, clock.clone(), Arc::clone(&checks));
        let pump = builder.pump(sink, clock.clone()).unwrap();
        let mut run = Run {
            pump,
            start: clock.now(),
            clock,
            checks,
            acks: Vec::new(),
            rng: Rng::with(self.seed ^ 0xABCD),
            next: 0,
            closed: false,
            thorough: self.thorough,
        };
        for _ in 0..self.ops {
            run.operate(self, &add);
        }
        run.checks().halted = run.closed;
        run.end(self)
    }

    /// What engines of both modes have.
    fn builder<M: Mode<u64>>(
        &self,
        builder: Builder<u64, M>,
        clock: &TestClock,
        checks: &Shared,
    ) -> Builder<u64, M> {
        let waiting = self.weights.as_ref().and_then(|weights| weights.max_waiting_bytes);
        let (start, let_go, keys) = (clock.now(), Arc::clone(checks), self.keys);
        let mut builder = builder
            .queue_depth(self.depth)
            .max_batch_size(self.size)
            .max_batch_delay(self.delay)
            .when_full(self.when_full)
            .on_failure(self.on_failure)
            .bisect(self.bisect)
            .seed(self.seed)
            .retry(self.retry.as_ref().map(|retry| RetrySettings::build(retry, waiting)))
            .breaker(self.breaker.map(|open| Breaker::default().min_writes(4).while_open(open)))
            .throttle(self.throttle())
            .adaptive(self.adaptive.map(|most| Adaptive::default().max(most)))
            .on_dropped(move |item: DroppedItem<u64>| let_go.lock().unwrap().let_go(&item));
        if self.on_failure == OnFailure::ParkKey {
            builder = builder.key(move |item| key_of(*item, keys));
        }
        if let Some(weights) = self.weights.clone() {
            if let Some(bytes) = weights.max_batch_bytes {
                builder = builder.max_batch_bytes(bytes);
            }
            builder = builder.weight(move |item| usize::try_from(weights.of(*item)).unwrap());
        }
        if let Some(age) = self.max_age.filter(|_| !self.stamped) {
            let scenario = self.clone();
            builder = builder.max_age_since(age, move |item| scenario.added(*item, start).unwrap());
        }
        if self.on_failed {
            let told = Arc::clone(checks);
            builder = builder.on_failed(move |failed: FailedItem<u64>| {
                told.lock().unwrap().lost(failed.item, failed.error.what_applied());
            });
        }
        if let Some(faults) = self.dead.clone() {
            let rng = Rng::with(self.seed ^ 0xDEAD);
            let checks = Arc::clone(checks);
            builder = builder.dead_letters(GraveSink { faults, rng, gone: false, checks });
        }
        builder
    }

    fn throttle(&self) -> Throttle {
        let bytes = self.weights.as_ref().and_then(|weights| weights.per_second);
        Throttle::default()
            .calls_per_second(self.calls_per_second)
            .items_per_second(self.items_per_second)
            .bytes_per_second(bytes)
    }
}

impl<M: Mode<u64>> Run<M> {
    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap()
    }

    /// Something that a caller might do.
    fn operate(
        &mut self,
        scenario: &Scenario,
        add: &impl Fn(&Producer<u64, M>, u64, &mut Rng) -> Added,
    ) {
        match self.rng.below(10) {
            0..=4 => {
                let producer = self.pump.producer();
                for _ in 0..self.rng.below(2 * scenario.size as u64 + 1) {
                    self.add(scenario, |item, rng| add(&producer, item, rng));
                }
            }
            5 | 6 => _ = self.step(),
            7 | 8 => {
                let time = Duration::from_millis(self.rng.below(scenario.pace));
                self.advance(time);
            }
            _ => _ = self.pump.flush(),
        }
        let often = if self.thorough { 1 } else { 64 };
        let figures = self.rng.one_in(often);
        self.check(figures);
    }

    fn add(&mut self, scenario: &Scenario, add: impl Fn(u64, &mut Rng) -> Added) {
        let now = self.clock.now();
        let ms = u64::try_from((now - self.start).as_millis()).unwrap();
        let item = ms << 32 | self.next;
        let weight = scenario.weights.as_ref().map_or(0, |weights| weights.of(item));
        self.checks().fates.add(item, now, weight);
        match add(item, &mut self.rng) {
            Ok(ack) => {
                self.next += 1;
                // Nobody listens to some of them.
                let ack = ack.filter(|_| !self.rng.one_in(8));
                self.acks.extend(ack.map(|ack| (item, ack)));
            }
            Err(refused) => {
                let mut checks = self.checks();
                checks.fates.take_back();
                let large = matches!(refused.reason(), AddReason::TooLarge { .. });
                let most = scenario.weights.as_ref().and_then(|weights| weights.max_queue_bytes);
                let too_large = most.is_some_and(|most| weight > most);
                let closed = refused.reason() == AddReason::Closed;
                assert!(large == too_large || closed, "{refused:?}");
                checks.seen.add("rejected", 1);
                checks.seen.add("item larger than the budget", u64::from(large));
                assert_eq!(refused.into_inner(), item);
            }
        }
    }

    /// One step of the pump; whether it has written.
    fn step(&mut self) -> bool {
        let step = self.pump.step();
        self.closed |= step == PumpStep::Done;
        let PumpStep::Wrote { .. } = step else { return false };
        self.check(self.thorough);
        true
    }

    fn run(&mut self) -> usize {
        std::iter::from_fn(|| self.step().then_some(())).count()
    }

    /// As [`Pump::advance`], with a look at everything after each step.
    fn advance(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        self.run();
        while let Some(due) = self.pump.next_due().filter(|due| *due <= end) {
            self.clock.advance(due.saturating_duration_since(self.clock.now()));
            if self.run() == 0 && self.pump.next_due().is_some_and(|next| next <= due) {
                assert!(self.closed, "due, and not written");
                break;
            }
        }
        self.clock.advance(end.saturating_duration_since(self.clock.now()));
        self.run();
    }

    fn check(&mut self, figures: bool) {
        self.ask();
        let tally = self.pump.tally();
        self.checks().step(&tally);
        if figures {
            let stats = self.pump.stats();
            self.checks().figures(&stats);
        }
    }

    /// Whoever has an ack looks at it.
    fn ask(&mut self) {
        let Self { acks, checks, .. } = self;
        let mut checks = checks.lock().unwrap();
        acks.retain_mut(|(item, ack)| match ack.try_wait() {
            None => {
                checks.waits(*item);
                true
            }
            Some(told) => {
                checks.told(*item, told);
                let again = ack.try_wait();
                checks.fates.must(again.is_some_and(|told| told.is_err()), || "told twice".into());
                false
            }
        });
    }

    /// The sink is well from now on: whatever may still be written is.
    fn end(mut self, scenario: &Scenario) -> Seen {
        let mut rng = Rng::with(scenario.seed ^ 0xEF01);
        if !rng.one_in(4) {
            self.checks().well = true;
            self.pump.flush();
            for _ in 0..100 {
                self.check(false);
                if self.pump.tally().in_flight == 0 {
                    break;
                }
                self.advance(Duration::from_secs(10));
            }
            let tally = self.pump.tally();
            let checks = self.checks();
            let over = checks.halts(&tally) || checks.gone;
            drop(checks);
            assert!(tally.in_flight == 0 || over, "{scenario:?} {:?}", self.pump.stats());
        }
        self.check(true);
        let Self { pump, mut acks, checks, .. } = self;
        let report = pump.shutdown();
        assert_balances(&report.tally);
        let mut checks = checks.lock().unwrap();
        checks.reported(&report);
        for (item, ack) in &mut acks {
            let told = ack.try_wait();
            assert!(told.is_some(), "{item} has an ack that was never resolved: {scenario:?}");
            told.into_iter().for_each(|told| checks.told(*item, told));
        }
        checks.end(&report);
        std::mem::take(&mut checks.seen)
    }
}
