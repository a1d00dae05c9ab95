//! Queues that never wait: both sides spin, then yield, as crossbeam's `Backoff` does.

use crate::contestant::{Item, Outcome, Peer, Work};
use crate::race::{insist, poll, race, singly};

/// crossbeam's ArrayQueue.
pub struct ArrayQueue;

impl Peer for ArrayQueue {
    const NAME: &'static str = "crossbeam ArrayQueue";
    const PACKAGE: Option<&'static str> = Some("crossbeam-queue");
    const USAGE: &'static str = "`push`, `pop`; `Backoff::snooze` when full or empty";

    fn run<T: Item>(work: &Work) -> Outcome {
        let queue = crossbeam_queue::ArrayQueue::new(work.shape.depth);
        let adder = |_| singly(|item: T| insist(item, |item| queue.push(item)));
        race(work, work.each(adder), |batches| {
            poll(batches, |batches| queue.pop().map(|item| batches.push(item)).is_some())
        })
    }
}

/// concurrent-queue.
pub struct Concurrent;

impl Peer for Concurrent {
    const NAME: &'static str = "concurrent-queue";
    const USAGE: &'static str = "`bounded`, `push`, `pop`; `Backoff::snooze` when full or empty";

    fn run<T: Item>(work: &Work) -> Outcome {
        let queue = concurrent_queue::ConcurrentQueue::bounded(work.shape.depth);
        let adder =
            |_| singly(|item: T| insist(item, |item| queue.push(item).map_err(|e| e.into_inner())));
        race(work, work.each(adder), |batches| {
            poll(batches, |batches| queue.pop().map(|item| batches.push(item)).is_ok())
        })
    }
}
