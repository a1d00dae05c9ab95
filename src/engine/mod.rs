//! The engine as its user sees it: [`Builder`], [`Batcher`], [`Producer`], [`Shutdown`] and the
//! thread-less [`Pump`].

mod adding;
mod builder;
mod flush_async;
#[cfg(feature = "futures")]
mod futures_sink;
mod owned;
mod producer;
mod pump;
mod route;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod route_tests;
mod shutdown;
mod spawn;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
mod threads;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use builder::Builder;
pub use flush_async::{FlushAsync, ShutdownAsync};
#[cfg(feature = "futures")]
pub use futures_sink::AddSink;
pub use owned::OwnedProducer;
pub use producer::Producer;
pub use pump::{Pump, PumpStep};
pub use shutdown::{LeftBehind, Shutdown, Stuck};
use threads::Threads;
pub use waiting::{AddAsync, AddWithAckAsync};

use crate::error::FlushError;
use crate::flush::{OwnedRings, Resolution, Serving, Shared};
use crate::mode::{Mode, Plain};
use crate::placement::Placement;
use crate::telemetry::{Stats, Tally};

const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// The unique owner of an engine. Producers add items, flushers hand them to the sink in batches,
/// and this is where to flush, look at the figures, and shut down.
///
/// Dropped without [`shutdown`](Self::shutdown) it closes, drains for at most
/// [`Batcher::DROP_DEADLINE`], and warns through `tracing`.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::{Batch, Batcher, WriteContext, WriteError, sink};
///
/// let batcher = Batcher::builder().max_batch_size(100).spawn(|_flusher| {
///     Ok::<_, WriteError>(sink::from_fn(|batch: &Batch<u64>, _: &mut WriteContext<'_>| {
///         println!("{} items in one call", batch.len());
///         Ok(())
///     }))
/// })?;
/// let producer = batcher.producer();
/// for item in 0..1_000 {
///     producer.add(item)?;
/// }
/// let report = batcher.shutdown(Duration::from_secs(5));
/// assert_eq!(report.tally.flushed_ok, 1_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Batcher<T, M: Mode<T> = Plain> {
    shared: Arc<Shared<T, M>>,
    flushers: usize,
    /// Empty once shut down.
    threads: Threads,
    watchdog: Option<JoinHandle<()>>,
    finished: bool,
}

impl<T: Send + 'static> Batcher<T> {
    /// An engine to be configured.
    ///
    /// Items go to another thread, so what may not leave its own does not compile:
    ///
    /// ```compile_fail,E0277
    /// # use sluicegate::Batcher;
    /// let builder = Batcher::<std::rc::Rc<u64>>::builder(); // `Rc` cannot be sent between threads
    /// ```
    #[must_use]
    pub fn builder() -> Builder<T> {
        Builder::new()
    }
}

