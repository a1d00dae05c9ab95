//! What forms batches by size and time: 512 items or 10 ms.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_batch::ChunksTimeoutStreamExt;
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;

use crate::contestant::{BATCH, Batches, Item, Kind, Outcome, Peer, Work};
use crate::race::{race, singly};

/// How old a batch may get.
pub const DELAY: Duration = Duration::from_millis(10);
const OPEN: &str = "the receiver is there";

/// tokio-stream's `chunks_timeout`.
pub struct TokioStream;

impl Peer for TokioStream {
    const NAME: &'static str = "tokio-stream chunks_timeout";
    const PACKAGE: Option<&'static str> = Some("tokio-stream");
    const KIND: Kind = Kind::Batcher;
    const USAGE: &'static str = "tokio mpsc, `blocking_send`; `ReceiverStream`, `chunks_timeout`";

    fn run<T: Item>(work: &Work) -> Outcome {
        streamed(work, |items: ReceiverStream<T>| {
            tokio_stream::StreamExt::chunks_timeout(items, BATCH, DELAY)
        })
    }
}

/// futures-batch's `chunks_timeout`.
pub struct FuturesBatch;

impl Peer for FuturesBatch {
    const NAME: &'static str = "futures-batch chunks_timeout";
    const PACKAGE: Option<&'static str> = Some("futures-batch");
    const KIND: Kind = Kind::Batcher;
    const USAGE: &'static str = "tokio mpsc, `blocking_send`; `ReceiverStream`, `chunks_timeout`";

    fn run<T: Item>(work: &Work) -> Outcome {
        streamed(work, |items: ReceiverStream<T>| {
            ChunksTimeoutStreamExt::chunks_timeout(items, BATCH, DELAY)
        })
    }
}

/// From threads through tokio's channel into a stream of batches.
fn streamed<T: Item, S>(work: &Work, chunks: impl FnOnce(ReceiverStream<T>) -> S) -> Outcome
where
    S: Stream<Item = Vec<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be had");
    let (sender, receiver) = tokio::sync::mpsc::channel(work.shape.depth);
    let adders = work.each(|_| {
        let sender = sender.clone();
        singly(move |item: T| sender.blocking_send(item).expect(OPEN))
    });
    drop(sender);
    race(work, adders, |batches| {
        runtime.block_on(async {
            let mut chunks = pin!(chunks(ReceiverStream::new(receiver)));
            while let Some(batch) = chunks.next().await {
                batches.take(&batch);
            }
        });
    })
}

/// batch-channel, one item at a time.
pub struct BatchChannel;

impl Peer for BatchChannel {
    const NAME: &'static str = "batch-channel";
    const KIND: Kind = Kind::Batcher;
    const USAGE: &'static str = "`bounded_sync`, `send`; `recv_vec`, which takes what is there";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = batch_channel::bounded_sync(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| receive_vecs(&receiver, batches))
    }
}

/// batch-channel, which gathers 64 items on the producer's side.
pub struct AutoBatch;

impl Peer for AutoBatch {
    const NAME: &'static str = "batch-channel autobatch(64)";
    const PACKAGE: Option<&'static str> = Some("batch-channel");
    const KIND: Kind = Kind::InRuns;
    const USAGE: &'static str = "`autobatch`: an item stays with its producer until 64 are there";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = batch_channel::bounded_sync(work.shape.depth);
        let adders = work.each(|_| {
            let mut sender = sender.clone();
            move |mut share: std::ops::Range<u64>| {
                let added = sender
                    .autobatch(64, |runs| share.try_for_each(|number| runs.send(T::of(number))));
                added.expect(OPEN);
            }
        });
        drop(sender);
        race(work, adders, |batches| receive_vecs(&receiver, batches))
    }
}

fn receive_vecs<T: Item>(receiver: &batch_channel::SyncReceiver<T>, batches: &mut Batches<T>) {
    let mut batch = Vec::with_capacity(BATCH);
    while !batches.complete() {
        receiver.recv_vec(BATCH, &mut batch);
        if batch.is_empty() {
            return;
        }
        batches.take(&batch);
    }
}

/// The loop that one writes oneself.
pub struct RecvTimeout;

impl Peer for RecvTimeout {
    const NAME: &'static str = "crossbeam recv_timeout loop";
    const PACKAGE: Option<&'static str> = Some("crossbeam-channel");
    const KIND: Kind = Kind::Batcher;
    const USAGE: &'static str = "`send`; `recv` for the first item, `recv_deadline` for the others";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = crossbeam_channel::bounded(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| {
            let mut batch = Vec::with_capacity(BATCH);
            while let Ok(first) = receiver.recv() {
                let due = Instant::now() + DELAY;
                batch.push(first);
                while batch.len() < BATCH {
                    let Ok(item) = receiver.recv_deadline(due) else { break };
                    batch.push(item);
                }
                batches.take(&batch);
                batch.clear();
            }
        })
    }
}
