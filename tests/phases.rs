//! Promise: the figures say why a flush was slow: what each batch spent its time on, and nothing
//! of it is missing or counted twice.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::time::Duration;

use common::Rng;
use rig::{MS, Rig, SECOND, advancing, always, ms};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{
    Batcher, Breaker, Builder, Class, DurationSummary, Phases, Retry, TestClock, Throttle,
};

/// Each batch has one item; nothing waits but for what a test sets.
fn builder() -> Builder<u64> {
    Batcher::builder().max_batch_size(1).seed(1).breaker(None).retry(None)
}

/// In ms: queued, forming, held, throttled, writing, backing off. Durations are told to 1 %.
#[track_caller]
fn assert_spent(phases: &Phases<DurationSummary>, expected: [u64; 6]) {
    for ((name, spent), ms) in phases.iter().zip(expected) {
        let (got, ms) = (spent.max.as_secs_f64(), ms as f64 / 1e3);
        assert!((got - ms).abs() <= ms * 0.01 + 1e-6, "{name}: {got} s, not {ms} s: {phases:?}");
    }
}

#[test]
fn a_quick_batch_spends_nothing() {
    let mut rig = Rig::new(builder(), &Faults::seeded(0));
    rig.add(0..3);
    let phases = rig.stats().phases;
    assert_spent(&phases, [0; 6]);
    assert!(phases.iter().all(|(_, spent)| spent.count == 3), "{phases:?}");
    let names: Vec<_> = phases.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["queued", "forming", "held", "throttled", "writing", "backing_off"]);
}

#[test]
fn queued_is_until_a_flusher_turns_to_it_and_forming_until_it_is_closed() {
    let mut rig = Rig::new(builder().max_batch_size(2), &Faults::seeded(0));
    rig.pump.run();
    rig.pump.producer().add(0).unwrap();
    rig.clock.advance(30 * MS); // the flusher is elsewhere
    rig.pump.run();
    rig.clock.advance(50 * MS);
    rig.add(1..2);
    assert_spent(&rig.stats().phases, [30, 50, 0, 0, 0, 0]);
}

#[test]
fn a_busy_flusher_lets_the_next_batch_queue() {
    let clock = TestClock::new();
    let faults = Faults::script([Fault::Delay(200 * MS)]).on_delay(advancing(&clock));
    let mut rig = Rig::at(clock, builder(), &faults);
    rig.pump.producer().add_many(&mut vec![0, 1]).unwrap();
    rig.pump.run();
    assert_spent(&rig.stats().phases, [200, 0, 0, 0, 200, 0]);
}

#[test]
fn held_is_the_breaker() {
    let faults = Faults::script(vec![Fault::Transient; 10]);
    let mut rig = Rig::new(builder().breaker(Breaker::default()), &faults);
    rig.add(0..10);
    rig.add(10..11);
    rig.pump.advance(5 * SECOND);
    assert_eq!(rig.store.items(), [10]);
    assert_spent(&rig.stats().phases, [0, 0, 1_000, 0, 0, 0]);
}

#[test]
fn throttled_is_the_throttle() {
    let throttle = Throttle::default().calls_per_second(4.0).burst(Duration::ZERO);
    let mut rig = Rig::new(builder().throttle(throttle), &Faults::seeded(0));
    rig.add(0..1);
    rig.add(1..2);
    rig.pump.advance(SECOND);
    assert_spent(&rig.stats().phases, [0, 0, 0, 250, 0, 0]);
}

#[test]
fn a_sink_that_asks_to_be_left_alone_is_a_throttle_to_the_others() {
    let faults = Faults::script([Fault::Throttled(700 * MS)]);
    let mut rig = Rig::new(builder().retry(Retry::default().max_attempts(1)), &faults);
    rig.add(0..2);
    rig.pump.advance(SECOND);
    assert_spent(&rig.stats().phases, [0, 0, 0, 700, 0, 0]);
}

#[test]
fn writing_is_all_writes_and_backing_off_all_waits_between_them() {
    let clock = TestClock::new();
    let faults = always(Fault::Delay(40 * MS)).on_delay(advancing(&clock));
    let mut rig =
        Rig::at(clock, builder().retry(Retry::default()), &faults.one_in(2, Fault::Transient));
    rig.add(0..1);
    rig.pump.advance(60 * SECOND);
    let times = rig.times();
    assert!(times.len() > 1, "it failed at first");
    let writes = times.len() as u64;
    let waits: Duration = times.windows(2).map(|pair| pair[1] - pair[0] - 40 * MS).sum();
    let waits = u64::try_from(waits.as_millis()).unwrap();
    assert_spent(&rig.stats().phases, [0, 0, 0, 0, 40 * writes, waits]);
}

