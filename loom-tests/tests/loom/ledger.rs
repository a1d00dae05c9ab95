//! Forbidden: a tally that does not add up at any moment; an item with two fates or none; a write
//! that starts after shutdown has given up. Allowed: an item that is being written when its flusher
//! is left behind counts as `unknown`. Method: whoever reads or gives up does so at any moment of a
//! flusher's life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::thread;
use sluicegate::internals::{Writer, seat};
use sluicegate::sink::from_fn;
use sluicegate::{Batch, Sink, Tally, WriteContext};
use sluicegate_loom_tests::{Item, Parts, add, parts, serve};

use crate::model;

fn tally(parts: &Parts) -> Tally {
    checked(parts.tally())
}

fn checked(tally: Tally) -> Tally {
    assert!(tally.balances(), "{tally:?}");
    assert!(tally.in_flight <= tally.enqueued, "{tally:?}");
    tally
}

/// A writer that counts its calls; of std, for the count is no part of the model.
fn writer(calls: &Arc<AtomicU64>) -> Writer<impl Sink<Item> + use<>> {
    let calls = Arc::clone(calls);
    let sink = from_fn(move |_: &Batch<Item>, _: &mut WriteContext<'_>| {
        calls.fetch_add(1, Ordering::Relaxed);
        thread::yield_now(); // a write takes its time
        Ok(())
    });
    Writer::new(seat(0), Some(sink))
}

fn spawn(parts: &Parts, run: impl FnOnce(&Parts) + Send + 'static) -> thread::JoinHandle<()> {
    let parts = Arc::clone(parts);
    thread::spawn(move || run(&parts))
}

#[test]
fn tally_at_any_moment() {
    model(|| {
        let parts = parts(2, 1, 1);
        let producer = spawn(&parts, |parts| {
            add(parts, Item::new(0, 0)).unwrap();
            parts.any().close();
        });
        let serving = spawn(&parts, |parts| serve(parts, &mut writer(&Arc::default())));
        let first = tally(&parts);
        let second = checked(parts.stats().tally);
        assert!(first.enqueued <= second.enqueued && first.flushed_ok <= second.flushed_ok);
        producer.join().unwrap();
        serving.join().unwrap();
        let end = tally(&parts);
        assert_eq!((end.enqueued, end.flushed_ok, end.in_flight), (1, 1, 0));
    });
}

/// Shutdown gives up while a flusher collects, writes, settles, or has ended.
#[test]
fn giving_up() {
    model(|| {
        let parts = parts(2, 2, 1);
        add(&parts, Item::new(0, 0)).unwrap();
        parts.any().close();
        let calls = Arc::new(AtomicU64::new(0));
        let serving = spawn(&parts, {
            let calls = Arc::clone(&calls);
            move |parts| {
                serve(parts, &mut writer(&calls));
                parts.ledger.ended(seat(0), Vec::new());
            }
        });
        parts.ledger.stop();
        parts.any().stop();
        let left = parts.ledger.leave_behind(None);
        let (before, calls_before) = (tally(&parts), calls.load(Ordering::Relaxed));
        serving.join().unwrap();
        let after = tally(&parts);
        if left.is_empty() {
            assert_eq!(calls.load(Ordering::Relaxed), calls_before, "no write may start now");
        } else {
            assert_eq!((before.unknown, before.in_flight), (1, 0));
            assert_eq!(after, before, "what a flusher left behind still does counts for nothing");
        }
        let mut unflushed = parts.ledger.take_handed_back();
        parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut unflushed);
        assert_eq!(unflushed.len() as u64, after.in_flight);
    });
}
