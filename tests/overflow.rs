//! Promise: with `Overflow::Nearest` an item for which its home has no room goes to the nearest ring
//! that has, and is counted; only when all are full does the policy decide, and then room in any of
//! them will do.

#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::thread;
use std::time::Duration;

use common::{
    Gate, LONG, OWN, POLICIES, Rng, Wakes, assert_balances, assert_once, block_on, random_sinks,
    until,
};
use shard_rig::{Books, gates, nodes};
use sluicegate::{
    AddError, AddManyError, AddReason, Batch, Batcher, Builder, Mode, Overflow, Pin, Producer,
    WhenFull,
};

/// Items that a shard has when its sink is shut and its ring is full.
const HELD: u64 = 5;

/// Three nodes in a row, one shard each: 0 is nearer to 1 than to 2.
fn in_a_row() -> Builder<u64> {
    Batcher::builder().topology(nodes(3)).pin(Pin::None).overflow(Overflow::Nearest)
}

/// Its shards' sinks are shut; the first `full` hold an item each, and their rings are full.
fn filled<M: Mode<u64>>(
    builder: Builder<u64, M>,
    full: usize,
) -> (Batcher<u64, M>, Books, Vec<Gate>, Producer<u64, M>) {
    let (books, gates) = (Books::default(), gates(3));
    let builder = builder.max_batch_size(1).queue_depth(4);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    for (node, gate) in gates.iter().enumerate().take(full) {
        let (producer, first) = (batcher.producer_on(node).unwrap(), node as u64 * OWN);
        producer.add(first).unwrap();
        gate.wait_for(1);
        (1..HELD).for_each(|number| producer.try_add(first + number).unwrap());
    }
    assert_eq!(batcher.stats().overflowed, 0);
    let producer = batcher.producer_on(0).unwrap();
    (batcher, books, gates, producer)
}

fn end<M: Mode<u64>>(batcher: Batcher<u64, M>, gates: &[Gate]) -> sluicegate::Stats {
    gates.iter().for_each(Gate::open);
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean(), "{:?}", report.tally);
    report.stats
}

#[test]
fn items_go_to_the_nearest_ring_with_room_and_are_counted() {
    let (batcher, books, gates, producer) = filled(in_a_row(), 1);
    producer.add(100).unwrap();
    gates[1].wait_for(1);
    producer.try_add(101).unwrap();
    producer.add_timeout(102, Duration::ZERO).unwrap();
    block_on(producer.add_async(103)).unwrap();
    assert_eq!(producer.try_add_many(&mut vec![104]).unwrap(), 1);
    assert_eq!(batcher.stats().overflowed, 5);
    // That one is full now: the next.
    let mut items = vec![200, 201, 202];
    assert_eq!(producer.add_many(&mut items).unwrap(), 3);
    assert_eq!(batcher.stats().overflowed, 8);
    let stats = end(batcher, &gates);
    assert_eq!((stats.overflowed, stats.rejected), (8, 0));
    assert_eq!(books.of(0), (0..HELD).collect::<Vec<_>>());
    assert_eq!((books.of(1), books.of(2)), ((100..105).collect(), vec![200, 201, 202]));
}

#[test]
fn a_run_is_spread_over_all_rings() {
    let (batcher, books, gates, producer) = filled(in_a_row(), 1);
    let mut items: Vec<_> = (100..120).collect();
    let taken = producer.try_add_many(&mut items).unwrap() as u64;
    assert!((8..=10).contains(&taken), "two rings, and what their sinks hold: {taken}");
    assert_eq!(batcher.stats().overflowed, taken);
    assert_eq!(items.first(), Some(&(100 + taken)));
    end(batcher, &gates);
    assert_once(&books.items());
    assert_eq!(books.items().len() as u64, HELD + taken);
}

#[test]
fn room_in_any_shard_wakes_whoever_waits() {
    for (open, many) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
        let (batcher, books, gates, producer) = filled(in_a_row(), 3);
        assert!(matches!(producer.try_add(100), Err(AddError::Full(100))));
        let wakes = Wakes::new();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| match many {
                true => producer.add_many(&mut vec![101]).map(drop).map_err(drop),
                false => producer.add(101).map_err(drop),
            });
            until("it waits", || batcher.stats().waiting_producers == 1);
            gates[open].admit_one();
            waiting.join().unwrap().unwrap();
        });
        let mut task = producer.add_async(102);
        assert!(wakes.poll(&mut task).is_pending(), "that room is taken");
        gates[open].admit_one();
        until("the task is woken", || wakes.count() > 0);
        block_on(task).unwrap();
        let stats = end(batcher, &gates);
        assert_eq!(stats.overflowed, if open == 0 { 0 } else { 2 });
        assert!(books.of(open).ends_with(&[101, 102]), "{open}: {:?}", books.batches());
    }
}

