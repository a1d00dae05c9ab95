//! What the tests share: a door inside sinks, a log of batches, items that count their drops, the
//! order of numbers, and seeds.

#![allow(dead_code, clippy::unwrap_used)] // each file of tests uses its part

#[cfg(unix)]
pub mod forks;
pub mod owned;
pub mod stress;

use std::collections::{HashMap, HashSet};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sluicegate::{
    Batch, Batcher, Builder, FlushReason, Flusher, Mode, Sink, SinkFactory, Tally, WhenFull,
    WriteContext, WriteError, sink,
};

/// A limit against hanging, never a measurement.
pub const LONG: Duration = Duration::from_secs(60);

/// Numbers of one producer's items start here times its index.
pub const OWN: u64 = 1 << 40;

/// Every policy for a full queue.
pub const POLICIES: [WhenFull; 4] =
    [WhenFull::Block, WhenFull::Reject, WhenFull::DropNewest, WhenFull::DropOldest];

/// A sink factory from a function that every flusher's sink calls.
pub fn sink_of<T: 'static>(
    write: impl Fn(&Batch<T>, &mut WriteContext<'_>) -> Result<(), WriteError>
    + Clone
    + Send
    + Sync
    + 'static,
) -> impl SinkFactory<T> {
    move |_: Flusher| {
        let write = write.clone();
        let each = move |batch: &Batch<T>, cx: &mut WriteContext<'_>| write(batch, cx);
        Ok::<_, WriteError>(sink::from_fn(each))
    }
}

/// A sink factory from a function that draws: each sink has random numbers of its own.
pub fn random_sinks<T: 'static>(
    rng: Rng,
    write: impl Fn(&Batch<T>, &mut WriteContext<'_>, &mut Rng) -> Result<(), WriteError>
    + Clone
    + Send
    + Sync
    + 'static,
) -> impl SinkFactory<T> {
    let seed = Mutex::new(rng);
    move |_: Flusher| {
        let (write, mut rng) = (write.clone(), seed.lock().unwrap().fork());
        let each = move |batch: &Batch<T>, cx: &mut WriteContext<'_>| write(batch, cx, &mut rng);
        Ok::<_, WriteError>(sink::from_fn(each))
    }
}

/// An engine in which what fails has failed: no retries, no bisection, no breaker.
pub fn no_second_try<T: Send + 'static, M: Mode<T>>(builder: Builder<T, M>) -> Builder<T, M> {
    builder.retry(None).bisect(false).breaker(None)
}

/// A sink factory for sinks that refuse everything for good.
pub fn refusing_sinks<T: 'static>() -> impl SinkFactory<T> {
    sink_of(|_: &Batch<T>, _: &mut WriteContext<'_>| Err(WriteError::permanent("no")))
}

/// A sink factory for sinks that take everything.
pub fn null_sinks<T: 'static>() -> impl SinkFactory<T> {
    |_: Flusher| Ok::<_, WriteError>(sink::NullSink)
}

/// A door, mostly inside a sink: shut until the test opens it, and it knows who has come.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Door>, Condvar)>);

#[derive(Default)]
struct Door {
    arrived: u64,
    permits: u64,
    open: bool,
}

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes to the door and waits until it opens.
    pub fn pass(&self) {
        let mut door = self.door();
        door.arrived += 1;
        self.0.1.notify_all();
        while !door.open && door.permits == 0 {
            door = self.0.1.wait(door).unwrap();
        }
        if !door.open {
            door.permits -= 1;
        }
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.door().open = true;
        self.0.1.notify_all();
    }

    /// Lets one through.
    pub fn admit_one(&self) {
        self.door().permits += 1;
        self.0.1.notify_all();
    }

    /// Waits until so many have come, ever.
    #[track_caller]
    pub fn wait_for(&self, arrivals: u64) {
        let end = Instant::now() + LONG;
        let mut door = self.door();
        while door.arrived < arrivals {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {arrivals} have come", door.arrived);
            door = self.0.1.wait_timeout(door, left).unwrap().0;
        }
    }

    pub fn arrived(&self) -> u64 {
        self.door().arrived
    }

    /// Sinks that come to the gate with each batch, and take everything.
    pub fn sinks<T: 'static>(&self) -> impl SinkFactory<T> + use<T> {
        let gate = self.clone();
        sink_of(move |_: &Batch<T>, _: &mut WriteContext<'_>| {
            gate.pass();
            Ok(())
        })
    }
}

/// An engine of batches of one, whose sink holds this item at the gate.
#[track_caller]
pub fn holding<T: Send + 'static, M: Mode<T>>(
    builder: Builder<T, M>,
    gate: &Gate,
    item: T,
) -> Batcher<T, M> {
    let batcher = builder.max_batch_size(1).spawn(gate.sinks()).unwrap();
    let added = batcher.producer().add(item);
    assert!(added.is_ok());
    gate.wait_for(1);
    batcher
}

/// An engine whose sink holds the first item, and whose queue of `depth` is full: 0 is written, 1..
/// are queued.
#[track_caller]
pub fn full_by<M: Mode<u64>>(
    builder: Builder<u64, M>,
    depth: usize,
) -> (Batcher<u64, M>, Gate, Log<u64>) {
    let (gate, log) = (Gate::new(), Log::new());
    let builder = builder.max_batch_size(1).queue_depth(depth);
    let batcher = builder.spawn(log.gated(&gate)).unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    (1..=depth as u64).for_each(|item| batcher.producer().try_add(item).unwrap());
    (batcher, gate, log)
}

