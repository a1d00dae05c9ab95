//! Works that wait to be written again, or behind one that does: bounded, and nobody's thread
//! sleeps for them.
//!
//! Where order is kept, a work is *ready* when it is the first of all that hold any of its keys;
//! with [`OnFailure::Halt`] all works share one key. Only ready works are in `due`, so finding the
//! next one costs no more than with [`OnFailure::Skip`], where every work is ready.
//!
//! A work is written by the flushers of its own shard, unless flushers help one another, for which
//! nobody asks where order counts. Once it is taken out its keys are free, and
//! what keeps the order from then on is that the shard has but one flusher, who has it in hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::work::{Place, Work};
use crate::config::OnFailure;
use crate::mode::Mode;
use crate::sync::mutated;

/// The key of every work where nothing may pass a failed one.
const ONE_KEY: u64 = 0;

/// Why a work waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For another try of the same items: counts against the bounds and the retry budget.
    Retry,
    /// It is a part of a batch that was split, and goes on at once. Its items were in a flusher's
    /// hands before, so they are bounded by what flushers hold.
    Part,
    /// Items of its keys wait before it, or did: a part, too. Counts against the bounds.
    Parked,
}

/// The waiting works of an engine.
pub struct Retries<T, M: Mode<T>> {
    order: OnFailure,
    bounds: Bounds,
    give_up_after: Option<Duration>,
    works: BTreeMap<Place, (Instant, Waiting<T, M>)>,
    shards: Vec<Own>,
    /// Any flusher may write them: they all wait in the first place.
    together: bool,
    /// Works that hold each key.
    keys: HashMap<u64, BTreeSet<Place>>,
    items: u64,
    bytes: u64,
}

/// What waits of one shard.
#[derive(Default)]
struct Own {
    /// When each that is ready is due: retries, and the others.
    due: [BTreeSet<(Instant, Place)>; 2],
    /// When each will have failed for too long.
    give_up: BTreeSet<(Instant, Place)>,
    works: usize,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub items: u64,
    pub bytes: u64,
    /// The largest batch.
    pub batch: u64,
}

/// A work, and what it waits for.
pub struct Waiting<T, M: Mode<T>> {
    pub work: Work<T, M>,
    pub kind: Kind,
    /// Of its items, ascending, each once; empty unless keys are parked.
    pub keys: Vec<u64>,
}

impl<T, M: Mode<T>> Retries<T, M> {
    pub fn new(order: OnFailure, bounds: Bounds, give_up_after: Option<Duration>) -> Self {
        Self {
            order,
            bounds,
            give_up_after,
            works: BTreeMap::new(),
            shards: Vec::new(),
            together: false,
            keys: HashMap::new(),
            items: 0,
            bytes: 0,
        }
    }

    pub fn order(&self) -> OnFailure {
        self.order
    }

    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// The same for flushers that help one another.
    #[must_use]
    pub fn together(mut self, together: bool) -> Self {
        self.together = together || mutated("retries_of_any_shard");
        self
    }

    /// Where works of that shard wait.
    fn own(&self, shard: usize) -> usize {
        if self.together { 0 } else { shard }
    }

    /// Whether something of that shard waits.
    pub fn any_of(&self, shard: usize) -> bool {
        self.shards.get(self.own(shard)).is_some_and(|own| own.works > 0)
    }

    /// Works that wait.
    pub fn len(&self) -> usize {
        self.works.len()
    }

    /// Items that wait, in all.
    pub fn items(&self) -> u64 {
        self.works.values().map(|(_, waiting)| waiting.work.count()).sum()
    }

    /// No add of an item that waits had returned before this moment.
    pub fn oldest(&self) -> Option<Instant> {
        self.works.values().map(|(_, waiting)| waiting.work.batch.opened).min()
    }

    /// Whether so much more may wait. One work always may, however large.
    pub fn has_room(&self, items: u64, bytes: u64) -> bool {
        let fits = self.items + items <= self.bounds.items
            && self.bytes.saturating_add(bytes) <= self.bounds.bytes;
        fits || self.items == 0
    }

    /// Whether a whole fresh batch may wait, and all that is being written too.
    pub fn has_room_for_batch(&self, writing: u64) -> bool {
        self.has_room(self.bounds.batch.saturating_add(writing), 0)
    }

