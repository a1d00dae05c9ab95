//! What callbacks, acks, letters and the report say, and what must hold at the end.

use std::collections::BTreeSet;

use sluicegate::{
    AckError, AckReason, Applied, Dead, DropReason, DroppedItem, OnFailure, Receipt, Shutdown,
};

use super::check::Checks;
use super::fates::Fate;
use super::{Scenario, key_of};

impl Checks {
    /// An item was let go.
    pub fn let_go(&mut self, dropped: &DroppedItem<u64>) {
        let DroppedItem { item, reason } = *dropped;
        let what = match reason {
            DropReason::Newest => "newest let go",
            DropReason::Oldest => "evicted",
            DropReason::Expired => "expired",
        };
        self.seen.add(what, 1);
        let allowed = reason != DropReason::Expired || self.scenario.max_age.is_some();
        self.fates.must(allowed, || format!("{item} was let go: {reason:?}"));
        self.fates.meet(item, Fate::Dropped(reason));
    }

    /// The dead-letter sink takes a letter.
    pub fn buried(&mut self, letter: &Dead<u64>) {
        self.buried += 1;
        let calls = self.fates.item(letter.item).calls.max(1);
        let right = self.gone || letter.attempts == calls;
        let said = letter.attempts;
        self.fates.must(right, || format!("{said} attempts, and {calls} calls: {}", letter.item));
        self.lost(letter.item, letter.applied());
    }

    /// Its ack says nothing yet.
    pub fn waits(&mut self, number: u64) {
        let fate = self.fates.item(number).fate;
        self.fates.must(fate.is_none(), || format!("{number} is {fate:?}, its ack does not know"));
    }

    /// Its ack says this.
    pub fn told(&mut self, number: u64, told: Result<Receipt, AckError<u64>>) {
        let (said, what) = match told {
            Ok(receipt) => {
                let item = self.fates.item(number);
                let batch = (receipt.batch.get(), receipt.batch.part());
                let right = receipt.attempts == item.calls && batch == item.last_call;
                let item = item.clone();
                self.fates.must(right, || format!("{receipt:?} of {item:?}"));
                (Fate::In, "acked")
            }
            Err(error) => {
                let said = match error.reason {
                    AckReason::Failed => (Fate::Failed, "ack of a failed item"),
                    AckReason::Unknown => (Fate::Unknown, "ack of an item that may be in"),
                    AckReason::Newest => let_go(DropReason::Newest),
                    AckReason::Evicted => let_go(DropReason::Oldest),
                    AckReason::Expired => let_go(DropReason::Expired),
                    AckReason::HandedBack => {
                        (Fate::HandedBack, "ack of an item that was handed back")
                    }
                    other => panic!("{number}: {other}"),
                };
                if let Some(item) = error.item {
                    // Then nobody else has it.
                    self.fates.must(item == number, || format!("{item} with the ack of {number}"));
                    let applied = error.error.map(|error| error.what_applied());
                    self.lost(item, applied.unwrap_or(Applied::Nothing));
                }
                said
            }
        };
        self.seen.add(what, 1);
        let fate = self.fates.item(number).fate;
        self.fates.must(fate == Some(said), || format!("{number} is {fate:?}, not {said:?}"));
    }

    /// What the report has of items.
    pub fn reported(&mut self, report: &Shutdown<u64>) {
        for failed in &report.failed {
            self.lost(failed.item, failed.error.what_applied());
        }
        for item in &report.unflushed {
            let maybe = self.fates.item(*item).maybe;
            self.fates.must(!maybe, || format!("{item} may be in, and is handed back"));
            self.fates.meet(*item, Fate::HandedBack);
        }
    }

    /// At the end: each item has met its fate, and the tally says which.
    pub fn end(&mut self, report: &Shutdown<u64>) {
        assert_eq!(self.fates.wrong, None, "{:?}", self.scenario);
        assert_eq!(self.fates.open, 0, "without a fate: {:?}", self.scenario);
        let tally = &report.tally;
        let fates = &self.fates;
        assert_eq!(tally.enqueued, fates.added());
        assert_eq!((tally.flushed_ok, tally.dropped), (fates.taken, fates.dropped));
        assert_eq!((tally.flushed_fail, tally.unknown), (fates.failed, fates.unknown));
        assert_eq!(tally.in_flight, fates.handed_back);
        let stats = &report.stats;
        assert_eq!(stats.dead_lettered, self.buried);
        assert_eq!(stats.queue_bytes, 0, "bytes of items that are gone: {:?}", self.scenario);
        for (reason, what) in [
            (DropReason::Newest, "newest let go"),
            (DropReason::Oldest, "evicted"),
            (DropReason::Expired, "expired"),
        ] {
            assert_eq!(stats.drops.get(reason), self.seen.times(what), "{what}");
        }
        self.order(&report.unflushed);
        self.saw(report);
    }

    fn saw(&mut self, report: &Shutdown<u64>) {
        let stats = &report.stats;
        for (what, times) in [
            ("buried", stats.dead_lettered),
            ("failed", report.tally.flushed_fail),
            ("halted", u64::from(self.halted)),
            ("handed back", report.unflushed.len() as u64),
            ("overflow", stats.retry_overflows),
            ("panic of the sink", stats.sink_panics),
            ("retry", stats.retries),
            ("split", stats.splits),
            ("unburied", stats.dead_letter_failures),
            ("unknown", report.tally.unknown),
        ] {
            self.seen.add(what, times);
        }
    }

    fn order(&self, unflushed: &[u64]) {
        let Scenario { on_failure, keys, faults, .. } = &self.scenario;
        let parks = *on_failure == OnFailure::ParkKey && *keys != 1;
        let scattered = faults.partial > 0 || parks;
        assert!(scattered || unflushed.is_sorted(), "{unflushed:?}");
        if faults.partial > 0 {
            return; // a sink that takes the second half of a batch has broken the order itself
        }
        match on_failure {
            OnFailure::Skip => {}
            OnFailure::ParkKey => {
                let all: BTreeSet<_> = self.written.iter().map(|n| key_of(*n, *keys)).collect();
                for key in all {
                    let of_key = self.written.iter().filter(|item| key_of(**item, *keys) == key);
                    assert!(of_key.is_sorted(), "{key}: {:?} {:?}", self.written, self.scenario);
                }
            }
            OnFailure::Halt => {
                assert!(self.written.is_sorted(), "{:?}", self.written);
                // Nothing behind a failed item is written.
                let first = self.fates.lost_or_left().min();
                let last = self.written.last();
                let right = first.is_none_or(|first| last.is_none_or(|last| *last < first));
                assert!(right, "{first:?} {last:?} {:?}", self.scenario);
            }
        }
    }
}

fn let_go(reason: DropReason) -> (Fate, &'static str) {
    (Fate::Dropped(reason), "ack of an item that was let go")
}
