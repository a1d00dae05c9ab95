//! Promise: a full owned ring does what the policy says and takes nothing from others; acks, budgets
//! and ages are as with a shared ring.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::owned::{held, owned};
use common::{
    Gate, Going, LONG, Log, OWN, POLICIES, assert_balances, assert_in_order, null_sinks, poll_once,
    until,
};
use sluicegate::{
    AckReason, AddError, AddReason, Batcher, Builder, DropReason, DroppedItem, FlushReason,
    PumpStep, TestClock, WhenFull, sink,
};

// A full ring.

#[test]
fn a_ring_is_full_when_its_own_slots_are() {
    let (batcher, mut owner, gate, log) = held(owned(4).queue_depth(8));
    let mut other = batcher.owned_producer().unwrap();
    (1..5).for_each(|item| owner.try_add(item).unwrap());
    assert_eq!(owner.try_add(9), Err(AddError::Full(9)));
    let stats = batcher.stats();
    assert_eq!((stats.queue_depth, stats.queue_capacity, stats.rejected), (4, 16, 1));
    // The others have all of theirs, and the full shared one does not fill this.
    (0..4).for_each(|item| other.try_add(OWN + item).unwrap());
    assert_eq!(other.try_add(OWN + 9), Err(AddError::Full(OWN + 9)));
    (0..8).for_each(|item| batcher.producer().try_add(2 * OWN + item).unwrap());
    assert!(batcher.producer().try_add(2 * OWN + 9).is_err());
    assert_eq!(batcher.stats().queue_depth, 16);
    let mut run = vec![5, 6];
    assert_eq!(owner.try_add_many(&mut run), Ok(0));
    assert_eq!(run, [5, 6]);
    gate.open();
    assert_eq!(owner.add_many(&mut run), Ok(2));
    assert!(batcher.shutdown(LONG).is_clean());
    assert_in_order(&log.items());
    assert_eq!(log.items().len(), 1 + 4 + 4 + 8 + 2);
}

#[test]
fn a_run_goes_in_as_far_as_there_are_slots() {
    let (batcher, mut owner, gate, log) = held(owned(4));
    owner.try_add(1).unwrap();
    let mut run: Vec<_> = (2..8).collect();
    assert_eq!(owner.try_add_many(&mut run), Ok(3));
    assert_eq!(run, [5, 6, 7]);
    gate.open();
    batcher.flush(LONG).unwrap();
    assert_eq!(owner.add_many(&mut run), Ok(3));
    assert!(batcher.shutdown(LONG).is_clean());
    assert!(log.items().into_iter().eq(0..8));
}

#[test]
fn who_waits_for_a_time_gets_the_item_back() {
    let (batcher, mut owner, gate, _) = held(owned(2));
    (1..3).for_each(|item| owner.try_add(item).unwrap());
    let short = Duration::from_millis(1);
    assert_eq!(owner.add_timeout(3, short), Err(AddError::Timeout(3)));
    assert_eq!(owner.add_timeout(3, Duration::ZERO), Err(AddError::Timeout(3)));
    assert_eq!(owner.add_deadline(3, std::time::Instant::now()), Err(AddError::Timeout(3)));
    let stats = batcher.stats();
    assert_eq!((stats.rejected, stats.waiting_producers, stats.tally.enqueued), (3, 0, 3));
    thread::scope(|scope| {
        scope.spawn(|| owner.add_timeout(3, LONG).unwrap());
        until("it waits", || batcher.stats().waiting_producers == 1);
        gate.open();
    });
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 4);
}

