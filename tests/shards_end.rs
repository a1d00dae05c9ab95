//! Promise: a flush covers every shard; shutdown hands back what each shard has left, in order; what
//! ends an engine ends all its shards, and what befalls one flusher does not befall the others; a
//! budget of bytes is one for all.

#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::thread;
use std::time::Duration;

use common::{
    Gate, LONG, OWN, POLICIES, Rng, Wakes, assert_balances, assert_in_order, assert_once, block_on,
    holding, no_second_try, random_sinks, sink_of, until,
};
use shard_rig::{Books, gates, homes, two_nodes};
use sluicegate::{
    AddError, Batch, Batcher, FlushError, OnFailure, Stuck, WhenFull, WriteContext, WriteError,
};

const SHORT: Duration = Duration::from_millis(1);

#[test]
fn a_flush_covers_every_shard() {
    let (books, gates) = (Books::default(), gates(2));
    let batcher = two_nodes().spawn(books.gated(&gates)).unwrap();
    let [one, other] = homes(&batcher);
    gates[0].open();
    one.add(0).unwrap();
    other.add(OWN).unwrap();
    let Err(FlushError::Timeout(tally)) = batcher.flush(SHORT) else { panic!("a sink is shut") };
    assert_balances(&tally);
    assert!(tally.in_flight >= 1, "{tally:?}");
    let wakes = Wakes::new();
    let mut flush = batcher.flush_async();
    assert!(wakes.poll(&mut flush).is_pending());
    gates[1].wait_for(1);
    assert!(wakes.poll(&mut flush).is_pending(), "one shard is not enough");
    one.add(1).unwrap(); // and what comes later is not waited for
    gates[1].open();
    let tally = block_on(flush).unwrap();
    assert!(tally.flushed_ok >= 2, "{tally:?}");
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 3);
    assert_eq!((books.of(0), books.of(1)), (vec![0, 1], vec![OWN]));
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn shutdown_hands_back_what_each_shard_has_left_in_order() {
    let (books, gates) = (Books::default(), gates(2));
    let builder = two_nodes().max_batch_size(2).queue_depth(16);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    let homes = homes(&batcher);
    for (id, producer) in (0..).zip(&homes) {
        (0..9).for_each(|number| producer.add(id * OWN + number).unwrap());
    }
    gates.iter().for_each(|gate| gate.wait_for(1));
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.tally.unknown, report.tally.in_flight), (4, 14), "{:?}", report.tally);
    assert_eq!(report.left_behind.len(), 2, "{:?}", report.left_behind);
    assert_eq!(report.unflushed.len(), 14);
    assert_in_order(&report.unflushed);
    let all: Vec<_> = books.items().into_iter().chain(report.unflushed).collect();
    assert_eq!(all.len(), 18);
    assert_once(&all);
    gates.iter().for_each(Gate::open);
}

/// What waits to be tried again comes back too, before what was behind it.
#[test]
fn what_waits_to_be_tried_again_is_handed_back_before_what_is_behind_it() {
    let sinks =
        sink_of(|_: &Batch<u64>, _: &mut WriteContext<'_>| Err(WriteError::transient("no")));
    let builder = two_nodes().on_failure(OnFailure::Halt).max_batch_size(2).breaker(None);
    let retry = sluicegate::Retry::default().initial_delay(LONG).max_delay(LONG);
    let batcher = builder.retry(retry).spawn(sinks).unwrap();
    for (id, producer) in (0..).zip(&homes(&batcher)) {
        (0..6).for_each(|number| producer.add(id * OWN + number).unwrap());
    }
    until("something waits", || batcher.stats().retry_items > 0);
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.unflushed.len(), report.tally.in_flight), (12, 12), "{:?}", report.tally);
    assert_in_order(&report.unflushed);
}

#[test]
fn a_halt_halts_all_shards() {
    let sinks = sink_of(|batch: &Batch<u64>, _: &mut WriteContext<'_>| match batch[0] {
        OWN => Err(WriteError::permanent("as planned")),
        _ => Ok(()),
    });
    let builder = no_second_try(two_nodes()).on_failure(OnFailure::Halt).max_batch_size(1);
    let batcher = builder.spawn(sinks).unwrap();
    let [one, other] = homes(&batcher);
    one.add(0).unwrap();
    batcher.flush(LONG).unwrap();
    other.add(OWN).unwrap();
    until("it has halted", || batcher.is_closed());
    assert!(matches!(one.add(1), Err(AddError::Closed(1))));
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.failed.len()), (1, 1));
    assert_eq!(report.left_behind, []);
}

