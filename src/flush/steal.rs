//! A flusher with nothing to do helps a neighbour: it takes a batch of a shard whose own flushers
//! are all in their sinks.
//!
//! It forms the batch under the neighbour's lease, as a flusher of that shard would, so order and
//! accounts are the neighbour's. It only tries the lock: it holds its own lease meanwhile.
//!
//! Once its own shard is closed and drained, a flusher helps for as long as there is a batch to be
//! had at once.
//!
//! **Who is asleep is called**: by a flusher that leaves a full batch behind when it turns to its
//! sink, and by a producer that finds the ring full. Who is awake and sees items that nobody
//! collects, not yet enough for a batch, looks again a millisecond later.

use std::mem;
use std::time::{Duration, Instant};

use super::Shared;
use super::gate::Permit;
use super::next::Look;
use super::shard::{Lease, Shard};
use super::work::Work;
use crate::collect::Buffer;
use crate::mode::Mode;
use crate::sync::{mutated, try_lock};

/// Between two looks at a neighbour that has items and nobody who collects them. In models never: the
/// call alone must do.
const AGAIN: Duration =
    if cfg!(any(loom, shuttle)) { Duration::from_secs(1 << 40) } else { Duration::from_millis(1) };

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
        let idle = || shard.pushed() <= lease.former.first();
        let mut again = None;
        if !self.steals || !idle() {
            return Stolen::Nothing { again };
        }
        for other in self.near(shard) {
            if other.oldest().is_none() {
                continue;
            }
            let soon = || shard.clock.now().checked_add(AGAIN);
            let Some(mut theirs) = try_lock(&other.lease) else {
                // Whoever sleeps there is about to collect. Who is awake may leave a batch behind,
                // and not see this flusher asleep yet.
                if !other.wake.is_waited_for() {
                    again = soon();
                }
                continue;
            };
            let some = other.pushed() > theirs.former.first();
            let closed = theirs.former.closed();
            let mut found = if some { self.collect(other, &mut theirs, buffer) } else { None };
            if let Some((work, _)) = &mut found
                && self.placed.lie_apart(shard.index, other.index)
            {
                // The thief takes the items into memory of its own node, and leaves theirs there.
                let items = &mut work.batch.items;
                if theirs.former.closed() == closed {
                    buffer.items.append(items); // it was waiting to be written again
                    *items = mem::take(&mut buffer.items);
                } else {
                    theirs.former.keep_buffer(items);
                }
            }
            drop(theirs);
            other.lease_is_free();
            if let Some((work, permit)) = found {
                if work.is_fresh() {
                    self.ledger.stolen.count();
                }
                return Stolen::Work(work, permit);
            }
            if some {
                again = soon();
            }
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
        if self.steals && shard.len() >= shard.batch_size() {
            self.call(shard, |other| other.wake.is_waited_for());
        }
    }

    /// A producer finds the ring full; who could help is called.
    pub fn call_for_help(&self, shard: &Shard<T, M>) {
        if self.steals && !mutated("no_call") {
            self.call(shard, |_| true);
        }
    }

    fn call(&self, shard: &Shard<T, M>, is_called: impl Fn(&Shard<T, M>) -> bool) {
        for other in self.near(shard).filter(|other| is_called(other)) {
            other.wake.alarm(&other.ring);
        }
    }
}
