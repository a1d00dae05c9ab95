//! The disruptor, polled in two ways. Its producers spin when the ring is full, as it is shipped.

use std::thread;
use std::time::Duration;

use disruptor::{BusySpin, Polling, Producer, build_multi_producer};

use crate::contestant::{BATCH, Batches, Item, Outcome, Peer, Work};
use crate::race::{poll, race, singly};

/// The consumer spins, then yields.
pub struct Disruptor;

impl Peer for Disruptor {
    const NAME: &'static str = "disruptor";
    const USAGE: &'static str = "`publish`; an `EventPoller`, `Backoff::snooze` between looks";

    fn run<T: Item>(work: &Work) -> Outcome {
        through::<T>(work, |batches, look| poll(batches, look))
    }
}

/// The consumer sleeps.
pub struct DisruptorAsleep;

impl Peer for DisruptorAsleep {
    const NAME: &'static str = "disruptor (sleeping)";
    const PACKAGE: Option<&'static str> = Some("disruptor");
    const USAGE: &'static str = "`publish`; an `EventPoller`, asleep for 50 µs between looks";

    fn run<T: Item>(work: &Work) -> Outcome {
        through::<T>(work, |batches, look| {
            while !batches.complete() {
                if !look(batches) {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        })
    }
}

/// Runs it with a consumer that looks by the closure that it gets; that says whether it found any.
fn through<T: Item>(
    work: &Work,
    consume: impl FnOnce(&mut Batches<T>, &mut dyn FnMut(&mut Batches<T>) -> bool),
) -> Outcome {
    let builder = build_multi_producer(work.shape.depth, T::default, BusySpin);
    let (mut poller, builder) = builder.new_event_poller();
    let producer = builder.build();
    let adders = work.each(|_| {
        let mut producer = producer.clone();
        singly(move |item: T| producer.publish(|slot| *slot = item))
    });
    let mut look = |batches: &mut Batches<T>| match poller.take(BATCH as u64) {
        Ok(mut events) => {
            (&mut events).for_each(|event| batches.push(*event));
            true
        }
        Err(Polling::NoEvents | Polling::Shutdown) => false,
    };
    race(work, adders, |batches| consume(batches, &mut look))
}