/// As [`full_by`], of an engine with nothing else set.
#[track_caller]
pub fn full(depth: usize) -> (Batcher<u64>, Gate, Log<u64>) {
    full_by(Batcher::builder(), depth)
}

/// Waits until it is so.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "waited too long: {what}");
        thread::yield_now();
    }
}

/// Tells other threads to go on, and to stop when it is dropped: a failed assertion must not leave
/// them running.
pub struct Going<'a>(&'a AtomicBool);

impl<'a> Going<'a> {
    pub fn new(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A batch as a sink saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Written<T> {
    pub id: u64,
    pub reason: FlushReason,
    pub bytes: u64,
    pub items: Vec<T>,
    pub flusher: usize,
}

/// The batches that sinks saw, in the order of their calls.
#[derive(Clone)]
pub struct Log<T>(Arc<Mutex<Vec<Written<T>>>>);

impl<T: Clone> Log<T> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn record(&self, batch: &Batch<T>, cx: &WriteContext<'_>) {
        assert!(!batch.is_empty(), "an empty batch was written");
        self.0.lock().unwrap().push(Written {
            id: batch.id().get(),
            reason: batch.reason(),
            bytes: batch.bytes(),
            items: batch.to_vec(),
            flusher: cx.flusher().index,
        });
    }

    pub fn batches(&self) -> Vec<Written<T>> {
        self.0.lock().unwrap().clone()
    }

    pub fn items(&self) -> Vec<T> {
        self.batches().into_iter().flat_map(|batch| batch.items).collect()
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.batches().iter().map(|batch| batch.items.len()).collect()
    }

    pub fn reasons(&self) -> Vec<FlushReason> {
        self.batches().iter().map(|batch| batch.reason).collect()
    }
}

impl<T: Clone + Send + 'static> Log<T> {
    /// Sinks that write down everything and take it.
    pub fn factory(&self) -> impl SinkFactory<T> {
        let log = self.clone();
        sink_of(move |batch: &Batch<T>, cx: &mut WriteContext<'_>| {
            log.record(batch, cx);
            Ok(())
        })
    }

    /// One such sink, for a pump.
    pub fn sink(&self) -> impl Sink<T> + use<T> {
        let log = self.clone();
        sink::from_fn(move |batch: &Batch<T>, cx: &mut WriteContext<'_>| {
            log.record(batch, cx);
            Ok(())
        })
    }

    /// As the factory's, and they come to the gate with what they have written down.
    pub fn gated(&self, gate: &Gate) -> impl SinkFactory<T> + use<T> {
        let (log, gate) = (self.clone(), gate.clone());
        sink_of(move |batch: &Batch<T>, cx: &mut WriteContext<'_>| {
            log.record(batch, cx);
            gate.pass();
            Ok(())
        })
    }
}

/// How many [`Tracked`] items there are and were.
#[derive(Clone, Debug, Default)]
pub struct Census(Arc<(AtomicU64, AtomicU64)>);

/// An item that is counted when it is made and when it is dropped.
#[derive(Debug)]
pub struct Tracked {
    pub number: u64,
    census: Census,
    gone: bool,
}

impl Census {
    pub fn item(&self, number: u64) -> Tracked {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        Tracked { number, census: self.clone(), gone: false }
    }

    pub fn made(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        assert!(!self.gone, "dropped twice");
        self.gone = true;
        self.census.0.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[track_caller]
pub fn assert_balances(tally: &Tally) {
    assert!(tally.balances(), "{tally:?}");
}

/// Each item once.
#[track_caller]
pub fn assert_once(numbers: &[u64]) {
    let mut seen = HashSet::new();
    for number in numbers {
        assert!(seen.insert(number), "{number} was there twice");
    }
}

/// Of each producer, and so each item once.
#[track_caller]
pub fn assert_in_order(numbers: &[u64]) {
    let mut last = HashMap::new();
    for number in numbers {
        let before = last.insert(number / OWN, number);
        assert!(before.is_none_or(|before| before < number), "{before:?}, {number}");
    }
}

/// Random numbers (`SplitMix64`), the same for the same seed.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// `SLUICEGATE_SEED`, or else a fresh seed, which is printed: `cargo test` shows it when the
    /// test fails.
    #[allow(clippy::print_stderr)]
    pub fn seeded() -> Self {
        let given = std::env::var("SLUICEGATE_SEED").ok();
        let seed = given.map_or_else(fresh_seed, |seed| seed.parse().unwrap());
        eprintln!("SLUICEGATE_SEED={seed}");
        Self(seed)
    }

    pub fn with(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to one less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<V: Copy>(&mut self, values: &[V]) -> V {
        values[self.index(values.len())]
    }

    /// Another source, for another thread.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// Mostly nothing, now and then a while: so that threads meet in every order.
    pub fn pause(&mut self) {
        match self.below(16) {
            0 => thread::yield_now(),
            1 => (0..self.below(2_000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_secs() ^ (u64::from(now.subsec_nanos()) << 20)
}

/// A waker that counts how often it was called.
#[derive(Default)]
pub struct Wakes(AtomicU64);

impl Wakes {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One poll, with this waker.
    pub fn poll<F: Future + Unpin>(self: &Arc<Self>, future: &mut F) -> Poll<F::Output> {
        poll_with(&Waker::from(Arc::clone(self)), future)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One poll, with this waker.
pub fn poll_with<F: Future + Unpin>(waker: &Waker, future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// One poll, and nobody to be woken.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_with(Waker::noop(), future)
}

/// The smallest runtime: polls, and parks the thread until it is woken.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
