//! Promise: an owned producer keeps every promise that a shared one does, with a ring of its own.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "tokio")]
mod async_rig;
mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, Weak, mpsc};
use std::task::Wake;
use std::thread;
use std::time::Duration;

use common::{
    Gate, Going, LONG, Log, POLICIES, Rng, assert_balances, null_sinks, poll_once, poll_with,
    sink_of, until,
};
use sluicegate::placement::Shards;
use sluicegate::{
    AckReason, AddError, AddReason, Batch, Batcher, Builder, ConfigError, DropReason, DroppedItem,
    FlushError, FlushReason, FlushWhen, OwnedError, OwnedProducer, PumpStep, SpawnError, Stuck,
    TestClock, WhenFull, WriteContext, WriteError, sink,
};

/// Numbers of one producer's items start here times its index.
const OWN: u64 = 1 << 40;

/// Rings of so many slots, and nothing closes a batch but its size and a flush.
fn owned(depth: usize) -> Builder<u64> {
    Batcher::builder().owned_depth(depth).max_batch_delay(None)
}

/// Of each producer.
#[track_caller]
fn assert_in_order(numbers: &[u64]) {
    let mut last = HashMap::new();
    for number in numbers {
        let before = last.insert(number / OWN, *number);
        assert!(before.is_none_or(|before| before < *number), "{before:?}, {number}");
    }
}

/// An engine whose sink holds 0, which was added by the producer: nobody takes anything out.
#[track_caller]
fn held(builder: Builder<u64>) -> (Batcher<u64>, OwnedProducer<u64>, Gate, Log<u64>) {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = builder.max_batch_size(1).spawn(log.gated(&gate)).unwrap();
    let mut producer = batcher.owned_producer().unwrap();
    producer.add(0).unwrap();
    gate.wait_for(1);
    (batcher, producer, gate, log)
}

#[track_caller]
fn refused(builder: Builder<u64>) -> ConfigError {
    match builder.spawn(null_sinks()) {
        Err(SpawnError::Config(error)) => error,
        other => panic!("{:?}", other.map(drop)),
    }
}

// What there is to be had.

