//! The handle that adds items.
//!
//! Every add is one attempt on the fast path; what comes after a refusal is in one place,
//! `Producer::refused`: first the caller's own patience, then the engine's [`WhenFull`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::route::Route;
use super::waiting::{AddAsync, AddWithAckAsync};
use crate::ack::{Ack, Promise, promise};
use crate::clock::Clock;
use crate::config::{DropReason, WhenFull};
use crate::error::{AddError, AddManyError, AddReason, Refused};
use crate::flush::{Serving, Shard, Shared};
use crate::mode::{Mode, Plain, RunRefused, Tracked};
use crate::ring::{Front, PopError};
use crate::sync::{Backoff, mutated};

/// Items let go for one, at most, before the queue is called full after all: each time another
/// producer has taken the slot.
const EVICTIONS_MAX: u32 = 1 << 16;

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
enum Lack {
    /// Every slot is in use.
    Slot,
    /// The slot is being emptied: there is room in a moment.
    Moment,
    /// Of the memory budget.
    Bytes,
}

/// An entry on its way in; `None` once it is.
pub(super) type Offer<T, M> = Option<<M as crate::mode::Carry<T>>::Entry>;

/// Adds items to an engine, from any thread. Cheap to clone. Items added through it by one thread
/// reach the ring in the order of the calls.
///
/// An item that is not added comes back in the error. An add that has returned `Ok` counts as
/// `enqueued`, and its item meets exactly one fate.
///
/// Which calls may wait, and what a full queue does, is [`WhenFull`]'s to say; a table of both is
/// in the guarantees (`docs/guarantees.md`).
///
/// Where the engine has several shards, a producer has a home: a shard of the node that its thread
/// runs on when it is made, or cloned. So make it on the thread that uses it; see
/// [`Home`](crate::Home) and [`rehome`](Self::rehome).
pub struct Producer<T: Send + 'static, M: Mode<T> = Plain> {
    pub(super) shared: Arc<Shared<T, M>>,
    pub(super) route: Route<T, M>,
    /// The node that was asked for.
    pub(super) on: Option<usize>,
}

impl<T: Send + 'static, M: Mode<T>> Clone for Producer<T, M> {
    fn clone(&self) -> Self {
        Self::on(Arc::clone(&self.shared), self.on)
    }
}

