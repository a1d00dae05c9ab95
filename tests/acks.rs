//! Promise: an ack tells what became of its item, once, whatever that is, and nobody waits for it
//! in vain.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Census, Gate, LONG, Rng, Wakes, assert_balances, no_second_try, null_sinks, poll_once,
    poll_with, random_sinks, refusing_sinks, sink_of, until,
};
use sluicegate::{
    Ack, AckError, AckReason, Applied, Batch, Batcher, Builder, DroppedItem, FailedItem,
    FlushError, Receipt, TestClock, Tracked, WhenFull, WriteContext, WriteError, sink,
};

const MS: Duration = Duration::from_millis(1);

fn acked() -> Builder<u64, Tracked> {
    no_second_try(Batcher::builder()).max_batch_size(64).max_batch_delay(None).with_acks()
}

type Result<T> = std::result::Result<T, AckError<u64>>;

/// What a resolved ack says; its error in parts.
fn said(ack: &mut Ack<u64>) -> std::result::Result<Receipt, (AckReason, Option<u64>)> {
    let said: Result<Receipt> = ack.try_wait().expect("it is resolved");
    said.map_err(|error| (error.reason, error.item))
}

#[test]
fn a_receipt_has_the_batch_and_the_times_exactly() {
    let clock = TestClock::new();
    let inside = clock.clone();
    let mut pump = no_second_try(Batcher::builder())
        .max_batch_size(2)
        .max_batch_delay(100 * MS)
        .with_acks()
        .pump(
            sink::from_fn(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
                inside.advance(7 * MS);
                Ok(())
            }),
            clock.clone(),
        )
        .unwrap();
    let producer = pump.producer();
    clock.advance(5 * MS);
    let mut first = producer.add_with_ack(1).unwrap();
    clock.advance(30 * MS);
    let mut second = producer.try_add_with_ack(2).unwrap();
    assert!(first.try_wait().is_none() && second.try_wait().is_none());
    clock.advance(11 * MS);
    assert_eq!(pump.run(), 1);
    let mut third = producer.add_with_ack_timeout(3, LONG).unwrap();
    assert_eq!(pump.advance(100 * MS), 1);
    let expect = |receipt: Receipt, batch, queued| {
        assert_eq!((receipt.batch.get(), receipt.attempts), (batch, 1));
        assert_eq!((receipt.queued, receipt.writing), (queued, 7 * MS));
    };
    expect(said(&mut first).unwrap(), 1, 41 * MS);
    expect(said(&mut second).unwrap(), 1, 11 * MS);
    expect(said(&mut third).unwrap(), 2, 100 * MS);
}

#[test]
fn a_failure_brings_the_item_and_the_error_to_the_ack_alone() {
    let batcher = acked()
        .spawn(sink_of(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
            Err(WriteError::permanent("no such table"))
        }))
        .unwrap();
    let ack = batcher.producer().add_with_ack(7).unwrap();
    batcher.producer().add(8).unwrap(); // a plain one beside it
    batcher.flush(LONG).unwrap();
    let error = ack.wait().unwrap_err();
    assert_eq!((error.reason, error.item), (AckReason::Failed, Some(7)));
    assert_eq!(error.error.as_ref().unwrap().to_string(), "no such table");
    assert_eq!(error.batch.unwrap().get(), 1);
    let text = format!("{error} {error:?}");
    assert!(text.contains("no such table") && !text.contains('7'), "no item in a log: {text}");
    let report = batcher.shutdown(LONG);
    assert_eq!(report.tally.flushed_fail, 2);
    let failed: Vec<u64> = report.failed.iter().map(|failed| failed.item).collect();
    assert_eq!(failed, [8], "what the ack has is not told twice");
}

