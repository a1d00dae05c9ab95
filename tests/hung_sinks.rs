//! Promise: a sink that does not return is told so, and then left behind: its batch is unknown, a
//! new flusher goes on, and its late return counts for nothing.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake};
use std::thread;
use std::time::Duration;

use common::{Gate, LONG, Log, assert_balances, no_second_try, sink_of, until};
use sluicegate::{
    AckReason, AddError, Batch, Batcher, Builder, Dead, Flusher, OnFailure, Sink, SinkFactory,
    Stuck, WriteContext, WriteError, sink,
};

/// Long enough for a write that is only slow, on a busy machine too.
const GRACE: Duration = Duration::from_millis(400);

/// One item in a batch, and no patience.
fn impatient() -> Builder<u64> {
    Batcher::builder()
        .max_batch_size(1)
        .queue_depth(64)
        .write_timeout(Duration::from_millis(1))
        .leave_behind_after(GRACE)
}

/// Hangs at that item until the gate opens, and takes all others.
fn hangs_at(hangs: u64, gate: &Gate, log: &Log<u64>) -> impl SinkFactory<u64> + use<> {
    let (gate, log) = (gate.clone(), log.clone());
    sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        if batch[0] == hangs {
            gate.pass();
        }
        log.record(batch, cx);
        Ok(())
    })
}

#[test]
fn another_flusher_goes_on_and_the_report_names_the_one_that_hangs() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = impatient().with_acks().spawn(hangs_at(0, &gate, &log)).unwrap();
    let producer = batcher.producer();
    let ack = producer.add_with_ack(0).unwrap();
    gate.wait_for(1);
    (1..20).for_each(|item| producer.add(item).unwrap());
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!((tally.flushed_ok, tally.unknown, tally.in_flight), (19, 1, 0));
    assert_eq!(ack.wait().unwrap_err().reason, AckReason::Unknown);
    assert_eq!(log.items(), (1..20).collect::<Vec<_>>(), "each once, in order");
    let report = batcher.shutdown(LONG);
    let stats = &report.stats;
    assert_eq!((stats.hung, stats.writes, stats.batches), (1, 20, 20), "it was a write, too");
    assert_eq!((stats.batch_size.count, stats.flush_duration.count), (20, 20));
    assert!(stats.flush_duration.max >= GRACE, "and the longest: {stats:?}");
    let [left] = report.left_behind[..] else { panic!("{:?}", report.left_behind) };
    assert_eq!(left.flusher.index, 0);
    assert!(matches!(left.stuck, Stuck::Writing { items: 1, batch } if batch.get() == 1));
    assert_balances(&report.tally);
    gate.open();
}

#[test]
fn a_late_return_counts_for_nothing_and_ends_the_thread() {
    let (gate, log, closed) = (Gate::new(), Log::new(), Arc::new(AtomicU64::new(0)));
    struct Hangs(Gate, Log<u64>, Arc<AtomicU64>);
    impl Sink<u64> for Hangs {
        fn write(
            &mut self,
            batch: &Batch<u64>,
            cx: &mut WriteContext<'_>,
        ) -> Result<(), WriteError> {
            if batch[0] == 0 {
                self.0.pass();
            }
            self.1.record(batch, cx);
            Ok(())
        }
        fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
            self.2.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }
    let sink = (gate.clone(), log.clone(), Arc::clone(&closed));
    let open = move |_: Flusher| {
        let (gate, log, closed) = sink.clone();
        Ok::<_, WriteError>(Hangs(gate, log, closed))
    };
    let batcher = impatient().spawn(open).unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    batcher.producer().add(1).unwrap();
    batcher.flush(LONG).unwrap();
    gate.open();
    until("the old thread has closed its sink", || closed.load(Ordering::SeqCst) == 1);
    batcher.producer().add(2).unwrap();
    let report = batcher.shutdown(LONG);
    let tally = report.tally;
    assert_eq!((tally.enqueued, tally.flushed_ok, tally.unknown), (3, 2, 1));
    assert_eq!(log.items(), [1, 0, 2], "the sink did take it, but nobody counts on that");
    assert_eq!(report.left_behind, [], "it is back");
    assert_eq!((report.stats.hung, closed.load(Ordering::SeqCst)), (1, 2));
}

