//! Flushers: each collects a batch while it holds the node's lease, passes the lease on, and
//! writes.
//!
//! ```text
//!   flusher 0   collect ─┐ write ──────────────┐ collect ─┐ …
//!   flusher 1            └ collect ─┐ write ───┼──…       └ …
//!                          (lease)             └ settle: each item meets its fate in the ledger
//! ```
//!
//! One flusher of a node collects at a time (leader), so n flushers still form full batches, in the
//! order of the ring; the batch stays in the cache of the thread that formed it (Schmidt et al.,
//! "Leader/Followers").

mod flusher;
mod ledger;
mod node;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
mod write;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use flusher::{FlusherThread, Opened};
pub use ledger::{Activity, Ledger, Resolution};
pub use node::{Lease, Node, Turn};
pub use write::Writer;

use crate::batch::BatchId;
use crate::sink::WriteError;
use crate::sync::mutated;

/// Takes failed items.
pub type OnFailed<T> = Arc<dyn Fn(FailedItem<T>) + Send + Sync>;

/// An item that the sink did not take.
pub struct FailedItem<T> {
    /// The item.
    pub item: T,
    /// Why. Items of a batch that failed as a whole share it.
    pub error: Arc<WriteError>,
    /// The batch it was in.
    pub batch: BatchId,
}

impl<T> fmt::Debug for FailedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedItem")
            .field("error", &self.error)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// What the flushers of an engine share.
pub struct Shared<T> {
    pub node: Node<T>,
    pub ledger: Ledger<T>,
    pub on_failed: Option<OnFailed<T>>,
}

impl<T> Shared<T> {
    /// The flush barrier: waits until every item added before this call has met its fate.
    pub fn flush(&self, timeout: Duration) -> Resolution {
        let Self { node, ledger, .. } = self;
        // An add that has returned is before the tail that this reads, in the one order of
        // read-modify-writes.
        let position = if mutated("flush_to_head") {
            node.ring.popped()
        } else {
            node.ring.rendezvous().position
        };
        if !mutated("flush_no_demand") {
            node.wake.demand(&node.ring, position);
        }
        ledger.wait_resolved(position, timeout)
    }
}

thread_local! {
    /// The engines whose sinks or callbacks may be running on this thread, the innermost last.
    static SERVING: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, this thread serves an engine's sinks and must not wait for that engine.
pub struct Serving;

impl Serving {
    pub fn engine(engine: u64) -> Self {
        SERVING.with_borrow_mut(|serving| serving.push(engine));
        Self
    }

    /// Whether this thread serves that engine. While the thread is being torn down, it does not.
    pub fn is(engine: u64) -> bool {
        SERVING.try_with(|serving| serving.borrow().contains(&engine)).unwrap_or(false)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = SERVING.try_with(|serving| serving.borrow_mut().pop());
    }
}
