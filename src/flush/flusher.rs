//! A flusher's thread.

use std::sync::Arc;
use std::sync::mpsc::Sender;

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
    pub flusher: Flusher,
    pub opened: Sender<Opened>,
}

/// Tells the ledger that the thread has ended, however it did.
pub struct Ending<'a, T, M: Mode<T>> {
    pub shared: &'a Shared<T, M>,
    pub flusher: Flusher,
    pub close_errors: Vec<WriteError>,
}

impl<T, M: Mode<T>> Drop for Ending<'_, T, M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.node.close(); // a defect of ours: producers must not wait for nobody
        }
        let errors = std::mem::take(&mut self.close_errors);
        self.shared.ledger.ended(self.flusher, errors);
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
        let Self { shared, factory, flusher, opened } = self;
        let shared = &*shared;
        let mut ending = Ending { shared, flusher, close_errors: Vec::new() };
        let _serving = Serving::engine(shared.node.engine);
        match open(&*factory, flusher) {
            Ok((sink, limits)) => {
                let _ = opened.send(Opened { flusher, limits: Ok(limits) });
                drop(opened);
                let mut writer = Writer::new(flusher, sink);
                serve(shared, &mut writer, &|| open(&*factory, flusher).map(|(sink, _)| sink));
                if shared.node.forked() {
                    std::mem::forget(ending); // every lock may be held by a thread of the parent
                    return;
                }
                shared.ledger.closing(flusher);
                let (clock, deadline) = (&shared.node.clock, shared.ledger.deadline());
                ending.close_errors.extend(writer.close(clock, deadline));
            }
            Err(error) => {
                let _ = opened.send(Opened { flusher, limits: Err(error) });
                drop(opened);
            }
        }
        ending.close_errors.extend(shared.leave_dead_letters(flusher));
        // The last flusher drops what the factory holds, and that is the caller's code too.
        let _ = guarded(|| drop(factory));
    }
}

fn serve<T, M: Mode<T>, S: Sink<T>>(
    shared: &Shared<T, M>,
    writer: &mut Writer<S>,
    reopen: &dyn Fn() -> Result<S, BoxError>,
) {
    let mut buffer = Buffer::default();
    loop {
        let next = shared.next(&mut lock(&shared.node.lease), &mut buffer);
        let Some((work, permit)) = next else { return };
        match writer.flush(shared, work, permit, reopen) {
            Some(empty) => buffer = empty,
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
