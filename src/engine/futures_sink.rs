//! A producer as a `futures::Sink`.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_sink::Sink;

use super::adding::Way;
use super::producer::Producer;
use super::waiting::Adding;
use crate::error::AddError;
use crate::mode::{Mode, Plain};

/// A [`Producer`] as a `futures::Sink`, made by [`Producer::into_sink`]: for
/// `stream.map(Ok).forward(sink)` and `sink.send(item)`.
///
/// It holds one item at most that the queue has no room for. `flush` and `close` wait until that
/// one is in the queue, not until it is written: [`flush_async`](crate::Batcher::flush_async) does
/// that.
/// Closing it closes no engine. Dropped with an item in hand, that item was not added; see
/// [`into_parts`](Self::into_parts).
pub struct AddSink<T: Send + 'static, M: Mode<T> = Plain> {
    producer: Producer<T, M>,
    adding: Adding<T, M>,
}

impl<T: Send + 'static, M: Mode<T>> Producer<T, M> {
    /// Makes it a `futures::Sink`. Feature `futures`.
    pub fn into_sink(self) -> AddSink<T, M> {
        AddSink { producer: self, adding: Adding::new(None) }
    }
}

impl<T: Send + 'static, M: Mode<T>> AddSink<T, M> {
    /// The producer, and the item that was accepted but is not in the queue.
    pub fn into_parts(mut self) -> (Producer<T, M>, Option<T>) {
        self.adding.cancel(&self.producer);
        let item = self.adding.offer.take().map(|entry| M::split(entry).0);
        (self.producer.same(), item)
    }
}

// Nothing in it is pinned: an item is moved, never pointed to.
impl<T: Send + 'static, M: Mode<T>> Unpin for AddSink<T, M> {}

impl<T: Send + 'static, M: Mode<T>> Sink<T> for AddSink<T, M> {
    type Error = AddError<T>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), AddError<T>>> {
        let Self { producer, adding } = self.get_mut();
        adding.poll(producer, cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: T) -> Result<(), AddError<T>> {
        if self.adding.offer.is_some() {
            return Err(AddError::Full(item)); // not asked whether it is ready
        }
        self.adding.offer = Some(M::entry(self.producer.any(), item, None));
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), AddError<T>>> {
        self.poll_ready(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), AddError<T>>> {
        self.poll_ready(cx)
    }
}

impl<T: Send + 'static, M: Mode<T>> Drop for AddSink<T, M> {
    fn drop(&mut self) {
        self.adding.cancel(&self.producer);
    }
}

impl<T: Send + 'static, M: Mode<T>> fmt::Debug for AddSink<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddSink").field("producer", &self.producer).finish_non_exhaustive()
    }
}
