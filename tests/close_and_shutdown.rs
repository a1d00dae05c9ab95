//! Promise: closing takes nothing more and gives back what waits; shutdown returns by its deadline,
//! whatever the sink does, and says of every item where it is.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{
    Census, Gate, LONG, Log, Rng, Tracked, assert_balances, full, no_second_try, null_sinks,
    refusing_sinks, sink_of, until,
};
use sluicegate::{
    AddError, AddReason, Batch, Batcher, LeftBehind, Shutdown, Sink, Stuck, WriteContext,
    WriteError, sink,
};

#[test]
fn an_add_after_close_gives_the_item_back() {
    let batcher = Batcher::builder().spawn(Log::new().factory()).unwrap();
    let producer = batcher.producer();
    producer.add(1).unwrap();
    assert!(!batcher.is_closed());
    batcher.close();
    batcher.close();
    assert!(batcher.is_closed());
    assert_eq!(producer.add(2), Err(AddError::Closed(2)));
    assert_eq!(producer.try_add(3), Err(AddError::Closed(3)));
    assert_eq!(producer.add_timeout(4, LONG), Err(AddError::Closed(4)));
    let mut items = vec![5, 6];
    let error = producer.add_many(&mut items).unwrap_err();
    assert_eq!((error.added, error.reason), (0, AddReason::Closed));
    assert_eq!(producer.try_add_many(&mut items).unwrap_err().reason, AddReason::Closed);
    assert_eq!(items, [5, 6]);
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.tally.enqueued, 1);
    assert_eq!(producer.add(7), Err(AddError::Closed(7)), "after the engine is gone, too");
}

#[test]
fn producers_that_wait_for_room_get_their_items_back() {
    let (batcher, gate, log) = full(2);
    thread::scope(|scope| {
        let one = scope.spawn(|| batcher.producer().add(10));
        let timed = scope.spawn(|| batcher.producer().add_timeout(11, Duration::MAX));
        let many = scope.spawn(|| {
            let mut items = vec![12, 13];
            (batcher.producer().add_many(&mut items), items)
        });
        until("all three wait", || batcher.stats().waiting_producers == 3);
        batcher.close();
        assert_eq!(one.join().unwrap(), Err(AddError::Closed(10)));
        assert_eq!(timed.join().unwrap(), Err(AddError::Closed(11)));
        let (result, items) = many.join().unwrap();
        assert_eq!(result.unwrap_err().reason, AddReason::Closed);
        assert_eq!(items, [12, 13]);
    });
    gate.open();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(log.items(), [0, 1, 2]);
}

#[test]
fn a_hung_sink_is_left_behind_and_everything_is_in_the_report() {
    for deadline in [Duration::ZERO, Duration::from_millis(20)] {
        let (gate, log, failed) = (Gate::new(), Log::<u64>::new(), Arc::new(AtomicU64::new(0)));
        let (door, census, count) = (gate.clone(), Census::default(), Arc::clone(&failed));
        let batcher = Batcher::builder()
            .max_batch_size(4)
            .queue_depth(32)
            .on_failed(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .spawn(sink_of(move |batch: &Batch<Tracked>, cx: &mut WriteContext<'_>| {
                door.pass();
                cx.fail(0, WriteError::permanent("too late to matter"));
                assert_eq!(batch.len(), 4);
                Err(WriteError::permanent("too late to matter"))
            }))
            .unwrap();
        (0..15).for_each(|n| batcher.producer().add(census.item(n)).unwrap());
        gate.wait_for(1);
        let report = batcher.shutdown(deadline);
        assert_eq!(report.left_behind.len(), 1);
        assert!(
            matches!(report.left_behind[0].stuck, Stuck::Writing { items: 4, batch } if batch.get() == 1)
        );
        assert_balances(&report.tally);
        let tally = report.tally;
        assert_eq!((tally.enqueued, tally.unknown, tally.in_flight), (15, 4, 11));
        let handed_back: Vec<u64> = report.unflushed.iter().map(|item| item.number).collect();
        assert_eq!(handed_back, (4..15).collect::<Vec<_>>(), "exactly those not written, in order");
        assert!(!report.is_clean());
        // Its late return counts for nothing: nothing is reported twice, nothing more is written.
        assert_eq!(census.dropped(), 0, "the hung sink still borrows its batch");
        gate.open();
        until("the sink is back", || census.dropped() == 4);
        assert_eq!(gate.arrived(), 1);
        assert_eq!(failed.load(Ordering::Relaxed), 0);
        drop(report);
        assert_eq!((census.made(), census.dropped()), (15, 15));
        assert_eq!(log.items(), []);
    }
}