#[test]
fn a_depth_that_cannot_be_is_refused_by_name() {
    for depth in [0, 1, 3, 100, 16] {
        let error = refused(Batcher::builder().queue_depth(8).owned_depth(depth));
        assert_eq!(error.key(), "owned_depth", "{depth}: {error}");
    }
    for depth in [2, 4, 8] {
        let builder = owned(depth).queue_depth(8).max_batch_size(8);
        let batcher = builder.spawn(null_sinks()).unwrap();
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn who_has_not_asked_gets_none() {
    let batcher = Batcher::<u64>::builder().spawn(null_sinks()).unwrap();
    assert_eq!(batcher.owned_producer().unwrap_err(), OwnedError::NotAsked);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn there_are_as_many_as_the_slots_allow_and_those_let_go_are_free_again() {
    let batcher = owned(4).queue_depth(8).max_batch_size(8).spawn(null_sinks()).unwrap();
    let (first, second) = (batcher.owned_producer().unwrap(), batcher.owned_producer().unwrap());
    let none = OwnedError::NoSlots { depth: 4, left: 0 };
    assert_eq!(batcher.owned_producer().unwrap_err(), none);
    assert_eq!(batcher.stats().queue_capacity, 16);
    drop(second);
    assert_eq!(batcher.stats().queue_capacity, 12);
    let third = batcher.owned_producer().unwrap();
    assert_eq!(batcher.owned_producer().unwrap_err(), none);
    drop((first, third));
    assert_eq!(batcher.stats().queue_capacity, 8);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn a_key_and_several_shards_go_without() {
    let keyed = |shards| {
        let builder = owned(4).key(|item: &u64| *item).shards(Shards::Total(shards));
        builder.spawn(null_sinks()).unwrap()
    };
    assert_eq!(keyed(2).owned_producer().unwrap_err(), OwnedError::Keyed);
    assert!(keyed(1).owned_producer().is_ok());
}

#[test]
fn slots_are_free_as_soon_as_the_items_of_who_is_gone_are_out() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = owned(4).queue_depth(4).max_batch_size(4).spawn(log.gated(&gate)).unwrap();
    let mut gone = batcher.owned_producer().unwrap();
    gone.add(1).unwrap();
    drop(gone);
    (2..5).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1); // all four are with the sink, and the flusher looks at nothing else
    assert_eq!(batcher.stats().queue_depth, 0);
    assert!(batcher.owned_producer().is_ok(), "its slots are free");
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn producers_come_and_go_ten_thousand_times_within_the_bound() {
    const TIMES: u64 = 10_000;
    let log = Log::new();
    let batcher = owned(2).queue_depth(4).max_batch_size(4).spawn(log.factory()).unwrap();
    for item in 0..TIMES {
        let mut producer = batcher.owned_producer().unwrap();
        producer.add(item).unwrap();
        drop(producer);
        if item % 2 == 1 {
            batcher.flush(LONG).unwrap();
        }
    }
    assert_eq!(batcher.stats().queue_capacity, 4, "nothing of them is left");
    assert!(batcher.shutdown(LONG).is_clean());
    let mut items = log.items();
    items.sort_unstable(); // two producers a round
    assert!(items.into_iter().eq(0..TIMES));
}

#[test]
fn what_who_is_gone_has_left_is_written_in_order() {
    let log = Log::new();
    let batcher = owned(8).max_batch_size(64).spawn(log.factory()).unwrap();
    for id in 0..4 {
        let mut producer = batcher.owned_producer().unwrap();
        (0..5).for_each(|item| producer.add(id * OWN + item).unwrap());
    }
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 20);
    assert_in_order(&log.items());
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn ten_thousand_idle_ones_keep_nobody_from_writing() {
    const ITEMS: u64 = 50_000;
    let log = Log::new();
    let batcher = owned(2).queue_depth(1 << 15).max_batch_size(64).spawn(log.factory()).unwrap();
    let mut idle: Vec<_> = (0..10_000).map(|_| batcher.owned_producer().unwrap()).collect();
    // Each was active once.
    (1_u64..).zip(&mut idle).for_each(|(id, producer)| producer.add(id * OWN).unwrap());
    batcher.flush(LONG).unwrap();
    let mut busy = batcher.owned_producer().unwrap();
    (0..ITEMS).for_each(|item| busy.add(item).unwrap());
    batcher.flush(LONG).unwrap();
    let busy_items: Vec<_> = log.items().into_iter().filter(|item| *item < OWN).collect();
    assert!(busy_items.into_iter().eq(0..ITEMS));
    // One that was idle is heard at once.
    idle[5_000].add(7 * OWN + 1).unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 10_000 + ITEMS + 1);
    drop(idle);
    assert!(batcher.shutdown(LONG).is_clean());
}

// Order, batches, flushes.

#[test]
fn one_batch_has_items_of_many_rings_and_one_delay_is_enough_for_all() {
    let log = Log::new();
    let record = log.clone();
    let write = move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        record.record(batch, cx);
        Ok(())
    };
    let builder = Batcher::builder().owned_depth(8).max_batch_delay(Duration::from_millis(100));
    let mut pump = builder.pump(sink::from_fn(write), TestClock::new()).unwrap();
    let mut owners: Vec<_> = (0..8).map(|_| pump.owned_producer().unwrap()).collect();
    owners[3].add(3 * OWN).unwrap();
    assert_eq!(pump.advance(Duration::from_millis(60)), 0);
    for round in 1..3 {
        (0..).zip(&mut owners).for_each(|(id, owner)| owner.add(id * OWN + round).unwrap());
        pump.producer().add(9 * OWN + round).unwrap();
    }
    assert_eq!(pump.advance(Duration::from_millis(39)), 0, "not due yet");
    assert_eq!(pump.advance(Duration::from_millis(1)), 1, "to the millisecond");
    assert_eq!((log.sizes(), log.reasons()), (vec![19], vec![FlushReason::Time]));
    assert_in_order(&log.items());
    assert_eq!(log.items()[0], 3 * OWN, "the oldest is first");
    // Each ring anew, also one that the others have left alone for long.
    for owner in &mut owners {
        owner.add(7 * OWN).unwrap();
        assert_eq!(pump.advance(Duration::from_millis(99)), 0);
        assert_eq!(pump.advance(Duration::from_millis(1)), 1);
    }
    assert!(pump.shutdown().is_clean());
}

#[test]
fn order_per_producer_holds_whoever_adds_beside() {
    const EACH: u64 = 20_000;
    for depth in [2, 16, 1_024] {
        let log = Log::new();
        let batcher =
            owned(depth).queue_depth(4_096).max_batch_size(64).spawn(log.factory()).unwrap();
        thread::scope(|scope| {
            for id in 0..3 {
                let mut owner = batcher.owned_producer().unwrap();
                scope.spawn(move || {
                    for item in 0..EACH / 2 {
                        owner.add(id * OWN + item).unwrap();
                    }
                    let mut rest: Vec<_> = (EACH / 2..EACH).map(|n| id * OWN + n).collect();
                    assert_eq!(owner.add_many(&mut rest).unwrap() as u64, EACH / 2);
                    assert!(rest.is_empty());
                });
            }
            let producer = batcher.producer();
            scope.spawn(move || (0..EACH).for_each(|n| producer.add(3 * OWN + n).unwrap()));
        });
        assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 4 * EACH);
        assert_in_order(&log.items());
        assert_eq!(log.items().len() as u64, 4 * EACH);
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn a_flush_covers_what_an_owner_has_added_and_what_it_has_told_of() {
    const ROUNDS: u64 = 2_000;
    let mut rng = Rng::seeded();
    for (flushers, depth) in [(1, 4), (2, 64)] {
        let seen = Arc::new(Mutex::new([0_u64; 2]));
        let counts = Arc::clone(&seen);
        let batcher = owned(depth)
            .queue_depth(1_024)
            .max_batch_size(64)
            .flushers(flushers)
            .spawn(sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                let mut counts = counts.lock().unwrap();
                batch.iter().for_each(|id| counts[usize::try_from(*id).unwrap()] += 1);
                Ok(())
            }))
            .unwrap();
        thread::scope(|scope| {
            let (tell, told) = mpsc::sync_channel(0);
            let (batcher, counts, mut own) = (&batcher, &seen, rng.fork());
            let mut owner = batcher.owned_producer().unwrap();
            scope.spawn(move || {
                let mut added = 0;
                for _ in 0..ROUNDS {
                    for _ in 0..own.below(10) {
                        owner.add(0).unwrap();
                        added += 1;
                    }
                    own.pause();
                    tell.send(added).unwrap(); // the other flushes
                    if own.one_in(4) {
                        batcher.flush(LONG).unwrap();
                        assert_eq!(counts.lock().unwrap()[0], added, "flushed by its owner");
                    }
                }
            });
            for added in told {
                batcher.flush(LONG).unwrap();
                assert!(seen.lock().unwrap()[0] >= added, "flushed by another");
            }
        });
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn several_flushers_lose_and_double_nothing() {
    const EACH: u64 = 20_000;
    let log = Log::new();
    let builder = owned(64).queue_depth(256).max_batch_size(32).flushers(3);
    let batcher = builder.spawn(log.factory()).unwrap();
    thread::scope(|scope| {
        for id in 0..4 {
            let mut owner = batcher.owned_producer().unwrap();
            scope.spawn(move || (0..EACH).for_each(|n| owner.add(id * OWN + n).unwrap()));
        }
    });
    assert!(batcher.shutdown(LONG).is_clean());
    let mut batches = log.batches();
    batches.sort_by_key(|batch| batch.id);
    let items: Vec<_> = batches.into_iter().flat_map(|batch| batch.items).collect();
    assert_eq!(items.len() as u64, 4 * EACH);
    assert_in_order(&items); // batches are formed in order
}

#[test]
fn flushers_of_one_shard_help_another_with_its_owned_rings() {
    const EACH: u64 = 10_000;
    let log = Log::new();
    let builder =
        owned(64).queue_depth(256).max_batch_size(32).shards(Shards::Total(2)).steal(true);
    let batcher = builder.spawn(log.factory()).unwrap();
    thread::scope(|scope| {
        for id in 0..4 {
            let mut owner = batcher.owned_producer().unwrap();
            scope.spawn(move || (0..EACH).for_each(|n| owner.add(id * OWN + n).unwrap()));
        }
    });
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 4 * EACH);
    assert!(batcher.shutdown(LONG).is_clean());
    let mut items = log.items();
    items.sort_unstable();
    assert!(items.into_iter().eq((0..4).flat_map(|id| id * OWN..id * OWN + EACH)));
}

#[test]
fn a_hung_shard_has_its_owned_rings_emptied_by_the_other() {
    let gate = Gate::new();
    let door = gate.clone();
    let batcher = owned(4)
        .queue_depth(8)
        .max_batch_size(1)
        .shards(Shards::Total(2))
        .steal(true)
        .spawn(sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            if batch[0] == 0 {
                door.pass();
            }
            Ok(())
        }))
        .unwrap();
    let mut owner = batcher.owned_producer().unwrap();
    owner.add(0).unwrap();
    gate.wait_for(1);
    // Many times what its ring holds: each time that it is full, the other is called.
    (1..100).for_each(|item| owner.add_timeout(item, LONG).unwrap());
    assert!(batcher.tally().flushed_ok >= 94);
    gate.open();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 100);
}

