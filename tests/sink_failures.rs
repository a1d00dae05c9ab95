//! Promise: whatever a sink answers, each item of its batch meets one fate and is told of at most
//! once.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{panic_any, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{LONG, Log, assert_balances, no_second_try, null_sinks, sink_of};
use sluicegate::{
    Applied, Batch, Batcher, Class, FailedItem, Flusher, Pump, Shutdown, Sink, SinkLimits,
    SpawnError, Tally, TestClock, WriteContext, WriteError, sink,
};

fn no() -> WriteError {
    WriteError::permanent("no")
}

fn perhaps() -> WriteError {
    WriteError::disconnected("gone").applied(Applied::Unknown)
}

/// How a scripted sink ends its call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Ok,
    Failed,
    Unknown,
    Panic,
}

/// What a scripted sink says of one item beforehand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    None,
    Failed,
    Unknown,
}

fn end(end: End) -> Result<(), WriteError> {
    match end {
        End::Ok => Ok(()),
        End::Failed => Err(no()),
        End::Unknown => Err(perhaps()),
        End::Panic => resume_unwind(Box::new("as planned")),
    }
}

/// Each answer a sink can give for a batch of four: 4 ends x 3^4 marks, with and without
/// `on_failed`.
#[test]
fn every_answer_gives_every_item_its_fate() {
    for end in [End::Ok, End::Failed, End::Unknown, End::Panic] {
        for code in 0..81_usize {
            let marks: Vec<Mark> = (0..4)
                .map(|k| [Mark::None, Mark::Failed, Mark::Unknown][code / 3_usize.pow(k) % 3])
                .collect();
            for told in [false, true] {
                check_answer(end, &marks, told);
            }
        }
    }
}

fn check_answer(how: End, marks: &[Mark], told: bool) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut builder = no_second_try(Batcher::builder()).max_batch_size(4);
    if told {
        let heard = Arc::clone(&heard);
        builder =
            builder.on_failed(move |failed: FailedItem<u64>| heard.lock().unwrap().push(failed));
    }
    let script = marks.to_vec();
    let sink = sink::from_fn(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
        for (index, mark) in script.iter().enumerate().rev() {
            match mark {
                Mark::None => {}
                Mark::Failed => cx.fail(index, no()),
                Mark::Unknown => cx.fail(index, perhaps()),
            }
        }
        end(how)
    });
    let mut pump = builder.pump(sink, TestClock::new()).unwrap();
    pump.producer().add_many(&mut vec![0, 1, 2, 3]).unwrap();
    pump.run();

    let fate = |mark: &Mark| match (how, mark) {
        // Who panics in the middle may have written something.
        (End::Panic, _) | (End::Unknown, Mark::None) => End::Unknown,
        (End::Failed, Mark::None) | (_, Mark::Failed) => End::Failed,
        (_, Mark::Unknown) => End::Unknown,
        (End::Ok, Mark::None) => End::Ok,
    };
    let count = |wanted| marks.iter().filter(|mark| fate(mark) == wanted).count() as u64;
    let expected = Tally {
        enqueued: 4,
        flushed_ok: count(End::Ok),
        flushed_fail: count(End::Failed),
        unknown: count(End::Unknown),
        ..Tally::default()
    };
    let report: Shutdown<u64> = pump.shutdown();
    assert_eq!(report.tally, expected, "{how:?} {marks:?}");
    assert_balances(&report.tally);
    assert_eq!(report.stats.sink_panics, u64::from(how == End::Panic));
    let failed = if told { std::mem::take(&mut *heard.lock().unwrap()) } else { report.failed };
    let items: Vec<u64> = failed.iter().map(|failed| failed.item).collect();
    let lost: Vec<u64> =
        (0..4).zip(marks).filter(|(_, mark)| fate(mark) != End::Ok).map(|(n, _)| n).collect();
    assert_eq!(items, lost, "each once, in order: {how:?} {marks:?}");
    for (failed, mark) in
        failed.iter().zip(lost.iter().map(|n| marks[usize::try_from(*n).unwrap()]))
    {
        let unknown = failed.error.what_applied() == Applied::Unknown;
        assert_eq!(unknown, fate(&mark) == End::Unknown);
        assert_eq!(failed.batch.get(), 1);
    }
}