#[test]
fn one_hung_flusher_does_not_keep_the_other_from_draining() {
    let (gate, log) = (Gate::new(), Log::new());
    let (door, record) = (gate.clone(), log.clone());
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .queue_depth(32)
        .flushers(2)
        .spawn(sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
            if batch[0] == 0 {
                door.pass();
            }
            record.record(batch, cx);
            Ok(())
        }))
        .unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    (1..20).for_each(|item| batcher.producer().add(item).unwrap());
    batcher.close();
    until("the other has drained", || batcher.tally().flushed_ok == 19);
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (19, 1));
    assert_eq!(report.unflushed, []);
    // The other one may be just closing its sink.
    let hung = |left: &&LeftBehind| matches!(left.stuck, Stuck::Writing { items: 1, .. });
    assert_eq!(report.left_behind.iter().filter(hung).count(), 1);
    gate.open();
}

#[test]
fn a_hung_on_failed_and_a_hung_close_are_left_behind_with_their_fates_settled() {
    let gate = Gate::new();
    let door = gate.clone();
    let batcher = no_second_try(Batcher::builder())
        .on_failed(move |_| door.pass())
        .max_batch_size(2)
        .spawn(refusing_sinks())
        .unwrap();
    (0..5).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1);
    let report = batcher.shutdown(Duration::ZERO);
    assert!(matches!(report.left_behind[0].stuck, Stuck::Reporting { .. }));
    assert_eq!((report.tally.flushed_fail, report.tally.unknown), (2, 0));
    assert_eq!(report.unflushed, [2, 3, 4]);
    gate.open();

    struct NeverCloses(Gate);
    impl Sink<u64> for NeverCloses {
        fn write(&mut self, _: &Batch<u64>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
            Ok(())
        }
        fn close(&mut self, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
            assert!(cx.deadline().is_some() && cx.time_left().is_some());
            self.0.pass();
            Ok(())
        }
    }
    let gate = Gate::new();
    let door = gate.clone();
    let batcher =
        Batcher::builder().spawn(move |_| Ok::<_, WriteError>(NeverCloses(door.clone()))).unwrap();
    batcher.producer().add(1).unwrap();
    let waits = gate.clone();
    let report = batcher.shutdown(Duration::from_millis(50));
    assert!(matches!(report.left_behind[0].stuck, Stuck::Closing | Stuck::Writing { .. }));
    assert_balances(&report.tally);
    waits.open();
}

#[test]
fn a_hung_weight_function_keeps_only_what_it_weighs() {
    let gate = Gate::new();
    let door = gate.clone();
    let batcher = Batcher::builder()
        .weight(move |item: &u64| {
            if *item == 2 {
                door.pass();
            }
            1
        })
        .max_batch_size(2)
        .queue_depth(16)
        .spawn(null_sinks())
        .unwrap();
    (0..8).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1);
    let report = batcher.shutdown(Duration::ZERO);
    assert_balances(&report.tally);
    assert!(matches!(report.left_behind[0].stuck, Stuck::Collecting));
    let kept = report.tally.in_flight - report.unflushed.len() as u64;
    assert!(kept <= 2, "{kept} items are kept, and at most a batch was taken out of the queue");
    assert!(report.unflushed.is_sorted());
    gate.open();
}

