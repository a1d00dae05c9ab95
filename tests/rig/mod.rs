//! A pump before a sink that fails by plan, and what it was asked; and plans that many tests have.

#![allow(dead_code)] // each file of tests uses its part

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluicegate::testing::{Fault, FaultSink, Faults, Recorder};
use sluicegate::{
    Applied, Batch, BatchId, Batcher, Builder, Class, Flusher, Mode, Plain, Pump, Retry, Sink,
    SinkFactory, SinkLimits, Stats, TestClock, WriteContext, WriteError,
};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A call of the sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// After the start.
    pub at: Duration,
    pub id: BatchId,
    pub items: Vec<u64>,
    pub bytes: u64,
    /// The batch has not failed as a whole.
    pub ok: bool,
}

/// A sink that writes down what it is asked.
pub struct Watched {
    inner: FaultSink<u64, Recorder<u64>>,
    start: Instant,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Sink<u64> for Watched {
    fn write(&mut self, batch: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let at = cx.now() - self.start;
        let (id, items, bytes) = (batch.id(), batch.to_vec(), batch.bytes());
        let result = self.inner.write(batch, cx);
        let asked = Asked { at, id, items, bytes, ok: result.is_ok() };
        self.asked.lock().unwrap().push(asked);
        result
    }

    fn limits(&self) -> SinkLimits {
        self.inner.limits()
    }
}

/// An engine on a test clock.
pub struct Rig<M: Mode<u64> = Plain> {
    pub pump: Pump<u64, Watched, M>,
    pub clock: TestClock,
    pub start: Instant,
    /// What is in.
    pub store: Recorder<u64>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl<M: Mode<u64>> Rig<M> {
    pub fn new(builder: Builder<u64, M>, faults: &Faults<u64>) -> Self {
        Self::at(TestClock::new(), builder, faults)
    }

    /// For plans that name times of the clock.
    pub fn at(clock: TestClock, builder: Builder<u64, M>, faults: &Faults<u64>) -> Self {
        let (store, asked, start) = (Recorder::new(), Arc::default(), clock.now());
        let inner = faults.wrap(store.clone());
        let sink = Watched { inner, start, asked: Arc::clone(&asked) };
        let pump = builder.pump(sink, clock.clone()).unwrap();
        Self { pump, clock, start, store, asked }
    }

    /// Adds them, and writes what is ready.
    #[track_caller]
    pub fn add(&mut self, items: Range<u64>) {
        let mut items: Vec<u64> = items.collect();
        while !items.is_empty() {
            let before = items.len();
            let _ = self.pump.producer().try_add_many(&mut items);
            let written = self.pump.run();
            assert!(items.len() < before || written > 0, "full, and nothing can be written");
        }
    }

    /// Adds one, as a producer that would rather wait than lose it.
    pub fn add_when_there_is_room(&mut self, item: u64) {
        while self.pump.producer().try_add(item).is_err() {
            self.pump.advance(SECOND);
        }
    }

    /// The calls so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Items of each call.
    pub fn sizes(&self) -> Vec<usize> {
        self.asked.lock().unwrap().iter().map(|asked| asked.items.len()).collect()
    }

    /// When each call was.
    pub fn times(&self) -> Vec<Duration> {
        self.asked.lock().unwrap().iter().map(|asked| asked.at).collect()
    }

    pub fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.clock.now() - self.start
    }

    pub fn stats(&self) -> Stats {
        let stats = self.pump.stats();
        assert!(stats.tally.balances(), "{:?}", stats.tally);
        stats
    }
}

/// Batches of so many items, no breaker, and a budget that never runs out.
pub fn retrying(batch: usize, retry: Retry) -> Builder<u64> {
    Batcher::builder().max_batch_size(batch).breaker(None).seed(1).retry(retry.budget_floor(1e6))
}

/// A plan by which each call meets this fault.
pub fn always(fault: Fault) -> Faults<u64> {
    Faults::seeded(0).one_in(1, fault)
}

/// The items in these places fail, and are not in.
pub fn some_of(at: &[usize], class: Class) -> Fault {
    Fault::Items { at: at.to_vec(), class, applied: Applied::Nothing }
}

/// For an engine with threads: sinks that fail by plan, and what is in.
pub fn sinks(faults: Faults<u64>) -> (impl SinkFactory<u64>, Recorder<u64>) {
    let store = Recorder::new();
    let inside = store.clone();
    (move |_: Flusher| Ok::<_, WriteError>(faults.wrap(inside.clone())), store)
}

/// Takes the time of a sink's delays.
pub fn advancing(clock: &TestClock) -> impl Fn(Duration) + Send + Sync + 'static {
    let clock = clock.clone();
    move |time| clock.advance(time)
}

/// The items of failed items, as the report has them.
pub fn failed<T: Copy>(report: &sluicegate::Shutdown<T>) -> Vec<T> {
    report.failed.iter().map(|failed| failed.item).collect()
}
