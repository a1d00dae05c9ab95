//! Promise: what waits for a retry holds nobody up but who asked for it: no flusher, no shutdown; it
//! keeps its bytes, and grows old.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::time::Duration;

use common::{LONG, until};
use rig::{MS, Rig, SECOND, always, retrying, sinks, some_of};
use sluicegate::testing::{Fault, Faults, Recorder};
use sluicegate::{
    AckReason, Batch, Batcher, Class, DropReason, FlushError, Retry, TestClock, Tracked,
    WriteContext, WriteError, sink,
};

#[test]
fn fresh_batches_go_on_while_one_waits() {
    let faults = Faults::script([Fault::Transient]);
    let retry = Retry::default().initial_delay(LONG).max_delay(LONG);
    let mut rig = Rig::new(retrying(2, retry), &faults);
    rig.add(0..10);
    assert_eq!(rig.store.items(), [2, 3, 4, 5, 6, 7, 8, 9]);
    rig.pump.advance(LONG);
    assert_eq!(rig.store.items()[8..], [0, 1]);
}

/// An engine with one flusher whose first batch waits for an hour or so.
fn waiting(flushers: usize) -> (Batcher<u64, Tracked>, Recorder<u64>) {
    let hour = Duration::from_secs(3600);
    let retry = Retry::default().initial_delay(hour).max_delay(hour).give_up_after(None);
    let (open, store) = sinks(Faults::script([Fault::Transient]));
    let builder = retrying(2, retry).flushers(flushers).with_acks();
    (builder.spawn(open).unwrap(), store)
}

#[test]
fn a_batch_that_waits_holds_no_flusher() {
    let (batcher, store) = waiting(1);
    let producer = batcher.producer();
    (0..2).for_each(|item| producer.add(item).unwrap());
    until("the first batch waits", || batcher.stats().retry_batches == 1);
    (2..1_000).for_each(|item| producer.add(item).unwrap());
    until("the others are in", || store.len() == 998);
    assert_eq!(store.items(), (2..1_000).collect::<Vec<_>>());
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!(report.unflushed, [0, 1]);
    assert_eq!(report.tally.in_flight, 2);
}

#[test]
fn shutdown_hands_back_what_waits_and_tells_who_waits_for_it() {
    for flushers in [1, 3] {
        let (batcher, _) = waiting(flushers);
        let producer = batcher.producer();
        let acks: Vec<_> = (0..2).map(|item| producer.add_with_ack(item).unwrap()).collect();
        until("it waits", || batcher.stats().retry_batches == 1);
        let report = batcher.shutdown(MS);
        assert_eq!((report.unflushed, report.left_behind.len()), (vec![0, 1], 0));
        for mut ack in acks {
            let told = ack.wait_timeout(LONG).expect("it is told").unwrap_err();
            assert_eq!(told.reason, AckReason::HandedBack);
        }
    }
    let retry = Retry::default().initial_delay(LONG).max_delay(LONG);
    let mut rig = Rig::new(retrying(2, retry), &Faults::script([Fault::Transient]));
    rig.add(0..4);
    assert_eq!(rig.pump.shutdown().unflushed, [0, 1]);
}

