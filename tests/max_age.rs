//! Promise: an item older than `max_age` when it is about to be written is let go, once, and no
//! other is.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Census, LONG, assert_balances};
use sluicegate::{
    AckReason, Batch, Batcher, DropReason, DroppedItem, PumpStep, Sink, TestClock, WriteContext,
    WriteError, sink,
};

const MS: Duration = Duration::from_millis(1);
const NS: Duration = Duration::from_nanos(1);

/// What a sink was given, call by call.
type Calls = Arc<Mutex<Vec<Vec<u64>>>>;

fn recording() -> (Calls, impl Sink<u64>) {
    let calls = Calls::default();
    let record = Arc::clone(&calls);
    let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        record.lock().unwrap().push(batch.to_vec());
        Ok(())
    });
    (calls, sink)
}

#[test]
fn only_what_is_older_is_let_go_to_the_nanosecond() {
    let (clock, told) = (TestClock::new(), Arc::new(Mutex::new(Vec::new())));
    let (calls, sink) = recording();
    let tell = Arc::clone(&told);
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .max_age(100 * MS)
        .on_dropped(move |dropped: DroppedItem<u64>| {
            tell.lock().unwrap().push((dropped.item, dropped.reason));
        })
        .pump(sink, clock.clone())
        .unwrap();
    let producer = pump.producer();
    producer.add(1).unwrap();
    clock.advance(NS);
    producer.add_many(&mut vec![2, 3]).unwrap();
    clock.advance(NS);
    producer.try_add(4).unwrap();
    clock.advance(100 * MS - NS); // 1 is a nanosecond too old, 2 and 3 are just not
    let tally = pump.flush();
    assert_eq!(*calls.lock().unwrap(), [[2, 3, 4]]);
    assert_eq!(*told.lock().unwrap(), [(1, DropReason::Expired)]);
    assert_balances(&tally);
    assert_eq!((tally.flushed_ok, tally.dropped, tally.in_flight), (3, 1, 0));
    assert_eq!(pump.stats().drops.get(DropReason::Expired), 1);
}

#[test]
fn age_counts_when_the_write_begins_and_from_the_add_of_each() {
    let clock = TestClock::new();
    let (calls, record) = (Calls::default(), clock.clone());
    let note = Arc::clone(&calls);
    // Each write takes longer than an item may grow old.
    let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        note.lock().unwrap().push(batch.to_vec());
        record.advance(150 * MS);
        Ok(())
    });
    let mut pump =
        Batcher::builder().max_batch_size(2).max_age(100 * MS).pump(sink, clock.clone()).unwrap();
    pump.producer().add_many(&mut (0..4).collect()).unwrap();
    assert!(matches!(pump.step(), PumpStep::Wrote { .. }));
    pump.producer().add_many(&mut vec![4, 5]).unwrap();
    pump.flush();
    assert_eq!(*calls.lock().unwrap(), [[0, 1], [4, 5]], "in a write that is long, none expires");
    assert_eq!(pump.tally().dropped, 2);
    let report = pump.shutdown();
    assert_eq!((report.tally.flushed_ok, report.tally.dropped), (4, 2));
    assert!(report.unflushed.is_empty() && report.failed.is_empty(), "let go, not failed");
}

#[test]
fn a_batch_of_which_nothing_is_left_never_reaches_the_sink() {
    let clock = TestClock::new();
    let (calls, sink) = recording();
    let mut pump =
        Batcher::builder().max_batch_delay(None).max_age(MS).pump(sink, clock.clone()).unwrap();
    pump.producer().add_many(&mut (0..5).collect()).unwrap();
    clock.advance(2 * MS);
    let tally = pump.flush();
    assert_eq!(*calls.lock().unwrap(), [[0; 0]; 0]);
    assert_eq!((tally.dropped, tally.in_flight), (5, 0));
    pump.producer().add(5).unwrap();
    assert_eq!(pump.flush().flushed_ok, 1, "it goes on");
    assert_eq!(*calls.lock().unwrap(), [[5]]);
}

#[test]
fn the_ack_says_so() {
    let clock = TestClock::new();
    let (_, sink) = recording();
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .max_age(10 * MS)
        .with_acks()
        .pump(sink, clock.clone())
        .unwrap();
    let mut old = pump.producer().add_with_ack(1).unwrap();
    pump.producer().add(2).unwrap();
    clock.advance(11 * MS);
    let mut young = pump.producer().add_with_ack(3).unwrap();
    pump.flush();
    let error = old.try_wait().unwrap().unwrap_err();
    assert_eq!((error.reason, error.item), (AckReason::Expired, Some(1)));
    assert!(error.error.is_none());
    assert_eq!(young.try_wait().unwrap().unwrap().queued, Duration::ZERO);
}

