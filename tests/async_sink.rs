//! Promise: an async sink is served as any other, with as many writes in flight as asked for, each
//! of them bounded, on a runtime that is nobody else's.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common::{Census, Gate, LONG, Rng, Tracked, assert_balances, no_second_try, until};
use sluicegate::{
    AddError, Applied, AsyncContext, AsyncSink, AsyncSinkFactory, Batch, Batcher, BoxError,
    Breaker, Builder, Class, ConfigError, FlushError, Flusher, OnFailure, Retry, Shutdown,
    SpawnError, Stuck, WriteError, sink,
};
use tokio::runtime;
use tokio::sync::Semaphore;

const SHORT: Duration = Duration::from_millis(5);

/// A sink factory from an async function that every flusher's sink calls.
fn sinks<T: 'static, S>(sink: S) -> impl AsyncSinkFactory<T>
where
    S: AsyncSink<T> + Clone + Send + Sync + 'static,
{
    async move |_: Flusher| Ok::<_, WriteError>(sink.clone())
}

/// One batch for each item, which is written at once.
fn singly<T: Send + 'static>() -> Builder<T> {
    no_second_try(Batcher::builder().max_batch_size(1))
}

fn counter() -> Arc<AtomicU64> {
    Arc::default()
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Counts when it is dropped.
struct OnDrop(Arc<AtomicU64>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        count(&self.0);
    }
}

/// A door for tasks, in the writes of a sink: shut until permits are added, and it knows how many
/// stand before it, and how many ever stood there at once.
#[derive(Clone)]
struct Door(Arc<(Semaphore, AtomicU64, AtomicU64)>);

impl Door {
    fn shut() -> Self {
        Self(Arc::new((Semaphore::new(0), AtomicU64::new(0), AtomicU64::new(0))))
    }

    async fn pass(&self) {
        let (door, here, most) = &*self.0;
        most.fetch_max(count(here), Ordering::Relaxed);
        door.acquire().await.unwrap().forget();
        here.fetch_sub(1, Ordering::Relaxed);
    }

    fn here(&self) -> u64 {
        read(&self.0.1)
    }

    fn most(&self) -> u64 {
        read(&self.0.2)
    }

    fn admit(&self, writes: usize) {
        self.0.0.add_permits(writes);
    }
}

impl AsyncSink<u64> for Door {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        self.pass().await;
        Ok(())
    }
}

/// Runs what a test does with the batcher, with a bound on the whole.
fn shut_down<T: Send + 'static>(batcher: Batcher<T>) -> Shutdown<T> {
    let report = batcher.shutdown(LONG);
    assert_balances(&report.tally);
    assert_eq!(report.tally.in_flight, 0, "{:?}", report.tally);
    assert!(report.left_behind.is_empty(), "{:?}", report.left_behind);
    report
}

#[test]
fn every_item_is_written_once_and_in_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let batcher = Batcher::builder()
        .max_batch_size(64)
        .queue_depth(256)
        .spawn_async(async move |flusher: Flusher| {
            let log = Arc::clone(&log);
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<u64>, cx: &mut AsyncContext<'_>| {
                    assert_eq!(cx.flusher(), flusher);
                    assert!(cx.now() < cx.deadline().unwrap());
                    assert!(cx.time_left().unwrap() <= Duration::from_secs(10));
                    tokio::task::yield_now().await;
                    log.lock().unwrap().extend_from_slice(batch.items());
                    Ok(())
                },
            ))
        })
        .unwrap();
    let producer = batcher.producer();
    (0..10_000).for_each(|item| producer.add(item).unwrap());
    let report = shut_down(batcher);
    assert!(report.is_clean());
    assert!(seen.lock().unwrap().iter().copied().eq(0..10_000));
}

