//! Forbidden: a wake-up that is lost with a task that was dropped, or that wakes a task which has
//! been replaced by another; a task asleep while there is room, or after closing. Method: as in
//! `room`, with tasks in the line.

use std::sync::Arc;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::producer;
use sluicegate_loom_tests::{Item, Parts, add, add_async, collect, parts, poll_once};

use crate::model;

/// How the other one waits.
type Add = fn(&Parts, Item) -> Result<(), Item>;

/// Parts with a ring of two slots, both in use.
fn full() -> Parts {
    let parts = parts(2, 1, 1);
    (0..2).for_each(|n| add(&parts, Item::new(9, n)).unwrap());
    parts
}

/// Whether the item was added.
fn adding(parts: &Parts, add: Add) -> JoinHandle<bool> {
    let parts = Arc::clone(parts);
    thread::spawn(move || add(&parts, Item::new(0, 0)).is_ok())
}

fn freeing(parts: &Parts) -> JoinHandle<()> {
    let parts = Arc::clone(parts);
    thread::spawn(move || assert_eq!(collect(&parts).unwrap().len(), 1))
}

fn rest(parts: &Parts) -> usize {
    let mut items = Vec::new();
    parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut items);
    assert_eq!(parts.any().room.len(), 0, "nobody waits any more");
    items.len()
}

/// A task as the only waiter.
#[test]
fn a_task_waits() {
    model(|| {
        let parts = full();
        let waiter = adding(&parts, add_async);
        assert_eq!(collect(&parts).unwrap().len(), 1);
        assert!(waiter.join().unwrap());
        assert_eq!(rest(&parts), 2);
    });
}

#[test]
fn closing_wakes_a_task() {
    model(|| {
        let parts = full();
        let waiter = adding(&parts, add_async);
        assert_eq!(parts.any().close(), 2);
        assert!(!waiter.join().unwrap());
        assert_eq!(rest(&parts), 2);
    });
}

/// A task that stands in line first is dropped while a slot is freed; another waits.
fn dropped_before(other: Add) {
    let parts = full();
    let producer = producer(Arc::clone(&parts));
    let mut first = producer.add_async(Item::new(1, 0));
    assert!(poll_once(&mut first).is_none());
    let other = adding(&parts, other);
    let freeing = freeing(&parts);
    drop(first);
    assert!(other.join().unwrap());
    freeing.join().unwrap();
    assert_eq!(rest(&parts), 2);
}

#[test]
fn dropped_before_a_thread() {
    model(|| dropped_before(add));
}

#[test]
fn dropped_before_a_task() {
    model(|| dropped_before(add_async));
}

/// The task that polled first is another than the one that waits.
#[test]
fn another_waker() {
    model(|| {
        let parts = full();
        let producer = producer(Arc::clone(&parts));
        let mut adding = producer.add_async(Item::new(0, 0));
        assert!(poll_once(&mut adding).is_none());
        let freeing = freeing(&parts);
        sluicegate_loom_tests::block_on(adding).unwrap();
        freeing.join().unwrap();
        assert_eq!(rest(&parts), 2);
    });
}
