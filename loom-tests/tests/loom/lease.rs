//! Forbidden: an item in two batches or in none; a gap or an overlap between batches; a flusher
//! that does not end after closing. Allowed: any split of the batches between the flushers. Method:
//! two flushers collect under the lease until they are told that there will be no more.

use std::sync::Arc;

use loom::thread;
use sluicegate::internals::position;
use sluicegate_loom_tests::{Item, Parts, add, collect, parts};

use crate::model;

/// Position and length of each batch, by its number.
type Batches = Vec<(u64, u64, u64)>;

fn collect_all(parts: &Parts) -> Batches {
    let mut batches = Batches::new();
    while let Some(batch) = collect(parts) {
        batches.push((batch.id().get(), position(&batch), batch.len() as u64));
    }
    batches
}

/// The batches stand side by side, in the order of their numbers, and hold `items` items.
fn contiguous(mut batches: Batches, items: u64) {
    batches.sort_unstable();
    let mut next = 0;
    for (&(id, position, len), number) in batches.iter().zip(1..) {
        assert_eq!((id, position), (number, next), "{batches:?}");
        assert_ne!(len, 0, "an empty batch");
        next += len;
    }
    assert_eq!(next, items, "{batches:?}");
}

fn two_flushers(parts: &Parts, items: impl FnOnce() -> u64) {
    let other = thread::spawn({
        let parts = Arc::clone(parts);
        move || collect_all(&parts)
    });
    let mut batches = collect_all(parts);
    batches.append(&mut other.join().unwrap());
    contiguous(batches, items());
}

/// Two batches are there, for one flusher each or both for one, and closing comes at any moment.
#[test]
fn two_batches() {
    model(|| {
        let parts = parts(2, 1, 2);
        (0..2).for_each(|n| add(&parts, Item::new(0, n)).unwrap());
        let closer = thread::spawn({
            let parts = Arc::clone(&parts);
            move || parts.any().close()
        });
        two_flushers(&parts, || closer.join().unwrap());
    });
}

/// An item and closing come at any moment.
#[test]
fn add_and_close() {
    model(|| {
        let parts = parts(2, 2, 2);
        let producer = thread::spawn({
            let parts = Arc::clone(&parts);
            move || u64::from(add(&parts, Item::new(0, 0)).is_ok())
        });
        let closer = thread::spawn({
            let parts = Arc::clone(&parts);
            move || parts.any().close()
        });
        two_flushers(&parts, || {
            let count = closer.join().unwrap();
            assert_eq!(producer.join().unwrap(), count);
            count
        });
    });
}