#[test]
fn of_several_marks_the_first_counts_and_marks_outside_the_batch_do_not() {
    let sink = sink::from_fn(|_: &Batch<u64>, cx: &mut WriteContext<'_>| {
        cx.fail(2, WriteError::transient("first"));
        cx.fail(2, WriteError::permanent("second"));
        for index in [4, 5, usize::MAX, usize::MAX - 1] {
            cx.fail(index, no());
        }
        cx.fail(2, perhaps());
        Ok(())
    });
    let mut pump =
        no_second_try(Batcher::builder()).max_batch_size(4).pump(sink, TestClock::new()).unwrap();
    for round in 0..3 {
        pump.producer().add_many(&mut vec![0, 1, 2, 3]).unwrap();
        pump.run();
        assert_eq!(pump.tally().flushed_fail, round + 1, "a mark is for one call");
    }
    let report = pump.shutdown();
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (9, 0));
    assert!(report.failed.iter().all(|f| f.item == 2 && f.error.class() == Class::Transient));
    assert_eq!(report.failed[0].error.to_string(), "first");
}

/// A sink that panics at its n-th call, in each of the ways one can.
#[test]
fn a_panic_at_the_nth_write_fails_that_batch_and_the_sink_is_opened_anew() {
    type Bomb = fn();
    struct Rude;
    impl Drop for Rude {
        fn drop(&mut self) {
            resume_unwind(Box::new("again, from the payload's own Drop"));
        }
    }
    let bombs: [(Bomb, &str); 5] = [
        (|| panic!("a message"), "a message"),
        (|| panic!("a message with a {}", "number"), "a message with a number"),
        (|| panic_any(7_u64), "of no known type"),
        (|| resume_unwind(Box::new(Rude)), "of no known type"),
        (|| resume_unwind(Box::new(String::from("quiet"))), "quiet"),
    ];
    for (bomb, message) in bombs {
        for nth in [1, 2, 5] {
            let (calls, opens) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let (call, open, log) = (Arc::clone(&calls), Arc::clone(&opens), Log::new());
            let record = log.clone();
            let batcher = no_second_try(Batcher::builder())
                .max_batch_size(2)
                .spawn(move |_| {
                    open.fetch_add(1, Ordering::Relaxed);
                    let (call, record) = (Arc::clone(&call), record.clone());
                    Ok::<_, WriteError>(sink::from_fn(
                        move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
                            if call.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                                cx.fail(1, perhaps()); // cut short: it says nothing
                                bomb();
                            }
                            record.record(batch, cx);
                            Ok(())
                        },
                    ))
                })
                .unwrap();
            batcher.producer().add_many(&mut (0..12).collect()).unwrap();
            let report = batcher.shutdown(LONG);
            assert_balances(&report.tally);
            assert_eq!((report.tally.flushed_ok, report.tally.unknown), (10, 2));
            assert_eq!(report.stats.sink_panics, 1);
            assert_eq!(opens.load(Ordering::Relaxed), 2);
            let bad = (2 * nth - 2)..2 * nth;
            let failed: Vec<u64> = report.failed.iter().map(|failed| failed.item).collect();
            assert_eq!(failed, bad.clone().collect::<Vec<_>>());
            assert!(report.failed[0].error.to_string().contains(message));
            assert_eq!(log.items(), (0..12).filter(|n| !bad.contains(n)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_panicking_flusher_does_not_trouble_the_others() {
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(1)
        .flushers(3)
        .spawn(sink_of(|batch: &Batch<u64>, _: &mut WriteContext<'_>| match batch[0] % 3 {
            0 => resume_unwind(Box::new("as planned")),
            _ => Ok(()),
        }))
        .unwrap();
    batcher.producer().add_many(&mut (0..300).collect()).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (200, 100));
    assert_eq!((report.stats.sink_panics, report.left_behind.len()), (100, 0));
}

#[test]
fn a_factory_that_fails_or_panics_at_the_start_stops_everything() {
    for panics in [false, true] {
        for bad in 0..3 {
            let closed = Arc::new(AtomicU64::new(0));
            let close = Arc::clone(&closed);
            let refused = no_second_try(Batcher::<u64>::builder()).flushers(3).spawn(
                move |flusher: Flusher| match (flusher.index == bad, panics) {
                    (true, true) => resume_unwind(Box::new("as planned")),
                    (true, false) => Err(WriteError::disconnected("no route")),
                    _ => Ok(Closing { close: Arc::clone(&close), answer: End::Ok }),
                },
            );
            let Err(SpawnError::Open { flusher, source }) = refused else { panic!("it started") };
            assert_eq!(flusher.index, bad);
            let text = if panics { "it panicked: as planned" } else { "no route" };
            assert_eq!(source.to_string(), text);
            assert_eq!(closed.load(Ordering::Relaxed), 2, "those that had opened are closed");
        }
    }
}

#[test]
fn limits_that_panic_fail_the_start() {
    struct Unlimited;
    impl Sink<u64> for Unlimited {
        fn write(&mut self, _: &Batch<u64>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
            Ok(())
        }
        fn limits(&self) -> SinkLimits {
            resume_unwind(Box::new("as planned"))
        }
    }
    let refused = no_second_try(Batcher::builder()).spawn(|_| Ok::<_, WriteError>(Unlimited));
    assert!(matches!(refused, Err(SpawnError::Open { .. })));
}

#[test]
fn a_sink_that_does_not_open_again_fails_each_batch_until_it_does() {
    for panics in [false, true] {
        let opens = Arc::new(AtomicU64::new(0));
        let batcher = no_second_try(Batcher::builder())
            .max_batch_size(1)
            .spawn(move |_| match (opens.fetch_add(1, Ordering::Relaxed), panics) {
                (1..=3, true) => resume_unwind(Box::new("still down")),
                (1..=3, false) => Err("still down"),
                _ => Ok(sink::from_fn(|batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                    assert!(batch[0] != 1, "bad item");
                    Ok(())
                })),
            })
            .unwrap();
        batcher.producer().add_many(&mut (0..8).collect()).unwrap();
        let report = batcher.shutdown(LONG);
        let failed: Vec<u64> = report.failed.iter().map(|failed| failed.item).collect();
        assert_eq!(failed, [1, 2, 3, 4], "one for the panic, one for each refusal");
        assert_eq!(report.failed[1].error.class(), Class::Disconnected);
        assert!(report.failed[1].error.to_string().contains("still down"));
        assert_eq!(report.tally.flushed_ok, 4);
        assert_eq!(report.stats.sink_panics, 1);
    }
}

