//! Forbidden: whoever waits for an ack sleeps after the item has met its fate; a failed item that
//! is with nobody, or with two: it goes to the ack, or, if that is gone, back to the engine.
//! Allowed: an ack dropped at the same time takes the item with it. Method: the engine's end
//! resolves at any moment of the ack's life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loom::thread::{self, JoinHandle};
use sluicegate::internals::{Admission, Clock, Promise, Writer, producer, promise, seat};
use sluicegate::sink::from_fn;
use sluicegate::{Ack, AckError, AckReason, Batch, Receipt, Tracked, WriteContext, WriteError};
use sluicegate_loom_tests::{Item, block_on, parts_with, poll_once, serve};

use crate::model;

fn ends() -> (Promise<Item>, Ack<Item>) {
    promise(1, 0, &Clock::Monotonic)
}

/// The item was refused; it comes back if nobody waits for its ack.
fn fail(promise: Promise<Item>) -> Option<Item> {
    let error = AckError { reason: AckReason::Failed, item: None, error: None, batch: None };
    promise.fail_with(error, Item::new(0, 0))
}

fn failing(promise: Promise<Item>) -> JoinHandle<()> {
    thread::spawn(move || assert!(fail(promise).is_none(), "somebody waits for it"))
}

fn has_the_item(outcome: Result<Receipt, AckError<Item>>) {
    let error = outcome.expect_err("it was refused");
    assert_eq!(error.reason, AckReason::Failed);
    assert!(error.item.is_some());
}

#[test]
fn a_thread_waits() {
    model(|| {
        let (promise, ack) = ends();
        let engine = failing(promise);
        has_the_item(ack.wait());
        engine.join().unwrap();
    });
}

#[test]
fn a_task_waits() {
    model(|| {
        let (promise, ack) = ends();
        let engine = failing(promise);
        has_the_item(block_on(ack));
        engine.join().unwrap();
    });
}

/// The task that polled first is another than the one that waits.
#[test]
fn another_waker() {
    model(|| {
        let (promise, mut ack) = ends();
        let engine = failing(promise);
        match poll_once(&mut ack) {
            Some(outcome) => has_the_item(outcome),
            None => has_the_item(block_on(ack)),
        }
        engine.join().unwrap();
    });
}

/// The ack is dropped at any moment. Gone before, it does not get the item.
#[test]
fn dropped() {
    model(|| {
        let (promise, ack) = ends();
        let gone = Arc::new(AtomicBool::new(false)); // of std: takes no part in the model
        let dropping = thread::spawn({
            let gone = Arc::clone(&gone);
            move || {
                drop(ack);
                gone.store(true, Ordering::Relaxed);
            }
        });
        thread::yield_now(); // it may be gone by now
        let was_gone = gone.load(Ordering::Relaxed);
        let back = fail(promise);
        assert!(back.is_some() || !was_gone, "nobody has it");
        dropping.join().unwrap();
    });
}

/// Dropped unresolved, the engine's end says so.
#[test]
fn abandoned() {
    model(|| {
        let (promise, ack) = ends();
        let engine = thread::spawn(move || drop(promise));
        assert_eq!(ack.wait().unwrap_err().reason, AckReason::Abandoned);
        engine.join().unwrap();
    });
}

/// Two items through a flusher, one refused: what an ack says is in the tally already.
#[test]
fn through_a_flusher() {
    model(|| {
        let parts = parts_with::<Tracked>(2, 2, 1, Admission::default());
        let waiting = thread::spawn({
            let parts = Arc::clone(&parts);
            move || {
                let producer = producer(Arc::clone(&parts));
                let taken = producer.add_with_ack(Item::new(0, 0)).unwrap();
                let refused = producer.add_with_ack(Item::new(0, 1)).unwrap();
                assert_eq!(taken.wait().unwrap().attempts, 1);
                assert_eq!(parts.tally().flushed_ok, 1);
                let error = block_on(refused).unwrap_err();
                assert_eq!(error.item.unwrap().number(), 1);
                parts.any().close();
            }
        });
        let sink = from_fn(|_: &Batch<Item>, cx: &mut WriteContext<'_>| {
            cx.fail(1, WriteError::permanent("refused"));
            Ok(())
        });
        serve(&parts, &mut Writer::new(seat(0), Some(sink)));
        waiting.join().unwrap();
        let tally = parts.tally();
        assert_eq!((tally.flushed_ok, tally.flushed_fail, tally.in_flight), (1, 1, 0));
        assert!(parts.ledger.take_failed().0.is_empty(), "the ack has it");
    });
}
