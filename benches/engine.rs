//! Measures items/s from `add` to the sink, for P producers and one flusher or two: `u64` items,
//! batches of 512, a queue of 8,192, a sink that folds them. Clock: the first producer's start to
//! the end of the last write. Every turn checks count and sum. Not: opening and closing the engine,
//! cold caches (a smaller run comes first), the ring alone (`ring`), what acks cost in other ways
//! (`acks`).
//!
//! | case | how a producer adds |
//! |---|---|
//! | `add` | one by one |
//! | `owned_add` | one by one, each producer into a ring of its own of 8,192 / 16 slots |
//! | `add_many_64` | in runs of 64 |
//! | `add_with_ack` | one by one; each ack of a window of 4,096 is waited for, then the next begins |

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Builder, Mode, Plain, Tracked, WriteContext, WriteError, sink};

mod common;
use common::{Figure, Turn, or_quick, take_turns};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 512;
const DEPTH: usize = 8_192;
const PRODUCERS: [u64; 5] = [1, 2, 4, 8, 16];
const FLUSHERS: [usize; 2] = [1, 2];
/// Acks that are collected before the first of them is waited for. Whole batches, so that none of
/// them waits for its time.
const WINDOW: u64 = 4_096;
const ROUNDS: usize = 11;
const LONG: Duration = Duration::from_secs(600);

/// What a producer does with its share of the items, on a thread of its own.
type Work = Box<dyn FnOnce(Range<u64>) + Send>;

/// A way to add.
struct Shape<M: Mode<u64>> {
    name: &'static str,
    items: u64,
    builder: fn() -> Builder<u64, M>,
    /// Makes a producer.
    work: fn(&Batcher<u64, M>) -> Work,
}

const ADD: Shape<Plain> = Shape { name: "add", items: 1 << 23, builder, work: add };
const OWNED_ADD: Shape<Plain> = Shape {
    name: "owned_add",
    items: 1 << 23,
    builder: || builder().owned_depth(DEPTH / 16),
    work: owned_add,
};
const ADD_MANY: Shape<Plain> =
    Shape { name: "add_many_64", items: 1 << 24, builder, work: add_many_64 };
const ADD_WITH_ACK: Shape<Tracked> = Shape {
    name: "add_with_ack",
    items: 1 << 20,
    builder: || builder().with_acks(),
    work: add_with_ack,
};

fn main() {
    let mut turns = Vec::new();
    for flushers in FLUSHERS {
        for producers in PRODUCERS {
            turns.push(turn(&ADD, producers, flushers));
            turns.push(turn(&OWNED_ADD, producers, flushers));
            turns.push(turn(&ADD_MANY, producers, flushers));
            turns.push(turn(&ADD_WITH_ACK, producers, flushers));
        }
    }
    take_turns("engine", ROUNDS, turns);
}

fn turn<M: Mode<u64> + 'static>(shape: &'static Shape<M>, producers: u64, flushers: usize) -> Turn {
    let s = if flushers == 1 { "" } else { "s" };
    let case = format!("{} {flushers} flusher{s}", shape.name);
    Turn::new(case.clone(), move |_| {
        let items = or_quick(shape.items, shape.items / 16);
        through_engine(shape, producers, flushers, items / 8);
        let took = through_engine(shape, producers, flushers, items);
        let millions = items as f64 / took.as_secs_f64() / 1e6;
        vec![Figure::new(case.clone(), format!("P = {producers}: M items/s"), millions)]
    })
}

fn builder() -> Builder<u64> {
    Batcher::builder().max_batch_size(BATCH).queue_depth(DEPTH)
}

/// Runs `items` items, a share for each producer.
fn through_engine<M: Mode<u64>>(
    shape: &Shape<M>,
    producers: u64,
    flushers: usize,
    items: u64,
) -> Duration {
    let sum = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&sum);
    let spawned = (shape.builder)().flushers(flushers).spawn(move |_| {
        let total = Arc::clone(&total);
        let fold = move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            let sum = batch.iter().fold(0_u64, |sum, item| sum.wrapping_add(*item));
            total.fetch_add(black_box(sum), Ordering::Relaxed);
            Ok(())
        };
        Ok::<_, WriteError>(sink::from_fn(fold))
    });
    let batcher = spawned.expect("the configuration is valid");
    let share = items / producers;
    let ready = Barrier::new(usize::try_from(producers).expect("there are a few"));
    let start = thread::scope(|scope| {
        let spawn = |p| {
            let (work, ready) = ((shape.work)(&batcher), &ready);
            scope.spawn(move || {
                ready.wait();
                let start = Instant::now();
                work(p * share..(p + 1) * share);
                start
            })
        };
        let threads: Vec<_> = (0..producers).map(spawn).collect();
        let starts = threads.into_iter().map(|thread| thread.join().expect("none panics"));
        starts.min().expect("there is one")
    });
    batcher.flush(LONG).expect("the sink takes everything");
    let took = start.elapsed();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, share * producers);
    let expected = (0..share * producers).fold(0_u64, u64::wrapping_add);
    assert_eq!(sum.load(Ordering::Relaxed), expected);
    took
}

fn add(batcher: &Batcher<u64>) -> Work {
    let producer = batcher.producer();
    Box::new(move |items| {
        for item in items {
            producer.add(item).expect("the engine is open");
        }
    })
}

fn owned_add(batcher: &Batcher<u64>) -> Work {
    let mut producer = batcher.owned_producer().expect("there are slots for sixteen");
    Box::new(move |items| {
        for item in items {
            producer.add(item).expect("the engine is open");
        }
    })
}

fn add_many_64(batcher: &Batcher<u64>) -> Work {
    let producer = batcher.producer();
    Box::new(move |items| {
        let mut run = Vec::with_capacity(64);
        let mut next = items.start;
        while next < items.end {
            let end = (next + 64).min(items.end);
            run.extend(next..end);
            producer.add_many(&mut run).expect("the engine is open");
            next = end;
        }
    })
}

fn add_with_ack(batcher: &Batcher<u64, Tracked>) -> Work {
    let producer = batcher.producer();
    Box::new(move |items| {
        let mut acks = Vec::with_capacity(4_096);
        let mut next = items.start;
        while next < items.end {
            let end = (next + WINDOW).min(items.end);
            let add = |item| producer.add_with_ack(item).expect("the engine is open");
            acks.extend((next..end).map(add));
            for ack in acks.drain(..) {
                ack.wait().expect("the sink takes everything");
            }
            next = end;
        }
    })
}