#[test]
fn so_many_writes_are_in_flight_and_never_more() {
    for (flushers, concurrency) in [(1, 1), (1, 4), (2, 1), (2, 3)] {
        let (door, all) = (Door::shut(), (flushers * concurrency) as u64);
        let batcher = singly()
            .flushers(flushers)
            .concurrency(concurrency)
            .spawn_async(sinks(door.clone()))
            .unwrap();
        (0..40).for_each(|item| batcher.producer().add(item).unwrap());
        for _ in 0..3 {
            until("all may write at once", || door.here() == all);
            door.admit(2);
        }
        until("six have passed", || batcher.stats().writes >= 6);
        door.admit(40);
        let report = shut_down(batcher);
        assert!(report.is_clean());
        assert_eq!((report.tally.flushed_ok, door.most()), (40, all));
    }
}

#[test]
fn what_cannot_keep_order_is_refused() {
    let key = |refused: Result<Batcher<u64>, SpawnError>| match refused {
        Err(SpawnError::Config(error)) => error.key(),
        other => panic!("{other:?}"),
    };
    let door = Door::shut();
    let builder = || Batcher::<u64>::builder().concurrency(2);
    assert_eq!(key(builder().spawn(common::null_sinks())), "concurrency");
    for policy in [OnFailure::Halt, OnFailure::ParkKey] {
        let builder = builder().on_failure(policy).key(|item| *item);
        assert_eq!(key(builder.spawn_async(sinks(door.clone()))), "concurrency");
    }
    let refused = Batcher::builder().concurrency(0).spawn_async(sinks(door.clone()));
    assert_eq!(key(refused), "concurrency");
    let refused = Batcher::builder().write_timeout(Duration::ZERO).spawn_async(sinks(door));
    assert!(matches!(refused, Err(SpawnError::Config(ConfigError::Zero { key: "write_timeout" }))));
}

/// Never ends a write of 0; counts those that began, and those that were dropped.
#[derive(Clone)]
struct HangsOnZero {
    began: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl HangsOnZero {
    fn new() -> Self {
        Self { began: counter(), dropped: counter() }
    }
}

impl AsyncSink<u64> for HangsOnZero {
    async fn write(&self, batch: &Batch<u64>, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        if batch[0] == 0 {
            let _dropped = OnDrop(Arc::clone(&self.dropped));
            count(&self.began);
            cx.fail(0, WriteError::permanent("marked before it hung"));
            return pending().await;
        }
        Ok(())
    }
}

#[test]
fn a_write_that_takes_too_long_is_dropped_and_its_items_are_unknown() {
    let hangs = HangsOnZero::new();
    let batcher = singly().write_timeout(SHORT).spawn_async(sinks(hangs.clone())).unwrap();
    [1, 0, 2].into_iter().for_each(|item| batcher.producer().add(item).unwrap());
    let report = shut_down(batcher);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (2, 1));
    assert_eq!((read(&hangs.dropped), report.stats.sink_panics), (1, 0));
    let failed = &report.failed[0];
    assert_eq!(failed.item, 0);
    assert_eq!(failed.error.class(), Class::Transient);
    assert_eq!(failed.error.what_applied(), Applied::Unknown);
    assert_eq!(failed.error.to_string(), "the write took longer than 5ms");
}

#[test]
fn a_failed_write_is_tried_again_if_nothing_was_applied() {
    let calls = counter();
    let log = Arc::clone(&calls);
    let retry = Retry::default().initial_delay(Duration::from_millis(1)).budget(10.0);
    let batcher = Batcher::builder()
        .max_batch_size(4)
        .retry(retry)
        .breaker(None)
        .concurrency(2)
        .spawn_async(sinks(Counted(log)))
        .unwrap();
    (0..8).for_each(|item| batcher.producer().add(item).unwrap());
    let report = shut_down(batcher);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((read(&calls), report.stats.retries), (5, 3));
}

/// The first three calls fail.
#[derive(Clone)]
struct Counted(Arc<AtomicU64>);

impl AsyncSink<u64> for Counted {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        tokio::task::yield_now().await;
        if count(&self.0) <= 3 { Err(WriteError::transient("not yet")) } else { Ok(()) }
    }
}