// Triggers.

#[test]
fn a_ring_smaller_than_a_batch_still_fills_one_by_size() {
    const BATCHES: u64 = 20;
    let log = Log::new();
    let batcher = owned(2).queue_depth(512).max_batch_size(512).spawn(log.factory()).unwrap();
    let mut owners: Vec<_> = (0..4).map(|_| batcher.owned_producer().unwrap()).collect();
    thread::scope(|scope| {
        for (id, owner) in (0..).zip(&mut owners) {
            scope.spawn(move || {
                (0..BATCHES * 128).for_each(|item| owner.add(id * OWN + item).unwrap());
            });
        }
    });
    // No flush and no delay: what makes a full batch is written.
    until("full batches come", || batcher.tally().flushed_ok == BATCHES * 512);
    assert!(log.reasons().iter().all(|reason| *reason == FlushReason::Size));
    assert!(log.sizes().iter().all(|size| *size == 512));
    assert!(batcher.shutdown(LONG).is_clean());
}

/// Owners that add one item each, and no more, make the batch full between them: no ring has its
/// part of what is missing.
#[test]
fn a_batch_is_full_however_its_items_are_spread() {
    const SIZE: usize = 16;
    let mut rng = Rng::seeded();
    let batcher = owned(16).queue_depth(1_024).max_batch_size(SIZE).spawn(null_sinks()).unwrap();
    let mut owners: Vec<_> = (0..SIZE).map(|_| batcher.owned_producer().unwrap()).collect();
    let producer = batcher.producer();
    for round in 1..=2_000 {
        let (from, mut pause) = (1 + rng.index(SIZE), rng.fork());
        for item in 0..SIZE as u64 {
            match rng.index(from + 1) {
                0 => producer.add(item).unwrap(),
                owner => owners[owner - 1].add(item).unwrap(),
            }
            pause.pause();
        }
        until("the full batch is written", || batcher.tally().flushed_ok == round * SIZE as u64);
    }
    assert_eq!(batcher.stats().flush_reasons.get(FlushReason::Size), 2_000);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn an_item_alone_is_written_when_it_is_due() {
    let log = Log::new();
    let builder = Batcher::builder().owned_depth(64).max_batch_delay(Duration::from_millis(1));
    let batcher = builder.spawn(log.factory()).unwrap();
    let mut owners: Vec<_> = (0..4).map(|_| batcher.owned_producer().unwrap()).collect();
    for item in 0..100 {
        owners[usize::try_from(item % 4).unwrap()].add(item).unwrap();
        until("it is due", || batcher.tally().flushed_ok == item + 1);
    }
    assert!(log.reasons().iter().all(|reason| *reason == FlushReason::Time));
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn when_idle_an_item_is_written_at_once() {
    let batcher = owned(64).flush_when(FlushWhen::Idle).spawn(null_sinks()).unwrap();
    let mut owners: Vec<_> = (0..4).map(|_| batcher.owned_producer().unwrap()).collect();
    for item in 0..1_000 {
        owners[usize::try_from(item % 3).unwrap()].add(item).unwrap();
        until("it is written", || batcher.tally().flushed_ok == item + 1);
    }
    assert_eq!(batcher.stats().flush_reasons.get(FlushReason::Idle), 1_000);
    assert!(batcher.shutdown(LONG).is_clean());
}

// A full ring.

#[test]
fn a_ring_is_full_when_its_own_slots_are() {
    let (batcher, mut owner, gate, log) = held(owned(4).queue_depth(8));
    let mut other = batcher.owned_producer().unwrap();
    (1..5).for_each(|item| owner.try_add(item).unwrap());
    assert_eq!(owner.try_add(9), Err(AddError::Full(9)));
    let stats = batcher.stats();
    assert_eq!((stats.queue_depth, stats.queue_capacity, stats.rejected), (4, 16, 1));
    // The others have all of theirs, and the full shared one does not fill this.
    (0..4).for_each(|item| other.try_add(OWN + item).unwrap());
    assert_eq!(other.try_add(OWN + 9), Err(AddError::Full(OWN + 9)));
    (0..8).for_each(|item| batcher.producer().try_add(2 * OWN + item).unwrap());
    assert!(batcher.producer().try_add(2 * OWN + 9).is_err());
    assert_eq!(batcher.stats().queue_depth, 16);
    let mut run = vec![5, 6];
    assert_eq!(owner.try_add_many(&mut run), Ok(0));
    assert_eq!(run, [5, 6]);
    gate.open();
    assert_eq!(owner.add_many(&mut run), Ok(2));
    assert!(batcher.shutdown(LONG).is_clean());
    assert_in_order(&log.items());
    assert_eq!(log.items().len(), 1 + 4 + 4 + 8 + 2);
}

#[test]
fn a_run_goes_in_as_far_as_there_are_slots() {
    let (batcher, mut owner, gate, log) = held(owned(4));
    owner.try_add(1).unwrap();
    let mut run: Vec<_> = (2..8).collect();
    assert_eq!(owner.try_add_many(&mut run), Ok(3));
    assert_eq!(run, [5, 6, 7]);
    gate.open();
    batcher.flush(LONG).unwrap();
    assert_eq!(owner.add_many(&mut run), Ok(3));
    assert!(batcher.shutdown(LONG).is_clean());
    assert!(log.items().into_iter().eq(0..8));
}

#[test]
fn who_waits_for_a_time_gets_the_item_back() {
    let (batcher, mut owner, gate, _) = held(owned(2));
    (1..3).for_each(|item| owner.try_add(item).unwrap());
    let short = Duration::from_millis(1);
    assert_eq!(owner.add_timeout(3, short), Err(AddError::Timeout(3)));
    assert_eq!(owner.add_timeout(3, Duration::ZERO), Err(AddError::Timeout(3)));
    assert_eq!(owner.add_deadline(3, std::time::Instant::now()), Err(AddError::Timeout(3)));
    let stats = batcher.stats();
    assert_eq!((stats.rejected, stats.waiting_producers, stats.tally.enqueued), (3, 0, 3));
    thread::scope(|scope| {
        scope.spawn(|| owner.add_timeout(3, LONG).unwrap());
        until("it waits", || batcher.stats().waiting_producers == 1);
        gate.open();
    });
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 4);
}

#[test]
fn each_policy_does_with_a_full_ring_what_it_says() {
    for policy in POLICIES {
        let dropped = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&dropped);
        let builder = owned(2).queue_depth(8).when_full(policy).on_dropped(
            move |DroppedItem { item, reason, .. }| told.lock().unwrap().push((item, reason)),
        );
        let (batcher, mut owner, gate, log) = held(builder);
        let mut other = batcher.owned_producer().unwrap();
        // Older than all of the owner's: not its ring's, though.
        batcher.producer().add(2 * OWN).unwrap();
        other.add(OWN).unwrap();
        (1..3).for_each(|item| owner.add(item).unwrap());
        let mut left = vec![0, 2 * OWN, OWN, 1, 2];
        let mut lost = Vec::new();
        match policy {
            WhenFull::Block => {
                thread::scope(|scope| {
                    scope.spawn(|| owner.add(3).unwrap());
                    until("it waits", || batcher.stats().waiting_producers == 1);
                    gate.open();
                });
                left.push(3);
            }
            WhenFull::Reject => {
                assert_eq!(owner.add(3), Err(AddError::Full(3)));
                assert_eq!(
                    owner.add_many(&mut vec![3, 4]).map_err(|error| (error.added, error.reason)),
                    Err((0, AddReason::Full))
                );
            }
            WhenFull::DropNewest => {
                owner.add(3).unwrap();
                assert_eq!(owner.add_many(&mut vec![4, 5]), Ok(2));
                lost.extend((3..6).map(|item| (item, DropReason::Newest)));
            }
            WhenFull::DropOldest => {
                owner.add(3).unwrap();
                assert_eq!(owner.add_many(&mut vec![4]), Ok(1));
                lost.extend((1..3).map(|item| (item, DropReason::Oldest)));
                left.retain(|item| ![1, 2].contains(item));
                left.extend([3, 4]);
            }
        }
        let tally = batcher.tally();
        assert_balances(&tally);
        assert_eq!(tally.dropped, lost.len() as u64);
        gate.open();
        assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, left.len() as u64, "{policy:?}");
        let _ = batcher.shutdown(LONG);
        let mut written = log.items();
        assert_in_order(&written);
        written.sort_unstable();
        left.sort_unstable();
        assert_eq!(written, left, "{policy:?}");
        assert_eq!(*dropped.lock().unwrap(), lost, "{policy:?}");
    }
}

