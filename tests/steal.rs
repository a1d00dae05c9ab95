//! Promise: with `steal(true)` a flusher with nothing to do takes batches of a shard whose own
//! flushers are all in their sinks; without it, never.

#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{Gate, LONG, OWN, Rng, assert_once, random_sinks, sink_of, until};
use shard_rig::{Books, gates, homes, two_memories, two_nodes};
use sluicegate::{Batch, Batcher, Builder, Plain, Producer, Retry, WriteContext, WriteError};

/// Items from here on are there to bring a flusher into its sink.
const FIRST: u64 = 9 * OWN;

/// Two shards with a flusher each; the first one's is in its sink with an item, and stays there.
fn one_is_shut(builder: Builder<u64, Plain>) -> (Batcher<u64>, Books, Gate, [Producer<u64>; 2]) {
    let (books, gates) = (Books::default(), gates(2));
    gates[1].open();
    let batcher = builder.queue_depth(4).spawn(books.gated(&gates)).unwrap();
    let (producers, gate) = (homes(&batcher), gates[0].clone());
    bring_in(&batcher, &producers[0], &gate);
    (batcher, books, gate, producers)
}

/// Adds items one by one until one is in that sink: some may be taken by the other shard's flusher.
fn bring_in(batcher: &Batcher<u64>, producer: &Producer<u64>, gate: &Gate) {
    let mut items = FIRST..;
    until("the flusher is in its sink", || {
        if gate.arrived() == 0 && batcher.tally().in_flight == 0 {
            producer.add(items.next().unwrap()).unwrap();
        }
        gate.arrived() > 0
    });
}

/// The items that matter, in the order of the sinks' calls, each with its flusher.
fn written(books: &Books) -> Vec<(u64, usize)> {
    let items = books.batches().into_iter();
    let items = items.flat_map(|b| b.items.into_iter().map(move |item| (item, b.flusher)));
    items.filter(|(item, _)| *item < FIRST).collect()
}

/// Batches that another flusher than their shard's has written.
fn helped(books: &Books) -> u64 {
    books.batches().iter().filter(|batch| batch.flusher != batch.shard).count() as u64
}

#[test]
fn an_idle_flusher_writes_for_a_shard_whose_flusher_is_in_its_sink() {
    let (batcher, books, gate, [one, _]) = one_is_shut(two_nodes().max_batch_size(1).steal(true));
    // More than the ring holds: an add that finds it full calls for help.
    (0..50).for_each(|item| one.add(item).unwrap());
    let before = written(&books);
    assert!(before.len() >= 45, "{before:?}");
    for (expected, (item, flusher)) in (0..).zip(before) {
        assert_eq!((item, flusher), (expected, 1), "in the order of their ring");
    }
    gate.open();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && written(&books).len() == 50, "{:?}", report.tally);
    assert_once(&books.items());
    assert_eq!(report.stats.stolen, helped(&books));
}

/// With a weight items are carried over from one batch to the next, so there are some in the buffer
/// that is left behind.
#[test]
fn of_a_shard_whose_memory_lies_elsewhere_it_takes_the_items_and_not_the_buffer() {
    let weighed = two_memories().weight(|item: &u64| 1 + (*item % 7) as usize);
    for builder in [two_memories().max_batch_size(3), weighed.max_batch_size(4).max_batch_bytes(11)]
    {
        let (batcher, books, gate, [one, _]) = one_is_shut(builder.steal(true));
        (0..200).for_each(|item| one.add(item).unwrap());
        let before: Vec<_> = written(&books);
        assert!(before.len() >= 190, "{before:?}");
        for (expected, (item, flusher)) in (0..).zip(before) {
            assert_eq!((item, flusher), (expected, 1), "in the order of their ring");
        }
        gate.open();
        let report = batcher.shutdown(LONG);
        assert!(report.is_clean() && written(&books).len() == 200, "{:?}", report.tally);
        assert_once(&books.items());
        assert_eq!(report.stats.stolen, helped(&books));
    }
}

/// The flusher that took a batch tries it again, too: that of its shard may never come back.
#[test]
fn what_fails_in_other_hands_is_tried_again_there() {
    let (gate, failed) = (Gate::default(), Arc::new(AtomicU64::new(0)));
    let (shut, fails) = (gate.clone(), Arc::clone(&failed));
    let retry = Retry::default().initial_delay(Duration::from_millis(1));
    let builder = two_nodes().max_batch_size(1).queue_depth(4).steal(true).retry(retry);
    let batcher = builder
        .spawn(sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
            if cx.flusher().index == 0 {
                shut.pass();
            } else if batch.contains(&2) && fails.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(WriteError::transient("once"));
            }
            Ok(())
        }))
        .unwrap();
    let [one, _] = homes(&batcher);
    bring_in(&batcher, &one, &gate);
    let before = batcher.tally().flushed_ok;
    (0..10).for_each(|item| one.add(item).unwrap());
    // All but what the ring may hold for the one that does not come back.
    until("it was tried again", || {
        failed.load(Ordering::Relaxed) == 2 && batcher.tally().flushed_ok >= before + 6
    });
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn it_does_for_one_that_adds_many() {
    let (batcher, books, gate, [one, _]) = one_is_shut(two_nodes().max_batch_size(1).steal(true));
    thread::scope(|scope| {
        let _open = Opened(&gate);
        let adding = scope.spawn(|| one.add_many(&mut (0..50).collect()));
        until("all are in", || adding.is_finished());
        assert_eq!(adding.join().unwrap().unwrap(), 50);
    });
    assert!(batcher.shutdown(LONG).is_clean());
    assert_once(&books.items());
}