#[test]
fn what_fails_while_the_engine_closes_is_tried_again_too() {
    let (door, calls) = (Door::shut(), counter());
    let (inside, counted) = (door.clone(), Arc::clone(&calls));
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .concurrency(2)
        .spawn_async(async move |_: Flusher| {
            let (door, calls) = (inside.clone(), Arc::clone(&counted));
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |_: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    if count(&calls) > 1 {
                        return Ok(());
                    }
                    door.pass().await;
                    Err(WriteError::transient("not yet"))
                },
            ))
        })
        .unwrap();
    batcher.producer().add(1).unwrap();
    until("it is written", || door.here() == 1);
    batcher.close();
    thread::sleep(Duration::from_millis(20)); // time to find that nothing is left to collect
    door.admit(1);
    let report = shut_down(batcher);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((read(&calls), report.stats.retries), (2, 1));
}

#[test]
fn marked_items_fail_alone() {
    let batcher = no_second_try(Batcher::builder().max_batch_size(5))
        .spawn_async(async |_: Flusher| {
            Ok::<_, WriteError>(sink::from_async_fn(
                async |batch: &Batch<u64>, cx: &mut AsyncContext<'_>| {
                    tokio::task::yield_now().await;
                    cx.fail(1, WriteError::permanent("one"));
                    cx.fail(batch.len(), WriteError::permanent("nobody"));
                    if batch[0] == 0 { Ok(()) } else { Err(WriteError::permanent("the others")) }
                },
            ))
        })
        .unwrap();
    (0..10).for_each(|item| batcher.producer().add(item).unwrap());
    let report = shut_down(batcher);
    let failed: Vec<_> =
        report.failed.iter().map(|failed| (failed.item, failed.error.to_string())).collect();
    let of = |item: u64, text: &str| (item, text.to_owned());
    let others = [of(5, "the others"), of(6, "one"), of(7, "the others")];
    assert_eq!(failed[..4], [&[of(1, "one")][..], &others].concat());
    assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (4, 6));
}

/// Panics over 0, in making the future or in polling it; other writes hang.
struct Fragile {
    early: bool,
    dropped: OnDrop,
}

impl AsyncSink<u64> for Fragile {
    fn write(
        &self,
        batch: &Batch<u64>,
        _: &mut AsyncContext<'_>,
    ) -> impl Future<Output = Result<(), WriteError>> {
        let zero = batch[0] == 0;
        if zero && self.early {
            resume_unwind(Box::new("as planned"));
        }
        let (hangs, here) = (batch[0] < 10, &self.dropped);
        async move {
            tokio::task::yield_now().await;
            let _ = here;
            match (zero, hangs) {
                (true, _) => resume_unwind(Box::new("as planned")),
                (_, true) => pending().await,
                _ => Ok(()),
            }
        }
    }
}

#[test]
fn after_a_panic_the_writes_in_flight_are_unknown_and_the_sink_is_opened_anew() {
    for early in [false, true] {
        let (opened, dropped) = (counter(), counter());
        let (opens, drops) = (Arc::clone(&opened), Arc::clone(&dropped));
        let batcher = singly()
            .concurrency(3)
            .spawn_async(async move |_: Flusher| {
                count(&opens);
                tokio::task::yield_now().await;
                Ok::<_, WriteError>(Fragile { early, dropped: OnDrop(Arc::clone(&drops)) })
            })
            .unwrap();
        [1, 2, 0].into_iter().for_each(|item| batcher.producer().add(item).unwrap());
        batcher.flush(LONG).unwrap();
        assert_eq!(read(&dropped), 1, "the broken one");
        (10..20).for_each(|item| batcher.producer().add(item).unwrap());
        let report = shut_down(batcher);
        assert_eq!((report.tally.flushed_ok, report.tally.unknown), (10, 3));
        assert_eq!((read(&opened), read(&dropped)), (2, 2));
        assert_eq!(report.stats.sink_panics, 1);
        let mut failed: Vec<_> =
            report.failed.iter().map(|failed| (failed.item, failed.error.to_string())).collect();
        failed.sort();
        assert_eq!(failed[0].1, "the sink panicked: as planned");
        assert_eq!(failed[1], (1, "another write of this sink panicked".to_owned()));
        assert_eq!(failed[2].0, 2);
    }
}

