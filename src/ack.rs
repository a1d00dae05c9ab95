//! What became of one item: [`Ack`], for the producer, and its counterpart in the engine.
//!
//! One allocation per item that asks for it: a cell that both ends share. The engine's end resolves
//! it exactly once, by being consumed; dropped unresolved, it resolves to
//! [`AckReason::Abandoned`], so nobody waits for ever. Resolving, waiting and dropping meet under
//! the cell's own lock; wakers are called outside it.
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `ack`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::batch::BatchId;
use crate::clock::Clock;
use crate::flush::Serving;
use crate::guard::guarded;
use crate::ring::in_child;
use crate::sink::WriteError;
use crate::sync::{Condvar, Mutex, lock, mutated, wait, wait_timeout};

/// How a write went, for an item that is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The batch it was in.
    pub batch: BatchId,
    /// Writes it took: 1, and one more for each time that it was tried again or its batch split.
    pub attempts: u32,
    /// From its add until the write began.
    pub queued: Duration,
    /// What the write took.
    pub writing: Duration,
}

/// Why an item was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AckReason {
    /// The sink refused it; nothing of it took effect.
    Failed,
    /// It was written, and whether it took effect cannot be known.
    Unknown,
    /// The queue was full: [`WhenFull::DropNewest`](crate::WhenFull::DropNewest) let it go.
    Newest,
    /// The queue was full: [`WhenFull::DropOldest`](crate::WhenFull::DropOldest) let it go for a
    /// newer one.
    Evicted,
    /// It was older than `max_age` before it could be written.
    Expired,
    /// Shutdown handed it back, in [`Shutdown::unflushed`](crate::Shutdown::unflushed).
    HandedBack,
    /// The engine let go of it without a word: a defect, or a flusher that never came back.
    Abandoned,
    /// Waited for on a flusher's own thread, or on the one that drives a [`Pump`](crate::Pump),
    /// which would wait for itself. The item goes on to its fate.
    Reentrant,
    /// Waited for in a forked child: the flushers, and the item, are in the parent.
    Forked,
    /// The result was taken before.
    Taken,
}

impl fmt::Display for AckReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the sink refused the item",
            Self::Unknown => "it cannot be known whether the item took effect",
            Self::Newest => "the queue was full and the item was let go",
            Self::Evicted => "the queue was full and the item was let go for a newer one",
            Self::Expired => "the item became too old before it could be written",
            Self::HandedBack => "the item was handed back by shutdown",
            Self::Abandoned => "the engine has let go of the item",
            Self::Reentrant => "a flusher cannot wait for its own item",
            Self::Forked => "the item is with the parent process",
            Self::Taken => "the result was taken before",
        })
    }
}

/// An item was not acknowledged. `Debug` and `Display` never show the item.
pub struct AckError<T> {
    /// Why.
    pub reason: AckReason,
    /// The item, unless somebody else has it: `on_failed`, `on_dropped`, the shutdown report, or a
    /// sink that never came back.
    pub item: Option<T>,
    /// What the sink said, if it was asked.
    pub error: Option<Arc<WriteError>>,
    /// The batch it was in, if it was in one.
    pub batch: Option<BatchId>,
}

impl<T> AckError<T> {
    pub(crate) fn new(reason: AckReason) -> Self {
        Self { reason, item: None, error: None, batch: None }
    }
}

impl<T> fmt::Debug for AckError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckError")
            .field("reason", &self.reason)
            .field("error", &self.error)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for AckError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{}: {error}", self.reason),
            None => self.reason.fmt(f),
        }
    }
}

impl<T> std::error::Error for AckError<T> {}

type Outcome<T> = Result<Receipt, AckError<T>>;

struct Cell<T> {
    state: Mutex<State<T>>,
    resolved: Condvar,
}

struct State<T> {
    outcome: Option<Outcome<T>>,
    taken: bool,
    /// The `Ack` is gone.
    deaf: bool,
    asleep: bool,
    waker: Option<Waker>,
}

/// Tells what became of one item: a future, and a blocking [`wait`](Self::wait).
///
/// Made by [`add_with_ack`](crate::Producer::add_with_ack). Dropping it cancels nothing: the item
/// goes on to its fate, and if it fails after that, is reported as if no ack had been asked for. An
/// item that failed before goes with its ack.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::{Batcher, WriteError, sink::NullSink};
///
/// let batcher = Batcher::builder().with_acks().spawn(|_| Ok::<_, WriteError>(NullSink))?;
/// let ack = batcher.producer().add_with_ack("a row")?;
/// batcher.flush(Duration::from_secs(5))?;
/// assert_eq!(ack.wait()?.attempts, 1);
/// # batcher.shutdown(Duration::from_secs(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "without looking at it a plain add does the same for less"]
pub struct Ack<T> {
    cell: Arc<Cell<T>>,
    engine: u64,
    generation: u64,
    clock: Clock,
}

/// The engine's end: resolves the ack once.
pub struct Promise<T>(Option<Arc<Cell<T>>>);

/// Makes the two ends.
pub fn promise<T>(engine: u64, generation: u64, clock: &Clock) -> (Promise<T>, Ack<T>) {
    let state = State { outcome: None, taken: false, deaf: false, asleep: false, waker: None };
    let cell = Arc::new(Cell { state: Mutex::new(state), resolved: Condvar::new() });
    let clock = clock.clone();
    (Promise(Some(Arc::clone(&cell))), Ack { cell, engine, generation, clock })
}

