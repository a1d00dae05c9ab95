//! Promise: a panic of the caller's code, wherever the engine calls it, costs the item at hand and
//! nothing else.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{LONG, Log, assert_balances, no_second_try, null_sinks, sink_of};
use sluicegate::{Batch, Batcher, WriteContext, WriteError};

const ITEMS: u64 = 30;

#[test]
fn a_weight_function_that_panics_at_its_nth_call_fails_that_item_alone() {
    for bytes in [None, Some(6), Some(u64::MAX)] {
        for nth in 0..ITEMS {
            let (calls, log) = (AtomicU64::new(0), Log::new());
            let mut builder = no_second_try(Batcher::builder())
                .max_batch_size(8)
                .queue_depth(16)
                .weight(move |_| {
                    if calls.fetch_add(1, Ordering::Relaxed) == nth {
                        resume_unwind(Box::new("as planned"));
                    }
                    2
                });
            if let Some(bytes) = bytes {
                builder = builder.max_batch_bytes(bytes);
            }
            let batcher = builder.spawn(log.factory()).unwrap();
            batcher.producer().add_many(&mut (0..ITEMS).collect()).unwrap();
            let report = batcher.shutdown(LONG);
            assert_balances(&report.tally);
            assert_eq!(report.failed.len(), 1);
            let bad = report.failed[0].item;
            assert!(report.failed[0].error.to_string().contains("weight"));
            assert_eq!(log.items(), (0..ITEMS).filter(|n| *n != bad).collect::<Vec<_>>());
            assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (ITEMS - 1, 1));
            assert_eq!(report.stats.callback_panics, 1);
        }
    }
}

#[test]
fn a_weight_function_that_always_panics_writes_no_empty_batch_and_ends() {
    let log = Log::<u64>::new();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(4)
        .max_batch_bytes(10)
        .weight(|_| resume_unwind(Box::new("as planned")))
        .spawn(log.factory())
        .unwrap();
    batcher.producer().add_many(&mut (0..ITEMS).collect()).unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_fail, ITEMS);
    assert_eq!(log.batches(), []);
    assert_eq!(batcher.shutdown(LONG).failed.len() as u64, ITEMS);
}

#[test]
fn what_a_weight_function_throws_may_panic_when_it_is_dropped() {
    struct Rude;
    impl Drop for Rude {
        fn drop(&mut self) {
            resume_unwind(Box::new("as planned"));
        }
    }
    let log = Log::new();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(4)
        .weight(|item: &u64| if item.is_multiple_of(3) { resume_unwind(Box::new(Rude)) } else { 1 })
        .spawn(log.factory())
        .unwrap();
    batcher.producer().add_many(&mut (0..ITEMS).collect()).unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 20);
    assert_eq!(batcher.shutdown(LONG).tally.flushed_fail, 10);
}

/// An item whose `Drop` may panic.
#[derive(Debug)]
struct Bomb {
    number: u64,
    live: bool,
    dropped: Arc<AtomicU64>,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if self.live {
            resume_unwind(Box::new("as planned"));
        }
    }
}

fn bombs(live: impl Fn(u64) -> bool, dropped: &Arc<AtomicU64>) -> Vec<Bomb> {
    let bomb = |number| Bomb { number, live: live(number), dropped: Arc::clone(dropped) };
    (0..ITEMS).map(bomb).collect()
}

/// The n-th item alone, and all of them: the second panic of a batch must not abort the process.
fn each_and_all() -> impl Iterator<Item = Box<dyn Fn(u64) -> bool>> {
    let each = (0..ITEMS).map(|nth| -> Box<dyn Fn(u64) -> bool> { Box::new(move |n| n == nth) });
    each.chain([Box::new(|_| true) as Box<dyn Fn(u64) -> bool>])
}

#[test]
fn a_drop_that_panics_after_a_good_write_is_counted_and_the_engine_goes_on() {
    for live in each_and_all() {
        let dropped = Arc::default();
        let batcher =
            no_second_try(Batcher::builder()).max_batch_size(8).spawn(null_sinks()).unwrap();
        batcher.producer().add_many(&mut bombs(&live, &dropped)).unwrap();
        let report = batcher.shutdown(LONG);
        assert_eq!(report.tally.flushed_ok, ITEMS, "written is written");
        assert_eq!(report.stats.callback_panics, (0..ITEMS).filter(|n| live(*n)).count() as u64);
        assert_eq!(dropped.load(Ordering::Relaxed), ITEMS, "each once");
        assert_eq!(report.left_behind, []);
    }
}

