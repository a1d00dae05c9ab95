//! An engine's parts, as the builder puts them together, without its threads.

use std::sync::Arc;
use std::time::Instant;

use sluicegate::internals::{Clock, Former, Ledger, Node, Shared, Triggers, Writer, producer};
use sluicegate::ring::Ring;
use sluicegate::{AddError, Batch, BoxError, FlushWhen, Producer, Sink};

use crate::Item;

pub type Parts = Arc<Shared<Item>>;

/// The parts of an engine. No trigger but size, flush and closing, so nothing depends on the clock:
/// it only stamps.
///
/// The clock is the real one: with a test clock a full queue is an error at once, for there is no
/// flusher to wait for.
pub fn parts(queue_depth: usize, max_batch_size: usize, flushers: usize) -> Parts {
    let clock = Clock::Monotonic;
    let triggers = Triggers {
        max_batch_size,
        max_batch_bytes: None,
        max_batch_delay: None,
        flush_when: FlushWhen::Due,
    };
    let ring = Ring::new(queue_depth).expect("a power of two");
    let former = Former::new(triggers, None, Instant::now());
    Arc::new(Shared {
        node: Node::new(1, ring, former, clock.clone()),
        ledger: Ledger::new(flushers, queue_depth, queue_depth, clock),
        on_failed: None,
    })
}

/// Adds, waiting for room; the item back if the engine was closed.
pub fn add(parts: &Parts, item: Item) -> Result<(), Item> {
    let producer: Producer<Item> = producer(Arc::clone(parts));
    match producer.add(item) {
        Ok(()) => Ok(()),
        Err(AddError::Closed(item)) => Err(item),
        Err(other) => panic!("{other:?}"),
    }
}

/// The next batch, collected under the lease; `None` when there will be no more.
pub fn collect(parts: &Parts) -> Option<Batch<Item>> {
    let mut lease = parts.node.lease.lock().expect("not poisoned");
    parts.node.collect(&mut lease, &mut Vec::new())
}

/// What a flusher's thread does: collects and writes until there is nothing more.
pub fn serve<S: Sink<Item>>(parts: &Parts, writer: &mut Writer<S>) {
    let reopen = || -> Result<S, BoxError> { Err("the sinks of models do not panic".into()) };
    while let Some(batch) = collect(parts) {
        if writer.flush(parts, batch, &reopen).is_none() {
            return;
        }
    }
}
