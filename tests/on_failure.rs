//! Promise: what comes behind a failed item goes on, waits, or never comes, as `on_failure` says;
//! so order is kept in all, or within a key, also where items fail.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::time::Duration;

use common::{LONG, Rng, until};
use rig::{MS, Rig, SECOND, failed, ms, sinks};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{
    AckReason, AddReason, Applied, Batch, Batcher, Builder, Class, ConfigError, OnFailure, Retry,
    SpawnError, TestClock, WriteContext, WriteError, sink,
};

fn builder(batch: usize, policy: OnFailure) -> Builder<u64> {
    let retry = Retry::default().max_attempts(None).give_up_after(None).budget_floor(1e6);
    let builder = Batcher::builder().max_batch_size(batch).seed(1).breaker(None).retry(retry);
    builder.on_failure(policy)
}

fn parking(batch: usize, keys: u64) -> Builder<u64> {
    builder(batch, OnFailure::ParkKey).key(move |item| item % keys)
}

#[test]
fn skip_lets_the_others_pass() {
    let mut rig = Rig::new(builder(2, OnFailure::Skip), &Faults::script([Fault::Transient]));
    rig.add(0..6);
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [2, 3, 4, 5, 0, 1]);
}

#[test]
fn with_halt_everything_waits_behind_a_retry() {
    let mut rig = Rig::new(builder(2, OnFailure::Halt), &Faults::script([Fault::Transient]));
    rig.add(0..6);
    assert_eq!(rig.calls(), 1);
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [0, 1, 2, 3, 4, 5]);
    assert!(rig.pump.shutdown().is_clean());
}

#[test]
fn halt_writes_exactly_what_is_before_the_failed_item() {
    let mut rng = Rng::seeded();
    for _ in 0..100 {
        let (batch, bad) = (1 + rng.index(16), rng.below(200));
        let faults = Faults::seeded(rng.next())
            .one_in(rng.pick(&[0, 3]), Fault::Transient)
            .poison(move |item| *item >= bad && item % 7 == bad % 7);
        let mut rig = Rig::new(builder(batch, OnFailure::Halt), &faults);
        let producer = rig.pump.producer();
        let mut added = 0;
        while added < 220 && producer.try_add(added).is_ok() {
            added += 1;
            if rng.one_in(3) {
                rig.pump.advance(ms(rng.below(300)));
            }
        }
        rig.pump.advance(1_000 * SECOND);
        if added > bad {
            let refused = producer.try_add(999).unwrap_err();
            assert_eq!(refused.reason(), AddReason::Closed);
            assert_eq!(rig.store.items(), (0..bad).collect::<Vec<_>>());
            let report = rig.pump.shutdown();
            assert_eq!(failed(&report), [bad]);
            assert_eq!(report.unflushed, (bad + 1..added).collect::<Vec<_>>(), "in order");
            assert_eq!(report.tally.in_flight, added - bad - 1);
        } else {
            assert!(rig.pump.shutdown().is_clean());
        }
    }
}