#[test]
fn closing_wakes_whoever_waits_for_all_of_them() {
    let (batcher, _, gates, producer) = filled(in_a_row(), 3);
    thread::scope(|scope| {
        let one = scope.spawn(|| producer.add(100));
        let many = scope.spawn(|| producer.add_many(&mut vec![101, 102]));
        until("both wait", || batcher.stats().waiting_producers == 2);
        batcher.close();
        assert!(matches!(one.join().unwrap(), Err(AddError::Closed(100))));
        let closed = AddManyError { added: 0, reason: AddReason::Closed };
        assert_eq!(many.join().unwrap(), Err(closed));
    });
    end(batcher, &gates);
}

#[test]
fn without_it_items_stay() {
    let (batcher, books, gates, producer) = filled(in_a_row().overflow(Overflow::Stay), 1);
    assert!(matches!(producer.try_add(100), Err(AddError::Full(100))));
    let late = producer.add_timeout(101, Duration::from_millis(1));
    assert!(matches!(late, Err(AddError::Timeout(101))));
    assert_eq!(producer.try_add_many(&mut vec![102]).unwrap(), 0);
    assert_eq!(end(batcher, &gates).overflowed, 0);
    assert_eq!((books.of(1), books.of(2)), (vec![], vec![]));
}

#[test]
fn the_policy_decides_only_when_all_are_full() {
    for policy in POLICIES {
        let (batcher, books, gates, producer) = filled(in_a_row().when_full(policy), 2);
        // What the last shard's flusher has in hand, and its ring.
        producer.add(100).unwrap();
        gates[2].wait_for(1);
        (101..105).for_each(|item| producer.add(item).unwrap());
        let stats = batcher.stats();
        assert_eq!((stats.overflowed, stats.tally.dropped, stats.rejected), (5, 0, 0));
        let full = producer.try_add(200);
        let tally = batcher.tally();
        match policy {
            WhenFull::Block | WhenFull::Reject => {
                assert!(matches!(full, Err(AddError::Full(200))), "{policy:?}");
                assert_eq!((tally.enqueued, tally.dropped), (15, 0));
            }
            _ => {
                full.unwrap();
                assert_eq!((tally.enqueued, tally.dropped), (16, 1), "{policy:?}");
            }
        }
        gates.iter().for_each(Gate::open);
        let report = batcher.shutdown(LONG);
        assert_balances(&report.tally);
        assert_eq!(report.tally.flushed_ok, 15);
        let oldest = policy == WhenFull::DropOldest;
        assert_eq!(books.of(0).contains(&200), oldest, "{policy:?}: in the place of its own");
        assert_eq!(books.of(0).contains(&1), !oldest);
    }
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let mut rng = Rng::seeded();
    for budget in [None, Some(10)] {
        let books = Books::default();
        let taken = books.clone();
        let sinks = random_sinks(rng.fork(), move |batch: &Batch<u64>, cx, rng| {
            (0..rng.below(6)).for_each(|_| rng.pause());
            taken.record(batch, cx.flusher().index);
            Ok(())
        });
        let builder = in_a_row().queue_depth(4).max_batch_size(3).with_acks();
        let builder = match budget {
            Some(bytes) => builder.weight(|_: &u64| 1).max_queue_bytes(bytes),
            None => builder,
        };
        let batcher = builder.spawn(sinks).unwrap();
        thread::scope(|scope| {
            for id in 0..6 {
                // Most are at home on the same node.
                let node = usize::try_from(id / 4).unwrap();
                let (producer, mut rng) = (batcher.producer_on(node).unwrap(), rng.fork());
                scope.spawn(move || {
                    let mut number = id * OWN;
                    let end = number + 1_000;
                    while number < end {
                        match rng.below(5) {
                            0 => {
                                let mut items: Vec<_> = (number..end.min(number + 9)).collect();
                                number += items.len() as u64 - 1;
                                producer.add_many(&mut items).unwrap();
                            }
                            1 => until("there is room", || producer.try_add(number).is_ok()),
                            2 => block_on(producer.add_async(number)).unwrap(),
                            3 => until("in time", || {
                                let time = Duration::from_micros(50);
                                producer.add_timeout(number, time).is_ok()
                            }),
                            _ => producer.add(number).unwrap(),
                        }
                        number += 1;
                    }
                });
            }
        });
        let report = batcher.shutdown(LONG);
        assert!(report.is_clean(), "{:?}", report.tally);
        assert_once(&books.items());
        assert_eq!(books.items().len(), 6_000);
        assert!(report.stats.overflowed > 0 || budget.is_some(), "nothing has overflowed");
        assert_eq!((report.stats.queue_bytes, report.stats.waiting_producers), (0, 0));
    }
}
