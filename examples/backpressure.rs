//! A sink that is too slow, and the four things that a full queue can do about it.
//!
//! The same 2,000 items go as fast as they can into a queue of 64, behind a sink that needs a
//! millisecond for 32 of them. `Block` loses nothing and slows the producer down. `Reject` gives
//! items back. `DropNewest` keeps the oldest items, `DropOldest` the newest; both tell `on_dropped`
//! of each item that they let go.
//!
//! `cargo run --example backpressure`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{
    AddError, Batch, Batcher, DropReason, Shutdown, WhenFull, WriteContext, WriteError, sink,
};

const ITEMS: u64 = 2_000;

/// What the producer saw, and the engine's own account.
struct Outcome {
    added: u64,
    given_back: u64,
    told_of: u64,
    /// The last item that was written.
    last: u64,
    took: Duration,
    report: Shutdown<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("policy       added  given back  dropped  written  last item     took");
    let block = run(WhenFull::Block)?;
    let reject = run(WhenFull::Reject)?;
    let newest = run(WhenFull::DropNewest)?;
    let oldest = run(WhenFull::DropOldest)?;

    // Nothing lost; the producer was held to the speed of the sink.
    assert_eq!((block.added, block.report.tally.flushed_ok), (ITEMS, ITEMS));
    assert!(block.took > reject.took);

    // Each item is either in, or back in the producer's hands.
    assert!(reject.given_back > 0);
    assert_eq!(reject.added + reject.given_back, ITEMS);
    assert_eq!(reject.report.stats.rejected, reject.given_back);
    assert_eq!(reject.report.tally.flushed_ok, reject.added);

    // Every add succeeded, and what was let go is counted, by reason.
    for (outcome, reason) in [(&newest, DropReason::Newest), (&oldest, DropReason::Oldest)] {
        let Outcome { added, told_of, report, .. } = outcome;
        assert_eq!(*added, ITEMS);
        assert!(*told_of > 0);
        assert_eq!(report.stats.drops.get(reason), *told_of);
        assert_eq!(report.tally.flushed_ok + report.tally.dropped, ITEMS);
    }
    // The last item always finds a place when the oldest makes room.
    assert_eq!(oldest.last, ITEMS - 1);
    Ok(())
}

fn run(policy: WhenFull) -> Result<Outcome, Box<dyn Error>> {
    let (told, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (counter, written) = (Arc::clone(&told), Arc::clone(&last));
    let batcher = Batcher::builder()
        .max_batch_size(32)
        .queue_depth(64)
        .when_full(policy)
        .on_dropped(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .spawn(move |_| {
            let written = Arc::clone(&written);
            Ok::<_, WriteError>(sink::from_fn(
                move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                    thread::sleep(Duration::from_millis(1));
                    written.fetch_max(*batch.last().unwrap_or(&0), Ordering::Relaxed);
                    Ok(())
                },
            ))
        })?;

    let producer = batcher.producer();
    let (mut added, mut given_back) = (0, 0);
    let start = Instant::now();
    for item in 0..ITEMS {
        match producer.add(item) {
            Ok(()) => added += 1,
            Err(AddError::Full(_)) => given_back += 1, // write it elsewhere, answer 503, count it
            Err(other) => return Err(other.into()),
        }
    }
    let took = start.elapsed();
    let report = batcher.shutdown(Duration::from_secs(5));

    let told_of = told.load(Ordering::Relaxed);
    let last = last.load(Ordering::Relaxed);
    let (dropped, ok) = (report.tally.dropped, report.tally.flushed_ok);
    println!(
        "{:11} {added:6} {given_back:11} {dropped:8} {ok:8} {last:10} {took:>8.1?}",
        format!("{policy:?}")
    );
    assert!(report.tally.balances());
    assert_eq!(report.tally.in_flight, 0);
    Ok(Outcome { added, given_back, told_of, last, took, report })
}