/// While an item waits to be tried again nothing is written, in no shard; then all go on.
#[test]
fn where_order_is_kept_all_shards_wait_for_a_retry_and_go_on_after_it() {
    let mut rng = Rng::seeded();
    for _ in 0..50 {
        let (books, record) = (Books::default(), Books::default());
        let shared = record.clone();
        let sinks = random_sinks(rng.fork(), move |batch: &Batch<u64>, cx, rng| {
            books.record(batch, cx.flusher().index);
            if rng.one_in(3) {
                return Err(WriteError::transient("as planned"));
            }
            shared.record(batch, cx.flusher().index);
            Ok(())
        });
        let retry = sluicegate::Retry::default().budget_floor(1e6).max_attempts(None);
        let retry = retry.initial_delay(Duration::from_micros(20)).max_delay(SHORT);
        let builder = two_nodes().on_failure(OnFailure::Halt).breaker(None).retry(retry);
        let batcher = builder.max_batch_size(3).queue_depth(4).spawn(sinks).unwrap();
        let homes = homes(&batcher);
        thread::scope(|scope| {
            for (id, producer) in (0..).zip(&homes) {
                scope.spawn(move || {
                    (0..20).for_each(|number| producer.add(id * OWN + number).unwrap());
                });
            }
        });
        assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 40);
        assert!(batcher.shutdown(LONG).is_clean());
        assert_in_order(&record.of(0));
        assert_in_order(&record.of(1));
        assert!(record.batches().iter().all(|batch| batch.flusher == batch.shard));
    }
}

#[test]
fn closing_wakes_the_waiters_of_all_shards() {
    let (books, gates) = (Books::default(), gates(2));
    let builder = two_nodes().max_batch_size(1).queue_depth(2);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    let homes = homes(&batcher);
    for producer in &homes {
        producer.add(0).unwrap();
    }
    gates.iter().for_each(|gate| gate.wait_for(1));
    thread::scope(|scope| {
        let waiting: Vec<_> = homes
            .iter()
            .map(|producer| {
                (1..3).for_each(|item| producer.try_add(item).unwrap());
                scope.spawn(move || producer.add(9))
            })
            .collect();
        until("both wait", || batcher.stats().waiting_producers == 2);
        batcher.close();
        for thread in waiting {
            assert!(matches!(thread.join().unwrap(), Err(AddError::Closed(9))));
        }
    });
    gates.iter().for_each(Gate::open);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn a_dropped_engine_is_drained_in_every_shard() {
    let books = Books::default();
    let batcher = two_nodes().spawn(books.gated(&[])).unwrap();
    for (id, producer) in (0..).zip(&homes(&batcher)) {
        (0..10).for_each(|number| producer.add(id * OWN + number).unwrap());
    }
    drop(batcher);
    assert_eq!((books.of(0), books.of(1).len()), ((0..10).collect(), 10));
}

#[test]
fn a_flusher_that_is_left_behind_does_not_stop_the_other_shard() {
    let (books, gates) = (Books::default(), gates(2));
    gates[1].open();
    let builder = two_nodes().max_batch_size(1);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    let [one, other] = homes(&batcher);
    one.add(0).unwrap();
    gates[0].wait_for(1);
    (0..10).for_each(|number| other.add(OWN + number).unwrap());
    until("the other shard is written", || books.of(1).len() == 10);
    let report = batcher.shutdown(SHORT);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (10, 1));
    let [left] = report.left_behind[..] else { panic!("{:?}", report.left_behind) };
    assert!(matches!((left.flusher.index, left.stuck), (0, Stuck::Writing { items: 1, .. })));
    gates[0].open();
}

