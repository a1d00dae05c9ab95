//! Measures items/s from `add` to the sink: one producer, one flusher, `u64` items, batches of 512,
//! a sink that folds them. Not: opening and closing the engine (a fixed cost per sample, spread
//! over its items), cold caches. Clock: first add to the end of the last write. Every sample checks
//! count and sum.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::ring::Ring;
use sluicegate::{Batch, Batcher, Producer, WriteContext, WriteError, sink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 512;
const LONG: Duration = Duration::from_secs(600);

/// Runs `items` items through an engine; the closure adds those from `from` on, `count` of them.
fn through_engine(
    queue_depth: usize,
    producers: u64,
    items: u64,
    add: impl Fn(&Producer<u64>, u64, u64) + Sync,
) -> Duration {
    let sum = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&sum);
    let batcher = Batcher::builder()
        .max_batch_size(BATCH)
        .queue_depth(queue_depth)
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
    let share = items / producers;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for p in 1..producers {
            let (producer, add) = (batcher.producer(), &add);
            scope.spawn(move || add(&producer, p * share, share));
        }
        add(&batcher.producer(), 0, share);
    });
    batcher.flush(LONG).expect("the sink takes everything");
    let took = start.elapsed();
    let report = batcher.shutdown(LONG);
    let items = share * producers;
    assert_eq!(report.tally.flushed_ok, items);
    let expected = (0..items).fold(0_u64, u64::wrapping_add);
    assert_eq!(sum.load(Ordering::Relaxed), expected);
    took
}

fn add_one_by_one(producer: &Producer<u64>, from: u64, count: u64) {
    for item in from..from + count {
        producer.add(item).expect("the engine is open");
    }
}

fn add_in_runs(producer: &Producer<u64>, from: u64, count: u64) {
    let mut run = Vec::with_capacity(64);
    let mut next = from;
    while next < from + count {
        let end = (next + 64).min(from + count);
        run.extend(next..end);
        producer.add_many(&mut run).expect("the engine is open");
        next = end;
    }
}

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(1));
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for depth in [8_192, 65_536] {
        for producers in [1, 2, 4] {
            let id = |name| BenchmarkId::new(format!("{name}/{depth}"), producers);
            group.bench_function(id("add"), |b| {
                b.iter_custom(|items| {
                    through_engine(depth, producers, items.max(producers), add_one_by_one)
                });
            });
            group.bench_function(id("add_many_64"), |b| {
                b.iter_custom(|items| {
                    through_engine(depth, producers, items.max(producers), add_in_runs)
                });
            });
        }
    }
    group.finish();
}

/// The ring alone on one thread: what a push and a pop cost when nobody is in the way.
fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(BATCH as u64));
    let ring = Ring::new(8_192).expect("a valid capacity");
    let mut out = Vec::with_capacity(BATCH);
    group.bench_function("push_then_pop_512", |b| {
        b.iter(|| {
            for item in 0..BATCH as u64 {
                ring.try_push(black_box(item)).expect("there is room");
            }
            out.clear();
            assert_eq!(ring.try_pop_run(&mut out, BATCH), Ok(BATCH));
        });
    });
    group.finish();
}

criterion_group!(benches, engine, ring);
criterion_main!(benches);
