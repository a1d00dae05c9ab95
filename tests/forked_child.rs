//! Promise: in a forked child every call of an engine of the parent's returns at once and says that
//! it is forked; the parent goes on unharmed and loses nothing; the child can have engines of its
//! own.
//!
//! The forking is done by a process of its own, this test run anew: the harness is not forked.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stderr, unsafe_code)]

mod common;

#[cfg(feature = "tokio")]
use std::future::poll_fn;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common::forks::{PANICKED, exit_with, fork, run_anew};
use common::{Gate, Going, LONG, Log, POLICIES, poll_once, sink_of, until};
use sluicegate::{
    Ack, AckReason, AddError, AddReason, Batch, Batcher, FlushError, Stuck, Tracked, WhenFull,
    WriteContext,
};

/// Set in the process that forks: how many times.
const FORKS: &str = "SLUICEGATE_FORKS";

#[test]
fn every_call_says_so() {
    run_anew("quiet", &[(FORKS, "2")]);
}

#[test]
fn though_it_is_forked_in_the_middle_of_everything() {
    run_anew("busy", &[(FORKS, "50")]);
}

fn forks() -> u32 {
    std::env::var(FORKS).map_or(1, |forks| forks.parse().unwrap())
}

#[test]
#[ignore = "forks its process: run by every_call_says_so"]
fn quiet() {
    let parent = Parent::new();
    parent.fork_often(forks());
    parent.end();
}

#[test]
#[ignore = "forks its process: run by though_it_is_forked_in_the_middle_of_everything"]
fn busy() {
    let parent = Parent::new();
    let going = AtomicBool::new(true);
    thread::scope(|scope| {
        let _stop = Going::new(&going);
        let (parent, going) = (&parent, &going);
        for id in 0..3 {
            scope.spawn(move || {
                while going.load(Ordering::Relaxed) {
                    parent.add_in_some_way(id);
                }
            });
        }
        scope.spawn(move || {
            while going.load(Ordering::Relaxed) {
                // Locks are held most of the time.
                assert!(parent.busy.tally().balances());
                parent.busy.flush(LONG).unwrap();
                let _ = parent.stuck.producer().add_timeout(9, Duration::from_nanos(1));
                assert!(parent.stuck.stats().waiting_producers < 10);
            }
        });
        parent.fork_often(forks());
    });
    parent.end();
}

/// The engines that are forked.
struct Parent {
    /// Whose queue is small and whose sinks are quick.
    busy: Batcher<u64, Tracked>,
    written: Log<u64>,
    added: AtomicU64,
    /// Whose sink hangs and whose queue is full.
    stuck: Batcher<u64, Tracked>,
    gate: Gate,
    /// As `stuck`, with each policy and short of bytes, not of slots.
    full: Vec<Batcher<u64, Tracked>>,
}

impl Parent {
    fn new() -> Self {
        let (written, gate) = (Log::new(), Gate::new());
        let builder = Batcher::builder().with_acks().max_batch_size(4).queue_depth(16);
        let busy = builder.flushers(2).spawn(written.factory()).unwrap();
        let stuck = stuck_by(&gate, WhenFull::Block, false);
        let full = POLICIES.into_iter().flat_map(|policy| {
            let gate = &gate;
            [false, true].map(|bytes| stuck_by(gate, policy, bytes))
        });
        let full = full.collect();
        Self { busy, written, added: AtomicU64::new(0), stuck, gate, full }
    }

    fn add_in_some_way(&self, id: u64) {
        let producer = self.busy.producer();
        producer.add(id).unwrap();
        producer.add_many(&mut vec![id, id]).unwrap();
        let ack = producer.add_with_ack(id).unwrap();
        common::block_on(producer.add_async(id)).unwrap();
        assert_eq!(ack.wait().unwrap().attempts, 1);
        self.added.fetch_add(5, Ordering::Relaxed);
    }

