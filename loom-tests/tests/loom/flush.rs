//! Forbidden: a flush that returns before an item added before it has met its fate, or that never
//! returns. Allowed: it may cover later items too. Method: who has added calls the engine's own
//! barrier and then asks the sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::thread::{self, JoinHandle};
use sluicegate::internals::{Resolution, Writer, seat};
use sluicegate::sink::from_fn;
use sluicegate::{Batch, Sink, WriteContext};
use sluicegate_loom_tests::{Item, Parts, add, next, parts, serve, write};

use crate::{join, model};

/// Longer than any model: loom has no clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

/// The items written, a bit for each; of std, for it is no part of the model.
type Written = Arc<AtomicU64>;

fn bit(item: &Item) -> u64 {
    1 << item.number()
}

fn writer(index: usize, written: &Written) -> Writer<impl Sink<Item> + use<>> {
    let written = Arc::clone(written);
    let sink = from_fn(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| {
        thread::yield_now(); // a write takes its time: others run meanwhile
        let bits = batch.iter().map(bit).sum();
        assert_eq!(written.fetch_or(bits, Ordering::Relaxed) & bits, 0, "an item came twice");
        Ok(())
    });
    Writer::new(seat(index), Some(sink))
}

/// A batch that is not full, and a flusher that sleeps for its end.
#[test]
fn open_batch() {
    model(|| {
        let (parts, written) = (parts(4, 4, 1), Written::default());
        let producer = thread::spawn({
            let (parts, written) = (Arc::clone(&parts), Arc::clone(&written));
            move || {
                add(&parts, Item::new(0, 0)).unwrap();
                assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
                assert_eq!(written.load(Ordering::Relaxed), 1, "flush came back too early");
                parts.any().close();
            }
        });
        serve(&parts, &mut writer(0, &written));
        producer.join().unwrap();
        assert!(parts.tally().flushed_ok == 1);
    });
}

/// Two batches written by two flushers may end in either order.
#[test]
fn two_flushers() {
    model(|| {
        let (parts, written) = (parts(2, 1, 2), Written::default());
        (0..2).for_each(|n| add(&parts, Item::new(0, n)).unwrap());
        parts.any().close(); // so that the flushers end by themselves
        let caller = caller(&parts, &written);
        let other = thread::spawn({
            let (parts, written) = (Arc::clone(&parts), Arc::clone(&written));
            move || serve(&parts, &mut writer(1, &written))
        });
        serve(&parts, &mut writer(0, &written));
        join([caller, other]);
    });
}

/// Two callers at a time, and one batch for both.
#[test]
fn two_callers() {
    model(|| {
        let (parts, written) = (parts(4, 4, 1), Written::default());
        (0..2).for_each(|n| add(&parts, Item::new(0, n)).unwrap());
        let callers = [0, 1].map(|_| caller(&parts, &written));
        let batch = next(&parts).unwrap();
        assert!(write(&parts, &mut writer(0, &written), batch));
        join(callers);
    });
}

/// Flushes, and finds the two items of producer 0 written.
fn caller(parts: &Parts, written: &Written) -> JoinHandle<()> {
    let (parts, written) = (Arc::clone(parts), Arc::clone(written));
    thread::spawn(move || {
        assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
        assert_eq!(written.load(Ordering::Relaxed), 0b11, "flush came back too early");
    })
}
