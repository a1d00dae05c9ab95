//! Promise: the queue alone, between many producers and many consumers, loses nothing, doubles
//! nothing, keeps the order of each producer, and once closed says exactly how many items there
//! were.

#![allow(clippy::unwrap_used)]

mod common;

use std::thread;

use common::{Census, OWN, Rng, Tracked, assert_in_order};
use sluicegate::ring::{PopError, PushError, Ring, RunError};

#[test]
fn many_producers_and_consumers_and_a_close_at_a_random_moment() {
    let mut rng = Rng::seeded();
    for round in 0..150_u64 {
        let capacity = rng.pick(&[2, 4, 8, 64]);
        let position = rng.pick(&[0, (1 << 63) - 5, (1 << 63) - 100]);
        let ring = Ring::starting_at(capacity, position).unwrap();
        let (census, producers, consumers) = (Census::default(), 1 + round % 3, 1 + round / 3 % 3);
        let (pushed, popped, at_close) = thread::scope(|scope| {
            let producers: Vec<_> = (0..producers)
                .map(|id| {
                    let (ring, census, rng) = (&ring, &census, rng.fork());
                    scope.spawn(move || push_until_closed(ring, census, id, rng))
                })
                .collect();
            let consumers: Vec<_> = (0..consumers)
                .map(|_| {
                    let (ring, rng) = (&ring, rng.fork());
                    scope.spawn(move || pop_until_closed(ring, rng))
                })
                .collect();
            (0..rng.below(300)).for_each(|_| rng.pause());
            let at_close = ring.close();
            assert_eq!(ring.close(), at_close);
            let pushed: Vec<u64> = producers.into_iter().map(|p| p.join().unwrap()).collect();
            let popped: Vec<Vec<u64>> = consumers.into_iter().map(|c| c.join().unwrap()).collect();
            (pushed, popped, at_close)
        });
        assert_eq!(
            at_close,
            pushed.iter().sum::<u64>(),
            "the position in the closed tail is final"
        );
        assert_eq!((ring.pushed(), ring.popped(), ring.len()), (at_close, at_close, 0));
        for numbers in &popped {
            assert_in_order(numbers);
        }
        let mut all: Vec<u64> = popped.into_iter().flatten().collect();
        all.sort_unstable();
        let expected = pushed.iter().zip(0..).flat_map(|(n, id)| id * OWN..id * OWN + n);
        assert!(all.into_iter().eq(expected), "each item once");
        drop(ring);
        assert_eq!(census.made(), census.dropped());
    }
}

fn push_until_closed(ring: &Ring<Tracked>, census: &Census, id: u64, mut rng: Rng) -> u64 {
    let mut next = 0;
    loop {
        if rng.one_in(2) {
            match ring.try_push(census.item(id * OWN + next)) {
                Ok(()) => next += 1,
                Err(PushError::Closed(_)) => return next,
                Err(PushError::Full(_) | PushError::Busy(_)) => thread::yield_now(),
            }
        } else {
            let count = 1 + rng.below(10);
            let mut items: Vec<_> = (0..count).map(|k| census.item(id * OWN + next + k)).collect();
            match ring.try_push_run(&mut items) {
                Ok(taken) => {
                    next += taken as u64;
                    assert_eq!(
                        items.first().map_or(id * OWN + next, |i| i.number),
                        id * OWN + next
                    );
                }
                Err(RunError::Closed) => return next,
                Err(RunError::Full | RunError::Busy) => thread::yield_now(),
            }
        }
        assert!(ring.len() <= ring.capacity());
        rng.pause();
    }
}

fn pop_until_closed(ring: &Ring<Tracked>, mut rng: Rng) -> Vec<u64> {
    let (mut numbers, mut out) = (Vec::new(), Vec::new());
    loop {
        match ring.try_pop_run(&mut out, 1 + rng.index(10)) {
            Ok(count) => {
                assert_eq!(count, out.len());
                numbers.extend(out.drain(..).map(|item| item.number));
            }
            Err(PopError::Closed) => return numbers,
            Err(PopError::Empty | PopError::Busy) => thread::yield_now(),
        }
        rng.pause();
    }
}

#[test]
fn large_items_go_through_small_stacks() {
    const LARGE: usize = 32 << 10;
    let through = || {
        let ring = Ring::new(4).unwrap();
        let mut out = Vec::new();
        for number in 0..10_u8 {
            ring.try_push([number; LARGE]).ok().unwrap();
            assert_eq!(ring.try_pop_run(&mut out, 1), Ok(1));
        }
        out.iter().enumerate().all(|(n, item)| usize::from(item[LARGE - 1]) == n)
    };
    // In an unoptimised build each call in between holds the item a few times.
    let small = thread::Builder::new().stack_size(1 << 20).spawn(through).unwrap();
    assert!(small.join().unwrap());
}