#[test]
fn a_sink_that_looks_at_its_deadline_is_not_left_behind() {
    let (tries, log) = (Arc::new(AtomicU64::new(0)), Log::new());
    let (count, record) = (Arc::clone(&tries), log.clone());
    let sink = sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            assert!(
                cx.deadline().is_some_and(|deadline| deadline > cx.now()) && !cx.is_cancelled()
            );
            while !cx.is_cancelled() {
                thread::yield_now();
            }
            return Err(WriteError::transient("it took too long"));
        }
        record.record(batch, cx);
        Ok(())
    });
    let batcher = impatient().write_timeout(Duration::from_millis(50)).spawn(sink).unwrap();
    batcher.producer().add(7).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.stats.hung, report.stats.retries), (0, 1));
    assert_eq!((report.is_clean(), log.items()), (true, vec![7]));
}

#[test]
fn a_write_under_way_hears_of_the_deadline_of_a_shutdown_that_begins_later() {
    let gate = Gate::new();
    let door = gate.clone();
    let sink = sink_of(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
        assert!(cx.time_left().is_some_and(|left| left > LONG), "the engine has all the time");
        door.pass();
        while !cx.is_cancelled() {
            thread::yield_now();
        }
        Err(WriteError::transient("it is over"))
    });
    let batcher = impatient().write_timeout(LONG * 10).spawn(sink).unwrap();
    batcher.producer().add(7).unwrap();
    gate.wait_for(1);
    gate.open();
    let report = batcher.shutdown(Duration::from_millis(30));
    assert_eq!((report.left_behind, report.unflushed), (Vec::new(), vec![7]));
}

#[test]
fn whoever_is_told_of_failed_items_may_hang_too() {
    let (gate, log) = (Gate::new(), Log::new());
    let (door, record) = (gate.clone(), log.clone());
    let sink = sink_of(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        record.record(batch, cx);
        if batch[0] == 0 { Err(WriteError::permanent("no")) } else { Ok(()) }
    });
    let batcher = no_second_try(impatient()).on_failed(move |_| door.pass()).spawn(sink).unwrap();
    (0..5).for_each(|item| batcher.producer().add(item).unwrap());
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!((tally.flushed_ok, tally.flushed_fail, tally.unknown), (4, 1, 0));
    let report = batcher.shutdown(LONG);
    let [left] = report.left_behind[..] else { panic!("{:?}", report.left_behind) };
    assert!(matches!(left.stuck, Stuck::Reporting { batch } if batch.get() == 1));
    assert_eq!((log.items(), report.stats.hung), (vec![0, 1, 2, 3, 4], 1));
    gate.open();
}

#[test]
fn where_order_is_total_the_engine_halts() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = impatient().on_failure(OnFailure::Halt).spawn(hangs_at(1, &gate, &log)).unwrap();
    (0..5).for_each(|item| batcher.producer().add(item).unwrap());
    gate.wait_for(1);
    until("it is closed", || batcher.is_closed());
    assert_eq!(batcher.producer().add(9), Err(AddError::Closed(9)));
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (1, 1));
    assert_eq!((report.unflushed, log.items()), (vec![2, 3, 4], vec![0]));
    gate.open();
}

