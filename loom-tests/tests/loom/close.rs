//! Forbidden: an item accepted and not delivered, or delivered and not accepted; a count from
//! `close` that is not the number of items; a consumer that goes on for ever, or ends while an item
//! is still to come. Allowed: any push that comes close to closing may be refused, with its item
//! back. Method: closing races with one and with two producers, and whoever consumes goes on until
//! it is told that nothing will come.

use std::sync::Arc;

use loom::thread;
use sluicegate::ring::{PopError, PushError, Ring};
use sluicegate_loom_tests::Item;

use crate::model;

/// Tries each item once; returns how many were accepted.
fn push_all(ring: &Ring<Item>, producer: u32, items: u32) -> u64 {
    let accepted = (0..items).take_while(|&n| match ring.try_push(Item::new(producer, n)) {
        Ok(()) => true,
        Err(PushError::Closed(back)) => {
            assert_eq!((back.producer(), back.number()), (producer, n));
            false
        }
        Err(refused) => panic!("{refused}: there is room for all"),
    });
    accepted.count() as u64
}

/// Pops until nothing will come.
fn drain(ring: &Ring<Item>) -> u64 {
    let mut out = Vec::new();
    loop {
        match ring.try_pop_run(&mut out, 2) {
            Ok(_) => {}
            Err(PopError::Closed) => return out.len() as u64,
            Err(PopError::Empty | PopError::Busy) => thread::yield_now(),
        }
    }
}

fn check<const PRODUCERS: usize>(producers: [u32; PRODUCERS], items: u32) {
    let ring = Arc::new(Ring::starting_at(2, (1 << 63) - 1).unwrap());
    let pushing = producers.map(|id| {
        let ring = Arc::clone(&ring);
        thread::spawn(move || push_all(&ring, id, items))
    });
    let consumer = thread::spawn({
        let ring = Arc::clone(&ring);
        move || drain(&ring)
    });
    let count = ring.close();
    assert_eq!(ring.close(), count, "closing again changes nothing");
    let accepted: u64 = pushing.into_iter().map(|producer| producer.join().unwrap()).sum();
    assert_eq!((consumer.join().unwrap(), accepted), (count, count));
}

#[test]
fn one_producer() {
    model(|| check([0], 2));
}

#[test]
fn two_producers() {
    model(|| check([0, 1], 1));
}
