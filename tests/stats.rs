//! Promise: the tally adds up in every snapshot, at any moment; and the other figures are what they
//! say they are.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{Gate, Going, LONG, Rng, assert_balances, random_sinks};
use sluicegate::{
    Applied, Batch, Batcher, FlushReason, Stats, Tally, TestClock, WriteContext, WriteError, sink,
};

/// A later snapshot shows no less than an earlier one.
fn assert_goes_on(earlier: &Tally, later: &Tally) {
    assert!(later.enqueued >= earlier.enqueued, "{earlier:?} {later:?}");
    assert!(later.flushed_ok >= earlier.flushed_ok, "{earlier:?} {later:?}");
    assert!(later.flushed_fail >= earlier.flushed_fail, "{earlier:?} {later:?}");
    assert!(later.unknown >= earlier.unknown, "{earlier:?} {later:?}");
}

fn assert_consistent(stats: &Stats) {
    assert_balances(&stats.tally);
    assert!(stats.queue_depth <= stats.queue_capacity, "{stats:?}");
    assert!(stats.queue_depth <= stats.tally.in_flight, "queued is in flight: {stats:?}");
    assert_eq!(stats.oldest_age.is_some(), stats.tally.in_flight > 0, "{stats:?}");
    let closed: u64 = stats.flush_reasons.iter().map(|(_, batches)| batches).sum();
    assert_eq!((closed, stats.batch_size.count), (stats.batches, stats.batches));
    assert_eq!((stats.flush_duration.count, stats.batch_age.count), (stats.writes, closed));
    assert!(stats.retries + stats.splits <= stats.writes + stats.retry_batches, "{stats:?}");
    assert!(stats.timer_lateness.count <= stats.flush_reasons.get(FlushReason::Time));
    assert!(stats.sink_panics <= stats.writes);
}

#[test]
fn every_snapshot_adds_up_while_everything_goes_on_and_fails() {
    let mut rng = Rng::seeded();
    for flushers in [1, 3] {
        let batcher = Batcher::builder()
            .max_batch_size(16)
            .queue_depth(64)
            .max_batch_delay(Duration::from_micros(100))
            .weight(|item: &u64| usize::from(!item.is_multiple_of(97)))
            .flushers(flushers)
            .spawn(random_sinks(rng.fork(), |batch, cx, rng| {
                rng.pause();
                match rng.below(8) {
                    0 => Err(WriteError::permanent("no")),
                    1 => Err(WriteError::disconnected("?").applied(Applied::Unknown)),
                    2 => {
                        cx.fail(rng.index(batch.len()), WriteError::permanent("bad"));
                        Ok(())
                    }
                    3 => resume_unwind(Box::new("as planned")),
                    _ => Ok(()),
                }
            }))
            .unwrap();
        let going = AtomicBool::new(true);
        thread::scope(|scope| {
            let stop = Going::new(&going);
            for _ in 0..2 {
                scope.spawn(|| {
                    let (mut tally, mut batches) = (Tally::default(), 0);
                    while going.load(Ordering::Relaxed) {
                        let stats = batcher.stats();
                        assert_consistent(&stats);
                        assert_goes_on(&tally, &stats.tally);
                        assert!(stats.batches >= batches);
                        (tally, batches) = (batcher.tally(), stats.batches);
                        assert_balances(&tally);
                        assert_goes_on(&stats.tally, &tally);
                    }
                });
            }
            let producers: Vec<_> = (0..2)
                .map(|_| {
                    let (producer, mut rng) = (batcher.producer(), rng.fork());
                    scope.spawn(move || {
                        for item in 0..10_000 {
                            producer.add(item).unwrap();
                            rng.pause();
                        }
                    })
                })
                .collect();
            producers.into_iter().for_each(|producer| producer.join().unwrap());
            let tally = batcher.flush(LONG).unwrap();
            assert_eq!((tally.enqueued, tally.in_flight), (20_000, 0));
            drop(stop);
        });
        let report = batcher.shutdown(LONG);
        assert_consistent(&report.stats);
        assert_eq!(report.stats.tally, report.tally);
        let failed = report.failed.len() as u64 + report.failed_discarded;
        assert_eq!(failed, report.tally.flushed_fail + report.tally.unknown);
    }
}

