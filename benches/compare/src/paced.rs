//! Latency in an open loop: items that come at 1 M a second, whatever became of those before, and
//! the time from when one is due to when the consumer has it in hand.
//!
//! A stall of the queue, of the sender or of the machine counts for every item that was due in it,
//! and none is left out. The sender never sleeps, so its own waking is in no figure; the consumer's
//! is. [`Paced::of`] waits until the item is due, so that what adds items one by one is such a
//! sender without knowing; the consumer's half calls [`Item::arrived`] for each.
//!
//! Schedule and times are the process's: of such turns it takes one at a time.

use std::hint::spin_loop;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::args::DEPTH;
use crate::contestant::{Contestant, Item, Kind, Outcome, Shape, Work};
use crate::field::name;
use crate::turn::Measure;

/// By whom, with what, and through what.
pub const SHAPE: Shape = Shape { producers: 1, bytes: 8, depth: DEPTH };
/// A tenth of a second, and as much as a tenth of it before, which is not counted: so short that the
/// host often leaves both CPUs alone for as long.
pub const ITEMS: u64 = 110_000;
/// Nanoseconds from one item to the next.
const EVERY: u64 = 1_000;
/// The sender spins, or the consumer that it waits for runs: with less, somebody else did.
const WHOLE_CORE: f64 = 0.98;
/// In place of a time: it was not yet there.
const NEVER: u64 = u64::MAX;

/// Whether latency is asked of this contestant: of queues, and of the engine as it is used.
pub fn takes_part(who: &dyn Contestant) -> bool {
    who.kind() == Kind::Queue || [name::ADD, name::OWNED].contains(&who.name())
}

/// An item that is made when it is due: its number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paced(u64);

impl Item for Paced {
    const PACED: bool = true;
    const WORDS: usize = 1;

    fn of(number: u64) -> Self {
        WATCH.wait_until_due(number);
        Self(number)
    }
    fn word(&self, _: usize) -> u64 {
        self.0
    }
    fn value(&self) -> u64 {
        self.0
    }
    fn arrived(&self) {
        WATCH.stop(self.0);
    }
}

static WATCH: LazyLock<Watch> = LazyLock::new(|| Watch {
    epoch: Instant::now(),
    start: AtomicU64::new(NEVER),
    latencies: (0..ITEMS).map(|_| AtomicU64::new(NEVER)).collect(),
});

/// When items are due, and how much later each arrived, in nanoseconds. An item's way through the
/// queue orders what both sides do here.
struct Watch {
    epoch: Instant,
    /// When the first is due: from the epoch to when it is asked for.
    start: AtomicU64,
    latencies: Vec<AtomicU64>,
}

impl Watch {
    fn now(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }

    fn reset(&self) {
        self.start.store(NEVER, Ordering::Relaxed);
        self.latencies.iter().for_each(|latency| latency.store(NEVER, Ordering::Relaxed));
    }

    fn due(&self, number: u64) -> u64 {
        self.start.load(Ordering::Relaxed) + number * EVERY
    }

    fn wait_until_due(&self, number: u64) {
        if number == 0 {
            self.start.store(self.now(), Ordering::Relaxed);
        }
        let due = self.due(number);
        while self.now() < due {
            spin_loop();
        }
    }

    fn stop(&self, number: u64) {
        let latency = self.now() - self.due(number);
        let place = usize::try_from(number).ok().and_then(|number| self.latencies.get(number));
        let Some(place) = place else { return };
        debug_assert_eq!(place.load(Ordering::Relaxed), NEVER, "item {number} arrives twice");
        place.store(latency, Ordering::Relaxed);
    }

    /// Of all items but the first ones, in order of size; an error if one is missing.
    fn sorted(&self, work: &Work, first: u64) -> Result<Vec<u64>, String> {
        let [first, items] = [first, work.items].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let counted = self.latencies.get(first..items).filter(|counted| !counted.is_empty());
        let counted = counted.ok_or(format!("no latencies of items {first} to {items}"))?;
        let mut counted: Vec<u64> = counted.iter().map(|one| one.load(Ordering::Relaxed)).collect();
        counted.sort_unstable();
        match counted.last() {
            Some(&NEVER) => Err("an item arrived unseen".into()),
            _ => Ok(counted),
        }
    }
}

/// What a paced turn gives: percentiles in microseconds, and the CPUs that the process used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Half are lower.
    pub p50: f64,
    /// All but one in a hundred are.
    pub p99: f64,
    /// All but one in a thousand are.
    pub p999: f64,
    /// CPU time by time. The sender, which spins, is one of them.
    pub cores: f64,
    /// Milliseconds for which the host ran something else in place of a CPU of this machine, as
    /// Linux tells it: in steps of ten.
    pub stolen: f64,
}

impl Measure for Latency {
    const WORD: &'static str = "latency";
    const COLUMNS: &'static [&'static str] =
        &["p50_us", "p99_us", "p99.9_us", "cores", "stolen_ms"];
    const ATTEMPTS: usize = 10;

    fn take(contestant: &dyn Contestant, work: &Work, warm_up: u64) -> Result<Self, String> {
        let before = stolen();
        let (outcome, cores) = paced(contestant, work);
        let stolen = stolen() - before;
        outcome.check(work)?;
        let latencies = WATCH.sorted(work, warm_up)?;
        let at = |permille: usize| {
            latencies[(latencies.len() * permille).div_ceil(1_000).max(1) - 1] as f64 / 1e3
        };
        Ok(Self { p50: at(500), p99: at(990), p999: at(999), cores, stolen })
    }

    fn words(&self) -> Vec<String> {
        let numbers = [self.p50, self.p99, self.p999, self.cores, self.stolen];
        numbers.map(|number| format!("{number:.3}")).into()
    }

    fn of(numbers: &[f64]) -> Option<Self> {
        let &[p50, p99, p999, cores, stolen] = numbers else { return None };
        Some(Self { p50, p99, p999, cores, stolen })
    }

    fn disturbed(&self) -> bool {
        self.cores < WHOLE_CORE || self.stolen > 0.0
    }
}

/// Does the work; how many CPUs it used.
fn paced(contestant: &dyn Contestant, work: &Work) -> (Outcome, f64) {
    WATCH.reset();
    let (start, before) = (WATCH.now(), cpu_time());
    let outcome = contestant.run_paced(work);
    (outcome, (cpu_time() - before) as f64 / (WATCH.now() - start) as f64)
}

/// Milliseconds stolen from all CPUs since the machine started; 0 where nobody tells.
fn stolen() -> f64 {
    const TICK: f64 = 10.0; // Linux tells all times of this file in hundredths of a second
    let told = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // cpu user nice system idle iowait irq softirq steal …
    let ticks = told.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok());
    ticks.unwrap_or(0.0) * TICK
}

/// CPU time of this process's threads, in nanoseconds.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    nanos(Duration::try_from(time).unwrap_or_default())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER)
}
