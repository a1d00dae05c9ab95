//! Time, which tests own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::{Counter, nanos};

/// Where the engine reads the time: the monotonic clock, or a test's.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    Monotonic,
    Test(TestClock),
}

impl Clock {
    pub fn now(&self) -> Instant {
        match self {
            Self::Monotonic => Instant::now(),
            Self::Test(clock) => clock.now(),
        }
    }
}

/// A time that is not known before it is set. Anybody may look at it, and nobody waits for a lock.
#[derive(Debug)]
pub struct Due {
    origin: Instant,
    /// Nanoseconds after `origin`; it is not known at the largest number.
    after: Counter,
}

impl Due {
    /// Not known yet, but not before `origin`.
    pub fn new(origin: Instant) -> Self {
        Self { origin, after: Counter::new(u64::MAX) }
    }

    pub fn set(&self, at: Option<Instant>) {
        let after = |at: Instant| nanos(at.saturating_duration_since(self.origin));
        self.after.set(at.map_or(u64::MAX, after));
    }

    pub fn get(&self) -> Option<Instant> {
        let after = Some(self.after.get()).filter(|after| *after != u64::MAX)?;
        self.origin.checked_add(Duration::from_nanos(after))
    }
}

/// A clock that stands still until it is told to advance. Clones show the same time.
///
/// ```
/// use sluicegate::TestClock;
/// use std::time::Duration;
///
/// let clock = TestClock::new();
/// let start = clock.now();
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now() - start, Duration::from_secs(3600));
/// ```
#[derive(Clone)]
pub struct TestClock(Arc<Mutex<Instant>>);

impl TestClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// The time it shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it on. Stays where it is if `by` is more than an [`Instant`] can hold.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.checked_add(by).unwrap_or(*now);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestClock").field(&self.now()).finish()
    }
}