    /// Takes a work in. One that has not failed itself is due at once.
    pub fn insert(&mut self, mut waiting: Waiting<T, M>, now: Instant) {
        let place = waiting.work.place();
        let own = self.own(place.shard);
        if self.shards.len() <= own {
            self.shards.resize_with(own + 1, Own::default);
        }
        self.shards[own].works += 1;
        let due = waiting.work.past.failure.as_ref().map_or(now, |failure| failure.due);
        if self.order == OnFailure::Halt {
            waiting.keys = vec![ONE_KEY];
        }
        if waiting.kind == Kind::Part && waiting.keys.iter().any(|key| self.is_behind(*key, place))
        {
            waiting.kind = Kind::Parked;
        }
        if waiting.kind != Kind::Part {
            self.items += waiting.work.count();
            self.bytes = self.bytes.saturating_add(waiting.work.batch.bytes);
        }
        if let Some(moment) = self.give_up_at(&waiting) {
            self.shards[own].give_up.insert((moment, place));
        }
        let keys = waiting.keys.clone();
        let before = self.works.insert(place, (due, waiting));
        debug_assert!(before.is_none(), "two works in one place");
        for key in &keys {
            let holders = self.keys.entry(*key).or_default();
            holders.insert(place);
            let next = holders.range(place..).nth(1).copied();
            self.sort(next); // it may be first no longer
        }
        self.sort(Some(place));
    }

    /// Whether another work of that key comes before.
    fn is_behind(&self, key: u64, place: Place) -> bool {
        self.keys.get(&key).and_then(BTreeSet::first).is_some_and(|first| *first < place)
    }

    /// Puts a work among those that are due, or takes it away from them.
    fn sort(&mut self, place: Option<Place>) {
        let Some(place) = place else { return };
        let Some((due, waiting)) = self.works.get(&place) else { return };
        let first = |key| self.keys.get(key).and_then(|holders| holders.first()) == Some(&place);
        let own = if self.together { 0 } else { place.shard };
        let set = &mut self.shards[own].due[set_of(waiting.kind)];
        if waiting.keys.iter().all(first) {
            set.insert((*due, place));
        } else {
            set.remove(&(*due, place));
        }
    }

    fn give_up_at(&self, waiting: &Waiting<T, M>) -> Option<Instant> {
        waiting.work.past.failure.as_ref()?.first.at.checked_add(self.give_up_after?)
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<T, M>> {
        let (due, waiting) = self.works.remove(&place)?;
        if waiting.kind != Kind::Part {
            self.items -= waiting.work.count();
            self.bytes = self.bytes.saturating_sub(waiting.work.batch.bytes);
        }
        let (own, hopeless_at) = (self.own(place.shard), self.give_up_at(&waiting));
        let own = &mut self.shards[own];
        own.due[set_of(waiting.kind)].remove(&(due, place));
        own.works -= 1;
        if let Some(moment) = hopeless_at {
            own.give_up.remove(&(moment, place));
        }
        for key in &waiting.keys {
            let Some(holders) = self.keys.get_mut(key) else { continue };
            holders.remove(&place);
            let first = holders.first().copied();
            if first.is_none() {
                self.keys.remove(key);
            }
            self.sort(first);
        }
        Some(waiting)
    }

    /// Takes a work of a shard out that has failed for too long by now: nobody will write it again.
    pub fn take_hopeless(&mut self, shard: usize, now: Instant) -> Option<Waiting<T, M>> {
        let own = self.shards.get(self.own(shard))?;
        let place = own.give_up.first().filter(|entry| entry.0 <= now)?.1;
        self.remove(place)
    }

    /// Takes the next work of a shard out that may be written now, that which is due longest.
    /// `retry`: whether the budget allows one.
    pub fn take_due(&mut self, shard: usize, now: Instant, retry: bool) -> Option<Waiting<T, M>> {
        let due = &self.shards.get(self.own(shard))?.due;
        let retries = due[0].first().filter(|_| retry);
        let first = due[1].first().into_iter().chain(retries).min().copied();
        self.remove(first.filter(|entry| entry.0 <= now)?.1)
    }

    /// When there is something of a shard to write next; `retry_at` is when the budget allows a
    /// retry.
    pub fn next_due(&self, shard: usize, retry_at: Option<Instant>) -> Option<Instant> {
        let due = &self.shards.get(self.own(shard))?.due;
        let retry = due[0].first().map(|entry| retry_at.map_or(entry.0, |at| entry.0.max(at)));
        let other = due[1].first().map(|entry| entry.0);
        retry.into_iter().chain(other).min()
    }

    /// When the first of a shard will have failed for too long.
    pub fn next_hopeless(&self, shard: usize) -> Option<Instant> {
        self.shards.get(self.own(shard))?.give_up.first().map(|entry| entry.0)
    }

    /// Whether an item of this key must wait for one that is here.
    pub fn parks(&self, key: u64) -> bool {
        self.keys.contains_key(&key)
    }

    /// Takes everything out, oldest first.
    pub fn take_all(&mut self) -> Vec<Work<T, M>> {
        self.shards.clear();
        self.keys.clear();
        (self.items, self.bytes) = (0, 0);
        std::mem::take(&mut self.works).into_values().map(|(_, waiting)| waiting.work).collect()
    }
}

fn set_of(kind: Kind) -> usize {
    match kind {
        Kind::Retry => 0,
        Kind::Part | Kind::Parked => 1,
    }
}
