//! Sinks that write as tasks: [`AsyncSink`].

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use super::{BoxError, Flusher, SinkLimits, WriteContext, WriteError};
use crate::batch::Batch;

/// Takes batches as a task; for clients that are async. Given to
/// [`Builder::spawn_async`](crate::Builder::spawn_async).
///
/// One sink belongs to one flusher: it is opened, used, closed and dropped on that flusher's
/// thread, inside a current-thread runtime of its own, so neither it nor its futures need be
/// `Send`. It may `tokio::spawn` and `spawn_local` tasks there, such as the one that drives a
/// connection; they end with the flusher. With a [`concurrency`](crate::Builder::concurrency) of
/// more than 1 several writes are in flight at once, so what changes in the sink is in a `Cell` or
/// `RefCell`.
///
/// **Never block** in it: every write of the flusher would stand still, and no time-out could end
/// that. What blocks belongs into a [`Sink`](crate::Sink), or into `spawn_blocking`.
///
/// ```
/// use sluicegate::{AsyncContext, AsyncSink, Batch, WriteError};
///
/// struct Rows(/* a client */);
/// impl AsyncSink<u64> for Rows {
///     async fn write(&self, batch: &Batch<u64>, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
///         tokio::task::yield_now().await; // the round trip
///         for (index, item) in batch.iter().enumerate() {
///             if *item == 13 {
///                 cx.fail(index, WriteError::permanent("an unlucky number"));
///             }
///         }
///         Ok(()) // all the others are in
///     }
/// }
/// ```
pub trait AsyncSink<T> {
    /// Writes the batch: one call, one round trip.
    ///
    /// It answers as [`Sink::write`](crate::Sink::write) does. The future may be dropped before it
    /// is ready: after [`write_timeout`](crate::Builder::write_timeout), or when shutdown gives up.
    /// Its items count as `unknown` then, whatever was marked, and the sink goes on: one whose
    /// connection is of no use after half a request must see to that itself, with a guard in the
    /// future. A panic is caught: the writes in flight on this sink have failed, their items count
    /// as `unknown`, and the sink is dropped and opened anew.
    ///
    /// # Errors
    /// `Err(e)` means that every item not marked by [`AsyncContext::fail`] failed with `e`.
    fn write(
        &self,
        batch: &Batch<T>,
        cx: &mut AsyncContext<'_>,
    ) -> impl Future<Output = Result<(), WriteError>>;

    /// What this sink can take in one call. The engine forms no batch beyond it.
    fn limits(&self) -> SinkLimits {
        SinkLimits::default()
    }

    /// The last call, when no write is in flight any more. Bounded as a write is.
    ///
    /// # Errors
    /// An error is reported in [`Shutdown::close_errors`](crate::Shutdown::close_errors); no item's
    /// fate changes.
    fn close(&self, cx: &mut AsyncContext<'_>) -> impl Future<Output = Result<(), WriteError>> {
        let _ = cx;
        async { Ok(()) }
    }
}

/// Opens the async sink of one flusher, on that flusher's thread and inside its runtime; called
/// again after a panic of the sink. One that takes longer than
/// [`write_timeout`](crate::Builder::write_timeout) did not open.
///
/// Implemented for every `AsyncFn(Flusher) -> Result<S, E>`: an async closure, or a function or
/// closure that returns such a future.
pub trait AsyncSinkFactory<T>: Send + Sync + 'static {
    /// What it opens; need not be `Send`.
    type Sink: AsyncSink<T>;

    /// Opens a sink.
    ///
    /// # Errors
    /// Whatever kept it from opening. At start `spawn_async` fails with it; later the batch at hand
    /// fails with it and the next batch tries again.
    fn open(&self, flusher: Flusher) -> impl Future<Output = Result<Self::Sink, BoxError>>;
}

impl<T, S, E, F> AsyncSinkFactory<T> for F
where
    S: AsyncSink<T>,
    E: Into<BoxError>,
    F: AsyncFn(Flusher) -> Result<S, E> + Send + Sync + 'static,
{
    type Sink = S;
    async fn open(&self, flusher: Flusher) -> Result<S, BoxError> {
        self(flusher).await.map_err(Into::into)
    }
}

/// What the engine tells an async sink about one call, and where the sink marks items that failed
/// alone.
#[derive(Debug)]
pub struct AsyncContext<'a>(WriteContext<'a>);

impl<'a> AsyncContext<'a> {
    pub(crate) fn new(inner: WriteContext<'a>) -> Self {
        Self(inner)
    }

    /// Marks the item at `index` of the batch as failed, alone. The first error given for an item
    /// counts; an index outside the batch is ignored.
    pub fn fail(&mut self, index: usize, error: WriteError) {
        self.0.fail(index, error);
    }

    /// The flusher that calls.
    #[must_use]
    pub fn flusher(&self) -> Flusher {
        self.0.flusher()
    }

    /// The engine's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// When the engine stops waiting for this call:
    /// [`write_timeout`](crate::Builder::write_timeout) after it began, or when shutdown gives up,
    /// if that is earlier. `None` if that is beyond what an [`Instant`] can hold.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    /// Time left from now until [`deadline`](Self::deadline); `None` when there is none.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.0.time_left()
    }
}

/// A sink that calls an async closure; made by [`from_async_fn`].
#[derive(Clone)]
pub struct AsyncFnSink<F>(F);

/// A sink from an async closure.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::{AsyncContext, Batch, Batcher, Flusher, WriteError, sink};
///
/// let batcher = Batcher::builder().concurrency(4).spawn_async(async |_: Flusher| {
///     // Here a client would connect.
///     Ok::<_, WriteError>(sink::from_async_fn(
///         async |batch: &Batch<u64>, _: &mut AsyncContext<'_>| {
///             tokio::time::sleep(Duration::from_millis(batch.len() as u64)).await;
///             Ok(())
///         },
///     ))
/// })?;
/// batcher.producer().add(1)?;
/// assert!(batcher.shutdown(Duration::from_secs(5)).is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn from_async_fn<T, F>(write: F) -> AsyncFnSink<F>
where
    F: AsyncFn(&Batch<T>, &mut AsyncContext<'_>) -> Result<(), WriteError>,
{
    AsyncFnSink(write)
}

impl<T, F> AsyncSink<T> for AsyncFnSink<F>
where
    F: AsyncFn(&Batch<T>, &mut AsyncContext<'_>) -> Result<(), WriteError>,
{
    async fn write(&self, batch: &Batch<T>, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        (self.0)(batch, cx).await
    }
}

impl<F> fmt::Debug for AsyncFnSink<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncFnSink").finish_non_exhaustive()
    }
}