/// However the flusher and the owner meet: who is short of a slot takes none from others.
#[test]
fn the_oldest_of_another_ring_is_never_let_go_for_a_slot() {
    const ROUNDS: u64 = 10_000;
    for shared_is_pressed in [false, true] {
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        let batcher = Batcher::builder()
            .queue_depth(if shared_is_pressed { 2 } else { 64 })
            .owned_depth(2)
            .max_batch_size(2)
            .max_batch_delay(None)
            .when_full(WhenFull::DropOldest)
            .on_dropped(move |DroppedItem { item, .. }| {
                count.fetch_add(u64::from(item == 1), Ordering::Relaxed);
            })
            .spawn(null_sinks())
            .unwrap();
        let going = AtomicBool::new(true);
        thread::scope(|scope| {
            let (mut owner, producer) = (batcher.owned_producer().unwrap(), batcher.producer());
            let going = &going;
            let _stop = Going::new(going);
            let on = move || going.load(Ordering::Relaxed);
            let mut calm: Box<dyn FnMut()> = if shared_is_pressed {
                scope.spawn(move || while on() && producer.add(0).is_ok() {});
                Box::new(move || owner.add(1).unwrap())
            } else {
                scope.spawn(move || while on() && owner.add(0).is_ok() {});
                Box::new(move || producer.add(1).unwrap())
            };
            for _ in 0..ROUNDS {
                calm();
                batcher.flush(LONG).unwrap();
            }
        });
        assert_eq!(lost.load(Ordering::Relaxed), 0, "it never had more than one item queued");
        assert!(batcher.shutdown(LONG).left_behind.is_empty());
    }
}

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

