//! Forbidden, of an engine with two shards: an item of a producer that overtakes an earlier one
//! when its producer follows its thread to the other shard; a producer asleep while there is room
//! in a shard that it may use, or bytes given back by the other shard; a flush that returns before
//! the items of both have met their fate; a full ring that an idle neighbour never hears of.
//! Allowed: a producer that stays. Method: each thread seems to run on the CPU of one of two nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::{
    Admission, Budget, Resolution, Shared, Writer, producer, seat, seem_on_cpu,
};
use sluicegate::sink::from_fn;
use sluicegate::{Batch, Mode, OnFailure, Plain, Retry, Sink, Tracked, WriteContext, WriteError};
use sluicegate_loom_tests::{Failing, Item, Parts, add, collect, make, serve};

use crate::model;

/// Longer than any model: loom has no clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

/// The items written, a bit for each; of std, for it is no part of the model.
type Written = Arc<AtomicU64>;

/// Two shards with a flusher each.
fn two(queue_depth: usize, max_batch_size: usize, choice: Failing) -> Parts {
    let choice = Failing { more_shards: 1, ..choice };
    make::<Plain>(queue_depth, max_batch_size, 2, Admission::default(), choice)
}

/// A sink that says which items it has written, once it has.
fn writer(index: usize, written: &Written, order: bool) -> Writer<impl Sink<Item> + use<>> {
    let written = Arc::clone(written);
    let sink = from_fn(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| {
        for item in batch {
            let before = (1 << item.number()) - 1;
            let seen = written.load(Ordering::Relaxed);
            assert!(!order || seen & before == before, "an item has overtaken another");
        }
        thread::yield_now(); // a write takes its time: others run meanwhile
        let bits = batch.iter().map(|item| 1 << item.number()).sum();
        assert_eq!(written.fetch_or(bits, Ordering::Relaxed) & bits, 0, "an item came twice");
        Ok(())
    });
    Writer::new(seat(index), Some(sink))
}

fn flusher(parts: &Parts, index: usize, written: &Written, order: bool) -> JoinHandle<()> {
    let (parts, mut writer) = (Arc::clone(parts), writer(index, written, order));
    thread::spawn(move || serve(&parts, &mut writer))
}

/// Adds an item from the CPU of that number.
fn add_on<M: Mode<Item>>(parts: &Arc<Shared<Item, M>>, cpu: u32, item: Item) -> bool {
    seem_on_cpu(cpu);
    add(parts, item).is_ok()
}

/// Of one producer whose thread goes over to the other node, and writes there itself what it has
/// added.
#[test]
fn following() {
    let moved = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&moved);
    model(move || {
        let parts = two(2, 1, Failing { follows: true, ..Failing::default() });
        let written = Written::default();
        let first = flusher(&parts, 0, &written, true);
        seem_on_cpu(0);
        let producer = producer(Arc::clone(&parts));
        producer.add(Item::new(0, 0)).unwrap();
        seem_on_cpu(1);
        producer.add(Item::new(0, 1)).unwrap();
        seen.fetch_or(producer.home() == Some(1), Ordering::Relaxed);
        parts.close();
        serve(&parts, &mut writer(1, &written, true));
        first.join().unwrap();
        assert_eq!(parts.tally().flushed_ok, 2);
    });
    assert!(moved.load(Ordering::Relaxed), "it never moved: nothing was shown");
}

/// Both rings are full; room comes in the one that is not the waiter's home.
#[test]
fn room_elsewhere() {
    model(|| {
        let parts = two(2, 1, Failing { overflows: true, ..Failing::default() });
        (0..4).for_each(|number| assert!(add_on(&parts, 0, Item::new(9, number))));
        let waiter = thread::spawn({
            let parts = Arc::clone(&parts);
            move || add_on(&parts, 0, Item::new(0, 0))
        });
        let mut out = Vec::new();
        let other = &parts.shards[1];
        other.ring.try_pop_run(&mut out, 1).expect("it was full");
        other.room.freed(1);
        assert!(waiter.join().unwrap());
        assert_eq!((parts.shards[0].ring.len(), other.ring.len()), (2, 2));
        for shard in &parts.shards {
            shard.take_rest(&mut shard.lease.lock().unwrap(), &mut out);
        }
        assert_eq!(out.len(), 5);
    });
}

