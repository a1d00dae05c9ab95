//! Promise: the engine's sleeping and waking is its own. A sink may park and unpark its thread as
//! it likes.

#![allow(clippy::unwrap_used)]

mod common;

use std::thread;
use std::time::Duration;

use common::{LONG, Rng, null_sinks, random_sinks};
use sluicegate::Batcher;

#[test]
fn a_sink_that_parks_and_unparks_its_thread_takes_no_wake_up_and_leaves_none() {
    let mut rng = Rng::seeded();
    for flushers in [1, 2] {
        let batcher = Batcher::builder()
            .max_batch_size(4)
            .queue_depth(8)
            .max_batch_delay(None)
            .flushers(flushers)
            .spawn(random_sinks(rng.fork(), |_, _, rng| {
                match rng.below(3) {
                    0 => thread::current().unpark(), // a token is left behind
                    1 => thread::park_timeout(Duration::from_micros(rng.below(50))),
                    _ => {
                        let own = thread::current();
                        thread::spawn(move || own.unpark());
                        thread::park_timeout(Duration::from_micros(200));
                    }
                }
                Ok(())
            }))
            .unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (producer, mut rng) = (batcher.producer(), rng.fork());
                scope.spawn(move || {
                    for item in 0..500 {
                        producer.add_timeout(item, LONG).unwrap();
                        rng.pause();
                    }
                });
            }
            for round in 0..100 {
                batcher.producer().add(round).unwrap();
                batcher.flush(LONG).unwrap(); // a swallowed wake-up would hang here
            }
        });
        let report = batcher.shutdown(LONG);
        assert!(report.is_clean());
        assert_eq!(report.tally.flushed_ok, 1_100);
    }
}

/// A producer's thread is the caller's, too.
#[test]
fn a_producer_with_a_park_token_of_its_own_waits_properly_and_keeps_it() {
    let batcher = Batcher::builder().max_batch_size(1).queue_depth(2).spawn(null_sinks()).unwrap();
    thread::current().unpark();
    for item in 0..2_000 {
        batcher.producer().add(item).unwrap();
    }
    batcher.flush(LONG).unwrap();
    thread::park(); // returns at once: the token is still there
    assert!(batcher.shutdown(LONG).is_clean());
}