#[test]
fn the_dead_letter_sink_is_closed_once_whoever_was_left_behind() {
    struct Letters(Arc<AtomicU64>, Arc<Mutex<Vec<u64>>>);
    impl Sink<Dead<u64>> for Letters {
        fn write(
            &mut self,
            batch: &Batch<Dead<u64>>,
            cx: &mut WriteContext<'_>,
        ) -> Result<(), WriteError> {
            assert!(cx.deadline().is_some(), "it has a deadline, too");
            self.1.lock().unwrap().extend(batch.iter().map(|dead| dead.item));
            Ok(())
        }
        fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }
    let (gate, closed) = (Gate::new(), Arc::new(AtomicU64::new(0)));
    let letters = Arc::new(Mutex::new(Vec::new()));
    let door = gate.clone();
    let sink = sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        match batch[0] {
            0 => door.pass(),
            _ => return Err(WriteError::permanent("no")),
        }
        Ok(())
    });
    let dead = Letters(Arc::clone(&closed), Arc::clone(&letters));
    let batcher = impatient().flushers(2).dead_letters(dead).spawn(sink).unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    until("one is left behind", || batcher.stats().hung == 1);
    batcher.producer().add(1).unwrap();
    batcher.flush(LONG).unwrap();
    assert_eq!(closed.load(Ordering::SeqCst), 0, "others may still ask");
    gate.open();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.stats.dead_lettered, closed.load(Ordering::SeqCst)), (1, 1));
    assert!(report.close_errors.is_empty());
    assert_eq!(*letters.lock().unwrap(), [1]);
}

#[test]
fn a_factory_that_hangs_in_its_turn_costs_no_more_items() {
    let (gate, log, opened) = (Gate::new(), Log::new(), Arc::new(AtomicU64::new(0)));
    let (door, sinks) = (gate.clone(), hangs_at(0, &gate, &log));
    let open = move |flusher: Flusher| {
        if opened.fetch_add(1, Ordering::SeqCst) > 0 {
            door.pass();
        }
        sinks.open(flusher)
    };
    let batcher = impatient().spawn(open).unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(2); // in the sink, and in the factory for the next
    (1..5).for_each(|item| batcher.producer().add(item).unwrap());
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.tally.unknown, report.unflushed), (1, vec![1, 2, 3, 4]));
    let stuck: Vec<_> = report.left_behind.iter().map(|left| left.stuck).collect();
    assert!(matches!(stuck[..], [Stuck::Writing { items: 1, .. }, Stuck::Opening]), "{stuck:?}");
    gate.open();
}

/// Hangs when it is woken.
struct Sleepy(Gate);

impl Wake for Sleepy {
    fn wake(self: Arc<Self>) {
        self.0.pass();
    }
}

#[test]
fn a_waker_that_hangs_keeps_no_bytes_from_others() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = impatient()
        .with_acks()
        .max_batch_size(2)
        .weight(|_| 10)
        .max_queue_bytes(20)
        .spawn(log.factory())
        .unwrap();
    let producer = batcher.producer();
    let mut ack = std::pin::pin!(producer.add_with_ack(0).unwrap());
    let waker = Arc::new(Sleepy(gate.clone())).into();
    assert!(ack.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    (1..4).for_each(|item| producer.add(item).unwrap()); // the last two want the bytes of the first
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!((tally.flushed_ok, batcher.stats().queue_bytes), (4, 0));
    let report = batcher.shutdown(LONG);
    assert_eq!((report.stats.hung, log.items()), (1, vec![0, 1, 2, 3]));
    assert!(matches!(report.left_behind[0].stuck, Stuck::Reporting { .. }));
    gate.open();
}

#[test]
fn a_dead_letter_sink_that_cannot_be_closed_is_in_the_report() {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = impatient()
        .dead_letters(sink::NullSink)
        .leave_behind_after(None)
        .spawn(hangs_at(0, &gate, &log))
        .unwrap();
    batcher.producer().add(0).unwrap();
    gate.wait_for(1);
    let report = batcher.shutdown(Duration::ZERO);
    let [(flusher, error)] = &report.close_errors[..] else { panic!("{:?}", report.close_errors) };
    assert_eq!(flusher.index, 0);
    assert!(error.to_string().contains("dead-letter"), "{error}");
    gate.open();
}