// Acks, bytes, ages.

#[test]
fn acks_tell_of_each_item() {
    let (gate, log) = (Gate::new(), Log::new());
    let builder = Batcher::builder().owned_depth(2).max_batch_size(1).with_acks();
    let batcher = builder.when_full(WhenFull::DropOldest).spawn(log.gated(&gate)).unwrap();
    let mut owner = batcher.owned_producer().unwrap();
    let written = owner.add_with_ack(0).unwrap();
    gate.wait_for(1);
    let evicted = owner.add_with_ack(1).unwrap();
    let mut pending = owner.try_add_with_ack(2).unwrap();
    let last = owner.add_with_ack_timeout(3, Duration::ZERO).unwrap();
    assert_eq!(evicted.wait().unwrap_err().reason, AckReason::Evicted);
    assert!(pending.try_wait().is_none());
    gate.open();
    batcher.flush(LONG).unwrap();
    assert!([written, pending, last].into_iter().all(|ack| ack.wait().is_ok()));
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 3);
}

fn bytes(max: u64) -> Builder<u64, sluicegate::Tracked> {
    let weight = |item: &u64| usize::try_from(*item % OWN).unwrap();
    owned(64).weight(weight).max_queue_bytes(max)
}

#[test]
fn an_owner_that_waits_for_bytes_has_what_holds_them_written() {
    let log = Log::new();
    let batcher = bytes(10).spawn(log.factory()).unwrap();
    let mut owners: Vec<_> = (0..3).map(|_| batcher.owned_producer().unwrap()).collect();
    thread::scope(|scope| {
        for (id, owner) in (0..).zip(&mut owners) {
            scope.spawn(move || {
                // Far from a full batch, and no delay: only who waits can bring it about.
                (0..500).for_each(|item| owner.add(id * OWN + 1 + item % 10).unwrap());
                let mut run: Vec<_> = (0..500).map(|item| id * OWN + 1 + item % 10).collect();
                assert_eq!(owner.add_many(&mut run), Ok(500));
            });
        }
    });
    batcher.flush(LONG).unwrap();
    assert!(log.batches().iter().all(|batch| batch.bytes <= 10));
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (3_000, 0));
}

