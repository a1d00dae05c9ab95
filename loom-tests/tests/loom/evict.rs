//! Forbidden: an item flushed and dropped, or neither; a tally that does not add up at any moment;
//! a flush that returns before an item let go was counted, or that waits for one. Allowed: an add
//! finds nothing to let go of and gives its item back. Method: a producer meets a full ring under
//! `DropOldest` while a flusher collects; items in the sink's hands are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::{Admission, Resolution, Writer, drain_one, producer, seat};
use sluicegate::sink::from_fn;
use sluicegate::{AddError, Batch, Plain, Sink, Tally, WhenFull, WriteContext};
use sluicegate_loom_tests::{Item, Parts, add, next, parts_with, serve, write};

use crate::model;

/// Longer than any model: loom has no clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

/// Items written; of std, for it is no part of the model.
type Written = Arc<AtomicU64>;

/// Parts with a ring of two slots that lets go of the oldest item.
fn parts(max_batch_size: usize) -> Parts {
    let admission = Admission { when_full: WhenFull::DropOldest, ..Admission::default() };
    parts_with::<Plain>(2, max_batch_size, 1, admission)
}

fn writer(written: &Written) -> Writer<impl Sink<Item> + use<>> {
    let written = Arc::clone(written);
    let sink = from_fn(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| {
        written.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(()) // at once: to yield would let the producer count the item it has let go of
    });
    Writer::new(seat(0), Some(sink))
}

fn serving(parts: &Parts, written: &Written) -> JoinHandle<()> {
    let (parts, written) = (Arc::clone(parts), Arc::clone(written));
    thread::spawn(move || serve(&parts, &mut writer(&written)))
}

/// Adds one item, which may be refused; whether it went in.
fn adding(parts: &Parts, id: u32) -> bool {
    match producer(Arc::clone(parts)).add(Item::new(id, 0)) {
        Ok(()) => true,
        Err(AddError::Full(_)) => false,
        Err(other) => panic!("{other:?}"),
    }
}

fn spawn_adding(parts: &Parts, id: u32) -> JoinHandle<bool> {
    let parts = Arc::clone(parts);
    thread::spawn(move || adding(&parts, id))
}

fn tally(parts: &Parts) -> Tally {
    let tally = parts.tally();
    assert!(tally.balances(), "{tally:?}");
    tally
}

/// A flush has returned for items before that position: each has its fate.
fn covered(parts: &Parts, position: u64) {
    let tally = tally(parts);
    assert!(tally.flushed_ok + tally.dropped >= position, "flush came back too early: {tally:?}");
}

/// At the end, with nothing in flight.
fn check(parts: &Parts, written: &Written, added: u64) {
    let end = tally(parts);
    assert_eq!((end.enqueued, end.in_flight), (added, 0), "{end:?}");
    assert_eq!(end.flushed_ok, written.load(Ordering::Relaxed), "an item with two fates");
}

/// Batches of one: the flusher takes the items while they are let go.
#[test]
fn one_more() {
    model(|| {
        let (parts, written) = (parts(1), Written::default());
        (0..2).for_each(|n| add(&parts, Item::new(9, n)).unwrap());
        let adding = spawn_adding(&parts, 0);
        let serving = serving(&parts, &written);
        let first = tally(&parts);
        let second = tally(&parts);
        assert!(first.dropped <= second.dropped);
        let added = adding.join().unwrap();
        parts.any().close();
        serving.join().unwrap();
        check(&parts, &written, 2 + u64::from(added));
    });
}

/// Two at a time let go of items, and nobody collects meanwhile.
#[test]
fn two_more() {
    model(|| {
        let (parts, written) = (parts(2), Written::default());
        (0..2).for_each(|n| add(&parts, Item::new(9, n)).unwrap());
        let both = [0, 1].map(|id| spawn_adding(&parts, id));
        tally(&parts);
        let added: u64 = both.into_iter().map(|adding| u64::from(adding.join().unwrap())).sum();
        parts.any().close();
        let serving = serving(&parts, &written);
        serving.join().unwrap();
        check(&parts, &written, 2 + added);
    });
}

/// A flush waits for items that are all let go: nobody collects, and it returns.
#[test]
fn barrier() {
    model(|| {
        let (parts, written) = (parts(4), Written::default());
        (0..2).for_each(|n| add(&parts, Item::new(9, n)).unwrap());
        let adding = thread::spawn({
            let parts = Arc::clone(&parts);
            move || assert!(adding(&parts, 0) && adding(&parts, 1))
        });
        assert_eq!(parts.ledger.wait_resolved(&[2], FOR_EVER), Resolution::Resolved);
        covered(&parts, 2);
        adding.join().unwrap();
        parts.any().close();
        serve(&parts, &mut writer(&written));
        check(&parts, &written, 4);
    });
}

/// The flusher has begun a batch; the item let go would have been its second one.
#[test]
fn from_the_middle() {
    model(|| {
        let (parts, written) = (parts(3), Written::default());
        add(&parts, Item::new(9, 0)).unwrap();
        drain_one(parts.any(), &mut parts.any().lease.lock().unwrap());
        (1..3).for_each(|n| add(&parts, Item::new(9, n)).unwrap());
        assert_eq!(*parts.demand_all(), [3]);
        let adding = spawn_adding(&parts, 0);
        let mut writer = writer(&written);
        thread::yield_now(); // the producer may be anywhere by now
        let batch = next(&parts).unwrap();
        assert!(write(&parts, &mut writer, batch));
        assert_eq!(parts.ledger.wait_resolved(&[3], FOR_EVER), Resolution::Resolved);
        covered(&parts, 3);
        let added = adding.join().unwrap();
        parts.any().close();
        serve(&parts, &mut writer);
        check(&parts, &written, 3 + u64::from(added));
    });
}