    /// Forks, with futures and acks of every state in hand, and sees how the children fare.
    fn fork_often(&self, times: u32) {
        let stuck = self.stuck.producer();
        for round in 0..times {
            self.add_in_some_way(7);
            let mut waiting: Vec<_> = (0..2).map(|item| stuck.add_async(item)).collect();
            assert!(waiting.iter_mut().all(|add| poll_once(add).is_pending()));
            let mut with_ack = stuck.add_with_ack_async(3);
            assert!(poll_once(&mut with_ack).is_pending());
            let mut flush = self.stuck.flush_async();
            assert!(poll_once(&mut flush).is_pending());
            let door = Gate::new();
            let acks = acks(&door);
            let Some(forked) = fork() else {
                exit_with(|| {
                    let mut child = Child { checked: 0, failed: 0 };
                    let added = poll_once(&mut waiting[0]);
                    child.check(matches!(added, Poll::Ready(Err(AddError::Forked(0)))));
                    let added = poll_once(&mut with_ack);
                    child.check(matches!(added, Poll::Ready(Err(AddError::Forked(3)))));
                    child.check(poll_once(&mut flush) == Poll::Ready(Err(FlushError::Forked)));
                    drop((mem::take(&mut waiting), with_ack, flush));
                    child.acks(acks);
                    child.calls(self);
                    child.engine_of_its_own();
                    child.failed
                })
            };
            let code = forked.wait();
            assert_eq!(code, 0, "fork {round}: check {code} of `Child` failed ({PANICKED}: panic)");
            // The parent's own are as they were.
            assert!(waiting.iter_mut().all(|add| poll_once(add).is_pending()));
            assert!(poll_once(&mut with_ack).is_pending() && poll_once(&mut flush).is_pending());
            door.open();
            acks.1.into_iter().for_each(|ack| assert_eq!(ack.wait().unwrap().attempts, 1));
            assert!(acks.0.shutdown(LONG).is_clean());
        }
    }

    fn end(self) {
        let Self { busy, written, added, stuck, gate, full } = self;
        assert!(busy.flush(LONG).is_ok());
        let report = busy.shutdown(LONG);
        assert!(report.is_clean(), "{:?}", report.tally);
        assert_eq!(report.tally.flushed_ok, added.load(Ordering::Relaxed));
        assert_eq!(written.items().len() as u64, report.tally.flushed_ok);
        gate.open();
        for engine in full.into_iter().chain([stuck]) {
            assert_eq!(engine.stats().waiting_producers, 0);
            assert!(engine.shutdown(LONG).is_clean());
        }
    }
}

/// An engine whose sink holds the first item, and whose queue has room for none more: too few
/// slots, or too few bytes.
fn stuck_by(gate: &Gate, policy: WhenFull, bytes: bool) -> Batcher<u64, Tracked> {
    let inside = Gate::new();
    let (arrived, door) = (inside.clone(), gate.clone());
    inside.open();
    let batcher = Batcher::builder()
        .with_acks()
        .weight(|_: &u64| 1)
        .max_queue_bytes(if bytes { 3 } else { 1 << 20 })
        .when_full(policy)
        .max_batch_size(1)
        .queue_depth(if bytes { 16 } else { 2 })
        .spawn(sink_of(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            arrived.pass();
            door.pass();
            Ok(())
        }))
        .unwrap();
    batcher.producer().add(0).unwrap();
    inside.wait_for(1);
    (1..=2).for_each(|item| batcher.producer().try_add(item).unwrap());
    batcher
}

/// Acks, and their engine, whose sink hangs.
fn acks(gate: &Gate) -> (Batcher<u64, Tracked>, Vec<Ack<u64>>) {
    let builder = Batcher::builder().with_acks().max_batch_size(1);
    let batcher = builder.spawn(gate.sinks()).unwrap();
    let acks = (0..4).map(|item| batcher.producer().add_with_ack(item).unwrap()).collect();
    (batcher, acks)
}

/// What a child has found out: the number of its first check that failed.
struct Child {
    checked: i32,
    failed: i32,
}

impl Child {
    #[track_caller]
    fn check(&mut self, holds: bool) {
        self.checked += 1;
        if !holds && self.failed == 0 {
            self.failed = self.checked;
            let line = std::panic::Location::caller().line();
            let message = format!("forked_child.rs:{line}: check {} failed\n", self.checked);
            // SAFETY: the bytes are there while it writes. Not `eprintln`: its lock may be held.
            unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
        }
    }

    fn acks(&mut self, (batcher, acks): (Batcher<u64, Tracked>, Vec<Ack<u64>>)) {
        let mut acks = acks.into_iter();
        let mut next = || acks.next().unwrap();
        let forked = |reason: AckReason| reason == AckReason::Forked;
        self.check(next().wait().is_err_and(|error| forked(error.reason)));
        let mut ack = next();
        let waited = ack.wait_timeout(LONG);
        self.check(waited.is_some_and(|done| done.is_err_and(|error| forked(error.reason))));
        let tried = ack.try_wait();
        self.check(tried.is_some_and(|done| done.is_err_and(|error| forked(error.reason))));
        let polled = poll_once(&mut next());
        self.check(matches!(polled, Poll::Ready(Err(error)) if forked(error.reason)));
        drop(next());
        drop(batcher); // unflushed, and no drain
    }

