//! Forbidden, of rings that a producer owns beside the one that is shared: an item lost, seen twice
//! or out of its owner's order; an item refused and taken, or neither; whoever drains ends while an
//! item is to come, or never; a flusher asleep over what it waits for; a flush that returns before
//! an item added before it has met its fate, or never; an item let go for a slot of another ring;
//! an owner asleep while its ring has room, or
//! after closing; slots kept by a ring that has neither owner nor items. Allowed: a wake-up too
//! many; an add close to closing is refused; an add finds nothing to let go of. Method: first a ring and its owner alone, then an
//! engine's parts, where nothing wakes a sleeper but the protocol. Both sides of the barrier are
//! fences. Rings of two slots are drained at each item; those of eight let the flusher sleep for a
//! part of a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::{
    Admission, Budget, Closing, Front, Owner, Push, Resolution, Writer, owned_producer, producer,
    seat,
};
use sluicegate::ring::{Barrier, PushError, Ring};
use sluicegate::sink::from_fn;
use sluicegate::{
    AddError, Batch, FlushReason, OwnedProducer, Plain, Sink, Tracked, WhenFull, WriteContext,
};
use sluicegate_loom_tests::{Failing, Item, Parts, add, collect, make, poll_once, serve};

use crate::{join, model};

/// Longer than any model: loom has no clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);
/// Slots of an owned ring that is drained at each item.
const SMALL: usize = 2;
/// Slots of one that is not.
const LARGE: usize = 8;

/// The items written, a bit for each; of std, for it is no part of the model.
type Written = Arc<AtomicU64>;

/// An owner of two slots whose words wrap at the second item.
fn owner(barrier: Barrier) -> (Owner<Item>, Arc<Closing>) {
    let closing = Arc::new(Closing::new(barrier));
    let ring = Ring::starting_at(2, (1 << 63) - 1).unwrap();
    (Owner::new(ring, Arc::clone(&closing)), closing)
}

fn parts_with(owned_depth: usize, max_batch_size: usize, admission: Admission<Item>) -> Parts {
    let choice = Failing { owned_depth, ..Failing::default() };
    make::<Plain>(2, max_batch_size, 1, admission, choice)
}

fn parts(owned_depth: usize, max_batch_size: usize) -> Parts {
    parts_with(owned_depth, max_batch_size, Admission::default())
}

/// Puts what was added so far into the order of all rings.
fn look(parts: &Parts) {
    let shard = parts.any();
    shard.owned.as_ref().unwrap().look(&shard.ring, 0, u64::MAX);
}

fn add_own(owner: &mut OwnedProducer<Item>, number: u32) {
    owner.add(Item::new(0, number)).unwrap();
}

/// Adds these, one by one.
fn adding(
    mut owner: OwnedProducer<Item>,
    numbers: impl IntoIterator<Item = u32> + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || numbers.into_iter().for_each(|number| add_own(&mut owner, number)))
}

fn numbers(batch: &Batch<Item>) -> Vec<u32> {
    batch.iter().map(Item::number).collect()
}

fn bit(item: &Item) -> u64 {
    1 << item.number()
}

fn writer(written: &Written) -> Writer<impl Sink<Item> + use<>> {
    let written = Arc::clone(written);
    let sink = from_fn(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| {
        thread::yield_now(); // a write takes its time: others run meanwhile
        let bits = batch.iter().map(bit).sum();
        assert_eq!(written.fetch_or(bits, Ordering::Relaxed) & bits, 0, "an item came twice");
        Ok(())
    });
    Writer::new(seat(0), Some(sink))
}

/// The consumer looks at the last slot of two first. Without any fence: the light side has none.
#[test]
fn wrap() {
    model(|| {
        let (owner, _) = owner(Barrier::Asymmetric);
        let ring = Arc::clone(owner.ring());
        let adding = thread::spawn(move || {
            for number in 0..3 {
                let mut item = Item::new(0, number);
                while let Err(refused) = owner.push(item) {
                    item = match refused {
                        PushError::Full(back) | PushError::Busy(back) => back,
                        PushError::Closed(_) => panic!("nobody closes"),
                    };
                    thread::yield_now();
                }
            }
        });
        let mut out = Vec::new();
        while out.len() < 3 {
            if ring.pop_run(&mut out, 2).is_err() {
                thread::yield_now();
            }
        }
        assert!(out.iter().map(Item::number).eq(0..3), "{out:?}");
        adding.join().unwrap();
    });
}

/// The owner looks at the last slot of two alone, which a consumer has freed after the other.
#[test]
fn runs() {
    model(|| {
        let (owner, _) = owner(Barrier::Asymmetric);
        let ring = Arc::clone(owner.ring());
        let adding = thread::spawn(move || {
            for first in [0, 2] {
                let mut items = vec![Item::new(0, first), Item::new(0, first + 1)];
                while !items.is_empty() {
                    if owner.push_run(&mut Front::new(&mut items), 2, |item| item).is_err() {
                        thread::yield_now();
                    }
                }
            }
        });
        let mut out = Vec::new();
        while out.len() < 4 {
            if ring.pop_run(&mut out, 2).is_err() {
                thread::yield_now();
            }
        }
        assert!(out.iter().map(Item::number).eq(0..4), "{out:?}");
        adding.join().unwrap();
    });
}

