//! An engine's parts, as the builder puts them together, without its threads.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::internals::{
    Admission, Bounds, Buffer, Clock, Common, Former, Gate, Ledger, OwnedRings, Permit, Permits,
    Policy, Retries, Shard, Shared, Triggers, Work, Writer, producer, unplaced,
};
use sluicegate::ring::{Barrier, Ring};
use sluicegate::{AddError, Batch, BoxError, FlushWhen, Mode, OnFailure, Plain, Retry, Sink};

use crate::{Item, block_on};

pub type Parts = Arc<Shared<Item>>;

/// What an engine does when its sink fails: nothing, unless a model says otherwise.
#[derive(Default)]
pub struct Failing {
    pub retry: Option<Retry>,
    pub bisect: bool,
    pub on_failure: OnFailure,
    pub permits: Permits,
    /// The real one unless a model moves the time.
    pub clock: Clock,
    /// Shards besides the first one, and what they do for one another.
    pub more_shards: usize,
    pub one_key: bool,
    pub follows: bool,
    pub overflows: bool,
    pub steals: bool,
    /// Slots of each ring that a producer owns, of which there may be a few; none at 0.
    pub owned_depth: usize,
}

/// Rings that producers of a shard may own.
const OWNED_MAX: usize = 4;

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
    make(queue_depth, max_batch_size, flushers, admission, Failing::default())
}

/// As [`parts`], for a sink that fails.
pub fn failing(
    queue_depth: usize,
    max_batch_size: usize,
    flushers: usize,
    failing: Failing,
) -> Parts {
    make::<Plain>(queue_depth, max_batch_size, flushers, Admission::default(), failing)
}

/// As [`parts_with`], with everything that a model may choose.
pub fn make<M: Mode<Item>>(
    queue_depth: usize,
    max_batch_size: usize,
    flushers: usize,
    admission: Admission<Item>,
    failing: Failing,
) -> Arc<Shared<Item, M>> {
    let Failing { retry, bisect, on_failure, permits, clock, .. } = failing;
    let Failing { more_shards, one_key, follows, overflows, steals, owned_depth, .. } = failing;
    let shards = 1 + more_shards;
    let now = clock.now();
    let triggers = Triggers {
        max_batch_size,
        max_batch_bytes: None,
        max_batch_delay: None,
        flush_when: FlushWhen::Due,
    };
    let common = Common::new(1, admission, clock.clone(), shards, overflows);
    let shard = |index| {
        let ring = Ring::new(queue_depth).expect("a power of two");
        let former = Former::new(triggers.clone(), None, now).of_shard(index, shards);
        let owned = (owned_depth != 0).then(|| {
            let slots_max = OWNED_MAX * owned_depth;
            OwnedRings::new(owned_depth, slots_max, Barrier::Fences, clock.clone())
        });
        Arc::new(Shard::new(index, &common, ring, former).with_owned(owned))
    };
    let bounds = Bounds { items: queue_depth as u64, bytes: u64::MAX, batch: queue_depth as u64 };
    let retries = Retries::new(on_failure, bounds, None).together(steals);
    let gate = Gate::new(&permits, retry.as_ref(), now);
    let mut policy = Policy::new(Some(0)); // a model must run the same way each time
    (policy.retry, policy.bisect, policy.on_failure) = (retry, bisect, on_failure);
    policy.key = one_key.then(|| Arc::new(|_: &Item| 0_u64) as _);
    Arc::new(Shared {
        shards: (0..shards).map(shard).collect(),
        flushers_each: flushers / shards,
        placed: unplaced(shards),
        follows,
        overflows,
        steals,
        ledger: Ledger::new(flushers, queue_depth, queue_depth, retries, gate, clock)
            .with_shards(shards),
        on_failed: None,
        on_dropped: None,
        dead: None,
        write_timeout: Duration::from_secs(10),
        expiry: None,
        policy,
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
pub fn collect<M: Mode<Item>>(parts: &Shared<Item, M>) -> Option<Batch<Item>> {
    next(parts).map(|(work, _)| work.batch)
}

/// What a flusher writes next.
pub fn next<M: Mode<Item>>(parts: &Shared<Item, M>) -> Option<(Work<Item, M>, Permit)> {
    next_of(parts, 0)
}

/// As [`next`], for a flusher of that shard.
pub fn next_of<M: Mode<Item>>(
    parts: &Shared<Item, M>,
    shard: usize,
) -> Option<(Work<Item, M>, Permit)> {
    let shard = &parts.shards[shard];
    let mut lease = shard.lease.lock().expect("not poisoned");
    parts.next(shard, &mut lease, &mut Buffer::default())
}

/// Writes; false when the flusher is to end.
pub fn write<M: Mode<Item>, S: Sink<Item>>(
    parts: &Shared<Item, M>,
    writer: &mut Writer<S>,
    (work, permit): (Work<Item, M>, Permit),
) -> bool {
    let reopen = || -> Result<S, BoxError> { Err("the sinks of models do not panic".into()) };
    writer.flush(parts, work, permit, &reopen).is_some()
}

/// What a flusher's thread does: collects and writes until there is nothing more.
pub fn serve<M: Mode<Item>, S: Sink<Item>>(parts: &Shared<Item, M>, writer: &mut Writer<S>) {
    let shard = parts.served_by(writer.flusher()).index;
    while let Some(work) = next_of(parts, shard) {
        if !write(parts, writer, work) {
            return;
        }
    }
}
