//! What a flusher does next: a work that waited and is due, or else the next fresh batch.

use std::time::Instant;

use super::Shared;
use super::gate::Permit;
use super::ledger::Agenda;
use super::shard::{Lease, STALL_SLEEP, Shard, Turn, earlier};
use super::steal::Stolen;
use super::work::Work;
use crate::collect::Buffer;
use crate::mode::Mode;
use crate::sync::{Backoff, mutated, sleep};

/// What one look has brought.
#[allow(clippy::large_enum_variant)] // moved once a batch; a box would be an allocation
pub enum Look<T, M: Mode<T>> {
    /// Write this.
    Work(Work<T, M>, Permit),
    /// Some items were taken in; go on.
    Progress,
    /// The next item is claimed and not published.
    Stalled,
    /// Nothing to do until there is that in the ring, or one of the times has come.
    Wait {
        /// Where the ring is to be claimed up to.
        position: u64,
        /// When the forming batch is due.
        until: Option<Instant>,
        /// When something else is.
        alarm: Option<Instant>,
        /// How many alarms there were before.
        alarms: u64,
    },
    /// Nothing to do until then, whatever is in the ring.
    Held { until: Option<Instant>, alarms: u64 },
    /// Nothing is left, or the engine has stopped.
    Done,
}

impl<T, M: Mode<T>> Shared<T, M> {
    /// The next thing to write, waiting for it; `None` when there will be no more. `buffer` is for
    /// the next batch's items and is taken with the batch.
    pub fn next(
        &self,
        shard: &Shard<T, M>,
        lease: &mut Lease<T, M>,
        buffer: &mut Buffer<T, M>,
    ) -> Option<(Work<T, M>, Permit)> {
        let mut backoff = Backoff::default();
        loop {
            match self.look(shard, lease, buffer, false) {
                Look::Work(work, permit) => return Some((work, permit)),
                Look::Done => return self.last_help(shard, lease, buffer),
                Look::Progress => backoff = Backoff::default(),
                Look::Wait { position, until, alarm, alarms } => {
                    let alarm = match self.steal(shard, lease, buffer) {
                        Stolen::Work(work, permit) => return Some((work, permit)),
                        Stolen::Nothing { again } => earlier(alarm, again),
                    };
                    shard.wait(lease, position, until, alarm, alarms);
                }
                Look::Held { until, alarms } => shard.wait_held(until, alarms),
                Look::Stalled if backoff.wait() => {}
                Look::Stalled => {
                    // What is overdue does not wait for the items behind a stopped producer.
                    if let Look::Work(work, permit) = self.look(shard, lease, buffer, true) {
                        return Some((work, permit));
                    }
                    sleep(STALL_SLEEP);
                }
            }
        }
    }

    /// For a flusher of which the own shard has nothing more.
    pub fn last_help(
        &self,
        shard: &Shard<T, M>,
        lease: &Lease<T, M>,
        buffer: &mut Buffer<T, M>,
    ) -> Option<(Work<T, M>, Permit)> {
        match self.steal(shard, lease, buffer) {
            Stolen::Work(work, permit) => Some((work, permit)),
            Stolen::Nothing { .. } => None,
        }
    }

    /// One look at everything; never waits.
    pub fn look(
        &self,
        shard: &Shard<T, M>,
        lease: &mut Lease<T, M>,
        buffer: &mut Buffer<T, M>,
        partial: bool,
    ) -> Look<T, M> {
        let ledger = &self.ledger;
        let alarms = shard.wake.alarms(); // first, so that none is missed
        if shard.wake.stopped() {
            return Look::Done;
        }
        let (alarm, more) = match ledger.agenda(shard.index) {
            Agenda::Take { work, permit, alarm } => {
                if alarm {
                    self.alarm();
                }
                return Look::Work(work, permit);
            }
            Agenda::Wait { until, fresh: false } => return Look::Held { until, alarms },
            Agenda::Wait { until, fresh: true } => (until, true),
            Agenda::Nothing => (None, false),
        };
        let turn = shard.turn(lease, buffer, partial, &mut |now, load| ledger.permit(now, load));
        let alarms = if mutated("alarms_late") { shard.wake.alarms() } else { alarms };
        match turn {
            Turn::Batch(formed, permit) => Look::Work(Work::fresh(formed), permit),
            Turn::Progress => Look::Progress,
            Turn::Stalled => Look::Stalled,
            Turn::Wait { position, until } => Look::Wait { position, until, alarm, alarms },
            Turn::Held { until } => Look::Held { until: earlier(until, alarm), alarms },
            Turn::Done if more && !shard.wake.stopped() && !mutated("done_though_waiting") => {
                Look::Held { until: alarm, alarms }
            }
            Turn::Done => Look::Done,
        }
    }
}