#[test]
fn owners_and_others_that_wait_for_bytes_are_woken_when_these_are_given_back() {
    let gate = Gate::new();
    let batcher = bytes(10).spawn(gate.sinks()).unwrap();
    batcher.producer().add(10).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            let mut owner = batcher.owned_producer().unwrap();
            scope.spawn(move || owner.add(4).unwrap());
            let producer = batcher.producer();
            scope.spawn(move || producer.add(4).unwrap());
        }
        until("all wait", || batcher.stats().waiting_producers == 6);
        assert_eq!(batcher.stats().queue_bytes, 10);
        gate.open();
    });
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (7, 0));
}

/// The first item of a ring is told of only after it has taken its bytes.
#[test]
fn while_somebody_waits_for_bytes_the_first_item_of_a_ring_is_written_too() {
    let builder = bytes(10).max_batch_size(2);
    let mut pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
    let (producer, mut owner) = (pump.producer(), pump.owned_producer().unwrap());
    (0..2).for_each(|_| producer.add(4).unwrap());
    let mut waits = Box::pin(producer.add_async(5));
    assert!(poll_once(&mut waits).is_pending());
    owner.add(1).unwrap();
    let mut step = || match pump.step() {
        PumpStep::Wrote { reason, items, .. } => Some((reason, items)),
        PumpStep::Idle | PumpStep::Done => None,
    };
    assert_eq!(step(), Some((FlushReason::Size, 2)));
    assert_eq!(step(), Some((FlushReason::Bytes, 1)), "its bytes are waited for, too");
    assert!(poll_once(&mut waits).is_ready());
    drop(waits);
    assert_eq!(pump.shutdown().tally.flushed_ok, 4);
}

