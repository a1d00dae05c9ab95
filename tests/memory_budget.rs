//! Promise: the items in flight never hold more than `max_queue_bytes`, whoever waits for bytes
//! gets them, and each byte is given back once.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common::{
    Gate, Going, LONG, Log, POLICIES, Rng, assert_balances, holding, no_second_try, null_sinks,
    poll_once, random_sinks, until,
};
use sluicegate::{
    AddError, AddManyError, AddReason, Batch, Batcher, Builder, ConfigError, DropReason,
    FlushReason, SpawnError, TestClock, Tracked, WhenFull, WriteContext, WriteError, sink,
};

/// An item is its own weight. Nothing closes a batch but the budget and a flush.
fn budget(bytes: u64) -> Builder<u64, Tracked> {
    Batcher::builder()
        .max_batch_size(512)
        .max_batch_delay(None)
        .weight(|item: &u64| usize::try_from(*item).unwrap())
        .max_queue_bytes(bytes)
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let refused = |builder: Builder<u64, Tracked>| -> ConfigError {
        match builder.spawn(null_sinks()) {
            Err(SpawnError::Config(error)) => error,
            other => panic!("{:?}", other.map(drop)),
        }
    };
    let error = refused(Batcher::builder().max_queue_bytes(10));
    assert_eq!(error.key(), "max_queue_bytes");
    assert!(error.to_string().contains("weight"), "{error}");
    assert_eq!(refused(budget(0)).key(), "max_queue_bytes");
    let error = refused(budget(10).max_batch_bytes(11));
    assert_eq!(error.key(), "max_batch_bytes");
    assert!(error.to_string().contains("11") && error.to_string().contains("10"), "{error}");
    let batcher = budget(10).max_batch_bytes(10).spawn(null_sinks()).unwrap();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn an_item_larger_than_all_of_it_is_refused_with_its_size_under_every_policy() {
    for policy in POLICIES {
        let batcher = budget(10).when_full(policy).spawn(null_sinks()).unwrap();
        let producer = batcher.producer();
        producer.add(10).unwrap();
        let error = AddError::TooLarge { item: 11, bytes: 11, max_queue_bytes: 10 };
        let reason = error.reason();
        assert_eq!(producer.add(11), Err(error));
        assert_eq!(producer.try_add(11), Err(error));
        assert_eq!(producer.add_timeout(11, LONG), Err(error), "it would wait for ever");
        assert_eq!(producer.add_with_ack(11).unwrap_err(), error);
        assert_eq!(poll_once(&mut producer.add_async(11)), Poll::Ready(Err(error)));
        batcher.flush(LONG).unwrap();
        // In a run: what is before it is in, and it is the first that is not.
        let mut items = vec![3, 4, 11, 1];
        assert_eq!(producer.add_many(&mut items), Err(AddManyError { added: 2, reason }));
        assert_eq!(items, [11, 1]);
        assert_eq!(producer.try_add_many(&mut items), Err(AddManyError { added: 0, reason }));
        assert_eq!(items, [11, 1]);
        assert_eq!(error.to_string(), "the item has 11 bytes, and max_queue_bytes is 10");
        assert_eq!(batcher.stats().rejected, 7, "{policy:?}");
        let report = batcher.shutdown(LONG);
        assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (3, 0));
    }
}

#[test]
fn bytes_count_from_the_add_until_the_fate() {
    let gate = Gate::new();
    let batcher = budget(10).spawn(gate.sinks()).unwrap();
    let producer = batcher.producer();
    producer.try_add(4).unwrap();
    producer.try_add(6).unwrap();
    producer.try_add(0).unwrap(); // takes nothing
    assert_eq!(batcher.stats().queue_bytes, 10);
    assert_eq!(producer.try_add(1), Err(AddError::Full(1)));
    gate.wait_for(1); // who was refused for bytes has what holds them written
    assert_eq!((batcher.stats().queue_depth, batcher.stats().queue_bytes), (0, 10));
    assert_eq!(producer.try_add(1), Err(AddError::Full(1)), "the sink has them still");
    gate.open();
    batcher.flush(LONG).unwrap();
    assert_eq!(batcher.stats().queue_bytes, 0);
    producer.try_add(10).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.rejected), (4, 2));
    assert_eq!(report.stats.queue_bytes, 0);
}

