//! What every add does, whichever ring it is for: one attempt, and what comes after a refusal, first
//! the caller's own patience, then the engine's [`WhenFull`].

use std::time::Instant;

use crate::clock::Clock;
use crate::config::{DropReason, WhenFull};
use crate::error::{AddError, AddManyError, AddReason, Refused};
use crate::flush::{Own, Serving, Shard, Shared};
use crate::mode::{Mode, RunRefused};
use crate::ring::{Front, PopError};
use crate::sync::{Backoff, mutated};

/// Items let go for one, at most, before the queue is called full after all: each time another
/// producer has taken the slot.
const EVICTIONS_MAX: u32 = 1 << 16;

/// While a producer waits awake for room, it waits for that of so many full batches, or of half the
/// ring; see `docs/decisions/0018-room-worth-waiting-for.md`.
const ROOM_BATCHES: u64 = 8;

/// How long a caller is ready to wait.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// As long as the policy says.
    Policy,
    /// Until then; for ever without a time.
    Until(Option<Instant>),
}

/// Why there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// Every slot is in use.
    Slot,
    /// The slot is being emptied: there is room in a moment.
    Moment,
    /// Of the memory budget.
    Bytes,
}

/// An entry on its way in; `None` once it is.
pub(super) type Offer<T, M> = Option<<M as crate::mode::Carry<T>>::Entry>;

