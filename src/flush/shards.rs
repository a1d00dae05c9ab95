//! The shards of an engine, together.

use std::ops::Deref;
use std::sync::Arc;

use super::policy::key_of;
use super::{Shard, Shared};
use crate::mode::Mode;
use crate::placement::Near;
use crate::sink::Flusher;
use crate::sync::mutated;
use crate::telemetry::{Stats, Tally};

/// A position of each shard. No allocation where there is but one.
#[derive(Clone, Debug)]
pub enum Positions {
    One(u64),
    Many(Box<[u64]>),
}

impl Deref for Positions {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Self::One(position) => std::slice::from_ref(position),
            Self::Many(positions) => positions,
        }
    }
}

impl<T, M: Mode<T>> Shared<T, M> {
    /// For what any shard can say: which engine it is, the time, the bytes in use.
    pub fn any(&self) -> &Arc<Shard<T, M>> {
        &self.shards[0] // there is always one
    }

    /// The shard that a flusher serves.
    pub fn served_by(&self, flusher: Flusher) -> &Shard<T, M> {
        &self.shards[flusher.index / self.flushers_each]
    }

    /// The other shards, the nearest first.
    pub fn near<'a>(&'a self, shard: &Shard<T, M>) -> impl Iterator<Item = &'a Shard<T, M>> {
        self.placed.near(shard.index).iter().map(|&index| &*self.shards[index])
    }

    /// What brings a flusher's batches to its node, when it writes so many at a time; `None` where
    /// they may lie anywhere.
    pub fn near_of(&self, flusher: Flusher, writes: usize) -> Option<Near> {
        // Those of the shard's flushers, the one that is being filled, and one to spare each.
        let batches = self.flushers_each.saturating_mul(writes.saturating_add(1));
        self.placed.near_of(flusher.index, batches.saturating_add(1))
    }

    /// Whether each item goes to the shard of its key.
    pub fn is_keyed(&self) -> bool {
        self.policy.key.is_some()
    }

    /// The shard of an item's key.
    pub fn keyed(&self, item: &T) -> &Shard<T, M> {
        let key = self.policy.key.as_ref().map_or(0, |key| key_of(key, item));
        &self.shards[shard_of_key(key, self.shards.len())]
    }

    /// Whether this process was forked from the one that has the flushers.
    pub fn forked(&self) -> bool {
        self.any().forked()
    }

    /// Refuses every add from now on, and wakes everyone who waits.
    pub fn close(&self) {
        for shard in &self.shards {
            shard.close();
        }
    }

    /// Whether adds are refused.
    pub fn is_closed(&self) -> bool {
        self.shards.iter().all(|shard| shard.ring.is_closed())
    }

    /// Items ever added to the rings.
    pub fn pushed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.pushed()).sum()
    }

    /// Asks the flushers to collect nothing more, whatever is left.
    pub fn stop(&self) {
        self.shards.iter().for_each(|shard| shard.stop());
    }

    /// Writes that can be cut short are waited for no longer.
    pub fn give_up(&self) {
        self.shards.iter().for_each(|shard| shard.give_up());
    }

    /// Tells the flushers that sleep that something besides their rings has changed; see
    /// [`Wake::alarm`](crate::wait::Wake::alarm).
    pub fn alarm(&self) {
        self.shards.iter().for_each(|shard| shard.wake.alarm(&shard.ring));
    }

    /// Bytes are short: has the items that hold them written.
    pub fn press(&self) {
        let pressed = if mutated("press_one_shard") { &self.shards[1..] } else { &self.shards };
        pressed.iter().for_each(|shard| shard.press());
    }

    /// Asks for everything that was added before this call, and says up to which position of each
    /// shard that is.
    pub fn demand_all(&self) -> Positions {
        match &self.shards[..] {
            [shard] => Positions::One(shard.demand_all()),
            shards if mutated("flush_one_shard") => {
                Positions::Many(shards[..1].iter().map(|shard| shard.demand_all()).collect())
            }
            shards => Positions::Many(shards.iter().map(|shard| shard.demand_all()).collect()),
        }
    }

    /// As [`demand_all`](Self::demand_all), of one shard; of the others nothing.
    pub fn demand_of(&self, index: usize) -> Positions {
        let asked = |shard: &Arc<Shard<T, M>>| match shard.index == index {
            true => shard.demand_all(),
            false => 0,
        };
        match &self.shards[..] {
            [shard] => Positions::One(asked(shard)),
            shards => Positions::Many(shards.iter().map(asked).collect()),
        }
    }

    /// Where the items are, exactly, at this moment.
    pub fn tally(&self) -> Tally {
        self.ledger.tally(&self.shards)
    }

    /// Everything that is counted, of one moment.
    pub fn stats(&self) -> Stats {
        self.ledger.stats(&self.shards)
    }
}

/// Spreads keys over shards, also such as are numbered one after the other or have common factors:
/// multiplicative hashing by the golden ratio, then the upper half scaled to the shards (Knuth, The
/// Art of Computer Programming 3, 6.4; Lemire, "Fast random integer generation in an interval").
fn shard_of_key(key: u64, shards: usize) -> usize {
    let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    usize::try_from((mixed * shards as u64) >> 32).unwrap_or(0)
}
