//! Tells of what became of items: acks, dead letters, the caller's functions, events.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::classify::Verdict;
use super::dead::Buried;
use super::ledger::{Activity, Hung, Slot};
use super::permit::BreakerState;
use super::work::Work;
use super::{FailedItem, Shared};
use crate::ack::{AckError, AckReason, Receipt};
use crate::batch::BatchId;
use crate::config::DropReason;
use crate::guard::{drop_each, guarded};
use crate::mode::{Mode, Tag};
use crate::sink::{Applied, Dead};

/// Items that have failed for good, with their tags.
type LostItems<T> = Vec<(FailedItem<T>, Tag<T>)>;

/// Tells everyone who is to know of the fates of a write; returns how many of the caller's
/// functions panicked. Failed items that nobody takes are in `verdict.kept_out` then.
pub fn fates<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    slot: Slot,
    work: &Work<T, M>,
    verdict: &mut Verdict<T>,
    tags: &mut M::Tags,
    spoiled: Vec<Tag<T>>,
) -> u64 {
    let mut spoiled = spoiled.into_iter();
    let lost = mem::take(&mut verdict.lost).into_iter().map(|lost| {
        let tag = match lost.at {
            Some(at) => M::take_tag(tags, at),
            None => spoiled.next().unwrap_or_default(),
        };
        shared.any().release(tag.bytes);
        (lost.failed, tag)
    });
    let lost: Vec<_> = lost.collect();
    // Acks of what is in first: whoever takes the failed items may take its time.
    flushed(shared, work, verdict, tags);
    let (lost, panics) = bury(shared, slot, work, verdict, lost);
    let failed = fail_promises(shared, verdict, lost);
    panics + tell_failed(shared, slot, failed)
}

/// Gives failed items to the dead-letter sink, where there is one; returns those that it has not
/// taken, and how many of the others panicked on being dropped.
fn bury<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    slot: Slot,
    work: &Work<T, M>,
    verdict: &Verdict<T>,
    lost: LostItems<T>,
) -> (LostItems<T>, u64) {
    let Some(dead) = shared.dead.as_ref().filter(|_| !lost.is_empty()) else { return (lost, 0) };
    let (letters, tags): (Vec<_>, Vec<_>) = lost
        .into_iter()
        .map(|(failed, tag)| {
            let letter = Dead::new(failed.item, failed.error, failed.batch);
            let letter = letter.attempts(verdict.attempts);
            let (first, last) = (verdict.first.wall, verdict.last.wall);
            (letter.failed_at(first, last), tag)
        })
        .unzip();
    let asking = shared.asking(slot.flusher());
    let Buried { letters, refused } = dead.write(&work.batch, letters, asking);
    let (mut left, mut taken) = (Vec::new(), Vec::new());
    for ((letter, tag), refused) in letters.into_iter().zip(tags).zip(refused) {
        let failed = FailedItem { item: letter.item, error: letter.error, batch: letter.batch };
        if refused {
            left.push((failed, tag));
        } else {
            if let Some(promise) = tag.promise {
                promise.fail(ack_error(&failed));
            }
            taken.push(failed);
        }
    }
    shared.ledger.count_dead(taken.len() as u64, left.len() as u64);
    let panics = drop_each(&mut taken);
    (left, panics)
}

/// What an ack says of a failed item, without the item.
fn ack_error<T>(failed: &FailedItem<T>) -> AckError<T> {
    AckError {
        reason: match failed.error.what_applied() {
            Applied::Nothing => AckReason::Failed,
            Applied::Unknown => AckReason::Unknown,
        },
        item: None,
        error: Some(Arc::clone(&failed.error)),
        batch: Some(failed.batch),
    }
}

