//! One sleeper, woken by anybody, with the moment of the wake-up.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::sync::{Condvar, Mutex, lock, mutated, wait, wait_timeout};

/// Where one thread sleeps at a time. It has its own flag and condition variable: a sink that parks
/// and unparks the flusher's thread for purposes of its own takes nothing from it.
#[derive(Default)]
pub struct Parker {
    /// The moment at which the wake-up was decided, until the sleeper takes it.
    token: Mutex<Option<Instant>>,
    woken: Condvar,
}

impl Parker {
    /// Sleeps until [`unpark`](Self::unpark), or until the time has come. Returns the waker's
    /// stamp, or `None` when the time came first. A token left earlier returns at once.
    pub fn park(&self, until: Option<Instant>, clock: &Clock) -> Option<Instant> {
        let mut token = lock(&self.token);
        loop {
            if let Some(stamp) = token.take() {
                return Some(stamp);
            }
            token = match until {
                None => wait(&self.woken, token),
                Some(until) => {
                    let left = until.saturating_duration_since(clock.now());
                    if left == Duration::ZERO {
                        return None;
                    }
                    wait_timeout(&self.woken, token, left)
                }
            };
        }
    }

    /// Wakes the sleeper, or the next one to come. Of several stamps the earliest stays.
    pub fn unpark(&self, stamp: Instant) {
        if mutated("notify_before_token") {
            self.woken.notify_one();
        }
        let mut token = lock(&self.token);
        token.get_or_insert(stamp);
        drop(token);
        if !mutated("notify_before_token") {
            self.woken.notify_one();
        }
    }
}