#[test]
fn a_deadline_of_for_ever_waits_for_the_last_item() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = Batcher::builder().max_batch_size(1).spawn(log.gated(&gate)).unwrap();
    (0..5).for_each(|item| batcher.producer().add(item).unwrap());
    thread::scope(|scope| {
        let shutdown = scope.spawn(move || batcher.shutdown(Duration::MAX));
        for written in 1..=5 {
            gate.wait_for(written);
            gate.admit_one();
        }
        assert!(shutdown.join().unwrap().is_clean());
    });
    assert_eq!(log.items(), [0, 1, 2, 3, 4]);
}

#[test]
fn an_engine_at_rest_shuts_down_cleanly_with_no_time_at_all_or_hands_back() {
    for flushers in [1, 3] {
        for _ in 0..50 {
            let batcher = Batcher::builder().flushers(flushers).spawn(null_sinks()).unwrap();
            batcher.producer().add_many(&mut (0..10).collect()).unwrap();
            let report: Shutdown<u64> = batcher.shutdown(Duration::ZERO);
            assert_balances(&report.tally);
            assert_eq!(report.tally.in_flight, report.unflushed.len() as u64);
            assert_eq!(report.tally.flushed_ok + report.tally.unknown + report.tally.in_flight, 10);
        }
    }
}

#[test]
fn dropping_without_shutdown_drains() {
    let log = Log::new();
    let batcher = Batcher::builder().max_batch_delay(None).spawn(log.factory()).unwrap();
    let producer = batcher.producer();
    (0..700).for_each(|item| producer.add(item).unwrap());
    drop(batcher);
    assert_eq!(log.items(), (0..700).collect::<Vec<_>>());
    assert_eq!(producer.add(1), Err(AddError::Closed(1)));
}

#[test]
fn dropping_while_a_panic_unwinds_drains_too() {
    let log = Log::new();
    let batcher = Batcher::builder().max_batch_delay(None).spawn(log.factory()).unwrap();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let owned = batcher;
        (0..10).for_each(|item| owned.producer().add(item).unwrap());
        std::panic::resume_unwind(Box::new("the caller fails"));
    }));
    assert!(unwound.is_err());
    assert_eq!(log.items(), (0..10).collect::<Vec<_>>());
}

/// An engine that its own callbacks may take.
type Slot = Arc<Mutex<Option<Batcher<u64>>>>;

#[test]
fn shutdown_from_its_own_sink_waits_for_the_others_only() {
    for flushers in [1, 2] {
        let own = Slot::default();
        let (send, report) = mpsc::channel();
        let (slot, written) = (Arc::clone(&own), Log::new());
        let log = written.clone();
        let batcher = Batcher::builder()
            .max_batch_size(2)
            .queue_depth(16)
            .flushers(flushers)
            .max_batch_delay(None)
            .spawn(sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
                log.record(batch, cx);
                let own = slot.lock().unwrap().take();
                if let Some(own) = own {
                    send.send(own.shutdown(LONG)).unwrap();
                }
                Ok(())
            }))
            .unwrap();
        let producer = batcher.producer();
        let mut held = own.lock().unwrap(); // the sink waits until the engine is in its slot
        (0..7).for_each(|item| producer.add(item).unwrap());
        *held = Some(batcher);
        drop(held);
        let report = report.recv_timeout(LONG).unwrap();
        assert_balances(&report.tally);
        assert_eq!((report.tally.enqueued, report.tally.unknown), (7, 2));
        assert_eq!(report.left_behind.len(), 1);
        let mut items = written.items();
        items.extend(&report.unflushed);
        items.sort_unstable();
        assert_eq!(items, (0..7).collect::<Vec<_>>(), "each item once, written or handed back");
    }
}