#[test]
fn histograms_and_reasons_count_what_happened() {
    let clock = TestClock::new();
    let inside = clock.clone();
    let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        inside.advance(Duration::from_millis(batch.len() as u64));
        Ok(())
    });
    let mut pump = Batcher::builder()
        .max_batch_size(10)
        .max_batch_delay(Duration::from_millis(100))
        .pump(sink, clock)
        .unwrap();
    assert_consistent(&pump.stats());
    pump.producer().add_many(&mut (0..10).collect()).unwrap();
    pump.run();
    pump.producer().add_many(&mut (0..2).collect()).unwrap();
    pump.advance(Duration::from_millis(150));
    pump.producer().add_many(&mut (0..5).collect()).unwrap();
    pump.flush();
    let stats = pump.stats();
    assert_consistent(&stats);
    let reasons = [FlushReason::Size, FlushReason::Time, FlushReason::Flush];
    assert!(reasons.iter().all(|reason| stats.flush_reasons.get(*reason) == 1), "{stats:?}");
    let size = stats.batch_size;
    assert_eq!((size.count, size.min, size.p50, size.max), (3, 2, 5, 10));
    assert!((size.mean - 17.0 / 3.0).abs() < 0.01);
    let within = |value: Duration, ms: u64| {
        let (value, expected) = (value.as_secs_f64() * 1e3, ms as f64);
        assert!((value - expected).abs() <= expected * 0.02, "{value} is not {expected} ms");
    };
    within(stats.flush_duration.max, 10);
    within(stats.flush_duration.min, 2);
    within(stats.batch_age.max, 102); // its delay, and the time that the sink took
    within(stats.flush_duration.p999, 10);
    assert_eq!(stats.timer_lateness.max, Duration::ZERO);
}

#[test]
fn depth_and_age_are_of_what_is_in_flight_wherever_it_is() {
    let (gate, clock) = (Gate::new(), TestClock::new());
    gate.open();
    let mut pump = Batcher::builder()
        .max_batch_size(100)
        .max_batch_delay(None)
        .queue_depth(128)
        .weight(|_| 1)
        .max_batch_bytes(1_000)
        .pump(sink::NullSink, clock.clone())
        .unwrap();
    assert_eq!((pump.stats().queue_depth, pump.stats().oldest_age), (0, None));
    pump.step();
    pump.producer().add_many(&mut (0..7).collect::<Vec<u64>>()).unwrap();
    assert_eq!(pump.stats().queue_depth, 7);
    clock.advance(Duration::from_secs(3));
    assert_eq!(pump.stats().oldest_age, Some(Duration::from_secs(3)));
    pump.step(); // some were taken out to be weighed
    assert_eq!(pump.stats().tally.in_flight, 7);
    assert!(pump.stats().oldest_age >= Some(Duration::from_secs(3)), "{:?}", pump.stats());
    assert_consistent(&pump.stats());
    pump.flush();
    assert_eq!((pump.stats().queue_depth, pump.stats().oldest_age), (0, None));
}

#[test]
fn a_batch_that_a_sink_holds_is_in_flight_and_grows_old() {
    let gate = Gate::new();
    let batcher = Batcher::builder().max_batch_size(3).spawn(gate.sinks()).unwrap();
    batcher.producer().add_many(&mut vec![1, 2, 3]).unwrap();
    gate.wait_for(1);
    let (first, second) = (batcher.stats(), batcher.stats());
    assert_eq!((first.tally.in_flight, first.queue_depth, first.batches), (3, 0, 0));
    assert!(second.oldest_age.unwrap() >= first.oldest_age.unwrap());
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}
