//! Shutting down with a deadline: what could not be written comes back, and a sink that hangs is
//! left behind. In both cases every item is accounted for, and `shutdown` returns in time.
//!
//! In a service, the signal handler's only work is to let `main` come to `shutdown`.
//!
//! `cargo run --example graceful_shutdown`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Stuck, WriteContext, WriteError, sink};

const ITEMS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    slow_sink()?;
    stuck_sink()
}

/// 100 batches at 20 ms are two seconds of work, and there is a third of a second left.
fn slow_sink() -> Result<(), Box<dyn Error>> {
    let batcher = Batcher::builder().max_batch_size(10).spawn(|_| {
        Ok::<_, WriteError>(sink::from_fn(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
            thread::sleep(Duration::from_millis(20));
            Ok(())
        }))
    })?;
    let producer = batcher.producer();
    (0..ITEMS).try_for_each(|item| producer.add(item))?;

    let start = Instant::now();
    let report = batcher.shutdown(Duration::from_millis(300));
    let took = start.elapsed();

    // No write was cut short: those that had begun by the deadline came to their end.
    println!("slow sink, after {took:.0?}: {} written", report.tally.flushed_ok);
    assert!(took < Duration::from_secs(1));
    assert!(!report.is_clean());
    assert!(report.left_behind.is_empty());

    // The others are ours again, oldest first: for a file, or for the next run.
    println!(
        "  {} handed back, from item {:?} on",
        report.unflushed.len(),
        report.unflushed.first()
    );
    assert_eq!(report.unflushed.len() as u64, report.tally.in_flight);
    assert!(report.unflushed.iter().copied().eq(report.tally.flushed_ok..ITEMS));

    // Who still holds a producer learns that it is over, and keeps its item.
    let late = producer.add(ITEMS).expect_err("the engine is closed");
    assert_eq!(late.into_inner(), ITEMS);
    Ok(())
}

/// The destination hangs in the first write. A thread cannot be ended from outside, so it is left
/// to itself; whether its ten items took effect, nobody here can know.
fn stuck_sink() -> Result<(), Box<dyn Error>> {
    let (release, hang) = channel::<()>();
    let hang = Arc::new(Mutex::new(hang));
    let builder = Batcher::builder().max_batch_size(10).max_batch_delay(None);
    let batcher = builder.spawn(move |_| {
        let hang = Arc::clone(&hang);
        Ok::<_, WriteError>(sink::from_fn(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            let _ = hang.lock().unwrap_or_else(PoisonError::into_inner).recv();
            Ok(())
        }))
    })?;
    let producer = batcher.producer();
    (0..ITEMS).try_for_each(|item| producer.add(item))?;
    while batcher.stats().queue_depth == ITEMS {
        thread::sleep(Duration::from_millis(1)); // until the first batch has left the queue
    }

    let start = Instant::now();
    let report = batcher.shutdown(Duration::from_millis(200));
    let took = start.elapsed();

    println!("stuck sink, after {took:.0?}: {:?}", report.left_behind);
    assert!(took < Duration::from_secs(1));
    let [left] = report.left_behind.as_slice() else { panic!("one flusher hangs") };
    assert!(matches!(left.stuck, Stuck::Writing { items: 10, .. }));
    println!("  {} unknown, {} handed back", report.tally.unknown, report.unflushed.len());
    assert_eq!(report.tally.unknown, 10);
    assert!(report.unflushed.iter().copied().eq(10..ITEMS));
    assert!(report.tally.balances());
    drop(release); // for tidiness: the sink returns, and its thread ends
    Ok(())
}
