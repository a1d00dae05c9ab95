//! Forbidden: an item lost, seen twice, or out of its producer's order; a slot touched by two
//! threads at a time. Allowed: "full" or "empty" from a thread that has not seen the latest.
//! Method: few slots, positions that wrap, and consumers that yield until they have everything.

use std::sync::Arc;

use loom::thread::{self, JoinHandle};
use sluicegate::ring::{PushError, Ring, RunError};
use sluicegate_loom_tests::Item;

use crate::{join, model};

/// Words wrap after this position and one more.
const BEFORE_WRAP: u64 = (1 << 63) - 2;

fn ring(start: u64) -> Arc<Ring<Item>> {
    Arc::new(Ring::starting_at(2, start).expect("a power of two"))
}

fn push(ring: &Ring<Item>, mut item: Item) {
    loop {
        match ring.try_push(item) {
            Ok(()) => return,
            Err(PushError::Closed(_)) => panic!("nobody closes it"),
            Err(refused) => item = refused.into_inner(),
        }
        thread::yield_now();
    }
}

fn push_run(ring: &Ring<Item>, mut items: Vec<Item>) {
    while !items.is_empty() {
        match ring.try_push_run(&mut items) {
            Ok(count) => assert_ne!(count, 0),
            Err(RunError::Closed) => panic!("nobody closes it"),
            Err(RunError::Full | RunError::Busy) => thread::yield_now(),
        }
    }
}

fn pop(ring: &Ring<Item>, count: usize, max: usize) -> Vec<Item> {
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        if ring.try_pop_run(&mut out, max).is_err() {
            thread::yield_now();
        }
    }
    assert_eq!(out.len(), count);
    out
}

/// The items of each producer, in the order in which they came.
fn in_order(items: &[Item], producers: &[&[u32]]) {
    for (producer, numbers) in (0..).zip(producers) {
        let got = items.iter().filter(|item| item.producer() == producer);
        assert_eq!(got.map(Item::number).collect::<Vec<_>>(), *numbers, "of producer {producer}");
    }
}

#[test]
fn wrap() {
    model(|| {
        let ring = ring(BEFORE_WRAP);
        let producer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || (0..3).for_each(|n| push(&ring, Item::new(0, n)))
        });
        in_order(&pop(&ring, 3, 2), &[&[0, 1, 2]]);
        producer.join().unwrap();
        assert_eq!((ring.pushed(), ring.popped(), ring.len()), (3, 3, 0));
    });
}

#[test]
fn two_producers() {
    model(|| {
        let ring = ring(0);
        let producers = [0, 1].map(|id| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.try_push(Item::new(id, 0)).expect("there is room for both"))
        });
        in_order(&pop(&ring, 2, 2), &[&[0], &[0]]);
        join(producers);
    });
}

/// Both slots are used again, by producers that race for them. Nobody waits, so that this ends:
/// with producers and a consumer that yield it has no end in sight (`wrap` does yield).
#[test]
fn two_producers_lap() {
    model(|| {
        let ring = ring(BEFORE_WRAP);
        let producers = [0, 1].map(|id| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let items = (0..2).map(|n| Item::new(id, n));
                items.filter_map(|item| ring.try_push(item).err()).count()
            })
        });
        finish(&ring, producers);
    });
}

/// Two runs race for two slots, and for the same two again.
#[test]
fn runs_of_two_producers() {
    model(|| {
        let ring = ring(BEFORE_WRAP);
        let producers = [0, 1].map(|id| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut items = vec![Item::new(id, 0), Item::new(id, 1)];
                let _ = ring.try_push_run(&mut items);
                items.len()
            })
        });
        finish(&ring, producers);
    });
}

/// Pops twice while two producers push two items each and say how many were refused, and then what
/// is left.
fn finish(ring: &Ring<Item>, producers: [JoinHandle<usize>; 2]) {
    let mut out = Vec::new();
    for _ in 0..2 {
        let _ = ring.try_pop_run(&mut out, 2);
    }
    let refused: usize = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
    while out.len() + refused < 4 {
        ring.try_pop_run(&mut out, 2).expect("what was accepted is there");
    }
    assert_eq!(out.len() + refused, 4);
    for producer in [0, 1] {
        let numbers = out.iter().filter(|item| item.producer() == producer).map(Item::number);
        assert!(numbers.is_sorted(), "out of order");
    }
}

#[test]
fn two_consumers() {
    model(|| {
        let ring = ring(BEFORE_WRAP);
        let consumers = [0, 1].map(|_| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut out = Vec::new();
                let _ = ring.try_pop_run(&mut out, 1);
                out
            })
        });
        (0..3).for_each(|n| push_unless_full(&ring, n));
        let mut all: Vec<_> = consumers.into_iter().flat_map(|c| c.join().unwrap()).collect();
        let left = usize::try_from(ring.pushed() - ring.popped()).unwrap();
        all.extend(pop(&ring, left, 2));
        all.sort();
        let got: Vec<_> = all.iter().map(Item::number).collect();
        assert!(got == [0, 1] || got == [0, 1, 2], "{got:?}");
    });
}

/// Two items fit; the third only if a consumer was fast enough.
fn push_unless_full(ring: &Ring<Item>, number: u32) {
    if let Err(refused) = ring.try_push(Item::new(0, number)) {
        assert!(matches!(refused, PushError::Full(_) | PushError::Busy(_)));
        assert_eq!(number, 2);
    }
}

/// Two consumers free slots out of order: a run must look at each of them.
#[test]
fn run_over_two_consumers() {
    model(|| {
        let ring = ring(BEFORE_WRAP);
        push_run(&ring, vec![Item::new(0, 0), Item::new(0, 1)]);
        let consumers = [0, 1].map(|_| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || pop(&ring, 1, 1))
        });
        push_run(&ring, vec![Item::new(1, 0), Item::new(1, 1)]);
        let mut first: Vec<_> = consumers.into_iter().flat_map(|c| c.join().unwrap()).collect();
        first.sort();
        in_order(&first, &[&[0, 1]]);
        in_order(&pop(&ring, 2, 2), &[&[], &[0, 1]]);
    });
}

/// Whoever lets go of the ring last drops what is in it.
#[test]
fn drop_with_items_inside() {
    model(|| {
        let ring = loom::sync::Arc::new(Ring::<Item>::starting_at(2, BEFORE_WRAP).unwrap());
        let producer = thread::spawn({
            let ring = loom::sync::Arc::clone(&ring);
            move || {
                let refused = (0..3).filter_map(|n| ring.try_push(Item::new(0, n)).err()).count();
                assert!(refused <= 1);
            }
        });
        let mut out = Vec::new();
        if ring.try_pop_run(&mut out, 1).is_ok() {
            in_order(&out, &[&[0]]);
        }
        drop(ring);
        producer.join().unwrap();
    });
}
