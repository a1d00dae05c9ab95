//! Promise: no call from any place deadlocks: not from the caller's own code inside the engine, not
//! while unwinding, not on a runtime's only thread, not in a forked child.

#![allow(clippy::unwrap_used, unsafe_code)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{Gate, LONG, assert_balances, full_by, poll_once, sink_of, until};
use sluicegate::{
    Ack, AddReason, Batch, Batcher, DroppedItem, FailedItem, Producer, Shutdown, Tracked, WhenFull,
    WriteContext, WriteError,
};

/// Where the caller's code runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Sink,
    AckWaker,
    OnFailed,
    /// On the flusher's thread, for an item that is too old.
    OnExpired,
    /// On the thread that adds.
    OnEvicted,
    OnNewest,
    /// Of an item that was written.
    DropWritten,
    /// Of an item that had to make room, on the thread that adds.
    DropEvicted,
    /// Of an item that was not let in.
    DropNewest,
}

/// What it calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    /// Until the queue is full, and once more.
    Add,
    AddTimeout,
    AddMany,
    AddAsync,
    Flush,
    FlushAsync,
    /// For an item in the queue.
    AckWait,
    AckPoll,
    Look,
    Close,
    Shutdown,
    ShutdownAsync,
    /// Of the engine.
    Drop,
}

const PLACES: [Place; 9] = [
    Place::Sink,
    Place::AckWaker,
    Place::OnFailed,
    Place::OnExpired,
    Place::OnEvicted,
    Place::OnNewest,
    Place::DropWritten,
    Place::DropEvicted,
    Place::DropNewest,
];

const CALLS: [Call; 13] = [
    Call::Add,
    Call::AddTimeout,
    Call::AddMany,
    Call::AddAsync,
    Call::Flush,
    Call::FlushAsync,
    Call::AckWait,
    Call::AckPoll,
    Call::Look,
    Call::Close,
    Call::Shutdown,
    Call::ShutdownAsync,
    Call::Drop,
];

const DEPTH: usize = 2;

impl Place {
    fn policy(self) -> WhenFull {
        match self {
            Self::OnEvicted | Self::DropEvicted => WhenFull::DropOldest,
            Self::OnNewest | Self::DropNewest => WhenFull::DropNewest,
            _ => WhenFull::Block,
        }
    }

    fn on_the_flusher(self) -> bool {
        self.policy() == WhenFull::Block
    }

    /// The item whose fate leads there.
    fn item(self) -> u64 {
        match self {
            Self::OnEvicted | Self::DropEvicted => 1,
            Self::OnNewest | Self::DropNewest => 3,
            _ => 0,
        }
    }
}

/// An item whose drop may call.
struct Item {
    number: u64,
    scene: Option<Arc<Scene>>,
}

impl Item {
    fn plain(number: u64) -> Self {
        Self { number, scene: None }
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        if let Some(scene) = self.scene.take() {
            scene.act();
        }
    }
}

/// An engine, and what is called from where.
struct Scene {
    place: Place,
    call: Call,
    gate: Gate,
    acted: AtomicBool,
    batcher: Mutex<Option<Batcher<Item, Tracked>>>,
    producer: OnceLock<Producer<Item, Tracked>>,
    ack: Mutex<Option<Ack<Item>>>,
    answer: Mutex<Option<String>>,
    report: Mutex<Option<Shutdown<Item>>>,
}

impl Wake for Scene {
    fn wake(self: Arc<Self>) {
        self.act();
    }
}

impl Scene {
    fn act_at(&self, place: Place) {
        if self.place == place {
            self.act();
        }
    }

