//! The loom door: the only way to atomics, cells, locks and waiting in this crate.
//!
//! Three worlds share one face: the real one, `--cfg loom` (every interleaving of a small model)
//! and `--cfg shuttle` (random schedules of larger ones). `ci/rooms.sh` bans the originals, so
//! nothing slips past the models.
//!
//! [`weaken`] and [`mutated`] plant bugs: under `--cfg loom` the environment variable
//! `SLUICEGATE_MUTANT` names the one to plant, and a model has to find it. In the real world both
//! are constants and leave no trace in the code. [`planted`] does the same for cold places, for the
//! checks that run on emulated machines (`ci/numa.sh`), and is a constant but for their builds.

#[cfg(not(any(loom, shuttle)))]
mod imp {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, compiler_fence, fence};
    pub use std::sync::{Condvar, Mutex, MutexGuard};
    pub use std::thread::{sleep, yield_now};
    pub use std::thread_local;

    use std::sync::atomic::Ordering;
    use std::time::Duration;

    /// Looks a flusher takes at the slot it waits for before it parks. Measured in
    /// `docs/decisions/0007-spin-budgets.md`.
    pub const FLUSHER_LOOKS: u32 = 100;
    /// `pause` instructions between two looks.
    pub const FLUSHER_PAUSES: u32 = 64;
    /// Steps of [`Backoff`](super::Backoff) that spin: 2^n pauses each.
    pub const SPIN_STEPS: u32 = 7;
    /// Steps after those that yield the CPU.
    pub const YIELD_STEPS: u32 = 4;
    /// Producers woken by one freed run; each that finds room wakes another.
    pub const WAKES_AT_ONCE: usize = 2;

    #[inline(always)]
    pub const fn mutated(_mutant: &str) -> bool {
        false
    }

    #[inline(always)]
    pub const fn weaken(_mutant: &str, ordering: Ordering) -> Ordering {
        ordering
    }

    pub fn wait_timeout<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        condvar.wait_timeout(guard, timeout).unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

#[cfg(loom)]
mod imp {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
    pub use loom::thread::yield_now;
    pub use loom::thread_local;

    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    // A model that spins explores the same states again and again.
    pub const FLUSHER_LOOKS: u32 = 0;
    pub const FLUSHER_PAUSES: u32 = 0;
    pub const SPIN_STEPS: u32 = 0;
    pub const YIELD_STEPS: u32 = 0;
    pub const WAKES_AT_ONCE: usize = 1;

    pub fn sleep(_: Duration) {
        yield_now();
    }

    pub fn mutated(mutant: &str) -> bool {
        static PLANTED: OnceLock<Option<String>> = OnceLock::new();
        PLANTED.get_or_init(|| std::env::var("SLUICEGATE_MUTANT").ok()).as_deref() == Some(mutant)
    }

    /// The mutant's name alone takes the whole ordering away; with `:acquire` or `:release` after
    /// it, that half is left.
    pub fn weaken(mutant: &str, ordering: Ordering) -> Ordering {
        if mutated(mutant) {
            Ordering::Relaxed
        } else if mutated(&format!("{mutant}:acquire")) {
            Ordering::Acquire
        } else if mutated(&format!("{mutant}:release")) {
            Ordering::Release
        } else {
            ordering
        }
    }

    /// loom has no clock. A deadline that never comes turns a lost wake-up into a deadlock, which
    /// it reports.
    pub fn wait_timeout<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(all(shuttle, not(loom)))]
mod imp {
    pub use shuttle::hint::spin_loop;
    pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub use shuttle::thread::yield_now;
    pub use shuttle::thread_local;

    use std::sync::atomic::Ordering;
    use std::time::Duration;

    pub const FLUSHER_LOOKS: u32 = 1;
    pub const FLUSHER_PAUSES: u32 = 1;
    pub const SPIN_STEPS: u32 = 1;
    pub const YIELD_STEPS: u32 = 1;
    pub const WAKES_AT_ONCE: usize = 1;

    pub fn sleep(_: Duration) {
        yield_now();
    }

    pub const fn mutated(_mutant: &str) -> bool {
        false
    }

    pub const fn weaken(_mutant: &str, ordering: Ordering) -> Ordering {
        ordering
    }

    /// shuttle has no clock either: see loom's.
    pub fn wait_timeout<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub use imp::*;
pub use std::sync::atomic::Ordering;

/// Whether this bug is to be planted in a build with `--cfg sluicegate_planted`. It asks the
/// environment each time.
#[cfg(sluicegate_planted)]
pub fn planted(mutant: &str) -> bool {
    std::env::var("SLUICEGATE_MUTANT").is_ok_and(|planted| planted == mutant)
}

/// No bug is to be planted in this build.
#[cfg(not(sluicegate_planted))]
#[inline(always)]
pub const fn planted(_mutant: &str) -> bool {
    false
}

use std::sync::TryLockError;

/// Locks, whether or not a thread has panicked under the lock: no user code runs under one, and
/// what it guards is consistent between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`lock`]; `None` when another thread holds it.
pub fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Waits until notified.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(not(loom))]
mod cell {
    /// Has the face of `loom::cell::UnsafeCell`: the pointer lives inside the closure only, so that
    /// a model sees where each access starts and ends.
    #[repr(transparent)]
    pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        #[inline(always)]
        pub const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }
}
#[cfg(not(loom))]
pub use cell::UnsafeCell;
#[cfg(loom)]
pub use loom::cell::UnsafeCell;

/// A lock of the real world in every world: for what no model is about, forking.
pub struct ChildLock<T>(std::sync::Mutex<T>);
pub type ChildLockGuard<'a, T> = std::sync::MutexGuard<'a, T>;

impl<T> ChildLock<T> {
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> ChildLockGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Waits a little longer each time: spins, then yields, then says that it is time to park.
#[derive(Default)]
pub struct Backoff {
    step: u32,
}

impl Backoff {
    /// One wait; false, without waiting, when the budget is spent.
    pub fn wait(&mut self) -> bool {
        if self.step < SPIN_STEPS {
            pause(1 << self.step);
        } else if self.step < SPIN_STEPS + YIELD_STEPS {
            yield_now();
        } else {
            return false;
        }
        self.step += 1;
        true
    }
}

/// Keeps off the memory bus for `times` pause instructions.
pub fn pause(times: u32) {
    for _ in 0..times {
        spin_loop();
    }
}
