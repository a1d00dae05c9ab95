//! One sleeper, a thread or a task, woken by anybody, with the moment of the wake-up.

use std::task::Waker;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::guard::guarded;
#[cfg(any(feature = "tokio", loom, shuttle))]
use crate::sync::try_lock;
use crate::sync::{Condvar, Mutex, lock, mutated, wait, wait_timeout};

/// Where one thread or task sleeps at a time. It has its own flag and condition variable: a sink
/// that parks and unparks the flusher's thread for purposes of its own takes nothing from it.
#[derive(Default)]
pub struct Parker {
    inner: Mutex<Inner>,
    woken: Condvar,
}

#[derive(Default)]
struct Inner {
    /// The moment at which the wake-up was decided, until the sleeper takes it.
    token: Option<Instant>,
    /// Of a sleeping task.
    waker: Option<Waker>,
}

impl Parker {
    /// Sleeps until [`unpark`](Self::unpark), or until the time has come. Returns the waker's
    /// stamp, or `None` when the time came first. A token left earlier returns at once.
    pub fn park(&self, until: Option<Instant>, clock: &Clock) -> Option<Instant> {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(stamp) = inner.token.take() {
                return Some(stamp);
            }
            inner = match until {
                None => wait(&self.woken, inner),
                Some(until) => {
                    let left = until.saturating_duration_since(clock.now());
                    if left == Duration::ZERO {
                        return None;
                    }
                    wait_timeout(&self.woken, inner, left)
                }
            };
        }
    }

    /// As [`park`](Self::park), for a task: takes the token, or leaves its waker and returns false.
    pub fn poll(&self, waker: &Waker) -> bool {
        self.poll_stamp(waker).is_some()
    }

    /// As [`poll`](Self::poll): the stamp of the token that it takes.
    pub fn poll_stamp(&self, waker: &Waker) -> Option<Instant> {
        let waker = waker.clone(); // the caller's code: not under the lock
        let mut inner = lock(&self.inner);
        if let Some(stamp) = inner.token.take() {
            drop(inner);
            return Some(stamp);
        }
        let keep_old = mutated("stale_waker") && inner.waker.is_some();
        let old = if keep_old { Some(waker) } else { inner.waker.replace(waker) };
        drop(inner);
        drop(old);
        None
    }

    /// Wakes the sleeper, or the next one to come.
    pub fn unpark(&self, stamp: Instant) {
        if mutated("notify_before_token") {
            self.notify(None);
            drop(self.leave_token(stamp));
            return;
        }
        let waker = self.leave_token(stamp);
        self.notify(waker);
    }

    /// The first half of [`unpark`](Self::unpark), which calls no code of the caller's. Of several
    /// stamps the earliest stays.
    pub fn leave_token(&self, stamp: Instant) -> Option<Waker> {
        let mut inner = lock(&self.inner);
        inner.token.get_or_insert(stamp);
        inner.waker.take()
    }

    /// The second half: nobody need be asleep any more.
    pub fn notify(&self, waker: Option<Waker>) {
        match waker {
            Some(waker) => drop(guarded(|| waker.wake())),
            None => self.woken.notify_one(),
        }
    }

    /// Forgets the waker of a task that sleeps no more: it keeps the task's runtime alive. Who has
    /// the lock just takes it, or is not there, in a child process: it is never waited for.
    #[cfg(any(feature = "tokio", loom, shuttle))]
    pub fn forget_waker(&self) {
        let waker = try_lock(&self.inner).and_then(|mut inner| inner.waker.take());
        drop(waker); // the caller's code: not under the lock
    }

    /// Forgets what is left of the last sleeper.
    pub fn clear(&self) {
        let mut inner = lock(&self.inner);
        inner.token = None;
        let waker = inner.waker.take();
        drop(inner);
        drop(waker);
    }
}