    /// Calls, once.
    fn act(&self) {
        if self.acted.swap(true, Ordering::Relaxed) {
            return;
        }
        let answer = self.answer();
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn answer(&self) -> String {
        let producer = self.producer.get().unwrap();
        let items = || (10..20).map(Item::plain);
        match self.call {
            Call::Add => first_error(items().map(|item| producer.add(item))),
            Call::AddTimeout => first_error(items().map(|item| producer.add_timeout(item, LONG))),
            Call::AddMany => {
                let done = producer.add_many(&mut items().collect());
                done.map_or_else(|error| format!("{:?}", error.reason), |_| "Ok".into())
            }
            Call::AddAsync => first_error(items().map(|item| {
                let mut add = producer.add_async(item);
                let polled = poll_once(&mut add);
                assert!(polled.is_ready(), "a task would wait for the thread that it is on");
                match polled {
                    std::task::Poll::Ready(done) => done,
                    std::task::Poll::Pending => Ok(()),
                }
            })),
            Call::Flush => {
                let batcher = self.batcher.lock().unwrap();
                format!("{:?}", batcher.as_ref().unwrap().flush(Duration::MAX))
            }
            Call::FlushAsync => {
                let batcher = self.batcher.lock().unwrap();
                format!("{:?}", poll_once(&mut batcher.as_ref().unwrap().flush_async()))
            }
            Call::AckWait => {
                let ack = self.ack.lock().unwrap().take().unwrap();
                format!("{:?}", ack.wait().map(drop).map_err(|error| error.reason))
            }
            Call::AckPoll => {
                let mut ack = self.ack.lock().unwrap().take().unwrap();
                let polled = poll_once(&mut ack);
                format!("{:?}", polled.map(|done| done.map(drop).map_err(|error| error.reason)))
            }
            Call::Look => {
                let batcher = self.batcher.lock().unwrap();
                let batcher = batcher.as_ref().unwrap();
                assert_balances(&batcher.tally());
                assert_balances(&batcher.stats().tally);
                "Ok".into()
            }
            Call::Close => {
                let batcher = self.batcher.lock().unwrap();
                batcher.as_ref().unwrap().close();
                "Ok".into()
            }
            Call::Shutdown => {
                self.gate.open();
                let batcher = self.batcher.lock().unwrap().take().unwrap();
                let report = batcher.shutdown(LONG);
                let left = report.left_behind.len();
                *self.report.lock().unwrap() = Some(report);
                format!("left behind: {left}")
            }
            Call::ShutdownAsync => {
                self.gate.open();
                let batcher = self.batcher.lock().unwrap().take().unwrap();
                drop(batcher.shutdown_async(LONG));
                "Ok".into()
            }
            Call::Drop => {
                self.gate.open();
                drop(self.batcher.lock().unwrap().take());
                "Ok".into()
            }
        }
    }

    fn expected(&self) -> &'static str {
        match self.call {
            // Full, and nobody to wait for. The newest are let go at the door, that of the caller
            // inside as well.
            Call::Add | Call::AddTimeout | Call::AddMany | Call::AddAsync => "Reentrant",
            Call::Flush => "Err(Reentrant)",
            Call::FlushAsync => "Ready(Err(Reentrant))",
            Call::AckWait => "Err(Reentrant)",
            Call::AckPoll => "Ready(Err(Reentrant))",
            // The flusher's own thread cannot be waited for.
            Call::Shutdown if self.place.on_the_flusher() => "left behind: 1",
            Call::Shutdown => "left behind: 0",
            Call::Look | Call::Close | Call::ShutdownAsync | Call::Drop => "Ok",
        }
    }