#[test]
fn failures_are_told_of_the_right_items_when_others_were_taken_out() {
    let clock = TestClock::new();
    let sink = sink::from_fn(|batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        let index = batch.iter().position(|item| *item == 14).unwrap();
        cx.fail(index, WriteError::permanent("bad"));
        Ok(())
    });
    let start = clock.now();
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .weight(|item| usize::try_from(*item).unwrap())
        .with_acks()
        .max_queue_bytes(1_000)
        .max_age_since(MS, move |item| if item % 3 == 0 { start } else { start + 10 * MS })
        .pump(sink, clock.clone())
        .unwrap();
    let mut acks: Vec<_> =
        (9..17).map(|item| (item, pump.producer().add_with_ack(item).unwrap())).collect();
    clock.advance(5 * MS);
    pump.flush();
    for (item, ack) in &mut acks {
        let said = ack.try_wait().unwrap().map(drop).map_err(|e| (e.reason, e.item.unwrap()));
        let expected = match *item {
            14 => Err((AckReason::Failed, 14)),
            item if item % 3 == 0 => Err((AckReason::Expired, item)),
            _ => Ok(()),
        };
        assert_eq!(said, expected, "{item}");
    }
    let stats = pump.stats();
    assert_eq!((stats.tally.flushed_ok, stats.tally.dropped, stats.queue_bytes), (4, 3, 0));
}

#[test]
fn the_bytes_of_a_batch_are_those_of_what_is_left() {
    let (clock, seen) = (TestClock::new(), Arc::new(AtomicU64::new(0)));
    let note = Arc::clone(&seen);
    let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        note.store(batch.bytes(), Ordering::Relaxed);
        Ok(())
    });
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .weight(|item| usize::try_from(*item).unwrap())
        .max_age(MS)
        .pump(sink, clock.clone())
        .unwrap();
    pump.producer().add(40).unwrap();
    clock.advance(2 * MS);
    pump.producer().add(2).unwrap();
    pump.flush();
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

#[test]
fn an_item_may_say_itself_since_when() {
    let clock = TestClock::new();
    let (calls, sink) = recording();
    let start = clock.now();
    // Plain items, no stamp: the item is the milliseconds after the start.
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .max_age_since(100 * MS, move |item: &u64| start + Duration::from_millis(*item))
        .pump(sink, clock.clone())
        .unwrap();
    pump.producer().add_many(&mut vec![99, 100, 101, 0, 500]).unwrap();
    clock.advance(200 * MS);
    pump.flush();
    // 200 ms after the start: what is from before 100 is too old, what is to come is not.
    assert_eq!(*calls.lock().unwrap(), [[100, 101, 500]]);
    assert_eq!(pump.tally().dropped, 2);
}

#[test]
fn an_item_on_which_the_function_panics_is_not_too_old() {
    let clock = TestClock::new();
    let (calls, sink) = recording();
    let start: Instant = clock.now();
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .max_age_since(MS, move |item: &u64| match item {
            2 => resume_unwind(Box::new("as planned")),
            _ => start,
        })
        .pump(sink, clock.clone())
        .unwrap();
    pump.producer().add_many(&mut vec![1, 2, 3]).unwrap();
    clock.advance(2 * MS);
    let tally = pump.flush();
    assert_eq!(*calls.lock().unwrap(), [[2]]);
    assert_eq!((tally.flushed_ok, tally.dropped), (1, 2));
}

#[test]
fn a_panic_of_on_dropped_is_counted_and_each_item_is_dropped_once() {
    let (clock, census) = (TestClock::new(), Census::default());
    let mut pump = Batcher::builder()
        .max_batch_delay(None)
        .max_age(MS)
        .on_dropped(|dropped: DroppedItem<common::Tracked>| {
            if dropped.item.number.is_multiple_of(2) {
                resume_unwind(Box::new("as planned"));
            }
        })
        .pump(sink::NullSink, clock.clone())
        .unwrap();
    (0..4).for_each(|number| pump.producer().add(census.item(number)).unwrap());
    clock.advance(2 * MS);
    (4..6).for_each(|number| pump.producer().add(census.item(number)).unwrap());
    let tally = pump.flush();
    assert_eq!((tally.flushed_ok, tally.dropped), (2, 4));
    assert_eq!(pump.stats().callback_panics, 2);
    assert_eq!((census.made(), census.dropped()), (6, 6));
}

#[test]
fn the_last_word_on_the_two_functions_counts() {
    let clock = TestClock::new();
    let start = clock.now();
    let builder = || Batcher::<u64>::builder().max_batch_delay(None);
    // By the clock: the function before it is forgotten.
    let (calls, sink) = recording();
    let mut pump = builder()
        .max_age_since(NS, move |_| start)
        .max_age(LONG)
        .pump(sink, clock.clone())
        .unwrap();
    clock.advance(MS);
    pump.producer().add(1).unwrap();
    pump.flush();
    assert_eq!(*calls.lock().unwrap(), [[1]]);
}
