//! What the tests of async sinks share: factories, counters, doors for tasks.

#![allow(dead_code)] // each file of tests uses its part

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluicegate::{
    AsyncContext, AsyncSink, AsyncSinkFactory, Batch, Batcher, Builder, Flusher, Shutdown,
    WriteError,
};
use tokio::sync::Semaphore;

use crate::common::{LONG, assert_balances, no_second_try};

pub const SHORT: Duration = Duration::from_millis(5);

/// A sink factory from an async function that every flusher's sink calls.
pub fn sinks<T: 'static, S>(sink: S) -> impl AsyncSinkFactory<T>
where
    S: AsyncSink<T> + Clone + Send + Sync + 'static,
{
    async move |_: Flusher| Ok::<_, WriteError>(sink.clone())
}

/// One batch for each item, which is written at once.
pub fn singly<T: Send + 'static>() -> Builder<T> {
    no_second_try(Batcher::builder().max_batch_size(1))
}

pub fn counter() -> Arc<AtomicU64> {
    Arc::default()
}

pub fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Counts when it is dropped.
pub struct OnDrop(pub Arc<AtomicU64>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        count(&self.0);
    }
}

/// A door for tasks, in the writes of a sink: shut until permits are added, and it knows how many
/// stand before it, and how many ever stood there at once.
#[derive(Clone)]
pub struct Door(Arc<(Semaphore, AtomicU64, AtomicU64)>);

impl Door {
    pub fn shut() -> Self {
        Self(Arc::new((Semaphore::new(0), AtomicU64::new(0), AtomicU64::new(0))))
    }

    pub async fn pass(&self) {
        let (door, here, most) = &*self.0;
        most.fetch_max(count(here), Ordering::Relaxed);
        door.acquire().await.unwrap().forget();
        here.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn here(&self) -> u64 {
        read(&self.0.1)
    }

    pub fn most(&self) -> u64 {
        read(&self.0.2)
    }

    pub fn admit(&self, writes: usize) {
        self.0.0.add_permits(writes);
    }
}

impl AsyncSink<u64> for Door {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        self.pass().await;
        Ok(())
    }
}

/// Runs what a test does with the batcher, with a bound on the whole.
pub fn shut_down<T: Send + 'static>(batcher: Batcher<T>) -> Shutdown<T> {
    let report = batcher.shutdown(LONG);
    assert_balances(&report.tally);
    assert_eq!(report.tally.in_flight, 0, "{:?}", report.tally);
    assert!(report.left_behind.is_empty(), "{:?}", report.left_behind);
    report
}

/// Never ends a write of 0; counts those that began, and those that were dropped.
#[derive(Clone)]
pub struct HangsOnZero {
    pub began: Arc<AtomicU64>,
    pub dropped: Arc<AtomicU64>,
}

impl HangsOnZero {
    pub fn new() -> Self {
        Self { began: counter(), dropped: counter() }
    }
}

impl AsyncSink<u64> for HangsOnZero {
    async fn write(&self, batch: &Batch<u64>, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        if batch[0] == 0 {
            let _dropped = OnDrop(Arc::clone(&self.dropped));
            count(&self.began);
            cx.fail(0, WriteError::permanent("marked before it hung"));
            return pending().await;
        }
        Ok(())
    }
}