#[test]
fn what_may_have_taken_effect_is_unknown() {
    let batcher = acked()
        .spawn(sink_of(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
            Err(WriteError::disconnected("reset").applied(Applied::Unknown))
        }))
        .unwrap();
    let mut ack = batcher.producer().add_with_ack(7).unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().unknown, 1);
    assert_eq!(said(&mut ack), Err((AckReason::Unknown, Some(7))));
    assert!(batcher.shutdown(LONG).failed.is_empty());
}

#[test]
fn items_of_one_batch_hear_of_their_own_fates() {
    let batcher = acked()
        .weight(|item| if *item == 5 { resume_unwind(Box::new("as planned")) } else { 1 })
        .spawn(sink_of(|batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
            for (index, item) in batch.iter().enumerate().filter(|(_, item)| **item % 3 == 0) {
                let error = WriteError::permanent(format!("bad {item}"));
                cx.fail(index, if *item == 6 { error.applied(Applied::Unknown) } else { error });
            }
            Ok(())
        }))
        .unwrap();
    let mut acks: Vec<_> =
        (1..=9).map(|item| batcher.producer().add_with_ack(item).unwrap()).collect();
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!((tally.flushed_ok, tally.flushed_fail, tally.unknown), (5, 3, 1));
    for (ack, item) in acks.iter_mut().zip(1..) {
        let result = ack.try_wait().expect("it is resolved");
        let expected = match item {
            3 | 9 => Some((AckReason::Failed, format!("bad {item}"))),
            5 => Some((AckReason::Failed, "the weight function panicked on this item".into())),
            6 => Some((AckReason::Unknown, "bad 6".into())),
            _ => None,
        };
        match (result, expected) {
            (Ok(receipt), None) => assert_eq!(receipt.batch.get(), 1),
            (Err(error), Some((reason, text))) => {
                assert_eq!((error.reason, error.item), (reason, Some(item)));
                assert_eq!(error.error.unwrap().to_string(), text);
            }
            (result, _) => panic!("item {item}: {result:?}"),
        }
    }
    assert!(batcher.shutdown(LONG).failed.is_empty());
}

#[test]
fn a_panic_of_the_sink_is_unknown() {
    let batcher = acked()
        .spawn(sink_of(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
            resume_unwind(Box::new("as planned"))
        }))
        .unwrap();
    let mut ack = batcher.producer().add_with_ack(7).unwrap();
    batcher.flush(LONG).unwrap();
    let error = ack.try_wait().unwrap().unwrap_err();
    assert_eq!((error.reason, error.item), (AckReason::Unknown, Some(7)));
    assert!(error.error.unwrap().to_string().contains("as planned"));
    assert_eq!(batcher.shutdown(LONG).tally.unknown, 1);
}

#[test]
fn who_is_let_go_hears_why_and_has_the_item_unless_on_dropped_takes_it() {
    for taken in [false, true] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let with = |mut builder: Builder<u64, Tracked>| {
            let tell = Arc::clone(&told);
            if taken {
                builder = builder.on_dropped(move |dropped: DroppedItem<u64>| {
                    tell.lock().unwrap().push(dropped.item);
                });
            }
            let builder = builder.queue_depth(2).max_batch_size(2).max_age(MS);
            let clock = TestClock::new();
            (builder, clock)
        };
        let (builder, clock) = with(acked().when_full(WhenFull::DropNewest));
        let pump = builder.pump(sink::NullSink, clock).unwrap();
        let mut acks: Vec<_> =
            (1..=3).map(|item| pump.producer().add_with_ack(item).unwrap()).collect();
        let item = |item: u64| (!taken).then_some(item);
        assert_eq!(said(&mut acks[2]), Err((AckReason::Newest, item(3))));
        assert!(acks[0].try_wait().is_none());

        let (builder, clock) = with(acked().when_full(WhenFull::DropOldest));
        let mut pump = builder.pump(sink::NullSink, clock.clone()).unwrap();
        let mut acks: Vec<_> =
            (4..=6).map(|item| pump.producer().add_with_ack(item).unwrap()).collect();
        assert_eq!(said(&mut acks[0]), Err((AckReason::Evicted, item(4))));
        clock.advance(2 * MS);
        pump.flush();
        assert_eq!(said(&mut acks[1]), Err((AckReason::Expired, item(5))));
        assert_eq!(said(&mut acks[2]), Err((AckReason::Expired, item(6))));
        assert_eq!(*told.lock().unwrap(), if taken { vec![3, 4, 5, 6] } else { vec![] });
    }
}

