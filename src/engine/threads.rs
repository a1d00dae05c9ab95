//! The threads of an engine, and the watchdog that replaces those that do not come back.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use super::Batcher;
use crate::flush::{Hung, Seat, Serving, Shared, hung};
use crate::mode::Mode;

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
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a thread for that seat.
pub type Start = Box<dyn Fn(Seat) -> io::Result<JoinHandle<()>> + Send>;

/// Leaves flushers behind whose sink does not return, and seats others.
struct Watchdog<T, M: Mode<T>> {
    shared: Arc<Shared<T, M>>,
    threads: Threads,
    /// How long a call may take.
    limit: Duration,
    start: Start,
}

impl<T: Send + 'static, M: Mode<T>> Batcher<T, M> {
    pub(super) fn new(shared: Arc<Shared<T, M>>, flushers: usize) -> Self {
        Self { shared, flushers, threads: Threads::default(), watchdog: None, finished: true }
    }

    /// Has calls of the caller's code watched that take longer than that.
    pub(super) fn watch(&mut self, limit: Duration, start: Start) -> io::Result<()> {
        let (shared, threads) = (Arc::clone(&self.shared), self.threads.clone());
        let watchdog = Watchdog { shared, threads, limit, start };
        let thread = thread::Builder::new().name("sluicegate-watch".into());
        self.watchdog = Some(thread.spawn(move || watchdog.run())?);
        Ok(())
    }
}

impl<T, M: Mode<T>> Watchdog<T, M> {
    fn run(self) {
        let Shared { node, ledger, .. } = &*self.shared;
        let _serving = Serving::engine(node.engine); // wakers of acks are the caller's
        while let Some(all) = ledger.wait_hung(self.limit) {
            for Hung { flusher, at, left, seat } in all {
                hung(flusher, at, self.limit);
                match seat {
                    Some(seat) => self.replace(seat),
                    None => {
                        node.close();
                        node.stop();
                    }
                }
                if let Some(left) = left {
                    self.shared.tell_left(left);
                }
            }
            node.wake.alarm(&node.ring); // permits are free again
        }
    }

    fn replace(&self, seat: Seat) {
        let Shared { node, ledger, .. } = &*self.shared;
        match (self.start)(seat) {
            Ok(thread) => self.threads.add(seat, thread),
            Err(error) => {
                tracing::error!(%error, "no thread for a flusher in place of one that hangs");
                ledger.ended(seat, Vec::new());
                if ledger.all_gone() {
                    node.close(); // nobody will make room
                }
            }
        }
    }
}
