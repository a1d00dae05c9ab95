//! Measures what the ring alone costs, on one thread with nobody in the way: ns per item, for items
//! of 8 bytes and of 64, in a ring of 1 Ki slots and of 64 Ki. Not: other threads (`engine`; and the
//! bare ring is a contestant in `benches/compare`). Each sample checks count and sum.
//!
//! | case | timed |
//! |---|---|
//! | `push` | filling the ring, item by item |
//! | `push_run_64` | filling it in runs of 64, with the copy into the `Vec` that holds the run |
//! | `drain` | emptying a full ring in runs of 512, with the sum of their items' first words |
//! | `push_drain_512` | 512 pushes and a run of 512 out, over and over, in the same few lines |

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::ring::Ring;

mod common;
use common::or_quick;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 512;
const RUN: usize = 64;
const CAPACITIES: [(usize, &str); 2] = [(1 << 10, "1 Ki slots"), (1 << 16, "64 Ki slots")];

/// `N` words.
type Item<const N: usize> = [u64; N];

/// A ring, the buffers of both ends, and what has gone in and come out.
struct Lap<const N: usize> {
    ring: Ring<Item<N>>,
    run: Vec<Item<N>>,
    out: Vec<Item<N>>,
    pushed: u64,
    drained: u64,
    sum: u64,
}

impl<const N: usize> Lap<N> {
    fn new(capacity: usize) -> Self {
        let ring = Ring::new(capacity).expect("a valid capacity");
        let (run, out) = (Vec::with_capacity(RUN), Vec::with_capacity(BATCH));
        Self { ring, run, out, pushed: 0, drained: 0, sum: 0 }
    }

    fn item(&mut self) -> Item<N> {
        self.pushed += 1;
        [self.pushed; N]
    }

    fn push(&mut self, count: usize) {
        for _ in 0..count {
            let item = self.item();
            self.ring.try_push(black_box(item)).expect("there is room");
        }
    }

    fn push_runs(&mut self, count: usize) {
        for _ in 0..count / RUN {
            for _ in 0..RUN {
                let item = self.item();
                self.run.push(black_box(item));
            }
            assert_eq!(self.ring.try_push_run(&mut self.run), Ok(RUN));
        }
    }

    fn drain(&mut self, count: usize) {
        for _ in 0..count / BATCH {
            assert_eq!(self.ring.try_pop_run(&mut self.out, BATCH), Ok(BATCH));
            self.drained += BATCH as u64;
            self.sum += self.out.drain(..).map(|item| item[0]).sum::<u64>();
        }
    }

    /// Everything is out: the numbers from 1 on. The next lap begins anew.
    fn check(&mut self) {
        assert!(self.ring.is_empty());
        assert_eq!(self.drained, self.pushed);
        assert_eq!(self.sum, self.pushed * (self.pushed + 1) / 2);
        (self.pushed, self.drained, self.sum) = (0, 0, 0);
    }
}

/// What is timed of a lap; everything is pushed, drained and checked once.
type Timed<const N: usize> = fn(&mut Lap<N>, usize) -> Duration;

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn cases<const N: usize>() -> [(&'static str, Timed<N>); 4] {
    [
        ("push", |lap, count| {
            let took = timed(|| lap.push(count));
            lap.drain(count);
            took
        }),
        ("push_run_64", |lap, count| {
            let took = timed(|| lap.push_runs(count));
            lap.drain(count);
            took
        }),
        ("drain", |lap, count| {
            lap.push(count);
            timed(|| lap.drain(count))
        }),
        ("push_drain_512", |lap, count| {
            timed(|| {
                for _ in 0..count / BATCH {
                    lap.push(BATCH);
                    lap.drain(BATCH);
                }
            })
        }),
    ]
}

fn bench<const N: usize>(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(1)); // one iteration is one item
    let millis = |full, quickly| Duration::from_millis(or_quick(full, quickly));
    group.sample_size(or_quick(30, 10));
    group.warm_up_time(millis(500, 20)).measurement_time(millis(2_000, 100));
    for (name, timed) in cases::<N>() {
        for (capacity, slots) in CAPACITIES {
            let id = BenchmarkId::new(format!("{name} {} B", 8 * N), slots);
            group.bench_function(id, |b| {
                let mut lap = Lap::<N>::new(capacity);
                b.iter_custom(|items| {
                    let laps = items.div_ceil(capacity as u64);
                    let mut took = Duration::ZERO;
                    for _ in 0..laps {
                        took += timed(&mut lap, capacity);
                        lap.check();
                    }
                    took.mul_f64(items as f64 / (laps * capacity as u64) as f64) // whole laps were run
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench::<1>, bench::<8>);
criterion_main!(benches);
