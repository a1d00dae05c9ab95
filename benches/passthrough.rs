//! Measures the engine as a mere hand-over, `max_batch_size(1)`: how long from `add` to the sink,
//! and how many items/s, beside the least that waking a thread can cost: `park` and `unpark` around
//! one word. Not: what batching is for.
//!
//! | pace | when the next item is sent |
//! |---|---|
//! | at once | when the one before has arrived: the flusher still looks out for it |
//! | after 1 ms | 1 ms after the one before has arrived: the flusher sleeps |
//! | flood | without waiting for anything; its latency is that of a full queue, so not shown |
//!
//! The two take turns, round after round; printed are medians over the rounds, with the range.
//! Every run checks its count.

#![allow(clippy::print_stdout)]

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Producer, WriteContext, WriteError, sink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 9;
const LONG: Duration = Duration::from_secs(600);

/// Name, items of a round, pause between two.
const PACES: [(&str, u64, Duration); 2] =
    [("at once", 50_000, Duration::ZERO), ("after 1 ms", 300, Duration::from_millis(1))];
const FLOOD: u64 = 2_000_000;

/// What came out of one run.
struct Run {
    p50: f64,
    p99: f64,
    per_second: f64,
}

fn main() {
    println!("{ROUNDS} rounds; µs and items/s: median (range)");
    println!("{:24} {:>22} {:>24} {:>34}", "", "p50 µs", "p99 µs", "items/s");
    for (pace, items, pause) in PACES {
        let (mut engine, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            engine.push(through_engine(items, pause));
            bare.push(through_park(items, pause));
        }
        for (name, runs) in [("engine", engine), ("park, unpark", bare)] {
            let [p50, p99] = [|run: &Run| run.p50, |run: &Run| run.p99].map(|of| {
                let (middle, low, high) = middle(runs.iter().map(of).collect());
                format!("{middle:.2} ({low:.2} … {high:.2})")
            });
            let (middle, low, high) = middle(runs.iter().map(|run| run.per_second).collect());
            let rate = if pause.is_zero() {
                format!("{middle:.0} ({low:.0} … {high:.0})")
            } else {
                "-".into() // the pace decides
            };
            println!("{pace:10} {name:13} {p50:>22} {p99:>24} {rate:>34}");
        }
    }
    let (middle, low, high) = middle((0..ROUNDS).map(|_| flood()).collect());
    let rate = format!("{middle:.0} ({low:.0} … {high:.0})");
    println!("{:10} {:13} {:>22} {:>24} {rate:>34}", "flood", "engine", "-", "-");
}

/// Median, least, most.
fn middle(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// What both ends share: each hand-over's time of arrival, in nanoseconds after the start.
struct Line {
    start: Instant,
    arrived: AtomicU64,
    count: AtomicU64,
}

impl Line {
    fn new() -> Arc<Self> {
        let (arrived, count) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { start: Instant::now(), arrived, count })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("less than 584 years")
    }

    fn arrive(&self) {
        self.arrived.store(self.now(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Sends each item when the one before has arrived and the pause is over.
    fn send(&self, items: u64, pause: Duration, mut send: impl FnMut(u64)) -> Run {
        let mut latencies = Vec::with_capacity(usize::try_from(items).expect("they fit in memory"));
        let start = Instant::now();
        for item in 1..=items {
            if !pause.is_zero() {
                thread::sleep(pause);
            }
            let sent = self.now();
            send(item);
            while self.count.load(Ordering::Acquire) < item {
                spin_loop();
            }
            latencies.push(self.arrived.load(Ordering::Relaxed).saturating_sub(sent));
        }
        let took = start.elapsed();
        latencies.sort_unstable();
        let at = |per_cent: usize| latencies[(latencies.len() - 1) * per_cent / 100] as f64 / 1e3;
        Run { p50: at(50), p99: at(99), per_second: items as f64 / took.as_secs_f64() }
    }
}

/// Runs `send` on an engine whose sink reports each arrival.
fn engine<R>(line: &Arc<Line>, items: u64, send: impl FnOnce(&Batcher<u64>) -> R) -> R {
    let line = Arc::clone(line);
    let builder = Batcher::builder().max_batch_size(1).queue_depth(8_192);
    let batcher = builder
        .spawn(move |_| {
            let line = Arc::clone(&line);
            Ok::<_, WriteError>(sink::from_fn(
                move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                    assert_eq!(batch.len(), 1);
                    line.arrive();
                    Ok(())
                },
            ))
        })
        .expect("the configuration is valid");
    let run = send(&batcher);
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.batches), (items, items));
    run
}

fn add(producer: &Producer<u64>, item: u64) {
    producer.add(item).expect("the engine is open");
}

fn through_engine(items: u64, pause: Duration) -> Run {
    let line = Line::new();
    engine(&line, items, |batcher| {
        let producer = batcher.producer();
        line.send(items, pause, |item| add(&producer, item))
    })
}

fn flood() -> f64 {
    let line = Line::new();
    engine(&line, FLOOD, |batcher| {
        let producer = batcher.producer();
        let start = Instant::now();
        (0..FLOOD).for_each(|item| add(&producer, item));
        batcher.flush(LONG).expect("nothing holds it up");
        FLOOD as f64 / start.elapsed().as_secs_f64()
    })
}

/// One word, and a thread that sleeps until it changes.
fn through_park(items: u64, pause: Duration) -> Run {
    let line = Line::new();
    let (word, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (receiver, its_word, its_done) = (Arc::clone(&line), Arc::clone(&word), Arc::clone(&done));
    let thread = thread::spawn(move || {
        let mut seen = 0;
        while !its_done.load(Ordering::Acquire) {
            let now = its_word.load(Ordering::Acquire);
            if now == seen {
                thread::park();
            } else {
                seen = now;
                receiver.arrive();
            }
        }
        seen
    });
    let run = line.send(items, pause, |item| {
        word.store(item, Ordering::Release);
        thread.thread().unpark();
    });
    done.store(true, Ordering::Release);
    thread.thread().unpark();
    assert_eq!(thread.join().expect("it does not panic"), items);
    run
}
