//! What the ledger does under its lock.

use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::{Agenda, Frontier, Open, Resolution, SlotState, State, Task, Writing};
use crate::batch::{Batch, BatchId};
use crate::config::OnFailure;
use crate::flush::FailedItem;
use crate::flush::classify::{Again, Verdict, last_word};
use crate::flush::gate::{Load, Permit, Refusal};
use crate::flush::retries::{Kind, Waiting};
use crate::flush::shard::{Shard, earlier};
use crate::flush::work::{Past, Work};
use crate::mode::Mode;
use crate::sync::mutated;
use crate::telemetry::{Cause, Tally};

/// Whether every item before these positions, one of each shard, has met its fate.
fn resolved(frontiers: &[Frontier], positions: &[u64]) -> bool {
    frontiers.iter().zip(positions).all(|(frontier, position)| frontier.resolved >= *position)
}

impl<T, M: Mode<T>> State<T, M> {
    /// Exact at this moment: fates are counted under the lock that is held, each after its item was
    /// enqueued, so the tail read now covers them all.
    pub fn tally(&self, shards: &[Arc<Shard<T, M>>], newest: u64) -> Tally {
        self.tally_of(shards.iter().map(|shard| shard.pushed()).sum(), newest)
    }

    pub fn tally_of(&self, pushed: u64, newest: u64) -> Tally {
        let dropped = self.evicted + self.expired;
        let met = self.flushed_ok + self.flushed_fail + self.unknown + dropped;
        Tally {
            enqueued: pushed + newest,
            flushed_ok: self.flushed_ok,
            flushed_fail: self.flushed_fail,
            dropped: dropped + newest,
            unknown: self.unknown,
            in_flight: pushed - met,
        }
    }

    /// For a flusher of that shard.
    pub fn agenda(&mut self, shard: usize, now: Instant) -> Agenda<T, M> {
        if self.retries.is_empty() || self.stopping {
            return Agenda::Nothing;
        }
        if let Some(mut waiting) = self.retries.take_hopeless(shard, now) {
            self.spent(&mut waiting.work.past, now);
            let permit = Permit::Refuse(Refusal::TooLong);
            return Agenda::Take { work: waiting.work, permit, alarm: false };
        }
        let until = match self.gate.look(now) {
            Ok(()) => {
                let retry_at = self.gate.retry_at(now);
                if let Some(waiting) = self.retries.take_due(shard, now, retry_at.is_none()) {
                    return self.resume(waiting, now);
                }
                self.kept = Cause::Throttle;
                self.retries.next_due(shard, retry_at)
            }
            Err(held) => {
                self.kept = held.cause;
                let due = self.retries.next_due(shard, None);
                held.until.and_then(|at| due.map(|due| due.max(at)))
            }
        };
        let fresh = self.lets_fresh_pass();
        if fresh && !self.retries.any_of(shard) {
            return Agenda::Nothing;
        }
        self.held_up |= !fresh;
        Agenda::Wait { until: earlier(until, self.retries.next_hopeless(shard)), fresh }
    }

    /// Whether fresh batches are written while others wait to be tried again. With no room for more
    /// of those they wait in the ring, from which nothing is lost.
    pub fn lets_fresh_pass(&self) -> bool {
        match self.order {
            OnFailure::Skip => !self.gate.holds() || self.has_room_for_batch(),
            OnFailure::ParkKey => self.has_room_for_batch(),
            OnFailure::Halt => false,
        }
    }

    fn has_room_for_batch(&self) -> bool {
        let writing = self.slots.iter().filter_map(SlotState::writing);
        self.retries.has_room_for_batch(writing.map(|writing| writing.items).sum())
    }

    /// A work has waited long enough.
    pub fn resume(&mut self, mut waiting: Waiting<T, M>, now: Instant) -> Agenda<T, M> {
        let (items, bytes) = (waiting.work.count(), waiting.work.batch.bytes);
        let load = Load { items, bytes, kind: Some(waiting.kind) };
        let permit = match self.gate.take(now, load) {
            Ok(permit) => permit,
            Err(held) => {
                self.retries.insert(waiting, now);
                self.held_up = true;
                return Agenda::Wait { until: held.until, fresh: false };
            }
        };
        if waiting.kind == Kind::Retry && matches!(permit, Permit::Write(_)) {
            self.counts.retries += 1;
        }
        self.spent(&mut waiting.work.past, now);
        Agenda::Take { work: waiting.work, permit, alarm: false }
    }

    /// Takes note of how a work has spent its time since it failed.
    pub fn spent(&self, past: &mut Past, now: Instant) {
        let Some(failure) = &past.failure else { return };
        let failed = failure.last.at;
        let due = failure.due.max(failed).min(now.max(failed));
        past.phases.backing_off += due.saturating_duration_since(failed);
        past.phases.add(self.kept, now.saturating_duration_since(due));
    }

