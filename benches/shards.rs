//! Measures what several shards, and what producers and flushers may do across them, cost and give.
//! Two parts; every turn checks its count.
//!
//! **Adding** (M items/s, first add to the end of the last write): one producer, `u64` items,
//! batches of 512, a null sink, a queue of 8,192. One shard; two shards and one home; a home that
//! follows its thread; the shard of a key.
//!
//! **A slow sink** (the same unit): all items are added to one of two shards, with a flusher each, and a
//! write takes at least 200 µs, asleep. Alone; with `steal`; with `Overflow::Nearest`.
//!
//! Not: what memory of another node costs. That needs a machine that has one: `sluicegate bench`.

use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use sluicegate::{
    Batch, Batcher, Builder, Home, Overflow, Shutdown, WriteContext, WriteError, sink,
};

mod common;
use common::{Figure, Turn, or_quick, take_turns};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const BATCH: usize = 512;
const FAST_ITEMS: u64 = 4_000_000;
const SLOW_ITEMS: u64 = 200_000;
const ROUNDS: usize = 11;
const LONG: Duration = Duration::from_secs(600);
const WRITE: Duration = Duration::from_micros(200);

/// Its name, how the engine is set up, and how long a write takes.
type Shape = (&'static str, fn(Builder<u64>) -> Builder<u64>, Option<Duration>);

const SHAPES: [Shape; 7] = [
    ("one_shard", |builder| builder.shards(1), None),
    ("two_shards_one_home", |builder| builder.shards(2), None),
    ("two_shards_follow_cpu", |builder| builder.shards(2).home(Home::FollowCpu), None),
    ("two_shards_keyed", |builder| builder.shards(2).key(|item| *item), None),
    ("slow_alone", |builder| builder.shards(2), Some(WRITE)),
    ("slow_steal", |builder| builder.shards(2).steal(true), Some(WRITE)),
    ("slow_overflow", |builder| builder.shards(2).overflow(Overflow::Nearest), Some(WRITE)),
];

fn main() {
    take_turns("shards", ROUNDS, SHAPES.map(turn).into());
}

fn turn(shape: Shape) -> Turn {
    let (name, _, takes) = shape;
    Turn::new(name, move |_| {
        let (rate, report) = run(&shape);
        let mut figures = vec![Figure::new(name, "M items/s", rate)];
        if takes.is_some() {
            figures.push(Figure::new(name, "stolen", report.stats.stolen as f64));
            figures.push(Figure::new(name, "overflowed", report.stats.overflowed as f64));
        }
        figures
    })
}

/// Million items a second.
fn run((_, set_up, takes): &Shape) -> (f64, Shutdown<u64>) {
    let takes = *takes;
    let items = if takes.is_some() { SLOW_ITEMS } else { FAST_ITEMS };
    let items = or_quick(items, items / 8);
    let builder = Batcher::builder().max_batch_size(BATCH).queue_depth(8_192);
    let spawned = set_up(builder).spawn(move |_| {
        let write = move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            if let Some(takes) = takes {
                std::thread::sleep(takes);
            }
            Ok(())
        };
        Ok::<_, WriteError>(sink::from_fn(write))
    });
    let batcher = spawned.expect("the configuration is valid");
    let producer = batcher.producer();
    let start = Instant::now();
    for item in 0..items {
        producer.add(item).expect("the engine is open");
    }
    batcher.flush(LONG).expect("the sink takes everything");
    let took = start.elapsed();
    let report = batcher.shutdown(LONG);
    assert_eq!(report.tally.flushed_ok, items);
    (items as f64 / took.as_secs_f64() / 1e6, report)
}