impl<T: Send + 'static, M: Mode<T>> fmt::Debug for Producer<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("home", &self.home()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static, M: Mode<T>> Producer<T, M> {
    pub(crate) fn new(shared: Arc<Shared<T, M>>) -> Self {
        Self::on(shared, None)
    }

    /// For the node of that index; without one for the node of the CPU that it runs on now.
    pub(super) fn on(shared: Arc<Shared<T, M>>, node: Option<usize>) -> Self {
        let route = Route::new(&shared, node);
        Self { shared, route, on: node }
    }

    #[cfg(feature = "futures")]
    /// The same producer once more: its items go on in the same order.
    pub(super) fn same(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), route: self.route.same(), on: self.on }
    }

    /// For what every shard can say; mostly it is the one that the items go to.
    #[inline(always)]
    pub(super) fn any(&self) -> &Shard<T, M> {
        self.route.home().unwrap_or_else(|| self.shared.any())
    }

    /// Adds an item. While the queue is full it waits, a few microseconds awake, then asleep; under
    /// another policy than [`WhenFull::Block`] it does not wait.
    ///
    /// # Errors
    /// [`AddError::Closed`], also when the engine is closed while this waits.
    /// [`AddError::Full`] under [`WhenFull::Reject`], and instead of waiting for a
    /// [`Pump`](crate::Pump). [`AddError::Reentrant`] instead of waiting on a flusher's own thread.
    /// [`AddError::TooLarge`] for an item larger than `max_queue_bytes`. [`AddError::Forked`] in a
    /// child process. Under [`WhenFull::DropOldest`] it may be `Full` too, where there is nothing
    /// to let go: the sinks hold all bytes, or a producer has stopped in the middle of an add.
    #[inline]
    pub fn add(&self, item: T) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(self.any(), item, None), Patience::Policy)
    }

    /// Adds an item if there is room now; never waits for another thread.
    ///
    /// # Errors
    /// [`AddError::Full`] under [`WhenFull::Block`] and [`WhenFull::Reject`];
    /// [`AddError::Closed`], [`AddError::TooLarge`], [`AddError::Forked`].
    #[inline]
    pub fn try_add(&self, item: T) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(self.any(), item, None), Patience::None)
    }

    /// Adds an item; waits at most `timeout` while the queue is full, under every policy. Only then
    /// the policy decides.
    ///
    /// # Errors
    /// [`AddError::Timeout`] under [`WhenFull::Block`] and [`WhenFull::Reject`]; else those of
    /// [`add`](Self::add).
    #[inline]
    pub fn add_timeout(&self, item: T, timeout: Duration) -> Result<(), AddError<T>> {
        let entry = M::entry(self.any(), item, None);
        match self.push(entry) {
            Ok(()) => Ok(()),
            // A timeout beyond what an `Instant` can hold is no timeout.
            Err(refused) => {
                let until = self.any().clock.now().checked_add(timeout);
                self.refused(refused, Patience::Until(until)).map_err(Self::item_back)
            }
        }
    }

    /// Adds an item; waits at most until `deadline` while the queue is full. Takes it without
    /// waiting if there is room, even when the deadline has passed.
    ///
    /// # Errors
    /// As [`add_timeout`](Self::add_timeout).
    #[inline]
    pub fn add_deadline(&self, item: T, deadline: Instant) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(self.any(), item, None), Patience::Until(Some(deadline)))
    }

    /// Adds an item as [`add`](Self::add) does, but a task waits instead of a thread, on any
    /// runtime. Threads and tasks stand in one line.
    ///
    /// Nothing is added before the first poll, though the item is weighed at once. Dropped before it
    /// is ready, the item was not added and is dropped with it; once ready, it was.
    ///
    /// Once polled it stands in the line, and a wake-up for a freed slot goes to the first there.
    /// One that is neither polled nor dropped, set aside in a `select!` loop or forgotten by
    /// `mem::forget`, swallows it: who stands behind then waits until a flusher has nothing to do
    /// and looks again, about a millisecond.
    ///
    /// Behind a [`Pump`](crate::Pump) it waits too: the pump may be driven between two polls.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_async(&self, item: T) -> AddAsync<'_, T, M> {
        AddAsync::new(self, M::entry(self.any(), item, None))
    }

    /// Adds all items, oldest first, as many at a time as there is room for, each such run with one
    /// claim (of 64 at most with `max_queue_bytes`). Waits while the queue is full, if the policy
    /// is [`WhenFull::Block`]. Items of other producers may come between runs, never within one.
    /// Returns how many: all.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sluicegate::{Batcher, WriteError, sink::NullSink};
    /// # let batcher = Batcher::builder().spawn(|_| Ok::<_, WriteError>(NullSink))?;
    /// let mut events = vec!["a", "b", "c"];
    /// assert_eq!(batcher.producer().add_many(&mut events)?, 3);
    /// assert!(events.is_empty());
    /// # batcher.shutdown(Duration::from_secs(5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`add`](Self::add). [`AddManyError::added`] says how many are in; the others stay in
    /// `items`.
    pub fn add_many(&self, items: &mut Vec<T>) -> Result<usize, AddManyError> {
        let mut front = Front::new(items);
        self.add_front(&mut front, true)?;
        Ok(front.taken())
    }

    /// Adds as many items from the front of `items` as there is room for now. Returns how many; the
    /// others stay in `items`. Never waits. Under [`WhenFull::DropNewest`] and
    /// [`WhenFull::DropOldest`] that is mostly all of them.
    ///
    /// # Errors
    /// [`AddReason::Closed`], [`AddReason::TooLarge`], [`AddReason::Forked`]; a full queue is no
    /// error but a smaller count.
    pub fn try_add_many(&self, items: &mut Vec<T>) -> Result<usize, AddManyError> {
        let mut front = Front::new(items);
        match self.add_front(&mut front, false) {
            Ok(()) | Err(AddManyError { reason: AddReason::Full, .. }) => Ok(front.taken()),
            Err(error) => Err(error),
        }
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
        self.shared.call_for_help(shard);
        let policy = shard.admission.when_full;
        match policy {
            WhenFull::Block if wait => {
                self.may_wait()?;
                let waited = self.wait(shard, None, || match self.push_some(front) {
                    Err(RunRefused::Full | RunRefused::Busy | RunRefused::Short) => None,
                    done => Some(done),
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
                    added.map_err(Self::item_back).map_err(|error| {
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
            Err(refused) => self.refused(refused, patience).map_err(Self::item_back),
        }
    }

    /// The caller gets the item back; there is no ack to tell of.
    pub(super) fn item_back(error: AddError<M::Entry>) -> AddError<T> {
        let reason = error.reason();
        let (item, tag) = M::split(error.into_inner());
        if let Some(promise) = tag.promise {
            promise.forget();
        }
        AddError::new(reason, item)
    }

    #[inline(always)]
    pub(super) fn push(&self, entry: M::Entry) -> Result<(), Refused<M::Entry>> {
        match self.route.home() {
            Some(shard) => shard.push(entry),
            None => self.push_routed(entry),
        }
    }

    /// Pushes some items from the front.
    fn push_some(&self, front: &mut Front<'_, T>) -> Result<(), RunRefused> {
        let refused = match self.push_run(front) {
            Err(RunRefused::Full) if self.shared.overflows => match front.items().first() {
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
    pub(super) fn count_rejected(&self, reason: AddReason) {
        if !matches!(reason, AddReason::Closed | AddReason::Forked) {
            self.shared.ledger.rejected.count();
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
            self.shared.call_for_help(shard);
            if self.shared.overflows
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
                    if let Some(done) = self.wait(shard, until, || self.attempt(&mut offer)) {
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
    pub(super) fn apply(
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
        let Shared { ledger, on_dropped, .. } = &*self.shared;
        let home = offer.as_ref().map_or(self.any(), |entry| self.shard_of(M::item(entry)));
        let tell = M::TRACKED || on_dropped.is_some();
        let mut backoff = Backoff::default();
        for _ in 0..EVICTIONS_MAX {
            let shard = match self.insist(offer) {
                Ok(done) => return Some(done),
                Err(Lack::Moment) => return None,
                Err(Lack::Slot) => home,
                Err(Lack::Bytes) => self.holder_of_bytes(home),
            };
            match ledger.evict(shard, tell) {
                Ok((position, item, tag)) => {
                    let _dropping = Serving::dropping(shard.engine);
                    let panics = self.shared.tell_dropped(item, tag, DropReason::Oldest);
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
        if !home.ring.is_empty() {
            return home;
        }
        self.shared.near(home).find(|other| !other.ring.is_empty()).unwrap_or(home)
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
        let panics = self.shared.tell_dropped(item, tag, reason);
        if panics > 0 {
            self.shared.ledger.count_callback_panics(panics);
        }
    }

    /// Tries once more; `Some` when there is nothing more to try.
    pub(super) fn attempt(
        &self,
        offer: &mut Offer<T, M>,
    ) -> Option<Result<(), AddError<M::Entry>>> {
        self.try_offer(offer).ok()
    }

    fn try_offer(&self, offer: &mut Offer<T, M>) -> Result<Result<(), AddError<M::Entry>>, Lack> {
        let Some(entry) = offer.take() else { return Ok(Ok(())) };
        let pushed = match self.push(entry) {
            Err(Refused::Full(entry)) if self.shared.overflows => {
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
            self.shared.press();
        }
    }

    fn closed(&self) -> AddReason {
        if self.shared.forked() { AddReason::Forked } else { AddReason::Closed }
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
        mut attempt: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let mut backoff = Backoff::default();
        while backoff.wait() {
            if let Some(done) = attempt() {
                return Some(done);
            }
        }
        shard.room.wait(deadline, || self.has_room(shard), attempt)
    }

    /// Whether another item may find room.
    pub(super) fn has_room(&self, home: &Shard<T, M>) -> bool {
        let shards = &self.shared.shards;
        home.has_room() || self.shared.overflows && shards.iter().any(|shard| shard.has_room())
    }
}

impl<T: Send + 'static> Producer<T, Tracked> {
    /// As [`add`](Self::add); the [`Ack`] tells what became of the item. One allocation.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_with_ack(&self, item: T) -> Result<Ack<T>, AddError<T>> {
        let (promise, ack) = self.promise();
        let entry = Tracked::entry(self.any(), item, Some(promise));
        self.add_entry(entry, Patience::Policy).map(|()| ack)
    }

    /// As [`try_add`](Self::try_add), with an [`Ack`].
    ///
    /// # Errors
    /// As [`try_add`](Self::try_add).
    pub fn try_add_with_ack(&self, item: T) -> Result<Ack<T>, AddError<T>> {
        let (promise, ack) = self.promise();
        let entry = Tracked::entry(self.any(), item, Some(promise));
        self.add_entry(entry, Patience::None).map(|()| ack)
    }

    /// As [`add_timeout`](Self::add_timeout), with an [`Ack`].
    ///
    /// # Errors
    /// As [`add_timeout`](Self::add_timeout).
    pub fn add_with_ack_timeout(&self, item: T, timeout: Duration) -> Result<Ack<T>, AddError<T>> {
        let (promise, ack) = self.promise();
        let until = self.any().clock.now().checked_add(timeout);
        let entry = Tracked::entry(self.any(), item, Some(promise));
        self.add_entry(entry, Patience::Until(until)).map(|()| ack)
    }

    /// As [`add_async`](Self::add_async), with an [`Ack`].
    ///
    /// # Errors
    /// As [`add_async`](Self::add_async).
    pub fn add_with_ack_async(&self, item: T) -> AddWithAckAsync<'_, T> {
        let (promise, ack) = self.promise();
        let entry = Tracked::entry(self.any(), item, Some(promise));
        AddWithAckAsync::new(AddAsync::new(self, entry), ack)
    }

    fn promise(&self) -> (Promise<T>, Ack<T>) {
        let shard = self.any();
        promise(shard.engine, shard.generation, &shard.clock)
    }
}
