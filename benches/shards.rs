//! Measures what several shards, and what producers and flushers may do across them, cost and give.
//! Two parts, in each of which the shapes take turns, round after round; printed are the median and
//! the quartiles over the rounds, and every run checks its count.
//!
//! **Adding** (M items/s, first add to the end of the last write): one producer, `u64` items,
//! batches of 512, a null sink, a queue of 8,192. One shard; two shards and one home; a home that
//! follows its thread; the shard of a key.
//!
//! **A slow sink** (K items/s): all items are added to one of two shards, with a flusher each, and a
//! write takes at least 200 µs, asleep. Alone; with `steal`; with `Overflow::Nearest`.
//!
//! Not: what memory of another node costs. That needs a machine that has one: `sluicegate bench`.
//!
//! Usage: `shards [SHAPE]`; with the name of a shape, that one alone.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use sluicegate::{
    Batch, Batcher, Builder, Home, Overflow, Shutdown, WriteContext, WriteError, sink,
};

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
    let only = std::env::args().skip(1).find(|arg| arg != "--bench");
    let chosen = |shape: &&Shape| only.as_ref().is_none_or(|only| only == shape.0);
    let shapes: Vec<&Shape> = SHAPES.iter().filter(chosen).collect();
    let mut rates = vec![Vec::with_capacity(ROUNDS); shapes.len()];
    let mut last = Vec::new();
    for _ in 0..ROUNDS {
        last.clear();
        for (shape, rates) in shapes.iter().zip(&mut rates) {
            let (rate, report) = run(shape);
            rates.push(rate);
            last.push(report.stats);
        }
    }
    println!("{ROUNDS} rounds, batches of {BATCH}");
    println!(
        "{:24} {:>9}  {:19} {:>8} {:>11}",
        "shape", "M items/s", "quartiles", "stolen", "overflowed"
    );
    for ((shape, rates), stats) in shapes.iter().zip(&mut rates).zip(&last) {
        rates.sort_by(f64::total_cmp);
        let at = |quarter: usize| rates[(rates.len() - 1) * quarter / 4];
        let quartiles = format!("{:.3} … {:.3}", at(1), at(3));
        let (stolen, overflowed) = (stats.stolen, stats.overflowed);
        println!("{:24} {:9.3}  {quartiles:19} {stolen:8} {overflowed:11}", shape.0, at(2));
    }
}

/// Million items a second.
fn run((_, set_up, takes): &Shape) -> (f64, Shutdown<u64>) {
    let takes = *takes;
    let items = if takes.is_some() { SLOW_ITEMS } else { FAST_ITEMS };
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