/// A way for items into an engine.
pub(super) trait Way<T: Send + 'static, M: Mode<T>>: Sized {
    fn shared(&self) -> &Shared<T, M>;

    /// For what every shard can say; mostly it is the one that the items go to.
    fn any(&self) -> &Shard<T, M>;

    /// The ring of its own that the items go to.
    fn own(&self) -> Option<&Own<M::Entry>>;

    /// The shard to which an item goes.
    fn shard_of(&self, item: &T) -> &Shard<T, M>;

    /// One attempt.
    fn push(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>>;

    /// One attempt for a run of items that go to the same shard.
    fn push_run(&self, front: &mut Front<'_, T>) -> Result<(), RunRefused>;

    /// A call begins that may wait; it is over when this is dropped.
    fn staying(&self) -> impl Sized;

    /// An item for which its home has no room may go to another shard.
    fn overflows(&self) -> bool {
        self.own().is_none() && self.shared().overflows
    }

    fn add_front(&self, front: &mut Front<'_, T>, wait: bool) -> Result<(), AddManyError> {
        while !front.is_empty() {
            let refused = match self.push_some(front) {
                Ok(()) => continue,
                Err(refused) => refused,
            };
            let done = match refused {
                RunRefused::Closed => Err(self.closed()),
                RunRefused::TooLarge { bytes } => Err(self.too_large(bytes)),
                RunRefused::Full | RunRefused::Busy | RunRefused::Short => {
                    let _staying = self.staying();
                    self.make_room(front, wait)
                }
            };
            if let Err(reason) = done {
                if front.is_empty() {
                    break;
                }
                if wait || reason != AddReason::Full {
                    self.count_rejected(reason);
                }
                return Err(AddManyError { added: front.taken(), reason });
            }
        }
        Ok(())
    }

    /// What the policy does for a run that found no room.
    fn make_room(&self, front: &mut Front<'_, T>, wait: bool) -> Result<(), AddReason> {
        let Some(first) = front.items().first() else { return Ok(()) };
        let shard = self.shard_of(first);
        self.shared().call_for_help(shard);
        let policy = shard.admission.when_full;
        match policy {
            WhenFull::Block if wait => {
                self.may_wait()?;
                let waited = self.wait(shard, None, || match self.push_some(front) {
                    Err(RunRefused::Full | RunRefused::Busy) => Err(Lack::Slot),
                    Err(RunRefused::Short) => Err(Lack::Bytes),
                    done => Ok(done),
                });
                match waited {
                    Some(Ok(())) => Ok(()),
                    Some(Err(RunRefused::TooLarge { bytes })) => Err(self.too_large(bytes)),
                    _ => Err(self.closed()),
                }
            }
            WhenFull::Block | WhenFull::Reject => Err(AddReason::Full),
            WhenFull::DropNewest | WhenFull::DropOldest => match front.pop() {
                // One by one: each that goes in costs another its place.
                Some(item) => {
                    let mut offer = Some(M::entry(shard, item, None));
                    let added = match self.attempt(&mut offer) {
                        Some(done) => done,
                        None => self.apply(policy, &mut offer, AddReason::Full),
                    };
                    added.map_err(item_back::<T, M>).map_err(|error| {
                        let reason = error.reason();
                        front.put_back(error.into_inner());
                        reason
                    })
                }
                None => Ok(()),
            },
        }
    }

    #[inline(always)]
    fn add_entry(&self, entry: M::Entry, patience: Patience) -> Result<(), AddError<T>> {
        match self.push(entry) {
            Ok(()) => Ok(()),
            Err(refused) => self.refused(refused, patience).map_err(item_back::<T, M>),
        }
    }

    /// Pushes some items from the front.
    fn push_some(&self, front: &mut Front<'_, T>) -> Result<(), RunRefused> {
        let refused = match self.push_run(front) {
            Err(RunRefused::Full) if self.overflows() => match front.items().first() {
                Some(first) => self.overflow_run(self.shard_of(first), front),
                None => Ok(()),
            },
            done => done,
        };
        if refused == Err(RunRefused::Short) {
            self.press();
        }
        refused
    }

    /// What comes after a refusal: the caller's patience, then the policy.
    #[cold]
    fn refused(
        &self,
        refused: Refused<M::Entry>,
        patience: Patience,
    ) -> Result<(), AddError<M::Entry>> {
        let _staying = self.staying();
        self.be_patient(refused, patience).inspect_err(|error| self.count_rejected(error.reason()))
    }

    /// Once for each call that gives something back because the queue is full.
    fn count_rejected(&self, reason: AddReason) {
        if !matches!(reason, AddReason::Closed | AddReason::Forked) {
            self.shared().ledger.rejected.count();
        }
    }

    fn be_patient(
        &self,
        refused: Refused<M::Entry>,
        patience: Patience,
    ) -> Result<(), AddError<M::Entry>> {
        let shard = self.shard_of(M::item(refused.entry()));
        let is_full = matches!(refused, Refused::Full(_));
        let mut offer = None;
        if let Ok(done) = self.keep(&mut offer, refused) {
            return done;
        }
        if is_full {
            self.shared().call_for_help(shard);
            if self.overflows()
                && let Some(done) = self.attempt(&mut offer)
            {
                return done;
            }
        }
        let policy = shard.admission.when_full;
        let until = match patience {
            Patience::None => None,
            Patience::Policy => (policy == WhenFull::Block).then_some(None),
            Patience::Until(until) => Some(until),
        };
        let mut reason = AddReason::Full;
        if let Some(until) = until {
            match self.may_wait() {
                Ok(()) => {
                    if let Some(done) = self.wait(shard, until, || self.try_offer(&mut offer)) {
                        return done;
                    }
                    reason = AddReason::Timeout;
                }
                Err(why) => reason = why,
            }
        }
        self.apply(policy, &mut offer, reason)
    }

    /// The last word on an entry for which there is no room: the policy's.
    fn apply(
        &self,
        policy: WhenFull,
        offer: &mut Offer<T, M>,
        reason: AddReason,
    ) -> Result<(), AddError<M::Entry>> {
        let dropping = Serving::is_dropping(self.any().engine);
        let reason = match policy {
            WhenFull::Block | WhenFull::Reject => reason,
            _ if dropping => AddReason::Reentrant,
            WhenFull::DropNewest => {
                if let Ok(done) = self.insist(offer) {
                    return done;
                }
                let Some(entry) = offer.take() else { return Ok(()) };
                if !self.shard_of(M::item(&entry)).newest.count() {
                    return Err(AddError::new(self.closed(), entry));
                }
                self.let_go(entry, DropReason::Newest);
                return Ok(());
            }
            WhenFull::DropOldest => match self.evict_for(offer) {
                Some(done) => return done,
                None => AddReason::Full,
            },
        };
        match offer.take() {
            Some(entry) => Err(AddError::new(reason, entry)),
            None => Ok(()), // not reached: an attempt that takes the entry says so
        }
    }

    /// Lets go of the oldest item until this one is in; `None` if there is none to be had: the next
    /// one is just being published, or others hold the bytes.
    fn evict_for(&self, offer: &mut Offer<T, M>) -> Option<Result<(), AddError<M::Entry>>> {
        let Shared { ledger, on_dropped, .. } = self.shared();
        let home = offer.as_ref().map_or(self.any(), |entry| self.shard_of(M::item(entry)));
        let tell = M::TRACKED || on_dropped.is_some();
        let mut backoff = Backoff::default();
        for _ in 0..EVICTIONS_MAX {
            // For a slot nobody else's item is let go; bytes are everybody's.
            let (shard, for_bytes) = match self.insist(offer) {
                Ok(done) => return Some(done),
                Err(Lack::Moment) => return None,
                Err(Lack::Slot) => (home, false),
                Err(Lack::Bytes) => (self.holder_of_bytes(home), true),
            };
            let from = self.own().filter(|_| shard.index == home.index);
            match ledger.evict(shard, from, for_bytes, tell) {
                Ok((position, item, tag)) => {
                    if for_bytes && shard.owned.is_some() {
                        shard.room.freed(1); // it may have been another's
                    }
                    let _dropping = Serving::dropping(shard.engine);
                    let panics = self.shared().tell_dropped(item, tag, DropReason::Oldest);
                    if tell || panics > 0 {
                        ledger.told(shard.index, position, panics);
                    }
                }
                // A flusher was faster, or a producer has stopped between claim and publish.
                Err(PopError::Empty | PopError::Busy) if backoff.wait() => {}
                Err(PopError::Empty | PopError::Busy) => break,
                Err(PopError::Closed) => {}
            }
        }
        let done = self.attempt(offer);
        if done.is_none() {
            home.room.freed(1); // of what was evicted in vain
        }
        done
    }

    /// Where items are queued that hold bytes: all shards share them.
    fn holder_of_bytes<'a>(&'a self, home: &'a Shard<T, M>) -> &'a Shard<T, M> {
        if home.len() != 0 {
            return home;
        }
        self.shared().near(home).find(|other| other.len() != 0).unwrap_or(home)
    }

    /// Tries until there is nothing more to try, or room is not just a moment away.
    fn insist(&self, offer: &mut Offer<T, M>) -> Result<Result<(), AddError<M::Entry>>, Lack> {
        let mut backoff = Backoff::default();
        loop {
            match self.try_offer(offer) {
                Err(Lack::Moment) if backoff.wait() => {}
                other => return other,
            }
        }
    }

    fn let_go(&self, entry: M::Entry, reason: DropReason) {
        let _dropping = Serving::dropping(self.any().engine);
        let (item, mut tag) = M::split(entry);
        tag.bytes = 0; // not charged
        let panics = self.shared().tell_dropped(item, tag, reason);
        if panics > 0 {
            self.shared().ledger.count_callback_panics(panics);
        }
    }

    /// Tries once more; `Some` when there is nothing more to try.
    fn attempt(&self, offer: &mut Offer<T, M>) -> Option<Result<(), AddError<M::Entry>>> {
        self.try_offer(offer).ok()
    }

    fn try_offer(&self, offer: &mut Offer<T, M>) -> Result<Result<(), AddError<M::Entry>>, Lack> {
        let Some(entry) = offer.take() else { return Ok(Ok(())) };
        let pushed = match self.push(entry) {
            Err(Refused::Full(entry)) if self.overflows() => {
                self.overflow(self.shard_of(M::item(&entry)), entry)
            }
            pushed => pushed,
        };
        match pushed {
            Ok(()) => Ok(Ok(())),
            Err(refused) => self.keep(offer, refused),
        }
    }

    /// Keeps a refused entry for the next attempt, if there is one to be made.
    fn keep(
        &self,
        offer: &mut Offer<T, M>,
        refused: Refused<M::Entry>,
    ) -> Result<Result<(), AddError<M::Entry>>, Lack> {
        let (entry, lack) = match refused {
            Refused::Full(entry) => (entry, Lack::Slot),
            Refused::Busy(entry) => (entry, Lack::Moment),
            Refused::Short(entry) => {
                self.press();
                (entry, Lack::Bytes)
            }
            Refused::Closed(entry) => return Ok(Err(AddError::new(self.closed(), entry))),
            Refused::TooLarge(entry, bytes) => {
                return Ok(Err(AddError::new(self.too_large(bytes), entry)));
            }
        };
        *offer = Some(entry);
        Err(lack)
    }

    /// Bytes are short: has the items that hold them written. Whether or not this caller waits for
    /// them: it may be that nothing else ever has them written.
    fn press(&self) {
        if !mutated("no_press") {
            self.shared().press();
        }
    }

    fn closed(&self) -> AddReason {
        if self.shared().forked() { AddReason::Forked } else { AddReason::Closed }
    }

    fn too_large(&self, bytes: u64) -> AddReason {
        let budget = self.any().admission.budget.as_ref();
        AddReason::TooLarge { bytes, max_queue_bytes: budget.map_or(0, |budget| budget.max()) }
    }

    /// Whether this thread may wait for a flusher.
    fn may_wait(&self) -> Result<(), AddReason> {
        let shard = self.any();
        if Serving::is(shard.engine) {
            Err(AddReason::Reentrant)
        } else if matches!(shard.clock, Clock::Test(_)) {
            Err(AddReason::Full) // a pump: nobody would make room meanwhile
        } else {
            Ok(())
        }
    }

    /// Awake for a few microseconds, then asleep in the wait list.
    fn wait<R>(
        &self,
        shard: &Shard<T, M>,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Result<R, Lack>,
    ) -> Option<R> {
        let mut backoff = Backoff::default();
        while backoff.wait() {
            if self.is_roomy(shard)
                && let Ok(done) = attempt()
            {
                return Some(done);
            }
        }
        match self.own() {
            None => shard.room.wait(deadline, || self.has_room(shard), || attempt().ok()),
            Some(own) => self.wait_for_own(shard, own, deadline, attempt),
        }
    }

    /// Whether it is worth while to try again. Whoever takes each slot as soon as it is free writes to
    /// the very cache line that the flusher is reading.
    fn is_roomy(&self, shard: &Shard<T, M>) -> bool {
        if self.overflows() {
            return true; // there may be room elsewhere
        }
        let worth = ROOM_BATCHES.saturating_mul(shard.batch_size() as u64);
        let slots = |capacity: usize| worth.min(capacity as u64 / 2).max(1);
        match self.own() {
            None => shard.ring.has_free(slots(shard.ring.capacity())),
            Some(own) => own.ring.has_free(slots(own.ring.capacity())),
        }
    }

    /// Slots of an own ring are waited for there, alone; bytes in the line for bytes.
    fn wait_for_own<R>(
        &self,
        shard: &Shard<T, M>,
        own: &Own<M::Entry>,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Result<R, Lack>,
    ) -> Option<R> {
        let mut for_bytes = false;
        loop {
            let room = if for_bytes { &*shard.room } else { &own.room };
            // Nobody else takes slots there; so once bytes are short, only bytes are.
            let attempt = || match attempt() {
                Ok(done) => Some(Some(done)),
                Err(lack) => ((lack == Lack::Bytes) != for_bytes).then_some(None),
            };
            match room.wait(deadline, || self.has_room(shard), attempt)? {
                Some(done) => return Some(done),
                None => for_bytes = !for_bytes,
            }
        }
    }

    /// Whether another item may find room.
    fn has_room(&self, home: &Shard<T, M>) -> bool {
        let shards = &self.shared().shards;
        home.has_room() || self.overflows() && shards.iter().any(|shard| shard.has_room())
    }

    /// Tries the other shards, the nearest first, for an item for which `home` has no room.
    fn overflow(&self, home: &Shard<T, M>, mut entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        for shard in self.elsewhere(home) {
            match shard.push(entry) {
                Ok(()) => {
                    self.shared().ledger.overflowed.count();
                    return Ok(());
                }
                Err(Refused::Full(back) | Refused::Busy(back)) => entry = back,
                Err(refused) => return Err(refused),
            }
        }
        Err(Refused::Full(entry))
    }

    /// As [`overflow`](Self::overflow), for a run.
    fn overflow_run(&self, home: &Shard<T, M>, front: &mut Front<'_, T>) -> Result<(), RunRefused> {
        for shard in self.elsewhere(home) {
            let before = front.len();
            match shard.push_run(front, usize::MAX) {
                Ok(()) => {
                    self.shared().ledger.overflowed.add((before - front.len()) as u64);
                    return Ok(());
                }
                Err(RunRefused::Full | RunRefused::Busy) => {}
                Err(refused) => return Err(refused),
            }
        }
        Err(RunRefused::Full)
    }

    fn elsewhere<'a>(&'a self, home: &Shard<T, M>) -> impl Iterator<Item = &'a Shard<T, M>>
    where
        T: 'a,
    {
        let shared = self.shared();
        let near = if self.overflows() { shared.placed.near(home.index) } else { &[] };
        near.iter().map(|&shard| &*shared.shards[shard])
    }
}

/// The caller gets the item back; there is no ack to tell of.
pub(super) fn item_back<T: Send + 'static, M: Mode<T>>(error: AddError<M::Entry>) -> AddError<T> {
    let reason = error.reason();
    let (item, tag) = M::split(error.into_inner());
    if let Some(promise) = tag.promise {
        promise.forget();
    }
    AddError::new(reason, item)
}