#[test]
fn what_shutdown_hands_back_is_in_the_report_and_the_ack_says_so() {
    let gate = Gate::new();
    let batcher = acked().max_batch_size(2).queue_depth(8).spawn(gate.sinks()).unwrap();
    let mut acks: Vec<_> =
        (0..7).map(|item| batcher.producer().add_with_ack(item).unwrap()).collect();
    gate.wait_for(1);
    // The sink hangs: its batch is left behind, and what it has not seen is handed back.
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!(report.unflushed, [2, 3, 4, 5, 6]);
    assert_eq!((report.tally.unknown, report.tally.in_flight), (2, 5));
    for ack in &mut acks[..2] {
        let error = ack.try_wait().expect("resolved before shutdown returned").unwrap_err();
        assert_eq!((error.reason, error.item), (AckReason::Unknown, None));
        assert_eq!(error.batch.unwrap().get(), 1);
    }
    for ack in &mut acks[2..] {
        assert_eq!(said(ack), Err((AckReason::HandedBack, None)));
    }
    gate.open();
}

#[test]
fn an_item_that_was_no_longer_weighed_does_not_hang_behind_a_hung_sink() {
    // It travels with a batch that the sink holds, though the sink never sees it.
    let gate = Gate::new();
    let calls = AtomicU64::new(0);
    let batcher = acked()
        .max_batch_size(2)
        .max_queue_bytes(10)
        .weight(move |item| {
            let again = calls.fetch_add(1, Ordering::Relaxed) >= 2; // not on adding
            if again && *item == 1 { resume_unwind(Box::new("as planned")) } else { 1 }
        })
        .spawn(gate.sinks())
        .unwrap();
    let mut acks: Vec<_> =
        (0..2).map(|item| batcher.producer().add_with_ack(item).unwrap()).collect();
    gate.wait_for(1);
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.tally.unknown, report.stats.queue_bytes), (2, 0));
    assert_eq!(said(&mut acks[0]), Err((AckReason::Unknown, None)));
    assert_eq!(said(&mut acks[1]), Err((AckReason::Unknown, None)));
    gate.open();
}

#[test]
fn an_item_too_old_for_a_batch_does_not_hang_behind_a_hung_sink() {
    let gate = Gate::new();
    let start = Instant::now();
    let batcher = acked()
        .max_batch_size(2)
        .max_queue_bytes(10)
        .weight(|_| 1)
        .max_age_since(MS, move |item| if *item == 1 { start } else { start + LONG })
        .spawn(gate.sinks())
        .unwrap();
    until("it is too old", || start.elapsed() > MS);
    let mut acks: Vec<_> =
        (0..2).map(|item| batcher.producer().add_with_ack(item).unwrap()).collect();
    gate.wait_for(1);
    assert_eq!(said(&mut acks[1]), Err((AckReason::Expired, Some(1))));
    let report = batcher.shutdown(Duration::ZERO);
    assert_eq!((report.tally.unknown, report.tally.dropped), (1, 1));
    assert_eq!(report.stats.queue_bytes, 0);
    assert_eq!(said(&mut acks[0]), Err((AckReason::Unknown, None)));
    gate.open();
}

