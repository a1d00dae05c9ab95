//! Forbidden: more bytes in use than the budget has; bytes that are never given back; a producer
//! asleep beside bytes, or with nobody under way to write the items that hold them, or after
//! closing; one that is kept awake because there are bytes and no slot. Method: producers with
//! items of different weights; a batch never fills, so that nothing but their own press has it
//! written, or each item is a batch.

use std::sync::Arc;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::{Admission, Budget, Shared, producer};
use sluicegate::{Tracked, WhenFull};
use sluicegate_loom_tests::{Item, add, block_on, collect as collect_batch, parts_with, poll_once};

use crate::model;

type Parts = Arc<Shared<Item, Tracked>>;

/// The number of an item is its weight.
fn parts(queue_depth: usize, max_batch_size: usize, budget: u64) -> Parts {
    let admission = Admission {
        when_full: WhenFull::Block,
        budget: Some(Budget::new(budget)),
        weight: Some(Arc::new(|item: &Item| item.number() as usize)),
        ..Admission::default()
    };
    parts_with(queue_depth, max_batch_size, 1, admission)
}

/// Adds an item of that weight; whether it went in.
fn adding(parts: &Parts, id: u32, weight: u32) -> JoinHandle<bool> {
    let parts = Arc::clone(parts);
    thread::spawn(move || add(&parts, Item::new(id, weight)).is_ok())
}

/// Bytes in use, which are never too many.
fn used(parts: &Parts) -> u64 {
    let budget = parts.any().admission.budget.as_ref().unwrap();
    assert!(budget.used() <= budget.max(), "{} bytes of {}", budget.used(), budget.max());
    budget.used()
}

/// Collects a batch; returns its bytes, which are to be given back when it is written.
fn collect(parts: &Parts) -> u64 {
    let batch = collect_batch(parts).unwrap();
    used(parts);
    batch.iter().map(|item| u64::from(item.number())).sum()
}

fn write(parts: &Parts) -> u64 {
    let bytes = collect(parts);
    parts.any().release(bytes);
    bytes
}

/// When every item was written.
fn check(parts: &Parts) {
    assert_eq!(used(parts), 0, "bytes were lost");
    assert_eq!(parts.any().room.len(), 0, "nobody waits any more");
    assert!(parts.any().ring.is_empty());
}

/// A producer is short of bytes until another's item is written.
#[test]
fn release() {
    model(|| {
        let parts = parts(2, 1, 3);
        add(&parts, Item::new(9, 2)).unwrap();
        let written = collect(&parts);
        let waiter = adding(&parts, 0, 2);
        parts.any().release(written);
        assert!(waiter.join().unwrap());
        assert_eq!(write(&parts), 2);
        check(&parts);
    });
}

/// Two are short of bytes, a task and a thread, and one write makes room for both.
#[test]
fn release_for_two() {
    model(|| {
        let parts = parts(2, 2, 2);
        add(&parts, Item::new(9, 2)).unwrap();
        parts.demand_all();
        let written = collect(&parts);
        let producer = producer(Arc::clone(&parts));
        let mut task = producer.add_async(Item::new(1, 1));
        assert!(poll_once(&mut task).is_none());
        let waiter = adding(&parts, 0, 1);
        thread::yield_now(); // it may be asleep by now
        parts.any().release(written);
        block_on(task).unwrap();
        assert!(waiter.join().unwrap());
        assert_eq!(write(&parts), 2);
        check(&parts);
    });
}

/// Bytes were charged and taken back, as by an add that finds no slot.
#[test]
fn taken_back() {
    model(|| {
        let parts = parts(2, 1, 2);
        let waiter = adding(&parts, 0, 2);
        drop(parts.any().charge(&parts.any().ring, 1).unwrap_or_default());
        assert!(waiter.join().unwrap());
        parts.demand_all();
        assert_eq!(write(&parts), 2);
        check(&parts);
    });
}

/// Nothing but the want of bytes has an open batch written, be its item pushed before that or
/// after.
#[test]
fn press() {
    model(|| {
        let parts = parts(2, 2, 3);
        let waiter = adding(&parts, 0, 3);
        // All of the bytes: beside room, a flusher with nothing to do would wake the waiter anyway.
        if producer(Arc::clone(&parts)).try_add(Item::new(9, 3)).is_ok() {
            assert_eq!(write(&parts), 3);
        }
        assert!(waiter.join().unwrap());
        parts.any().close();
        assert_eq!(write(&parts), 3);
        check(&parts);
    });
}

/// There are bytes and no slot.
#[test]
fn no_slot() {
    model(|| {
        let parts = parts(2, 1, 9);
        [8, 9].into_iter().for_each(|id| add(&parts, Item::new(id, 1)).unwrap());
        let waiter = adding(&parts, 0, 2);
        assert_eq!(write(&parts), 1);
        assert!(waiter.join().unwrap());
        assert_eq!((write(&parts), write(&parts)), (1, 2));
        check(&parts);
    });
}

/// Closing gives the item back, though bytes are as short as before.
#[test]
fn closing() {
    model(|| {
        let parts = parts(2, 2, 2);
        add(&parts, Item::new(9, 2)).unwrap();
        let waiter = adding(&parts, 0, 1);
        parts.any().close();
        assert!(!waiter.join().unwrap());
        assert_eq!(write(&parts), 2);
        check(&parts);
    });
}