#[test]
fn who_waits_for_bytes_has_what_holds_them_written() {
    let log = Log::new();
    let batcher = budget(10).spawn(log.factory()).unwrap();
    let producer = batcher.producer();
    // Far from a full batch, and no delay: only the one who waits can bring it about.
    (0..100).for_each(|item| producer.add(1 + item % 10).unwrap());
    let mut run: Vec<u64> = (0..300).map(|item| 1 + item % 10).collect();
    assert_eq!(producer.add_many(&mut run), Ok(300));
    let mut acks = Vec::new();
    (0..20).for_each(|_| acks.push(producer.add_with_ack(7).unwrap()));
    let stats = batcher.stats();
    assert!(stats.flush_reasons.get(FlushReason::Bytes) >= 60, "{:?}", stats.flush_reasons);
    assert!(log.batches().iter().all(|batch| batch.bytes <= 10));
    batcher.flush(LONG).unwrap();
    assert!(acks.into_iter().all(|ack| ack.wait().is_ok()));
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.stats.queue_bytes, 0);
}

#[test]
fn a_pump_presses_too() {
    let mut pump = budget(10).pump(sink::NullSink, TestClock::new()).unwrap();
    let producer = pump.producer();
    producer.add(8).unwrap();
    assert_eq!(pump.run(), 0, "nothing is due");
    let mut adding = producer.add_async(3);
    assert!(poll_once(&mut adding).is_pending());
    assert_eq!(pump.run(), 1);
    assert_eq!(poll_once(&mut adding), Poll::Ready(Ok(())));
    assert_eq!(pump.stats().queue_bytes, 3);
    assert_eq!(pump.run(), 0);
    assert_eq!(pump.shutdown().stats.queue_bytes, 0);
}

#[test]
fn an_add_that_does_not_happen_leaks_nothing() {
    let gate = Gate::new();
    let batcher = budget(10).queue_depth(2).max_batch_size(2).spawn(gate.sinks()).unwrap();
    let producer = batcher.producer();
    producer.add_many(&mut vec![2, 2]).unwrap();
    gate.wait_for(1);
    let refused = |held: u64, item: u64| {
        assert_eq!(producer.try_add(item), Err(AddError::Full(item)));
        assert_eq!(producer.add_timeout(item, Duration::ZERO), Err(AddError::Timeout(item)));
        let short = Duration::from_micros(50);
        assert_eq!(producer.add_timeout(item, short), Err(AddError::Timeout(item)));
        assert_eq!(producer.try_add_many(&mut vec![item, item]), Ok(0));
        let mut adding = producer.add_async(item);
        assert!(poll_once(&mut adding).is_pending());
        assert_eq!(batcher.stats().waiting_producers, 1);
        drop(adding); // cancelled
        drop(producer.add_with_ack_async(item)); // and never polled
        assert_eq!(batcher.stats().waiting_producers, 0);
        assert_eq!(batcher.stats().queue_bytes, held);
    };
    refused(4, 7); // there are slots, and no bytes
    producer.try_add_many(&mut vec![1, 1]).unwrap();
    refused(6, 1); // there are bytes, and no slot: they are taken and given back
    let panicked = catch_unwind(AssertUnwindSafe(|| producer.try_add(u64::MAX)));
    assert!(panicked.unwrap().is_err());
    batcher.close();
    assert_eq!(producer.add(1), Err(AddError::Closed(1)));
    assert_eq!(batcher.stats().queue_bytes, 6);
    gate.open();
    assert_eq!(batcher.shutdown(LONG).stats.queue_bytes, 0);
}

#[test]
fn a_run_goes_in_as_far_as_there_are_bytes() {
    let batcher = budget(10).when_full(WhenFull::Reject).spawn(null_sinks()).unwrap();
    let mut items = vec![1, 2, 3, 4, 5];
    let gone = batcher.producer().add_many(&mut items);
    assert_eq!(gone, Err(AddManyError { added: 4, reason: AddReason::Full }));
    assert_eq!(items, [5]);
    batcher.flush(LONG).unwrap();
    assert_eq!(batcher.producer().try_add_many(&mut items), Ok(1));
    // As many slots as it takes, but not so many items are charged at a time.
    batcher.flush(LONG).unwrap();
    let mut items = vec![0; 300];
    assert_eq!(batcher.producer().add_many(&mut items), Ok(300));
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (305, 0));
}