struct Closing {
    close: Arc<AtomicU64>,
    answer: End,
}

impl Sink<u64> for Closing {
    fn write(&mut self, _: &Batch<u64>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        Ok(())
    }
    fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.close.fetch_add(1, Ordering::Relaxed);
        end(self.answer)
    }
}

#[test]
fn an_error_on_closing_is_reported_and_changes_no_fate() {
    for answer in [End::Ok, End::Failed, End::Panic] {
        let closed = Arc::new(AtomicU64::new(0));
        let close = Arc::clone(&closed);
        let batcher = no_second_try(Batcher::builder())
            .flushers(2)
            .spawn(move |_| Ok::<_, WriteError>(Closing { close: Arc::clone(&close), answer }))
            .unwrap();
        batcher.producer().add_many(&mut (0..5).collect()).unwrap();
        let report = batcher.shutdown(LONG);
        assert_eq!(closed.load(Ordering::Relaxed), 2, "each sink once");
        assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (5, 0));
        assert_eq!(report.close_errors.len(), if answer == End::Ok { 0 } else { 2 });
        assert_eq!(report.is_clean(), answer == End::Ok);
        assert_eq!(report.left_behind, []);
    }
}

#[test]
fn on_failed_hears_of_each_item_once_also_when_it_panics() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&heard);
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(8)
        .flushers(2)
        .on_failed(move |failed: FailedItem<u64>| {
            hear.lock().unwrap().push(failed.item);
            if failed.item.is_multiple_of(4) {
                resume_unwind(Box::new("as planned"));
            }
        })
        .spawn(sink_of(|batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
            for (index, item) in batch.iter().enumerate().filter(|(_, item)| item.is_multiple_of(2))
            {
                cx.fail(index, WriteError::permanent(format!("{item} is even")));
            }
            Ok(())
        }))
        .unwrap();
    batcher.producer().add_many(&mut (0..400).collect()).unwrap();
    let report = batcher.shutdown(LONG);
    let mut heard = heard.lock().unwrap().clone();
    heard.sort_unstable();
    assert_eq!(heard, (0..400).step_by(2).collect::<Vec<_>>());
    assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (200, 200));
    assert_eq!(report.stats.callback_panics, 100);
    assert!(report.failed.is_empty() && report.failed_discarded == 0);
}

