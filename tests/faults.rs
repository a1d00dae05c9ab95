//! Promise: a plan of faults does what it says, the same for the same seed, and its log tells what
//! happened.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{LONG, Rng, assert_balances, no_second_try};
use sluicegate::testing::{Fault, FaultSink, Faults, Outcome, Recorder};
use sluicegate::{
    Applied, Batch, Batcher, Class, Pump, Sink, SinkLimits, TestClock, WriteContext, WriteError,
    sink,
};

type Faulty = Pump<u64, FaultSink<u64, Recorder<u64>>>;

/// A pump that writes batches of so many items.
fn pump_of(faults: &Faults<u64>, batch: usize) -> (Faulty, Recorder<u64>, TestClock) {
    let (store, clock) = (Recorder::new(), TestClock::new());
    let builder = no_second_try(Batcher::builder()).max_batch_size(batch);
    let pump = builder.pump(faults.wrap(store.clone()), clock.clone()).unwrap();
    (pump, store, clock)
}

fn add(pump: &mut Faulty, items: std::ops::Range<u64>) {
    pump.producer().add_many(&mut items.collect()).unwrap();
    pump.run();
}

fn failed(class: Class, applied: Applied) -> Outcome {
    Outcome::Failed { class, applied }
}

#[test]
fn a_script_goes_call_by_call_and_then_all_is_well() {
    let wait = Duration::from_secs(3);
    let faults = Faults::script([
        Fault::Transient,
        Fault::Permanent,
        Fault::Ok,
        Fault::TooLarge,
        Fault::Throttled(wait),
        Fault::Disconnected,
    ]);
    let (mut pump, store, clock) = pump_of(&faults, 1);
    add(&mut pump, 0..8);
    let nothing = |class| failed(class, Applied::Nothing);
    assert_eq!(
        faults.log().outcomes(),
        [
            nothing(Class::Transient),
            nothing(Class::Permanent),
            Outcome::Ok,
            nothing(Class::TooLarge),
            nothing(Class::Throttled),
            nothing(Class::Disconnected),
            Outcome::Ok,
            Outcome::Ok,
        ]
    );
    assert_eq!(store.items(), [2, 6, 7]);
    assert_eq!(faults.log().writes(), 3);
    let call = &faults.log().calls()[4];
    assert_eq!((call.batch.get(), call.items, call.at), (5, 1, clock.now()));
    assert_eq!((call.fault.clone(), call.handed_on), (Fault::Throttled(wait), 0));
    assert_eq!(faults.log().attempts(call.batch), 1);
    let report = pump.shutdown();
    assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (3, 5));
    assert_eq!(report.failed[3].error.retry_after(), Some(wait));
}

#[test]
fn unknown_writes_or_not_by_the_seed() {
    let faults = Faults::seeded(7).one_in(1, Fault::Unknown(Class::Disconnected));
    let (mut pump, store, _) = pump_of(&faults, 1);
    add(&mut pump, 0..64);
    assert_eq!(pump.tally().unknown, 64);
    let written: Vec<u64> = (0..64)
        .zip(faults.log().calls())
        .filter(|(_, call)| call.handed_on == 1)
        .map(|(item, _)| item)
        .collect();
    assert_eq!(store.items(), written);
    assert!((16..=48).contains(&written.len()), "a coin has two sides: {}", written.len());
    let unknown = failed(Class::Disconnected, Applied::Unknown);
    assert!(faults.log().outcomes().iter().all(|outcome| *outcome == unknown));
}

#[test]
fn marked_items_fail_alone_and_the_inner_sink_sees_the_others_only() {
    let (class, applied) = (Class::Transient, Applied::Nothing);
    let faults = Faults::script([
        Fault::Items { at: vec![0, 2, 9], class, applied },
        Fault::Items { at: vec![0, 1, 2, 3], class, applied },
    ]);
    let (mut pump, store, _) = pump_of(&faults, 4);
    add(&mut pump, 0..12);
    assert_eq!(store.items(), [1, 3, 8, 9, 10, 11]);
    let calls = faults.log().calls();
    assert_eq!((calls[0].marked.clone(), calls[0].handed_on), (vec![0, 2], 2));
    assert_eq!(calls[1].handed_on, 0, "a batch is never empty");
    let report = pump.shutdown();
    let lost: Vec<u64> = report.failed.iter().map(|failed| failed.item).collect();
    assert_eq!(lost, [0, 2, 4, 5, 6, 7]);
    assert!(report.failed.iter().all(|failed| failed.error.class() == class));
}

