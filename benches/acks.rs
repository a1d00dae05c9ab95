//! Measures what acks cost: items/s from the first add to the end of the last write, and
//! allocations per item. One producer, one flusher, `u64` items, batches of 512, a null sink, a
//! queue of 8,192. Not: the sink, more producers, a task's wake-up.
//!
//! The shapes take turns, round after round, so that what changes with time hits all of them;
//! printed are the median and the quartiles over the rounds. Every run checks its count, and each
//! ack that is waited for must say that its item is in. Allocations are counted in a run of their
//! own, since counting costs.
//!
//! Usage: `acks [SHAPE]`; with the name of a shape, that one alone.

#![allow(clippy::print_stdout, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use sluicegate::{Batcher, Builder, Mode, Producer, Tracked, WriteError, sink};

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
    let only = std::env::args().skip(1).find(|arg| arg != "--bench");
    let chosen = |shape: &&Shape| only.as_ref().is_none_or(|only| only == shape.0);
    let shapes: Vec<&Shape> = SHAPES.iter().filter(chosen).collect();
    let mut rates = vec![Vec::with_capacity(ROUNDS); shapes.len()];
    for _ in 0..ROUNDS {
        for (shape, rates) in shapes.iter().zip(&mut rates) {
            rates.push(ITEMS as f64 / shape.1(ITEMS).as_secs_f64() / 1e6);
        }
    }
    println!("{ROUNDS} rounds of {ITEMS} items, batches of {BATCH}, windows of {WINDOW}");
    println!("{:28} {:>9}  {:17} {:>15}", "shape", "M items/s", "quartiles", "allocs per item");
    for (shape, rates) in shapes.iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let at = |quarter: usize| rates[(rates.len() - 1) * quarter / 4];
        let quartiles = format!("{:.2} … {:.2}", at(1), at(3));
        let each = allocations(shape.1) as f64 / ITEMS as f64;
        println!("{:28} {:9.2}  {quartiles:17} {each:15.3}", shape.0, at(2));
    }
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
fn allocations(shape: fn(u64) -> Duration) -> u64 {
    COUNT.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
    shape(ITEMS);
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
