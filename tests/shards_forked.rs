//! Promise: in a forked child an engine of several shards says that it is forked, in every shard; the
//! parent goes on unharmed.
//!
//! The forking is done by a process of its own, this test run anew: the harness is not forked.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::time::Duration;

use common::forks::{exit_after, fork, run_anew};
use common::{Gate, LONG, OWN, block_on, poll_once};
use shard_rig::{Books, gates, homes, two_nodes};
use sluicegate::{AddError, AddReason, Batcher, FlushError, Home, Overflow, Producer, Stuck};

#[test]
fn every_shard_says_so() {
    run_anew("scene", &[]);
}

#[test]
#[ignore = "forks its process: run by every_shard_says_so"]
fn scene() {
    for (home, overflow) in [(Home::Sticky, Overflow::Stay), (Home::FollowCpu, Overflow::Nearest)] {
        let (books, gates) = (Books::default(), gates(2));
        let builder = two_nodes().home(home).overflow(overflow).steal(true);
        let builder = builder.max_batch_size(1).queue_depth(2);
        let batcher = builder.spawn(books.gated(&gates)).unwrap();
        let (mut producers, follows) = (homes(&batcher), batcher.producer());
        for (id, producer) in (0..).zip(&producers) {
            producer.add(id * OWN).unwrap();
        }
        gates.iter().for_each(|gate| gate.wait_for(1));
        for (id, producer) in (0..).zip(&producers) {
            (1..3).for_each(|number| producer.try_add(id * OWN + number).unwrap());
        }
        in_child(batcher, &mut producers, &follows, &gates, &books);
    }
}

/// Forks, and ends the engine in both processes.
fn in_child(
    batcher: Batcher<u64>,
    producers: &mut [Producer<u64>; 2],
    follows: &Producer<u64>,
    gates: &[Gate],
    books: &Books,
) {
    let waiter = producers[0].clone();
    let mut waiting = waiter.add_async(7);
    assert!(poll_once(&mut waiting).is_pending(), "all is full");
    let Some(child) = fork() else {
        exit_after(|| {
            assert!(matches!(block_on(&mut waiting), Err(AddError::Forked(7))));
            check(batcher, producers, follows);
        })
    };
    assert_eq!(child.wait(), 0, "a check has failed: see above");
    gates.iter().for_each(Gate::open);
    block_on(waiting).unwrap();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.flushed_ok == 7, "{:?}", report.tally);
    assert_eq!(books.items().len(), 7);
}

/// What the child sees.
fn check(batcher: Batcher<u64>, producers: &mut [Producer<u64>; 2], follows: &Producer<u64>) {
    for producer in producers.iter().chain([follows]) {
        assert!(matches!(producer.add(9), Err(AddError::Forked(9))));
        assert!(matches!(producer.try_add(9), Err(AddError::Forked(9))));
        assert!(matches!(producer.add_timeout(9, LONG), Err(AddError::Forked(9))));
        let refused = producer.add_many(&mut vec![9]).unwrap_err();
        assert_eq!((refused.added, refused.reason), (0, AddReason::Forked));
        assert!(matches!(block_on(producer.add_async(9)), Err(AddError::Forked(9))));
    }
    let mut said = producers.iter_mut().map(|producer| producer.rehome(LONG));
    assert!(said.all(|said| said == Err(FlushError::Forked)));
    assert_eq!(batcher.flush(LONG), Err(FlushError::Forked));
    assert_eq!(
        poll_once(&mut batcher.flush_async()),
        std::task::Poll::Ready(Err(FlushError::Forked))
    );
    assert!(batcher.is_closed());
    let (tally, stats) = (batcher.tally(), batcher.stats());
    assert_eq!((tally.enqueued, tally.in_flight, stats.tally), (6, 6, tally));
    assert_eq!(batcher.placement().rings.len(), 2);
    let report = batcher.shutdown(Duration::from_secs(30));
    let left: Vec<_> = report.left_behind.iter().map(|left| left.flusher.index).collect();
    assert_eq!(left, [0, 1]);
    assert!(report.left_behind.iter().all(|left| left.stuck == Stuck::Forked));
    assert_eq!((report.tally.in_flight, report.unflushed.len()), (6, 0));
}
