//! Promise: a sink that keeps failing is left alone, but for one probe after a while; meanwhile
//! nothing is lost, and what says nothing about the sink does not count.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::time::Duration;

use common::{LONG, Rng, until};
use rig::{MS, Rig, SECOND, always, failed, ms, sinks};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{
    AddReason, Applied, Batcher, Breaker, BreakerState, Builder, Class, Retry, TestClock, Throttle,
    WhileOpen,
};

const T: Fault = Fault::Transient;
const OK: Fault = Fault::Ok;

/// Items travel alone, and none is tried again.
fn builder(breaker: Breaker) -> Builder<u64> {
    Batcher::builder().max_batch_size(1).queue_depth(64).retry(None).breaker(breaker)
}

fn down() -> Faults<u64> {
    always(Fault::Disconnected)
}

fn state(rig: &Rig) -> BreakerState {
    rig.stats().breaker
}

/// Where the breaker stands after these answers.
fn after(script: &[Fault], gap: Duration) -> BreakerState {
    let mut rig = Rig::new(builder(Breaker::default()), &Faults::script(script.to_vec()));
    for item in 0..script.len() as u64 {
        assert_eq!(state(&rig), BreakerState::Closed, "before answer {item} of {script:?}");
        rig.add(item..item + 1);
        rig.pump.advance(gap);
    }
    state(&rig)
}

#[test]
fn it_opens_when_half_of_ten_or_more_have_failed() {
    let (open, closed) = (BreakerState::Open, BreakerState::Closed);
    let zero = Duration::ZERO;
    assert_eq!(after(&[T, T, T, T, T, T, T, T, T], zero), closed, "nine are too few");
    assert_eq!(after(&[T, T, T, T, T, T, T, T, T, T], zero), open);
    assert_eq!(after(&[OK, OK, OK, OK, OK, T, T, T, T, T], zero), open);
    assert_eq!(after(&[OK, OK, OK, OK, OK, OK, T, T, T, T, T], zero), closed, "5 of 11");
    assert_eq!(after(&[OK, OK, OK, OK, OK, OK, T, T, T, T, T, T], zero), open);
    assert_eq!(after(&[T, T, T, T, T, OK, OK, OK, OK, OK], zero), closed, "only a failure opens");
    assert_eq!(after(&[T, T, T, T, T, T, T, T, T, T], 1_300 * MS), closed, "eight in ten seconds");
}

#[test]
fn while_it_is_open_nothing_is_written_but_the_probes() {
    let mut rig = Rig::new(builder(Breaker::default()), &down());
    rig.add(0..10);
    assert_eq!((state(&rig), rig.calls()), (BreakerState::Open, 10));
    let producer = rig.pump.producer();
    (10..60).for_each(|item| producer.try_add(item).unwrap());
    rig.pump.advance(150 * SECOND);
    // After 1 s, twice that, and so on; never more than 30 s.
    let probes = [1, 3, 7, 15, 31, 61, 91, 121].map(|second| second * SECOND);
    assert_eq!(rig.times()[10..], probes);
    assert_eq!(rig.stats().tally.in_flight, 60 - 18, "the others wait");
}

#[test]
fn a_probe_that_succeeds_closes_it_and_what_waited_is_written() {
    let clock = TestClock::new();
    let end = clock.now() + 5 * SECOND;
    let faults = Faults::seeded(0).down_between(clock.now(), end);
    let mut rig = Rig::at(clock, builder(Breaker::default()), &faults);
    rig.add(0..10);
    let producer = rig.pump.producer();
    (10..50).for_each(|item| producer.try_add(item).unwrap());
    rig.pump.advance(7 * SECOND - MS);
    assert_eq!((state(&rig), rig.store.len()), (BreakerState::Open, 0));
    rig.pump.advance(MS);
    assert_eq!(state(&rig), BreakerState::Closed);
    assert_eq!(rig.store.items(), (12..50).collect::<Vec<_>>(), "two were probes that failed");
    assert_eq!(rig.stats().tally.in_flight, 0);
}

#[test]
fn it_says_half_open_while_nothing_is_there_to_probe_with() {
    let mut rig = Rig::new(builder(Breaker::default()), &Faults::script(vec![T; 10]));
    rig.add(0..10);
    rig.pump.advance(SECOND - MS);
    assert_eq!(state(&rig), BreakerState::Open);
    rig.pump.advance(MS);
    assert_ne!(state(&rig), BreakerState::Closed, "time alone closes nothing");
    rig.add(10..11);
    assert_eq!((state(&rig), rig.store.items()), (BreakerState::Closed, vec![10]));
}

