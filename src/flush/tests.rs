//! What only chance would show from outside: batches that flushers hold just when shutdown stops
//! the writing.

use std::time::Instant;

use super::gate::{Gate, Permit, Permits};
use super::ledger::{Activity, Begun, Ledger, Writing};
use super::retries::{Bounds, Retries};
use super::work::Work;
use crate::batch::{Batch, BatchId, FlushReason};
use crate::clock::Clock;
use crate::collect::Formed;
use crate::config::OnFailure;
use crate::mode::Plain;
use crate::sink::Flusher;
use crate::telemetry::Phases;

fn work(id: u64, position: u64, items: Vec<u64>) -> Work<u64, Plain> {
    let opened = Instant::now();
    let end = position + items.len() as u64;
    let (id, reason) = (BatchId::new(id), FlushReason::Size);
    let batch = Batch { id, reason, bytes: 0, items, position, opened, late: None };
    let phases = Phases::default();
    Work::fresh(Formed { batch, tags: (), spoiled: Vec::new(), end, phases })
}

fn begins(ledger: &Ledger<u64>, index: usize, mut work: Work<u64, Plain>) -> bool {
    let permit = Permit::Unneeded;
    let slot = ledger.slot(Flusher { index }, 0);
    matches!(ledger.begin(slot, &mut work, permit, 0), Begun::Write(..))
}

#[test]
fn batches_that_come_too_late_are_handed_back_in_the_order_of_the_ring() {
    let bounds = Bounds { items: 16, bytes: 16, batch: 2 };
    let retries = Retries::new(OnFailure::Skip, bounds, None);
    let gate = Gate::new(&Permits::default(), None, Instant::now());
    let ledger = Ledger::new(3, 16, 16, retries, gate, Clock::default());
    assert!(begins(&ledger, 2, work(1, 0, vec![0, 1])), "in time");
    ledger.stop();
    assert!(!begins(&ledger, 1, work(3, 4, vec![4, 5])));
    assert!(!begins(&ledger, 0, work(2, 2, vec![2, 3])));
    assert_eq!(ledger.take_handed_back(), [2, 3, 4, 5]);
    assert_eq!(ledger.take_handed_back(), []);
    let (left, _) = ledger.leave_behind(|_, at| !matches!(at, Activity::Collecting));
    let [(Flusher { index: 2 }, Activity::Writing(Writing { items: 2, .. }))] = left[..] else {
        panic!("{left:?}");
    };
}
