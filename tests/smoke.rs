//! The engine's main promises, on real threads.

use std::sync::mpsc;
use std::time::Duration;

use sluicegate::{Batch, Batcher, FlushReason, WriteContext, WriteError, sink};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn everything_added_is_flushed_in_order() {
    let (sender, received) = mpsc::channel();
    let batcher = Batcher::builder()
        .max_batch_size(64)
        .queue_depth(128)
        .spawn(move |_| {
            let sender = sender.clone();
            Ok::<_, WriteError>(sink::from_fn(
                move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                    sender.send(batch.to_vec()).map_err(WriteError::permanent)
                },
            ))
        })
        .unwrap();
    let producer = batcher.producer();
    for item in 0..10_000 {
        producer.add(item).unwrap();
    }
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.tally.flushed_ok, 10_000);
    let items: Vec<u64> = received.iter().flatten().collect();
    assert_eq!(items, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn flush_waits_for_what_was_added_and_the_time_trigger_is_not_needed() {
    let batcher = Batcher::builder()
        .max_batch_delay(None)
        .spawn(|_| Ok::<_, WriteError>(sink::NullSink))
        .unwrap();
    for item in 0..100 {
        batcher.producer().add(item).unwrap();
    }
    let tally = batcher.flush(LONG).unwrap();
    assert_eq!(tally.flushed_ok, 100);
    let stats = batcher.stats();
    assert!(stats.flush_reasons.get(FlushReason::Flush) >= 1);
    assert!(batcher.shutdown(LONG).is_clean());
}