#[test]
fn policies_that_let_go_know_bytes_too() {
    for policy in [WhenFull::DropNewest, WhenFull::DropOldest] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let mut pump = budget(10)
            .when_full(policy)
            .on_dropped(move |dropped| tell.lock().unwrap().push((dropped.item, dropped.reason)))
            .pump(sink::NullSink, TestClock::new())
            .unwrap();
        let producer = pump.producer();
        producer.add_many(&mut vec![1, 2, 3, 4]).unwrap();
        producer.add(6).unwrap();
        assert_eq!(producer.try_add_many(&mut vec![5, 10]), Ok(2));
        let (newest, oldest) = (DropReason::Newest, DropReason::Oldest);
        // As many of the oldest as the new one needs.
        let (expected, left) = match policy {
            WhenFull::DropNewest => (vec![(6, newest), (5, newest), (10, newest)], 10),
            _ => ([1, 2, 3, 4, 6, 5].map(|item| (item, oldest)).to_vec(), 10),
        };
        assert_eq!(*told.lock().unwrap(), expected);
        assert_eq!(pump.stats().queue_bytes, left);
        let tally = pump.flush();
        assert_balances(&tally);
        assert_eq!((tally.enqueued, tally.dropped), (7, expected.len() as u64));
        assert_eq!(pump.stats().queue_bytes, 0);
    }
}

#[test]
fn under_drop_oldest_bytes_that_a_sink_holds_cannot_be_had() {
    let gate = Gate::new();
    let batcher = holding(budget(10).when_full(WhenFull::DropOldest), &gate, 8);
    let producer = batcher.producer();
    producer.add(2).unwrap();
    assert_eq!(producer.add(3), Err(AddError::Full(3)));
    let stats = batcher.stats();
    assert_eq!((stats.queue_bytes, stats.rejected), (8, 1));
    assert_eq!(stats.drops.get(DropReason::Oldest), 1, "2 was let go in vain");
    gate.open();
    assert_eq!(batcher.shutdown(LONG).stats.queue_bytes, 0);
}

#[test]
fn every_fate_gives_the_bytes_back() {
    let clock = TestClock::new();
    let mut calls = 0;
    let sink = sink::from_fn(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
        calls += 1;
        match calls {
            1 => Err(WriteError::permanent("no")),
            2 => {
                cx.fail(0, WriteError::permanent("bad"));
                Ok(())
            }
            3 => Ok(()),
            _ => resume_unwind(Box::new("as planned")),
        }
    });
    let weighed = AtomicU64::new(0);
    let mut pump = no_second_try(budget(10))
        .max_age(Duration::from_secs(1))
        .weight(move |item| {
            // Panics when the flusher asks, not on adding.
            if *item == 3 && weighed.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
                resume_unwind(Box::new("as planned"));
            }
            usize::try_from(*item).unwrap()
        })
        .pump(sink, clock.clone())
        .unwrap();
    for round in 0..6 {
        let _ack = pump.producer().add_with_ack(4).unwrap();
        pump.producer().add_many(&mut vec![2, 1]).unwrap();
        pump.producer().add(3).unwrap();
        assert_eq!(pump.stats().queue_bytes, 10, "{round}");
        if round == 3 {
            clock.advance(Duration::from_secs(2)); // all of it too old
        }
        assert_balances(&pump.flush());
        assert_eq!(pump.stats().queue_bytes, 0, "{round}");
    }
    pump.producer().add(4).unwrap();
    let report = pump.shutdown();
    assert_eq!((report.stats.queue_bytes, report.tally.enqueued), (0, 25));
}

#[test]
fn what_shutdown_hands_back_or_leaves_behind_holds_nothing() {
    let gate = Gate::new();
    let batcher = budget(100)
        .max_batch_size(2)
        .max_batch_bytes(5)
        .queue_depth(16)
        .spawn(gate.sinks())
        .unwrap();
    batcher.producer().add_many(&mut (1..=9).collect()).unwrap();
    gate.wait_for(1);
    assert_eq!(batcher.stats().queue_bytes, 45);
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.tally.unknown, report.unflushed.len()), (2, 7));
    assert_eq!(report.stats.queue_bytes, 0);
    gate.open();
}