/// The bytes that a producer of the second shard waits for are those of an item in the first, which
/// nothing but the wait has written: its batch is not full.
#[test]
fn bytes_elsewhere() {
    model(|| {
        let admission = Admission {
            budget: Some(Budget::new(1)),
            weight: Some(Arc::new(|_: &Item| 1)),
            ..Admission::default()
        };
        let choice = Failing { more_shards: 1, ..Failing::default() };
        let parts = make::<Tracked>(2, 2, 2, admission, choice);
        assert!(add_on(&parts, 0, Item::new(9, 0)));
        let waiter = thread::spawn({
            let parts = Arc::clone(&parts);
            move || add_on(&parts, 1, Item::new(0, 0))
        });
        assert_eq!(collect(&parts).unwrap().len(), 1);
        parts.any().release(1);
        assert!(waiter.join().unwrap());
        let mut rest = Vec::new();
        let other = &parts.shards[1];
        other.take_rest(&mut other.lease.lock().unwrap(), &mut rest);
        assert_eq!(rest.len(), 1);
    });
}

/// A barrier is for the second shard, too.
#[test]
fn flush_of_both() {
    model(|| {
        let parts = two(2, 2, Failing::default());
        let written = Written::default();
        let second = flusher(&parts, 1, &written, false);
        assert!(add_on(&parts, 1, Item::new(0, 0)));
        assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
        assert_eq!(written.load(Ordering::Relaxed), 1, "flush came back too early");
        parts.close();
        second.join().unwrap();
    });
}

/// The first write of a key's first item fails. Whoever tries it again, the second item of the key
/// must not be written meanwhile; the other shard's flusher has nothing else to do.
#[test]
fn order_of_a_key() {
    model(|| {
        let retry = Retry::default().give_up_after(None);
        let retry = retry.initial_delay(Duration::ZERO).max_delay(Duration::ZERO);
        let choice = Failing {
            retry: Some(retry),
            on_failure: OnFailure::ParkKey,
            one_key: true,
            ..Failing::default()
        };
        let parts = two(2, 1, choice);
        let (calls, written) = (Arc::new(AtomicU64::new(0)), Written::default());
        let sink = |index| {
            let (calls, mut writer) = (Arc::clone(&calls), writer(index, &written, true));
            let sink = from_fn(move |batch: &Batch<Item>, cx: &mut WriteContext<'_>| {
                if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                    return Err(WriteError::transient("once"));
                }
                writer.sink().map_or(Ok(()), |sink| sink.write(batch, cx))
            });
            Writer::new(seat(index), Some(sink))
        };
        (0..2).for_each(|number| assert!(add_on(&parts, 0, Item::new(0, number))));
        parts.close();
        let other = thread::spawn({
            let (parts, mut writer) = (Arc::clone(&parts), sink(1));
            move || serve(&parts, &mut writer)
        });
        serve(&parts, &mut sink(0));
        other.join().unwrap();
        assert_eq!(parts.tally().flushed_ok, 2);
    });
}

/// The flusher of the first shard is in its sink for ever; that of the second has nothing to do.
#[test]
fn help() {
    model(|| {
        let parts = two(2, 2, Failing { steals: true, ..Failing::default() });
        let written = Written::default();
        let thief = flusher(&parts, 1, &written, false);
        (0..3).for_each(|number| assert!(add_on(&parts, 0, Item::new(0, number))));
        parts.close();
        thief.join().unwrap();
        let mut rest = Vec::new();
        let first = &parts.shards[0];
        first.take_rest(&mut first.lease.lock().unwrap(), &mut rest);
        assert_eq!(parts.tally().flushed_ok + rest.len() as u64, 3);
    });
}
