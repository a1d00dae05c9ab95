//! What is meant for tasks: producers and consumer run on tokio's threads, one for each CPU.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use batch_aint_one::{Batcher, BatchingPolicy, Limits, OnFull, Processor};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Runtime;

use super::batchers::DELAY;
use crate::contestant::{BATCH, Batches, Item, Kind, Outcome, Peer, Work};

fn runtime() -> Runtime {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_time().build();
    runtime.expect("a runtime can be had")
}

fn outcome<T: Item>(start: Instant, mut batches: Batches<T>) -> Outcome {
    let (count, sum) = batches.finish();
    Outcome { seconds: start.elapsed().as_secs_f64(), count, sum: Some(sum) }
}

/// tokio's channel, from tasks.
pub struct TokioTasks;

impl Peer for TokioTasks {
    const NAME: &'static str = "tokio mpsc (tasks)";
    const PACKAGE: Option<&'static str> = Some("tokio");
    const USAGE: &'static str = "in tasks: `send`, `recv_many`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (runtime, work) = (runtime(), *work);
        let start = Instant::now();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(work.shape.depth);
        for p in 0..work.shape.producers {
            let (sender, share) = (sender.clone(), work.share(p));
            runtime.spawn(async move {
                for number in share {
                    sender.send(T::of(number)).await.expect("the receiver is there");
                }
            });
        }
        drop(sender);
        let consumer = runtime.spawn(async move {
            let (mut batches, mut batch) = (Batches::<T>::new(&work), Vec::with_capacity(BATCH));
            while receiver.recv_many(&mut batch, BATCH).await > 0 {
                batch.drain(..).for_each(|item| batches.push(item));
            }
            batches
        });
        let batches = runtime.block_on(consumer).expect("the consumer does not panic");
        outcome::<T>(start, batches)
    }
}

/// batch-aint-one.
pub struct BatchAintOne;

/// Adds in flight, all producers together: one that is awaited holds up its batch.
const IN_FLIGHT: usize = 8 * BATCH;

impl Peer for BatchAintOne {
    const NAME: &'static str = "batch-aint-one";
    const KIND: Kind = Kind::Batcher;
    const USAGE: &'static str = "in tasks: `add`, 4,096 in flight; it answers each item";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (runtime, work) = (runtime(), *work);
        let folding = Folding(Arc::new(Mutex::new(Batches::<T>::new(&work))));
        let limits = Limits::builder()
            .max_batch_size(BATCH)
            .max_key_concurrency(1)
            .max_key_queued_items(work.shape.depth)
            .max_items_awaiting_worker(work.shape.depth)
            .build();
        let start = runtime.block_on(async {
            let batcher = Batcher::builder()
                .name("compare")
                .processor(folding.clone())
                .limits(limits)
                .batching_policy(BatchingPolicy::Duration(DELAY, OnFull::Process))
                .build();
            let start = Instant::now();
            let tasks = work.each(|p| runtime.spawn(add_all(batcher.clone(), work, p)));
            for task in tasks {
                task.await.expect("no producer panics");
            }
            start
        });
        let mut batches = folding.0.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = std::mem::replace(&mut *batches, Batches::new(&work));
        outcome::<T>(start, batches)
    }
}

async fn add_all<T: Item>(batcher: Batcher<Folding<T>>, work: Work, p: usize) {
    let most = (IN_FLIGHT / work.shape.producers).max(1);
    let mut flying = FuturesUnordered::new();
    for number in work.share(p) {
        if flying.len() == most {
            let added: Option<Result<(), _>> = flying.next().await;
            added.transpose().expect("the batcher takes it");
        }
        flying.push(batcher.add((), T::of(number)));
    }
    while let Some(added) = flying.next().await {
        added.expect("the batcher takes it");
    }
}

struct Folding<T>(Arc<Mutex<Batches<T>>>);

impl<T> Clone for Folding<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Item> Processor for Folding<T> {
    type Key = ();
    type Input = T;
    type Output = ();
    type Error = String;
    type Resources = ();

    async fn acquire_resources(&self, (): ()) -> Result<(), String> {
        Ok(())
    }

    async fn process(
        &self,
        (): (),
        inputs: impl Iterator<Item = T> + Send,
        (): (),
    ) -> Result<Vec<()>, String> {
        let batch: Vec<T> = inputs.collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(&batch);
        Ok(vec![(); batch.len()])
    }
}