impl<T> Promise<T> {
    /// The item is in.
    pub fn succeed(self, receipt: Receipt) {
        let _ = self.resolve(Ok(receipt), None);
    }

    /// The item is not in, and somebody else has it.
    pub fn fail(self, error: AckError<T>) {
        let _ = self.resolve(Err(error), None);
    }

    /// The item is not in. It goes to whoever waits; back if nobody does.
    pub fn fail_with(self, error: AckError<T>, item: T) -> Option<T> {
        self.resolve(Err(error), Some(item))
    }

    /// The add did not happen: nobody will be told anything.
    pub fn forget(mut self) {
        self.0 = None;
    }

    fn resolve(mut self, outcome: Outcome<T>, item: Option<T>) -> Option<T> {
        let cell = self.0.take()?;
        cell.resolve(outcome, item)
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.resolve(Err(AckError::new(AckReason::Abandoned)), None);
        }
    }
}

impl<T> Cell<T> {
    fn resolve(&self, mut outcome: Outcome<T>, item: Option<T>) -> Option<T> {
        let mut state = lock(&self.state);
        if state.deaf && !mutated("ack_to_the_deaf") {
            drop(state);
            let _ = guarded(|| drop(outcome)); // the sink's error, perhaps: the caller's code
            return item;
        }
        if let Err(error) = &mut outcome {
            error.item = item;
        }
        state.outcome = Some(outcome);
        let (waker, asleep) = (state.waker.take(), state.asleep);
        drop(state);
        if asleep && !mutated("ack_no_notify") {
            self.resolved.notify_all();
        }
        if let Some(waker) = waker.filter(|_| !mutated("ack_no_wake")) {
            let _ = guarded(|| waker.wake());
        }
        None
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<Outcome<T>> {
        if self.taken {
            return Some(Err(AckError::new(AckReason::Taken)));
        }
        let outcome = self.outcome.take()?;
        self.taken = true;
        Some(outcome)
    }
}

impl<T> Ack<T> {
    /// Waits until the item has met its fate.
    ///
    /// # Errors
    /// [`AckError`] says which fate, and has the item if nobody else has.
    /// [`AckReason::Reentrant`] at once on a flusher's own thread.
    pub fn wait(self) -> Result<Receipt, AckError<T>> {
        self.wait_until(None).unwrap_or_else(|| Err(AckError::new(AckReason::Abandoned)))
    }

    /// As [`wait`](Self::wait), but at most for `timeout`; `None` when the time came first: wait
    /// again, or let it be. Behind a [`Pump`](crate::Pump) it does not wait: no time passes
    /// meanwhile.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Receipt, AckError<T>>> {
        match self.clock.now().checked_add(timeout) {
            None => self.wait_until(None),
            until => self.wait_until(until),
        }
    }

    /// What became of the item, if it has met its fate; never waits.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Option<Result<Receipt, AckError<T>>> {
        if in_child(self.generation) {
            return Some(Err(AckError::new(AckReason::Forked)));
        }
        lock(&self.cell.state).take()
    }

    fn wait_until(&self, until: Option<Instant>) -> Option<Outcome<T>> {
        if in_child(self.generation) {
            return Some(Err(AckError::new(AckReason::Forked)));
        }
        let mut state = lock(&self.cell.state);
        loop {
            if let Some(outcome) = state.take() {
                return Some(outcome);
            }
            if matches!(self.clock, Clock::Test(_)) && until.is_some() {
                return None; // no time passes while it waits
            }
            if Serving::is(self.engine) || matches!(self.clock, Clock::Test(_)) {
                return Some(Err(AckError::new(AckReason::Reentrant)));
            }
            state.asleep = true;
            state = match until {
                None => wait(&self.cell.resolved, state),
                Some(until) => {
                    let left = until.saturating_duration_since(self.clock.now());
                    if left == Duration::ZERO {
                        state.asleep = false;
                        return None;
                    }
                    wait_timeout(&self.cell.resolved, state, left)
                }
            };
        }
    }
}

impl<T> Future for Ack<T> {
    type Output = Result<Receipt, AckError<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if in_child(self.generation) {
            return Poll::Ready(Err(AckError::new(AckReason::Forked)));
        }
        let waker = cx.waker().clone(); // the caller's code: not under the lock
        let mut state = lock(&self.cell.state);
        if let Some(outcome) = state.take() {
            drop(state);
            return Poll::Ready(outcome);
        }
        if Serving::is(self.engine) {
            drop(state);
            return Poll::Ready(Err(AckError::new(AckReason::Reentrant)));
        }
        let keep_old = mutated("ack_stale_waker") && state.waker.is_some();
        let old = if keep_old { Some(waker) } else { state.waker.replace(waker) };
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl<T> Drop for Ack<T> {
    fn drop(&mut self) {
        if in_child(self.generation) {
            return; // the lock may be held by a thread of the parent
        }
        let mut state = lock(&self.cell.state);
        state.deaf = true;
        let left = (state.outcome.take(), state.waker.take());
        drop(state);
        drop(left);
    }
}

impl<T> fmt::Debug for Ack<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").finish_non_exhaustive()
    }
}
