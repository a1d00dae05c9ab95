//! Measures ns per item from the first add to the end of the last write, in one short run, so that
//! builds of two commits can take turns: `ci/paired.sh` runs them. One flusher, `u64` items,
//! batches of 512, a sink that folds them. Every run checks count and sum.
//!
//! Usage: `paired SHAPE PRODUCERS`, e.g. `paired add 1`; without arguments every shape with one
//! producer. Prints `add/1 ns_per_item 21.3 probe_ns 104.2 103.9`.
//!
//! The probe tells how far apart two CPUs are: ns per round trip of one cache line between two
//! threads, before the run and after it. A hypervisor may move virtual CPUs at any time, and what
//! lies between them decides what adding costs: figures compare only where the probes are alike.
//!
//! Only the stable core of the API is used: this file must compile in older trees, too.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::hint::{black_box, spin_loop};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{AddError, Batch, Batcher, Producer, WriteContext, WriteError, sink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LONG: Duration = Duration::from_secs(600);
/// At 5 ns each, less than half a second.
const ITEMS: u64 = 80_000_000;

type Add = fn(&Producer<u64>, Range<u64>);

const SHAPES: [(&str, Add); 3] = [("add", add), ("add_many_64", add_many_64), ("try_add", try_add)];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.is_empty() {
        for shape in SHAPES {
            measure(shape, 1);
        }
        return ExitCode::SUCCESS;
    }
    if let [name, producers] = args.as_slice()
        && let Some(shape) = SHAPES.into_iter().find(|shape| shape.0 == name)
        && let Ok(producers @ 1..) = producers.parse()
    {
        measure(shape, producers);
        return ExitCode::SUCCESS;
    }
    eprintln!("usage: paired SHAPE PRODUCERS, with a shape of {:?}", SHAPES.map(|shape| shape.0));
    ExitCode::from(2)
}

fn measure((name, add): (&str, Add), producers: u64) {
    let share = ITEMS / producers;
    let before = probe();
    through_engine(add, producers, share / 10); // caches, pages, the clock of the CPU
    let took = through_engine(add, producers, share);
    let after = probe();
    let each = took.as_nanos() as f64 / (share * producers) as f64;
    println!("{name}/{producers} ns_per_item {each:.3} probe_ns {before:.1} {after:.1}");
}

/// Runs `share` items of each producer through an engine.
fn through_engine(add: Add, producers: u64, share: u64) -> Duration {
    let sum = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&sum);
    let batcher = Batcher::builder()
        .max_batch_size(512)
        .queue_depth(8_192)
        .spawn(move |_| {
            let total = Arc::clone(&total);
            Ok::<_, WriteError>(sink::from_fn(
                move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                    let sum = batch.iter().fold(0_u64, |sum, item| sum.wrapping_add(*item));
                    total.fetch_add(black_box(sum), Ordering::Relaxed);
                    Ok(())
                },
            ))
        })
        .expect("the configuration is valid");
    let start = Instant::now();
    thread::scope(|scope| {
        for p in 1..producers {
            let producer = batcher.producer();
            scope.spawn(move || add(&producer, p * share..(p + 1) * share));
        }
        add(&batcher.producer(), 0..share);
    });
    batcher.flush(LONG).expect("the sink takes everything");
    let took = start.elapsed();
    let report = batcher.shutdown(LONG);
    let items = share * producers;
    assert_eq!(report.tally.flushed_ok, items);
    assert_eq!(sum.load(Ordering::Relaxed), (0..items).fold(0, u64::wrapping_add));
    took
}

fn add(producer: &Producer<u64>, items: Range<u64>) {
    for item in items {
        producer.add(item).expect("the engine is open");
    }
}

fn add_many_64(producer: &Producer<u64>, items: Range<u64>) {
    let mut run = Vec::with_capacity(64);
    let mut next = items.start;
    while next < items.end {
        let end = (next + 64).min(items.end);
        run.extend(next..end);
        producer.add_many(&mut run).expect("the engine is open");
        next = end;
    }
}

/// Gives its time slice away when the queue is full.
fn try_add(producer: &Producer<u64>, items: Range<u64>) {
    for mut item in items {
        while let Err(refused) = producer.try_add(item) {
            let AddError::Full(back) = refused else { panic!("the engine is open") };
            item = back;
            thread::yield_now();
        }
    }
}

/// A cache line of its own; two, since prefetchers fetch pairs.
#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    fn wait_for(&self, turn: u64) {
        let mut spins = 0_u32;
        while self.0.load(Ordering::Relaxed) != turn {
            spins += 1;
            if spins.is_multiple_of(1 << 12) {
                thread::yield_now(); // both threads may have got the same CPU
            } else {
                spin_loop();
            }
        }
    }
}

/// Nanoseconds per round trip of a cache line between two threads: the median of short bursts, so
/// that a thread that is stopped for a while does not count.
fn probe() -> f64 {
    const BURSTS: u64 = 61;
    const TRIPS: u64 = 500;
    let line = Line(AtomicU64::new(0));
    let mut bursts: Vec<f64> = thread::scope(|scope| {
        scope.spawn(|| {
            for turn in (1..2 * TRIPS * BURSTS).step_by(2) {
                line.wait_for(turn);
                line.0.store(turn + 1, Ordering::Relaxed);
            }
        });
        let burst = |burst| {
            let start = Instant::now();
            for turn in (2 * TRIPS * burst + 1..2 * TRIPS * (burst + 1)).step_by(2) {
                line.0.store(turn, Ordering::Relaxed);
                line.wait_for(turn + 1);
            }
            start.elapsed().as_nanos() as f64 / TRIPS as f64
        };
        (0..BURSTS).map(burst).collect()
    });
    bursts.sort_by(f64::total_cmp);
    bursts[bursts.len() / 2]
}