#[test]
fn flush_waits_for_the_retry() {
    let (batcher, _) = waiting(1);
    batcher.producer().add(0).unwrap();
    batcher.producer().add(1).unwrap();
    let early = batcher.flush(50 * MS).unwrap_err();
    assert!(matches!(early, FlushError::Timeout(tally) if tally.in_flight == 2), "{early:?}");
    drop(batcher.shutdown(Duration::ZERO));

    let (open, store) = sinks(Faults::script([Fault::Transient, Fault::Disconnected]));
    let batcher = retrying(2, Retry::default().initial_delay(10 * MS)).spawn(open).unwrap();
    (0..4).for_each(|item| batcher.producer().add(item).unwrap());
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!((tally.flushed_ok, tally.in_flight, store.len()), (4, 0, 4));
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn shutdown_writes_what_is_due_before_its_deadline() {
    let (open, store) = sinks(Faults::script([Fault::Transient]));
    let batcher = retrying(2, Retry::default()).spawn(open).unwrap();
    (0..2).for_each(|item| batcher.producer().add(item).unwrap());
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(store.items(), [0, 1]);
}

#[test]
fn items_that_wait_grow_too_old() {
    let retry = Retry::default().max_attempts(None).max_delay(200 * MS);
    let builder = retrying(1, retry).max_age(SECOND);
    let mut rig = Rig::new(builder, &always(Fault::Transient));
    rig.add(0..5);
    rig.pump.advance(10 * SECOND);
    assert!(rig.times().iter().all(|at| *at <= SECOND), "{:?}", rig.times().last());
    assert!(rig.calls() > 25, "they were tried again until then: {}", rig.calls());
    let stats = rig.stats();
    assert_eq!((stats.drops.get(DropReason::Expired), stats.tally.in_flight), (5, 0));
}

#[test]
fn a_part_of_a_batch_that_grew_too_old_has_another_name() {
    let class = Class::Transient;
    let script = [Fault::Transient, some_of(&[0, 1], class)];
    let start = TestClock::new();
    let base = start.now();
    // Item 0 is too old after 10 ms, the others never.
    let added = move |item: &u64| if *item == 0 { base } else { base + LONG };
    let builder = retrying(3, Retry::default()).max_age_since(10 * MS, added);
    let mut rig = Rig::at(start, builder, &Faults::script(script));
    rig.add(0..3);
    rig.clock.advance(11 * MS);
    rig.pump.advance(SECOND);
    let seen: Vec<_> =
        rig.asked().iter().map(|call| (call.items.clone(), call.id.part())).collect();
    assert_eq!(seen[..2], [(vec![0, 1, 2], 0), (vec![1, 2], 1)]);
    assert_eq!(rig.store.items(), [1, 2]);
}

#[test]
fn bytes_stay_charged_until_the_fate_is_known() {
    let script = [some_of(&[0, 2], Class::Transient), some_of(&[1], Class::Transient)];
    let builder = retrying(4, Retry::default()).weight(|_| 10).max_queue_bytes(40);
    let mut rig = Rig::new(builder, &Faults::script(script));
    let producer = rig.pump.producer();
    (0..4).for_each(|item| producer.try_add(item).unwrap());
    assert!(producer.try_add(4).is_err());
    let next = |rig: &mut Rig<_>| {
        let due = rig.pump.next_due().unwrap();
        rig.pump.advance(due - rig.clock.now());
        rig.stats().queue_bytes
    };
    rig.pump.run();
    assert_eq!(rig.stats().queue_bytes, 20, "two are in");
    assert_eq!(next(&mut rig), 10);
    assert_eq!(next(&mut rig), 0);
    (0..4).for_each(|item| producer.try_add(item).unwrap());
}

#[test]
fn a_failed_item_gives_its_bytes_back() {
    let retry = Retry::default().max_attempts(2);
    let builder = retrying(4, retry).weight(|_| 10).max_queue_bytes(40);
    let mut rig = Rig::new(builder, &always(Fault::Transient));
    rig.add(0..4);
    assert_eq!(rig.stats().queue_bytes, 40);
    rig.pump.advance(SECOND);
    assert_eq!((rig.stats().queue_bytes, rig.stats().tally.flushed_fail), (0, 4));
}

#[test]
fn what_is_not_written_brings_no_retry() {
    let clock = TestClock::new();
    let sink = sink::from_fn(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
        Err(WriteError::new(Class::Disconnected, "down"))
    });
    let retry =
        Retry::default().budget(1.0).budget_floor(0.001).max_attempts(None).give_up_after(None);
    let builder = Batcher::builder().max_batch_size(1).queue_depth(64).retry(retry).breaker(None);
    let start = clock.now();
    let builder = builder.max_age_since(Duration::from_secs(1), move |item| {
        if *item == 0 { start + Duration::from_secs(1_000_000) } else { start }
    });
    let mut pump = builder.pump(sink, clock.clone()).unwrap();
    pump.producer().try_add(0).unwrap();
    pump.run();
    clock.advance(Duration::from_secs(10));
    for item in 1..51 {
        pump.producer().try_add(item).unwrap();
    }
    pump.advance(Duration::from_secs(600));
    let stats = pump.stats();
    assert_eq!((stats.tally.dropped, stats.batches), (50, 1));
    assert!(stats.retries <= 2, "{} retries for one fresh write", stats.retries);
}
