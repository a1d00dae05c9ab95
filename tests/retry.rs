//! Promise: what may go away is tried again, the same items under the same name, within every bound
//! on attempts, age, budget and memory; and what waits for it holds nobody up.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::{LONG, Rng};
use rig::{MS, Rig, SECOND, always, failed, ms, retrying, some_of};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{
    Applied, Batch, BatchId, Batcher, Breaker, Class, Retry, Sink, SpawnError, TestClock,
    WriteContext, WriteError,
};

#[test]
fn by_default_the_same_items_are_tried_again_under_the_same_name() {
    for fault in [Fault::Transient, Fault::Disconnected, Fault::Throttled(MS)] {
        let faults = Faults::script([fault.clone(), fault]);
        let mut rig = Rig::new(Batcher::builder().max_batch_size(3), &faults);
        rig.add(0..3);
        assert_eq!((rig.calls(), rig.stats().retry_items), (1, 3));
        rig.pump.advance(SECOND);
        let asked = rig.asked();
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|call| call.id == BatchId::new(1) && call.items == [0, 1, 2]));
        assert_eq!(rig.store.items(), [0, 1, 2]);
        let stats = rig.stats();
        assert_eq!((stats.batches, stats.writes, stats.retries), (1, 3, 2));
        assert_eq!((stats.retry_batches, stats.retry_items), (0, 0));
        assert!(rig.pump.shutdown().is_clean());
    }
}

