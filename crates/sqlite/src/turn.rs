//! One write at a time, among the sinks of one set of options.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate::{WriteContext, WriteError};

/// Between two looks at the deadline, which a shutdown may bring nearer.
const LOOK: Duration = Duration::from_millis(20);

/// The right to write.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    taken: Mutex<bool>,
    free: Condvar,
}

/// Held while writing.
pub(crate) struct Taken<'a>(&'a Turn);

impl Turn {
    /// Waits for it, but not longer than the engine waits for this call: nothing has happened yet,
    /// so the batch fails with nothing applied.
    pub(crate) fn take(&self, cx: &WriteContext<'_>) -> Result<Taken<'_>, WriteError> {
        let mut taken = self.lock();
        while *taken {
            if cx.is_cancelled() {
                let what = "the other flushers did not let this one write before the deadline";
                return Err(WriteError::transient(what));
            }
            let waited = self.free.wait_timeout(taken, LOOK);
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Taken(self))
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.free.notify_one();
    }
}