#[test]
fn an_engine_that_is_dropped_resolves_what_it_holds() {
    let batcher = acked().spawn(null_sinks()).unwrap();
    let ack = batcher.producer().add_with_ack(1).unwrap();
    drop(batcher); // drains
    assert!(ack.wait().is_ok());

    let pump = acked().pump(sink::NullSink, TestClock::new()).unwrap();
    let mut ack = pump.producer().add_with_ack(1).unwrap();
    let wakes = Wakes::new();
    assert!(wakes.poll(&mut ack).is_pending());
    drop(pump); // nobody is left to write it
    assert_eq!(wakes.count(), 1);
    assert_eq!(said(&mut ack), Err((AckReason::Abandoned, None)));

    let pump = acked().pump(sink::NullSink, TestClock::new()).unwrap();
    let mut ack = pump.producer().add_with_ack(1).unwrap();
    assert!(pump.shutdown().is_clean());
    assert!(said(&mut ack).is_ok());
}

#[test]
fn on_failed_has_the_item_and_the_ack_the_reason() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let batcher = acked()
        .on_failed(move |failed: FailedItem<u64>| {
            tell.lock().unwrap().push(failed.item);
            if failed.item == 2 {
                resume_unwind(Box::new("as planned"));
            }
        })
        .spawn(refusing_sinks())
        .unwrap();
    let mut acks: Vec<_> =
        (1..=3).map(|item| batcher.producer().add_with_ack(item).unwrap()).collect();
    batcher.flush(LONG).unwrap();
    for ack in &mut acks {
        let error = ack.try_wait().unwrap().unwrap_err();
        assert_eq!((error.reason, error.item), (AckReason::Failed, None));
        assert_eq!(error.error.unwrap().to_string(), "no");
    }
    assert_eq!(*told.lock().unwrap(), [1, 2, 3]);
    let report = batcher.shutdown(LONG);
    assert_eq!((report.failed.len(), report.stats.callback_panics), (0, 1));
}

#[test]
fn a_failed_item_whose_ack_was_dropped_is_in_the_report() {
    let (census, gate) = (Census::default(), Gate::new());
    let door = gate.clone();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(2)
        .with_acks()
        .spawn(sink_of(move |_: &Batch<common::Tracked>, _: &mut WriteContext<'_>| {
            door.pass();
            Err(WriteError::permanent("no"))
        }))
        .unwrap();
    drop(batcher.producer().add_with_ack(census.item(1)).unwrap());
    let ack = batcher.producer().add_with_ack(census.item(2)).unwrap();
    gate.wait_for(1);
    gate.open();
    batcher.flush(LONG).unwrap();
    let report = batcher.shutdown(LONG);
    let failed: Vec<u64> = report.failed.iter().map(|failed| failed.item.number).collect();
    assert_eq!(failed, [1]);
    assert_eq!(census.dropped(), 0);
    drop(report);
    assert_eq!(census.dropped(), 1);
    assert_eq!(ack.wait().unwrap_err().item.unwrap().number, 2);
    assert_eq!((census.made(), census.dropped()), (2, 2));
}

