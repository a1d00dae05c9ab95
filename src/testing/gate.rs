//! A door inside a sink.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait, wait_timeout};

/// A door, mostly inside a sink: shut until the test opens it, and it knows who has come. Clones are
/// the same door.
///
/// ```
/// use sluicegate::testing::Gate;
/// use std::time::Duration;
///
/// let gate = Gate::new();
/// let inside = gate.clone();
/// let thread = std::thread::spawn(move || inside.pass());
/// assert!(gate.wait_for(1, Duration::from_secs(60))); // it stands at the door
/// gate.open();
/// thread.join().unwrap();
/// ```
#[derive(Clone, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    door: Mutex<Door>,
    changed: Condvar,
}

#[derive(Default)]
struct Door {
    arrived: u64,
    permits: u64,
    open: bool,
}

impl Gate {
    /// A door that is shut.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        lock(&self.0.door)
    }

    /// Comes to the door and waits until it opens, without a limit.
    pub fn pass(&self) {
        self.pass_until(None);
    }

    /// As [`pass`](Self::pass), but gives up after this time; says whether it got through.
    #[must_use]
    pub fn pass_within(&self, time: Duration) -> bool {
        self.pass_until(Instant::now().checked_add(time))
    }

    fn pass_until(&self, end: Option<Instant>) -> bool {
        let mut door = self.door();
        door.arrived += 1;
        self.0.changed.notify_all();
        while !door.open && door.permits == 0 {
            door = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => wait(&self.0.changed, door),
                Some(Duration::ZERO) => return false,
                Some(left) => wait_timeout(&self.0.changed, door, left),
            };
        }
        if !door.open {
            door.permits -= 1;
        }
        true
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.door().open = true;
        self.0.changed.notify_all();
    }

    /// Lets one through: who stands there, or else the next that comes.
    pub fn admit_one(&self) {
        self.door().permits += 1;
        self.0.changed.notify_all();
    }

    /// How many have come to it, ever.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.door().arrived
    }

    /// Waits until so many have come to it, ever, but not longer than `limit`; says whether they
    /// have.
    #[must_use]
    pub fn wait_for(&self, arrivals: u64, limit: Duration) -> bool {
        let end = Instant::now().checked_add(limit);
        let mut door = self.door();
        while door.arrived < arrivals {
            door = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => wait(&self.0.changed, door),
                Some(Duration::ZERO) => return false,
                Some(left) => wait_timeout(&self.0.changed, door, left),
            };
        }
        true
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Door { arrived, open, .. } = *self.door();
        f.debug_struct("Gate").field("arrived", &arrived).field("open", &open).finish()
    }
}