    /// Takes in what goes on after a write; returns how many items that are. Where too many wait
    /// already they are lost.
    pub fn take_again(
        &mut self,
        work: &Work<T, M>,
        verdict: &mut Verdict<T>,
        tags: &mut M::Tags,
        now: Instant,
    ) -> u64 {
        let mut gone_on = 0;
        for again in mem::take(&mut verdict.again) {
            let Again { kind, whole, at, items, bytes, failure, unknown, keys } = again;
            let unknown = unknown || work.past.unknown;
            let count = items.len() as u64;
            // Where others wait behind it, what has waited before goes back to its place.
            let back = self.order != OnFailure::Skip && (!work.is_fresh() || work.past.parked);
            if kind == Kind::Retry && !back && !self.retries.has_room(count, bytes) {
                self.counts.overflows += 1;
                for (at, item) in at.into_iter().zip(items) {
                    let error = last_word(Arc::clone(&failure.error), unknown);
                    verdict.lose(work.batch.id, Some(at), item, error);
                }
                continue;
            }
            gone_on += count;
            self.counts.splits += u64::from(kind == Kind::Part);
            let mut past = work.past.clone();
            past.retries += u32::from(kind == Kind::Retry);
            let first = at.first().map_or(0, |at| u32::try_from(*at).unwrap_or(u32::MAX));
            past.offset = past.offset.saturating_add(first);
            past.unknown = unknown;
            past.failure = Some(Box::new(failure));
            let mut own = M::Tags::default();
            at.iter().for_each(|at| M::put_tag(M::take_tag(tags, *at), &mut own));
            let open = self.open_up(work.batch.id);
            let id = if whole { work.batch.id } else { open.next_part(work.batch.id) };
            let batch = Batch { id, bytes, items, late: None, ..work.batch.emptied() };
            let work = Work { batch, tags: own, spoiled: Vec::new(), end: work.end, past };
            self.retries.insert(Waiting { work, kind, keys }, now);
        }
        verdict.lost.sort_by_key(|lost| lost.at);
        gone_on
    }

    /// The batch is in one work more.
    pub fn open_up(&mut self, batch: BatchId) -> &mut Open {
        let open = self.open.entry(batch.get()).or_insert(Open { works: 1, parts: 0 });
        open.works += 1;
        open
    }

    /// A work of a batch has ended: if it was the last, every item of the batch has met its fate.
    pub fn finish(&mut self, writing: &Writing) {
        if let Some(open) = self.open.get_mut(&writing.batch.get()) {
            open.works -= 1;
            if open.works > 0 && !mutated("resolve_with_part") {
                return;
            }
            self.open.remove(&writing.batch.get());
        }
        self.frontiers[writing.shard].resolve(writing.position, writing.end);
    }

    pub fn take_task(&mut self, number: u64) -> Option<Waker> {
        let index = self.tasks.iter().position(|task| task.number == number)?;
        Some(self.tasks.swap_remove(index).waker)
    }

    /// The tasks that need wait no longer.
    pub fn take_resolved(&mut self) -> Vec<Task> {
        let (frontiers, gone) = (&self.frontiers, self.all_gone());
        let over = |task: &mut Task| gone || resolved(frontiers, &task.positions);
        self.tasks.extract_if(.., over).collect()
    }

    pub fn resolution(&self, positions: &[u64]) -> Option<Resolution> {
        let before = |shard: usize| positions.get(shard).copied().unwrap_or(0);
        let telling = self.telling.iter().any(|(shard, position)| *position < before(*shard));
        if resolved(&self.frontiers, positions) && !telling {
            Some(Resolution::Resolved)
        } else {
            self.all_gone().then_some(Resolution::Stopped)
        }
    }

    /// No add of any item in flight had returned before this moment; but for items on their way from a
    /// queue to their write while others are queued.
    pub fn oldest(&self, shards: &[Arc<Shard<T, M>>], in_flight: u64) -> Option<Instant> {
        let mut queued = in_flight - self.retries.items();
        let mut oldest = self.retries.oldest();
        for Writing { items, opened, .. } in self.slots.iter().filter_map(SlotState::writing) {
            queued -= items;
            oldest = oldest.into_iter().chain([*opened]).min();
        }
        if queued == 0 {
            return oldest;
        }
        let in_queues = shards.iter().filter_map(|shard| shard.oldest());
        // With none in a queue they are in a batch that is just on its way to be written: mostly of
        // the shard that was looked at last.
        let on_the_way = || shards.iter().map(|shard| shard.looked_at()).max();
        oldest.into_iter().chain(in_queues.min().or_else(on_the_way)).min()
    }

    pub fn keep(&mut self, failed: &mut Vec<FailedItem<T>>) {
        let room = self.failed_kept.saturating_sub(self.failed.len()).min(failed.len());
        self.failed_discarded += (failed.len() - room) as u64;
        self.failed.extend(failed.drain(..room));
    }
}