#[test]
fn a_drop_that_panics_where_failed_items_are_let_go_is_counted_too() {
    for live in each_and_all() {
        for told in [false, true] {
            let dropped = Arc::default();
            let mut builder = no_second_try(Batcher::builder()).max_batch_size(8).failed_kept(0);
            if told {
                builder = builder.on_failed(drop);
            }
            let batcher = builder
                .spawn(sink_of(|_: &Batch<Bomb>, _: &mut WriteContext<'_>| {
                    Err(WriteError::permanent("no"))
                }))
                .unwrap();
            batcher.producer().add_many(&mut bombs(&live, &dropped)).unwrap();
            let report = batcher.shutdown(LONG);
            assert_eq!(report.tally.flushed_fail, ITEMS);
            let panics = (0..ITEMS).filter(|n| live(*n)).count() as u64;
            assert_eq!(report.stats.callback_panics, panics);
            assert_eq!(dropped.load(Ordering::Relaxed), ITEMS);
        }
    }
}

#[test]
fn a_sink_that_panics_over_items_that_panic_when_dropped() {
    let dropped = Arc::default();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(5)
        .failed_kept(0)
        .spawn(sink_of(|batch: &Batch<Bomb>, _: &mut WriteContext<'_>| {
            if batch.iter().any(|item| item.number == 7) {
                resume_unwind(Box::new("as planned"));
            }
            Ok(())
        }))
        .unwrap();
    batcher.producer().add_many(&mut bombs(|_| true, &dropped)).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (ITEMS - 5, 5));
    assert_eq!(report.stats.callback_panics, ITEMS);
    assert_eq!(dropped.load(Ordering::Relaxed), ITEMS);
}

#[test]
fn a_refused_item_that_panics_when_dropped_leaves_the_engine_whole() {
    let dropped = Arc::default();
    let batcher = no_second_try(Batcher::builder()).spawn(null_sinks()).unwrap();
    batcher.close();
    let producer = batcher.producer();
    let mut items = bombs(|_| true, &dropped);
    let item = items.pop().unwrap();
    let thrown =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(producer.add(item))));
    assert!(thrown.is_err(), "it is the caller's item again, and the caller's panic");
    items.iter_mut().for_each(|item| item.live = false);
    assert_eq!(producer.add_many(&mut items).unwrap_err().added, 0);
    assert_eq!(items.len() as u64, ITEMS - 1);
    assert!(batcher.shutdown(LONG).is_clean());
}

/// Panics when asked for its limits, and when it is dropped, while `armed`.
struct Touchy {
    armed: bool,
}

impl sluicegate::Sink<u64> for Touchy {
    fn write(&mut self, _: &Batch<u64>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        resume_unwind(Box::new("as planned"))
    }
    fn limits(&self) -> sluicegate::SinkLimits {
        if self.armed {
            resume_unwind(Box::new("no limits"));
        }
        sluicegate::SinkLimits::default()
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        if self.armed {
            resume_unwind(Box::new("no drop"));
        }
    }
}

#[test]
fn a_sink_that_panics_on_its_limits_and_on_its_drop_did_not_open() {
    let spawned =
        no_second_try(Batcher::builder()).spawn(|_| Ok::<_, WriteError>(Touchy { armed: true }));
    let Err(sluicegate::SpawnError::Open { source, .. }) = spawned else { panic!("it opened") };
    assert!(source.to_string().contains("no limits"), "{source}");

    // The same on reopening: each batch meets a fate, none dies with the flusher.
    let opens = AtomicU64::new(0);
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(2)
        .spawn(move |_| {
            let armed = opens.fetch_add(1, Ordering::Relaxed) > 0;
            Ok::<_, WriteError>(Touchy { armed })
        })
        .unwrap();
    batcher.producer().add_many(&mut (0..10).collect()).unwrap();
    let report = batcher.shutdown(LONG);
    assert_balances(&report.tally);
    assert_eq!((report.tally.unknown, report.tally.flushed_fail), (2, 8));
    assert!(report.left_behind.is_empty());
}