#[test]
fn a_sink_that_does_not_open_keeps_the_engine_from_starting() {
    let refused = |how: u64| {
        let opened = Batcher::<u64>::builder().flushers(2).write_timeout(SHORT).spawn_async(
            async move |flusher: Flusher| match how {
                _ if flusher.index == 0 => Ok(Door::shut()),
                0 => Err(WriteError::disconnected("nobody there")),
                1 => resume_unwind(Box::new("as planned")),
                _ => pending().await,
            },
        );
        match opened {
            Err(SpawnError::Open { flusher: Flusher { index: 1, .. }, source }) => {
                source.to_string()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(0), "nobody there");
    assert_eq!(refused(1), "it panicked: as planned");
    assert_eq!(refused(2), "the opening took longer than 5ms");
}

#[test]
fn a_sink_that_does_not_open_again_fails_each_batch_until_it_does() {
    let opened = counter();
    let opens = Arc::clone(&opened);
    let batcher = singly()
        .spawn_async(async move |_: Flusher| match count(&opens) {
            2 => Err(BoxError::from("still down")),
            _ => Ok(Fragile { early: false, dropped: OnDrop(counter()) }),
        })
        .unwrap();
    [0, 11, 12].into_iter().for_each(|item| batcher.producer().add(item).unwrap());
    let report = shut_down(batcher);
    let failed: Vec<_> =
        report.failed.iter().map(|failed| (failed.item, failed.error.class())).collect();
    assert_eq!(failed, [(0, Class::Permanent), (11, Class::Disconnected)]);
    assert_eq!(report.failed[1].error.to_string(), "the sink did not open again: still down");
    assert_eq!((report.tally.flushed_ok, report.tally.unknown, read(&opened)), (1, 1, 3));
}

/// Adds, flushes and shuts down as a task.
async fn use_as_a_task(concurrency: usize) {
    let batcher = Batcher::builder()
        .max_batch_size(7)
        .queue_depth(16)
        .concurrency(concurrency)
        .spawn_async(async |_: Flusher| {
            Ok::<_, WriteError>(sink::from_async_fn(
                async |_: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    tokio::task::yield_now().await;
                    Ok(())
                },
            ))
        })
        .unwrap();
    let producer = batcher.producer();
    for item in 0..100 {
        producer.add_async(item).await.unwrap();
    }
    assert_eq!(batcher.flush_async().await.unwrap().flushed_ok, 100);
    batcher.producer().add(1).unwrap();
    assert!(batcher.shutdown_async(LONG).await.is_clean());
}

#[test]
fn the_caller_may_be_in_a_runtime_or_not() {
    common::block_on(use_as_a_task(2));
    let current = runtime::Builder::new_current_thread().build().unwrap();
    current.block_on(use_as_a_task(3));
    let multi = runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    multi.block_on(use_as_a_task(1));
    // Also where the caller blocks its runtime: nothing of the engine runs there.
    current.block_on(async {
        let door = Door::shut();
        let batcher = singly().spawn_async(sinks(door.clone())).unwrap();
        batcher.producer().add(1).unwrap();
        door.admit(1);
        batcher.flush(LONG).unwrap();
        assert!(batcher.shutdown(LONG).is_clean());
    });
}

#[test]
fn time_and_flush_close_a_batch_also_while_others_are_written() {
    let door = Door::shut();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_delay(SHORT)
        .concurrency(2)
        .spawn_async(sinks(door.clone()))
        .unwrap();
    batcher.producer().add(1).unwrap();
    until("the first is due", || door.here() == 1);
    batcher.producer().add(2).unwrap();
    until("so is the second", || door.here() == 2);
    door.admit(2);
    batcher.flush(LONG).unwrap();

    let slow = Batcher::builder().max_batch_delay(None).concurrency(2);
    let slow = slow.spawn_async(sinks(door.clone())).unwrap();
    let poll = |flush: &mut sluicegate::FlushAsync<'_, u64>| common::poll_once(flush).is_ready();
    slow.producer().add(1).unwrap();
    assert!(!poll(&mut slow.flush_async()));
    until("the first was asked for", || door.here() == 1);
    slow.producer().add(2).unwrap();
    assert!(!poll(&mut slow.flush_async()));
    until("so was the second", || door.here() == 2);
    door.admit(2);
    assert!(slow.shutdown(LONG).is_clean());
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn a_hung_write_is_dropped_at_the_deadline_of_shutdown_and_nothing_is_left_behind() {
    for deadline in [Duration::ZERO, Duration::from_millis(20)] {
        let hangs = HangsOnZero::new();
        let batcher = singly()
            .flushers(2)
            .concurrency(3)
            .write_timeout(LONG * 60)
            .spawn_async(sinks(hangs.clone()))
            .unwrap();
        (0..6).for_each(|_| batcher.producer().add(0).unwrap());
        until("all of them hang", || read(&hangs.began) == 6);
        (1..=2).for_each(|item| batcher.producer().add(item).unwrap());
        let report = batcher.shutdown(deadline); // or the test would not end
        assert!(report.left_behind.is_empty(), "{report:?}");
        assert_balances(&report.tally);
        assert_eq!((report.tally.unknown, report.unflushed), (6, vec![1, 2]));
        assert_eq!((read(&hangs.dropped), report.failed.len()), (6, 6));
        let text = report.failed[0].error.to_string();
        assert_eq!(text, "the write had not ended when shutdown gave up");
    }
}

#[test]
fn a_future_that_blocks_its_thread_is_left_behind_with_the_writes_beside_it() {
    let gate = Gate::new();
    let door = gate.clone();
    let batcher = singly()
        .concurrency(2)
        .spawn_async(async move |_: Flusher| {
            let door = door.clone();
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    if batch[0] == 0 {
                        return pending().await;
                    }
                    door.pass();
                    Ok(())
                },
            ))
        })
        .unwrap();
    (0..3).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1);
    let report = batcher.shutdown(Duration::ZERO);
    let stuck: Vec<_> =
        report.left_behind.iter().map(|left| (left.flusher.index, left.stuck)).collect();
    assert!(
        matches!(
            stuck[..],
            [(0, Stuck::Writing { items: 1, .. }), (0, Stuck::Writing { items: 1, .. })]
        ),
        "{stuck:?}"
    );
    assert_balances(&report.tally);
    assert_eq!((report.tally.unknown, report.unflushed), (2, vec![2]));
    gate.open();
}

