//! Flushing and shutting down from a task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::{Batcher, Shutdown};
use crate::error::FlushError;
use crate::flush::Positions;
use crate::guard::guarded;
use crate::mode::{Mode, Plain};
use crate::ring::in_child;
use crate::sync::{Mutex, lock};
use crate::telemetry::Tally;

/// Waits for a flush barrier; made by [`Batcher::flush_async`].
#[must_use = "nothing is flushed before it is polled"]
pub struct FlushAsync<'b, T: Send + 'static, M: Mode<T> = Plain> {
    batcher: &'b Batcher<T, M>,
    /// Known from the first poll on.
    positions: Option<Positions>,
    task: Option<u64>,
}

impl<'b, T: Send + 'static, M: Mode<T>> FlushAsync<'b, T, M> {
    pub(super) fn new(batcher: &'b Batcher<T, M>) -> Self {
        Self { batcher, positions: None, task: None }
    }
}

impl<T: Send + 'static, M: Mode<T>> Future for FlushAsync<'_, T, M> {
    type Output = Result<Tally, FlushError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { batcher, positions, task } = &mut *self;
        if let Err(error) = batcher.may_flush() {
            return Poll::Ready(Err(error));
        }
        let positions = positions.get_or_insert_with(|| batcher.shared.demand_all());
        match batcher.shared.ledger.poll_resolved(positions, task, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(resolution) => Poll::Ready(batcher.flushed(resolution)),
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> Drop for FlushAsync<'_, T, M> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take()
            && !self.batcher.shared.forked()
        {
            self.batcher.shared.ledger.forget(task);
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> fmt::Debug for FlushAsync<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushAsync").field("positions", &self.positions).finish_non_exhaustive()
    }
}

/// Waits for a shutdown; made by [`Batcher::shutdown_async`].
#[must_use = "it brings the items that were not flushed"]
pub struct ShutdownAsync<T> {
    cell: Arc<Mutex<Report<T>>>,
    /// What there is to say in a child process, if it comes to that.
    generation: u64,
    flushers: usize,
    enqueued: u64,
}

struct Report<T> {
    report: Option<Shutdown<T>>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> ShutdownAsync<T> {
    pub(super) fn begin<M: Mode<T>>(mut batcher: Batcher<T, M>, deadline: Duration) -> Self {
        let cell = Arc::new(Mutex::new(Report { report: None, waker: None }));
        let told = Arc::clone(&cell);
        batcher.close();
        let this = Self {
            cell,
            generation: batcher.shared.any().generation,
            flushers: batcher.flushers,
            enqueued: batcher.shared.pushed(),
        };
        if batcher.shared.forked() {
            lock(&told).report = Some(batcher.finish(deadline));
            return this;
        }
        let here = batcher.this_flusher();
        // The closure gives the engine back if there is no thread to be had.
        let engine = Arc::new(Mutex::new(Some(batcher)));
        let taken = Arc::clone(&engine);
        let finish = move || {
            let Some(mut batcher) = lock(&taken).take() else { return };
            let report = batcher.finish_from(deadline, here);
            let mut state = lock(&told);
            state.report = Some(report);
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                let _ = guarded(|| waker.wake());
            }
        };
        let spawned =
            thread::Builder::new().name("sluicegate-shutdown".into()).spawn(finish.clone());
        if spawned.is_err() {
            finish(); // on this thread, then: late is better than never
        }
        this
    }
}

impl<T> Future for ShutdownAsync<T> {
    type Output = Shutdown<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Shutdown<T>> {
        if in_child(self.generation) && self.flushers > 0 {
            return Poll::Ready(Shutdown::in_child(self.flushers, self.enqueued));
        }
        let waker = cx.waker().clone(); // the caller's code: not under the lock
        let mut state = lock(&self.cell);
        if let Some(report) = state.report.take() {
            drop(state);
            return Poll::Ready(report);
        }
        let old = state.waker.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl<T> fmt::Debug for ShutdownAsync<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownAsync").finish_non_exhaustive()
    }
}
