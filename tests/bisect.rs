//! Promise: of a batch that the sink refuses for good, only the bad items fail. Each costs at most
//! two writes for every halving of the batch, and the order is kept.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use common::Rng;
use rig::{MS, Rig, SECOND, failed};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{
    Applied, Batch, Batcher, Builder, Class, Dead, Retry, Stats, WriteContext, WriteError, sink,
};

/// One batch of so many items, at most.
fn builder(size: usize) -> Builder<u64> {
    Batcher::builder().queue_depth(16_384).max_batch_size(size).seed(1)
}

/// How often `n` is halved until nothing is left to halve.
fn halvings(n: usize) -> u32 {
    n.next_power_of_two().ilog2()
}

/// What is known of a dead letter.
#[derive(Clone, Debug, PartialEq)]
struct Letter {
    item: u64,
    class: Class,
    applied: Applied,
    text: String,
    attempts: usize,
    part: u32,
}

/// An engine with a dead-letter sink, and the letters that come there.
fn with_letters(builder: Builder<u64>) -> (Builder<u64>, Arc<Mutex<Vec<Letter>>>) {
    let letters = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&letters);
    let write = move |batch: &Batch<Dead<u64>>, _: &mut WriteContext<'_>| {
        keep.lock().unwrap().extend(batch.iter().map(|letter| Letter {
            item: letter.item,
            class: letter.class(),
            applied: letter.applied(),
            text: letter.error.to_string(),
            attempts: usize::try_from(letter.attempts).unwrap(),
            part: letter.batch.part(),
        }));
        Ok::<_, WriteError>(())
    };
    (builder.dead_letters(sink::from_fn(write)), letters)
}

#[test]
fn one_bad_row_costs_two_writes_for_each_halving_and_is_the_one_dead_letter() {
    let mut rng = Rng::seeded();
    for n in [512, 10_000] {
        let end = n - 1;
        for bad in [0, end, end / 2, end / 2 + 1, rng.below(end), rng.below(end)] {
            one_bad_row(n, bad);
        }
    }
}

fn one_bad_row(n: u64, bad: u64) {
    let faults = Faults::seeded(0).poison(move |item| *item == bad);
    let (builder, letters) = with_letters(builder(usize::try_from(n).unwrap()));
    let mut rig = Rig::new(builder, &faults);
    rig.add(0..n);
    let stats = rig.stats();
    let extra = stats.writes - 1;
    assert!(extra as f64 <= 2.0 * (n as f64).log2() + 2.0, "{extra} more, {bad} of {n}");
    assert_eq!((stats.splits, stats.writes), (extra, rig.calls() as u64));
    assert_eq!((stats.batches, stats.retries), (1, 0));
    let good: Vec<u64> = (0..n).filter(|item| *item != bad).collect();
    assert_eq!(rig.store.items(), good, "in order");
    let asked = rig.asked();
    let with_it: Vec<_> = asked.iter().filter(|call| call.items.contains(&bad)).collect();
    let last = with_it.last().unwrap();
    assert_eq!(last.items, [bad], "alone at last");
    assert!(last.id.part() > 0);
    let report = rig.pump.shutdown();
    let letter = Letter {
        item: bad,
        class: Class::Permanent,
        applied: Applied::Nothing,
        text: "injected fault: a poison item in the batch".into(),
        attempts: with_it.len(),
        part: last.id.part(),
    };
    assert_eq!(*letters.lock().unwrap(), [letter], "exactly one");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let Stats { tally, dead_lettered, dead_letter_failures, .. } = report.stats;
    assert_eq!((dead_lettered, dead_letter_failures), (1, 0));
    assert_eq!((tally.flushed_ok, tally.flushed_fail, tally.unknown), (n - 1, 1, 0));
}

#[test]
fn many_bad_rows_cost_that_each_at_most() {
    let mut rng = Rng::seeded();
    for _ in 0..100 {
        let n = 1 + rng.index(1_000);
        let wanted = rng.index(n.min(40) + 1);
        let bad: HashSet<u64> = (0..wanted).map(|_| rng.below(n as u64)).collect();
        let inside = bad.clone();
        let faults = Faults::seeded(0).poison(move |item| inside.contains(item));
        let mut rig = Rig::new(builder(n), &faults);
        rig.add(0..n as u64);
        let extra = usize::try_from(rig.stats().writes).unwrap() - 1;
        let most = 2 * bad.len() * halvings(n) as usize;
        assert!(extra <= most.min(2 * n - 2), "{extra} more, {} bad of {n}", bad.len());
        let (lost, good): (Vec<u64>, Vec<u64>) = (0..n as u64).partition(|i| bad.contains(i));
        assert_eq!(rig.store.items(), good, "in order");
        assert_eq!(failed(&rig.pump.shutdown()), lost);
    }
}

