//! Measures waking: how long from `add` to the sink, beside the least that waking a thread can
//! cost, `park` and `unpark` around one word.
//!
//! | case | |
//! |---|---|
//! | `handover` | the engine with `max_batch_size(1)`: not what batching is for |
//! | `idle` | the engine with `FlushWhen::Idle`, batches of up to 512 |
//! | `bare` | one word and `park`, `unpark`: a futex in Linux |
//!
//! | pace | when the next item is sent |
//! |---|---|
//! | every ms | 1 ms after the one before has arrived: the flusher sleeps |
//! | at once | when the one before has arrived: the flusher still looks out for it |
//! | flood | without waiting for anything; its latency is that of a full queue, so not shown |
//!
//! In a turn the three are all there and send in short stretches, one after the other, so that
//! what a machine does to one it does to all; ratios are of the same turn. The sender looks for the
//! arrival without sleeping. Every turn checks count and sum.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Builder, FlushWhen, WriteContext, WriteError, sink};

mod common;
use common::{Figure, Turn, or_quick, take_turns};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 11;
const LONG: Duration = Duration::from_secs(600);
const FLOOD: u64 = 2_000_000;
/// Tells the bare receiver to end.
const OVER: u64 = u64::MAX;

/// How items follow each other.
#[derive(Clone, Copy)]
struct Pace {
    name: &'static str,
    pause: Duration,
    /// Items that one sends before it is the next one's turn, and how often it is anybody's.
    stretch: u64,
    stretches: u64,
}

const EVERY_MS: Pace =
    Pace { name: "every ms", pause: Duration::from_millis(1), stretch: 20, stretches: 25 };
const AT_ONCE: Pace =
    Pace { name: "at once", pause: Duration::ZERO, stretch: 2_000, stretches: 25 };

fn main() {
    let paced = [EVERY_MS, AT_ONCE].map(|pace| Turn::new(pace.name, move |_| in_turns(pace)));
    let mut turns: Vec<Turn> = paced.into();
    turns.push(Turn::new("flood", |_| {
        let items = or_quick(FLOOD, FLOOD / 16);
        vec![Figure::new("handover flood", RATE, items as f64 / flood(items).as_secs_f64() / 1e3)]
    }));
    take_turns("wake", ROUNDS, turns);
}

const RATE: &str = "K items/s";

fn in_turns(pace: Pace) -> Vec<Figure> {
    let mut ends = [
        End::bare("bare"),
        End::engine("handover", handover()),
        End::engine("idle", Batcher::builder().max_batch_size(512).flush_when(FlushWhen::Idle)),
    ];
    for _ in 0..or_quick(pace.stretches, 3) {
        ends.iter_mut().for_each(|end| end.stretch(pace));
        ends.rotate_left(1);
    }
    let mut runs = ends.map(|end| end.finish(pace));
    runs.sort_by_key(|run| run.name);
    let bare = runs[0].p50;
    runs.iter().flat_map(|run| run.figures(pace, bare)).collect()
}

fn handover() -> Builder<u64> {
    Batcher::builder().max_batch_size(1).queue_depth(8_192)
}

/// What came out of one of the three in a turn.
struct Run {
    name: &'static str,
    p50: f64,
    p99: f64,
    per_second: f64,
}

impl Run {
    fn figures(&self, pace: Pace, bare: f64) -> Vec<Figure> {
        let figure =
            |measure, value| Figure::new(format!("{} {}", self.name, pace.name), measure, value);
        let mut figures = vec![
            figure("p50 µs", self.p50),
            figure("p50 / bare", self.p50 / bare),
            figure("p99 µs", self.p99),
        ];
        if pace.pause.is_zero() {
            figures.push(figure(RATE, self.per_second / 1e3)); // else the pace decides
        }
        figures
    }
}

/// What sender and receiver share: when the last item arrived, in nanoseconds after the start, and
/// what came in all.
struct Line {
    start: Instant,
    arrived: AtomicU64,
    count: AtomicU64,
    sum: AtomicU64,
}

impl Line {
    fn new() -> Arc<Self> {
        let [arrived, count, sum] = [0; 3].map(AtomicU64::new);
        Arc::new(Self { start: Instant::now(), arrived, count, sum })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("less than 584 years")
    }