#[test]
fn the_wait_starts_over_after_a_window_without_opening() {
    let script = [vec![T; 11], vec![OK; 1], vec![T; 10]].concat();
    for (pause, wait) in [(SECOND, 2 * SECOND), (20 * SECOND, SECOND)] {
        let mut rig = Rig::new(builder(Breaker::default()), &Faults::script(script.clone()));
        rig.add(0..10); // opens for 1 s
        let producer = rig.pump.producer();
        (10..12).for_each(|item| producer.try_add(item).unwrap()); // fails after 1 s, is in after 3 s
        rig.pump.advance(3 * SECOND);
        assert_eq!((state(&rig), rig.calls()), (BreakerState::Closed, 12));
        rig.pump.advance(pause);
        rig.add(12..22);
        assert_eq!(state(&rig), BreakerState::Open);
        let since = rig.now();
        producer.try_add(22).unwrap();
        rig.pump.advance(60 * SECOND);
        assert_eq!(rig.times()[22] - since, wait, "after {pause:?}");
    }
}

#[test]
fn producers_feel_it_and_lose_nothing() {
    let clock = TestClock::new();
    let faults = Faults::seeded(0).down_between(clock.now(), clock.now() + 10 * SECOND);
    let mut rig = Rig::at(clock, builder(Breaker::default()), &faults);
    rig.add(0..10);
    let producer = rig.pump.producer();
    let mut next = 10;
    let refused = loop {
        match producer.try_add(next) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
        rig.pump.advance(MS);
        assert!(next < 1_000, "a queue of 64 and one batch are all there is");
    };
    assert_eq!((refused.reason(), refused.into_inner()), (AddReason::Full, next));
    assert!(next - 10 <= 64 + 1, "{next}");
    assert_eq!(rig.calls(), 10);
    rig.pump.advance(20 * SECOND);
    producer.try_add(next).unwrap();
    rig.pump.advance(SECOND);
    let probes = rig.calls() as u64 - (next + 1);
    assert_eq!(probes, 0, "each item was written once, some of them in vain");
    assert_eq!(rig.stats().tally.in_flight, 0);
}

#[test]
fn dead_letter_mode_fails_items_at_once() {
    let breaker = Breaker::default().while_open(WhileOpen::DeadLetter);
    let mut rig = Rig::new(builder(breaker), &down());
    rig.add(0..10);
    rig.add(10..1_000); // more than the queue holds
    assert_eq!(rig.calls(), 10);
    let stats = rig.stats();
    assert_eq!((stats.tally.flushed_fail, stats.tally.in_flight), (1_000, 0));
    assert_eq!(
        (stats.batches, stats.writes),
        (10, 10),
        "what is not written is no batch of the sink's"
    );
    rig.pump.advance(SECOND);
    rig.add(1_000..1_002);
    assert_eq!(rig.calls(), 11, "one probe");
    let report = rig.pump.shutdown();
    assert_eq!(failed(&report), (0..1_002).collect::<Vec<_>>());
    let error = &report.failed[500].error;
    assert_eq!((error.class(), error.what_applied()), (Class::Disconnected, Applied::Nothing));
    assert_eq!(error.to_string(), "the breaker is open");
}

#[test]
fn in_dead_letter_mode_retries_fail_when_they_are_due() {
    let breaker = Breaker::default().while_open(WhileOpen::DeadLetter).open_for(30 * SECOND);
    let builder = builder(breaker).retry(Retry::default()).seed(1);
    let mut rig = Rig::new(builder, &down());
    rig.add(0..10);
    rig.pump.advance(10 * SECOND);
    let stats = rig.stats();
    assert_eq!((rig.calls(), stats.tally.flushed_fail, stats.retry_items), (10, 10, 0));
    assert_eq!(stats.retries, 0, "no call of the sink");
}

/// What the sink is not given does not use up what it may be given.
#[test]
fn in_dead_letter_mode_nothing_is_throttled() {
    let breaker = Breaker::default().while_open(WhileOpen::DeadLetter);
    let throttle = Throttle::default().burst(SECOND).items_per_second(10.0).calls_per_second(10.0);
    let mut rig = Rig::new(builder(breaker).throttle(throttle), &Faults::script(vec![T; 10]));
    rig.add(0..10);
    assert_eq!(state(&rig), BreakerState::Open);
    rig.add(10..1_000);
    assert_eq!((rig.calls(), rig.stats().tally.in_flight), (10, 0));
    rig.pump.advance(SECOND);
    rig.add(1_000..1_001);
    assert_eq!(rig.store.items(), [1_000], "nothing is owed for the others");
}