    fn calls(&mut self, parent: &Parent) {
        for batcher in parent.full.iter().chain([&parent.busy, &parent.stuck]) {
            self.adds(batcher);
            self.check(batcher.flush(Duration::MAX) == Err(FlushError::Forked));
            let flushed = poll_once(&mut batcher.flush_async());
            self.check(flushed == Poll::Ready(Err(FlushError::Forked)));
            let tally = batcher.tally();
            self.check(tally.balances() && tally.in_flight == tally.enqueued);
            let stats = batcher.stats();
            self.check(stats.tally == tally && stats.waiting_producers == 0);
            batcher.close();
            self.check(batcher.is_closed());
        }
        for (batcher, way) in parent.full.iter().chain([&parent.busy, &parent.stuck]).zip(0..) {
            // SAFETY: nobody else uses it: this is the only thread of the child, whose parent's
            // frames never return here.
            let batcher = unsafe { ptr::read(batcher) };
            let enqueued = batcher.tally().enqueued;
            let report = match way % 3 {
                0 => batcher.shutdown(Duration::MAX),
                1 => {
                    let shutdown = poll_once(&mut batcher.shutdown_async(Duration::MAX));
                    let Poll::Ready(report) = shutdown else { return self.check(false) };
                    report
                }
                _ => {
                    drop(batcher);
                    continue;
                }
            };
            self.check(report.tally.enqueued == enqueued && report.unflushed.is_empty());
            self.check(!report.left_behind.is_empty());
            self.check(report.left_behind.iter().all(|left| left.stuck == Stuck::Forked));
        }
    }

    fn adds(&mut self, batcher: &Batcher<u64, Tracked>) {
        let producer = batcher.producer();
        self.check(producer.add(1) == Err(AddError::Forked(1)));
        self.check(producer.try_add(2) == Err(AddError::Forked(2)));
        self.check(producer.add_timeout(3, Duration::MAX) == Err(AddError::Forked(3)));
        let mut items = vec![4, 5];
        let added = producer.add_many(&mut items);
        self.check(added.is_err_and(|error| error.reason == AddReason::Forked));
        let added = producer.try_add_many(&mut items);
        self.check(added.is_err_and(|error| error.reason == AddReason::Forked));
        self.check(items == [4, 5]);
        let added = poll_once(&mut producer.add_async(6));
        self.check(added == Poll::Ready(Err(AddError::Forked(6))));
        let forked = |error: AddError<u64>| error.reason() == AddReason::Forked;
        self.check(producer.add_with_ack(7).is_err_and(forked));
        self.check(producer.try_add_with_ack(8).is_err_and(forked));
        self.check(producer.add_with_ack_timeout(9, LONG).is_err_and(forked));
        let added = poll_once(&mut producer.add_with_ack_async(10));
        self.check(matches!(added, Poll::Ready(Err(AddError::Forked(10)))));
        drop(producer.clone());
    }

    fn engine_of_its_own(&mut self) {
        let seen = Arc::new(Mutex::new(0));
        let sum = Arc::clone(&seen);
        let engine = Batcher::builder().with_acks().spawn(sink_of(
            move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                *sum.lock().unwrap() += batch.iter().sum::<u64>();
                Ok(())
            },
        ));
        let Ok(engine) = engine else { return self.check(false) };
        let producer = engine.producer();
        (0..100).for_each(|item| self.check(producer.add(item).is_ok()));
        let ack = producer.add_with_ack(1_000);
        self.check(engine.flush(LONG).is_ok_and(|tally| tally.flushed_ok == 101));
        self.check(ack.is_ok_and(|ack| ack.wait().is_ok()));
        self.grandchild(&engine);
        self.check(producer.add(10).is_ok());
        self.check(engine.shutdown(LONG).is_clean());
        self.check(*seen.lock().unwrap() == 4_950 + 1_000 + 10);
    }

    fn grandchild(&mut self, engine: &Batcher<u64, Tracked>) {
        let Some(forked) = fork() else {
            exit_with(|| {
                let mut child = Child { checked: 0, failed: 0 };
                child.adds(engine);
                child.failed
            })
        };
        self.check(forked.wait() == 0);
    }
}