#[test]
fn items_marked_as_unknown_are_in_or_not() {
    let fault =
        Fault::EachItem { one_in: 1, class: Class::Disconnected, applied: Applied::Unknown };
    let faults = Faults::seeded(3).one_in(1, fault);
    let (mut pump, store, _) = pump_of(&faults, 64);
    add(&mut pump, 0..64);
    assert_eq!(pump.tally().unknown, 64);
    let written = store.items();
    assert!((16..=48).contains(&written.len()), "{}", written.len());
    assert!(written.is_sorted(), "in the order of the batch");
    assert_eq!(faults.log().calls()[0].handed_on, written.len());
}

/// The places of what the inner sink marks are those of the whole batch.
#[test]
fn marks_of_the_inner_sink_come_back_to_the_right_items() {
    let inner = |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        for (index, item) in batch.iter().enumerate() {
            if item % 3 == 0 {
                cx.fail(index, WriteError::permanent("by three"));
            }
        }
        cx.fail(batch.len(), WriteError::permanent("outside"));
        Ok(())
    };
    let at = vec![0, 3, 4];
    let items = Fault::Items { at, class: Class::Transient, applied: Applied::Nothing };
    let sink = Faults::script([items]).wrap(sink::from_fn(inner));
    let mut pump =
        no_second_try(Batcher::builder()).max_batch_size(8).pump(sink, TestClock::new()).unwrap();
    pump.producer().add_many(&mut (0..8).collect()).unwrap();
    pump.run();
    let report = pump.shutdown();
    let lost: Vec<_> = report.failed.iter().map(|f| (f.item, f.error.class())).collect();
    let (mine, inner) = (Class::Transient, Class::Permanent);
    assert_eq!(lost, [(0, mine), (3, mine), (4, mine), (6, inner)]);
}

#[test]
fn poison_fails_its_batch_or_itself() {
    let whole = Faults::seeded(0).poison(|item| *item == 5);
    let (mut pump, store, _) = pump_of(&whole, 4);
    add(&mut pump, 0..12);
    assert_eq!(store.items(), [0, 1, 2, 3, 8, 9, 10, 11]);
    assert_eq!(whole.log().outcomes()[1], failed(Class::Permanent, Applied::Nothing));
    assert_eq!(whole.log().writes(), 2);

    let alone = Faults::seeded(0).poison_items(|item| *item == 5);
    let (mut pump, store, _) = pump_of(&alone, 4);
    add(&mut pump, 0..12);
    assert_eq!(store.items().len(), 11);
    assert!(!store.items().contains(&5));
    assert_eq!(alone.log().calls()[1].marked, [1]);
}

#[test]
fn a_lost_connection_stays_lost_for_so_many_calls_or_until_it_is_opened_again() {
    let lost = failed(Class::Disconnected, Applied::Nothing);
    let faults = Faults::script([Fault::Ok, Fault::ConnectionLost]).reconnect_after(2);
    let (mut pump, store, _) = pump_of(&faults, 1);
    add(&mut pump, 0..6);
    assert_eq!(faults.log().outcomes(), [Outcome::Ok, lost, lost, lost, Outcome::Ok, Outcome::Ok]);
    assert_eq!(store.items(), [0, 4, 5]);

    let faults = Faults::script([Fault::ConnectionLost]);
    let (mut pump, _, _) = pump_of(&faults, 1);
    add(&mut pump, 0..3);
    let (mut again, store, _) = pump_of(&faults, 1);
    add(&mut again, 3..4);
    assert_eq!(faults.log().outcomes(), [lost, lost, lost, Outcome::Ok]);
    assert_eq!(store.items(), [3]);
}

