//! What only chance would show from outside: batches that flushers hold just when shutdown stops
//! the writing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::{Gate, Permit, Permits};
use super::ledger::{Activity, Begun, Hung, Ledger, Writing};
use super::retries::{Bounds, Kind, Retries, Waiting};
use super::work::{Failure, Moment, Work};
use crate::batch::{Batch, BatchId, FlushReason};
use crate::clock::{Clock, TestClock};
use crate::collect::Formed;
use crate::config::OnFailure;
use crate::mode::Plain;
use crate::sink::{Flusher, WriteError};
use crate::telemetry::Phases;

fn work(id: u64, position: u64, items: Vec<u64>) -> Work<u64, Plain> {
    let opened = Instant::now();
    let end = position + items.len() as u64;
    let (id, reason) = (BatchId::new(id), FlushReason::Size);
    let batch = Batch { id, shard: 0, reason, bytes: 0, items, position, opened, late: None };
    let phases = Phases::default();
    Work::fresh(Formed { batch, tags: (), spoiled: Vec::new(), end, phases })
}

fn begins(ledger: &Ledger<u64>, index: usize, mut work: Work<u64, Plain>) -> bool {
    let permit = Permit::Unneeded;
    let slot = ledger.seat(Flusher { index }).slot(0);
    let now = ledger.clock().now();
    matches!(ledger.begin(slot, &mut work, permit, 0, now), Begun::Write(..))
}

fn ledger(flushers: usize, clock: Clock) -> Ledger<u64> {
    let bounds = Bounds { items: 16, bytes: 16, batch: 2 };
    let retries = Retries::new(OnFailure::Skip, bounds, None);
    let gate = Gate::new(&Permits::default(), None, clock.now());
    Ledger::new(flushers, 16, 16, retries, gate, clock)
}

#[test]
fn batches_that_come_too_late_are_handed_back_in_the_order_of_the_ring() {
    let ledger = ledger(3, Clock::default());
    assert!(begins(&ledger, 2, work(1, 0, vec![0, 1])), "in time");
    ledger.stop();
    assert!(!begins(&ledger, 1, work(3, 4, vec![4, 5])));
    assert!(!begins(&ledger, 0, work(2, 2, vec![2, 3])));
    assert_eq!(ledger.take_handed_back(), [2, 3, 4, 5]);
    assert_eq!(ledger.take_handed_back(), []);
    assert_eq!(ledger.leave_behind(None).len(), 1);
    let left = ledger.left();
    let [.., (Flusher { index: 2 }, Activity::Writing(Writing { items: 2, .. }))] = left[..] else {
        panic!("{left:?}");
    };
}

#[test]
fn so_many_threads_are_left_behind_at_a_time_and_no_more() {
    const LIMIT: Duration = Duration::from_secs(60);
    let time = TestClock::new();
    let ledger = ledger(20, Clock::Test(time.clone()));
    let begin = |index| begins(&ledger, index, work(1, index as u64, vec![7]));
    assert!((0..10).all(begin));
    time.advance(LIMIT / 2);
    assert!((10..20).all(begin));
    time.advance(LIMIT / 2);
    let (first, ()) = ledger.wait_hung(LIMIT, None, || ()).unwrap();
    let indices = |hung: &[Hung<u64, Plain>]| -> Vec<usize> {
        hung.iter().map(|hung| hung.flusher.index).collect()
    };
    assert_eq!(indices(&first), (0..10).collect::<Vec<_>>(), "those for whom it is time");
    time.advance(LIMIT);
    let (second, ()) = ledger.wait_hung(LIMIT, None, || ()).unwrap();
    assert_eq!(indices(&second), (10..16).collect::<Vec<_>>(), "there is a bound");
    assert_eq!(ledger.left().len(), 16);
    // One comes back: its place is free for another.
    ledger.ended(ledger.seat(Flusher { index: 3 }), Vec::new());
    let (third, ()) = ledger.wait_hung(LIMIT, None, || ()).unwrap();
    assert_eq!((indices(&third), ledger.left().len()), (vec![16], 16));
    let seat = third[0].seat.unwrap();
    let slot = ledger.seat(Flusher { index: 3 }).slot(0);
    assert!(!ledger.is_left_behind(slot), "the seat of the one that is back serves again");
    assert_eq!(seat.flusher().index, 16);
    ledger.unwatch();
    assert!(ledger.wait_hung(LIMIT, None, || ()).is_none());
}

/// Order is kept by a shard's own flusher having its works in hand: nobody else may take one, be it
/// due or hopeless.
#[test]
fn what_waits_is_had_by_its_own_shard_alone_unless_flushers_help_one_another() {
    const HOUR: Duration = Duration::from_secs(3600);
    let now = Instant::now();
    let failed = || {
        let mut failed = work(1, 0, vec![7]);
        failed.batch.shard = 1;
        let moment = Moment::of(now, false);
        let error = Arc::new(WriteError::transient("once"));
        failed.past.failure =
            Some(Box::new(Failure { error, first: moment, last: moment, due: now }));
        Waiting { work: failed, kind: Kind::Retry, keys: Vec::new() }
    };
    let bounds = Bounds { items: 16, bytes: 16, batch: 2 };
    for together in [false, true] {
        let retries: Retries<u64, Plain> = Retries::new(OnFailure::Skip, bounds, Some(HOUR));
        let mut retries = retries.together(together);
        for hopeless in [false, true] {
            retries.insert(failed(), now);
            assert_eq!(retries.any_of(0), together);
            assert_eq!(retries.next_hopeless(0), together.then_some(now + HOUR));
            assert_eq!(retries.next_hopeless(1), Some(now + HOUR));
            let mut take = |shard| match hopeless {
                true => retries.take_hopeless(shard, now + HOUR),
                false => retries.take_due(shard, now, true),
            };
            let other = take(0);
            assert_eq!(other.is_some(), together);
            assert_eq!(take(1).is_some(), !together);
            assert!(retries.is_empty() && retries.next_hopeless(1).is_none());
        }
    }
}
