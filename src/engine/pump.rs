//! The whole engine without threads and without sleep: for tests of time triggers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Producer, Shutdown};
use crate::ack::AckReason;
use crate::batch::{BatchId, FlushReason};
use crate::clock::TestClock;
use crate::collect::Buffer;
use crate::flush::{Look, Serving, Shared, Writer};
use crate::guard::drop_each;
use crate::mode::{Mode, Plain};
use crate::sink::{BoxError, Flusher, Sink};
use crate::sync::lock;
use crate::telemetry::{Stats, Tally};

/// The one flusher of a pump.
const FLUSHER: Flusher = Flusher { index: 0 };

/// An engine that does nothing by itself: each [`step`](Self::step) does what a flusher's thread
/// would do next, at the time that a [`TestClock`] shows. Same ring, same triggers, same ledger.
///
/// ```
/// use std::time::Duration;
/// use sluicegate::{Batcher, FlushReason, PumpStep, TestClock, sink::NullSink};
///
/// let mut pump = Batcher::builder()
///     .max_batch_delay(Duration::from_millis(100))
///     .pump(NullSink, TestClock::new())?;
/// pump.producer().add("a single item").unwrap();
///
/// assert_eq!(pump.advance(Duration::from_millis(99)), 0); // not due yet
/// assert_eq!(pump.advance(Duration::from_millis(1)), 1); // one batch, to the millisecond
/// assert_eq!(pump.stats().flush_reasons.get(FlushReason::Time), 1);
/// # Ok::<(), sluicegate::ConfigError>(())
/// ```
pub struct Pump<T, S, M: Mode<T> = Plain> {
    pub(super) shared: Arc<Shared<T, M>>,
    writer: Writer<S>,
    buffer: Buffer<T, M>,
    clock: TestClock,
}

/// What a [`Pump::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpStep {
    /// It gave this batch to the sink.
    Wrote {
        /// The batch.
        batch: BatchId,
        /// Why it was closed.
        reason: FlushReason,
        /// Its items.
        items: usize,
    },
    /// There is nothing to do at this time.
    Idle,
    /// Closed, and nothing is left.
    Done,
}

impl<T: Send + 'static, S: Sink<T>, M: Mode<T>> Pump<T, S, M> {
    pub(super) fn new(shared: Shared<T, M>, sink: S, clock: TestClock) -> Self {
        let writer = Writer::new(shared.ledger.seat(FLUSHER), Some(sink));
        Self { shared: Arc::new(shared), writer, buffer: Buffer::default(), clock }
    }

    /// A handle to add items with. Adding to a full queue fails with `Full` at once: nobody would
    /// make room meanwhile.
    #[must_use]
    pub fn producer(&self) -> Producer<T, M> {
        Producer::new(Arc::clone(&self.shared))
    }

    pub(super) fn shared(&self) -> &Arc<Shared<T, M>> {
        &self.shared
    }

    /// The sink; `None` after it has panicked: a pump has no factory to open it anew, and its
    /// batches fail from then on.
    pub fn sink(&mut self) -> Option<&mut S> {
        self.writer.sink()
    }

    /// Writes the next batch that is ready or due, if there is one.
    pub fn step(&mut self) -> PumpStep {
        let shard = self.shared.any();
        let _serving = Serving::engine(shard.engine);
        loop {
            match self.shared.look(shard, &mut lock(&shard.lease), &mut self.buffer, true) {
                Look::Progress => {}
                Look::Wait { .. } | Look::Held { .. } | Look::Stalled => {
                    shard.nudge();
                    return PumpStep::Idle;
                }
                Look::Done => return PumpStep::Done,
                Look::Work(work, permit) => {
                    let (id, reason) = (work.batch.id(), work.batch.reason());
                    let items = work.batch.len();
                    let reopen = || -> Result<S, BoxError> { Err("a pump has no factory".into()) };
                    let empty = self.writer.flush(&self.shared, work, permit, &reopen);
                    self.buffer = empty.unwrap_or_default();
                    return PumpStep::Wrote { batch: id, reason, items };
                }
            }
        }
    }

    /// Writes every batch that is ready or due now; returns how many.
    pub fn run(&mut self) -> usize {
        let mut batches = 0;
        while let PumpStep::Wrote { .. } = self.step() {
            batches += 1;
        }
        batches
    }

    /// When there is something to do next: the forming batch is due, or what failed is to be tried
    /// again, as far as breaker and throttle allow. `None` when there is nothing, or no delay is
    /// set.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let (shard, ledger) = (self.shared.any(), &self.shared.ledger);
        let former = &mut lock(&shard.lease).former;
        let held = former.has_items() || former.drained() > former.first();
        let pending = held || shard.pushed() > shard.popped();
        let fresh = if pending { former.ready_at() } else { None };
        ledger.next_due(fresh)
    }

    /// Moves the clock on by `time`, stopping at each moment at which there is something to do.
    /// Returns how many batches were written.
    pub fn advance(&mut self, time: Duration) -> usize {
        let end = self.clock.now().checked_add(time);
        let mut batches = self.run();
        while let Some(due) = self.next_due().filter(|due| end.is_some_and(|end| *due <= end)) {
            self.clock.advance(due.saturating_duration_since(self.clock.now()));
            let written = self.run();
            if written == 0 && self.next_due().is_none_or(|next| next <= due) {
                break; // a producer has stopped between claim and publish
            }
            batches += written;
        }
        if let Some(end) = end {
            self.clock.advance(end.saturating_duration_since(self.clock.now()));
        }
        batches + self.run()
    }

    /// Writes everything that was added before this call.
    pub fn flush(&mut self) -> Tally {
        self.shared.any().demand_all();
        self.run();
        self.tally()
    }

    /// Refuses every add from now on.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Where the items are.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.tally()
    }

    /// Everything that is counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Closes, writes everything that was added, and closes the sink.
    pub fn shutdown(mut self) -> Shutdown<T> {
        self.close();
        self.run();
        let (shard, ledger) = (self.shared.any(), &self.shared.ledger);
        let seat = ledger.seat(FLUSHER);
        ledger.closing(seat);
        let serving = Serving::engine(shard.engine);
        let mut close_errors = Vec::from_iter(self.writer.close(self.shared.asking(FLUSHER)));
        if let Some(dead) = &self.shared.dead {
            close_errors.extend(dead.close(self.shared.asking(FLUSHER)));
        }
        drop(serving);
        ledger.ended(seat, close_errors);
        self.shared.hand_back_waiting();
        let mut unflushed = ledger.take_handed_back();
        shard.take_rest(&mut lock(&shard.lease), &mut unflushed);
        Shutdown::of(&self.shared, unflushed, Vec::new())
    }
}

impl<T, S, M: Mode<T>> Drop for Pump<T, S, M> {
    /// Nobody will write what is left: whoever waits for it, or for room, is told.
    fn drop(&mut self) {
        let shard = self.shared.any();
        shard.close();
        let mut rest = Vec::new();
        for mut work in self.shared.ledger.take_waiting() {
            M::take_tags(&mut work.tags).for_each(|tag| shard.let_go(tag, AckReason::Abandoned));
            rest.append(&mut work.batch.items);
            work.discard();
        }
        shard.abandon_rest(&mut lock(&shard.lease), &mut rest);
        drop_each(&mut rest);
    }
}

impl<T, S, M: Mode<T>> fmt::Debug for Pump<T, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("clock", &self.clock).finish_non_exhaustive()
    }
}
