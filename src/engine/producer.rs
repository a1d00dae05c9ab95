//! The handle that adds items.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{AddError, AddManyError, AddReason};
use crate::flush::{Node, Serving, Shared};
use crate::ring::{Front, PushError, RunError};
use crate::sync::Backoff;

/// Adds items to an engine, from any thread. Cheap to clone. Items added through it by one thread
/// reach the ring in the order of the calls.
///
/// An item that is not added comes back in the error. An add that has returned `Ok` counts as
/// `enqueued`, and its item meets exactly one fate.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("ring", &self.node().ring).finish_non_exhaustive()
    }
}

impl<T> Producer<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    fn node(&self) -> &Node<T> {
        &self.shared.node
    }

    /// Adds an item; waits while the queue is full: a few microseconds awake, then asleep.
    ///
    /// # Errors
    /// [`AddError::Closed`], also when the engine is closed while this waits.
    /// [`AddError::Reentrant`] instead of waiting on a flusher's own thread; [`AddError::Full`]
    /// instead of waiting for a [`Pump`](crate::Pump).
    #[inline]
    pub fn add(&self, item: T) -> Result<(), AddError<T>> {
        match self.push(item) {
            Ok(()) => Ok(()),
            Err(refused) => self.add_waiting(refused, None),
        }
    }

    /// Adds an item if there is room now; never waits for another thread.
    ///
    /// # Errors
    /// [`AddError::Full`], [`AddError::Closed`].
    #[inline]
    pub fn try_add(&self, item: T) -> Result<(), AddError<T>> {
        self.push(item).map_err(|refused| match refused {
            PushError::Full(item) | PushError::Busy(item) => AddError::Full(item),
            PushError::Closed(item) => AddError::Closed(item),
        })
    }

    /// Adds an item; waits at most `timeout` while the queue is full.
    ///
    /// # Errors
    /// [`AddError::Timeout`], and those of [`add`](Self::add).
    #[inline]
    pub fn add_timeout(&self, item: T, timeout: Duration) -> Result<(), AddError<T>> {
        match self.push(item) {
            Ok(()) => Ok(()),
            // A timeout beyond what an `Instant` can hold is no timeout.
            Err(refused) => self.add_waiting(refused, self.node().clock.now().checked_add(timeout)),
        }
    }

    /// Adds an item; waits at most until `deadline` while the queue is full. Takes it without
    /// waiting if there is room, even when the deadline has passed.
    ///
    /// # Errors
    /// As [`add_timeout`](Self::add_timeout).
    #[inline]
    pub fn add_deadline(&self, item: T, deadline: Instant) -> Result<(), AddError<T>> {
        match self.push(item) {
            Ok(()) => Ok(()),
            Err(refused) => self.add_waiting(refused, Some(deadline)),
        }
    }

    /// Adds all items, oldest first, as many at a time as there is room for, each such run with one
    /// claim. Waits while the queue is full. Items of other producers may come between runs, never
    /// within one. Returns how many: all.
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
        loop {
            let reason = match self.push_some(&mut front) {
                Ok(()) if front.is_empty() => return Ok(front.taken()),
                Ok(()) => continue,
                Err(RunError::Closed) => AddReason::Closed,
                Err(RunError::Full | RunError::Busy) => match self.may_wait() {
                    Ok(()) => match self.wait(None, || match self.push_some(&mut front) {
                        Err(RunError::Full | RunError::Busy) => None,
                        done => Some(done),
                    }) {
                        Some(Ok(())) => continue,
                        _ => AddReason::Closed,
                    },
                    Err(reason) => reason,
                },
            };
            if front.is_empty() {
                return Ok(front.taken());
            }
            return Err(AddManyError { added: front.taken(), reason });
        }
    }

    /// Adds as many items from the front of `items` as there is room for now, with one claim.
    /// Returns how many; the others stay in `items`. Never waits.
    ///
    /// # Errors
    /// [`AddReason::Closed`]; a full queue is no error but a count of 0.
    pub fn try_add_many(&self, items: &mut Vec<T>) -> Result<usize, AddManyError> {
        let mut front = Front::new(items);
        match self.push_some(&mut front) {
            Ok(()) | Err(RunError::Full | RunError::Busy) => Ok(front.taken()),
            Err(RunError::Closed) => Err(AddManyError { added: 0, reason: AddReason::Closed }),
        }
    }

    #[inline(always)]
    fn push(&self, item: T) -> Result<(), PushError<T>> {
        let node = self.node();
        let end = node.ring.push(item)?;
        node.wake.published(end);
        Ok(())
    }

    fn push_some(&self, front: &mut Front<'_, T>) -> Result<(), RunError> {
        if front.is_empty() {
            return Ok(());
        }
        let node = self.node();
        let end = node.ring.push_run(front)?;
        node.wake.published(end);
        Ok(())
    }

    #[cold]
    fn add_waiting(
        &self,
        refused: PushError<T>,
        deadline: Option<Instant>,
    ) -> Result<(), AddError<T>> {
        let mut item = match refused {
            PushError::Closed(item) => return Err(AddError::Closed(item)),
            PushError::Full(item) | PushError::Busy(item) => Some(item),
        };
        let waited = self.may_wait().map(|()| {
            self.wait(deadline, || match self.push(item.take()?) {
                Ok(()) => Some(Ok(())),
                Err(PushError::Closed(back)) => Some(Err(AddError::Closed(back))),
                Err(PushError::Full(back) | PushError::Busy(back)) => {
                    item = Some(back);
                    None
                }
            })
        });
        let reason = match waited {
            Ok(Some(done)) => return done,
            Ok(None) => AddReason::Timeout,
            Err(reason) => reason,
        };
        match item {
            Some(item) => Err(AddError::new(reason, item)),
            None => Ok(()), // not reached: an attempt that takes the item says so
        }
    }

    /// Whether this thread may wait for a flusher.
    fn may_wait(&self) -> Result<(), AddReason> {
        let node = self.node();
        if Serving::is(node.engine) {
            Err(AddReason::Reentrant)
        } else if matches!(node.clock, Clock::Test(_)) {
            Err(AddReason::Full) // a pump: nobody would make room meanwhile
        } else {
            Ok(())
        }
    }

    /// Awake for a few microseconds, then asleep in the wait list.
    fn wait<R>(
        &self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let mut backoff = Backoff::default();
        while backoff.wait() {
            if let Some(done) = attempt() {
                return Some(done);
            }
        }
        let Node { room, ring, .. } = self.node();
        room.wait(deadline, || ring.len() < ring.capacity(), attempt)
    }
}