    fn play(place: Place, call: Call) {
        let scene = Arc::new(Self {
            place,
            call,
            gate: Gate::new(),
            acted: AtomicBool::new(false),
            batcher: Mutex::default(),
            producer: OnceLock::new(),
            ack: Mutex::default(),
            answer: Mutex::default(),
            report: Mutex::default(),
        });
        *scene.batcher.lock().unwrap() = Some(scene.engine());
        let producer = scene.batcher.lock().unwrap().as_ref().unwrap().producer();
        let producer = scene.producer.get_or_init(|| producer);
        let drops = [Place::DropWritten, Place::DropEvicted, Place::DropNewest].contains(&place);
        let item = |number| {
            let acts = drops && number == place.item();
            Item { number, scene: acts.then(|| Arc::clone(&scene)) }
        };
        // Item 0 is in the sink, 1 and 2 are queued, and the queue is full.
        let mut first = producer.add_with_ack(item(0)).unwrap();
        scene.gate.wait_for(1);
        if place == Place::AckWaker {
            let waker = Waker::from(Arc::clone(&scene));
            let mut cx = Context::from_waker(&waker);
            assert!(std::pin::Pin::new(&mut first).poll(&mut cx).is_pending());
        }
        producer.add(item(1)).unwrap();
        *scene.ack.lock().unwrap() = Some(producer.add_with_ack(item(2)).unwrap());
        if place.on_the_flusher() {
            scene.gate.admit_one();
        } else {
            // Closed from inside itself, it has no place to give.
            let added = producer.add(item(3)).map_err(|error| error.reason());
            assert!(matches!(added, Ok(()) | Err(AddReason::Closed)), "{added:?}");
        }
        until("it has called", || scene.answer.lock().unwrap().is_some());
        let answer = scene.answer.lock().unwrap().take().unwrap();
        assert_eq!(answer, scene.expected(), "{call:?} from {place:?}");
        scene.gate.open();
        let batcher = scene.batcher.lock().unwrap().take();
        if let Some(batcher) = batcher {
            let report = batcher.shutdown(LONG);
            assert_eq!(report.left_behind, []);
            assert_eq!(report.tally.in_flight, 0);
            assert_balances(&report.tally);
        }
        let report = scene.report.lock().unwrap().take();
        if let Some(report) = report {
            assert_balances(&report.tally);
            assert_eq!(report.tally.in_flight, report.unflushed.len() as u64);
        }
        // Its item has met its fate, or it is with a flusher left behind; told it is.
        drop(first.wait());
    }

    fn engine(self: &Arc<Self>) -> Batcher<Item, Tracked> {
        let (place, scene) = (self.place, Arc::clone(self));
        let mut builder = Batcher::builder()
            .with_acks()
            .max_batch_size(1)
            .queue_depth(DEPTH)
            .when_full(place.policy());
        match place {
            Place::OnFailed => {
                let scene = Arc::clone(self);
                builder = builder.on_failed(move |_: FailedItem<Item>| scene.act());
            }
            Place::OnEvicted | Place::OnNewest => {
                let scene = Arc::clone(self);
                builder = builder.on_dropped(move |_: DroppedItem<Item>| scene.act());
            }
            Place::OnExpired => {
                let (scene, old) = (Arc::clone(self), Instant::now());
                let gate = self.gate.clone();
                builder = builder
                    .max_age_since(Duration::from_nanos(1), move |item: &Item| {
                        // No sink is asked for an old item: it waits here instead.
                        if item.number != 0 {
                            return Instant::now();
                        }
                        gate.pass();
                        old
                    })
                    .on_dropped(move |_: DroppedItem<Item>| scene.act());
            }
            _ => {}
        }
        builder
            .spawn(sink_of(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| {
                if batch[0].number == 0 {
                    scene.gate.pass();
                }
                scene.act_at(Place::Sink);
                if place == Place::OnFailed {
                    return Err(WriteError::permanent("no"));
                }
                Ok(())
            }))
            .unwrap()
    }
}

fn first_error(
    mut results: impl Iterator<Item = Result<(), sluicegate::AddError<Item>>>,
) -> String {
    let error = results.find_map(Result::err);
    error.map_or("Ok".into(), |error| format!("{:?}", error.reason()))
}

#[test]
fn every_call_returns_from_every_place() {
    for place in PLACES {
        for call in CALLS {
            // On a thread of its own: whatever hangs is told of.
            let played = thread::spawn(move || Scene::play(place, call));
            until(&format!("{call:?} from {place:?}"), || played.is_finished());
            if let Err(panic) = played.join() {
                resume_unwind(panic);
            }
        }
    }
}