/// Closing against one push. Once the owner is not in the middle of a claim, the tail is final.
#[test]
fn closing() {
    model(|| {
        let (owner, closing) = owner(Barrier::Fences);
        let ring = Arc::clone(owner.ring());
        let adding = thread::spawn(move || match owner.push(Item::new(0, 0)) {
            Ok(_) => 1,
            Err(PushError::Closed(back)) => u64::from(back.number()),
            Err(refused) => panic!("{refused}: there is room"),
        });
        closing.close();
        while !ring.is_final() {
            thread::yield_now();
        }
        let (end, mut out) = (ring.pushed(), Vec::new());
        while ring.popped() < end {
            if ring.pop_run(&mut out, 2).is_err() {
                thread::yield_now();
            }
        }
        assert_eq!(adding.join().unwrap(), end);
        assert_eq!(ring.pushed(), end, "it was final");
    });
}

/// The same of an engine: who collects ends when everything that was taken is out.
#[test]
fn closing_an_engine() {
    model(|| {
        let parts = parts(SMALL, 2);
        let mut owner = owned_producer(&parts);
        let adding = thread::spawn(move || u64::from(owner.add(Item::new(0, 0)).is_ok()));
        parts.any().close();
        let mut collected = 0;
        while let Some(batch) = collect(&parts) {
            collected += batch.len() as u64;
        }
        assert_eq!((adding.join().unwrap(), parts.any().pushed()), (collected, collected));
    });
}

/// The ring is quiet at first, and active while the flusher sleeps for the second item.
#[test]
fn item_after_item() {
    model(|| {
        let parts = parts(SMALL, 1);
        let adding = adding(owned_producer(&parts), [0, 1]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [0]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [1]);
        adding.join().unwrap();
    });
}

/// The ring turns quiet while an item comes.
#[test]
fn turning_quiet() {
    model(|| {
        let parts = parts(SMALL, 1);
        let mut owner = owned_producer(&parts);
        add_own(&mut owner, 0);
        assert_eq!(collect(&parts).unwrap().len(), 1);
        // A sleep that ends at once: at the next one nothing has come since.
        assert!(!parts.any().beside().unwrap().lie_down(2, &mut |_| true));
        let adding = adding(owner, [1]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [1]);
        adding.join().unwrap();
    });
}

/// The flusher finds, awake, that the ring has turned quiet, while an item comes.
#[test]
fn swept() {
    model(|| {
        let parts = parts(SMALL, 1);
        let mut owner = owned_producer(&parts);
        add_own(&mut owner, 0);
        assert_eq!(collect(&parts).unwrap().len(), 1);
        let rings = parts.any().owned.as_ref().unwrap();
        rings.sweep(); // at the next one nothing has come since
        let adding = adding(owner, [1]);
        rings.sweep();
        assert_eq!(numbers(&collect(&parts).unwrap()), [1]);
        adding.join().unwrap();
    });
}

/// An active ring, of which the flusher wants two items before it wakes.
#[test]
fn part_of_a_batch() {
    model(|| {
        let parts = parts(LARGE, 3);
        let mut owner = owned_producer(&parts);
        add_own(&mut owner, 0);
        let adding = adding(owner, [1, 2]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [0, 1, 2]);
        adding.join().unwrap();
    });
}

/// Two rings have brought an item each, and each brings one of the two that are missing.
#[test]
fn two_owned() {
    model(|| {
        let parts = parts(LARGE, 4);
        let owners = [0, 1].map(|number| {
            let mut owner = owned_producer(&parts);
            add_own(&mut owner, number);
            owner
        });
        let mut next = 2..;
        let adding = owners.map(|owner| adding(owner, next.next()));
        assert_eq!(collect(&parts).unwrap().len(), 4);
        join(adding);
    });
}

/// The same of an owned ring and the shared one, both from one thread.
#[test]
fn owned_and_shared() {
    model(|| {
        let parts = parts(LARGE, 4);
        let mut owner = owned_producer(&parts);
        add_own(&mut owner, 0);
        add(&parts, Item::new(1, 0)).unwrap();
        let adding = thread::spawn({
            let parts = Arc::clone(&parts);
            move || {
                add_own(&mut owner, 1);
                add(&parts, Item::new(1, 1)).unwrap();
            }
        });
        assert_eq!(collect(&parts).unwrap().len(), 4);
        adding.join().unwrap();
    });
}

/// The owner flushes what it has added, whether its ring was quiet or not.
#[test]
fn flush() {
    model(|| {
        let (parts, written) = (parts(LARGE, 4), Written::default());
        let mut owner = owned_producer(&parts);
        let flushing = thread::spawn({
            let (parts, written) = (Arc::clone(&parts), Arc::clone(&written));
            move || {
                add_own(&mut owner, 0);
                assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
                assert_eq!(written.load(Ordering::Relaxed), 1, "flush came back too early");
                parts.any().close();
            }
        });
        serve(&parts, &mut writer(&written));
        flushing.join().unwrap();
        assert_eq!(parts.tally().flushed_ok, 1);
    });
}