/// The positions of what was let go stay empty, or a flush would wait for an item that is not there.
#[test]
fn what_is_let_go_for_bytes_between_two_rings_holds_up_no_flush() {
    let (gate, log) = (Gate::new(), Log::new());
    let builder = bytes(10).max_batch_size(2).when_full(WhenFull::DropOldest);
    let batcher = builder.spawn(log.gated(&gate)).unwrap();
    let (producer, mut owner) = (batcher.producer(), batcher.owned_producer().unwrap());
    (0..2).for_each(|_| producer.add(0).unwrap());
    gate.wait_for(1); // nobody takes anything out
    producer.add(1).unwrap();
    owner.add(8).unwrap();
    owner.add(9).unwrap(); // in place of 8
    producer.add(OWN).unwrap(); // weighs nothing
    assert_eq!(batcher.tally().dropped, 1);
    gate.open();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 5);
    assert_eq!(batcher.shutdown(LONG).tally.dropped, 1);
    assert_eq!(log.items(), [0, 0, 1, OWN, 9]);
}

#[test]
fn items_that_are_too_old_are_let_go_and_no_younger_ones() {
    let log = Log::new();
    let record = log.clone();
    let write = move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        record.record(batch, cx);
        Ok(())
    };
    let builder = owned(8).max_age(Duration::from_millis(10));
    let mut pump = builder.pump(sink::from_fn(write), TestClock::new()).unwrap();
    let (mut first, mut second) = (pump.owned_producer().unwrap(), pump.owned_producer().unwrap());
    first.add(0).unwrap();
    pump.advance(Duration::from_millis(1));
    second.add(1).unwrap();
    first.add(2).unwrap();
    pump.advance(Duration::from_millis(10));
    let tally = pump.flush();
    assert_eq!((tally.dropped, tally.flushed_ok), (1, 2));
    let mut items = log.items();
    items.sort_unstable();
    assert_eq!(items, [1, 2]);
    assert!(pump.shutdown().unflushed.is_empty());
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
    let census = common::Census::default();
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

