//! A flusher whose sink is async: one task on a runtime of its own.
//!
//! ```text
//!   collect ─┬─ write ───────────────┬─ settle ─ collect …
//!            └ collect ─┬─ write ────│────────┬─ settle
//!                       └ collect …  └ collect │           at most `concurrency` writes at a time
//! ```
//!
//! The task looks for work while it has room for another write, and polls the writes in flight
//! whenever it is woken. A write that ends interrupts the collecting: what came of it may change
//! what is to be done next. The stages before and after the sink are those of any flusher, and run
//! outside of the runtime: see [`Executor`].

mod call;
mod collect;
mod executor;
mod flight;

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use call::{Cut, Watch};
use executor::Executor;
use flight::{Flight, Landed, Open, Writing};

use super::classify::Answer;
use super::flusher::{Ending, Opened};
use super::gate::Permit;
use super::work::Work;
use super::write::{Started, finish, not_open, panicked_closing, start};
use super::{Serving, Shared};
use crate::collect::Buffer;
use crate::guard::{drop_each, guarded};
use crate::mode::Mode;
use crate::placement::Near;
use crate::sink::{
    AsyncContext, AsyncSink, AsyncSinkFactory, BoxError, Flusher, SinkLimits, WriteError,
};

/// Rounds after which the flusher's task lets the others of its runtime have their turn.
const ROUNDS: u32 = 8;

/// What the thread of a flusher with an async sink needs.
pub struct AsyncFlusherThread<T, M: Mode<T>, F> {
    pub shared: Arc<Shared<T, M>>,
    pub factory: Arc<F>,
    pub flusher: Flusher,
    pub opened: Sender<Opened>,
    pub write_timeout: Duration,
    pub concurrency: usize,
}

/// What stays the same for the flusher's task.
#[derive(Clone, Copy)]
struct Task<'a, T, M: Mode<T>, F> {
    executor: &'a Executor,
    shared: &'a Shared<T, M>,
    factory: &'a F,
    flusher: Flusher,
    concurrency: usize,
    watch: &'a Watch,
}

/// The task while it collects and writes.
struct Attendant<'a, T, M: Mode<T>, F: AsyncSinkFactory<T>> {
    task: &'a Task<'a, T, M, F>,
    /// `None` after a panic, until it is opened again.
    open: Option<Rc<Open<F::Sink>>>,
    flight: Flight<'a, T, M>,
    /// For the next batch, and those after it.
    buffer: Buffer<T, M>,
    spare: Vec<Buffer<T, M>>,
    /// Where batches are to lie on a node.
    near: Option<Near>,
    /// There may be something to collect.
    more: bool,
    /// There never will be again.
    over: bool,
    /// How often it has looked for what comes next.
    rounds: u32,
}

/// What the task does next.
enum Next<T, M: Mode<T>> {
    /// Settle this write.
    Landed(Landed<T, M>),
    /// Write this, in that place.
    Work(usize, Work<T, M>, Permit),
    /// Nothing is left to collect, but for what writes in flight may leave.
    Done,
}

/// How a life ended.
enum Life {
    Ended,
    /// In a child process, where every lock may be held by a thread that is not there.
    Forked,
}

impl<T, M, F> AsyncFlusherThread<T, M, F>
where
    T: Send + 'static,
    M: Mode<T>,
    F: AsyncSinkFactory<T>,
{
    /// The whole life of a flusher: open, then collect and write until there is nothing more, then
    /// close.
    pub fn run(self) {
        let Self { shared, factory, flusher, opened, write_timeout, concurrency } = self;
        let shared = &*shared;
        let seat = shared.ledger.seat(flusher);
        let mut ending = Ending { shared, seat, close_errors: Vec::new() };
        let _serving = Serving::engine(shared.any().engine);
        shared.placed.pin(flusher.index); // first: what it allocates is to lie near
        match Executor::new() {
            Ok(executor) => {
                let watch = Watch { timeout: write_timeout, given_up: Cell::new(false) };
                let task = Task {
                    executor: &executor,
                    shared,
                    factory: &*factory,
                    flusher,
                    concurrency,
                    watch: &watch,
                };
                if let Life::Forked = task.live(opened, &mut ending) {
                    mem::forget((executor, ending));
                    return;
                }
                shared.served_by(flusher).bell.forget(flusher.index);
                executor.end();
            }
            Err(error) => {
                let error: BoxError = format!("no runtime for it: {error}").into();
                let _ = opened.send(Opened { flusher, limits: Err(error) });
                drop(opened);
            }
        }
        if shared.ledger.closing(seat) {
            ending.close_dead();
        }
        let _ = guarded(|| drop(factory));
    }
}

