//! Promise: when `flush` returns `Ok`, each item added before the call has met its fate; later ones
//! are not waited for; and it never waits for itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use common::{Gate, Going, LONG, Log, Rng, assert_balances, refusing_sinks, sink_of};
use sluicegate::{Batch, Batcher, FlushError, WriteContext, WriteError};

#[test]
fn an_empty_engine_flushes_at_once_and_writes_nothing() {
    let log = Log::<u64>::new();
    let batcher = Batcher::builder().spawn(log.factory()).unwrap();
    for timeout in [Duration::ZERO, LONG, Duration::MAX] {
        assert_eq!(batcher.flush(timeout).unwrap().enqueued, 0);
    }
    assert_eq!(log.batches(), []);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn a_flush_covers_every_add_that_has_returned_while_others_go_on() {
    const ROUNDS: u64 = 200;
    let mut rng = Rng::seeded();
    for flushers in [1, 2, 3] {
        let taken = Arc::new(AtomicU64::new(0));
        let (own, others) = (Arc::clone(&taken), Arc::new(AtomicBool::new(true)));
        let batcher = Batcher::builder()
            .max_batch_size(8)
            .queue_depth(64)
            .max_batch_delay(None)
            .flushers(flushers)
            .spawn(sink_of(move |batch: &Batch<bool>, _: &mut WriteContext<'_>| {
                let mine = batch.iter().filter(|mine| **mine).count();
                own.fetch_add(mine as u64, Ordering::Relaxed);
                Ok(())
            }))
            .unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (producer, going, mut rng) = (batcher.producer(), &others, rng.fork());
                scope.spawn(move || {
                    while going.load(Ordering::Relaxed) {
                        producer.add(false).unwrap();
                        rng.pause();
                    }
                });
            }
            let stop = Going::new(&others);
            let mut added = 0;
            for _ in 0..ROUNDS {
                for _ in 0..rng.below(20) {
                    batcher.producer().add(true).unwrap();
                    added += 1;
                }
                let tally = batcher.flush(LONG).unwrap();
                assert_eq!(taken.load(Ordering::Relaxed), added);
                assert_balances(&tally);
                assert!(tally.flushed_ok >= added);
            }
            drop(stop);
        });
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn several_threads_flush_at_once_and_each_sees_its_own_items_through() {
    let mut rng = Rng::seeded();
    let seen = Arc::new(Mutex::new(vec![0_u64; 4]));
    let counts = Arc::clone(&seen);
    let batcher = Batcher::builder()
        .max_batch_size(16)
        .queue_depth(32)
        .max_batch_delay(None)
        .flushers(2)
        .spawn(sink_of(move |batch: &Batch<usize>, _: &mut WriteContext<'_>| {
            let mut counts = counts.lock().unwrap();
            batch.iter().for_each(|thread| counts[*thread] += 1);
            Ok(())
        }))
        .unwrap();
    thread::scope(|scope| {
        for id in 0..4 {
            let (batcher, seen, mut rng) = (&batcher, &seen, rng.fork());
            scope.spawn(move || {
                let mut added = 0;
                for _ in 0..100 {
                    for _ in 0..rng.below(10) {
                        batcher.producer().add(id).unwrap();
                        added += 1;
                    }
                    assert_balances(&batcher.flush(LONG).unwrap());
                    assert_eq!(seen.lock().unwrap()[id], added);
                }
            });
        }
    });
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn a_blocked_sink_times_it_out_with_a_tally_that_balances_and_the_items_go_on() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = Batcher::builder().max_batch_size(4).spawn(log.gated(&gate)).unwrap();
    (0..10).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1);
    for timeout in [Duration::ZERO, Duration::from_millis(1)] {
        let Err(FlushError::Timeout(tally)) = batcher.flush(timeout) else { panic!("no time-out") };
        assert_balances(&tally);
        assert_eq!((tally.enqueued, tally.in_flight, tally.flushed_ok), (10, 10, 0));
    }
    gate.open();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 10);
    assert_eq!(log.items(), (0..10).collect::<Vec<_>>());
    assert!(batcher.shutdown(LONG).is_clean());
}

