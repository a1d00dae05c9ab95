//! Measures what acks cost: items/s from the first add to the end of the last write, and
//! allocations per item. One producer, one flusher, `u64` items, batches of 512, a null sink, a
//! queue of 8,192. Not: the sink, more producers, a task's wake-up.
//!
//! Every run checks its count, and each ack that is waited for must say that its item is in.
//! Allocations are counted in a run of their own, in the first round, since counting costs.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use sluicegate::{Batcher, Builder, Mode, Producer, Tracked, WriteError, sink};

mod common;
use common::{Figure, Turn, or_quick, take_turns};

#[global_allocator]
static ALLOCATOR: Counting = Counting(MiMalloc);

const BATCH: usize = 512;
/// Acks that are collected before the first of them is waited for.
const WINDOW: u64 = 4_096;
const ITEMS: u64 = WINDOW * 1_000;
const ROUNDS: usize = 15;
const LONG: Duration = Duration::from_secs(600);

type Shape = (&'static str, fn(u64) -> Duration);

const SHAPES: [Shape; 4] = [
    ("plain_engine_add", |items| run(builder(), items, add)),
    ("tracked_engine_add", |items| run(builder().with_acks(), items, add)),
    ("ack_dropped_at_once", |items| run(builder().with_acks(), items, drop_at_once)),
    ("ack_waited_for_in_windows", |items| run(builder().with_acks(), items, wait_in_windows)),
];

fn main() {
    let turn = |(name, run): Shape| {
        Turn::new(name, move |round| {
            let items = or_quick(ITEMS, ITEMS / 16);
            let rate = items as f64 / run(items).as_secs_f64() / 1e6;
            let mut figures = vec![Figure::new(name, "M items/s", rate)];
            if round == 1 {
                let each = allocations(run, items) as f64 / items as f64;
                figures.push(Figure::new(name, "allocations per item", each));
            }
            figures
        })
    };
    take_turns("acks", ROUNDS, SHAPES.map(turn).into());
}

fn builder() -> Builder<u64> {
    Batcher::builder().max_batch_size(BATCH).queue_depth(8_192)
}

fn run<M: Mode<u64>>(
    builder: Builder<u64, M>,
    items: u64,
    add: fn(&Producer<u64, M>, u64),
) -> Duration {
    let spawned = builder.spawn(|_| Ok::<_, WriteError>(sink::NullSink));
    let batcher = spawned.expect("the configuration is valid");
    let producer = batcher.producer();
    let start = Instant::now();
    add(&producer, items);
    batcher.flush(LONG).expect("the sink takes everything");
    let took = start.elapsed();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, items);
    took
}

fn add<M: Mode<u64>>(producer: &Producer<u64, M>, items: u64) {
    for item in 0..items {
        producer.add(item).expect("the engine is open");
    }
}

fn drop_at_once(producer: &Producer<u64, Tracked>, items: u64) {
    for item in 0..items {
        drop(producer.add_with_ack(item).expect("the engine is open"));
    }
}

/// The queue runs empty at the end of each window: the cost of waiting is in the figure.
fn wait_in_windows(producer: &Producer<u64, Tracked>, items: u64) {
    let mut acks = Vec::with_capacity(4_096);
    let mut next = 0;
    while next < items {
        let end = (next + WINDOW).min(items);
        acks.extend((next..end).map(|item| producer.add_with_ack(item).expect("it is open")));
        for ack in acks.drain(..) {
            ack.wait().expect("the sink takes everything");
        }
        next = end;
    }
}

/// Allocations, of the engine's start and end too, in one run of a shape.
fn allocations(shape: fn(u64) -> Duration, items: u64) -> u64 {
    COUNT.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
    shape(items);
    COUNTS.store(false, Ordering::Relaxed);
    COUNT.load(Ordering::Relaxed)
}

static COUNTS: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

struct Counting(MiMalloc);

fn count() {
    if COUNTS.load(Ordering::Relaxed) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: passes every call on as it is; counting touches no memory but two atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.realloc(old, layout, size) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { self.0.dealloc(old, layout) }
    }
}