#[test]
fn a_wait_that_ran_out_can_be_waited_again() {
    let gate = Gate::new();
    let batcher = acked().max_batch_size(1).spawn(gate.sinks()).unwrap();
    let mut ack = batcher.producer().add_with_ack(1).unwrap();
    assert!(ack.wait_timeout(Duration::ZERO).is_none());
    assert!(ack.wait_timeout(MS).is_none());
    gate.open();
    assert_eq!(ack.wait_timeout(Duration::MAX).unwrap().unwrap().attempts, 1);
    assert_eq!(said(&mut ack), Err((AckReason::Taken, None)), "told once");
    assert_eq!(ack.wait().unwrap_err().reason, AckReason::Taken);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn who_waits_asleep_is_woken() {
    let gate = Gate::new();
    let batcher = acked().max_batch_size(1).spawn(gate.sinks()).unwrap();
    thread::scope(|scope| {
        let (ack, mut timed) = (
            batcher.producer().add_with_ack(1).unwrap(),
            batcher.producer().add_with_ack(2).unwrap(),
        );
        let waiting = [
            scope.spawn(move || ack.wait().is_ok()),
            scope.spawn(move || timed.wait_timeout(LONG).unwrap().is_ok()),
        ];
        gate.wait_for(1);
        gate.open();
        assert!(waiting.into_iter().all(|waiting| waiting.join().unwrap()));
    });
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn the_last_waker_polled_with_is_woken_once() {
    let mut pump = acked().pump(sink::NullSink, TestClock::new()).unwrap();
    let mut ack = pump.producer().add_with_ack(1).unwrap();
    let (old, new) = (Wakes::new(), Wakes::new());
    assert!(old.poll(&mut ack).is_pending());
    assert!(new.poll(&mut ack).is_pending());
    assert!(new.poll(&mut ack).is_pending());
    assert_eq!(Arc::strong_count(&old), 1, "a waker that is not needed is let go");
    pump.flush();
    assert_eq!((old.count(), new.count()), (0, 1));
    let Poll::Ready(Ok(receipt)) = new.poll(&mut ack) else { panic!("it is ready") };
    assert_eq!(receipt.batch.get(), 1);

    let mut ack = pump.producer().add_with_ack(2).unwrap();
    assert!(old.poll(&mut ack).is_pending());
    drop(ack);
    assert_eq!(Arc::strong_count(&old), 1, "nor is that of an ack that is gone");
    pump.flush();
    assert_eq!(old.count(), 0);
}

/// Does as told when it is woken.
struct Act<F>(F);

impl<F: Fn() + Send + Sync> Wake for Act<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[test]
fn a_waker_that_panics_harms_nobody() {
    let mut pump = acked().pump(sink::NullSink, TestClock::new()).unwrap();
    let panicking = Waker::from(Arc::new(Act(|| resume_unwind(Box::new("as planned")))));
    let wakes = Wakes::new();
    let mut acks: Vec<_> = (0..2).map(|item| pump.producer().add_with_ack(item).unwrap()).collect();
    assert!(poll_with(&panicking, &mut acks[0]).is_pending());
    assert!(wakes.poll(&mut acks[1]).is_pending());
    assert_eq!(pump.flush().flushed_ok, 2);
    assert_eq!(wakes.count(), 1);
    assert!(acks.iter_mut().all(|ack| said(ack).is_ok()));
}

#[test]
fn a_waker_may_enter_the_engine_again() {
    let batcher = Arc::new(acked().max_batch_size(2).queue_depth(2).spawn(null_sinks()).unwrap());
    let (inside, answers) = (Arc::downgrade(&batcher), Arc::new(Mutex::new(Vec::new())));
    let note = Arc::clone(&answers);
    let mut first = batcher.producer().add_with_ack(1).unwrap();
    let shared = Arc::new(Mutex::new(None::<Ack<u64>>));
    let other = Arc::clone(&shared);
    let waker = Waker::from(Arc::new(Act(move || {
        let batcher = inside.upgrade().unwrap();
        note.lock().unwrap().push(batcher.flush(LONG));
        assert_balances(&batcher.stats().tally);
        // Of an item that this very thread is to write.
        let ack = batcher.producer().add_with_ack(3).unwrap();
        assert_eq!(ack.wait().unwrap_err().reason, AckReason::Reentrant);
        *other.lock().unwrap() = Some(batcher.producer().add_with_ack(4).unwrap());
    })));
    assert!(poll_with(&waker, &mut first).is_pending());
    batcher.producer().add(2).unwrap();
    batcher.flush(LONG).unwrap(); // of 1 and 2
    batcher.flush(LONG).unwrap(); // and of what the waker added
    assert_eq!(*answers.lock().unwrap(), [Err(FlushError::Reentrant)]);
    assert!(said(&mut first).is_ok());
    assert!(said(shared.lock().unwrap().as_mut().unwrap()).is_ok());
    until("the flusher's handle is gone", || Arc::strong_count(&batcher) == 1);
    let report = Arc::into_inner(batcher).unwrap().shutdown(LONG);
    assert_eq!(report.tally.flushed_ok, 4);
}

#[test]
fn an_add_that_did_not_happen_has_no_ack_and_the_item_is_back() {
    let pump = acked()
        .queue_depth(2)
        .max_batch_size(2)
        .when_full(WhenFull::Reject)
        .pump(sink::NullSink, TestClock::new())
        .unwrap();
    let producer = pump.producer();
    producer.add_many(&mut vec![1, 2]).unwrap();
    assert_eq!(producer.add_with_ack(3).unwrap_err().into_inner(), 3);
    assert_eq!(producer.try_add_with_ack(3).unwrap_err().into_inner(), 3);
    assert_eq!(producer.add_with_ack_timeout(3, MS).unwrap_err().into_inner(), 3);
    match poll_once(&mut producer.add_with_ack_async(3)) {
        Poll::Ready(Err(error)) => assert_eq!(error.into_inner(), 3),
        other => panic!("{other:?}"),
    }
    assert_eq!((pump.tally().enqueued, pump.stats().rejected), (2, 4));
}

#[test]
fn plain_items_go_between_acked_ones() {
    let log = common::Log::new();
    let batcher = acked().max_batch_size(4).spawn(log.factory()).unwrap();
    let producer = batcher.producer();
    let mut acks = Vec::new();
    for item in 0..40 {
        match item % 4 {
            0 => producer.add(item).unwrap(),
            1 => assert_eq!(producer.add_many(&mut vec![item]), Ok(1)),
            _ => acks.push((item, producer.add_with_ack(item).unwrap())),
        }
    }
    batcher.flush(LONG).unwrap();
    let batches = log.batches();
    for (item, ack) in &mut acks {
        let batch = said(ack).unwrap().batch.get();
        let written = batches.iter().find(|written| written.id == batch).unwrap();
        assert!(written.items.contains(item), "{item} is not in batch {batch}");
    }
    assert_eq!(log.items(), (0..40).collect::<Vec<_>>());
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn when_a_flush_returns_every_ack_before_it_is_resolved() {
    let mut rng = Rng::seeded();
    for flushers in [1, 3] {
        let batcher = acked()
            .max_batch_size(8)
            .queue_depth(16)
            .flushers(flushers)
            .when_full(WhenFull::DropOldest)
            .spawn(random_sinks(rng.fork(), |batch, cx, rng| {
                rng.pause();
                match rng.below(8) {
                    0 => Err(WriteError::permanent("no")),
                    1 => {
                        cx.fail(rng.index(batch.len()), WriteError::permanent("bad"));
                        Ok(())
                    }
                    2 => resume_unwind(Box::new("as planned")),
                    _ => Ok(()),
                }
            }))
            .unwrap();
        let total = Mutex::new([0_u64; 4]); // ok, failed, unknown, evicted
        thread::scope(|scope| {
            for _ in 0..2 {
                let (batcher, total, mut rng) = (&batcher, &total, rng.fork());
                scope.spawn(move || {
                    let producer = batcher.producer();
                    for _ in 0..300 {
                        let mut acks: Vec<_> = (0..rng.below(40))
                            .filter_map(|item| producer.add_with_ack(item).ok()) // it may be `Full`
                            .collect();
                        batcher.flush(LONG).unwrap();
                        let mut total = total.lock().unwrap();
                        for ack in &mut acks {
                            let result = ack.try_wait().expect("resolved, as flush returned");
                            let index = match result.map_err(|error| error.reason) {
                                Ok(_) => 0,
                                Err(AckReason::Failed) => 1,
                                Err(AckReason::Unknown) => 2,
                                Err(AckReason::Evicted) => 3,
                                Err(reason) => panic!("{reason:?}"),
                            };
                            total[index] += 1;
                        }
                    }
                });
            }
        });
        let tally = batcher.shutdown(LONG).tally;
        let told = [tally.flushed_ok, tally.flushed_fail, tally.unknown, tally.dropped];
        assert_eq!(total.into_inner().unwrap(), told, "acks say what the tally says");
    }
}