/// The owner goes, and leaves an item.
#[test]
fn orphan() {
    model(|| {
        let parts = parts(SMALL, 1);
        let adding = adding(owned_producer(&parts), [0]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [0]);
        adding.join().unwrap();
        look(&parts);
        assert_eq!(parts.any().capacity(), parts.any().ring.capacity(), "its slots are free");
    });
}

/// An owner lets go of the oldest item of its ring, which is in the middle of the order of all. The
/// others' items are not touched: it has no use for their slots.
#[test]
fn evict() {
    model(|| {
        let admission = Admission { when_full: WhenFull::DropOldest, ..Admission::default() };
        let (parts, written) = (parts_with(SMALL, 1, admission), Written::default());
        let mut owner = owned_producer(&parts);
        add(&parts, Item::new(9, 3)).unwrap();
        look(&parts);
        (0..2).for_each(|number| add_own(&mut owner, number));
        look(&parts);
        add(&parts, Item::new(9, 4)).unwrap();
        let evicting = thread::spawn({
            let parts = Arc::clone(&parts);
            move || {
                let added = match owner.add(Item::new(0, 2)) {
                    Ok(()) => 1,
                    Err(AddError::Full(_)) => 0, // just on their way out
                    Err(other) => panic!("{other:?}"),
                };
                assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
                let tally = parts.tally();
                let met = tally.flushed_ok + tally.dropped;
                assert_eq!(met, 4 + added, "flush came back too early");
                parts.any().close();
                added << 2
            }
        });
        serve(&parts, &mut writer(&written));
        let added = evicting.join().unwrap();
        let (tally, written) = (parts.tally(), written.load(Ordering::Relaxed));
        assert!(tally.balances() && tally.in_flight == 0, "{tally:?}");
        assert_eq!(tally.flushed_ok, u64::from(written.count_ones()), "an item with two fates");
        assert_eq!(written & 0b1_1100, 0b1_1000 | added, "an item of another ring, or the newest");
    });
}

/// The last item of the order is let go. The one before is of the ring that brings the next one.
#[test]
fn evict_at_the_end() {
    model(|| {
        let (parts, written) = (parts(LARGE, 1), Written::default());
        let mut owner = owned_producer(&parts);
        add_own(&mut owner, 0);
        look(&parts);
        add(&parts, Item::new(9, 1)).unwrap();
        drop(parts.ledger.evict(parts.any(), None, false, false).unwrap());
        add_own(&mut owner, 2);
        parts.any().close();
        serve(&parts, &mut writer(&written));
        assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
        assert_eq!(written.load(Ordering::Relaxed), 0b101);
    });
}

/// The owner waits for room in its ring.
#[test]
fn room() {
    model(|| {
        let parts = parts(SMALL, 1);
        let mut owner = owned_producer(&parts);
        (0..2).for_each(|number| add_own(&mut owner, number));
        let adding = adding(owner, [2]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [0]);
        adding.join().unwrap();
        assert_eq!(numbers(&collect(&parts).unwrap()), [1]);
        assert_eq!(numbers(&collect(&parts).unwrap()), [2]);
    });
}

/// It waits, and gets its item back.
#[test]
fn closing_wakes_the_owner() {
    model(|| {
        let parts = parts(SMALL, 2);
        let mut owner = owned_producer(&parts);
        (0..2).for_each(|number| add_own(&mut owner, number));
        let waiter = thread::spawn(move || assert!(owner.add(Item::new(0, 2)).is_err()));
        parts.any().close();
        waiter.join().unwrap();
        assert_eq!(numbers(&collect(&parts).unwrap()), [0, 1]);
    });
}

/// A task was short of bytes before there was an item in the ring, which is quiet. That item has
/// some of the bytes, and its batch does not fill.
#[test]
fn press() {
    model(|| {
        let admission = Admission {
            budget: Some(Budget::new(3)),
            weight: Some(Arc::new(|item: &Item| item.number() as usize)),
            ..Admission::default()
        };
        let choice = Failing { owned_depth: SMALL, ..Failing::default() };
        let parts = make::<Tracked>(2, 2, 1, admission, choice);
        let mut owner = owned_producer(&parts);
        let other = parts.any().charge(&parts.any().ring, 1).unwrap().unwrap();
        let producer = producer(Arc::clone(&parts));
        let mut short = producer.add_async(Item::new(9, 3));
        assert!(poll_once(&mut short).is_none());
        owner.add(Item::new(0, 2)).unwrap();
        let batch = collect(&parts).unwrap();
        assert_eq!((batch.len(), batch.reason()), (1, FlushReason::Bytes));
        drop(other);
        parts.any().release(2);
        assert!(poll_once(&mut short).is_some_and(|added| added.is_ok()));
        parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut Vec::new());
    });
}