#[test]
#[allow(clippy::await_holding_lock)] // nobody else takes it meanwhile
fn an_engine_cannot_be_waited_for_from_its_own_sink() {
    let engine: Arc<Mutex<Option<Batcher<u64>>>> = Arc::default();
    let (own, seen) = (Arc::clone(&engine), counter());
    let said = Arc::clone(&seen);
    let batcher = singly()
        .queue_depth(2)
        .spawn_async(async move |_: Flusher| {
            let (own, said) = (Arc::clone(&own), Arc::clone(&said));
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    let own = own.lock().unwrap();
                    let Some(batcher) = own.as_ref().filter(|_| batch[0] == 0) else {
                        return Ok(());
                    };
                    let producer = batcher.producer();
                    let refused = (1..=3).map(|item| producer.add(item)).find_map(Result::err);
                    assert!(matches!(refused, Some(AddError::Reentrant(3))), "{refused:?}");
                    assert!(matches!(producer.add_async(3).await, Err(AddError::Reentrant(3))));
                    assert_eq!(batcher.flush(LONG), Err(FlushError::Reentrant));
                    assert_eq!(batcher.flush_async().await, Err(FlushError::Reentrant));
                    count(&said);
                    Ok(())
                },
            ))
        })
        .unwrap();
    let producer = batcher.producer();
    *engine.lock().unwrap() = Some(batcher);
    producer.add(0).unwrap();
    until("the sink has tried", || read(&seen) == 1);
    let batcher = engine.lock().unwrap().take().unwrap();
    let report = shut_down(batcher);
    assert_eq!(report.stats.sink_panics, 0);
    assert_eq!(report.tally.flushed_ok, 3);
}

/// Counts the polls of its writes, which never end.
#[derive(Clone)]
struct Polled(Arc<AtomicU64>);

impl AsyncSink<u64> for Polled {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        poll_fn(|_| {
            count(&self.0);
            Poll::Pending
        })
        .await
    }
}

