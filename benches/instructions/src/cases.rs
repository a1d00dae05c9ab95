//! What is counted. A case calls one operation often; what it takes to prepare and to check that is
//! outside of [`measured`], and so is not counted.

use std::time::Duration;

use counting::measured::measured;
use sluicegate::ring::Ring;
use sluicegate::sink::NullSink;
use sluicegate::{AddManyError, Batcher, Builder, OwnedProducer, Pump, PumpStep, TestClock};

type Engine<T> = Pump<T, NullSink>;
/// An item as long as a cache line.
type Wide = [u64; 8];

/// A name, and what to do with so many items (or steps): a power of two, and a batch at least.
type Case = (&'static str, fn(usize));

/// One line adds a case; then the baseline is to be renewed. Nothing else calls `add` or `try_add`,
/// so that the compiler may do with them what it does in a program with one such place.
pub const CASES: [Case; 12] = [
    ("add", |n| singly(n, engine(n), Engine::producer, |to, item: u64| to.add(item).is_ok())),
    ("add_wide", |n| singly(n, engine(n), Engine::producer, |to, item: Wide| to.add(item).is_ok())),
    ("owned_add", |n| singly(n, owning(n), owner, |to, item: u64| to.add(item).is_ok())),
    ("try_add", |n| {
        singly(n, engine(n), Engine::producer, |to, item: u64| to.try_add(item).is_ok())
    }),
    ("add_many_64", in_runs::<u64>),
    ("add_many_64_wide", in_runs::<Wide>),
    ("drain_512", drain::<u64>),
    ("drain_512_wide", drain::<Wide>),
    ("turn_512", |n| turn(n, engine(n), |engine, items| engine.producer().add_many(items))),
    ("owned_turn_512", |n| turn(n, owning(n), |engine, items| owner(engine).add_many(items))),
    ("turn_1", alone),
    ("idle_step", idle),
];

const RUN: usize = 64;
const BATCH: usize = 512;

/// One item after the other; `producer` makes what adds.
fn singly<T: Item, P>(
    items: usize,
    engine: Engine<T>,
    producer: impl FnOnce(&Engine<T>) -> P,
    add: impl Fn(&mut P, T) -> bool,
) {
    let mut producer = producer(&engine);
    for number in 0..items {
        let item = T::of(number);
        assert!(measured(|| add(&mut producer, item)), "there is room");
    }
    assert_eq!(engine.tally().enqueued, items as u64);
}

fn in_runs<T: Item>(items: usize) {
    let engine = engine::<T>(items);
    let producer = engine.producer();
    let mut run = Vec::with_capacity(RUN);
    for first in (0..items).step_by(RUN) {
        run.extend((first..first + RUN).map(T::of));
        assert_eq!(measured(|| producer.add_many(&mut run)), Ok(RUN));
    }
    assert_eq!(engine.tally().enqueued, items as u64);
}

/// A batch out of the ring, by itself.
fn drain<T: Item>(items: usize) {
    let ring = Ring::new(items).expect("a valid capacity");
    assert_eq!(ring.try_push_run(&mut (0..items).map(T::of).collect()), Ok(items));
    let mut out = Vec::with_capacity(BATCH);
    for _ in (0..items).step_by(BATCH) {
        out.clear();
        assert_eq!(measured(|| ring.try_pop_run(&mut out, BATCH)), Ok(BATCH));
    }
}

/// A batch from the ring to the sink, with all accounts.
fn turn(
    items: usize,
    mut engine: Engine<u64>,
    add: impl FnOnce(&Engine<u64>, &mut Vec<u64>) -> Result<usize, AddManyError>,
) {
    assert_eq!(add(&engine, &mut (0..items).map(Item::of).collect()), Ok(items));
    for _ in (0..items).step_by(BATCH) {
        let step = measured(|| engine.step());
        assert!(matches!(step, PumpStep::Wrote { items: BATCH, .. }), "{step:?}");
    }
    assert_eq!(engine.tally().flushed_ok, items as u64);
}

/// A batch of one, which is mostly what a batch costs by itself.
fn alone(items: usize) {
    let mut engine: Engine<u64> = started(builder(items).max_batch_size(1));
    let producer = engine.producer();
    for number in 0..items {
        assert!(producer.add_many(&mut vec![u64::of(number)]).is_ok());
        let step = measured(|| engine.step());
        assert!(matches!(step, PumpStep::Wrote { items: 1, .. }), "{step:?}");
    }
    assert_eq!(engine.tally().flushed_ok, items as u64);
}

/// A producer with a ring of its own.
fn owner(engine: &Engine<u64>) -> OwnedProducer<u64> {
    engine.owned_producer().expect("there are slots for one")
}

/// A look of a flusher that finds nothing to do.
fn idle(steps: usize) {
    let mut engine = engine::<u64>(BATCH);
    for _ in 0..steps {
        assert_eq!(measured(|| engine.step()), PumpStep::Idle);
    }
}

/// One that has room for so many.
fn engine<T: Item>(items: usize) -> Engine<T> {
    started(builder(items))
}

/// One of which a producer may own a ring of so many slots.
fn owning(items: usize) -> Engine<u64> {
    started(builder(items).owned_depth(items))
}

/// The delay is of whole seconds: the sum of other times has a carry or has none, as the time of the
/// start will have it.
fn builder<T: Item>(items: usize) -> Builder<T> {
    Batcher::builder()
        .queue_depth(items)
        .max_batch_size(BATCH)
        .max_batch_delay(Duration::from_secs(1))
}

fn started<T: Item>(builder: Builder<T>) -> Engine<T> {
    builder.pump(NullSink, TestClock::new()).expect("the configuration is valid")
}

trait Item: Send + 'static {
    fn of(number: usize) -> Self;
}

impl Item for u64 {
    fn of(number: usize) -> Self {
        number as u64
    }
}

impl Item for Wide {
    fn of(number: usize) -> Self {
        [number as u64; 8]
    }
}