#[test]
fn halt_ends_an_engine_with_threads() {
    let faults = Faults::script([Fault::Ok, Fault::Transient]).poison(|item| *item == 500);
    let log = faults.log();
    let (open, store) = sinks(faults);
    let builder = builder(64, OnFailure::Halt).queue_depth(1_024).with_acks();
    let batcher = builder.spawn(open).unwrap();
    let producer = batcher.producer();
    let ack = producer.add_with_ack(0).unwrap();
    let mut added = 1;
    let refused = loop {
        match producer.add_timeout(added, LONG) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((refused.reason(), refused.into_inner()), (AddReason::Closed, added));
    assert!(ack.wait().is_ok());
    until("it halts", || batcher.is_closed());
    let report = batcher.shutdown(LONG);
    assert_eq!(store.items(), (0..500).collect::<Vec<_>>());
    assert_eq!(report.tally.flushed_fail, 1);
    assert_eq!(report.unflushed, (501..added).collect::<Vec<_>>());
    assert_eq!(report.left_behind, []);
    assert!(log.len() > 9);
}

#[test]
fn an_ack_behind_the_failed_item_says_that_it_was_handed_back() {
    let faults = Faults::seeded(0).poison(|item| *item == 1);
    let mut rig = Rig::new(builder(1, OnFailure::Halt).with_acks(), &faults);
    let producer = rig.pump.producer();
    let acks: Vec<_> = (0..4).map(|item| producer.add_with_ack(item).unwrap()).collect();
    rig.pump.run();
    drop(rig.pump.shutdown());
    let reasons: Vec<_> = acks.into_iter().map(|a| a.wait().map_err(|e| e.reason)).collect();
    assert!(reasons[0].is_ok());
    let reasons: Vec<_> = reasons.into_iter().filter_map(Result::err).collect();
    assert_eq!(reasons, [AckReason::Failed, AckReason::HandedBack, AckReason::HandedBack]);
}

#[test]
fn without_bisection_halt_hands_nothing_of_the_failed_batch_back() {
    let faults = Faults::seeded(0).poison(|item| *item == 5);
    let mut rig = Rig::new(builder(4, OnFailure::Halt).bisect(false), &faults);
    rig.add(0..4);
    rig.pump.producer().add_many(&mut (4..12).collect()).unwrap();
    rig.pump.run();
    assert_eq!(rig.store.items(), [0, 1, 2, 3]);
    let report = rig.pump.shutdown();
    assert_eq!((failed(&report), report.unflushed), (vec![4, 5, 6, 7], vec![8, 9, 10, 11]));
}

#[test]
fn items_behind_a_failed_one_of_their_key_wait_and_others_pass() {
    let mut rig = Rig::new(parking(2, 2), &Faults::script([Fault::Ok, Fault::Transient]));
    rig.pump.producer().add_many(&mut vec![0, 1, 2, 4, 3, 6, 5, 7]).unwrap();
    rig.pump.run();
    // [2 4] waits; of [3 6] only the 3 passes, [5 7] is of the other key.
    assert_eq!(rig.store.items(), [0, 1, 3, 5, 7]);
    let stats = rig.stats();
    assert_eq!((stats.retry_batches, stats.retry_items), (2, 3));
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [0, 1, 3, 5, 7, 2, 4, 6]);
    let asked = rig.asked();
    assert_eq!(asked.last().unwrap().id.get(), 3, "it is a part of its own batch");
    assert_eq!(asked.last().unwrap().id.part(), 1);
}

#[test]
fn a_failed_item_lets_its_key_go_on() {
    let faults = Faults::script([Fault::Transient]).poison(|item| *item == 0);
    let mut rig = Rig::new(parking(1, 1), &faults);
    rig.add(0..3);
    assert_eq!(rig.store.items(), [0; 0]);
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [1, 2]);
    assert_eq!(failed(&rig.pump.shutdown()), [0]);
}

#[test]
fn a_key_of_which_nothing_waits_any_more_is_free() {
    let (class, applied) = (Class::Transient, Applied::Nothing);
    let mark = Fault::Items { at: vec![0], class, applied };
    let script = [mark, Fault::Ok, Fault::Transient];
    let mut rig = Rig::new(parking(2, 10), &Faults::script(script));
    rig.add(0..2); // 0 waits
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [1, 0]);
    rig.add(11..13); // keys 1 and 2 wait
    rig.pump.producer().add_many(&mut vec![10, 20]).unwrap();
    rig.pump.run();
    let last = rig.asked().pop().unwrap();
    assert_eq!((last.items, last.id.part()), (vec![10, 20], 0), "as it was formed");
}

#[test]
fn each_key_is_written_in_order_whatever_fails() {
    let mut rng = Rng::seeded();
    for _ in 0..60 {
        let keys = rng.pick(&[1, 2, 5, 30]);
        let faults = Faults::seeded(rng.next())
            .one_in(rng.pick(&[2, 4, 10]), Fault::Transient)
            .one_in(20, Fault::Throttled(300 * MS))
            .max_items(rng.pick(&[3, 100]))
            .poison(|item| item % 31 == 3);
        let mut rig = Rig::new(parking(1 + rng.index(10), keys), &faults);
        for item in 0..200 {
            rig.add_when_there_is_room(item);
            rig.pump.advance(ms(rng.below(60)));
        }
        rig.pump.advance(10_000 * SECOND);
        let written = rig.store.items();
        for key in 0..keys {
            let of_key: Vec<u64> = written.iter().copied().filter(|i| i % keys == key).collect();
            let all = (0..200).filter(|item| item % keys == key && item % 31 != 3);
            assert_eq!(of_key, all.collect::<Vec<_>>(), "key {key} of {keys}");
        }
        assert_eq!(rig.stats().tally.flushed_fail, 7);
    }
}

