//! What only chance would show from outside: batches that flushers hold just when shutdown stops
//! the writing.

use std::time::Instant;

use super::*;
use crate::batch::{Batch, FlushReason};
use crate::clock::Clock;
use crate::sink::Flusher;

fn batch(id: u64, position: u64, items: Vec<u64>) -> Batch<u64> {
    let opened = Instant::now();
    let (id, reason) = (BatchId(id), FlushReason::Size);
    Batch { id, reason, bytes: 0, items, spoiled: Vec::new(), position, opened, late: None }
}

#[test]
fn batches_that_come_too_late_are_handed_back_in_the_order_of_the_ring() {
    let ledger = Ledger::new(3, 16, 16, Clock::default());
    let flusher = |index| Flusher { index };
    assert!(ledger.begin(flusher(2), batch(1, 0, vec![0, 1])).is_some(), "in time");
    ledger.stop();
    assert!(ledger.begin(flusher(1), batch(3, 4, vec![4, 5])).is_none());
    assert!(ledger.begin(flusher(0), batch(2, 2, vec![2, 3])).is_none());
    assert_eq!(ledger.take_handed_back(), [2, 3, 4, 5]);
    assert_eq!(ledger.take_handed_back(), []);
    let left = ledger.leave_behind(|_, activity| activity != Activity::Collecting);
    assert!(matches!(left[..], [(Flusher { index: 2 }, Activity::Writing { items: 2, .. })]));
}