#[test]
fn shutdown_from_weight_and_from_on_failed_do_not_deadlock() {
    let from_failed = Slot::default();
    let (send, report) = mpsc::channel();
    let slot = Arc::clone(&from_failed);
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .on_failed(move |_| {
            let own = slot.lock().unwrap().take();
            if let Some(own) = own {
                send.send(own.shutdown(LONG)).unwrap();
            }
        })
        .spawn(refusing_sinks())
        .unwrap();
    let producer = batcher.producer();
    *from_failed.lock().unwrap() = Some(batcher);
    producer.add(1).unwrap();
    let report = report.recv_timeout(LONG).unwrap();
    assert_eq!((report.tally.flushed_fail, report.left_behind.len()), (1, 1));

    let from_weight = Slot::default();
    let (send, report) = mpsc::channel();
    let slot = Arc::clone(&from_weight);
    let batcher = Batcher::builder()
        .flushers(2)
        .weight(move |_| {
            let own = slot.lock().unwrap().take();
            if let Some(own) = own {
                send.send(own.shutdown(Duration::from_millis(10))).unwrap();
            }
            1
        })
        .max_batch_size(1)
        .spawn(null_sinks())
        .unwrap();
    let producer = batcher.producer();
    *from_weight.lock().unwrap() = Some(batcher);
    producer.add(1).unwrap();
    assert_balances(&report.recv_timeout(LONG).unwrap().tally);
}

#[test]
fn sinks_learn_the_deadline_of_shutdown() {
    let gate = Gate::new();
    let (door, seen) = (gate.clone(), Arc::new(Mutex::new(Vec::new())));
    let note = Arc::clone(&seen);
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .queue_depth(2)
        .write_timeout(LONG * 2)
        .spawn(sink_of(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
            note.lock().unwrap().push(cx.time_left().unwrap());
            door.pass();
            Ok(())
        }))
        .unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    let producer = batcher.producer();
    (1..3).for_each(|item| producer.add(item).unwrap()); // full: the next says so, or "closed"
    thread::scope(|scope| {
        let shutdown = scope.spawn(move || batcher.shutdown(LONG));
        until("it is closed", || {
            producer.try_add(9).is_err_and(|e| e.reason() == AddReason::Closed)
        });
        gate.open();
        assert!(shutdown.join().unwrap().is_clean());
    });
    let seen = seen.lock().unwrap();
    assert!(seen[0] > LONG && seen[1] <= LONG, "{seen:?}");
}

/// Engines that are closed at every moment of their lives, with producers at every step of an add.
#[test]
fn a_thousand_random_lives_lose_and_double_nothing() {
    let mut rng = Rng::seeded();
    for _ in 0..1_000 {
        one_life(&mut rng);
    }
}

fn one_life(rng: &mut Rng) {
    let depth = rng.pick(&[2, 4, 64, 1024]);
    let (census, log) = (Census::default(), Arc::new(Mutex::new(Vec::new())));
    let record = Arc::clone(&log);
    let batcher = Batcher::builder()
        .queue_depth(depth)
        .max_batch_size(1 + rng.index(depth))
        .max_batch_delay(Duration::from_micros(rng.below(300)))
        .flushers(1 + rng.index(2))
        .spawn(sink_of(move |batch: &Batch<Tracked>, _: &mut WriteContext<'_>| {
            record.lock().unwrap().extend(batch.iter().map(|item| item.number));
            Ok(())
        }))
        .unwrap();
    let producers = 1 + rng.below(4);
    let (deadline, start) = (rng.pick(&[Duration::ZERO, LONG, Duration::MAX]), Gate::new());
    let (accepted, report) = thread::scope(|scope| {
        let threads: Vec<_> = (0..producers)
            .map(|id| {
                let (producer, census, start) = (batcher.producer(), &census, &start);
                let mut rng = rng.fork();
                scope.spawn(move || {
                    start.pass();
                    let mut next = id * 1_000_000;
                    while add_some(&producer, census, &mut next, &mut rng) {}
                    next - id * 1_000_000
                })
            })
            .collect();
        start.wait_for(producers);
        start.open();
        (0..rng.below(30)).for_each(|_| rng.pause());
        if rng.one_in(3) {
            batcher.close();
        }
        let report = batcher.shutdown(deadline);
        (threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>(), report)
    });
    let tally = report.tally;
    assert_balances(&tally);
    assert_eq!(
        tally.enqueued,
        accepted.iter().sum::<u64>(),
        "every add that returned Ok, no other"
    );
    assert_eq!(tally.in_flight, report.unflushed.len() as u64, "all of it is handed back");
    if deadline > Duration::ZERO {
        assert!(report.is_clean(), "{report:?}");
    }
    // A sink left behind has had its items, or gets them in a moment.
    let handed_back: Vec<u64> = report.unflushed.iter().map(|item| item.number).collect();
    let written = usize::try_from(tally.enqueued - tally.in_flight).unwrap();
    until("sinks have what is not handed back", || log.lock().unwrap().len() == written);
    let once: BTreeSet<u64> = log.lock().unwrap().iter().copied().chain(handed_back).collect();
    let expected =
        accepted.iter().zip(0..).flat_map(|(count, id)| id * 1_000_000..id * 1_000_000 + count);
    assert_eq!(once, expected.collect(), "each item is written or handed back, once");
    drop(report);
    until("every item is dropped", || census.made() == census.dropped());
}