#[test]
fn an_outage_follows_the_engines_clock() {
    let clock = TestClock::new();
    let second = Duration::from_secs(1);
    let start = clock.now();
    let faults = Faults::seeded(0).down_between(start + second, start + 3 * second);
    let store = Recorder::new();
    let sink = faults.wrap(store.clone());
    let mut pump =
        no_second_try(Batcher::builder()).max_batch_size(1).pump(sink, clock.clone()).unwrap();
    for item in 0..5 {
        add(&mut pump, item..item + 1);
        clock.advance(second);
    }
    assert_eq!(store.items(), [0, 3, 4]);
}

#[test]
fn what_is_too_large_is_refused_and_the_engine_is_told_of_the_inner_limits_only() {
    struct Limited(Recorder<u64>);
    impl Sink<u64> for Limited {
        fn write(
            &mut self,
            batch: &Batch<u64>,
            cx: &mut WriteContext<'_>,
        ) -> Result<(), WriteError> {
            self.0.write(batch, cx)
        }
        fn limits(&self) -> SinkLimits {
            SinkLimits::default().max_batch_size(4)
        }
    }
    let store = Recorder::new();
    let faults = Faults::seeded(0).max_items(3).max_bytes(25);
    let mut pump = no_second_try(Batcher::builder())
        .weight(|item: &u64| if *item == 4 { 26 } else { 1 })
        .pump(faults.wrap(Limited(store.clone())), TestClock::new())
        .unwrap();
    pump.producer().add_many(&mut (0..4).collect()).unwrap();
    pump.run();
    for item in 4..6 {
        pump.producer().add(item).unwrap();
        pump.flush();
    }
    let large = failed(Class::TooLarge, Applied::Nothing);
    assert_eq!(faults.log().outcomes(), [large, large, Outcome::Ok]);
    assert_eq!((faults.log().calls()[0].items, store.items()), (4, vec![5]));
}

#[test]
fn a_delay_takes_the_tests_time_and_the_next_setting_is_asked() {
    let (two, three) = (Duration::from_secs(2), Duration::from_secs(3));
    let clock = TestClock::new();
    let hand = clock.clone();
    let faults = Faults::script([Fault::Delay(two)])
        .one_in(1, Fault::Delay(three))
        .one_in(1, Fault::Delay(two))
        .one_in(1, Fault::Transient)
        .on_delay(move |time| hand.advance(time));
    let store = Recorder::new();
    let sink = faults.wrap(store.clone());
    let mut pump =
        no_second_try(Batcher::builder()).max_batch_size(1).pump(sink, clock.clone()).unwrap();
    let start = clock.now();
    add(&mut pump, 0..1);
    assert_eq!((clock.now() - start, store.items()), (two, vec![0]));
    add(&mut pump, 1..2);
    assert_eq!((clock.now() - start, store.len()), (two + three + two, 1));
    assert_eq!(faults.log().calls()[1].fault, Fault::Transient);
}

#[test]
fn without_a_hand_on_the_test_clock_a_delay_is_none() {
    let faults = Faults::script([Fault::Delay(Duration::from_secs(1_000_000))]);
    let (mut pump, store, _) = pump_of(&faults, 1);
    add(&mut pump, 0..1);
    assert_eq!(store.items(), [0]);
}

#[test]
fn a_panic_leaves_its_mark_in_the_log_and_the_sink_is_opened_again() {
    let faults = Faults::script([Fault::Panic, Fault::PanicAfter, Fault::Ok]);
    let store = Recorder::new();
    let (plan, inner) = (faults.clone(), store.clone());
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(1)
        .spawn(move |_| Ok::<_, WriteError>(plan.wrap(inner.clone())))
        .unwrap();
    for item in 0..3_u64 {
        batcher.producer().add(item).unwrap();
    }
    let report = batcher.shutdown(LONG);
    assert_balances(&report.tally);
    assert_eq!((report.tally.unknown, report.tally.flushed_ok), (2, 1));
    assert_eq!(faults.log().outcomes(), [Outcome::Panicked, Outcome::Panicked, Outcome::Ok]);
    assert_eq!(store.items(), [1, 2]);
}

