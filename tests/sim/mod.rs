//! One scenario: a random engine, a random sink, a random load, and what must hold at every step.
//!
//! | file | what is in it |
//! |---|---|
//! | `sink` | the sinks with faults |
//! | `engine` | builds the engine and drives it |
//! | `fates` | the items, and what was seen to become of each |
//! | `check`, `end` | what must hold at each call and step, and at the end |
//! | `meter` | what retry budget and throttle allow |

mod check;
mod end;
mod engine;
mod fates;
mod meter;
mod sink;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluicegate::{OnFailure, Retry, WhenFull, WhileOpen};

use crate::common::Rng;
use sink::{Faults, Grave};

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub depth: usize,
    pub size: usize,
    pub delay: Option<Duration>,
    pub when_full: WhenFull,
    pub on_failure: OnFailure,
    pub keys: u64,
    pub retry: Option<RetrySettings>,
    pub breaker: Option<WhileOpen>,
    pub calls_per_second: Option<f64>,
    pub items_per_second: Option<f64>,
    /// The most writes in flight that the adaptive limit allows.
    pub adaptive: Option<usize>,
    pub bisect: bool,
    pub max_age: Option<Duration>,
    /// The engine itself takes down when each item was added.
    pub stamped: bool,
    /// One add in so many asks for an ack.
    pub acks: Option<u64>,
    pub weights: Option<Weights>,
    pub faults: Faults,
    pub dead: Option<Grave>,
    /// Failed items are told at once, not at the end.
    pub on_failed: bool,
    pub ops: u64,
    /// How much time passes between two calls, at most, in ms.
    pub pace: u64,
    /// All figures are looked at after each step.
    pub thorough: bool,
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

/// What an item weighs, and the bounds on bytes.
#[derive(Clone, Debug)]
pub struct Weights {
    pub heaviest: u64,
    pub max_batch_bytes: Option<u64>,
    pub max_queue_bytes: Option<u64>,
    /// What may wait to be tried again.
    pub max_waiting_bytes: Option<u64>,
    pub per_second: Option<f64>,
}

impl Weights {
    pub fn of(&self, item: u64) -> u64 {
        1 + (item & 0xFFFF_FFFF).wrapping_mul(0x9E37_79B9) % self.heaviest
    }

    fn random(rng: &mut Rng, tracked: bool) -> Self {
        Self {
            heaviest: rng.pick(&[1, 50, 700]),
            max_batch_bytes: rng.pick(&[None, Some(100), Some(500)]),
            max_queue_bytes: rng.pick(&[None, Some(500), Some(4_000)]).filter(|_| tracked),
            max_waiting_bytes: rng.pick(&[None, None, Some(200)]),
            per_second: rng.pick(&[None, None, Some(2_000.0)]),
        }
    }
}

/// What scenarios have brought about: a simulation in which nothing fails proves nothing.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<&'static str, u64>);

const MUST_BE_SEEN: [&str; 24] = [
    "acked",
    "ack of a failed item",
    "ack of an item that was handed back",
    "ack of an item that was let go",
    "ack of an item that may be in",
    "buried",
    "evicted",
    "expired",
    "failed",
    "halted",
    "handed back",
    "item larger than the budget",
    "newest let go",
    "open breaker",
    "overflow",
    "panic of the dead-letter sink",
    "panic of the sink",
    "parked",
    "rejected",
    "retry",
    "retry from the budget",
    "split",
    "unburied",
    "unknown",
];

impl Seen {
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    pub fn times(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn assert_all(&self) {
        for what in MUST_BE_SEEN {
            assert!(self.times(what) > 0, "never happened: {what}; {self:?}");
        }
    }
}

impl Scenario {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::with(seed);
        let depth = rng.pick(&[2, 4, 16, 64]);
        let ms = Duration::from_millis;
        let acks = rng.pick(&[None, Some(1), Some(3)]);
        let on = [OnFailure::Skip, OnFailure::Skip, OnFailure::ParkKey, OnFailure::Halt];
        Self {
            seed,
            depth,
            size: 1 + rng.index(depth),
            delay: rng.pick(&[None, Some(ms(0)), Some(ms(10)), Some(ms(200))]),
            when_full: rng.pick(&[
                WhenFull::Reject,
                WhenFull::Block,
                WhenFull::DropNewest,
                WhenFull::DropOldest,
            ]),
            on_failure: rng.pick(&on),
            keys: rng.pick(&[1, 2, 10, 1_000, IN_RUNS]),
            retry: (!rng.one_in(5)).then(|| RetrySettings::random(&mut rng)),
            breaker: rng.pick(&[None, Some(WhileOpen::Hold), Some(WhileOpen::DeadLetter)]),
            calls_per_second: rng.pick(&[None, None, Some(5.0), Some(100.0)]),
            items_per_second: rng.pick(&[None, None, None, Some(30.0), Some(500.0)]),
            adaptive: rng.pick(&[None, None, Some(1), Some(64)]),
            bisect: !rng.one_in(4),
            max_age: rng.one_in(4).then(|| ms(rng.pick(&[1, 50, 2_000]))),
            stamped: acks.is_some() && rng.one_in(2),
            acks,
            weights: rng.one_in(2).then(|| Weights::random(&mut rng, acks.is_some())),
            faults: Faults::random(&mut rng),
            dead: rng.one_in(2).then(|| Grave::random(&mut rng)),
            on_failed: !rng.one_in(4),
            ops: 20 + rng.below(100),
            pace: rng.pick(&[1, 20, 500]),
            thorough: rng.one_in(32),
        }
    }

    /// When the item was added, where that is its own word: its upper half is in milliseconds.
    pub fn added(&self, item: u64, start: Instant) -> Option<Instant> {
        (!self.stamped).then(|| start + Duration::from_millis(item >> 32))
    }
}

impl RetrySettings {
    fn random(rng: &mut Rng) -> Self {
        Self {
            max_attempts: rng.pick(&[1, 2, 5, 100]),
            give_up_after: Duration::from_millis(rng.pick(&[50, 1_000, 20_000])),
            budget: rng.pick(&[0.0, 0.2, 1.0]),
            floor: rng.pick(&[1.0, 10.0, 1_000.0]),
            max_items: rng.pick(&[1, 8, 1_000]),
            unknown: rng.one_in(2),
        }
    }

    fn build(&self, max_bytes: Option<u64>) -> Retry {
        Retry::default()
            .initial_delay(Duration::from_millis(10))
            .max_delay(Duration::from_secs(1))
            .max_attempts(self.max_attempts)
            .give_up_after(self.give_up_after)
            .budget(self.budget)
            .budget_floor(self.floor)
            .max_items(self.max_items)
            .max_bytes(max_bytes.unwrap_or(u64::MAX))
            .unknown(self.unknown)
    }
}

/// Items one after another share a key.
const IN_RUNS: u64 = 0;

/// The key of an item.
pub fn key_of(item: u64, keys: u64) -> u64 {
    if keys == IN_RUNS { (item & 0xFFFF_FFFF) / 8 } else { item % keys }
}
