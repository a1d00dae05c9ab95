//! A flusher with nothing to do helps a neighbour: it takes a batch of a shard whose own flushers
//! are all in their sinks.
//!
//! It forms the batch under the neighbour's lease, as a flusher of that shard would, so order and
//! accounts are the neighbour's. It only tries the lock: it holds its own lease meanwhile.
//!
//! **Who is asleep is called**: by a flusher that leaves a full batch behind when it turns to its
//! sink, and by a producer that finds the ring full. Who is awake and sees items that nobody
//! collects, not yet enough for a batch, looks again a millisecond later.

use std::time::{Duration, Instant};

use super::Shared;
use super::gate::Permit;
use super::next::Look;
use super::shard::{Lease, Shard};
use super::work::Work;
use crate::collect::Buffer;
use crate::mode::Mode;
use crate::sync::try_lock;

/// Between two looks at a neighbour that has items and nobody who collects them.
const AGAIN: Duration = Duration::from_millis(1);

/// What a look at the neighbours has brought.
#[allow(clippy::large_enum_variant)] // moved once a batch; a box would be an allocation
pub enum Stolen<T, M: Mode<T>> {
    /// Write this.
    Work(Work<T, M>, Permit),
    /// Nothing; look again then.
    Nothing { again: Option<Instant> },
}

impl<T, M: Mode<T>> Shared<T, M> {
    /// A batch of a neighbour, for a flusher of `shard` that has nothing to do.
    pub fn steal(
        &self,
        shard: &Shard<T, M>,
        lease: &Lease<T, M>,
        buffer: &mut Buffer<T, M>,
    ) -> Stolen<T, M> {
        let idle = || shard.ring.pushed() <= lease.former.first();
        let mut again = None;
        if !self.steals || !idle() {
            return Stolen::Nothing { again };
        }
        for other in self.near(shard) {
            if other.oldest().is_none() {
                continue;
            }
            let Some(mut theirs) = try_lock(&other.lease) else {
                // Whoever sleeps there is about to collect. Who is awake may leave a batch behind,
                // and not see this flusher asleep yet.
                if !other.wake.is_waited_for() {
                    again = Some(shard.clock.now() + AGAIN);
                }
                continue;
            };
            if other.ring.pushed() <= theirs.former.first() {
                continue;
            }
            let found = self.collect(other, &mut theirs, buffer);
            drop(theirs);
            other.lease_is_free();
            if let Some((work, permit)) = found {
                self.ledger.stolen.count();
                return Stolen::Work(work, permit);
            }
            again = Some(shard.clock.now() + AGAIN);
        }
        Stolen::Nothing { again }
    }

    fn collect(
        &self,
        shard: &Shard<T, M>,
        lease: &mut Lease<T, M>,
        buffer: &mut Buffer<T, M>,
    ) -> Option<(Work<T, M>, Permit)> {
        loop {
            match self.look(shard, lease, buffer, false) {
                Look::Work(work, permit) => return Some((work, permit)),
                Look::Progress => {}
                _ => return None,
            }
        }
    }

    /// A flusher turns to its sink; who could help is called if another full batch waits already.
    pub fn leave_to_others(&self, shard: &Shard<T, M>) {
        if self.steals && shard.ring.len() >= shard.batch_size() {
            self.call(shard, |other| other.wake.is_waited_for());
        }
    }

    /// A producer finds the ring full; who could help is called.
    pub fn call_for_help(&self, shard: &Shard<T, M>) {
        if self.steals {
            self.call(shard, |_| true);
        }
    }

    fn call(&self, shard: &Shard<T, M>, is_called: impl Fn(&Shard<T, M>) -> bool) {
        for other in self.near(shard).filter(|other| is_called(other)) {
            other.wake.alarm(&other.ring);
        }
    }
}