#[test]
#[ignore = "forks its process: run by who_forks_in_a_sink_gets_a_child_that_works"]
fn in_a_sink() {
    let codes = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&codes);
    let own = Arc::new(Mutex::new(None));
    let inside = Arc::clone(&own);
    let batcher = Batcher::builder()
        .with_acks()
        .max_batch_size(1)
        .spawn(sink_of(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            let inside: &Mutex<Option<Arc<Batcher<u64, Tracked>>>> = &inside;
            let Some(engine) = inside.lock().unwrap().take() else { return Ok(()) };
            let Some(forked) = fork() else {
                exit_with(|| {
                    let mut child = Child { checked: 0, failed: 0 };
                    child.adds(&engine);
                    child.check(engine.flush(LONG) == Err(FlushError::Forked));
                    child.engine_of_its_own();
                    child.failed
                })
            };
            note.lock().unwrap().push(forked.wait());
            Ok(())
        }))
        .unwrap();
    let batcher = Arc::new(batcher);
    *own.lock().unwrap() = Some(Arc::clone(&batcher));
    (0..100).for_each(|item| batcher.producer().add(item).unwrap());
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 100);
    until("the sink has let go of it", || Arc::strong_count(&batcher) == 1);
    assert!(Arc::into_inner(batcher).unwrap().shutdown(LONG).is_clean());
    assert_eq!(*codes.lock().unwrap(), [0]);
}

#[test]
fn who_forks_in_a_sink_gets_a_child_that_works() {
    run_anew("in_a_sink", &[]);
}

/// The child leaves the sink as if nothing had happened, with a write of the parent's in flight
/// beside it: its flusher ends, and so does the child, for there is no other thread.
#[test]
#[cfg(feature = "tokio")]
#[ignore = "forks its process: run by a_child_that_leaves_an_async_sink_ends"]
fn in_an_async_sink() {
    use sluicegate::{AsyncContext, Flusher, WriteError, sink};

    let codes = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&codes);
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .concurrency(2)
        .spawn_async(async move |_: Flusher| {
            let note = Arc::clone(&note);
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    if batch[0].is_multiple_of(10) {
                        tokio::time::sleep(Duration::from_millis(5)).await; // in flight
                    } else if batch[0] == 5
                        && let Some(forked) = fork()
                    {
                        note.lock().unwrap().push(forked.wait());
                    }
                    Ok(())
                },
            ))
        })
        .unwrap();
    (0..20).for_each(|item| batcher.producer().add(item).unwrap());
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 20);
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(*codes.lock().unwrap(), [0]);
}

#[test]
#[cfg(feature = "tokio")]
fn a_child_that_leaves_an_async_sink_ends() {
    run_anew("in_an_async_sink", &[]);
}

/// The child comes back from a write of three that are in flight: the other two are the parent's
/// and are not polled in it, neither that before it nor that after it.
#[test]
#[cfg(feature = "tokio")]
#[ignore = "forks its process: run by a_child_of_an_async_sink_polls_no_other_write"]
fn beside_other_writes() {
    use sluicegate::{AsyncContext, Flusher, WriteError, sink};

    let parent = std::process::id();
    let (codes, polled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let (note, polls) = (Arc::clone(&codes), Arc::clone(&polled));
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .concurrency(3)
        .spawn_async(async move |_: Flusher| {
            let (note, polls) = (Arc::clone(&note), Arc::clone(&polls));
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    if batch[0] != 1 {
                        polls.fetch_add(1, Ordering::Relaxed);
                        let mut first = true;
                        return poll_fn(|_| match mem::take(&mut first) {
                            true => Poll::Pending,
                            false if std::process::id() != parent => exit_with(|| 3),
                            false if note.lock().unwrap().is_empty() => Poll::Pending,
                            false => Poll::Ready(Ok(())),
                        })
                        .await;
                    }
                    while polls.load(Ordering::Relaxed) < 2 {
                        tokio::task::yield_now().await;
                    }
                    if let Some(forked) = fork() {
                        note.lock().unwrap().push(forked.wait());
                    }
                    tokio::task::yield_now().await; // not ready yet: others might be polled
                    Ok(())
                },
            ))
        })
        .unwrap();
    (0..3).for_each(|item| batcher.producer().add(item).unwrap());
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 3);
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(*codes.lock().unwrap(), [0]);
}

#[test]
#[cfg(feature = "tokio")]
fn a_child_of_an_async_sink_polls_no_other_write() {
    run_anew("beside_other_writes", &[]);
}