#[test]
fn failed_items_beyond_the_bound_are_counted_and_let_go() {
    for (kept, expected) in [(0, 0), (5, 5), (8, 8), (100, 20)] {
        let sink = sink::from_fn(|_: &Batch<u64>, _: &mut WriteContext<'_>| Err(no()));
        let builder = no_second_try(Batcher::builder()).max_batch_size(4).failed_kept(kept);
        let mut pump: Pump<u64, _> = builder.pump(sink, TestClock::new()).unwrap();
        pump.producer().add_many(&mut (0..20).collect()).unwrap();
        pump.run();
        let report = pump.shutdown();
        let items: Vec<u64> = report.failed.iter().map(|failed| failed.item).collect();
        assert_eq!(items, (0..expected).collect::<Vec<_>>(), "the first ones stay");
        assert_eq!(report.failed_discarded, 20 - expected);
        assert_eq!(report.tally.flushed_fail, 20);
    }
}

#[test]
fn after_a_panic_a_pump_fails_what_follows_and_still_adds_up() {
    let sink = sink::from_fn(|_: &Batch<u64>, _: &mut WriteContext<'_>| end(End::Panic));
    let mut pump =
        no_second_try(Batcher::builder()).max_batch_size(1).pump(sink, TestClock::new()).unwrap();
    pump.producer().add_many(&mut (0..3).collect()).unwrap();
    assert_eq!(pump.run(), 3);
    assert!(pump.sink().is_none());
    let report = pump.shutdown();
    assert_eq!((report.tally.unknown, report.tally.flushed_fail), (1, 2));
    assert_eq!(report.stats.sink_panics, 1);
    assert_eq!(report.failed[2].error.class(), Class::Disconnected);
}

/// Errors are made by others: their `Display` and their `Drop` may panic, too.
#[test]
fn errors_that_panic_themselves_lose_no_item() {
    #[derive(Debug)]
    struct Rude {
        shown: bool,
    }
    impl std::fmt::Display for Rude {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            if self.shown { resume_unwind(Box::new("as planned")) } else { Ok(()) }
        }
    }
    impl std::error::Error for Rude {}
    impl Drop for Rude {
        fn drop(&mut self) {
            if !self.shown && !std::thread::panicking() {
                resume_unwind(Box::new("as planned"));
            }
        }
    }
    // A factory whose error cannot be shown, on reopening.
    let opens = AtomicU64::new(0);
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(1)
        .spawn(move |_| match opens.fetch_add(1, Ordering::Relaxed) {
            1 => Err(WriteError::permanent(Rude { shown: true })),
            _ => Ok(sink::from_fn(
                |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                    if batch[0] == 0 { end(End::Panic) } else { Ok(()) }
                },
            )),
        })
        .unwrap();
    batcher.producer().add_many(&mut (0..4).collect()).unwrap();
    let report = batcher.shutdown(LONG);
    let Tally { flushed_ok, flushed_fail, unknown, .. } = report.tally;
    assert_eq!((flushed_ok, flushed_fail, unknown), (2, 1, 1), "{report:?}");

    // Marks that cannot be dropped: one too many for an item, one outside the batch.
    for index in [0, 9] {
        let batcher = no_second_try(Batcher::builder())
            .max_batch_size(2)
            .spawn(sink_of(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
                cx.fail(0, no());
                cx.fail(index, WriteError::permanent(Rude { shown: false }));
                Ok(())
            }))
            .unwrap();
        batcher.producer().add_many(&mut (0..4).collect()).unwrap();
        let report = batcher.shutdown(LONG);
        assert_balances(&report.tally);
        assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (2, 2), "{report:?}");
    }
}

#[test]
fn an_engine_that_is_never_used_ends() {
    let batcher = no_second_try(Batcher::<u64>::builder()).flushers(4).spawn(null_sinks()).unwrap();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.stats.batches, 0);
}