#[test]
fn a_flusher_with_nothing_to_do_sleeps_and_adds_below_the_batch_do_not_wake_it() {
    let polls = counter();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(100)
        .max_batch_delay(None)
        .flushers(2)
        .concurrency(2)
        .spawn_async(sinks(Polled(Arc::clone(&polls))))
        .unwrap();
    // One write hangs, the other flusher waits for the lease or the ring.
    (0..100).for_each(|item| batcher.producer().add(item).unwrap());
    until("the write hangs", || read(&polls) > 0 && batcher.stats().queue_depth == 0);
    batcher.producer().add(0).unwrap(); // the first item of a batch wakes the leader, once
    thread::sleep(Duration::from_millis(20)); // time to go to sleep
    let (polled, parks) = (read(&polls), batcher.stats().parks);
    for item in 1..99 {
        batcher.producer().add(item).unwrap();
        thread::sleep(Duration::from_millis(1)); // time to poll in a loop, for who does
    }
    assert!(read(&polls) - polled <= 20, "{} polls, {polled} before", read(&polls));
    assert!(batcher.stats().parks - parks <= 20);
    drop(batcher.shutdown(Duration::ZERO));
}

#[test]
fn tasks_of_a_sink_run_while_it_is_idle_and_end_with_its_flusher() {
    let (ticks, dropped) = (counter(), counter());
    let (ticking, drops) = (Arc::clone(&ticks), Arc::clone(&dropped));
    let batcher = singly()
        .spawn_async(async move |_: Flusher| {
            let (sends, ends) = (Arc::clone(&ticking), OnDrop(Arc::clone(&drops)));
            tokio::spawn(async move {
                let _ends = ends;
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    count(&sends);
                }
            });
            let (here, ends) = (std::rc::Rc::new(Cell::new(0)), OnDrop(Arc::clone(&drops)));
            let local = here.clone(); // not `Send`
            tokio::task::spawn_local(async move {
                let _ends = ends;
                local.set(1);
                pending::<()>().await;
            });
            tokio::task::yield_now().await;
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |_: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    assert_eq!(here.get(), 1);
                    Ok(())
                },
            ))
        })
        .unwrap();
    until("it ticks while nobody adds", || read(&ticks) > 3);
    batcher.producer().add(1).unwrap();
    assert!(shut_down(batcher).is_clean());
    assert_eq!(read(&dropped), 2);
}

/// How a sink may end its last call.
#[derive(Clone, Copy)]
struct Closes(u64);

impl AsyncSink<u64> for Closes {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        Ok(())
    }

    async fn close(&self, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        tokio::task::yield_now().await;
        assert!(cx.deadline().is_some());
        match self.0 {
            0 => Err(WriteError::transient("no goodbye")),
            1 => resume_unwind(Box::new("as planned")),
            _ => pending().await,
        }
    }
}

#[test]
fn what_a_sink_says_on_closing_is_reported_and_waited_for_so_long() {
    let said = |how, write_timeout, deadline| {
        let builder = Batcher::<u64>::builder().write_timeout(write_timeout);
        let batcher = builder.spawn_async(sinks(Closes(how))).unwrap();
        let report = batcher.shutdown(deadline);
        assert!(report.left_behind.is_empty());
        report.close_errors[0].1.to_string()
    };
    assert_eq!(said(0, LONG, LONG), "no goodbye");
    assert_eq!(said(1, LONG, LONG), "the sink panicked while closing: as planned");
    assert_eq!(said(2, SHORT, LONG), "the closing of the sink took longer than 5ms");
    let text = said(2, LONG * 60, SHORT);
    assert_eq!(text, "the closing of the sink had not ended when shutdown gave up");
}

#[test]
fn acks_know_of_writes_that_were_dropped() {
    let batcher = singly()
        .with_acks()
        .write_timeout(SHORT)
        .concurrency(2)
        .spawn_async(sinks(HangsOnZero::new()))
        .unwrap();
    let [hung, good] = [0, 1].map(|item| batcher.producer().add_with_ack(item).unwrap());
    assert_eq!(good.wait().unwrap().attempts, 1);
    let error = hung.wait().unwrap_err();
    assert_eq!((error.reason, error.item), (sluicegate::AckReason::Unknown, Some(0)));
    let _ = batcher.shutdown(LONG);
}

