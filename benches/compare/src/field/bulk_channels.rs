//! Channels that wait by themselves and give many items at once.

use crate::contestant::{Item, Outcome, Peer, Work};
use crate::race::{race, singly};

const OPEN: &str = "the receiver is there";

/// flume.
pub struct Flume;

impl Peer for Flume {
    const NAME: &'static str = "flume";
    const USAGE: &'static str = "`send`; `recv`, then `drain`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = flume::bounded(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| {
            while !batches.complete() {
                let Ok(item) = receiver.recv() else { return };
                batches.push(item);
                receiver.drain().for_each(|item| batches.push(item));
            }
        })
    }
}

/// kanal.
pub struct Kanal;

impl Peer for Kanal {
    const NAME: &'static str = "kanal";
    const USAGE: &'static str = "`send`; `drain_into`, and `recv` when that gave nothing";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = kanal::bounded(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        let mut got = Vec::with_capacity(work.shape.depth);
        race(work, adders, |batches| {
            while !batches.complete() {
                match receiver.drain_into(&mut got) {
                    Ok(0) => {
                        let Ok(item) = receiver.recv() else { return };
                        got.push(item);
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
                got.drain(..).for_each(|item| batches.push(item));
            }
        })
    }
}

/// tokio's, from threads.
pub struct Tokio;

impl Peer for Tokio {
    const NAME: &'static str = "tokio mpsc";
    const PACKAGE: Option<&'static str> = Some("tokio");
    const USAGE: &'static str = "on threads: `blocking_send`, `blocking_recv_many`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.blocking_send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| {
            while !batches.complete() {
                let got = batches.append(|batch, room| receiver.blocking_recv_many(batch, room));
                if got == 0 {
                    return;
                }
            }
        })
    }
}
