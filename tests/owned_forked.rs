//! Promise: in a forked child an owned producer says that it is forked, and waits for nobody who is not
//! there, whatever the parent was just doing; the parent goes on unharmed.
//!
//! The forking is done by a process of its own, this test run anew: the harness is not forked.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::forks::{exit_after, fork, run_anew};
use common::{Going, LONG, null_sinks};
use sluicegate::{AddError, AddReason, Batcher, FlushError, OwnedError, OwnedProducer};

const FORKS: usize = 50;

#[test]
fn it_says_so_and_waits_for_nobody() {
    run_anew("scene", &[]);
}

#[test]
#[ignore = "forks its process: run by it_says_so_and_waits_for_nobody"]
fn scene() {
    let batcher = Batcher::<u64>::builder()
        .queue_depth(64)
        .owned_depth(4)
        .max_batch_size(8)
        .spawn(null_sinks())
        .unwrap();
    let going = AtomicBool::new(true);
    let mut added = 0;
    thread::scope(|scope| {
        let (going, stop) = (&going, Going::new(&going));
        // Others have the lock of the rings most of the time.
        for _ in 0..2 {
            let batcher = &batcher;
            scope.spawn(move || {
                let mut owner = batcher.owned_producer().unwrap();
                while going.load(Ordering::Relaxed) {
                    owner.add(0).unwrap();
                    assert!(batcher.stats().queue_capacity >= 64);
                }
            });
        }
        for round in 0..FORKS {
            // Quiet, with items, and with all slots in use.
            let mut owners = Some([0, 1, 4].map(|items| {
                let mut owner = batcher.owned_producer().unwrap();
                (0..items).for_each(|item| owner.add(item).unwrap());
                added += items;
                owner
            }));
            let Some(child) = fork() else { exit_after(|| check(&batcher, &mut owners)) };
            assert_eq!(child.wait(), 0, "a check has failed: see above, {round}");
            owners.as_mut().unwrap()[0].add(9).unwrap();
            added += 1;
            drop(owners);
            batcher.flush(LONG).unwrap();
        }
        drop(stop);
    });
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.flushed_ok >= added, "{:?}", report.tally);
}

/// What the child sees.
fn check(batcher: &Batcher<u64>, owners: &mut Option<[OwnedProducer<u64>; 3]>) {
    for owner in owners.iter_mut().flatten() {
        assert!(matches!(owner.add(9), Err(AddError::Forked(9))));
        assert!(matches!(owner.try_add(9), Err(AddError::Forked(9))));
        assert!(matches!(owner.add_timeout(9, LONG), Err(AddError::Forked(9))));
        let refused = owner.add_many(&mut vec![9]).unwrap_err();
        assert_eq!((refused.added, refused.reason), (0, AddReason::Forked));
        assert_eq!(owner.home(), 0);
    }
    assert_eq!(batcher.owned_producer().unwrap_err(), OwnedError::Forked);
    assert_eq!(batcher.flush(Duration::ZERO), Err(FlushError::Forked));
    assert!(batcher.is_closed());
    let (tally, stats) = (batcher.tally(), batcher.stats());
    assert_eq!((tally.enqueued, stats.tally), (tally.in_flight, tally));
    drop(owners.take()); // harmless
}