#[test]
fn who_takes_the_place_of_a_hung_flusher_serves_the_same_shard() {
    let (books, gates) = (Books::default(), gates(2));
    let (inner, door) = (books.clone(), gates[1].clone());
    let sinks = sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        if batch[0] == OWN {
            door.pass();
        } else {
            inner.record(batch, cx.flusher().index);
        }
        Ok(())
    });
    let builder = two_nodes().max_batch_size(1).write_timeout(SHORT);
    let batcher = builder.leave_behind_after(Duration::from_millis(400)).spawn(sinks).unwrap();
    let [one, other] = homes(&batcher);
    (0..6).for_each(|number| other.add(OWN + number).unwrap());
    one.add(0).unwrap();
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!((tally.flushed_ok, tally.unknown), (6, 1), "{tally:?}");
    assert!(books.batches().iter().all(|batch| batch.flusher == batch.shard));
    assert_eq!(books.of(1), (1..6).map(|number| OWN + number).collect::<Vec<_>>());
    gates[1].open();
    assert_eq!(batcher.shutdown(LONG).stats.hung, 1);
}

#[test]
fn bytes_that_one_shard_gives_back_free_a_waiter_of_another() {
    let (books, gates) = (Books::default(), gates(2));
    gates[1].open();
    let builder = two_nodes().weight(|_: &u64| 1).max_queue_bytes(2).max_batch_size(1);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    let [one, other] = homes(&batcher);
    one.add(0).unwrap();
    one.add(1).unwrap();
    gates[0].wait_for(1);
    assert!(matches!(other.try_add(OWN), Err(AddError::Full(OWN))), "one holds all bytes");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| other.add(OWN));
        until("it waits", || batcher.stats().waiting_producers == 1);
        gates[0].admit_one();
        waiting.join().unwrap().unwrap();
    });
    gates[0].open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn the_oldest_that_is_let_go_for_bytes_may_be_in_another_shard() {
    let gate = Gate::new();
    let builder = two_nodes()
        .weight(|_: &u64| 1)
        .max_queue_bytes(3)
        .when_full(WhenFull::DropOldest)
        .queue_depth(8);
    let batcher = holding(builder, &gate, 7);
    let [one, other] = homes(&batcher);
    let (own, far) = if batcher.producer().home() == Some(0) { (one, other) } else { (other, one) };
    own.add(8).unwrap();
    own.add(9).unwrap();
    far.add(OWN).unwrap();
    let drops = batcher.stats().drops;
    assert_eq!(drops.get(sluicegate::DropReason::Oldest), 1, "of those that hold the bytes");
    gate.open();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.tally.dropped), (3, 1));
}

#[test]
fn no_more_bytes_are_held_than_are_allowed_under_every_policy() {
    const MOST: u64 = 40;
    let mut rng = Rng::seeded();
    for policy in POLICIES {
        let books = Books::default();
        let taken = books.clone();
        let sinks = random_sinks(rng.fork(), move |batch: &Batch<u64>, cx, rng| {
            rng.pause();
            taken.record(batch, cx.flusher().index);
            Ok(())
        });
        let batcher = Batcher::builder()
            .shards(3)
            .weight(|item: &u64| 1 + usize::try_from(item % 9).unwrap())
            .max_queue_bytes(MOST)
            .when_full(policy)
            .queue_depth(8)
            .max_batch_size(4)
            .spawn(sinks)
            .unwrap();
        let added = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|id| {
                    let (producer, mut rng, batcher) = (batcher.producer(), rng.fork(), &batcher);
                    scope.spawn(move || {
                        let mut added = 0;
                        for number in 0..600 {
                            rng.pause();
                            added += u64::from(producer.add(id * OWN + number).is_ok());
                            if rng.one_in(16) {
                                assert!(batcher.stats().queue_bytes <= MOST);
                            }
                        }
                        added
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
        });
        let report = batcher.shutdown(LONG);
        assert_balances(&report.tally);
        assert_eq!((report.tally.enqueued, report.tally.in_flight), (added, 0), "{policy:?}");
        assert_eq!(report.stats.queue_bytes, 0, "{policy:?}");
        assert!(added == 2_400 || policy != WhenFull::Block, "{added}");
        (0..3).for_each(|shard| assert_in_order(&books.of(shard)));
        assert_eq!(books.items().len() as u64, report.tally.flushed_ok);
    }
}
