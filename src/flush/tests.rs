//! What only chance would show from outside: batches that flushers hold just when shutdown stops
//! the writing.

use std::time::Instant;

use super::*;
use crate::batch::{Batch, FlushReason};
use crate::clock::Clock;
use crate::collect::Formed;
use crate::flush::ledger::Begun;
use crate::sink::Flusher;

fn batch(id: u64, position: u64, items: Vec<u64>) -> Formed<u64> {
    let opened = Instant::now();
    let (id, reason) = (BatchId(id), FlushReason::Size);
    let end = position + items.len() as u64;
    let batch = Batch { id, reason, bytes: 0, items, position, opened, late: None };
    Formed { batch, tags: (), spoiled: Vec::new(), end }
}

fn begins(ledger: &Ledger<u64>, index: usize, formed: Formed<u64>) -> bool {
    matches!(ledger.begin(Flusher { index }, formed, 0), Begun::Write(..))
}

#[test]
fn batches_that_come_too_late_are_handed_back_in_the_order_of_the_ring() {
    let ledger = Ledger::new(3, 16, 16, Clock::default());
    assert!(begins(&ledger, 2, batch(1, 0, vec![0, 1])), "in time");
    ledger.stop();
    assert!(!begins(&ledger, 1, batch(3, 4, vec![4, 5])));
    assert!(!begins(&ledger, 0, batch(2, 2, vec![2, 3])));
    assert_eq!(ledger.take_handed_back(), [2, 3, 4, 5]);
    assert_eq!(ledger.take_handed_back(), []);
    let (left, _) = ledger.leave_behind(|_, activity| activity != Activity::Collecting);
    assert!(matches!(left[..], [(Flusher { index: 2 }, Activity::Writing { items: 2, .. })]));
}