#[cfg(feature = "tokio")]
#[test]
fn an_async_sink_is_served_from_owned_rings() {
    const EACH: u64 = 5_000;
    for concurrency in [1, 4] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let sink = sink::from_async_fn(
            async move |batch: &Batch<u64>, _: &mut sluicegate::AsyncContext<'_>| {
                tokio::task::yield_now().await;
                log.lock().unwrap().extend_from_slice(batch.items());
                Ok::<_, WriteError>(())
            },
        );
        let builder = owned(8).queue_depth(64).max_batch_size(4).concurrency(concurrency);
        let batcher = builder.spawn_async(async_rig::sinks(sink)).unwrap();
        thread::scope(|scope| {
            for id in 0..3 {
                let (mut owner, batcher) = (batcher.owned_producer().unwrap(), &batcher);
                scope.spawn(move || {
                    for item in 0..EACH {
                        owner.add(id * OWN + item).unwrap();
                        if item % 500 == 0 {
                            batcher.flush(LONG).unwrap();
                        }
                    }
                });
            }
        });
        let report = async_rig::shut_down(batcher);
        assert!(report.is_clean());
        let mut items = std::mem::take(&mut *seen.lock().unwrap());
        if concurrency == 1 {
            assert_in_order(&items);
        }
        items.sort_unstable();
        assert!(items.into_iter().eq((0..3).flat_map(|id| id * OWN..id * OWN + EACH)));
    }
}
