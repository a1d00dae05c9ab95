//! Promise: what one write may have done is not forgotten, whatever comes after it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sluicegate::{
    Applied, Batch, Batcher, OnFailure, Retry, TestClock, WriteContext, WriteError, sink,
};

fn retry() -> Retry {
    Retry::default().unknown(true).max_items(1_000).budget_floor(1e6)
}

fn transient(applied: Applied) -> WriteError {
    WriteError::transient("not now").applied(applied)
}

#[test]
fn of_marked_items_that_go_on_together_one_may_be_in() {
    let mut calls = 0;
    let sink = sink::from_fn(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
        calls += 1;
        if calls > 1 {
            return Err(WriteError::permanent("no"));
        }
        cx.fail(0, transient(Applied::Nothing));
        cx.fail(1, transient(Applied::Unknown));
        Ok(())
    });
    let builder = Batcher::builder().max_batch_size(2).queue_depth(8).retry(retry());
    let mut pump = builder.pump(sink, TestClock::new()).unwrap();
    pump.producer().add_many(&mut vec![0, 1]).unwrap();
    pump.advance(Duration::from_secs(60));
    let report = pump.shutdown();
    let applied =
        |item| report.failed.iter().find(|f| f.item == item).unwrap().error.what_applied();
    assert_eq!(applied(1), Applied::Unknown);
}

#[test]
fn where_order_is_kept_items_that_may_be_in_are_joined_with_marked_ones() {
    for policy in [OnFailure::Halt, OnFailure::ParkKey] {
        let mut calls = 0;
        let sink = sink::from_fn(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
            calls += 1;
            if calls > 1 {
                return Err(WriteError::permanent("no"));
            }
            cx.fail(0, transient(Applied::Nothing));
            Err(transient(Applied::Unknown)) // all but the marked one
        });
        let builder = Batcher::builder().max_batch_size(2).queue_depth(8).retry(retry());
        let builder = builder.on_failure(policy).key(|_| 0).bisect(false);
        let mut pump = builder.pump(sink, TestClock::new()).unwrap();
        pump.producer().add_many(&mut vec![0, 1]).unwrap();
        pump.advance(Duration::from_secs(60));
        let report = pump.shutdown();
        let applied =
            |item| report.failed.iter().find(|f| f.item == item).unwrap().error.what_applied();
        assert_eq!(applied(1), Applied::Unknown, "{policy:?}");
    }
}

#[test]
fn what_may_be_in_and_overflows_is_unknown() {
    let mut calls = 0;
    let sink = sink::from_fn(move |_: &Batch<u64>, cx: &mut WriteContext<'_>| {
        calls += 1;
        if calls == 1 {
            return Err(transient(Applied::Unknown));
        }
        cx.fail(0, transient(Applied::Nothing));
        Err(transient(Applied::Nothing)) // the others
    });
    let builder = Batcher::builder().max_batch_size(2).queue_depth(8).breaker(None);
    let mut pump = builder.retry(retry().max_items(1)).pump(sink, TestClock::new()).unwrap();
    pump.producer().add_many(&mut vec![0, 1]).unwrap();
    pump.advance(Duration::from_secs(60));
    let stats = pump.stats();
    assert_eq!(stats.retry_overflows, 1);
    let report = pump.shutdown();
    assert_eq!(report.failed[0].error.what_applied(), Applied::Unknown);
}