#[test]
fn each_policy_does_with_a_full_ring_what_it_says() {
    for policy in POLICIES {
        let dropped = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&dropped);
        let builder = owned(2).queue_depth(8).when_full(policy).on_dropped(
            move |DroppedItem { item, reason, .. }| told.lock().unwrap().push((item, reason)),
        );
        let (batcher, mut owner, gate, log) = held(builder);
        let mut other = batcher.owned_producer().unwrap();
        // Older than all of the owner's: not its ring's, though.
        batcher.producer().add(2 * OWN).unwrap();
        other.add(OWN).unwrap();
        (1..3).for_each(|item| owner.add(item).unwrap());
        let mut left = vec![0, 2 * OWN, OWN, 1, 2];
        let mut lost = Vec::new();
        match policy {
            WhenFull::Block => {
                thread::scope(|scope| {
                    scope.spawn(|| owner.add(3).unwrap());
                    until("it waits", || batcher.stats().waiting_producers == 1);
                    gate.open();
                });
                left.push(3);
            }
            WhenFull::Reject => {
                assert_eq!(owner.add(3), Err(AddError::Full(3)));
                assert_eq!(
                    owner.add_many(&mut vec![3, 4]).map_err(|error| (error.added, error.reason)),
                    Err((0, AddReason::Full))
                );
            }
            WhenFull::DropNewest => {
                owner.add(3).unwrap();
                assert_eq!(owner.add_many(&mut vec![4, 5]), Ok(2));
                lost.extend((3..6).map(|item| (item, DropReason::Newest)));
            }
            WhenFull::DropOldest => {
                owner.add(3).unwrap();
                assert_eq!(owner.add_many(&mut vec![4]), Ok(1));
                lost.extend((1..3).map(|item| (item, DropReason::Oldest)));
                left.retain(|item| ![1, 2].contains(item));
                left.extend([3, 4]);
            }
        }
        let tally = batcher.tally();
        assert_balances(&tally);
        assert_eq!(tally.dropped, lost.len() as u64);
        gate.open();
        assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, left.len() as u64, "{policy:?}");
        let _ = batcher.shutdown(LONG);
        let mut written = log.items();
        assert_in_order(&written);
        written.sort_unstable();
        left.sort_unstable();
        assert_eq!(written, left, "{policy:?}");
        assert_eq!(*dropped.lock().unwrap(), lost, "{policy:?}");
    }
}

/// However the flusher and the owner meet: who is short of a slot takes none from others.
#[test]
fn the_oldest_of_another_ring_is_never_let_go_for_a_slot() {
    const ROUNDS: u64 = 10_000;
    for shared_is_pressed in [false, true] {
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        let batcher = Batcher::builder()
            .queue_depth(if shared_is_pressed { 2 } else { 64 })
            .owned_depth(2)
            .max_batch_size(2)
            .max_batch_delay(None)
            .when_full(WhenFull::DropOldest)
            .on_dropped(move |DroppedItem { item, .. }| {
                count.fetch_add(u64::from(item == 1), Ordering::Relaxed);
            })
            .spawn(null_sinks())
            .unwrap();
        let going = AtomicBool::new(true);
        thread::scope(|scope| {
            let (mut owner, producer) = (batcher.owned_producer().unwrap(), batcher.producer());
            let going = &going;
            let _stop = Going::new(going);
            let on = move || going.load(Ordering::Relaxed);
            let mut calm: Box<dyn FnMut()> = if shared_is_pressed {
                scope.spawn(move || while on() && producer.add(0).is_ok() {});
                Box::new(move || owner.add(1).unwrap())
            } else {
                scope.spawn(move || while on() && owner.add(0).is_ok() {});
                Box::new(move || producer.add(1).unwrap())
            };
            for _ in 0..ROUNDS {
                calm();
                batcher.flush(LONG).unwrap();
            }
        });
        assert_eq!(lost.load(Ordering::Relaxed), 0, "it never had more than one item queued");
        assert!(batcher.shutdown(LONG).left_behind.is_empty());
    }
}

// Acks, bytes, ages.

#[test]
fn acks_tell_of_each_item() {
    let (gate, log) = (Gate::new(), Log::new());
    let builder = Batcher::builder().owned_depth(2).max_batch_size(1).with_acks();
    let batcher = builder.when_full(WhenFull::DropOldest).spawn(log.gated(&gate)).unwrap();
    let mut owner = batcher.owned_producer().unwrap();
    let written = owner.add_with_ack(0).unwrap();
    gate.wait_for(1);
    let evicted = owner.add_with_ack(1).unwrap();
    let mut pending = owner.try_add_with_ack(2).unwrap();
    let last = owner.add_with_ack_timeout(3, Duration::ZERO).unwrap();
    assert_eq!(evicted.wait().unwrap_err().reason, AckReason::Evicted);
    assert!(pending.try_wait().is_none());
    gate.open();
    batcher.flush(LONG).unwrap();
    assert!([written, pending, last].into_iter().all(|ack| ack.wait().is_ok()));
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 3);
}

fn bytes(max: u64) -> Builder<u64, sluicegate::Tracked> {
    let weight = |item: &u64| usize::try_from(*item % OWN).unwrap();
    owned(64).weight(weight).max_queue_bytes(max)
}

