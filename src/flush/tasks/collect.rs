//! Collecting as a task: the lease is waited for, and news of the ring, without holding up the
//! writes in flight.
//!
//! The futures here may be dropped at any await: the lease is given on, and the flusher has got up.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use tokio::task::unconstrained;

use crate::collect::Buffer;
use crate::flush::gate::Permit;
use crate::flush::next::Look;
use crate::flush::shard::{STALL_SLEEP, earlier};
use crate::flush::steal::Stolen;
use crate::flush::work::Work;
use crate::flush::{Lease, Shard, Shared};
use crate::mode::Mode;
use crate::sink::Flusher;
use crate::sync::{Backoff, MutexGuard};
use crate::wait::Want;

/// The collect lease in a task's hands; whoever waits for it hears when it is given on.
struct Held<'a, T, M: Mode<T>> {
    shard: &'a Shard<T, M>,
    lease: Option<MutexGuard<'a, Lease<T, M>>>,
}

impl<T, M: Mode<T>> Drop for Held<'_, T, M> {
    fn drop(&mut self) {
        match self.lease.take() {
            Some(lease) if !self.shard.forked() => self.shard.bell.unlock(lease),
            _ => {}
        }
    }
}

/// As [`Shared::next`], for a task.
pub async fn next<T, M: Mode<T>>(
    shared: &Shared<T, M>,
    flusher: Flusher,
    buffer: &mut Buffer<T, M>,
) -> Option<(Work<T, M>, Permit)> {
    let shard = shared.served_by(flusher);
    let mut held = lease(shard, flusher).await;
    let lease: &mut Lease<T, M> = held.lease.as_mut()?;
    let mut backoff = Backoff::default();
    let found = loop {
        match shared.look(shard, lease, buffer, false) {
            Look::Work(work, permit) => break (work, permit),
            Look::Done => return shared.last_help(shard, lease, buffer),
            Look::Progress => backoff = Backoff::default(),
            Look::Wait { position, alarm, alarms, until: _ } => {
                let alarm = match shared.steal(shard, lease, buffer) {
                    Stolen::Work(work, permit) => return Some((work, permit)),
                    Stolen::Nothing { again } => earlier(alarm, again),
                };
                wait(shard, lease, position, alarm, alarms).await;
            }
            Look::Held { until, alarms } => {
                let until = shard.doze_held(until, shard.clock.now());
                if park(shard, Want::Alarm, alarms, until).await.is_some() {
                    shard.parks.count();
                }
            }
            Look::Stalled if backoff.wait() => {}
            Look::Stalled => {
                // What is overdue does not wait for the items behind a stopped producer.
                if let Look::Work(work, permit) = shared.look(shard, lease, buffer, true) {
                    return Some((work, permit));
                }
                unconstrained(tokio::time::sleep(STALL_SLEEP)).await;
            }
        }
    };
    drop(held); // who is called finds the lease free
    shared.leave_to_others(shard);
    Some(found)
}

/// Waits for the lease: see [`Bell`](crate::wait::Bell).
async fn lease<T, M: Mode<T>>(shard: &Shard<T, M>, flusher: Flusher) -> Held<'_, T, M> {
    let lease = poll_fn(|cx| match shard.wake.stopped() {
        true => Poll::Ready(None), // who holds it may never let go
        false => shard.bell.poll_lock(&shard.lease, flusher.index, cx).map(Some),
    });
    Held { shard, lease: lease.await }
}

/// As [`Shard::wait`], but asleep at once: the futures in flight have the thread meanwhile.
async fn wait<T, M: Mode<T>>(
    shard: &Shard<T, M>,
    lease: &mut Lease<T, M>,
    position: u64,
    alarm: Option<Instant>,
    alarms: u64,
) {
    let former = &mut lease.former;
    let first = former.first();
    let (position, until) = shard.doze(former, position, alarm, shard.clock.now());
    if let Some(stamp) = park(shard, Want::Items { first, position }, alarms, until).await {
        shard.woken(former, position, stamp);
    }
}

/// As [`Wake::park`](crate::wait::Wake::park), for a task.
async fn park<T, M: Mode<T>>(
    shard: &Shard<T, M>,
    want: Want,
    alarms: u64,
    until: Option<Instant>,
) -> Option<Instant> {
    let mut parking = shard.wake.parking(&shard.ring, shard.beside(), want, alarms);
    let time = |until: Instant| unconstrained(tokio::time::sleep_until(until.into()));
    let mut time = pin!(until.map(time));
    poll_fn(|cx| {
        if let Poll::Ready(stamp) = parking.poll(cx) {
            return Poll::Ready(stamp);
        }
        match time.as_mut().as_pin_mut().map(|time| time.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(parking.get_up()),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    })
    .await
}
