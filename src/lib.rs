//! Sluicegate takes single items from many threads, holds them a bounded time, hands them to a sink
//! in batches, and accounts for every one.
//!
//! | room | what is in it |
//! |---|---|
//! | [`Batcher`], [`Builder`], [`Producer`], [`Shutdown`] | the engine |
//! | [`Sink`], [`sink`] | where batches go: the trait, a closure, files, nowhere |
//! | [`Pump`], [`TestClock`] | the engine without threads, for tests of time |
//! | [`Stats`], [`Tally`] | where the items are |
//! | [`ring`] | the queue alone |

#![cfg_attr(any(loom, shuttle), allow(missing_docs, missing_debug_implementations))]

mod batch;
mod clock;
mod collect;
mod config;
mod engine;
mod error;
mod flush;
mod guard;
#[allow(unsafe_code)]
pub mod ring;
pub mod sink;
mod sync;
mod telemetry;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod testing;
mod wait;

pub use batch::{Batch, BatchId, FlushReason};
pub use clock::TestClock;
pub use config::{ConfigError, FlushWhen};
pub use engine::{Batcher, Builder, LeftBehind, Producer, Pump, PumpStep, Shutdown, Stuck};
pub use error::{AddError, AddManyError, AddReason, FlushError, SpawnError};
pub use flush::FailedItem;
pub use sink::{
    Applied, BoxError, Class, Flusher, Sink, SinkFactory, SinkLimits, WriteContext, WriteError,
};
pub use telemetry::{DurationSummary, FlushReasons, Stats, Summary, Tally};

/// The protocols' parts, for the models in `loom-tests/` alone.
#[cfg(any(loom, shuttle))]
#[doc(hidden)]
pub mod internals {
    pub use crate::clock::Clock;
    pub use crate::collect::{Former, Triggers};
    pub use crate::flush::{Activity, Ledger, Node, Resolution, Shared, Turn, Writer};
    pub use crate::wait::{WaitList, Wake};

    /// A handle on parts that a model has put together.
    pub fn producer<T>(shared: std::sync::Arc<Shared<T>>) -> crate::Producer<T> {
        crate::Producer::new(shared)
    }

    /// A name for a flusher.
    pub fn flusher(index: usize) -> crate::Flusher {
        crate::Flusher { index }
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