impl<'a, T, M, F> Task<'a, T, M, F>
where
    T: Send + 'static,
    M: Mode<T>,
    F: AsyncSinkFactory<T>,
{
    fn live(&'a self, opened: Sender<Opened>, ending: &mut Ending<'_, T, M>) -> Life {
        let Self { executor, flusher, .. } = *self;
        let (limits, open) = match executor.visit(self.open()) {
            Ok((open, limits)) => (Ok(limits), Some(open)),
            Err(error) => (Err(error), None),
        };
        let _ = opened.send(Opened { flusher, limits });
        drop(opened);
        if open.is_none() {
            return Life::Ended;
        }
        let mut attendant = Attendant::new(self, open);
        attendant.serve();
        if self.shared.forked() {
            mem::forget(attendant);
            return Life::Forked;
        }
        self.shared.ledger.closing(ending.seat);
        if let Some(open) = attendant.open.take() {
            ending.close_errors.extend(executor.visit(self.close(open)));
        }
        if self.shared.forked() { Life::Forked } else { Life::Ended }
    }

    async fn open(&self) -> Result<(Rc<Open<F::Sink>>, SinkLimits), BoxError> {
        let broken = Cell::new(false);
        let call = self.watch.call(&broken, || self.factory.open(self.flusher));
        let sink = match self.heeding(call).await {
            Ok(opened) => opened?,
            Err(Cut::Panicked(message)) => return Err(format!("it panicked: {message}").into()),
            Err(cut) => return Err(cut.error("opening").into()),
        };
        match guarded(|| sink.limits()) {
            Ok(limits) => Ok((Rc::new(Open { sink, broken }), limits)),
            Err(message) => {
                let _ = guarded(|| drop(sink));
                Err(format!("it panicked: {message}").into())
            }
        }
    }

    async fn close(&self, open: Rc<Open<F::Sink>>) -> Option<WriteError> {
        let mut marked = Vec::new();
        let mut cx = AsyncContext::new(self.shared.asking(self.flusher).context(&mut marked));
        let call = self.watch.call(&open.broken, || open.sink.close(&mut cx));
        let closed = self.heeding(call).await;
        drop_each(&mut marked); // there is no batch
        let dropped = guarded(|| drop(open));
        match closed {
            Ok(Err(error)) => Some(error),
            Ok(Ok(())) => dropped.err().map(|message| panicked_closing(&message)),
            Err(Cut::Panicked(message)) => Some(panicked_closing(&message)),
            Err(cut) => Some(cut.error("closing of the sink")),
        }
    }

    /// Does this, and takes note meanwhile when the engine gives up.
    async fn heeding<R>(&self, work: impl Future<Output = R>) -> R {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.heed(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    fn heed(&self, cx: &mut Context<'_>) {
        let shard = self.shared.served_by(self.flusher);
        if !shard.forked() && shard.bell.list(self.flusher.index, cx.waker(), false) {
            self.watch.given_up.set(true);
        }
    }
}

impl<'a, T, M, F> Attendant<'a, T, M, F>
where
    T: Send + 'static,
    M: Mode<T>,
    F: AsyncSinkFactory<T>,
{
    fn new(task: &'a Task<'a, T, M, F>, open: Option<Rc<Open<F::Sink>>>) -> Self {
        let (buffer, spare) = (Buffer::default(), Vec::new());
        Self {
            task,
            open,
            flight: Flight::new(task.concurrency),
            buffer,
            spare,
            near: task.shared.near_of(task.flusher, task.concurrency),
            more: true,
            over: false,
            rounds: 0,
        }
    }

    /// Collects and writes until there is nothing more. In a child process it returns at once.
    fn serve(&mut self) {
        while self.more || !self.flight.is_empty() {
            let next = self.task.executor.visit(self.next());
            if self.task.shared.forked() {
                mem::forget(next); // the parent's
                return;
            }
            match next {
                Next::Landed(landed) => self.settle(landed),
                Next::Work(place, work, permit) => self.launch(place, work, permit),
                Next::Done => self.more = false,
            }
        }
    }

    /// Whatever comes first: a write that ends, or something to write if there is room for it.
    async fn next(&mut self) -> Next<T, M> {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(ROUNDS) {
            // What is always ready would keep the runtime from its IO, timers and other tasks.
            yield_now().await;
        }
        self.flight.rested();
        let next = loop {
            if let Some(next) = self.look().await {
                break next;
            }
        };
        if self.task.shared.forked() {
            return next;
        }
        if self.open.as_ref().is_some_and(|open| open.broken.get()) {
            let broken = self.open.take();
            let _ = guarded(|| drop(broken));
        }
        if self.flight.is_restless() {
            yield_now().await;
        }
        next
    }

    /// Looks at the writes in flight, and then for something to write until the task is woken.
    /// `None`: look again.
    async fn look(&mut self) -> Option<Next<T, M>> {
        let Self { task, flight, buffer, .. } = self;
        let shard = task.shared.served_by(task.flusher);
        let room = flight.room().filter(|_| self.more);
        let mut collecting = pin!(async {
            let Some(place) = room else { return pending().await };
            match collect::next(task.shared, task.flusher, buffer).await {
                Some((work, permit)) => Next::Work(place, work, permit),
                None => Next::Done,
            }
        });
        let mut looked = false;
        poll_fn(|cx| {
            task.heed(cx);
            let woken = mem::replace(&mut looked, true);
            if woken {
                flight.rested();
            } else if let Poll::Ready(landed) = flight.poll(|| shard.forked(), cx) {
                return Poll::Ready(Some(Next::Landed(landed)));
            }
            if shard.forked() {
                return Poll::Ready(Some(Next::Done));
            }
            match collecting.as_mut().poll(cx) {
                Poll::Ready(next) => Poll::Ready(Some(next)),
                // The lease is given on before writes are polled: one that blocks its thread would
                // keep it, and nobody could collect.
                Poll::Pending if woken && !flight.is_empty() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Begins to write a work.
    fn launch(&mut self, place: usize, mut work: Work<T, M>, permit: Permit) {
        let Task { shared, flusher, watch, .. } = *self.task;
        if self.buffer.items.capacity() == 0 {
            self.buffer = self.spare.pop().unwrap_or_default(); // the batch has taken it
        }
        let slot = shared.ledger.seat(flusher).slot(place);
        let Some(begun) = start(shared, slot, &mut work, permit) else {
            (self.more, self.over) = (false, true);
            return;
        };
        let Started { spoiled, at: started, answer } = begun;
        if let Some(near) = self.near.as_mut().filter(|_| answer.is_none() && work.is_fresh()) {
            near.bring(&work.batch.items, &shared.placed);
        }
        let open = match answer {
            Some(answer) => Err(answer),
            None => self.opened(started),
        };
        let writing = Writing { place, work, spoiled, started };
        match open {
            Ok(open) => {
                let asking = shared.asking(flusher); // opening it took its time
                let write = flight::write(open, writing, asking, watch);
                self.flight.take_off(place, write);
            }
            Err(answer) => self.settle(Landed { writing, answer, marked: Vec::new() }),
        }
    }

    /// The sink, opened again if need be: then no write is in flight, for a panic ends them all.
    fn opened(&mut self, started: Instant) -> Result<Rc<Open<F::Sink>>, Answer> {
        if let Some(open) = &self.open {
            return Ok(Rc::clone(open));
        }
        let opened = self.task.executor.visit(self.task.open());
        let now = self.task.shared.any().clock.now();
        match opened {
            Ok((open, _)) => Ok(Rc::clone(self.open.insert(open))),
            Err(error) => {
                let took = now.saturating_duration_since(started);
                let unasked = Answer::unasked(Err(not_open(error)), started);
                Err(Answer { took, wrote: true, ..unasked })
            }
        }
    }

    /// The stages after the sink.
    fn settle(&mut self, landed: Landed<T, M>) {
        let Landed { writing, answer, mut marked } = landed;
        let Writing { place, work, spoiled, .. } = writing;
        let Task { shared, flusher, watch, concurrency, .. } = *self.task;
        let slot = shared.ledger.seat(flusher).slot(place);
        match finish(shared, slot, work, spoiled, answer, &mut marked) {
            Some(empty) => {
                self.more = !self.over;
                if self.spare.len() < concurrency {
                    self.spare.push(empty);
                }
            }
            None => {
                (self.more, self.over) = (false, true);
                watch.given_up.set(true); // nobody waits for the other writes either
            }
        }
    }
}