#[test]
fn parts_have_names_of_their_own_and_come_at_once() {
    let faults = Faults::seeded(0).poison(|item| *item == 2);
    let mut rig = Rig::new(builder(8), &faults);
    rig.add(0..16);
    let asked = rig.asked();
    let names: HashSet<_> = asked.iter().map(|call| call.id).collect();
    assert_eq!(names.len(), asked.len());
    let parts: Vec<&[u64]> = asked.iter().map(|call| &call.items[..]).collect();
    assert_eq!(parts[1], [0, 1, 2, 3]);
    let first: Vec<u64> =
        asked.iter().filter(|call| call.ok).flat_map(|c| c.items.clone()).collect();
    assert_eq!(first, [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert!(asked.iter().all(|call| call.at.is_zero()), "no wait, and no budget");
}

#[test]
fn an_ack_counts_all_writes_of_its_item() {
    let faults = Faults::seeded(0).poison(|item| *item == 0);
    let builder = builder(4).with_acks();
    let mut rig = Rig::new(builder, &faults);
    let acks: Vec<_> = (0..4).map(|item| rig.pump.producer().add_with_ack(item).unwrap()).collect();
    rig.pump.run();
    let told: Vec<_> = acks.into_iter().map(|ack| ack.wait()).collect();
    let attempts: Vec<u32> = told.iter().flatten().map(|receipt| receipt.attempts).collect();
    assert_eq!(attempts, [3, 2, 2], "[0 1 2 3] [0 1] [0] [1] [2 3]");
    let error = told[0].as_ref().unwrap_err();
    assert_eq!((error.item, error.batch.map(|id| id.get())), (Some(0), Some(1)));
}

#[test]
fn what_may_have_taken_effect_is_not_split() {
    for class in [Class::Permanent, Class::TooLarge] {
        let faults = Faults::script([Fault::Unknown(class)]);
        let mut rig = Rig::new(builder(8), &faults);
        rig.add(0..8);
        rig.pump.advance(60 * SECOND);
        assert_eq!((rig.calls(), rig.stats().tally.unknown), (1, 8));
    }
}

#[test]
fn without_bisection_the_batch_fails_as_one() {
    for fault in [Fault::Permanent, Fault::TooLarge] {
        let mut rig = Rig::new(builder(8).bisect(false), &Faults::script([fault]));
        rig.add(0..8);
        let stats = rig.stats();
        assert_eq!((stats.writes, stats.splits, stats.tally.flushed_fail), (1, 0, 8));
    }
}

#[test]
fn items_that_the_sink_marks_need_no_bisection() {
    let mut rig = Rig::new(builder(8), &Faults::seeded(0).poison_items(|item| item % 4 == 3));
    rig.add(0..8);
    assert_eq!((rig.calls(), rig.store.items()), (1, vec![0, 1, 2, 4, 5, 6]));
    assert_eq!(failed(&rig.pump.shutdown()), [3, 7]);
}

#[test]
fn a_fault_that_goes_away_does_not_disturb_the_search() {
    let mut rng = Rng::seeded();
    for _ in 0..50 {
        let faults = Faults::seeded(rng.next())
            .one_in(3, Fault::Transient)
            .one_in(5, Fault::Throttled(20 * MS))
            .poison(|item| item % 37 == 5);
        let retry = Retry::default().max_attempts(None).give_up_after(None);
        let mut rig = Rig::new(builder(128).breaker(None).retry(retry), &faults);
        rig.add(0..256);
        rig.pump.advance(1_000 * SECOND);
        let mut good = rig.store.items();
        good.sort_unstable();
        assert_eq!(good, (0..256).filter(|item| item % 37 != 5).collect::<Vec<_>>());
        let mut bad = failed(&rig.pump.shutdown());
        bad.sort_unstable();
        assert_eq!(bad, [5, 42, 79, 116, 153, 190, 227]);
    }
}

#[test]
fn too_many_items_are_split_and_later_batches_are_no_larger() {
    let mut rig = Rig::new(builder(512), &Faults::seeded(0).max_items(100));
    rig.add(0..512);
    assert_eq!(rig.store.items(), (0..512).collect::<Vec<_>>(), "all are in, in order");
    assert_eq!(rig.sizes()[..4], [512, 256, 128, 64]);
    let first = rig.calls();
    rig.add(512..2_048);
    assert!(rig.sizes()[first..].iter().all(|size| *size == 64), "{:?}", &rig.sizes()[first..]);
    assert_eq!(rig.store.items(), (0..2_048).collect::<Vec<_>>());
    assert_eq!(rig.stats().tally.flushed_fail, 0);
}

#[test]
fn too_many_bytes_are_split_in_the_middle_of_the_bytes() {
    // Items 0..4 have 100 bytes, the others 1.
    let weight = |item: &u64| if *item < 4 { 100 } else { 1 };
    let builder = builder(100).weight(weight);
    let mut rig = Rig::new(builder, &Faults::seeded(0).max_bytes(300));
    rig.add(0..100);
    let bytes: Vec<u64> = rig.asked().iter().map(|call| call.bytes).collect();
    assert_eq!(bytes, [496, 200, 296], "one split is enough");
    assert_eq!(rig.store.items(), (0..100).collect::<Vec<_>>());
    rig.add(100..1_100);
    assert!(rig.asked()[3..].iter().all(|call| call.bytes <= 248), "half of what was too large");
    assert_eq!(rig.store.len(), 1_100);
}

#[test]
fn one_item_that_is_too_large_fails_alone() {
    let builder = builder(64).weight(|item| if *item == 20 { 1_000 } else { 10 });
    let mut rig = Rig::new(builder, &Faults::seeded(0).max_bytes(500));
    rig.add(0..64);
    rig.pump.advance(SECOND);
    assert_eq!(rig.store.items(), (0..64).filter(|item| *item != 20).collect::<Vec<_>>());
    let report = rig.pump.shutdown();
    assert_eq!(failed(&report), [20]);
    assert_eq!(report.failed[0].error.class(), Class::TooLarge);
    assert_eq!(report.failed[0].error.what_applied(), Applied::Nothing);
}

#[test]
fn one_too_large_item_teaches_nothing() {
    let mut rig = Rig::new(builder(64), &Faults::script([Fault::Ok, Fault::TooLarge]));
    rig.add(0..64);
    rig.add(64..65);
    rig.pump.flush();
    assert_eq!(rig.sizes(), [64, 1]);
    rig.add(65..193);
    assert_eq!(rig.sizes()[2..], [64, 64]);
}