#[test]
fn what_a_retry_waits_for_besides_is_named() {
    let retry = Retry::default().initial_delay(MS).max_delay(MS);
    let script = [vec![Fault::Transient; 10], vec![Fault::Ok; 10]].concat();
    // Ten waiting retries, and a breaker that lets the first go after a second.
    let held = builder().retry(retry).breaker(Breaker::default());
    let mut rig = Rig::new(held, &Faults::script(script.clone()));
    rig.add(0..10);
    rig.pump.advance(5 * SECOND);
    let phases = rig.stats().phases;
    let near = |time: Duration, ms: u64| time.abs_diff(Duration::from_millis(ms)) < 15 * MS;
    assert!(near(phases.held.min, 1_000) && near(phases.held.max, 1_000), "{phases:?}");
    assert_eq!(phases.throttled.max, Duration::ZERO);
    // The same, and a budget of two retries a second.
    let short = builder().retry(retry.budget(0.0).budget_floor(2.0));
    let mut rig = Rig::new(short, &Faults::script(script));
    rig.add(0..10);
    rig.pump.advance(60 * SECOND);
    let phases = rig.stats().phases;
    assert_eq!(rig.store.len(), 10);
    assert!(near(phases.throttled.max, 4_000), "eight at half a second each: {phases:?}");
}

#[test]
fn items_that_failed_for_too_long_say_what_they_waited_for() {
    let clock = TestClock::new();
    let faults = always(Fault::Throttled(600 * MS));
    let retry = Retry::default().give_up_after(SECOND);
    let mut rig = Rig::at(clock, builder().retry(retry), &faults);
    rig.add(0..1);
    rig.pump.advance(SECOND);
    assert_eq!(rig.stats().tally.flushed_fail, 1);
    assert_eq!(rig.calls(), 2);
    assert_spent(&rig.stats().phases, [0, 0, 0, 0, 0, 600]);
}

#[test]
fn each_part_tells_of_its_own() {
    let mut rig =
        Rig::new(builder().max_batch_size(8), &Faults::seeded(0).poison(|item| *item == 3));
    rig.add(0..8);
    let phases = rig.stats().phases;
    // [4..8], [0 1], [2], and 3, which has failed.
    assert!(phases.iter().all(|(_, spent)| spent.count == 4), "{phases:?}");
}

/// Of an engine with one item everything is known: from its add to its fate.
#[test]
fn the_phases_add_up_to_the_whole_time() {
    let mut rng = Rng::seeded();
    let mut ends = [0, 0];
    for _ in 0..300 {
        let clock = TestClock::new();
        let faults = Faults::seeded(rng.next())
            .on_delay(advancing(&clock))
            .one_in(rng.pick(&[0, 1, 2]), Fault::Delay(ms(rng.below(90))))
            .one_in(3, Fault::Transient)
            .one_in(5, Fault::Throttled(250 * MS))
            .one_in(9, Fault::Unknown(Class::Transient))
            .down_between(clock.now(), clock.now() + ms(rng.below(3_000)));
        let breaker = Breaker::default().min_writes(2).open_for(300 * MS);
        let throttle = Throttle::default().calls_per_second(rng.pick(&[2.0, 1_000.0]));
        let retry = Retry::default().give_up_after(rng.pick(&[1, 20]) * SECOND).max_delay(SECOND);
        let builder = Batcher::builder().seed(rng.next()).breaker(breaker).throttle(throttle);
        let builder = builder.max_batch_delay(ms(rng.below(200))).retry(retry);
        let mut rig = Rig::at(clock, builder, &faults);
        rig.pump.run();
        rig.pump.producer().add(0).unwrap();
        let added = rig.clock.now();
        rig.clock.advance(ms(rng.below(50)));
        while rig.pump.tally().in_flight > 0 {
            rig.pump.run();
            let now = rig.clock.now();
            let due = rig.pump.next_due().filter(|_| rig.pump.tally().in_flight > 0);
            rig.clock.advance(due.unwrap_or(now).saturating_duration_since(now));
        }
        let took = rig.clock.now() - added;
        let stats = rig.stats();
        let spent: Duration = stats.phases.iter().map(|(_, spent)| spent.max).sum();
        let off = took.abs_diff(spent);
        assert!(off <= took / 100 + MS / 1_000, "{took:?}, but {spent:?}: {:?}", stats.phases);
        ends[usize::from(stats.tally.flushed_ok == 1)] += 1;
    }
    assert!(ends.iter().all(|count| *count > 10), "{ends:?}");
}
