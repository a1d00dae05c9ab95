//! Promise: whatever becomes of a write of an async sink, its items meet the fate that is known of
//! it: it takes too long, panics, blocks, or the sink does not open or close.

#![allow(clippy::unwrap_used)]

mod async_rig;
mod common;

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use async_rig::{Door, HangsOnZero, OnDrop, SHORT, count, counter, read, shut_down, singly, sinks};
use common::{Gate, LONG, assert_balances, no_second_try, until};
use sluicegate::{
    Applied, AsyncContext, AsyncSink, Batch, Batcher, BoxError, Class, Dead, Flusher, Retry, Sink,
    SpawnError, Stuck, WriteContext, WriteError, sink,
};

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

/// Counts its last calls.
struct Letters(Arc<AtomicU64>);

impl<T> Sink<Dead<T>> for Letters {
    fn write(&mut self, _: &Batch<Dead<T>>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        count(&self.0);
        Ok(())
    }
}

#[test]
fn the_dead_letter_sink_is_closed_once_though_a_sink_does_not_open() {
    for sound in [0, 1] {
        let closed = counter();
        let refused = Batcher::<u64>::builder()
            .flushers(2)
            .dead_letters(Letters(Arc::clone(&closed)))
            .spawn_async(async move |flusher: Flusher| match flusher.index {
                index if index < sound => Ok(Door::shut()),
                _ => Err(WriteError::disconnected("nobody there")),
            });
        assert!(matches!(refused, Err(SpawnError::Open { .. })));
        assert_eq!(read(&closed), 1, "{sound} of two sinks opened");
    }
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

/// Writes of 0 wait, and block their thread then if the test has said so.
#[derive(Clone)]
struct Trap {
    /// Where they wait, for each flusher.
    waiting: [Door; 2],
    /// Not 0 where they block.
    blocks: [Arc<AtomicU64>; 2],
    gate: Gate,
}

impl AsyncSink<u64> for Trap {
    async fn write(&self, batch: &Batch<u64>, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        let index = cx.flusher().index;
        if batch[0] == 0 {
            self.waiting[index].pass().await;
            if read(&self.blocks[index]) > 0 {
                self.gate.pass();
            }
        }
        Ok(())
    }
}

impl Trap {
    fn new() -> Self {
        let (waiting, blocks) = ([(); 2].map(|()| Door::shut()), [(); 2].map(|()| counter()));
        Self { waiting, blocks, gate: Gate::new() }
    }
}

#[test]
fn a_write_that_blocks_its_thread_keeps_no_other_flusher_from_collecting() {
    let trap = Trap::new();
    let batcher = singly().flushers(2).concurrency(2).spawn_async(sinks(trap.clone())).unwrap();
    (0..3).for_each(|_| batcher.producer().add(0).unwrap());
    let here = || [trap.waiting[0].here(), trap.waiting[1].here()];
    until("three of four may wait", || here().iter().sum::<u64>() == 3);
    // Only one flusher has room for another write: it is the one that collects.
    let collects = usize::from(here()[1] == 1);
    thread::sleep(Duration::from_millis(20)); // time to fall asleep over it
    count(&trap.blocks[collects]);
    trap.waiting[collects].admit(1);
    trap.gate.wait_for(1);
    trap.waiting[1 - collects].admit(2);
    batcher.producer().add(1).unwrap();
    until("the other has written it", || batcher.tally().flushed_ok == 3);
    trap.gate.open();
    assert!(shut_down(batcher).is_clean());
}

#[test]
fn what_was_drained_is_handed_back_though_a_write_blocks_the_thread() {
    let trap = Trap::new();
    let batcher = singly()
        .max_batch_size(100)
        .weight(|item: &u64| if *item == 0 { 10 } else { 1 })
        .max_batch_bytes(10)
        .max_batch_delay(None)
        .concurrency(2)
        .spawn_async(sinks(trap.clone()))
        .unwrap();
    batcher.producer().add(0).unwrap();
    until("it is written", || trap.waiting[0].here() == 1);
    (1..=3).for_each(|item| batcher.producer().add(item).unwrap());
    until("some are taken out of the queue, to be weighed", || batcher.stats().queue_depth < 3);
    count(&trap.blocks[0]);
    trap.waiting[0].admit(1);
    trap.gate.wait_for(1);
    let report = batcher.shutdown(Duration::ZERO);
    assert_balances(&report.tally);
    assert_eq!((report.tally.unknown, report.unflushed), (1, vec![1, 2, 3]));
    trap.gate.open();
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