#[test]
fn a_hang_lasts_until_the_test_opens_the_gate() {
    let faults = Faults::script([Fault::Hang]);
    let store = Recorder::new();
    let sinks = Mutex::new(Some(faults.wrap(store.clone())));
    let open = move |_| sinks.lock().unwrap().take().ok_or("opened once");
    let batcher = no_second_try(Batcher::builder()).max_batch_size(1).spawn(open).unwrap();
    batcher.producer().add(1_u64).unwrap();
    let gate = faults.gate();
    assert!(gate.wait_for(1, LONG), "the call hangs at the gate");
    assert_eq!((faults.log().outcomes(), store.len()), (vec![Outcome::Running], 0));
    gate.admit_one();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!((faults.log().outcomes(), store.items()), (vec![Outcome::Ok], vec![1]));
    assert!(!gate.pass_within(Duration::ZERO), "one was let through, and only one");
}

/// Random plans of every kind, over random items.
fn random_plan(rng: &mut Rng, seed: u64) -> Faults<u64> {
    let class = rng.pick(&[Class::Transient, Class::Permanent, Class::Disconnected]);
    let applied = rng.pick(&[Applied::Nothing, Applied::Unknown]);
    let faults = [
        Fault::Transient,
        Fault::Unknown(class),
        Fault::EachItem { one_in: 1 + rng.below(4), class, applied },
        Fault::ConnectionLost,
        Fault::Throttled(Duration::from_secs(1)),
    ];
    let poison = rng.below(64);
    let plan = Faults::seeded(seed).reconnect_after(rng.below(3)).max_items(1 + rng.index(8));
    let plan = plan.poison(move |item| *item == poison).poison_items(|item| item % 17 == 0);
    faults.into_iter().fold(plan, |plan, fault| plan.one_in(1 + rng.below(6), fault))
}

/// What is in the store, and what the log shows.
fn play(faults: &Faults<u64>, batch: usize) -> (Vec<u64>, Vec<String>) {
    let (mut pump, store, _) = pump_of(faults, batch);
    add(&mut pump, 0..64);
    let report = pump.shutdown();
    assert_balances(&report.tally);
    let written = store.items();
    let (ok, unknown) = (report.tally.flushed_ok, report.tally.unknown);
    let refused =
        |item: &u64| report.failed.iter().any(|f| f.item == *item && !is_unknown(&f.error));
    assert!(written.iter().all(|item| !refused(item)), "nothing applied, but in the store");
    let count = written.len() as u64;
    assert!((ok..=ok + unknown).contains(&count), "{ok} <= {count} <= {ok} + {unknown}");
    assert!(written.is_sorted());
    let calls = faults.log().calls();
    let handed_on: usize = calls.iter().map(|call| call.handed_on).sum();
    assert_eq!(handed_on, written.len());
    let line = |call: sluicegate::testing::Call| {
        format!("{} {:?} {:?} {:?}", call.batch, call.fault, call.marked, call.outcome)
    };
    (written, calls.into_iter().map(line).collect())
}

fn is_unknown(error: &Arc<WriteError>) -> bool {
    error.what_applied() == Applied::Unknown
}

#[test]
fn the_same_seed_and_the_same_calls_give_the_same_faults() {
    let mut rng = Rng::seeded();
    let mut differ = 0;
    for _ in 0..200 {
        let (seed, batch) = (rng.next(), 1 + rng.index(8));
        let mut again = rng.clone();
        let first = play(&random_plan(&mut rng, seed), batch);
        assert_eq!(first, play(&random_plan(&mut again.clone(), seed), batch));
        differ += usize::from(first != play(&random_plan(&mut again, seed ^ 1), batch));
    }
    assert!(differ > 100, "another seed gives other faults: {differ} of 200");
}
