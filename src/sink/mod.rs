//! Where batches go: the [`Sink`] trait, what it is told ([`WriteContext`]) and what it answers
//! ([`WriteError`]).
//!
//! A sink is opened by a [`SinkFactory`] on the thread of the flusher that will use it, so it may
//! be `!Send`. It *borrows* each batch: whatever goes wrong in `write`, the engine still has the
//! items.
#![cfg_attr(
    all(feature = "tokio", not(any(loom, shuttle))),
    doc = "\nA sink whose client is async is an [`AsyncSink`]."
)]

#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
mod asynchronous;
mod dead;
mod dead_file;
mod error;
mod file;
mod simple;

use std::time::{Duration, Instant};

#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
pub use asynchronous::{AsyncContext, AsyncFnSink, AsyncSink, AsyncSinkFactory, from_async_fn};
pub use dead::Dead;
pub use dead_file::{DeadLetterFile, dead_letter_files};
pub use error::{Applied, BoxError, Class, WriteError};
pub use file::{FileSink, WriterSink};

pub use simple::{FnSink, NullSink, from_fn};

use crate::batch::Batch;
use crate::clock::{Clock, Due};

/// Takes batches. One sink belongs to one flusher and is never called from two threads.
///
/// ```
/// use sluicegate::{Batch, Sink, WriteContext, WriteError};
///
/// struct Total(u64);
/// impl Sink<u64> for Total {
///     fn write(&mut self, batch: &Batch<u64>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
///         self.0 += batch.iter().sum::<u64>();
///         Ok(())
///     }
/// }
/// ```
pub trait Sink<T> {
    /// Writes the batch: one call, one round trip.
    ///
    /// `Ok(())` means that every item is in, except those marked by [`WriteContext::fail`]. The
    /// batch is never empty. A panic is caught: the batch has failed, its items count as `unknown`,
    /// and the sink is dropped and opened anew.
    ///
    /// # Errors
    /// `Err(e)` means that every item not marked by [`WriteContext::fail`] failed with `e`.
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError>;

    /// What this sink can take in one call. The engine forms no batch beyond it.
    fn limits(&self) -> SinkLimits {
        SinkLimits::default()
    }

    /// The last call, after the last batch.
    ///
    /// # Errors
    /// An error is reported in [`Shutdown::close_errors`](crate::Shutdown::close_errors); no item's
    /// fate changes.
    fn close(&mut self, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let _ = cx;
        Ok(())
    }
}

impl<T, S: Sink<T> + ?Sized> Sink<T> for Box<S> {
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        (**self).write(batch, cx)
    }
    fn limits(&self) -> SinkLimits {
        (**self).limits()
    }
    fn close(&mut self, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        (**self).close(cx)
    }
}

/// The most that a sink takes in one call; the engine uses the smaller of this and its own
/// configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkLimits {
    /// Items in one batch; `None` for no limit, 0 is read as 1.
    pub max_batch_size: Option<usize>,
    /// Bytes in one batch, as the builder's `weight` function counts them; unused without one.
    pub max_batch_bytes: Option<u64>,
}

impl SinkLimits {
    /// At most this many items in a batch.
    #[must_use]
    pub fn max_batch_size(mut self, items: usize) -> Self {
        self.max_batch_size = Some(items);
        self
    }

    /// At most this many bytes in a batch.
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.max_batch_bytes = Some(bytes);
        self
    }
}

/// The flusher that a sink is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flusher {
    /// Counts from 0 to one less than the number of flushers.
    pub index: usize,
}

/// Opens the sink of one flusher, on that flusher's thread; called again after a panic of the sink,
/// and for a flusher that takes the place of one that was left behind.
///
/// Implemented for every `Fn(Flusher) -> Result<S, E>`.
pub trait SinkFactory<T>: Send + Sync + 'static {
    /// What it opens; need not be `Send`.
    type Sink: Sink<T>;

    /// Opens a sink.
    ///
    /// # Errors
    /// Whatever kept it from opening. At start `spawn` fails with it; later the batch at hand fails
    /// with it and the next batch tries again.
    fn open(&self, flusher: Flusher) -> Result<Self::Sink, BoxError>;
}

impl<T, S, E, F> SinkFactory<T> for F
where
    S: Sink<T>,
    E: Into<BoxError>,
    F: Fn(Flusher) -> Result<S, E> + Send + Sync + 'static,
{
    type Sink = S;
    fn open(&self, flusher: Flusher) -> Result<S, BoxError> {
        self(flusher).map_err(Into::into)
    }
}

/// What the engine tells a sink about one call, and where the sink marks items that failed alone.
#[derive(Debug)]
pub struct WriteContext<'a> {
    flusher: Flusher,
    clock: &'a Clock,
    /// Of this call.
    deadline: Option<Instant>,
    shutdown: Option<&'a Due>,
    failed: &'a mut Vec<(usize, WriteError)>,
}

impl<'a> WriteContext<'a> {
    pub(crate) fn new(
        flusher: Flusher,
        clock: &'a Clock,
        deadline: Option<Instant>,
        failed: &'a mut Vec<(usize, WriteError)>,
    ) -> Self {
        Self { flusher, clock, deadline, shutdown: None, failed }
    }

    /// With the deadline of shutdown, which may be set while the call is under way.
    pub(crate) fn heeding(self, shutdown: &'a Due) -> Self {
        Self { shutdown: Some(shutdown), ..self }
    }

    /// Marks the item at `index` of the batch as failed, alone. The first error given for an item
    /// counts; an index outside the batch is ignored.
    pub fn fail(&mut self, index: usize, error: WriteError) {
        self.failed.push((index, error));
    }

    /// The flusher that calls.
    #[must_use]
    pub fn flusher(&self) -> Flusher {
        self.flusher
    }

    /// The engine's time; that of the test clock under a [`Pump`](crate::Pump).
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// When this call is to have returned: [`write_timeout`](crate::Builder::write_timeout) after it
    /// began, or when shutdown gives up, if that is earlier. Ask anew: shutdown may begin meanwhile.
    /// `None` if that is beyond what an [`Instant`] can hold.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.shutdown.and_then(Due::get)).min()
    }

    /// Whether that time has come: the sink is to give up, with an error that says what was applied.
    /// One that does not return for a while longer is left behind: see
    /// [`leave_behind_after`](crate::Builder::leave_behind_after).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.time_left() == Some(Duration::ZERO)
    }

    /// Time left from now until [`deadline`](Self::deadline); `None` when there is none.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(self.now()))
    }
}

#[cfg(feature = "testing")]
#[cfg(not(any(loom, shuttle)))]
impl WriteContext<'_> {
    /// What the engine says, for a sink behind another one: its marks go to that one first.
    pub(crate) fn part<'b>(&'b self, failed: &'b mut Vec<(usize, WriteError)>) -> WriteContext<'b> {
        let Self { flusher, clock, deadline, shutdown, .. } = *self;
        WriteContext { flusher, clock, deadline, shutdown, failed }
    }

    /// With another deadline.
    pub(crate) fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(crate) fn has_test_clock(&self) -> bool {
        matches!(self.clock, Clock::Test(_))
    }
}
