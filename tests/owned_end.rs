//! Promise: whoever closes an engine with owned rings, and whenever, no item of theirs is in doubt,
//! and the figures are exact.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock, Weak};
use std::task::Wake;
use std::thread;
use std::time::Duration;

use common::owned::{held, owned};
use common::{
    Census, Gate, Going, LONG, Log, OWN, Rng, assert_balances, assert_in_order, null_sinks,
    poll_with, until,
};
use sluicegate::{
    AddError, AddReason, Batcher, FlushError, OwnedError, PumpStep, Stuck, TestClock, sink,
};

// Closing.

#[test]
fn closing_gives_the_item_of_an_owner_that_waits_back() {
    for many in [false, true] {
        let (batcher, mut owner, gate, log) = held(owned(2));
        (1..3).for_each(|item| owner.try_add(item).unwrap());
        thread::scope(|scope| {
            let waits = scope.spawn(move || {
                let mut run = vec![3, 4];
                if many {
                    let error = owner.add_many(&mut run).unwrap_err();
                    assert_eq!((error.added, error.reason), (0, AddReason::Closed));
                    assert_eq!(run, [3, 4]);
                } else {
                    assert_eq!(owner.add(3), Err(AddError::Closed(3)));
                }
                owner
            });
            until("it waits", || batcher.stats().waiting_producers == 1);
            batcher.close();
            let mut owner = waits.join().unwrap();
            assert_eq!(owner.try_add(5), Err(AddError::Closed(5)));
            assert_eq!(owner.add_timeout(5, LONG), Err(AddError::Closed(5)));
        });
        gate.open();
        assert!(batcher.shutdown(LONG).is_clean());
        assert_eq!(log.items(), [0, 1, 2]);
    }
}

#[test]
fn after_close_nothing_goes_in_also_when_the_engine_is_gone() {
    let batcher = owned(8).spawn(null_sinks()).unwrap();
    let mut owner = batcher.owned_producer().unwrap();
    let mut fresh = batcher.owned_producer().unwrap();
    owner.add(1).unwrap();
    batcher.close();
    for producer in [&mut owner, &mut fresh] {
        assert_eq!(producer.add(2), Err(AddError::Closed(2)));
        assert_eq!(producer.try_add(2), Err(AddError::Closed(2)));
        let mut run = vec![3];
        assert_eq!(producer.try_add_many(&mut run).unwrap_err().reason, AddReason::Closed);
        assert_eq!(run, [3]);
    }
    if let Ok(mut late) = batcher.owned_producer() {
        assert_eq!(late.add(4), Err(AddError::Closed(4)));
    }
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.tally.enqueued, 1);
    assert_eq!(owner.add(5), Err(AddError::Closed(5)));
    drop((owner, fresh));
}

#[test]
fn a_close_at_any_moment_leaves_no_item_in_doubt() {
    let mut rng = Rng::seeded();
    for _ in 0..500 {
        let batcher = owned(4).queue_depth(16).max_batch_size(3).spawn(null_sinks()).unwrap();
        let start = Barrier::new(3);
        let accepted: u64 = thread::scope(|scope| {
            let adding: Vec<_> = (0..2)
                .map(|_| {
                    let (mut owner, start) = (batcher.owned_producer().unwrap(), &start);
                    scope.spawn(move || {
                        start.wait();
                        (0..).find(|item| owner.add(*item).is_err()).unwrap()
                    })
                })
                .collect();
            start.wait();
            (0..rng.below(100)).for_each(|_| rng.pause());
            batcher.close();
            adding.into_iter().map(|adding| adding.join().unwrap()).sum()
        });
        let report = batcher.shutdown(LONG);
        assert_eq!(report.tally.enqueued, accepted, "the tail is final");
        assert!(report.is_clean());
    }
}

// The end.

#[test]
fn what_is_left_in_owned_rings_is_handed_back_in_order() {
    for deadline in [Duration::ZERO, Duration::from_millis(5)] {
        let (batcher, mut owner, gate, log) = held(owned(8).queue_depth(32));
        let mut other = batcher.owned_producer().unwrap();
        (1..6).for_each(|item| owner.add(item).unwrap());
        (0..5).for_each(|item| other.add(OWN + item).unwrap());
        (0..5).for_each(|item| batcher.producer().add(2 * OWN + item).unwrap());
        drop(other);
        let report = batcher.shutdown(deadline);
        assert_balances(&report.tally);
        assert_eq!((report.tally.unknown, report.tally.in_flight), (1, 15));
        assert!(matches!(report.left_behind[0].stuck, Stuck::Writing { items: 1, .. }));
        assert_in_order(&report.unflushed);
        assert_eq!(report.unflushed.len(), 15);
        assert_eq!(owner.add(9), Err(AddError::Closed(9)));
        gate.open();
        assert_eq!(log.items(), [0]);
    }
}