/// Resolves the ack of each failed item, which takes the item unless there is an `on_failed` to take
/// it. Returns the items for that; what nobody takes stays in the verdict.
fn fail_promises<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    verdict: &mut Verdict<T>,
    lost: LostItems<T>,
) -> Vec<FailedItem<T>> {
    let mut told = Vec::new();
    for (failed, tag) in lost {
        let ack_error = ack_error(&failed);
        let FailedItem { item, error, batch } = failed;
        let left = match (&shared.on_failed, tag.promise) {
            (Some(_), Some(promise)) => {
                promise.fail(ack_error);
                Some(item)
            }
            (None, Some(promise)) => promise.fail_with(ack_error, item),
            (_, None) => Some(item),
        };
        let Some(item) = left else { continue };
        let failed = FailedItem { item, error, batch };
        if shared.on_failed.is_some() { &mut told } else { &mut verdict.kept_out }.push(failed);
    }
    told
}

/// Gives failed items to `on_failed`; returns how many calls panicked.
fn tell_failed<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    slot: Slot,
    failed: Vec<FailedItem<T>>,
) -> u64 {
    let Some(report) = &shared.on_failed else { return 0 };
    let tell = |failed| {
        shared.ledger.touch(slot); // many calls may take as long as one that hangs
        u64::from(guarded(|| report(failed)).is_err())
    };
    failed.into_iter().map(tell).sum()
}

/// Resolves the acks of the items that are in, together, and gives their bytes back.
fn flushed<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    work: &Work<T, M>,
    verdict: &Verdict<T>,
    tags: &mut M::Tags,
) {
    let shard = shared.any();
    // First: a waker may take its time.
    if shard.admission.budget.is_some() {
        let tags = (0..).map_while(|at| M::tag(tags, at));
        shard.release(tags.map(|tag| tag.bytes).sum());
    }
    for tag in M::take_tags(tags) {
        let Some(promise) = tag.promise else { continue };
        let added = shard.added(tag.added).unwrap_or(verdict.started);
        promise.succeed(Receipt {
            batch: work.batch.id,
            attempts: work.past.attempts,
            queued: verdict.started.saturating_duration_since(added),
            writing: verdict.took,
        });
    }
}

/// Tells of items that were too old to be written; returns how many calls panicked.
pub fn expired<T, M: Mode<T>>(shared: &Shared<T, M>, expired: Vec<(T, Tag<T>)>) -> u64 {
    // First: who is told may take its time.
    shared.any().release(expired.iter().map(|(_, tag)| tag.bytes).sum());
    let tell =
        |(item, tag)| shared.tell_dropped(item, Tag { bytes: 0, ..tag }, DropReason::Expired);
    expired.into_iter().map(tell).sum()
}

/// Failed items that nobody has taken.
pub fn let_go<T>(failed: &[FailedItem<T>], batch: BatchId) {
    if !failed.is_empty() {
        tracing::warn!(
            items = failed.len(),
            %batch,
            "failed items are let go: more have failed than `failed_kept`"
        );
    }
}

/// The breaker has come into another state.
pub fn breaker(state: BreakerState) {
    match state {
        BreakerState::Open => tracing::warn!("the breaker has opened: the sink keeps failing"),
        BreakerState::HalfOpen => tracing::info!("the breaker lets one batch through"),
        BreakerState::Closed => tracing::info!("the breaker has closed: the sink takes batches"),
    }
}

impl<T, M: Mode<T>> Hung<T, M> {
    /// Its flusher does not come back from the caller's code.
    pub fn tell(&self, limit: Duration) {
        let (code, batch) = match self.at {
            Activity::Writing(writing) => ("the sink", writing.batch),
            Activity::Reporting(writing) => ("whoever is told of failed items", writing.batch),
            _ => return,
        };
        let flusher = self.flusher.index;
        tracing::error!(flusher, %batch, ?limit, "{code} has not returned: a flusher is left behind");
        self.breaker.into_iter().for_each(breaker);
        if self.seat.is_none() {
            halted(batch);
        }
    }
}

/// An item has failed, and order forbids to go on.
pub fn halted(batch: BatchId) {
    tracing::error!(%batch, "an item has failed for good: the engine halts");
}
