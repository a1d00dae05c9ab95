//! A producer that the system stops between claiming a slot and publishing its item: what is before
//! it flows, what is behind it waits, and nothing is called done that is not.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, TestClock};
use crate::collect::{Former, Triggers};
use crate::flush::{Admission, Common, Shard};
use crate::ring::Ring;
use crate::sink::from_fn;
#[cfg(feature = "tokio")]
use crate::sink::{AsyncContext, from_async_fn};
use crate::sync::{Mutex, lock};
use crate::{Batch, FlushWhen, WriteContext, WriteError};

const LONG: Duration = Duration::from_secs(60);

type Log = Arc<Mutex<Vec<u64>>>;

fn engine(log: &Log) -> Batcher<u64> {
    let log = Arc::clone(log);
    let sink = move |_| {
        let log = Arc::clone(&log);
        Ok::<_, WriteError>(from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            log.lock().unwrap().extend(batch.iter());
            Ok(())
        }))
    };
    Batcher::builder().queue_depth(8).max_batch_size(8).spawn(sink).unwrap()
}

#[test]
fn a_pump_writes_what_is_overdue_before_a_stopped_producer() {
    let log = Log::default();
    let record = Arc::clone(&log);
    let sink = from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        record.lock().unwrap().extend(batch.iter());
        Ok(())
    });
    let mut pump =
        Batcher::builder().queue_depth(8).max_batch_size(8).pump(sink, TestClock::new()).unwrap();
    let shared = Arc::clone(&pump.shared);
    (0..2).for_each(|item| pump.producer().add(item).unwrap());
    let go_on = shared.any().ring.stopped_push();
    pump.producer().add(3).unwrap();
    pump.advance(Duration::from_millis(200));
    assert_eq!(*log.lock().unwrap(), [0, 1]);
    assert_eq!((pump.tally().enqueued, pump.tally().in_flight), (4, 2));
    assert!(pump.stats().stalls > 0, "it can be seen");
    go_on(2);
    assert_eq!(pump.flush().flushed_ok, 4);
    assert_eq!(*log.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn a_flush_waits_for_a_stopped_producer_before_the_position() {
    let log = Log::default();
    let batcher = engine(&log);
    let shared = Arc::clone(&batcher.shared);
    (0..2).for_each(|item| batcher.producer().add(item).unwrap());
    let go_on = shared.any().ring.stopped_push();
    batcher.producer().add(3).unwrap();
    let Err(FlushError::Timeout(tally)) = batcher.flush(Duration::from_millis(5)) else {
        panic!("the ring looked empty, and it is not");
    };
    assert!(tally.balances() && tally.in_flight >= 2, "{tally:?}");
    go_on(2);
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 4);
    assert_eq!(*log.lock().unwrap(), [0, 1, 2, 3]);
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn shutdown_waits_for_a_stopped_producer_and_at_its_deadline_says_what_is_missing() {
    let log = Log::default();
    let batcher = engine(&log);
    let shared = Arc::clone(&batcher.shared);
    let go_on = shared.any().ring.stopped_push();
    (1..3).for_each(|item| batcher.producer().add(item).unwrap());
    let report = batcher.shutdown(Duration::ZERO);
    assert!(report.tally.balances());
    assert_eq!((report.tally.enqueued, report.tally.in_flight), (3, 3));
    assert!(report.unflushed.is_empty(), "what is behind it cannot be had");
    go_on(0); // late, and harmless
    assert_eq!(*log.lock().unwrap(), []);
}

#[test]
fn the_rest_is_not_complete_while_an_item_is_just_being_published() {
    let clock = Clock::default();
    let common = Common::new(1, Admission::default(), clock.clone(), 1, false);
    let shard: Shard<u64> = Shard::new(
        0,
        &common,
        Ring::new(8).unwrap(),
        Former::new(
            Triggers {
                max_batch_size: 8,
                max_batch_bytes: None,
                max_batch_delay: None,
                flush_when: FlushWhen::Due,
            },
            None,
            clock.now(),
        ),
    );
    shard.ring.try_push(0).unwrap();
    let go_on = shard.ring.stopped_push();
    shard.ring.try_push(2).unwrap();
    shard.close();
    let mut items = Vec::new();
    assert!(!shard.take_rest(&mut lock(&shard.lease), &mut items));
    assert_eq!(items, [0]);
    go_on(1);
    assert!(shard.take_rest(&mut lock(&shard.lease), &mut items));
    assert_eq!(items, [0, 1, 2]);
}

/// A waker in it would keep the runtime alive, and its sockets, for as long as a producer lives.
#[cfg(feature = "tokio")]
#[test]
fn a_flusher_that_has_ended_is_not_at_the_bell() {
    let write = async |_: &Batch<u64>, _: &mut AsyncContext<'_>| Ok(());
    let opens = async move |_| Ok::<_, WriteError>(from_async_fn(write));
    let batcher = Batcher::builder().spawn_async(opens).unwrap();
    let shared = Arc::clone(&batcher.shared);
    batcher.producer().add(1).unwrap();
    assert!(batcher.shutdown(LONG).is_clean());
    assert!(!shared.any().bell.forget(0));
}
