//! The smallest useful engine: four threads add single items, one sink gets them in batches, and
//! the report at the end accounts for every item.
//!
//! `cargo run --example hello`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::thread;
use std::time::Duration;

use sluicegate::{Batch, Batcher, Flusher, WriteContext, WriteError, sink};

fn main() -> Result<(), Box<dyn Error>> {
    let batcher = Batcher::<u64>::builder()
        .max_batch_size(1_000)
        .max_batch_delay(Duration::from_millis(50))
        .spawn(|_: Flusher| {
            // Opened on the flusher's thread: a place for a connection, which need not be `Send`.
            Ok::<_, WriteError>(sink::from_fn(|batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                if batch.id().get() <= 3 {
                    println!("batch {}: {} items in one call", batch.id(), batch.len());
                }
                Ok(())
            }))
        })?;

    thread::scope(|scope| {
        for first in [0, 10_000, 20_000, 30_000] {
            let producer = batcher.producer();
            scope.spawn(move || {
                for item in first..first + 10_000 {
                    // Waits while the queue is full. Whatever goes wrong, the error has the item.
                    producer.add(item).expect("the engine is open");
                }
            });
        }
    });

    let report = batcher.shutdown(Duration::from_secs(5));
    println!("{} items in {} batches", report.tally.flushed_ok, report.stats.batches);
    assert!(report.is_clean());
    assert_eq!(report.tally.flushed_ok, 40_000);
    assert!(report.stats.batches < 1_000, "far fewer calls than items");
    Ok(())
}
