//! The threads of an engine, and the watchdog that replaces those that do not come back.

use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use super::Batcher;
use crate::flush::{Seat, Serving, Shared};
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
pub type Start = dyn Fn(Seat) -> io::Result<JoinHandle<()>>;

/// Makes that, while a flusher that hangs still has what its thread needs.
pub type Ready = Box<dyn Fn() -> Option<Rc<Start>> + Send>;

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
        let (shared, ledger) = (&*self.shared, &self.shared.ledger);
        let shard = shared.any();
        let _serving = Serving::engine(shard.engine); // wakers of acks are the caller's
        let mut waiting = Vec::new(); // seats for which the system had no thread yet
        loop {
            let again = || shard.clock.now().checked_add(START_AGAIN);
            let until = if waiting.is_empty() { None } else { again() };
            let Some((hung, start)) = ledger.wait_hung(self.limit, until, &self.ready) else {
                break;
            };
            if hung.iter().any(|hung| hung.seat.is_none()) {
                shared.close(); // order forbids to go on
                shared.stop();
            }
            if let Some(start) = start {
                let seats = hung.iter().filter_map(|hung| hung.seat);
                waiting.extend(seats.map(|seat| (seat, Rc::clone(&start))));
            }
            waiting.retain(|(seat, start)| !self.seated(*seat, &**start));
            if hung.is_empty() {
                continue;
            }
            shared.alarm(); // permits are free again
            // Only now the caller's code, which may take its time.
            hung.iter().for_each(|hung| hung.tell(self.limit));
            ledger.tell_changed();
            let left = hung.into_iter().filter_map(|hung| hung.left);
            left.for_each(|left| self.shared.tell_left(left));
        }
        waiting.into_iter().for_each(|(seat, _)| ledger.ended(seat, Vec::new()));
    }

    /// Starts a thread for that seat, if the system has one to give.
    fn seated(&self, seat: Seat, start: &Start) -> bool {
        match start(seat) {
            Ok(thread) => self.threads.add(seat, thread),
            Err(error) => {
                tracing::error!(%error, "no thread for a flusher in place of one that hangs");
                return false;
            }
        }
        true
    }
}
