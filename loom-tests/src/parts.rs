//! An engine's parts, as the builder puts them together, without its threads.

use std::sync::Arc;
use std::time::Instant;

use sluicegate::internals::{
    Admission, Buffer, Clock, Formed, Former, Ledger, Node, Shared, Triggers, Writer, producer,
};
use sluicegate::ring::Ring;
use sluicegate::{AddError, Batch, BoxError, FlushWhen, Mode, Sink};

use crate::{Item, block_on};

pub type Parts = Arc<Shared<Item>>;

/// The parts of an engine. No trigger but size, flush and closing, so nothing depends on the clock:
/// it only stamps.
///
/// The clock is the real one: with a test clock a full queue is an error at once, for there is no
/// flusher to wait for.
pub fn parts(queue_depth: usize, max_batch_size: usize, flushers: usize) -> Parts {
    parts_with(queue_depth, max_batch_size, flushers, Admission::default())
}

/// As [`parts`], plain or tracked, with more to pass at the door.
pub fn parts_with<M: Mode<Item>>(
    queue_depth: usize,
    max_batch_size: usize,
    flushers: usize,
    admission: Admission<Item>,
) -> Arc<Shared<Item, M>> {
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
        node: Node::new(1, ring, former, admission, clock.clone()),
        ledger: Ledger::new(flushers, queue_depth, queue_depth, clock),
        on_failed: None,
        on_dropped: None,
        expiry: None,
    })
}

/// Adds, waiting for room; the item back if the engine was closed.
pub fn add<M: Mode<Item>>(parts: &Arc<Shared<Item, M>>, item: Item) -> Result<(), Item> {
    or_back(producer(Arc::clone(parts)).add(item))
}

/// As [`add`], for a task that is polled until it is ready.
pub fn add_async<M: Mode<Item>>(parts: &Arc<Shared<Item, M>>, item: Item) -> Result<(), Item> {
    or_back(block_on(producer(Arc::clone(parts)).add_async(item)))
}

fn or_back(added: Result<(), AddError<Item>>) -> Result<(), Item> {
    match added {
        Ok(()) => Ok(()),
        Err(AddError::Closed(item)) => Err(item),
        Err(other) => panic!("{other:?}"),
    }
}

/// The next batch, collected under the lease; `None` when there will be no more.
pub fn collect(parts: &Parts) -> Option<Batch<Item>> {
    form(parts).map(|formed| formed.batch)
}

/// As [`collect`], with the tags of its items.
pub fn form<M: Mode<Item>>(parts: &Shared<Item, M>) -> Option<Formed<Item, M>> {
    let mut lease = parts.node.lease.lock().expect("not poisoned");
    parts.node.collect(&mut lease, &mut Buffer::default())
}

/// What a flusher's thread does: collects and writes until there is nothing more.
pub fn serve<M: Mode<Item>, S: Sink<Item>>(parts: &Shared<Item, M>, writer: &mut Writer<S>) {
    let reopen = || -> Result<S, BoxError> { Err("the sinks of models do not panic".into()) };
    while let Some(formed) = form(parts) {
        if writer.flush(parts, formed, &reopen).is_none() {
            return;
        }
    }
}
