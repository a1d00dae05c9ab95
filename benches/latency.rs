//! Measures latency from `add` to the sink in an open loop, at 10 K, 100 K and 1 M items a second:
//! one producer, with the shared ring or with one of its own, one flusher with `FlushWhen::Idle`, a
//! queue of 65,536.
//!
//! Each item has a time at which it is due, from a fixed schedule, and its latency counts from then
//! to the start of the write that it is in, whenever it was really sent. So a stall of the engine,
//! of the sender or of the machine counts for every item that was due in it, and none is left out.
//! How far behind its schedule the sender added is a figure of its own. The sender never sleeps, so
//! its own waking is in no figure; the flusher's is.
//!
//! The first tenth of a second is not counted. Of the shortest rounds, at 10 K items a second, the
//! last percentile is that of three items. Every turn checks count and sum.

use std::hint::spin_loop;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sluicegate::{Batch, Batcher, Builder, FlushWhen, Shutdown, WriteContext, WriteError, sink};

mod common;
use common::{Figure, Turn, or_quick, take_turns};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RATES: [(u64, &str); 3] = [(10_000, "10 K/s"), (100_000, "100 K/s"), (1_000_000, "1 M/s")];
const DEPTH: usize = 65_536;
const PERIOD: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(100);
/// From the start of the clock to the first item.
const LEAD: Duration = Duration::from_millis(5);
const ROUNDS: usize = 5;
const LONG: Duration = Duration::from_secs(600);
const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// Adds the items of a turn; an item is the nanosecond at which it is due.
type Sender = Box<dyn FnMut(u64)>;

/// A way to add: its name, what it asks of the engine, and how to.
type Way = (&'static str, fn(Builder<u64>) -> Builder<u64>, fn(&Batcher<u64>) -> Sender);

const WAYS: [Way; 2] = [
    ("add", |builder| builder, add),
    ("owned_add", |builder| builder.owned_depth(DEPTH), owned_add),
];

fn add(batcher: &Batcher<u64>) -> Sender {
    let producer = batcher.producer();
    Box::new(move |due| producer.add(due).expect("the engine is open"))
}

fn owned_add(batcher: &Batcher<u64>) -> Sender {
    let mut producer = batcher.owned_producer().expect("there are slots for one");
    Box::new(move |due| producer.add(due).expect("the engine is open"))
}

fn main() {
    let mut turns = Vec::new();
    for way in WAYS {
        for (rate, said) in RATES {
            let case = format!("{} {said}", way.0);
            turns.push(Turn::new(case.clone(), move |_| open_loop(&case, rate, way)));
        }
    }
    take_turns("latency", ROUNDS, turns);
}

fn open_loop(case: &str, rate: u64, (_, ask, sender): Way) -> Vec<Figure> {
    let schedule = Schedule::new(rate);
    let seen = Arc::new(Mutex::new(Seen::new()));
    let batcher = engine(ask, &schedule, &seen);
    let behind = schedule.send(sender(&batcher));
    batcher.flush(LONG).expect("the sink takes everything");
    let Shutdown { tally, stats, .. } = batcher.shutdown(LONG);
    let seen = seen.lock().expect("the sink does not panic");
    assert_eq!((tally.flushed_ok, seen.count), (schedule.items, schedule.items));
    assert_eq!(seen.sum, (0..schedule.items).map(|item| schedule.due(item)).sum());
    let figure = |measure: String, nanos: u64| Figure::new(case, measure, nanos as f64 / 1e3);
    let at =
        |percent| figure(format!("p{percent} µs"), seen.latencies.value_at_percentile(percent));
    let mut figures: Vec<Figure> = PERCENTILES.map(at).into();
    figures.push(figure("behind p50 µs".into(), behind.value_at_percentile(50.0)));
    figures.push(figure("behind p99 µs".into(), behind.value_at_percentile(99.0)));
    figures.push(figure("behind most µs".into(), behind.max()));
    let batch = tally.flushed_ok as f64 / stats.batches as f64;
    figures.push(Figure::new(case, "items a batch", batch));
    figures
}

/// When items are due.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    every: u64,
    items: u64,
    warm_until: u64,
}

impl Schedule {
    fn new(rate: u64) -> Self {
        let every = 1_000_000_000 / rate;
        let period = or_quick(PERIOD, Duration::from_millis(200));
        let items = nanos(WARM_UP + period) / every;
        Self { start: Instant::now(), every, items, warm_until: nanos(LEAD + WARM_UP) }
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    fn due(&self, item: u64) -> u64 {
        nanos(LEAD) + item * self.every
    }

    /// Adds each item once it is due; returns how late that was.
    fn send(&self, mut sender: Sender) -> Histogram<u64> {
        let mut behind = histogram();
        for due in (0..self.items).map(|item| self.due(item)) {
            let mut now = self.now();
            while now < due {
                spin_loop();
                now = self.now();
            }
            sender(due);
            if due >= self.warm_until {
                behind.saturating_record(now - due);
            }
        }
        behind
    }
}

/// What the sink has seen.
struct Seen {
    latencies: Histogram<u64>,
    count: u64,
    sum: u64,
}

impl Seen {
    fn new() -> Self {
        Self { latencies: histogram(), count: 0, sum: 0 }
    }
}

fn engine(
    ask: fn(Builder<u64>) -> Builder<u64>,
    schedule: &Schedule,
    seen: &Arc<Mutex<Seen>>,
) -> Batcher<u64> {
    let (schedule, seen) = (*schedule, Arc::clone(seen));
    let builder = ask(Batcher::builder().flush_when(FlushWhen::Idle).queue_depth(DEPTH));
    let spawned = builder.spawn(move |_| {
        let seen = Arc::clone(&seen);
        let look = move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            let now = schedule.now();
            let mut seen = seen.lock().expect("nobody panics");
            for due in batch.iter() {
                seen.count += 1;
                seen.sum += due;
                if *due >= schedule.warm_until {
                    seen.latencies.saturating_record(now - due);
                }
            }
            Ok(())
        };
        Ok::<_, WriteError>(sink::from_fn(look))
    });
    spawned.expect("the configuration is valid")
}

/// Up to a minute, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("less than 584 years")
}
