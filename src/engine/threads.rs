//! The threads of an engine, and the watchdog that replaces those that do not come back.

use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use super::Batcher;
use crate::flush::{Hung, Seat, Serving, Shared};
use crate::mode::Mode;
use crate::sync::{Mutex, lock};

/// A flusher's thread, and where it sits.
type Seated = (Seat, JoinHandle<()>);

/// The threads of the flushers.
#[derive(Clone, Default)]
pub struct Threads(Arc<Mutex<Vec<Seated>>>);

impl Threads {
    pub fn add(&self, seat: Seat, thread: JoinHandle<()>) {
        self.list(|threads| {
            threads.retain(|(_, thread)| !thread.is_finished()); // it was replaced
            threads.push((seat, thread));
        });
    }

    /// Where that thread sits, if it is one of them.
    pub fn seat(&self, id: ThreadId) -> Option<Seat> {
        self.list(|threads| {
            threads.iter().find(|(_, thread)| thread.thread().id() == id).map(|(seat, _)| *seat)
        })
    }

    pub fn take(&self) -> Vec<Seated> {
        self.list(mem::take)
    }

    fn list<R>(&self, with: impl FnOnce(&mut Vec<Seated>) -> R) -> R {
        with(&mut lock(&self.0))
    }
}

/// Starts a thread for that seat.
pub type Start = Box<dyn Fn(Seat) -> io::Result<JoinHandle<()>>>;

/// Makes that, while a flusher that hangs still has what its thread needs.
pub type Ready = Box<dyn Fn() -> Option<Start> + Send>;

/// Between two tries to start a thread.
const START_AGAIN: Duration = Duration::from_millis(500);

/// Leaves flushers behind whose sink does not return, and seats others.
struct Watchdog<T, M: Mode<T>> {
    shared: Arc<Shared<T, M>>,
    threads: Threads,
    /// How long a call may take.
    limit: Duration,
    ready: Ready,
}

impl<T: Send + 'static, M: Mode<T>> Batcher<T, M> {
    pub(super) fn new(shared: Arc<Shared<T, M>>, flushers: usize) -> Self {
        Self { shared, flushers, threads: Threads::default(), watchdog: None, finished: true }
    }

    /// Has calls of the caller's code watched that take longer than that.
    pub(super) fn watch(&mut self, limit: Duration, ready: Ready) -> io::Result<()> {
        let (shared, threads) = (Arc::clone(&self.shared), self.threads.clone());
        let watchdog = Watchdog { shared, threads, limit, ready };
        let thread = thread::Builder::new().name("sluicegate-watch".into());
        self.watchdog = Some(thread.spawn(move || watchdog.run())?);
        Ok(())
    }
}

impl<T, M: Mode<T>> Watchdog<T, M> {
    fn run(self) {
        let Shared { node, ledger, .. } = &*self.shared;
        let _serving = Serving::engine(node.engine); // wakers of acks are the caller's
        while let Some((hung, start)) = ledger.wait_hung(self.limit, &self.ready) {
            for Hung { seat, .. } in &hung {
                match seat {
                    Some(seat) => self.replace(*seat, start.as_ref()),
                    None => {
                        node.close();
                        node.stop();
                    }
                }
            }
            node.wake.alarm(&node.ring); // permits are free again
            // Only now the caller's code, which may take its time.
            hung.iter().for_each(|hung| hung.tell(self.limit));
            ledger.tell_changed();
            hung.into_iter()
                .filter_map(|hung| hung.left)
                .for_each(|left| self.shared.tell_left(left));
        }
    }

    /// Starts a thread for that seat; as long as the system has none to give, again and again.
    fn replace(&self, seat: Seat, start: Option<&Start>) {
        let ledger = &self.shared.ledger;
        let Some(start) = start else { return ledger.ended(seat, Vec::new()) };
        loop {
            let error = match start(seat) {
                Ok(thread) => return self.threads.add(seat, thread),
                Err(error) => error,
            };
            tracing::error!(%error, "no thread for a flusher in place of one that hangs");
            if !ledger.still_watched(START_AGAIN) {
                return ledger.ended(seat, Vec::new());
            }
        }
    }
}
