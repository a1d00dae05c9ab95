//! Figures of one moment.

use std::sync::Arc;

use super::Ledger;
use crate::flush::owned::OwnedRings;
use crate::flush::shard::Shard;
use crate::mode::Mode;
use crate::sync::{lock, mutated};
use crate::telemetry::{Drops, Stats, Tally};
use crate::wait::Budget;

impl<T, M: Mode<T>> Ledger<T, M> {
    pub fn tally(&self, shards: &[Arc<Shard<T, M>>]) -> Tally {
        let newest = newest(shards);
        if mutated("count_before_lock") {
            let enqueued = shards.iter().map(|shard| shard.pushed()).sum();
            return lock(&self.state).tally_of(enqueued, newest);
        }
        lock(&self.state).tally(shards, newest)
    }

    /// Everything, of one moment.
    pub fn stats(&self, shards: &[Arc<Shard<T, M>>]) -> Stats {
        let sum = |of: fn(&Shard<T, M>) -> u64| shards.iter().map(|shard| of(shard)).sum::<u64>();
        let mut state = lock(&self.state);
        let queue_depth = sum(|shard| shard.len() as u64); // before the tally: what is queued is in flight
        let newest = newest(shards);
        let tally = state.tally(shards, newest);
        let drops = Drops::new(newest, state.evicted, state.expired);
        let now = self.clock.now();
        let oldest = state.oldest(shards, tally.in_flight);
        let counts = state.counts.clone();
        let (breaker, writes_max) = (state.gate.state(now), state.gate.limit());
        let (retry_batches, retry_items) = (state.retries.len() as u64, state.retries.items());
        drop(state); // quantiles take a while
        let admission = shards.first().map(|shard| &shard.admission);
        let of_rings =
            |shard: &Arc<Shard<T, M>>| shard.owned.as_ref().map_or(0, OwnedRings::waiting);
        let owners: usize = shards.iter().map(of_rings).sum();
        let rooms = admission.map_or(&[][..], |door| &door.rooms);
        Stats {
            tally,
            batches: counts.batches,
            writes: counts.writes,
            retries: counts.retries,
            splits: counts.splits,
            retry_batches,
            retry_items,
            retry_overflows: counts.overflows,
            breaker,
            writes_max,
            hung: counts.hung,
            dead_lettered: counts.dead_lettered,
            dead_letter_failures: counts.dead_letter_failures,
            queue_depth,
            queue_capacity: sum(|shard| shard.capacity() as u64),
            oldest_age: oldest.map(|oldest| now.saturating_duration_since(oldest)),
            queue_bytes: admission.and_then(|door| door.budget.as_ref()).map_or(0, Budget::used),
            waiting_producers: rooms.iter().map(|room| room.len()).sum::<usize>() + owners,
            drops,
            rejected: self.rejected.get(),
            stolen: self.stolen.get(),
            overflowed: self.overflowed.get(),
            flush_reasons: counts.reasons,
            batch_size: counts.batch_size.summary(),
            flush_duration: counts.flush_duration.duration_summary(),
            batch_age: counts.batch_age.duration_summary(),
            timer_lateness: counts.timer_lateness.duration_summary(),
            phases: counts.phases.map(|phase| phase.duration_summary()),
            parks: sum(|shard| shard.parks.get()),
            stalls: sum(|shard| shard.stalls.get()),
            sink_panics: counts.sink_panics,
            callback_panics: counts.callback_panics,
        }
    }
}

/// Items let go at the door.
fn newest<T, M: Mode<T>>(shards: &[Arc<Shard<T, M>>]) -> u64 {
    shards.iter().map(|shard| shard.newest.get()).sum()
}
