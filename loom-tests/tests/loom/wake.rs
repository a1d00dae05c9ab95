//! Forbidden: a flusher asleep while what it waits for is there (the items, a flush, closing, a
//! stop). Allowed: a wake-up too many. Method: nothing wakes the flusher but the protocol, so a
//! lost wake-up is a deadlock, which loom reports. There is no time in loom: who would come when a
//! batch is due, comes with a demand at any moment.

use std::sync::Arc;

use loom::thread;
use sluicegate::FlushReason;
use sluicegate::internals::Want;
use sluicegate_loom_tests::{Item, Parts, add, collect, parts};

use crate::{join, model};

fn spawn(parts: &Parts, run: impl FnOnce(&Parts) + Send + 'static) -> thread::JoinHandle<()> {
    let parts = Arc::clone(parts);
    thread::spawn(move || run(&parts))
}

/// The flusher sleeps until the ring is claimed up to 2: the later of two producers must wake it.
#[test]
fn full_batch() {
    model(|| {
        let parts = parts(2, 2, 1);
        let producers =
            [0, 1].map(|id| spawn(&parts, move |parts| add(parts, Item::new(id, 0)).unwrap()));
        let shard = &parts.any();
        let want = Want::Items { first: 0, position: 2 };
        let mut out = Vec::new();
        while out.len() < 2 {
            if shard.ring.try_pop_run(&mut out, 2).is_err() {
                let slept = shard.wake.park(&shard.ring, None, want, 0, None).is_some();
                assert!(!slept || shard.ring.pushed() == 2, "nobody else wakes it");
                thread::yield_now();
            }
        }
        join(producers);
    });
}

/// It sleeps for each item anew: a wake-up left over from one sleep must not be missing in the
/// next.
#[test]
fn item_after_item() {
    model(|| {
        let parts = parts(2, 1, 1);
        let producer = spawn(&parts, |parts| {
            (0..2).for_each(|n| add(parts, Item::new(0, n)).unwrap());
        });
        assert_eq!(collect(&parts).unwrap().len(), 1);
        assert_eq!(collect(&parts).unwrap().len(), 1);
        producer.join().unwrap();
    });
}

/// A batch that is not full is written on demand, whether the flusher sleeps for its end or for its
/// first item.
#[test]
fn demand() {
    model(|| {
        let parts = parts(4, 4, 1);
        let producer = spawn(&parts, |parts| {
            add(parts, Item::new(0, 0)).unwrap();
            parts.any().wake.demand(&parts.any().ring, 1);
        });
        let batch = collect(&parts).unwrap();
        assert_eq!((batch.len(), batch.reason()), (1, FlushReason::Flush));
        producer.join().unwrap();
    });
}

/// The demand comes from another thread than the item.
#[test]
fn demand_of_another() {
    model(|| {
        let parts = parts(4, 4, 1);
        add(&parts, Item::new(0, 0)).unwrap();
        let other = spawn(&parts, |parts| parts.any().wake.demand(&parts.any().ring, 1));
        let producer = spawn(&parts, |parts| add(parts, Item::new(1, 0)).unwrap());
        let batch = collect(&parts).unwrap();
        assert_eq!(batch.reason(), FlushReason::Flush);
        assert!(!batch.is_empty());
        other.join().unwrap();
        producer.join().unwrap();
    });
}

#[test]
fn close() {
    model(|| {
        let parts = parts(4, 4, 1);
        let producer = spawn(&parts, |parts| drop(add(parts, Item::new(0, 0))));
        let closer = spawn(&parts, |parts| assert!(parts.any().close() <= 1));
        let mut batches = 0;
        while let Some(batch) = collect(&parts) {
            assert_eq!(batch.len(), 1);
            // `Flush` when closing came between two looks of the flusher: it wakes by demanding a
            // flush.
            assert!(matches!(batch.reason(), FlushReason::Shutdown | FlushReason::Flush));
            batches += 1;
        }
        producer.join().unwrap();
        closer.join().unwrap();
        assert_eq!(parts.any().ring.pushed(), batches);
    });
}

#[test]
fn stop() {
    model(|| {
        let parts = parts(4, 4, 1);
        let producer = spawn(&parts, |parts| add(parts, Item::new(0, 0)).unwrap());
        let stopper = spawn(&parts, |parts| parts.any().stop());
        assert!(collect(&parts).is_none());
        producer.join().unwrap();
        stopper.join().unwrap();
    });
}
