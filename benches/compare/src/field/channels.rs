//! Channels that wait by themselves and give one item at a time.

use crossfire::BlockingTxTrait;

use crate::contestant::{Item, Outcome, Peer, Work};
use crate::race::{race, receive, singly};

const OPEN: &str = "the receiver is there";

/// crossbeam-channel.
pub struct Crossbeam;

impl Peer for Crossbeam {
    const NAME: &'static str = "crossbeam-channel";
    const USAGE: &'static str = "`send`, `recv`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = crossbeam_channel::bounded(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| receive(batches, || receiver.recv().ok()))
    }
}

/// The standard library's.
pub struct Std;

impl Peer for Std {
    const NAME: &'static str = "std sync_channel";
    const PACKAGE: Option<&'static str> = None;
    const USAGE: &'static str = "`send`, `recv`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = std::sync::mpsc::sync_channel(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| receive(batches, || receiver.recv().ok()))
    }
}

/// crossfire's MPSC.
pub struct Crossfire;

impl Peer for Crossfire {
    const NAME: &'static str = "crossfire";
    const USAGE: &'static str =
        "`mpsc::bounded_blocking`, `send`, `recv`; `detect_backoff_cfg` first, as its README asks";

    fn run<T: Item>(work: &Work) -> Outcome {
        crossfire::detect_backoff_cfg();
        let (sender, receiver) = crossfire::mpsc::bounded_blocking(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| sender.send(item).expect(OPEN))
        });
        drop(sender);
        race(work, adders, |batches| receive(batches, || receiver.recv().ok()))
    }
}

/// thingbuf's blocking channel.
pub struct Thingbuf;

impl Peer for Thingbuf {
    const NAME: &'static str = "thingbuf";
    const USAGE: &'static str = "`mpsc::blocking`, in place: `send_ref`, `recv_ref`";

    fn run<T: Item>(work: &Work) -> Outcome {
        let (sender, receiver) = thingbuf::mpsc::blocking::channel(work.shape.depth);
        let adders = work.each(|_| {
            let sender = sender.clone();
            singly(move |item: T| *sender.send_ref().expect(OPEN) = item)
        });
        drop(sender);
        race(work, adders, |batches| receive(batches, || receiver.recv_ref().map(|item| *item)))
    }
}
