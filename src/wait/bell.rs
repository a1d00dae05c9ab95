//! Tasks of flushers that wait for one another: for the collect lease, or to be told that the
//! engine gives up on them.
//!
//! A flusher with writes in flight cannot sleep on the lease's lock: its writes would stand still.
//! So it tries the lock, and lists its task beforehand.
//!
//! ```text
//!  holder                               follower
//!  H1 unlock the lease                  W1 list the task      (under the bell's lock)
//!  H2 wake what is listed               W2 try the lease's lock: taken → pending
//!     (under the bell's lock)
//! ```
//!
//! (A follower tries the lock before W1, too: that saves the listing where the lease is free.)
//!
//! **No lost wake-up.** W1 and H2 have one order. W1 first: H2 wakes the task. H2 first: then H1
//! came before W1 and W2 finds the lock free, or taken by a later holder, whose H2 comes after W1.
//!
//! H2 wakes all who are listed: one alone might be busy in its sink, and nobody would collect. They
//! are as few as there are flushers. The same lock guards the word that the engine gives up, so who
//! lists itself first and then looks does not miss it.

use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard, lock, mutated, pause, try_lock};

/// Where the flushers of an engine that are tasks can be reached.
#[derive(Default)]
pub struct Bell(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    given_up: bool,
    tasks: Vec<Listed>,
}

struct Listed {
    flusher: usize,
    waker: Waker,
    /// It waits for the lease, too.
    lease: bool,
}

impl Bell {
    /// Lists a flusher's task in place of what is listed of it; whether the engine has given up.
    pub fn list(&self, flusher: usize, waker: &Waker, lease: bool) -> bool {
        let listed = Listed { flusher, waker: waker.clone(), lease };
        let mut inner = lock(&self.0);
        let old = inner.tasks.iter().position(|task| task.flusher == flusher);
        let old = old.map(|index| inner.tasks.swap_remove(index));
        inner.tasks.push(listed);
        let given_up = inner.given_up;
        drop(inner);
        drop(old);
        given_up
    }

    /// Takes a flusher's task off the list, for it has ended: its waker keeps its runtime alive.
    /// Whether it was listed.
    #[cfg_attr(any(loom, shuttle), allow(dead_code))]
    pub fn forget(&self, flusher: usize) -> bool {
        let mut inner = lock(&self.0);
        let old = inner.tasks.iter().position(|task| task.flusher == flusher);
        let old = old.map(|index| inner.tasks.swap_remove(index));
        drop(inner);
        old.is_some()
    }

    /// Locks the lease, or lists the flusher's task to be woken when that may be possible.
    pub fn poll_lock<'a, L>(
        &self,
        lease: &'a Mutex<L>,
        flusher: usize,
        cx: &mut Context<'_>,
    ) -> Poll<MutexGuard<'a, L>> {
        let locked = try_lock(lease).or_else(|| {
            self.list(flusher, cx.waker(), true); // W1
            if mutated("bell_one_try") { None } else { try_lock(lease) } // W2
        });
        locked.map_or(Poll::Pending, Poll::Ready)
    }

    /// Gives the lease on.
    pub fn unlock<L>(&self, lease: MutexGuard<'_, L>) {
        if mutated("bell_before_unlock") {
            self.lease_is_free();
            pause(1);
            drop(lease);
            return;
        }
        drop(lease); // H1
        self.lease_is_free();
    }

    /// H2: the lease was unlocked.
    pub fn lease_is_free(&self) {
        self.wake(false);
    }

    /// No write is waited for any longer.
    pub fn give_up(&self) {
        self.wake(true);
    }

    fn wake(&self, give_up: bool) {
        let mut inner = lock(&self.0);
        inner.given_up |= give_up;
        let woken: Vec<Listed> = inner.tasks.extract_if(.., |task| give_up || task.lease).collect();
        drop(inner);
        woken.into_iter().for_each(|task| task.waker.wake());
    }
}