/// An engine whose sink holds the first item, and whose queue is full: 0 is written, 1 and 2 are
/// queued.
fn full() -> (Batcher<u64, Tracked>, Gate) {
    let (batcher, gate, _) = full_by(Batcher::builder().with_acks(), DEPTH);
    (batcher, gate)
}

/// Every call that may wait, one after the other; opens the gate when the first has waited.
fn all_calls(batcher: Batcher<u64, Tracked>, gate: &Gate) {
    let producer = batcher.producer();
    assert!(producer.try_add(9).is_err());
    assert!(producer.add_timeout(9, Duration::from_nanos(1)).is_err());
    thread::scope(|scope| {
        scope.spawn(|| {
            until("it sleeps", || batcher.stats().waiting_producers == 1);
            gate.open();
        });
        producer.add(3).unwrap(); // on a full queue
    });
    let ack = producer.add_with_ack(4).unwrap();
    producer.add_many(&mut vec![5, 6, 7, 8]).unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 9);
    assert_eq!(ack.wait().unwrap().attempts, 1);
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.tally.flushed_ok, 9);
}

#[cfg(unix)]
#[test]
fn from_a_thread_that_handles_signals() {
    use signal_hook::consts::SIGUSR1;
    use signal_hook::iterator::Signals;

    let (batcher, gate) = full();
    let mut signals = Signals::new([SIGUSR1]).unwrap();
    let handle = signals.handle();
    let handler = thread::spawn(move || {
        assert_eq!(signals.forever().next(), Some(SIGUSR1));
        all_calls(batcher, &gate);
    });
    signal_hook::low_level::raise(SIGUSR1).unwrap();
    handler.join().unwrap();
    handle.close();
}

#[test]
fn on_the_only_thread_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (batcher, gate) = full();
    runtime.block_on(async { all_calls(batcher, &gate) });

    let (batcher, gate) = full();
    runtime.block_on(async {
        let producer = batcher.producer();
        let waiting = tokio::spawn({
            let producer = producer.clone();
            async move { producer.add_with_ack_async(3).await.unwrap().await.unwrap() }
        });
        while batcher.stats().waiting_producers == 0 {
            tokio::task::yield_now().await;
        }
        let flushed = batcher.flush_async();
        gate.open();
        assert!(flushed.await.unwrap().flushed_ok >= 3);
        assert_eq!(waiting.await.unwrap().attempts, 1);
        producer.add_async(4).await.unwrap();
        let report = batcher.shutdown_async(LONG).await;
        assert!(report.is_clean());
        assert_eq!(report.tally.flushed_ok, 5);
    });
}

#[test]
fn while_unwinding() {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            assert!(thread::panicking());
            (self.0)();
        }
    }
    let (batcher, gate) = full();
    let mut batcher = Some(batcher);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _guard = Guard(|| all_calls(batcher.take().unwrap(), &gate));
        resume_unwind(Box::new("as planned"));
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"as planned"));
    assert!(batcher.is_none());

    // The engine's own drop.
    let (batcher, gate) = full();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _batcher = batcher;
        gate.open();
        resume_unwind(Box::new("as planned"));
    }));
    assert!(caught.is_err());
}

#[test]
fn an_ack_from_another_engine_can_be_waited_for_in_a_sink() {
    let (inner, gate) = full();
    gate.open();
    let producer = inner.producer();
    let outer = Batcher::builder()
        .with_acks()
        .max_batch_size(1)
        .spawn(sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            let ack = producer.add_with_ack(batch[0]);
            let done = ack.map_err(|error| error.reason().to_string());
            done.and_then(|ack| ack.wait().map_err(|error| error.to_string()))
                .map(drop)
                .map_err(WriteError::permanent)
        }))
        .unwrap();
    let acks: Vec<_> = (0..100).map(|item| outer.producer().add_with_ack(item).unwrap()).collect();
    acks.into_iter().for_each(|ack| assert_eq!(ack.wait().unwrap().attempts, 1));
    assert!(outer.shutdown(LONG).is_clean());
    assert!(inner.shutdown(LONG).is_clean());
}