/// The waits of one item that always fails.
fn waits(seed: u64, tries: u32) -> Vec<Duration> {
    let retry = Retry::default().max_delay(SECOND).max_attempts(tries);
    let mut rig = Rig::new(retrying(1, retry).seed(seed), &always(Fault::Transient));
    rig.add(0..1);
    rig.pump.advance(60 * SECOND);
    let times = rig.times();
    assert_eq!(times.len(), tries as usize);
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn waits_are_drawn_evenly_up_to_a_limit_that_doubles() {
    let mut rng = Rng::seeded();
    let runs: Vec<Vec<Duration>> = (0..300).map(|_| waits(rng.next(), 7)).collect();
    for (retry, limit) in [100, 200, 400, 800, 1_000, 1_000].into_iter().enumerate() {
        let limit = limit * MS;
        let waits: Vec<Duration> = runs.iter().map(|run| run[retry]).collect();
        let part = |wait: &Duration| wait.as_secs_f64() / limit.as_secs_f64();
        assert!(waits.iter().all(|wait| *wait <= limit), "retry {retry}: {waits:?}");
        // A mean of 300 even draws is off by 0.1 once in 10⁹ times.
        let mean = waits.iter().map(part).sum::<f64>() / waits.len() as f64;
        assert!((0.4..0.6).contains(&mean), "retry {retry}: {mean} of the limit");
        for tenth in 0..10 {
            let here = |wait: &&Duration| (part(wait) * 10.0).min(9.9).floor() == f64::from(tenth);
            assert!(waits.iter().any(|wait| here(&wait)), "retry {retry}: none in tenth {tenth}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_waits() {
    assert_eq!(waits(7, 9), waits(7, 9));
    assert_ne!(waits(7, 9), waits(8, 9));
}

#[test]
fn the_first_write_counts_as_an_attempt() {
    for max in 1..=4 {
        let retry = Retry::default().max_attempts(max);
        let mut rig = Rig::new(retrying(2, retry), &always(Fault::Transient));
        rig.add(0..2);
        rig.pump.advance(60 * SECOND);
        assert_eq!(rig.calls(), max as usize);
        assert_eq!(rig.stats().tally.flushed_fail, 2);
        let report = rig.pump.shutdown();
        assert_eq!(failed(&report), [0, 1]);
        assert!(report.failed.iter().all(|failed| failed.error.class() == Class::Transient));
        assert!(report.failed.iter().all(|failed| failed.batch == BatchId::new(1)));
    }
}

#[test]
fn after_give_up_after_an_item_fails_and_is_not_written() {
    let mut rng = Rng::seeded();
    for breaker in [false, true] {
        let retry = Retry::default().max_delay(SECOND).max_attempts(None).give_up_after(5 * SECOND);
        let builder = retrying(1, retry).seed(rng.next());
        let builder = if breaker { builder.breaker(Breaker::default()) } else { builder };
        let mut rig = Rig::new(builder, &always(Fault::Disconnected));
        let mut since = HashMap::new();
        for item in 0..40 {
            rig.add(item..item + 1);
            rig.asked().iter().for_each(|call| _ = since.entry(call.items[0]).or_insert(call.at));
            rig.pump.advance(ms(rng.below(300)));
        }
        rig.pump.advance(120 * SECOND);
        for call in rig.asked() {
            let first = *since.entry(call.items[0]).or_insert(call.at);
            assert!(call.at < first + 5 * SECOND, "{call:?}, first {first:?}");
        }
        let hopeless = |first: &&Duration| **first + 5 * SECOND <= rig.now();
        let hopeless = since.values().filter(hopeless).count() as u64;
        assert!(rig.stats().tally.flushed_fail >= hopeless);
        assert!(breaker || hopeless == 40, "{hopeless} of 40 were written");
    }
}

#[test]
fn who_waits_longer_than_it_may_has_failed_to_the_moment() {
    let retry = Retry::default().give_up_after(2 * SECOND);
    let faults = Faults::script([Fault::Transient, Fault::Throttled(10 * SECOND)]);
    let mut rig = Rig::new(retrying(1, retry), &faults);
    rig.add(0..2); // the first waits for its retry, and then for the sink
    assert_eq!(rig.stats().tally.flushed_fail, 1, "the second would come back too late");
    rig.pump.advance(2 * SECOND - MS);
    assert_eq!(rig.stats().tally.in_flight, 1);
    rig.pump.advance(MS);
    assert_eq!((rig.stats().tally.flushed_fail, rig.calls()), (2, 2));
    let report = rig.pump.shutdown();
    assert_eq!(failed(&report), [1, 0]);
    assert_eq!(report.failed[1].error.class(), Class::Transient, "the last error it met");
}

#[test]
fn retries_keep_to_their_budget_and_use_it() {
    let (share, floor) = (0.2, 10.0);
    let retry = Retry::default().max_attempts(None).max_items(1_000_000);
    let retry = retry.give_up_after(None).max_delay(100 * MS).budget(share).budget_floor(floor);
    let builder = Batcher::builder().max_batch_size(1).breaker(None).seed(3).retry(retry);
    let mut rig = Rig::new(builder, &always(Fault::Transient));
    let mut at = Vec::new(); // fresh writes and retries, each second
    for second in 0..40 {
        let per_second = if second < 20 { 100 } else { 1 };
        for item in 0..per_second {
            let item = second * 1_000 + item;
            rig.add(item..item + 1);
            rig.pump.advance(SECOND / u32::try_from(per_second).unwrap());
        }
        at.push((rig.stats().batches as f64, rig.stats().retries as f64));
    }
    for from in 0..at.len() {
        for to in from + 1..at.len() {
            let (fresh, seconds) = (at[to].0 - at[from].0, (to - from) as f64);
            let retries = at[to].1 - at[from].1;
            let allowed = share * fresh + floor * seconds;
            // What was saved up comes on top: a second of the floor.
            assert!(retries <= allowed + floor + 1.0, "{from}..{to}: {retries}, {allowed}");
            assert!(retries >= allowed * 0.9 - 2.0, "{from}..{to}: {retries}, {allowed}");
        }
    }
}

#[test]
fn what_has_no_room_to_wait_fails_at_once_with_its_error() {
    let retry = Retry::default().initial_delay(LONG).max_delay(LONG).max_items(4);
    let mut rig = Rig::new(retrying(2, retry), &always(Fault::Disconnected));
    rig.add(0..4);
    assert_eq!((rig.stats().retry_items, rig.stats().tally.flushed_fail), (4, 0));
    rig.add(4..6);
    let stats = rig.stats();
    assert_eq!((stats.retry_batches, stats.retry_items, stats.retry_overflows), (2, 4, 1));
    assert_eq!(stats.tally.flushed_fail, 2);
    let report = rig.pump.shutdown();
    assert_eq!(failed(&report), [4, 5]);
    assert!(report.failed.iter().all(|failed| failed.batch == BatchId::new(3)));
    assert!(report.failed.iter().all(|failed| failed.error.class() == Class::Disconnected));
    assert_eq!(report.unflushed, [0, 1, 2, 3]);
}

#[test]
fn bytes_that_wait_are_bounded_too() {
    let retry = Retry::default().initial_delay(LONG).max_delay(LONG).max_bytes(10);
    let builder = retrying(1, retry).weight(|item| usize::try_from(*item).unwrap());
    let mut rig = Rig::new(builder, &always(Fault::Transient));
    for (item, waiting, overflows) in [(7, 7, 0), (4, 7, 1), (3, 10, 1), (1, 10, 2)] {
        rig.add(item..item + 1);
        let stats = rig.stats();
        assert_eq!(stats.retry_overflows, overflows, "{item} bytes more");
        assert_eq!(stats.retry_batches, if waiting == 7 { 1 } else { 2 });
    }
    assert_eq!(failed(&rig.pump.shutdown()), [4, 1]);
}

#[test]
fn a_sink_that_asks_to_be_left_alone_is_left_alone() {
    let faults = Faults::script([Fault::Throttled(3 * SECOND)]);
    let mut rig = Rig::new(retrying(2, Retry::default().initial_delay(MS)), &faults);
    rig.add(0..2);
    rig.add(2..8);
    rig.pump.advance(3 * SECOND - MS);
    assert_eq!(rig.times(), [Duration::ZERO], "neither the retry nor what is fresh");
    rig.pump.advance(MS);
    assert_eq!(rig.times()[1..], [3 * SECOND; 4]);
    assert_eq!(rig.store.len(), 8);
}

#[test]
fn an_item_asks_for_itself_alone() {
    /// Marks the first item it ever sees.
    struct Once(bool);
    impl Sink<u64> for Once {
        fn write(&mut self, _: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
            if !std::mem::replace(&mut self.0, true) {
                cx.fail(0, WriteError::throttled("this one", Some(3 * SECOND)));
            }
            Ok(())
        }
    }
    let clock = TestClock::new();
    let mut pump = retrying(2, Retry::default()).pump(Once(false), clock).unwrap();
    pump.producer().add_many(&mut (0..8).collect()).unwrap();
    assert_eq!(pump.run(), 4);
    assert_eq!(pump.advance(3 * SECOND - MS), 0);
    assert_eq!(pump.advance(MS), 1);
}

#[test]
fn what_may_have_taken_effect_is_not_tried_again_unless_asked() {
    for class in [Class::Transient, Class::Disconnected, Class::Throttled] {
        for asked in [false, true] {
            let faults = Faults::script([Fault::Unknown(class)]);
            let mut rig = Rig::new(retrying(2, Retry::default().unknown(asked)), &faults);
            rig.add(0..2);
            rig.pump.advance(60 * SECOND);
            let tally = rig.stats().tally;
            assert_eq!((tally.unknown, tally.flushed_ok), if asked { (0, 2) } else { (2, 0) });
            assert_eq!(rig.calls(), 1 + usize::from(asked));
            assert!(rig.asked().iter().all(|call| call.id == BatchId::new(1)));
        }
    }
}

#[test]
fn what_may_have_taken_effect_once_stays_unknown_whatever_comes_after() {
    for retry in [Retry::default().max_attempts(2), Retry::default().give_up_after(SECOND)] {
        let script = [Fault::Unknown(Class::Transient), Fault::Transient];
        let faults = Faults::script(script).one_in(1, Fault::Transient);
        let mut rig = Rig::new(retrying(1, retry.unknown(true)), &faults);
        rig.add(0..1);
        rig.pump.advance(60 * SECOND);
        let tally = rig.stats().tally;
        assert_eq!((tally.unknown, tally.flushed_fail), (1, 0));
        let report = rig.pump.shutdown();
        assert_eq!(report.failed[0].error.what_applied(), Applied::Unknown);
        assert_eq!(report.failed[0].error.class(), Class::Transient);
    }
}

#[test]
fn for_good_is_for_good() {
    for fault in [Fault::Permanent, Fault::TooLarge] {
        let mut rig = Rig::new(retrying(1, Retry::default()), &always(fault));
        rig.add(0..1);
        rig.pump.advance(60 * SECOND);
        assert_eq!((rig.calls(), rig.stats().tally.flushed_fail), (1, 1));
    }
}

#[test]
fn only_what_failed_goes_on_and_the_rest_is_acked_at_once() {
    let class = Class::Transient;
    let script = [some_of(&[1, 3, 5], class), some_of(&[2], class)];
    let builder = retrying(6, Retry::default()).with_acks();
    let mut rig = Rig::new(builder, &Faults::script(script));
    let producer = rig.pump.producer();
    let mut acks: Vec<_> = (0..6).map(|item| producer.add_with_ack(item).unwrap()).collect();
    let mut receipts = vec![None; 6];
    let mut steps = Vec::new();
    rig.pump.run();
    for _ in 0..3 {
        for (receipt, ack) in receipts.iter_mut().zip(&mut acks).filter(|(r, _)| r.is_none()) {
            *receipt = ack.try_wait().map(Result::unwrap);
        }
        steps.push(receipts.iter().map(Option::is_some).collect::<Vec<_>>());
        let due = rig.pump.next_due().unwrap_or(rig.clock.now());
        rig.pump.advance(due - rig.clock.now());
    }
    assert_eq!(steps[0], [true, false, true, false, true, false]);
    assert_eq!(steps[1], [true, true, true, true, true, false]);
    assert_eq!(steps[2], [true; 6]);
    let whole = BatchId::new(1);
    let told: Vec<_> = receipts.iter().flatten().map(|r| (r.batch, r.attempts)).collect();
    let (first, second) = ((whole.with_part(1), 2), (whole.with_part(2), 3));
    assert_eq!(told, [(whole, 1), first, (whole, 1), first, (whole, 1), second]);
    let asked = rig.asked();
    assert_eq!((asked[1].items.clone(), asked[1].id), (vec![1, 3, 5], first.0));
    assert_eq!((asked[2].items.clone(), asked[2].id), (vec![5], second.0));
}

#[test]
fn marked_items_have_their_own_fates() {
    let script = [some_of(&[0], Class::Permanent), some_of(&[1], Class::Transient)];
    let mut rig = Rig::new(retrying(3, Retry::default()), &Faults::script(script));
    rig.add(0..6);
    assert_eq!(rig.store.items(), [1, 2, 3, 5]);
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), [1, 2, 3, 5, 4]);
    assert_eq!(failed(&rig.pump.shutdown()), [0]);
}

#[test]
fn one_name_is_one_set_of_items_and_no_batch_is_merged_with_another() {
    let mut rng = Rng::seeded();
    for _ in 0..30 {
        let each = |class| Fault::EachItem { one_in: 5, class, applied: Applied::Nothing };
        let faults = Faults::seeded(rng.next())
            .one_in(4, Fault::Transient)
            .one_in(3, each(Class::Transient))
            .poison(|item| item % 50 == 7);
        let retry = Retry::default().max_attempts(None).give_up_after(None);
        let mut rig = Rig::new(retrying(8, retry), &faults);
        for item in 0..300 {
            rig.add(item..item + 1);
            rig.pump.advance(ms(rng.below(30)));
        }
        rig.pump.advance(600 * SECOND);
        let mut contents: HashMap<BatchId, Vec<u64>> = HashMap::new();
        for call in rig.asked() {
            assert_eq!(*contents.entry(call.id).or_insert(call.items.clone()), call.items);
            let whole: HashSet<_> = contents[&BatchId::new(call.id.get())].iter().collect();
            assert!(call.items.iter().all(|item| whole.contains(item)), "{call:?}");
        }
        let wholes = contents.iter().filter(|(id, _)| id.part() == 0);
        let mut all: Vec<u64> = wholes.flat_map(|(_, items)| items.clone()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>(), "each item in one batch");
        let mut written = rig.store.take();
        written.sort_unstable();
        assert_eq!(written, (0..300).filter(|item| item % 50 != 7).collect::<Vec<_>>());
        assert_eq!(rig.stats().tally.flushed_fail, 6);
    }
}

#[test]
fn without_retries_what_failed_has_failed() {
    let builder = Batcher::builder().max_batch_size(1).retry(None);
    let mut rig = Rig::new(builder, &Faults::script([Fault::Transient]));
    rig.add(0..2);
    rig.pump.advance(LONG);
    assert_eq!((rig.calls(), rig.store.items()), (2, vec![1]));
    assert_eq!(rig.stats().tally.flushed_fail, 1);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let retry = Retry::default();
    for (bad, key) in [
        (retry.initial_delay(Duration::ZERO), "retry.initial_delay"),
        (retry.max_delay(MS), "retry.max_delay"),
        (retry.max_attempts(0), "retry.max_attempts"),
        (retry.budget(-1.0), "retry.budget"),
        (retry.budget_floor(f64::NAN), "retry.budget_floor"),
        (retry.max_items(0), "retry.max_items"),
    ] {
        let refused = Batcher::<u64>::builder().retry(bad).spawn(common::null_sinks());
        let Err(SpawnError::Config(error)) = refused else { panic!("{key}") };
        assert_eq!(error.key(), key);
    }
}