    fn arrive(&self, item: u64) {
        self.arrived.store(self.now(), Ordering::Relaxed);
        self.sum.fetch_add(item, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// All items from 1 on must have come.
    fn check(&self, items: u64) {
        assert_eq!(self.count.load(Ordering::Acquire), items);
        assert_eq!(self.sum.load(Ordering::Relaxed), items * (items + 1) / 2);
    }
}

/// The sender's end of one of the three.
struct End {
    name: &'static str,
    line: Arc<Line>,
    send: Box<dyn FnMut(u64)>,
    /// Ends the receiver.
    close: Box<dyn FnOnce()>,
    sent: u64,
    latencies: Vec<u64>,
    /// Time in stretches.
    took: Duration,
}

impl End {
    fn new(
        name: &'static str,
        line: Arc<Line>,
        send: impl FnMut(u64) + 'static,
        close: impl FnOnce() + 'static,
    ) -> Self {
        let (send, close) = (Box::new(send), Box::new(close));
        Self { name, line, send, close, sent: 0, latencies: Vec::new(), took: Duration::ZERO }
    }

    fn engine(name: &'static str, builder: Builder<u64>) -> Self {
        let line = Line::new();
        let batcher = engine(builder, &line);
        let producer = batcher.producer();
        let send = move |item| producer.add(item).expect("the engine is open");
        Self::new(name, line, send, move || assert!(batcher.shutdown(LONG).is_clean()))
    }

    fn bare(name: &'static str) -> Self {
        let (line, word) = (Line::new(), Arc::new(AtomicU64::new(0)));
        let (its_line, its_word) = (Arc::clone(&line), Arc::clone(&word));
        let receiver = thread::spawn(move || receive(&its_line, &its_word));
        let (unpark, last) = (receiver.thread().clone(), Arc::clone(&word));
        let send = move |item| {
            word.store(item, Ordering::Release);
            unpark.unpark();
        };
        let close = move || {
            last.store(OVER, Ordering::Release);
            receiver.thread().unpark();
            receiver.join().expect("it does not panic");
        };
        Self::new(name, line, send, close)
    }

    /// Sends each item when the one before has arrived and the pause is over.
    fn stretch(&mut self, pace: Pace) {
        let start = Instant::now();
        for _ in 0..pace.stretch {
            if !pace.pause.is_zero() {
                thread::sleep(pace.pause);
            }
            self.sent += 1;
            let sent = self.line.now();
            (self.send)(self.sent);
            while self.line.count.load(Ordering::Acquire) < self.sent {
                spin_loop();
            }
            let arrived = self.line.arrived.load(Ordering::Relaxed);
            self.latencies.push(arrived.saturating_sub(sent));
        }
        self.took += start.elapsed();
    }

    fn finish(self, pace: Pace) -> Run {
        let Self { name, line, close, sent, mut latencies, took, .. } = self;
        close();
        line.check(sent);
        assert_eq!(sent % pace.stretch, 0);
        latencies.sort_unstable();
        let at = |per_cent: usize| latencies[(latencies.len() - 1) * per_cent / 100] as f64 / 1e3;
        Run { name, p50: at(50), p99: at(99), per_second: sent as f64 / took.as_secs_f64() }
    }
}

/// One word, and a thread that sleeps until it changes.
fn receive(line: &Line, word: &AtomicU64) {
    let mut seen = 0;
    loop {
        match word.load(Ordering::Acquire) {
            OVER => return,
            now if now == seen => thread::park(),
            now => {
                seen = now;
                line.arrive(now);
            }
        }
    }
}

/// An engine whose sink reports each arrival.
fn engine(builder: Builder<u64>, line: &Arc<Line>) -> Batcher<u64> {
    let line = Arc::clone(line);
    let spawned = builder.spawn(move |_| {
        let line = Arc::clone(&line);
        let arrive = move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            batch.iter().for_each(|item| line.arrive(*item));
            Ok(())
        };
        Ok::<_, WriteError>(sink::from_fn(arrive))
    });
    spawned.expect("the configuration is valid")
}

fn flood(items: u64) -> Duration {
    let line = Line::new();
    let batcher = engine(handover(), &line);
    let producer = batcher.producer();
    let start = Instant::now();
    (1..=items).for_each(|item| producer.add(item).expect("the engine is open"));
    batcher.flush(LONG).expect("nothing holds it up");
    let took = start.elapsed();
    assert_eq!(batcher.shutdown(LONG).stats.batches, items);
    line.check(items);
    took
}
