//! Waiting for fates: flush barriers, and items that are let go under the lock.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Ledger, State};
use crate::flush::Positions;
use crate::flush::owned::Own;
use crate::flush::shard::Shard;
use crate::guard::guarded;
use crate::mode::{Mode, Tag};
use crate::ring::PopError;
use crate::sync::{MutexGuard, lock, mutated, wait, wait_timeout};

/// A task that waits.
pub struct Task {
    pub number: u64,
    pub positions: Positions,
    pub waker: Waker,
}

/// How waiting for a position ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Resolved,
    TimedOut,
    /// No flusher is left.
    Stopped,
}

impl<T, M: Mode<T>> Ledger<T, M> {
    /// Waits until every item before `positions`, one of each shard, has met its fate.
    pub fn wait_resolved(&self, positions: &[u64], timeout: Duration) -> Resolution {
        let until = self.clock.now().checked_add(timeout);
        let resolution = self.wait_for(until, |state| state.resolution(positions));
        resolution.unwrap_or(Resolution::TimedOut)
    }

    /// Waits, as a task, until every item before `positions` has met its fate. `task` is its number
    /// between polls; one that is not polled again must [`forget`](Self::forget) it.
    pub fn poll_resolved(
        &self,
        positions: &Positions,
        task: &mut Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<Resolution> {
        let waker = cx.waker().clone(); // the caller's code: not under the lock
        let mut state = lock(&self.state);
        let old = task.take().and_then(|number| state.take_task(number));
        let resolution = state.resolution(positions);
        if resolution.is_none() {
            state.last_task += 1;
            *task = Some(state.last_task);
            let number = state.last_task;
            let positions = positions.clone();
            state.tasks.push(Task { number, positions, waker });
        }
        drop(state);
        drop(old);
        resolution.map_or(Poll::Pending, Poll::Ready)
    }

    /// Forgets a task that waits no longer.
    pub fn forget(&self, task: u64) {
        let waker = lock(&self.state).take_task(task);
        drop(waker);
    }

    /// Takes the oldest item out of a ring (see [`Shard::evict`]) and counts it as dropped, in one step: no flush
    /// barrier is passed by an item that is between the two.
    ///
    /// With somebody to `tell`, barriers at positions after the one returned go on waiting until
    /// [`told`](Self::told).
    pub fn evict(
        &self,
        shard: &Shard<T, M>,
        from: Option<&Own<M::Entry>>,
        or_any: bool,
        tell: bool,
    ) -> Result<(u64, T, Tag<T>), PopError> {
        if mutated("evict_outside_the_lock") {
            let mut out = Vec::with_capacity(1);
            let run = shard.evict(from, or_any, &mut out)?;
            let entry = out.pop().ok_or(PopError::Empty)?;
            let mut state = lock(&self.state);
            state.evicted += 1;
            state.frontiers[shard.index].resolve(run.position, run.position + 1);
            self.changed(state);
            let (item, tag) = M::split(entry);
            return Ok((run.position, item, tag));
        }
        let mut state = lock(&self.state);
        let run = shard.evict(from, or_any, &mut state.evicting)?;
        let entry = state.evicting.pop().ok_or(PopError::Empty)?;
        state.evicted += 1;
        if !mutated("evict_unresolved") {
            state.frontiers[shard.index].resolve(run.position, run.position + 1);
        }
        if tell {
            state.telling.push((shard.index, run.position));
            drop(state); // no barrier has got past it
        } else {
            self.changed(state);
        }
        let (item, tag) = M::split(entry);
        Ok((run.position, item, tag))
    }

    /// Whoever was to know of an item evicted from that shard was told; `panics` of the calls
    /// panicked.
    pub fn told(&self, shard: usize, position: u64, panics: u64) {
        let mut state = lock(&self.state);
        state.telling.retain(|telling| *telling != (shard, position));
        state.counts.callback_panics += panics;
        self.changed(state);
    }

    /// Up to where every item of a shard has met its fate.
    pub fn resolved(&self, shard: usize) -> u64 {
        lock(&self.state).frontiers[shard].resolved
    }

    pub(super) fn wait_for<R>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&State<T, M>) -> Option<R>,
    ) -> Option<R> {
        let mut state = lock(&self.state);
        state.waiting += 1;
        let found = loop {
            if let Some(found) = look(&state) {
                break Some(found);
            }
            state = match until {
                None => wait(&self.changed, state),
                Some(until) => {
                    let left = until.saturating_duration_since(self.clock.now());
                    if left == Duration::ZERO {
                        break None;
                    }
                    wait_timeout(&self.changed, state, left)
                }
            };
        };
        state.waiting -= 1;
        found
    }

    /// Lets go of the lock and wakes whoever waits for a change.
    pub(super) fn changed(&self, mut state: MutexGuard<'_, State<T, M>>) {
        let tasks = if state.tasks.is_empty() { Vec::new() } else { state.take_resolved() };
        let waiting = state.waiting > 0;
        drop(state);
        if mutated("settle_no_notify") {
            return;
        }
        if waiting {
            self.changed.notify_all();
        }
        for task in tasks {
            let _ = guarded(|| task.waker.wake()); // the caller's code: not under the lock
        }
    }
}
