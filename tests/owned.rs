//! Promise: an owned producer keeps every promise that a shared one does, with a ring of its own: who
//! can have one, order, batches and flushes. A full ring: `owned_full.rs`; the end: `owned_end.rs`.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "tokio")]
mod async_rig;
mod common;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::owned::owned;
use common::{Gate, LONG, Log, OWN, Rng, assert_in_order, null_sinks, sink_of, until};
use sluicegate::placement::Shards;
use sluicegate::{
    Batch, Batcher, Builder, ConfigError, FlushReason, FlushWhen, OwnedError, SpawnError,
    TestClock, WriteContext,
};

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
    let builder = Batcher::builder().owned_depth(8).max_batch_delay(Duration::from_millis(100));
    let mut pump = builder.pump(log.sink(), TestClock::new()).unwrap();
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

#[cfg(feature = "tokio")]
#[test]
fn an_async_sink_is_served_from_owned_rings() {
    use sluicegate::{AsyncContext, WriteError, sink};

    const EACH: u64 = 5_000;
    for concurrency in [1, 4] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let sink =
            sink::from_async_fn(async move |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
                tokio::task::yield_now().await;
                log.lock().unwrap().extend_from_slice(batch.items());
                Ok::<_, WriteError>(())
            });
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