impl<T: Send + 'static, M: Mode<T>> Batcher<T, M> {
    /// How long an engine that is dropped without a shutdown goes on draining.
    pub const DROP_DEADLINE: Duration = DROP_DEADLINE;

    /// A handle to add items with; clone it for more.
    #[must_use]
    pub fn producer(&self) -> Producer<T, M> {
        Producer::new(Arc::clone(&self.shared))
    }

    /// A handle for the node of that index in [`Plan::nodes`](crate::placement::Plan::nodes); `None`
    /// if there is no such node. It and its clones keep that home, until
    /// [`rehome`](Producer::rehome).
    #[must_use]
    pub fn producer_on(&self, node: usize) -> Option<Producer<T, M>> {
        let is_there = node < self.shared.placed.plan().nodes().len();
        is_there.then(|| Producer::on(Arc::clone(&self.shared), Some(node)))
    }

    /// Where rings and flushers were to be, where they are, and why.
    #[must_use]
    pub fn placement(&self) -> Placement {
        let barrier = self.shared.any().owned.as_ref().map(OwnedRings::barrier);
        Placement { barrier, ..self.shared.placed.report() }
    }

    /// Waits until every item added before this call has met its fate, or `timeout` has passed.
    /// Adds go on meanwhile and are not waited for. Open batches are written at once, with reason
    /// `flush`.
    ///
    /// # Errors
    /// [`FlushError::Timeout`] carries the tally of that moment; the items go on to their fate.
    /// [`FlushError::Reentrant`] when called from a sink or a callback of this engine.
    /// [`FlushError::Stopped`] when no flusher is left. [`FlushError::Forked`] in a child process.
    pub fn flush(&self, timeout: Duration) -> Result<Tally, FlushError> {
        self.may_flush()?;
        let resolution = self.shared.flush(timeout);
        self.flushed(resolution)
    }

    /// As [`flush`](Self::flush), for a task on any runtime. Covers what was added before its first
    /// poll. Dropped, it stops waiting; the items go on to their fate. It has no time-out: put the
    /// runtime's around it.
    ///
    /// # Errors
    /// As [`flush`](Self::flush), but for `Timeout`.
    pub fn flush_async(&self) -> FlushAsync<'_, T, M> {
        FlushAsync::new(self)
    }

    fn may_flush(&self) -> Result<(), FlushError> {
        if self.shared.forked() {
            Err(FlushError::Forked)
        } else if Serving::is(self.shared.any().engine) {
            Err(FlushError::Reentrant)
        } else {
            Ok(())
        }
    }

    fn flushed(&self, resolution: Resolution) -> Result<Tally, FlushError> {
        let tally = self.tally();
        match resolution {
            Resolution::Resolved => Ok(tally),
            Resolution::TimedOut => Err(FlushError::Timeout(tally)),
            Resolution::Stopped => Err(FlushError::Stopped(tally)),
        }
    }

    /// Refuses every add from now on; what was added still flows to the sink. Waiting producers get
    /// their items back. Returns at once; harmless when called again.
    pub fn close(&self) {
        if self.shared.forked() {
            return; // closed already, and nobody waits
        }
        self.shared.close();
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Where the items are, exactly, at this moment.
    #[must_use]
    pub fn tally(&self) -> Tally {
        if self.shared.forked() {
            return self.forked_tally();
        }
        self.shared.tally()
    }

    /// Everything that is counted, of one moment. Takes some 10 µs: the histograms are copied.
    #[must_use]
    pub fn stats(&self) -> Stats {
        if self.shared.forked() {
            return Stats { tally: self.forked_tally(), ..Stats::default() };
        }
        self.shared.stats()
    }

    /// Closes, writes what was added, and waits for it: until every item has met its fate, or
    /// `deadline` has passed.
    ///
    /// At the deadline no further write starts. Items that were not written are handed back in
    /// [`Shutdown::unflushed`]. A sink that has not returned 50 ms later is left behind with its
    /// batch, whose items count as `unknown`; its thread cannot be ended and stays until the sink
    /// returns.
    ///
    /// Called from this engine's own sink or callback it does not wait for the calling flusher,
    /// which is left behind.
    ///
    /// A second shutdown does not compile:
    ///
    /// ```compile_fail,E0382
    /// # use std::time::Duration;
    /// # use sluicegate::{Batcher, WriteError, sink::NullSink};
    /// # let batcher = Batcher::<u64>::builder().spawn(|_| Ok::<_, WriteError>(NullSink)).unwrap();
    /// let report = batcher.shutdown(Duration::from_secs(5));
    /// let again = batcher.shutdown(Duration::from_secs(5));
    /// ```
    ///
    /// In a forked child it returns at once, with every flusher left behind in the parent.
    pub fn shutdown(mut self, deadline: Duration) -> Shutdown<T> {
        self.finish(deadline)
    }

    /// As [`shutdown`](Self::shutdown), for a task on any runtime: a thread of its own does the
    /// waiting. It begins at once; dropped, it goes on, and its report is lost.
    pub fn shutdown_async(self, deadline: Duration) -> ShutdownAsync<T> {
        ShutdownAsync::begin(self, deadline)
    }
}

impl<T, M: Mode<T>> Drop for Batcher<T, M> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if self.shared.forked() {
            drop(self.finish(Duration::ZERO));
            return;
        }
        let report = self.finish(DROP_DEADLINE);
        tracing::warn!(
            enqueued = report.tally.enqueued,
            flushed_ok = report.tally.flushed_ok,
            flushed_fail = report.tally.flushed_fail,
            unknown = report.tally.unknown,
            in_flight = report.tally.in_flight,
            "an engine was dropped without a shutdown: it was drained, and its report is lost"
        );
    }
}

impl<T, M: Mode<T>> fmt::Debug for Batcher<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("shards", &self.shared.shards.len())
            .field("pushed", &self.shared.pushed())
            .field("closed", &self.shared.is_closed())
            .finish_non_exhaustive()
    }
}