/// The order to flush must not queue behind the items that are to be flushed.
#[test]
fn a_full_queue_and_a_blocked_sink_do_not_hold_up_the_call() {
    let gate = Gate::new();
    let batcher = Batcher::builder().max_batch_size(2).queue_depth(4).spawn(gate.sinks()).unwrap();
    (0..2).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1);
    while batcher.producer().try_add(9).is_ok() {}
    assert!(matches!(batcher.flush(Duration::ZERO), Err(FlushError::Timeout(_))));
    gate.open();
    assert_eq!(batcher.flush(LONG).unwrap().in_flight, 0);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn one_blocked_flusher_holds_up_the_barrier_and_not_the_other_flusher() {
    let gate = Gate::new();
    let door = gate.clone();
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .flushers(2)
        .spawn(sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            if batch[0] == 0 {
                door.pass();
            }
            Ok(())
        }))
        .unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    (1..5).for_each(|item| batcher.producer().add(item).unwrap());
    common::until("the other writes", || batcher.tally().flushed_ok == 4);
    let Err(FlushError::Timeout(tally)) = batcher.flush(Duration::ZERO) else {
        panic!("too early")
    };
    assert_eq!(tally.in_flight, 1);
    gate.open();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 5);
    assert!(batcher.shutdown(LONG).is_clean());
}

/// Where an engine is reached from its own callbacks.
type Own = Arc<Mutex<Weak<Batcher<u64>>>>;

fn flush_from_inside(own: &Own) -> Option<FlushError> {
    own.lock().unwrap().upgrade()?.flush(LONG).err()
}

#[test]
fn from_a_sink_from_on_failed_and_from_weight_it_is_an_error_and_no_deadlock() {
    let own = Own::default();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let note = |place: &'static str| {
        let (own, errors) = (Arc::clone(&own), Arc::clone(&errors));
        move || errors.lock().unwrap().push((place, flush_from_inside(&own)))
    };
    let (in_sink, in_failed, in_weight) = (note("sink"), note("on_failed"), note("weight"));
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .weight(move |_| {
            in_weight();
            1
        })
        .on_failed(move |_| in_failed())
        .spawn(sink_of(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
            in_sink();
            cx.fail(0, WriteError::permanent("no"));
            Ok(())
        }))
        .unwrap();
    let batcher = Arc::new(batcher);
    *own.lock().unwrap() = Arc::downgrade(&batcher);
    batcher.producer().add(1).unwrap();
    batcher.flush(LONG).unwrap();
    *own.lock().unwrap() = Weak::new();
    let reentrant = |place| (place, Some(FlushError::Reentrant));
    let expected = ["weight", "sink", "on_failed"].map(reentrant);
    assert_eq!(*errors.lock().unwrap(), expected);
    let _ = Arc::into_inner(batcher).unwrap().shutdown(LONG);
}

/// A sink may flush *another* engine: a pipeline of two.
#[test]
fn one_engine_flushes_another_from_its_sink() {
    let log = Log::new();
    let second = Arc::new(Batcher::builder().max_batch_delay(None).spawn(log.factory()).unwrap());
    let next = Arc::clone(&second);
    let first = Batcher::builder()
        .spawn(sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            next.producer().add_many(&mut batch.to_vec()).map_err(WriteError::permanent)?;
            next.flush(LONG).map_err(WriteError::permanent).map(drop)
        }))
        .unwrap();
    first.producer().add_many(&mut (0..100).collect()).unwrap();
    assert_eq!(first.flush(LONG).unwrap().flushed_ok, 100);
    assert_eq!(log.items(), (0..100).collect::<Vec<_>>());
    assert!(first.shutdown(LONG).is_clean());
    assert!(Arc::into_inner(second).unwrap().shutdown(LONG).is_clean());
}

#[test]
fn after_close_it_still_waits_for_what_was_added() {
    let gate = Gate::new();
    let batcher = Batcher::builder().max_batch_delay(None).spawn(gate.sinks()).unwrap();
    (0..3).for_each(|item| batcher.producer().add(item).unwrap());
    batcher.close();
    gate.wait_for(1);
    assert!(matches!(batcher.flush(Duration::ZERO), Err(FlushError::Timeout(_))));
    gate.open();
    for _ in 0..2 {
        assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 3);
    }
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn failed_items_have_met_their_fate_and_on_failed_is_waited_for() {
    let told = Arc::new(AtomicU64::new(0));
    let tell = Arc::clone(&told);
    let batcher = Batcher::builder()
        .max_batch_delay(None)
        .on_failed(move |_| {
            thread::yield_now();
            tell.fetch_add(1, Ordering::Relaxed);
        })
        .spawn(refusing_sinks())
        .unwrap();
    for round in 1..=50 {
        (0..7).for_each(|item| batcher.producer().add(item).unwrap());
        assert_eq!(batcher.flush(LONG).unwrap().flushed_fail, 7 * round);
        assert_eq!(told.load(Ordering::Relaxed), 7 * round);
    }
    let _ = batcher.shutdown(LONG);
}
