//! Producers and a consumer, started together.

use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crossbeam_utils::Backoff;

use crate::contestant::{Batches, Item, Outcome, Work};

/// Lets each of `adders` add its share on a thread of its own, while `consume` takes the items on
/// this one.
pub fn race<T: Item, A>(
    work: &Work,
    adders: Vec<A>,
    consume: impl FnOnce(&mut Batches<T>),
) -> Outcome
where
    A: FnOnce(Range<u64>) + Send,
{
    let mut batches = Batches::new(work);
    let (mut count, mut sum) = (0, 0);
    let start = start(work, adders, || {
        consume(&mut batches);
        (count, sum) = batches.finish();
    });
    Outcome { seconds: start.elapsed().as_secs_f64(), count, sum: Some(sum) }
}

/// As [`race`], with anything done meanwhile; returns when it began, after the last producer's end.
pub fn start<A>(work: &Work, adders: Vec<A>, meanwhile: impl FnOnce()) -> Instant
where
    A: FnOnce(Range<u64>) + Send,
{
    let gate = Barrier::new(adders.len() + 1);
    thread::scope(|scope| {
        for (p, adder) in adders.into_iter().enumerate() {
            let (gate, share) = (&gate, work.share(p));
            scope.spawn(move || {
                gate.wait();
                gate.wait();
                adder(share);
            });
        }
        gate.wait(); // every thread runs
        let start = Instant::now();
        gate.wait();
        meanwhile();
        start
    })
}

/// An adder that adds one by one.
pub fn singly<T: Item>(mut add: impl FnMut(T) + Send) -> impl FnOnce(Range<u64>) + Send {
    move |share| share.for_each(|number| add(T::of(number)))
}

/// Adds to something that may be full and has no waiting of its own.
#[inline]
pub fn insist<T>(mut item: T, mut attempt: impl FnMut(T) -> Result<(), T>) {
    let mut backoff = None;
    while let Err(back) = attempt(item) {
        item = back;
        backoff.get_or_insert_with(Backoff::new).snooze();
    }
}

/// Looks again and again, for something that has no waiting of its own; `look` says whether it
/// found anything.
pub fn poll<T: Item>(batches: &mut Batches<T>, mut look: impl FnMut(&mut Batches<T>) -> bool) {
    let backoff = Backoff::new();
    while !batches.complete() {
        if look(batches) {
            backoff.reset();
        } else {
            backoff.snooze();
        }
    }
}

/// Takes one item at a time from something that waits by itself, until all are there or it ends.
pub fn receive<T: Item>(batches: &mut Batches<T>, mut next: impl FnMut() -> Option<T>) {
    while !batches.complete() {
        let Some(item) = next() else { return };
        batches.push(item);
    }
}

/// Spins, then yields, until it is so.
pub fn wait_until(mut so: impl FnMut() -> bool) {
    let backoff = Backoff::new();
    while !so() {
        backoff.snooze();
    }
}
