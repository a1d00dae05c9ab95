//! A flusher's thread.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::ledger::Seat;
use super::write::Writer;
use super::{Serving, Shared};
use crate::collect::Buffer;
use crate::guard::guarded;
use crate::mode::Mode;
use crate::sink::{BoxError, Flusher, Sink, SinkFactory, SinkLimits, WriteError};
use crate::sync::lock;

/// What a flusher says once its sink is open, or is not.
pub struct Opened {
    pub flusher: Flusher,
    pub limits: Result<SinkLimits, BoxError>,
}

/// What a flusher's thread needs.
pub struct FlusherThread<T, M: Mode<T>, F> {
    pub shared: Arc<Shared<T, M>>,
    pub factory: Arc<F>,
    pub seat: Seat,
    /// Who waits for the sink to open. `None` for a thread that takes the place of another: it opens
    /// its sink with its first batch.
    pub opened: Option<Sender<Opened>>,
}

/// Tells the ledger that the thread has ended, however it did.
pub struct Ending<'a, T, M: Mode<T>> {
    pub shared: &'a Shared<T, M>,
    pub seat: Seat,
    pub close_errors: Vec<WriteError>,
}

impl<T, M: Mode<T>> Ending<'_, T, M> {
    /// Closes the dead-letter sink.
    pub fn close_dead(&mut self) {
        if let Some(dead) = &self.shared.dead {
            self.close_errors.extend(dead.close(self.shared.asking(self.seat.flusher())));
        }
    }
}

impl<T, M: Mode<T>> Drop for Ending<'_, T, M> {
    fn drop(&mut self) {
        let shared = self.shared;
        if std::thread::panicking() {
            shared.close(); // a defect of ours: producers must not wait for nobody
        }
        let errors = std::mem::take(&mut self.close_errors);
        shared.ledger.ended(self.seat, errors);
        if std::thread::panicking() {
            shared.alarm(); // the permit of its write is free
        }
    }
}

impl<T, M, F> FlusherThread<T, M, F>
where
    T: Send + 'static,
    M: Mode<T>,
    F: SinkFactory<T>,
{
    /// The whole life of a flusher: open, then collect and write until there is nothing more, then
    /// close.
    pub fn run(self) {
        let Self { shared, factory, seat, opened } = self;
        let shared = &*shared;
        let mut ending = Ending { shared, seat, close_errors: Vec::new() };
        let _serving = Serving::engine(shared.any().engine);
        shared.placed.pin(seat.flusher().index); // first: what it allocates is to lie near
        let open = || open(&*factory, seat.flusher());
        let sink = first(&open, seat.flusher(), opened);
        let serves = sink.is_ok();
        let near = shared.near_of(seat.flusher(), 1);
        let mut writer = Writer::new(seat, sink.unwrap_or_default()).near(near);
        if serves {
            serve(shared, &mut writer, &|| open().map(|(sink, _)| sink));
            if shared.forked() {
                std::mem::forget(ending); // every lock may be held by a thread of the parent
                return;
            }
        }
        let last = shared.ledger.closing(seat);
        ending.close_errors.extend(writer.close(shared.asking(seat.flusher())));
        if last {
            ending.close_dead();
        }
        // The last flusher drops what the factory holds, and that is the caller's code too.
        let _ = guarded(|| drop(factory));
    }
}

/// Opens the sink if somebody waits for it, and tells; an error if it did not open.
fn first<S>(
    open: &dyn Fn() -> Result<(S, SinkLimits), BoxError>,
    flusher: Flusher,
    opened: Option<Sender<Opened>>,
) -> Result<Option<S>, ()> {
    let Some(opened) = opened else { return Ok(None) };
    let (sink, limits) = match open() {
        Ok((sink, limits)) => (Ok(Some(sink)), Ok(limits)),
        Err(error) => (Err(()), Err(error)),
    };
    let _ = opened.send(Opened { flusher, limits });
    sink
}

fn serve<T, M: Mode<T>, S: Sink<T>>(
    shared: &Shared<T, M>,
    writer: &mut Writer<S>,
    reopen: &dyn Fn() -> Result<S, BoxError>,
) {
    let mut buffer = Buffer::default();
    let shard = shared.served_by(writer.flusher());
    writer.open(shared, reopen);
    loop {
        let next = shared.next(shard, &mut lock(&shard.lease), &mut buffer);
        let Some((work, permit)) = next else { return };
        shared.leave_to_others(shard);
        match writer.flush(shared, work, permit, reopen) {
            // After a work that was split off or had waited, the larger one is still here.
            Some(empty) if empty.items.capacity() >= buffer.items.capacity() => buffer = empty,
            Some(_) => {}
            None => return,
        }
    }
}

fn open<T, F: SinkFactory<T>>(
    factory: &F,
    flusher: Flusher,
) -> Result<(F::Sink, SinkLimits), BoxError> {
    let panicked = |message: String| -> BoxError { format!("it panicked: {message}").into() };
    let sink = guarded(|| factory.open(flusher)).map_err(panicked)??;
    match guarded(|| sink.limits()) {
        Ok(limits) => Ok((sink, limits)),
        Err(message) => {
            let _ = guarded(|| drop(sink));
            Err(panicked(message))
        }
    }
}