#[test]
fn a_hung_sink_lets_a_flush_time_out_and_the_owner_go_on() {
    let (batcher, mut owner, gate, log) = held(owned(4));
    (1..4).for_each(|item| owner.add(item).unwrap());
    let Err(FlushError::Timeout(tally)) = batcher.flush(Duration::ZERO) else {
        panic!("too early")
    };
    assert_balances(&tally);
    assert_eq!((tally.enqueued, tally.in_flight), (4, 4));
    owner.try_add(4).unwrap();
    gate.open();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 5);
    assert!(batcher.shutdown(LONG).is_clean());
    assert!(log.items().into_iter().eq(0..5));
}

#[test]
fn a_pump_that_is_dropped_drops_what_is_in_owned_rings() {
    let census = Census::default();
    let builder = Batcher::builder().owned_depth(8).max_batch_delay(None);
    let mut pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
    let mut owner = pump.owned_producer().unwrap();
    (0..5).for_each(|item| owner.add(census.item(item)).unwrap());
    assert_eq!(pump.step(), PumpStep::Idle);
    owner.add(census.item(5)).unwrap();
    drop(pump);
    assert_eq!((census.made(), census.dropped()), (6, 6));
    drop(owner.add(census.item(6)).unwrap_err());
    drop(owner);
    assert_eq!(census.dropped(), 7);
}

// Figures.

#[test]
fn the_tally_is_exact_at_every_moment() {
    let added: Arc<[AtomicU64; 3]> = Arc::default();
    let batcher = owned(16).queue_depth(64).max_batch_size(16).spawn(null_sinks()).unwrap();
    let going = AtomicBool::new(true);
    thread::scope(|scope| {
        for id in 0..3 {
            let (batcher, going, added) = (&batcher, &going, &added[id]);
            scope.spawn(move || {
                let mut owner = batcher.owned_producer().unwrap();
                for item in 0.. {
                    if !going.load(Ordering::Relaxed) {
                        break;
                    }
                    owner.add(item).unwrap();
                    added.store(item + 1, Ordering::Release);
                    if item % 100 == 99 {
                        // Slots of who was before may not be free yet.
                        match batcher.owned_producer() {
                            Ok(next) => owner = next,
                            Err(error) => assert!(matches!(error, OwnedError::NoSlots { .. })),
                        }
                    }
                }
            });
        }
        let _stop = Going::new(&going);
        let mut last = 0;
        for _ in 0..5_000 {
            let before: u64 = added.iter().map(|added| added.load(Ordering::Acquire)).sum();
            let (tally, stats) = (batcher.tally(), batcher.stats());
            assert_balances(&tally);
            assert_balances(&stats.tally);
            assert!(tally.enqueued >= before, "{tally:?}: {before} adds have returned");
            assert!(last <= tally.enqueued && tally.enqueued <= stats.tally.enqueued);
            assert!(stats.queue_depth <= stats.tally.in_flight);
            assert!(stats.queue_capacity <= 128);
            last = stats.tally.enqueued;
        }
    });
    let sum = added.iter().map(|added| added.load(Ordering::Relaxed)).sum::<u64>();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.tally.enqueued, sum);
    assert_eq!((report.stats.queue_depth, report.stats.waiting_producers), (0, 0));
}

/// A waker is the caller's code: it may ask the engine anything, on the flusher's thread.
#[test]
fn a_waker_may_ask_for_the_figures() {
    struct Asks(OnceLock<Weak<Batcher<u64>>>, AtomicU64);
    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            if let Some(batcher) = self.0.get().and_then(Weak::upgrade) {
                assert_balances(&batcher.stats().tally);
                self.1.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let (gate, log) = (Gate::new(), Log::new());
    let builder = owned(2).queue_depth(2).max_batch_size(1);
    let batcher = Arc::new(builder.spawn(log.gated(&gate)).unwrap());
    let producer = batcher.producer();
    producer.add(0).unwrap();
    gate.wait_for(1);
    (1..3).for_each(|item| producer.add(item).unwrap());
    let asks = Arc::new(Asks(OnceLock::new(), AtomicU64::new(0)));
    asks.0.set(Arc::downgrade(&batcher)).unwrap();
    let mut add = Box::pin(producer.add_async(3));
    assert!(poll_with(&Arc::clone(&asks).into(), &mut add).is_pending());
    gate.open();
    until("the waker was called", || asks.1.load(Ordering::Relaxed) == 1);
    assert!(poll_with(&Arc::clone(&asks).into(), &mut add).is_ready());
    drop(add);
    batcher.flush(LONG).unwrap();
    assert_eq!(log.items(), [0, 1, 2, 3]);
    assert!(Arc::into_inner(batcher).unwrap().shutdown(LONG).is_clean());
}
