//! A lane for each producer; together they hold as many items as one queue would. The consumer goes
//! round them, and spins, then yields, when all are empty.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use crate::contestant::{Item, Outcome, Peer, Work};
use crate::race::{insist, poll, race, singly};

/// rtrb.
pub struct Rtrb;

impl Peer for Rtrb {
    const NAME: &'static str = "rtrb";
    const SHARED: bool = false;
    const USAGE: &'static str = "a ring for each producer: `push`, `read_chunk`; `Backoff::snooze`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (mut adders, mut lanes) = (Vec::new(), Vec::new());
        for _ in 0..work.shape.producers {
            let (mut producer, consumer) = rtrb::RingBuffer::new(work.lane());
            lanes.push(consumer);
            adders.push(singly(move |item: T| {
                insist(item, |item| {
                    producer.push(item).map_err(|rtrb::PushError::Full(item)| item)
                });
            }));
        }
        race(work, adders, |batches| {
            poll(batches, |batches| {
                let mut any = false;
                for lane in &mut lanes {
                    let count = lane.slots().min(batches.room());
                    let Ok(chunk) = lane.read_chunk(count) else { continue };
                    any |= count > 0;
                    batches.append(|batch, _| {
                        let (first, second) = chunk.as_slices();
                        batch.extend_from_slice(first);
                        batch.extend_from_slice(second);
                    });
                    chunk.commit_all();
                }
                any
            })
        })
    }
}

const SHARD: &str = "a shard for each producer";

/// Each is a power of two, as gil asks.
fn shards(work: &Work) -> (NonZeroUsize, NonZeroUsize) {
    let shards = work.shape.producers.next_power_of_two();
    let one = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    (one(shards), one(work.shape.depth / shards))
}

// The two channels of gil have no trait in common.
macro_rules! gil {
    ($peer:ident, $module:ident, $name:literal, $usage:literal) => {
        #[doc = $usage]
        pub struct $peer;

        impl Peer for $peer {
            const NAME: &'static str = $name;
            const PACKAGE: Option<&'static str> = Some("gil");
            const SHARED: bool = false;
            const USAGE: &'static str = $usage;

            fn run<T: Item>(work: &Work) -> Outcome {
                let (shards, depth) = shards(work);
                let (first, mut receiver) = gil::mpsc::$module::channel::<T>(shards, depth);
                let mut senders = (1..work.shape.producers)
                    .map(|_| first.clone().expect(SHARD))
                    .collect::<Vec<_>>();
                senders.push(first);
                let adder = |mut sender: gil::mpsc::$module::Sender<T>| {
                    singly(move |item: T| sender.send(item))
                };
                race(work, senders.into_iter().map(adder).collect(), |batches| {
                    poll(batches, |batches| {
                        let mut guard = receiver.read_guard();
                        let count = guard.len().min(batches.room());
                        batches.append(|batch, _| {
                            batch.extend_from_slice(&guard.as_slice()[..count]);
                        });
                        guard.advance(count);
                        count > 0
                    })
                })
            }
        }
    };
}

gil!(
    Gil,
    sharded,
    "gil sharded",
    "`mpsc::sharded`, a shard for each producer: `send`, `read_guard`"
);
gil!(
    GilParking,
    sharded_parking,
    "gil sharded (parking)",
    "`mpsc::sharded_parking`, a shard for each producer: `send`, `read_guard`"
);

/// What one writes oneself.
pub struct Vecs;

impl Peer for Vecs {
    const NAME: &'static str = "mutex-swapped Vecs";
    const PACKAGE: Option<&'static str> = None;
    const SHARED: bool = false;
    const USAGE: &'static str = "a `Mutex<Vec>` for each producer, which the consumer swaps for an \
         empty one; `Backoff::snooze`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let depth = work.lane();
        let lane =
            |_| crossbeam_utils::CachePadded::new(Mutex::new(Vec::<T>::with_capacity(depth)));
        let lanes = work.each(lane);
        let adder = |lane: usize| {
            let lane = &lanes[lane];
            singly(move |item: T| {
                insist(item, |item| {
                    let mut items = lane.lock().unwrap_or_else(PoisonError::into_inner);
                    if items.len() == depth {
                        return Err(item);
                    }
                    items.push(item);
                    Ok(())
                });
            })
        };
        let mut spare = Vec::with_capacity(depth);
        race(work, work.each(adder), |batches| {
            poll(batches, |batches| {
                let mut any = false;
                for lane in &lanes {
                    let mut items = lane.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::swap(&mut *items, &mut spare);
                    drop(items);
                    any |= !spare.is_empty();
                    spare.drain(..).for_each(|item| batches.push(item));
                }
                any
            })
        })
    }
}