#[test]
fn a_sink_that_asks_to_be_left_alone_does_not_hold_dead_letters_up() {
    let breaker = Breaker::default().min_writes(1).while_open(WhileOpen::DeadLetter);
    let faults = Faults::script([Fault::Throttled(LONG)]);
    let mut rig = Rig::new(builder(breaker), &faults);
    rig.add(0..10);
    assert_eq!((rig.calls(), rig.stats().tally.flushed_fail), (1, 10));
}

#[test]
fn bad_data_says_nothing_about_the_sink() {
    let nothing = Applied::Nothing;
    for fault in [
        Fault::Permanent,
        Fault::TooLarge,
        Fault::EachItem { one_in: 1, class: Class::Transient, applied: nothing },
        Fault::EachItem { one_in: 1, class: Class::Permanent, applied: nothing },
        Fault::Unknown(Class::Permanent),
    ] {
        let mut rig = Rig::new(builder(Breaker::default()), &Faults::seeded(0).one_in(1, fault));
        rig.add(0..60);
        assert_eq!((state(&rig), rig.calls()), (BreakerState::Closed, 60));
    }
}

#[test]
fn each_kind_of_trouble_with_the_sink_opens_it() {
    for fault in [
        Fault::Transient,
        Fault::Disconnected,
        Fault::Throttled(Duration::ZERO),
        Fault::Unknown(Class::Transient),
        Fault::ConnectionLost,
        Fault::Panic,
    ] {
        let mut rig = Rig::new(builder(Breaker::default()), &always(fault.clone()));
        rig.add(0..10);
        assert_eq!(state(&rig), BreakerState::Open, "{fault:?}");
    }
}

#[test]
fn a_sink_that_panics_opens_it_however_often_it_is_opened_anew() {
    let faults = Faults::script(vec![Fault::Panic; 5]);
    let log = faults.log();
    let (open, store) = sinks(faults);
    let breaker = Breaker::default().min_writes(5).open_for(LONG).open_max(LONG);
    let batcher = builder(breaker).spawn(open).unwrap();
    (0..20).for_each(|item| batcher.producer().add(item).unwrap());
    until("it opens", || batcher.stats().breaker == BreakerState::Open);
    assert_eq!((log.len(), store.len()), (5, 0));
    let report = batcher.shutdown(10 * MS);
    assert_eq!((report.stats.sink_panics, report.tally.unknown), (5, 5));
    assert_eq!(report.unflushed, (5..20).collect::<Vec<_>>());
    assert_eq!(log.len(), 5);
}

#[test]
fn without_a_breaker_a_dead_sink_is_asked_for_ever() {
    let mut rig = Rig::new(builder(Breaker::default()).breaker(None), &down());
    rig.add(0..60);
    assert_eq!((rig.calls(), state(&rig)), (60, BreakerState::Closed));
}

#[test]
fn whatever_the_sink_does_there_is_one_probe_for_each_wait() {
    let mut rng = Rng::seeded();
    for _ in 0..5 {
        let faults = Faults::seeded(rng.next()).one_in(2, T).one_in(3, Fault::Disconnected);
        let breaker = Breaker::default().min_writes(4).open_for(500 * MS).open_max(4 * SECOND);
        let mut rig = Rig::new(builder(breaker).retry(Retry::default()).seed(1), &faults);
        for item in 0..200 {
            let _ = rig.pump.producer().try_add(item);
            let (before, calls) = (state(&rig), rig.calls());
            rig.pump.step();
            let wrote = rig.calls() - calls;
            assert!(before != BreakerState::Open || wrote == 0, "a write while it is open");
            rig.clock.advance(ms(rng.below(200)));
        }
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let breaker = Breaker::default();
    for (bad, key) in [
        (breaker.failure_rate(0.0), "breaker.failure_rate"),
        (breaker.failure_rate(1.1), "breaker.failure_rate"),
        (breaker.min_writes(0), "breaker.min_writes"),
        (breaker.window(Duration::ZERO), "breaker.window"),
        (breaker.open_for(Duration::ZERO), "breaker.open_for"),
        (breaker.open_max(MS), "breaker.open_max"),
    ] {
        let refused = builder(bad).spawn(common::null_sinks());
        let Err(sluicegate::SpawnError::Config(error)) = refused else { panic!("{key}") };
        assert_eq!(error.key(), key);
    }
}