#[test]
fn a_flush_has_the_idle_flusher_write_what_is_asked_for() {
    let builder = two_nodes().max_batch_size(4).max_batch_delay(LONG).steal(true);
    let (books, gates) = (Books::default(), gates(2));
    gates[1].open();
    let batcher = builder.queue_depth(16).spawn(books.gated(&gates)).unwrap();
    let [one, _] = homes(&batcher);
    thread::scope(|scope| {
        let _open = Opened(&gates[0]);
        one.add(FIRST).unwrap();
        let first = scope.spawn(|| batcher.flush(LONG));
        until("it is being written", || books.items() == [FIRST]);
        one.add(0).unwrap();
        one.add(1).unwrap();
        if gates[0].arrived() > 0 {
            until("the others are written", || {
                let late = batcher.flush(Duration::from_millis(1));
                assert!(late.is_err(), "the first is in the sink");
                written(&books) == [(0, 1), (1, 1)]
            });
        }
        gates[0].open();
        first.join().unwrap().unwrap();
    });
    let report = batcher.shutdown(LONG);
    assert_eq!((report.is_clean(), report.stats.stolen), (true, helped(&books)));
}

/// Opens it, also if the test fails: the scope waits for its threads.
struct Opened<'a>(&'a Gate);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[test]
fn what_waits_alone_is_written_when_it_is_due() {
    let builder = two_nodes().max_batch_size(4).max_batch_delay(Duration::from_millis(5));
    let (batcher, books, gate, [one, other]) = one_is_shut(builder.steal(true));
    (0..3).for_each(|item| one.add(item).unwrap());
    other.add(OWN).unwrap(); // who is awake looks around
    until("all is written", || written(&books).len() == 4);
    assert!(written(&books).iter().all(|(_, flusher)| *flusher == 1), "{:?}", books.batches());
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn it_is_off_unless_asked_for() {
    let (batcher, books, gate, [one, other]) = one_is_shut(two_nodes().max_batch_size(1));
    (0..4).for_each(|item| one.try_add(item).unwrap());
    assert!(one.try_add(4).is_err(), "full, and nobody helps");
    (0..20).for_each(|number| other.add(OWN + number).unwrap());
    until("the other shard is written", || books.of(1).len() == 20);
    assert_eq!(books.of(0), [FIRST]);
    gate.open();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.is_clean(), report.stats.stolen), (true, 0));
    assert!(books.batches().iter().all(|batch| batch.flusher == batch.shard));
}

#[test]
fn accounts_hold_while_everybody_helps_everybody() {
    let mut rng = Rng::seeded();
    let books = Books::default();
    let taken = books.clone();
    let sinks = random_sinks(rng.fork(), move |batch: &Batch<u64>, cx, rng| {
        (0..rng.below(20)).for_each(|_| rng.pause());
        taken.record(batch, cx.flusher().index);
        Ok(())
    });
    let builder = Batcher::builder().shards(3).steal(true).queue_depth(8).max_batch_size(2);
    let batcher = builder.spawn(sinks).unwrap();
    thread::scope(|scope| {
        for id in 0..4 {
            let (producer, mut rng) = (batcher.producer(), rng.fork());
            scope.spawn(move || {
                (0..1_500).for_each(|number| {
                    rng.pause();
                    producer.add(id * OWN + number).unwrap();
                });
            });
        }
        until("all is written", || {
            assert!(batcher.tally().balances());
            books.items().len() == 6_000
        });
    });
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean(), "{:?}", report.tally);
    assert_once(&books.items());
    assert_eq!(helped(&books), report.stats.stolen);
    for shard in 0..3 {
        let ids: Vec<_> =
            books.batches().iter().filter(|b| b.shard == shard).map(|b| b.id).collect();
        assert_once(&ids);
        assert!(ids.iter().all(|id| (id - 1) % 3 == shard as u64), "a shard has its own numbers");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn an_async_flusher_helps_and_is_helped() {
    use sluicegate::{AsyncContext, Flusher, WriteError, sink};

    let (books, door) = (Books::default(), Gate::new());
    let (taken, gate) = (books.clone(), door.clone());
    let builder = two_nodes().max_batch_size(1).queue_depth(4).steal(true);
    let batcher = builder
        .spawn_async(async move |flusher: Flusher| {
            let (books, gate) = (taken.clone(), gate.clone());
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    books.record(batch, flusher.index);
                    if flusher.index == 0 {
                        gate.pass(); // one that blocks its thread, even
                    }
                    Ok(())
                },
            ))
        })
        .unwrap();
    let [one, _] = homes(&batcher);
    bring_in(&batcher, &one, &door);
    (0..100).for_each(|item| one.add(item).unwrap());
    let before = written(&books);
    assert!(before.len() >= 95 && before.iter().all(|(_, flusher)| *flusher == 1), "{before:?}");
    door.open();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean(), "{:?}", report.tally);
    assert_once(&books.items());
    assert_eq!(report.stats.stolen, helped(&books));
}

/// Items that the helper has taken out of the ring to weigh them, not yet enough for a batch, are
/// not forgotten: the ring is empty then.
#[test]
fn what_is_out_of_the_ring_and_in_no_batch_is_written_too() {
    let builder = two_nodes().weight(|_: &u64| 1).max_batch_bytes(3).max_batch_size(4);
    let builder = builder.max_batch_delay(Duration::from_millis(50)).steal(true);
    let (batcher, books, gate, [one, other]) = one_is_shut(builder);
    one.add(0).unwrap();
    let mut own = OWN..;
    until("it was taken out of the ring, or written", || {
        if batcher.stats().oldest_age.is_some() && batcher.stats().queue_depth > 0 {
            let _ = other.try_add(own.next().unwrap()); // the helper is awake, and looks around
        }
        batcher.stats().queue_depth == 0
    });
    until("it is written", || written(&books).contains(&(0, 1)));
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}
