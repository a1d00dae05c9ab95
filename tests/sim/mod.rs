//! One scenario: a random engine, a random sink, a random load, and what must hold at every step.

mod check;
mod sink;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate::sink::from_fn;
use sluicegate::{
    Applied, Batch, Batcher, Breaker, Dead, DroppedItem, OnFailure, Pump, PumpStep, Retry,
    TestClock, Throttle, WhenFull, WhileOpen, WriteContext, WriteError,
};

use crate::common::{Rng, assert_balances};
use check::Checks;
use sink::{Faults, SimSink};

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub depth: usize,
    pub size: usize,
    pub delay: Option<Duration>,
    pub on_failure: OnFailure,
    pub keys: u64,
    pub retry: Option<RetrySettings>,
    pub breaker: Option<WhileOpen>,
    pub calls_per_second: Option<f64>,
    pub bisect: bool,
    pub max_age: Option<Duration>,
    pub faults: Faults,
    /// Whether there is a dead-letter sink, and one in how many letters it refuses.
    pub dead: Option<u64>,
    pub ops: u64,
    /// How much time passes between two calls, at most, in ms.
    pub pace: u64,
}

/// As a [`Retry`], for the checks.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    pub max_attempts: u32,
    pub give_up_after: Duration,
    pub budget: f64,
    pub floor: f64,
    pub max_items: usize,
    pub unknown: bool,
}

/// What scenarios have brought about: a simulation in which nothing fails proves nothing.
#[derive(Debug, Default)]
pub struct Seen {
    pub retries: u64,
    pub splits: u64,
    pub overflows: u64,
    pub opened: u64,
    pub failed: u64,
    pub unknown: u64,
    pub handed_back: u64,
    pub expired: u64,
    pub halted: u64,
    pub parked: u64,
    pub buried: u64,
    pub refused: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.retries += other.retries;
        self.splits += other.splits;
        self.overflows += other.overflows;
        self.opened += other.opened;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.handed_back += other.handed_back;
        self.expired += other.expired;
        self.halted += other.halted;
        self.parked += other.parked;
        self.buried += other.buried;
        self.refused += other.refused;
    }

    pub fn assert_all(&self) {
        let Self { retries, splits, overflows, opened, failed, unknown, .. } = *self;
        let Self { handed_back, expired, halted, parked, buried, refused, .. } = *self;
        let all = [
            retries,
            splits,
            overflows,
            opened,
            failed,
            unknown,
            handed_back,
            expired,
            halted,
            parked,
            buried,
            refused,
        ];
        assert!(all.iter().all(|count| *count > 0), "something never happened: {self:?}");
    }
}

pub type Engine = Pump<u64, SimSink>;

