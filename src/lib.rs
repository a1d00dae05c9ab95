//! Sluicegate takes single items from many threads, holds them a bounded time, and hands them to a sink in batches.

mod batch;
pub mod sink;

pub use batch::{Batch, BatchId, FlushReason};
pub use sink::{Applied, BoxError, Class, Flusher, Sink, SinkFactory, WriteContext, WriteError};
