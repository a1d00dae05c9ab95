//! Promise: an async sink is served as any other, with as many writes in flight as asked for, each
//! of them bounded.

#![allow(clippy::unwrap_used)]

mod async_rig;
mod common;

use std::future::{pending, poll_fn};
use std::panic::resume_unwind;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use async_rig::{Door, SHORT, count, counter, read, shut_down, singly, sinks};
use common::{Census, LONG, Rng, Tracked, assert_balances, no_second_try, until};
use sluicegate::{
    AddError, Applied, AsyncContext, AsyncSink, Batch, Batcher, Breaker, ConfigError, FlushError,
    Flusher, OnFailure, Retry, SpawnError, WriteError, sink,
};
use tokio::runtime;

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
        if report.left_behind.is_empty() {
            assert_eq!(report.tally.in_flight, report.unflushed.len() as u64);
            let lost = report.tally.flushed_fail + report.tally.unknown;
            assert_eq!(report.failed.len() as u64, lost);
        } else {
            // On a busy machine a thread may get no time for as long as shutdown waits for it.
            assert!(deadline < LONG, "{:?}", report.left_behind);
        }
        drop(report);
        until("every item is dropped", || census.dropped() == 400);
        assert_eq!(census.made(), 400);
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
