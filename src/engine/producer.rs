//! The handle that adds items.
//!
//! Each add is one attempt on the fast path; what comes after a refusal is in `adding`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adding::{Patience, Way, item_back};
use super::route::Route;
use super::waiting::{AddAsync, AddWithAckAsync};
use crate::ack::{Ack, Promise, promise};
#[cfg(doc)]
use crate::config::WhenFull;
use crate::error::{AddError, AddManyError, AddReason};
use crate::flush::Shared;
use crate::mode::{Mode, Plain, Tracked};
use crate::ring::Front;

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
    // Always: what is passed to a function of its own is stored twice, and read back in between in
    // wider words than it was written in, which waits for every store before (record 0017).
    #[inline(always)]
    pub fn add(&self, item: T) -> Result<(), AddError<T>> {
        self.add_entry(M::entry(self.any(), item, None), Patience::Policy)
    }

    /// Adds an item if there is room now; never waits for another thread.
    ///
    /// # Errors
    /// [`AddError::Full`] under [`WhenFull::Block`] and [`WhenFull::Reject`];
    /// [`AddError::Closed`], [`AddError::TooLarge`], [`AddError::Forked`].
    #[inline(always)]
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
                self.refused(refused, Patience::Until(until)).map_err(item_back::<T, M>)
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
