//! Sluicegate takes single items from many threads, holds them a bounded time, hands them to a sink
//! in batches, and accounts for every one.
//!
//! | room | what is in it |
//! |---|---|
//! | [`Batcher`], [`Builder`], [`Producer`], [`Shutdown`] | the engine |
//! | [`Sink`], [`sink`] | where batches go: the trait, a closure, files, nowhere |
//! | [`Dead`], [`sink::DeadLetterFile`] | what the sink will never take, and a file for it |
//! | [`Pump`], [`TestClock`] | the engine without threads, for tests of time |
//! | [`Stats`], [`Tally`] | where the items are |
//! | [`placement`] | which node gets a ring, and where flushers run |
//! | [`ring`] | the queue alone |
#![cfg_attr(
    all(feature = "testing", not(any(loom, shuttle))),
    doc = "| [`testing`] | for tests of sinks, and of what is built on them |"
)]
#![cfg_attr(
    all(feature = "tokio", not(any(loom, shuttle))),
    doc = "| [`AsyncSink`], [`sink::from_async_fn`] | where batches go, as a task |"
)]
#![cfg_attr(any(loom, shuttle), allow(missing_docs, missing_debug_implementations))]

mod ack;
mod batch;
mod clock;
mod collect;
mod config;
mod engine;
mod error;
mod flush;
mod guard;
mod json;
mod mode;
pub mod placement;
#[allow(unsafe_code)]
pub mod ring;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod seeded;
pub mod sink;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
#[cfg(not(any(loom, shuttle)))]
pub mod testing;
mod wait;

pub use ack::{Ack, AckError, AckReason, Receipt};
pub use batch::{Batch, BatchId, FlushReason};
pub use clock::TestClock;
pub use config::{ConfigError, DropReason, FlushWhen, Home, OnFailure, Overflow, WhenFull};
#[cfg(feature = "futures")]
pub use engine::AddSink;
pub use engine::{
    AddAsync, AddWithAckAsync, Batcher, Builder, FlushAsync, LeftBehind, OwnedProducer, Producer,
    Pump, PumpStep, Shutdown, ShutdownAsync, Stuck,
};
pub use error::{AddError, AddManyError, AddReason, FlushError, OwnedError, SpawnError};
pub use flush::{
    Adaptive, Breaker, BreakerState, DroppedItem, FailedItem, Retry, Throttle, WhileOpen,
};

pub use mode::{Mode, Plain, Tracked};
pub use placement::{Pin, Shards};
pub use sink::{
    Applied, BoxError, Class, Dead, Flusher, Sink, SinkFactory, SinkLimits, WriteContext,
    WriteError,
};
#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
pub use sink::{AsyncContext, AsyncSink, AsyncSinkFactory};
pub use telemetry::{Drops, DurationSummary, FlushReasons, Phases, Stats, Summary, Tally};

/// The protocols' parts, for the models in `loom-tests/` alone.
#[cfg(any(loom, shuttle))]
#[doc(hidden)]
pub mod internals {
    pub use crate::ack::{Promise, promise};
    pub use crate::clock::Clock;
    pub use crate::collect::{Buffer, Formed, Former, Triggers, Weight};
    pub use crate::flush::{
        Admission, Bounds, Common, Gate, Lease, Ledger, OwnedRings, Permit, Permits, Policy,
        Resolution, Retries, Seat, Shard, Shared, Work, Writer,
    };
    pub use crate::ring::front::Front;
    pub use crate::ring::owned::{Closing, OwnedRing, Owner};
    pub use crate::ring::push::Push;
    pub use crate::wait::{Bell, Budget, Charge, Parking, WaitList, Waiter, Wake, Want};

    /// A handle on parts that a model has put together.
    pub fn producer<T: Send + 'static, M: crate::mode::Mode<T>>(
        shared: std::sync::Arc<Shared<T, M>>,
    ) -> crate::Producer<T, M> {
        crate::Producer::new(shared)
    }

    /// A handle with a ring of its own.
    pub fn owned_producer<T: Send + 'static, M: crate::mode::Mode<T>>(
        shared: &std::sync::Arc<Shared<T, M>>,
    ) -> crate::OwnedProducer<T, M> {
        match crate::OwnedProducer::new(shared) {
            Ok(producer) => producer,
            Err(error) => panic!("{error}"),
        }
    }

    /// As many nodes as shards; each has the CPU of its number.
    pub fn unplaced(shards: usize) -> crate::placement::Placed {
        use crate::placement::{Cpu, Machine, NumaNode, Options, Placed, Topology};
        let numbers = || (0..shards).filter_map(|number| u32::try_from(number).ok());
        let topology = Topology::builder()
            .nodes(numbers().map(|node| NumaNode::new(node, None)))
            .cpus(numbers().map(|cpu| Cpu::new(cpu, cpu)))
            .build();
        Placed::new(Machine::of("none", topology), &Options::default())
    }

    pub use crate::placement::seem_on_cpu;

    /// A seat for a flusher.
    pub fn seat(index: usize) -> Seat {
        Seat::first(crate::Flusher { index }, 1)
    }

    /// Takes one published item into the forming batch, as a flusher does that finds no more.
    pub fn drain_one<T, M: crate::mode::Mode<T>>(shard: &Shard<T, M>, lease: &mut Lease<T, M>) {
        let drained = lease.former.fill(|entries| shard.ring.pop_run(entries, 1));
        assert!(drained.is_ok(), "nothing is published");
    }

    /// Ring position of a batch's first item.
    pub fn position<T>(batch: &crate::Batch<T>) -> u64 {
        batch.position
    }
}

/// Keeps the README's example true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