#[test]
fn other_keys_do_not_wait_for_a_key_that_never_gets_better() {
    let (class, applied) = (Class::Transient, Applied::Nothing);
    let faults = Faults::script([Fault::Items { at: vec![0], class, applied }]);
    let retry = Retry::default().initial_delay(LONG).max_delay(LONG);
    let mut rig = Rig::new(parking(5, 5).retry(retry), &faults);
    for item in 0..50 {
        rig.add(item..item + 1);
    }
    rig.pump.flush();
    let passed: Vec<u64> = (0..50).filter(|item| item % 5 != 0).collect();
    let mut written = rig.store.items();
    written.sort_unstable();
    assert_eq!(written, passed);
    assert_eq!(rig.stats().retry_items, 10);
    rig.pump.advance(LONG);
    assert_eq!(rig.store.items()[40..], [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]);
}

#[test]
fn parked_items_are_bounded_and_then_producers_wait() {
    let retry = Retry::default().initial_delay(LONG).max_delay(LONG).max_items(8);
    let builder = parking(4, 1).retry(retry).queue_depth(16);
    let mut rig = Rig::new(builder, &Faults::script([Fault::Transient]));
    let producer = rig.pump.producer();
    let mut added = 0;
    while producer.try_add(added).is_ok() {
        added += 1;
        rig.pump.run();
        assert!(added < 1_000);
    }
    assert!(added <= 8 + 4 + 16 + 4, "{added}");
    assert_eq!((rig.stats().tally.flushed_fail, rig.stats().retry_overflows), (0, 0));
    rig.pump.advance(LONG);
    assert_eq!(rig.store.items(), (0..added).collect::<Vec<_>>());
}

#[test]
fn a_key_function_that_panics_gives_one_key_to_all_it_panics_on() {
    let builder = builder(1, OnFailure::ParkKey).key(|item| {
        assert!(*item < 10, "as planned");
        *item
    });
    let mut rig = Rig::new(builder, &Faults::script([Fault::Transient]));
    rig.add(10..11);
    rig.add(0..2);
    rig.add(11..13);
    assert_eq!(rig.store.items(), [0, 1]);
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [0, 1, 10, 11, 12]);
}

#[test]
fn settings_that_cannot_keep_order_are_refused() {
    let refused = |builder: Builder<u64>| match builder.spawn(common::null_sinks()) {
        Err(SpawnError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    let park = || Batcher::<u64>::builder().on_failure(OnFailure::ParkKey);
    assert_eq!(refused(park()), ConfigError::ParkWithoutKey);
    let error = refused(park().key(|item| *item).flushers(2));
    assert_eq!(error, ConfigError::ParkWithFlushers { flushers: 2 });
    let engine = park().key(|item| *item).spawn(common::null_sinks()).unwrap();
    assert!(engine.shutdown(Duration::from_secs(60)).is_clean());
}

#[test]
fn halves_behind_a_retry_of_their_key_are_bounded() {
    let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        if batch.len() > 1 {
            Err(WriteError::permanent("one at a time"))
        } else {
            Err(WriteError::new(Class::Disconnected, "down"))
        }
    });
    let retry = Retry::default().max_items(40).max_attempts(None).give_up_after(None);
    let retry = retry.budget_floor(1e6);
    let builder = Batcher::builder().max_batch_size(16).queue_depth(1024).retry(retry);
    let builder = builder.on_failure(OnFailure::ParkKey).key(|item| item / 16).breaker(None);
    let mut pump = builder.pump(sink, TestClock::new()).unwrap();
    for item in 0..1024 {
        pump.producer().try_add(item).unwrap();
    }
    for _ in 0..100 {
        pump.step();
        let waiting = pump.stats().retry_items;
        assert!(waiting <= 40 + 16, "{waiting}");
    }
}
