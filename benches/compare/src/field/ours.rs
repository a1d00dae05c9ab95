//! Sluicegate itself: the engine, and its ring alone.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluicegate::ring::{PushError, Ring};
use sluicegate::{Batch, Batcher, Builder, FlushWhen, Producer, WriteContext, WriteError, sink};

use super::name;
use crate::contestant::{BATCH, Item, Kind, Outcome, Peer, Shape, Work, fold};
use crate::race::{insist, poll, race, singly, start};

const LONG: Duration = Duration::from_secs(600);
const PACKAGE: Option<&str> = Some("sluicegate");

/// The engine, one item at a time.
pub struct Add;

impl Peer for Add {
    const NAME: &'static str = name::ADD;
    const PACKAGE: Option<&'static str> = PACKAGE;
    const KIND: Kind = Kind::Ours;
    const USAGE: &'static str = "`Producer::add`; a sink that folds";

    fn run<T: Item>(work: &Work) -> Outcome {
        folded(work, |producer| {
            singly(move |item: T| producer.add(item).expect("the engine is open"))
        })
    }
}

/// The engine, 64 items at a time.
pub struct AddMany;

impl Peer for AddMany {
    const NAME: &'static str = name::ADD_MANY;
    const PACKAGE: Option<&'static str> = PACKAGE;
    const KIND: Kind = Kind::InRuns;
    const USAGE: &'static str = "`Producer::add_many` with 64 items; a sink that folds";

    fn run<T: Item>(work: &Work) -> Outcome {
        folded(work, |producer: Producer<T>| {
            move |share: Range<u64>| {
                let mut run = Vec::with_capacity(64);
                for from in share.clone().step_by(64) {
                    run.extend((from..share.end.min(from + 64)).map(T::of));
                    producer.add_many(&mut run).expect("the engine is open");
                }
            }
        })
    }
}

/// The engine with a ring for each producer, one item at a time. The capacity is shared out.
pub struct Owned;

impl Peer for Owned {
    const NAME: &'static str = name::OWNED;
    const PACKAGE: Option<&'static str> = PACKAGE;
    const KIND: Kind = Kind::Ours;
    const SHARED: bool = false;
    const USAGE: &'static str = "`OwnedProducer::add`; a sink that folds";

    fn run<T: Item>(work: &Work) -> Outcome {
        let Shape { producers, depth, .. } = work.shape;
        let builder = builder(work).owned_depth(depth / producers.next_power_of_two());
        folded_by(work, builder, |batcher| {
            let mut producer = batcher.owned_producer().expect("the slots are shared out");
            singly(move |item: T| producer.add(item).expect("the engine is open"))
        })
    }
}

/// The engine alone: triggers, stats, and a sink that does nothing.
pub struct Null;

impl Peer for Null {
    const NAME: &'static str = name::NULL;
    const PACKAGE: Option<&'static str> = PACKAGE;
    const KIND: Kind = Kind::Ours;
    const USAGE: &'static str =
        "`Producer::add`; `NullSink`, so the tally counts and no sum is had";

    fn run<T: Item>(work: &Work) -> Outcome {
        let spawned = builder::<T>(work).spawn(|_| Ok::<_, WriteError>(sink::NullSink));
        let batcher = spawned.expect("the configuration is valid");
        let (seconds, count) = through(work, batcher, |batcher| {
            let producer = batcher.producer();
            singly(move |item| producer.add(item).expect("the engine is open"))
        });
        Outcome { seconds, count, sum: None }
    }
}

/// The ring without the engine.
pub struct Bare;

impl Peer for Bare {
    const NAME: &'static str = name::RING;
    const PACKAGE: Option<&'static str> = PACKAGE;
    const KIND: Kind = Kind::Ours;
    const USAGE: &'static str = "`Ring::try_push`, `try_pop_run`; both sides spin, then yield";

    fn run<T: Item>(work: &Work) -> Outcome {
        let ring = Ring::new(work.shape.depth).expect("a valid capacity");
        let adder = |_| {
            singly(|item: T| {
                insist(item, |item| ring.try_push(item).map_err(PushError::into_inner));
            })
        };
        race(work, work.each(adder), |batches| {
            poll(batches, |batches| batches.append(|out, room| ring.try_pop_run(out, room)).is_ok())
        })
    }
}

fn builder<T: Item>(work: &Work) -> Builder<T> {
    let flush_when = if T::PACED { FlushWhen::Idle } else { FlushWhen::Due };
    let builder = Batcher::builder().max_batch_size(BATCH).queue_depth(work.shape.depth);
    builder.flush_when(flush_when)
}

/// Through an engine whose sink folds.
fn folded<T: Item, A>(work: &Work, adder: impl Fn(Producer<T>) -> A) -> Outcome
where
    A: FnOnce(Range<u64>) + Send,
{
    folded_by(work, builder(work), |batcher| adder(batcher.producer()))
}

fn folded_by<T: Item, A>(
    work: &Work,
    builder: Builder<T>,
    adder: impl Fn(&Batcher<T>) -> A,
) -> Outcome
where
    A: FnOnce(Range<u64>) + Send,
{
    let sum = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&sum);
    let spawned = builder.spawn(move |_| {
        let total = Arc::clone(&total);
        let write = move |batch: &Batch<T>, _: &mut WriteContext<'_>| {
            batch.iter().for_each(T::arrived);
            total.fetch_add(fold(batch), Ordering::Relaxed);
            Ok(())
        };
        Ok::<_, WriteError>(sink::from_fn(write))
    });
    let batcher = spawned.expect("the configuration is valid");
    let (seconds, count) = through(work, batcher, adder);
    Outcome { seconds, count, sum: Some(sum.load(Ordering::Relaxed)) }
}

/// Seconds until the last write has returned, and the items that were flushed.
fn through<T: Item, A>(
    work: &Work,
    batcher: Batcher<T>,
    adder: impl Fn(&Batcher<T>) -> A,
) -> (f64, u64)
where
    A: FnOnce(Range<u64>) + Send,
{
    let start = start(work, work.each(|_| adder(&batcher)), || {});
    batcher.flush(LONG).expect("the sink takes everything");
    let seconds = start.elapsed().as_secs_f64();
    let report = batcher.shutdown(LONG);
    (seconds, if report.is_clean() { report.tally.flushed_ok } else { 0 })
}
