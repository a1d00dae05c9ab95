//! Adding from a task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::adding::{Offer, Way, item_back};
use super::producer::Producer;
use crate::ack::Ack;
use crate::config::WhenFull;
use crate::error::{AddError, AddReason};
use crate::flush::Serving;
use crate::mode::{Mode, Plain, Tracked};
use crate::wait::Waiter;

/// Adds an item; made by [`Producer::add_async`].
#[must_use = "nothing is added before it is polled"]
pub struct AddAsync<'p, T: Send + 'static, M: Mode<T> = Plain> {
    producer: &'p Producer<T, M>,
    adding: Adding<T, M>,
    done: bool,
}

/// Adds an item and gives its ack; made by [`Producer::add_with_ack_async`].
#[must_use = "nothing is added before it is polled"]
pub struct AddWithAckAsync<'p, T: Send + 'static> {
    add: AddAsync<'p, T, Tracked>,
    ack: Option<Ack<T>>,
}

/// An entry on its way in, and its place in the line.
pub(super) struct Adding<T: Send + 'static, M: Mode<T>> {
    pub(super) offer: Offer<T, M>,
    waiter: Option<Waiter>,
    /// The shard whose room it waits for.
    at: Option<usize>,
}

impl<T: Send + 'static, M: Mode<T>> Adding<T, M> {
    pub(super) fn new(offer: Offer<T, M>) -> Self {
        Self { offer, waiter: None, at: None }
    }

    /// Ready at once when there is nothing to add.
    pub(super) fn poll(
        &mut self,
        producer: &Producer<T, M>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AddError<T>>> {
        self.poll_entry(producer, cx).map(|done| {
            self.cancel(producer); // it has left the line already
            done.map_err(item_back::<T, M>)
                .inspect_err(|error| producer.count_rejected(error.reason()))
        })
    }

    fn poll_entry(
        &mut self,
        producer: &Producer<T, M>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AddError<M::Entry>>> {
        let Self { offer, waiter, at } = self;
        if waiter.is_some() && producer.shared.forked() {
            *waiter = None; // its place is in the parent's line, behind a lock of the parent's
        }
        if waiter.is_none() {
            if offer.is_none() {
                return Poll::Ready(Ok(()));
            }
            if let Some(done) = producer.attempt(offer) {
                return Poll::Ready(done);
            }
        }
        let index = *at.get_or_insert_with(|| {
            producer.stay();
            let entry = offer.as_ref().map(|entry| producer.shard_of(M::item(entry)));
            entry.unwrap_or_else(|| producer.any()).index
        });
        let shard = &*producer.shared.shards[index];
        let policy = shard.admission.when_full;
        if policy != WhenFull::Block || Serving::is(shard.engine) {
            let reason =
                if policy == WhenFull::Block { AddReason::Reentrant } else { AddReason::Full };
            self.leave_line(producer);
            // Woken and polled on the flusher's own thread, it may find its room.
            let done = producer.attempt(&mut self.offer);
            let done = done.unwrap_or_else(|| producer.apply(policy, &mut self.offer, reason));
            return Poll::Ready(done);
        }
        producer.shared.call_for_help(shard);
        let attempt = || producer.attempt(offer);
        shard.room.poll(waiter, cx, || producer.has_room(shard), attempt)
    }

    /// Waits no longer.
    pub(super) fn cancel(&mut self, producer: &Producer<T, M>) {
        self.leave_line(producer);
        if self.at.take().is_some() {
            producer.go(0);
        }
    }

    /// Leaves the line, if it stands in it.
    fn leave_line(&mut self, producer: &Producer<T, M>) {
        if let (Some(waiter), Some(at)) = (self.waiter.take(), self.at)
            && !producer.shared.forked()
        {
            producer.shared.shards[at].room.cancel(waiter);
        }
    }
}

impl<'p, T: Send + 'static, M: Mode<T>> AddAsync<'p, T, M> {
    pub(super) fn new(producer: &'p Producer<T, M>, entry: M::Entry) -> Self {
        Self { producer, adding: Adding::new(Some(entry)), done: false }
    }
}

// Nothing in it is pinned: an item is moved, never pointed to.
impl<T: Send + 'static, M: Mode<T>> Unpin for AddAsync<'_, T, M> {}

impl<T: Send + 'static, M: Mode<T>> Future for AddAsync<'_, T, M> {
    type Output = Result<(), AddError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.done {
            return Poll::Pending; // polled again after it was ready: never again
        }
        let producer = self.producer;
        let polled = self.adding.poll(producer, cx);
        self.done = polled.is_ready();
        polled
    }
}

impl<T: Send + 'static, M: Mode<T>> Drop for AddAsync<'_, T, M> {
    fn drop(&mut self) {
        self.adding.cancel(self.producer);
    }
}

impl<T: Send + 'static, M: Mode<T>> fmt::Debug for AddAsync<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddAsync").finish_non_exhaustive()
    }
}

impl<'p, T: Send + 'static> AddWithAckAsync<'p, T> {
    pub(super) fn new(add: AddAsync<'p, T, Tracked>, ack: Ack<T>) -> Self {
        Self { add, ack: Some(ack) }
    }
}

impl<T: Send + 'static> Unpin for AddWithAckAsync<'_, T> {}

impl<T: Send + 'static> Future for AddWithAckAsync<'_, T> {
    type Output = Result<Ack<T>, AddError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.add).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                self.ack = None;
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(())) => {
                self.ack.take().map_or(Poll::Pending, |ack| Poll::Ready(Ok(ack)))
            }
        }
    }
}

impl<T: Send + 'static> fmt::Debug for AddWithAckAsync<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddWithAckAsync").finish_non_exhaustive()
    }
}