impl Scenario {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::with(seed);
        let depth = rng.pick(&[2, 4, 16, 64]);
        let ms = Duration::from_millis;
        Self {
            seed,
            depth,
            size: 1 + rng.index(depth),
            delay: rng.pick(&[None, Some(ms(0)), Some(ms(10)), Some(ms(200))]),
            on_failure: rng.pick(&[
                OnFailure::Skip,
                OnFailure::Skip,
                OnFailure::ParkKey,
                OnFailure::Halt,
            ]),
            keys: rng.pick(&[1, 2, 10]),
            retry: (!rng.one_in(5)).then(|| RetrySettings {
                max_attempts: rng.pick(&[1, 2, 5, 100]),
                give_up_after: ms(rng.pick(&[50, 1_000, 20_000])),
                budget: rng.pick(&[0.0, 0.2, 1.0]),
                floor: rng.pick(&[1.0, 10.0, 1_000.0]),
                max_items: rng.pick(&[1, 8, 1_000]),
                unknown: rng.one_in(2),
            }),
            breaker: rng.pick(&[None, Some(WhileOpen::Hold), Some(WhileOpen::DeadLetter)]),
            calls_per_second: rng.pick(&[None, None, Some(5.0), Some(100.0)]),
            bisect: !rng.one_in(4),
            max_age: rng.one_in(4).then(|| ms(rng.pick(&[1, 50, 2_000]))),
            faults: Faults::random(&mut rng),
            dead: rng.pick(&[None, Some(0), Some(2)]),
            ops: 20 + rng.below(100),
            pace: rng.pick(&[1, 20, 500]),
        }
    }

    fn engine(
        &self,
        clock: &TestClock,
        checks: &Rc<RefCell<Checks>>,
        dropped: &Elsewhere,
    ) -> Engine {
        let start = clock.now();
        let let_go = Arc::clone(&dropped.dropped);
        let mut builder = Batcher::builder()
            .queue_depth(self.depth)
            .max_batch_size(self.size)
            .max_batch_delay(self.delay)
            .when_full(WhenFull::Reject)
            .on_failure(self.on_failure)
            .bisect(self.bisect)
            .seed(self.seed)
            .retry(self.retry.as_ref().map(RetrySettings::build))
            .breaker(self.breaker.map(|open| Breaker::default().min_writes(4).while_open(open)))
            .throttle(
                self.calls_per_second.map(|calls| Throttle::default().calls_per_second(calls)),
            )
            .on_dropped(move |item: DroppedItem<u64>| let_go.lock().unwrap().push(item.item));
        if self.on_failure == OnFailure::ParkKey {
            let keys = self.keys;
            builder = builder.key(move |item| item % keys);
        }
        if let Some(age) = self.max_age {
            // An item's number is also the millisecond of its add, in its upper half.
            builder =
                builder.max_age_since(age, move |item| start + Duration::from_millis(item >> 32));
        }
        if let Some(refuses) = self.dead {
            let (mut rng, buried) = (Rng::with(self.seed ^ 0xDEAD), Arc::clone(&dropped.buried));
            let write = move |batch: &Batch<Dead<u64>>, cx: &mut WriteContext<'_>| {
                for (index, letter) in batch.iter().enumerate() {
                    if refuses > 0 && rng.one_in(refuses) {
                        cx.fail(index, WriteError::transient("no room"));
                    } else {
                        buried.lock().unwrap().push((letter.item, letter.applied()));
                    }
                }
                Ok(())
            };
            builder = builder.dead_letters(from_fn(write));
        }
        let sink = SimSink::new(self, clock.clone(), Rc::clone(checks));
        builder.pump(sink, clock.clone()).unwrap()
    }

    /// Runs it to the end.
    pub fn run(self) -> Seen {
        let clock = TestClock::new();
        let start = clock.now();
        let checks = Rc::new(RefCell::new(Checks::new(self.clone(), start)));
        let dropped = Elsewhere::default();
        let mut pump = self.engine(&clock, &checks, &dropped);
        let producer = pump.producer();
        let mut rng = Rng::with(self.seed ^ 0xABCD);
        let (mut next, mut closed) = (0_u64, false);
        for _ in 0..self.ops {
            match rng.below(10) {
                0..=4 => {
                    for _ in 0..rng.below(2 * self.size as u64 + 1) {
                        let ms = u64::try_from((clock.now() - start).as_millis()).unwrap();
                        let item = ms << 32 | next;
                        if producer.try_add(item).is_ok() {
                            checks.borrow_mut().added(item);
                            next += 1;
                        }
                    }
                }
                5 | 6 => closed |= pump.step() == PumpStep::Done,
                7 | 8 => _ = pump.advance(Duration::from_millis(rng.below(self.pace))),
                _ => _ = pump.flush(),
            }
            checks.borrow_mut().step(&pump.tally());
            if rng.one_in(16) {
                checks.borrow_mut().bounds(&pump.stats(), clock.now());
            }
        }
        checks.borrow_mut().halted = closed;
        self.end(pump, &clock, &checks, &dropped)
    }

    /// The sink is well from now on: whatever may still be written is.
    fn end(
        &self,
        mut pump: Engine,
        clock: &TestClock,
        checks: &Rc<RefCell<Checks>>,
        dropped: &Elsewhere,
    ) -> Seen {
        let mut rng = Rng::with(self.seed ^ 0xEF01);
        let heals = !rng.one_in(4);
        if heals {
            checks.borrow_mut().well = true;
            pump.flush();
            for _ in 0..20 {
                pump.advance(Duration::from_secs(10));
                checks.borrow_mut().step(&pump.tally());
            }
            let tally = pump.tally();
            let halted = checks.borrow().halts(&tally);
            assert!(tally.in_flight == 0 || halted, "{self:?} {:?}", pump.stats());
        }
        checks.borrow_mut().bounds(&pump.stats(), clock.now());
        let report = pump.shutdown();
        assert_balances(&report.tally);
        let mut seen = checks.borrow().seen(&report);
        seen.expired = dropped.dropped.lock().unwrap().len() as u64;
        checks.borrow_mut().end(report, dropped);
        seen
    }
}

/// Items that went elsewhere than into the sink or back.
#[derive(Default)]
pub struct Elsewhere {
    pub dropped: Arc<Mutex<Vec<u64>>>,
    pub buried: Arc<Mutex<Vec<(u64, Applied)>>>,
}

impl RetrySettings {
    fn build(&self) -> Retry {
        Retry::default()
            .initial_delay(Duration::from_millis(10))
            .max_delay(Duration::from_secs(1))
            .max_attempts(self.max_attempts)
            .give_up_after(self.give_up_after)
            .budget(self.budget)
            .budget_floor(self.floor)
            .max_items(self.max_items)
            .unknown(self.unknown)
    }
}