#[test]
fn an_owner_that_waits_for_bytes_has_what_holds_them_written() {
    let log = Log::new();
    let batcher = bytes(10).spawn(log.factory()).unwrap();
    let mut owners: Vec<_> = (0..3).map(|_| batcher.owned_producer().unwrap()).collect();
    thread::scope(|scope| {
        for (id, owner) in (0..).zip(&mut owners) {
            scope.spawn(move || {
                // Far from a full batch, and no delay: only who waits can bring it about.
                (0..500).for_each(|item| owner.add(id * OWN + 1 + item % 10).unwrap());
                let mut run: Vec<_> = (0..500).map(|item| id * OWN + 1 + item % 10).collect();
                assert_eq!(owner.add_many(&mut run), Ok(500));
            });
        }
    });
    batcher.flush(LONG).unwrap();
    assert!(log.batches().iter().all(|batch| batch.bytes <= 10));
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (3_000, 0));
}

#[test]
fn owners_and_others_that_wait_for_bytes_are_woken_when_these_are_given_back() {
    let gate = Gate::new();
    let batcher = bytes(10).spawn(gate.sinks()).unwrap();
    batcher.producer().add(10).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            let mut owner = batcher.owned_producer().unwrap();
            scope.spawn(move || owner.add(4).unwrap());
            let producer = batcher.producer();
            scope.spawn(move || producer.add(4).unwrap());
        }
        until("all wait", || batcher.stats().waiting_producers == 6);
        assert_eq!(batcher.stats().queue_bytes, 10);
        gate.open();
    });
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (7, 0));
}

/// The first item of a ring is told of only after it has taken its bytes.
#[test]
fn while_somebody_waits_for_bytes_the_first_item_of_a_ring_is_written_too() {
    let builder = bytes(10).max_batch_size(2);
    let mut pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
    let (producer, mut owner) = (pump.producer(), pump.owned_producer().unwrap());
    (0..2).for_each(|_| producer.add(4).unwrap());
    let mut waits = Box::pin(producer.add_async(5));
    assert!(poll_once(&mut waits).is_pending());
    owner.add(1).unwrap();
    let mut step = || match pump.step() {
        PumpStep::Wrote { reason, items, .. } => Some((reason, items)),
        PumpStep::Idle | PumpStep::Done => None,
    };
    assert_eq!(step(), Some((FlushReason::Size, 2)));
    assert_eq!(step(), Some((FlushReason::Bytes, 1)), "its bytes are waited for, too");
    assert!(poll_once(&mut waits).is_ready());
    drop(waits);
    assert_eq!(pump.shutdown().tally.flushed_ok, 4);
}

/// The positions of what was let go stay empty, or a flush would wait for an item that is not there.
#[test]
fn what_is_let_go_for_bytes_between_two_rings_holds_up_no_flush() {
    let (gate, log) = (Gate::new(), Log::new());
    let builder = bytes(10).max_batch_size(2).when_full(WhenFull::DropOldest);
    let batcher = builder.spawn(log.gated(&gate)).unwrap();
    let (producer, mut owner) = (batcher.producer(), batcher.owned_producer().unwrap());
    (0..2).for_each(|_| producer.add(0).unwrap());
    gate.wait_for(1); // nobody takes anything out
    producer.add(1).unwrap();
    owner.add(8).unwrap();
    owner.add(9).unwrap(); // in place of 8
    producer.add(OWN).unwrap(); // weighs nothing
    assert_eq!(batcher.tally().dropped, 1);
    gate.open();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 5);
    assert_eq!(batcher.shutdown(LONG).tally.dropped, 1);
    assert_eq!(log.items(), [0, 0, 1, OWN, 9]);
}

#[test]
fn items_that_are_too_old_are_let_go_and_no_younger_ones() {
    let log = Log::new();
    let builder = owned(8).max_age(Duration::from_millis(10));
    let mut pump = builder.pump(log.sink(), TestClock::new()).unwrap();
    let (mut first, mut second) = (pump.owned_producer().unwrap(), pump.owned_producer().unwrap());
    first.add(0).unwrap();
    pump.advance(Duration::from_millis(1));
    second.add(1).unwrap();
    first.add(2).unwrap();
    pump.advance(Duration::from_millis(10));
    let tally = pump.flush();
    assert_eq!((tally.dropped, tally.flushed_ok), (1, 2));
    let mut items = log.items();
    items.sort_unstable();
    assert_eq!(items, [1, 2]);
    assert!(pump.shutdown().unflushed.is_empty());
}