/// Adds one item or several in one of the ways; false once the engine is closed. `next` moves on by
/// what was taken.
fn add_some(
    producer: &sluicegate::Producer<Tracked>,
    census: &Census,
    next: &mut u64,
    rng: &mut Rng,
) -> bool {
    let item = || census.item(*next);
    let result = match rng.below(5) {
        0 => producer.try_add(item()),
        1 => producer.add_timeout(item(), Duration::from_micros(20)),
        2 => {
            let mut items: Vec<Tracked> = (0..5).map(|k| census.item(*next + k)).collect();
            let result = producer.add_many(&mut items);
            *next += 5 - items.len() as u64;
            assert_eq!(result.unwrap_or_else(|error| error.added), 5 - items.len());
            return result.is_ok();
        }
        _ => producer.add(item()),
    };
    match result {
        Ok(()) => *next += 1,
        Err(error) => {
            let open = error.reason() != AddReason::Closed;
            assert_eq!(error.into_inner().number, *next, "the item comes back");
            return open;
        }
    }
    true
}

/// Comes to the gate when it is dropped.
struct Slow(Gate);

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.pass();
    }
}

#[test]
fn what_the_factory_holds_may_hang_when_dropped_and_shutdown_returns() {
    let gate = Gate::new();
    let slow = Slow(gate.clone());
    let batcher = Batcher::<u64>::builder()
        .spawn(move |_| {
            let _ = &slow;
            Ok::<_, WriteError>(sink::NullSink)
        })
        .unwrap();
    batcher.producer().add(1).unwrap();
    batcher.flush(LONG).unwrap();
    let report = batcher.shutdown(Duration::ZERO); // the gate is shut: a join would not end
    assert_eq!(report.tally.flushed_ok, 1);
    assert_eq!(report.left_behind.len(), 1);
    assert_eq!(report.left_behind[0].stuck, Stuck::Closing);
    gate.open();
}

/// Says, when it is dropped, whether that was by a panic.
struct Told(mpsc::Sender<bool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send(thread::panicking()).unwrap();
    }
}

#[test]
fn an_engine_whose_last_owner_is_its_own_factory_ends() {
    let cell = Arc::new(Mutex::new(None::<(Batcher<u64>, Told)>));
    let (held, gate) = (Arc::clone(&cell), Gate::new());
    let slow = gate.clone();
    let batcher = Batcher::builder()
        .spawn(move |_| {
            let (_, slow) = (&held, slow.clone());
            Ok::<_, WriteError>(sink::from_fn(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
                slow.pass();
                Ok(())
            }))
        })
        .unwrap();
    batcher.producer().add(1).unwrap();
    batcher.close();
    let (sender, told) = mpsc::channel();
    *cell.lock().unwrap() = Some((batcher, Told(sender)));
    drop(cell);
    gate.open(); // the flusher ends, and drops the engine with its factory, on its own thread
    assert_eq!(told.recv_timeout(LONG), Ok(false));
}