#[test]
fn a_weight_that_says_another_number_each_time_still_ends_at_nothing() {
    let mut rng = Rng::seeded();
    for round in 0..50 {
        let dice = Mutex::new(rng.fork());
        let log = Log::new();
        let batcher = Batcher::builder()
            .max_batch_size(8)
            .queue_depth(16)
            .max_batch_delay(None)
            .weight(move |_: &u64| dice.lock().unwrap().index(10))
            .max_batch_bytes(10)
            .max_queue_bytes(20)
            .when_full(if round % 2 == 0 { WhenFull::Block } else { WhenFull::DropOldest })
            .spawn(log.factory())
            .unwrap();
        // `DropOldest` finds the queue full while the sink holds the bytes.
        let mut added = 0;
        for item in 0..100 {
            let producer = batcher.producer();
            let ok = match item % 3 {
                0 => {
                    let mut items = vec![item; 5];
                    let ok = producer.add_many(&mut items).is_ok();
                    added += 5 - items.len() as u64;
                    ok
                }
                1 => producer.add_with_ack(item).map(|_| added += 1).is_ok(),
                _ => producer.add(item).map(|()| added += 1).is_ok(),
            };
            assert!(ok || round % 2 == 1, "to block is to get in");
            assert!(batcher.stats().queue_bytes <= 20);
        }
        batcher.flush(LONG).unwrap();
        assert_eq!(batcher.stats().queue_bytes, 0);
        let report = batcher.shutdown(LONG);
        assert_eq!(report.tally.flushed_ok + report.tally.dropped, added);
    }
}

#[test]
fn with_many_threads_it_is_never_exceeded_and_all_get_through() {
    const MAX: u64 = 50;
    let mut rng = Rng::seeded();
    for flushers in [1, 2] {
        let sinks = random_sinks(rng.fork(), |_, _, rng| {
            rng.pause();
            if rng.one_in(5) { Err(WriteError::permanent("no")) } else { Ok(()) }
        });
        let batcher = budget(MAX).flushers(flushers).spawn(sinks).unwrap();
        let going = AtomicBool::new(true);
        let added: u64 = thread::scope(|scope| {
            let _stop = Going::new(&going);
            scope.spawn(|| {
                while going.load(Ordering::Relaxed) {
                    let stats = batcher.stats();
                    assert!(stats.queue_bytes <= MAX, "{stats:?}");
                    assert_balances(&stats.tally);
                    thread::yield_now();
                }
            });
            let producers: Vec<_> = (0..4)
                .map(|_| {
                    let (producer, mut rng) = (batcher.producer(), rng.fork());
                    scope.spawn(move || {
                        let mut added = 0;
                        for _ in 0..1_000 {
                            let item = rng.below(MAX + 1);
                            match rng.below(4) {
                                0 => added += u64::from(producer.try_add(item).is_ok()),
                                1 => {
                                    let timeout = Duration::from_micros(20);
                                    added += u64::from(producer.add_timeout(item, timeout).is_ok());
                                }
                                2 => {
                                    let mut run = vec![item % 7; 10];
                                    added += producer.add_many(&mut run).unwrap() as u64;
                                }
                                _ => {
                                    // Not for ever: who is forgotten must fail, not hang.
                                    producer.add_timeout(item, LONG).unwrap();
                                    added += 1;
                                }
                            }
                        }
                        added
                    })
                })
                .collect();
            producers.into_iter().map(|producer| producer.join().unwrap()).sum()
        });
        let tally = batcher.flush(LONG).unwrap();
        assert_eq!((tally.enqueued, tally.in_flight), (added, 0));
        assert_eq!(batcher.stats().queue_bytes, 0);
        assert_eq!(batcher.shutdown(LONG).tally.dropped, 0);
    }
}

#[test]
fn who_comes_last_is_not_forgotten() {
    // Two adds for which there are bytes for one, again and again, and nothing else to bring a
    // batch about: the one that waits must have the other's written.
    let batcher = budget(1).spawn(null_sinks()).unwrap();
    for _ in 0..2_000 {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| batcher.producer().add_timeout(1, LONG).unwrap());
            }
        });
    }
    until("the last one can be flushed", || batcher.flush(LONG).is_ok());
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.stats.queue_bytes), (4_000, 0));
}
