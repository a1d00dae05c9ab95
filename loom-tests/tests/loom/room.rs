//! Forbidden: a producer asleep while there is room, or after closing; an item that is neither
//! added nor given back. Allowed: a producer that does not wait takes the slot first. Method:
//! producers meet a full ring and add with the engine's own `add`; slots are freed by collecting;
//! nothing else wakes them, so a lost wake-up is a deadlock.

use std::sync::Arc;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::producer;
use sluicegate_loom_tests::{Item, Parts, add, collect, parts};

use crate::model;

/// Parts with a ring of two slots, both in use.
fn full(max_batch_size: usize) -> Parts {
    let parts = parts(2, max_batch_size, 1);
    (0..2).for_each(|n| add(&parts, Item::new(9, n)).unwrap());
    parts
}

/// Adds one item, waiting for room; whether it was added.
fn adding(parts: &Parts, id: u32) -> JoinHandle<bool> {
    let parts = Arc::clone(parts);
    thread::spawn(move || match add(&parts, Item::new(id, 0)) {
        Ok(()) => true,
        Err(back) => {
            assert_eq!(back.producer(), id);
            false
        }
    })
}

/// What collecting does to the ring, without the rest of it.
fn free_one(parts: &Parts) {
    let mut out = Vec::new();
    parts.any().ring.try_pop_run(&mut out, 1).expect("it was full");
    parts.any().room.freed(1);
}

fn rest(parts: &Parts) -> usize {
    let mut items = Vec::new();
    parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut items);
    items.len()
}

#[test]
fn one_waiter() {
    model(|| {
        let parts = full(1);
        let waiter = adding(&parts, 0);
        assert_eq!(collect(&parts).unwrap().len(), 1);
        assert!(waiter.join().unwrap());
        assert_eq!(rest(&parts), 2);
        assert_eq!(parts.any().room.len(), 0);
    });
}

/// A slot is freed, and then another. A waiter that finds room by itself must pass its wake-up on.
#[test]
fn two_waiters_one_slot_twice() {
    model(|| {
        let parts = full(1);
        let waiters = [0, 1].map(|id| adding(&parts, id));
        free_one(&parts);
        free_one(&parts);
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        assert_eq!(rest(&parts), 2);
    });
}

/// Two slots are freed at once: two must be woken.
#[test]
fn two_waiters_two_slots_at_once() {
    model(|| {
        let parts = full(2);
        let waiters = [0, 1].map(|id| adding(&parts, id));
        assert_eq!(collect(&parts).unwrap().len(), 2);
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        assert_eq!(rest(&parts), 2);
    });
}

/// A run wants both slots, and they are freed one by one.
#[test]
fn run() {
    model(|| {
        let parts = full(1);
        let waiter = thread::spawn({
            let producer = producer(Arc::clone(&parts));
            move || {
                let mut items = vec![Item::new(0, 0), Item::new(0, 1)];
                assert_eq!(producer.add_many(&mut items), Ok(2));
            }
        });
        collect(&parts).unwrap();
        collect(&parts).unwrap();
        waiter.join().unwrap();
        assert_eq!(rest(&parts), 2);
    });
}

#[test]
fn closing_wakes_all() {
    model(|| {
        let parts = full(1);
        let waiters = [0, 1].map(|id| adding(&parts, id));
        assert_eq!(parts.any().close(), 2);
        assert!(!waiters.into_iter().any(|waiter| waiter.join().unwrap()));
        assert_eq!(rest(&parts), 2);
    });
}

/// Closing races with freeing: the item is added or comes back.
#[test]
fn freeing_and_closing() {
    model(|| {
        let parts = full(1);
        let waiter = adding(&parts, 0);
        let closer = thread::spawn({
            let parts = Arc::clone(&parts);
            move || parts.any().close()
        });
        collect(&parts).unwrap();
        let added = waiter.join().unwrap();
        assert_eq!(closer.join().unwrap(), 2 + u64::from(added));
        assert_eq!(rest(&parts), 1 + usize::from(added));
    });
}
