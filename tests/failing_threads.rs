//! Promise: with threads as without, each item meets one fate, and whoever waits for it is woken:
//! retries, halves, a breaker and a throttle leave no flusher asleep that has something to do.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{LONG, Rng, assert_balances};
use rig::{MS, sinks};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{
    Adaptive, Batcher, Breaker, Builder, Class, FailedItem, OnFailure, Retry, Throttle,
};

const PRODUCERS: u64 = 3;
const ITEMS: u64 = 300;

fn builder(rng: &mut Rng, flushers: usize) -> Builder<u64> {
    let retry = Retry::default().initial_delay(MS).max_delay(4 * MS).budget_floor(2_000.0);
    let retry = retry.max_attempts(rng.pick(&[None, Some(3)])).max_items(rng.pick(&[8, 10_000]));
    let breaker = Breaker::default().min_writes(3).open_for(2 * MS).open_max(5 * MS);
    let throttle = Throttle::default().calls_per_second(rng.pick(&[3_000.0, 1e6]));
    let adaptive = rng.pick(&[None, Some(Adaptive::default())]);
    let order = if flushers == 1 { OnFailure::ParkKey } else { OnFailure::Skip };
    Batcher::builder()
        .flushers(flushers)
        .queue_depth(rng.pick(&[16, 512]))
        .max_batch_size(1 + rng.index(16))
        .max_batch_delay(Duration::from_millis(rng.below(3)))
        .retry(retry)
        .breaker(rng.pick(&[None, Some(breaker)]))
        .throttle(rng.pick(&[None, Some(throttle)]))
        .adaptive(adaptive)
        .on_failure(order)
        .key(|item| item % 7)
        .seed(rng.next())
}

fn faults(rng: &mut Rng) -> Faults<u64> {
    Faults::seeded(rng.next())
        .one_in(rng.pick(&[2, 4]), Fault::Transient)
        .one_in(20, Fault::Unknown(Class::Disconnected))
        .one_in(20, Fault::Throttled(3 * MS))
        .one_in(50, Fault::Panic)
        .max_items(12)
        .poison(|item| item % 61 == 5)
}

#[test]
fn each_item_meets_one_fate_and_every_flush_returns() {
    let mut rng = Rng::seeded();
    for _ in 0..10 {
        let flushers = rng.pick(&[1, 1, 3]);
        let (open, store) = sinks(faults(&mut rng));
        let failed = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&failed);
        let batcher = builder(&mut rng, flushers)
            .on_failed(move |item: FailedItem<u64>| told.lock().unwrap().push(item.item))
            .spawn(open)
            .unwrap();
        thread::scope(|scope| {
            for producer in 0..PRODUCERS {
                let (handle, mut rng) = (batcher.producer(), rng.fork());
                scope.spawn(move || {
                    for item in 0..ITEMS {
                        handle.add(producer * ITEMS + item).unwrap();
                        rng.pause();
                    }
                });
            }
            for _ in 0..3 {
                assert_balances(&batcher.flush(LONG).unwrap());
            }
        });
        let tally = batcher.flush(LONG).unwrap();
        assert_eq!((tally.enqueued, tally.in_flight), (PRODUCERS * ITEMS, 0));
        let report = batcher.shutdown(LONG);
        assert_eq!((report.unflushed.len(), report.left_behind.len()), (0, 0));
        let failed = failed.lock().unwrap().clone();
        assert_eq!(report.tally.flushed_fail + report.tally.unknown, failed.len() as u64);
        let (mut once, written) = (failed, store.items());
        assert!(written.len() as u64 >= report.tally.flushed_ok, "what is unknown may be in");
        once.extend(written);
        once.sort_unstable();
        once.dedup();
        assert_eq!(once, (0..PRODUCERS * ITEMS).collect::<Vec<_>>());
    }
}