/// Does with each batch what chance says.
struct Random(Mutex<Rng>);

impl AsyncSink<Tracked> for Random {
    async fn write(
        &self,
        batch: &Batch<Tracked>,
        cx: &mut AsyncContext<'_>,
    ) -> Result<(), WriteError> {
        let (how, yields, index) = {
            let mut rng = self.0.lock().unwrap();
            (rng.below(40), rng.below(4), rng.index(batch.len()))
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        match how {
            0 => pending().await,
            1 => resume_unwind(Box::new("as planned")),
            2..=4 => Err(WriteError::transient("busy")),
            5 => Err(WriteError::permanent("no")),
            6 => Err(WriteError::disconnected("gone").applied(Applied::Unknown)),
            7..=9 => {
                cx.fail(index, WriteError::permanent("this one"));
                Ok(())
            }
            10 => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn whatever_the_sink_does_each_item_meets_one_fate() {
    let mut rng = Rng::seeded();
    for _ in 0..40 {
        let (census, seed) = (Census::default(), Mutex::new(rng.fork()));
        let deadline = if rng.one_in(2) { LONG } else { Duration::from_micros(rng.below(3_000)) };
        let batcher = Batcher::builder()
            .max_batch_size(1 + rng.index(8))
            .queue_depth(16)
            .max_batch_delay(Duration::from_millis(1))
            .flushers(1 + rng.index(3))
            .concurrency(1 + rng.index(4))
            .write_timeout(Duration::from_millis(2))
            .retry(Retry::default().initial_delay(Duration::from_millis(1)).max_attempts(3))
            .breaker(None)
            .spawn_async(async move |_: Flusher| {
                let rng = seed.lock().unwrap().fork();
                Ok::<_, WriteError>(Random(Mutex::new(rng)))
            })
            .unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (producer, census, mut rng) = (batcher.producer(), census.clone(), rng.fork());
                scope.spawn(move || {
                    for number in 0..200 {
                        producer.add_timeout(census.item(number), LONG).unwrap();
                        rng.pause();
                    }
                });
            }
            let tally = batcher.flush(LONG).unwrap();
            assert_balances(&tally);
        });
        let report = batcher.shutdown(deadline);
        assert_balances(&report.tally);
        assert_eq!(report.tally.enqueued, 400);
        assert!(report.left_behind.is_empty(), "{:?}", report.left_behind);
        assert_eq!(report.tally.in_flight, report.unflushed.len() as u64);
        let lost = report.tally.flushed_fail + report.tally.unknown;
        assert_eq!(report.failed.len() as u64, lost);
        drop(report);
        assert_eq!((census.made(), census.dropped()), (400, 400));
    }
}

/// A connection is lost with many writes in flight: all of their batches find room to wait.
#[test]
fn whatever_was_in_flight_when_the_sink_went_down_is_written_later() {
    let (door, calls) = (Door::shut(), counter());
    let (way, asked) = (door.clone(), Arc::clone(&calls));
    let sink = sink::from_async_fn(async move |_: &Batch<u64>, _: &mut AsyncContext<'_>| {
        let call = count(&asked);
        way.pass().await;
        if call <= 16 { Err(WriteError::disconnected("gone")) } else { Ok(()) }
    });
    let retry = Retry::default().initial_delay(SHORT).max_delay(SHORT).budget_floor(10_000.0);
    let breaker = Breaker::default().open_for(SHORT).open_max(SHORT);
    let batcher = Batcher::builder()
        .max_batch_size(4)
        .queue_depth(4)
        .concurrency(16)
        .retry(retry)
        .breaker(breaker)
        .spawn_async(sinks(sink))
        .unwrap();
    (0..64).for_each(|item| batcher.producer().add(item).unwrap());
    until("all of them are in flight", || door.here() == 16);
    door.admit(1_000);
    let report = shut_down(batcher);
    assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (64, 0), "{report:?}");
    assert_eq!(report.stats.retry_overflows, 0);
}
