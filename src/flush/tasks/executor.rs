//! The runtime of one flusher.
//!
//! Its thread is inside only while it waits for something async: for a write, for work, for a sink
//! to open or to close. What else there is of the caller's (the dead-letter sink, `on_failed`,
//! `on_dropped`, drops of items) runs between two visits, for it may block in a runtime of its own,
//! and a runtime within a runtime panics.
//!
//! **No event is lost between two visits.** IO, timers and the tasks of the sink are kept by the
//! runtime; they stand still meanwhile. Each visit begins with a poll of its future, whatever has
//! woken it before, so the future has to ask everything that it waits for in its first poll. One
//! thing the runtime keeps for a single visit: wake-ups that it has put off (for a future that has
//! yielded, or has used up its budget) until the future of the visit is pending. So a visit must
//! not end in the poll in which such a future was polled: see
//! [`Flight::is_restless`](super::flight::Flight::is_restless).

use std::future::Future;
use std::io;
use std::pin::pin;

use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::guard::guarded;

/// A current-thread runtime, and the tasks there that are not `Send`.
pub struct Executor {
    local: LocalSet,
    runtime: Runtime,
}

impl Executor {
    pub fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { local: LocalSet::new(), runtime })
    }

    /// Does this, and meanwhile what the sink has spawned.
    pub fn visit<R>(&self, work: impl Future<Output = R>) -> R {
        let mut work = pin!(work); // here: the runtime would box a large one
        self.local.block_on(&self.runtime, work.as_mut())
    }

    /// Drops what is left of the sink's tasks, which is the caller's code too, inside the runtime.
    /// A thread of `spawn_blocking` need not end.
    pub fn end(self) {
        let Self { local, runtime } = self;
        let inside = runtime.enter();
        let _ = guarded(|| drop(local));
        drop(inside);
        let _ = guarded(|| runtime.shutdown_background());
    }
}
