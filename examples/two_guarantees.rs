//! Two guarantees on one engine: payments that somebody waits for, and page views that nobody does.
//!
//! Both go through the same queue into the same batches. A payment is added with an ack, which says
//! which batch it was in, or why it was not written; a page view is added plainly, for less.
//!
//! `cargo run --example two_guarantees`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use sluicegate::{AckReason, Batch, Batcher, WriteContext, WriteError, sink};

#[derive(Debug, PartialEq)]
enum Event {
    View(u32),
    Payment { cents: i64 },
}

fn main() -> Result<(), Box<dyn Error>> {
    let batcher = Batcher::builder()
        .max_batch_size(100)
        .max_batch_delay(Duration::from_millis(20))
        .with_acks()
        .spawn(|_| {
            Ok::<_, WriteError>(sink::from_fn(|batch: &Batch<Event>, cx: &mut WriteContext<'_>| {
                for (index, event) in batch.iter().enumerate() {
                    if matches!(event, Event::Payment { cents } if *cents < 0) {
                        cx.fail(index, WriteError::permanent("a payment below nothing"));
                    }
                }
                Ok(()) // all the others are in
            }))
        })?;
    let producer = batcher.producer();

    let mut acks = Vec::new();
    for page in 0..1_000 {
        producer.add(Event::View(page))?;
        if page % 100 == 0 {
            acks.push(producer.add_with_ack(Event::Payment { cents: 995 })?);
        }
    }
    let bad = producer.add_with_ack(Event::Payment { cents: -1 })?;

    // Each wait ends when the payment's batch was written: after 20 ms at the latest, here.
    for ack in acks {
        let receipt = ack.wait()?;
        println!("paid: batch {}, queued for {:?}", receipt.batch, receipt.queued);
    }

    // One bad item fails alone, and comes back with the reason.
    let refused = bad.wait().expect_err("the sink refuses it");
    println!("not paid: {refused}");
    assert_eq!(refused.reason, AckReason::Failed);
    assert_eq!(refused.item, Some(Event::Payment { cents: -1 }));

    let report = batcher.shutdown(Duration::from_secs(5));
    println!("{:?}", report.tally);
    assert_eq!(report.tally.flushed_ok, 1_010);
    assert_eq!(report.tally.flushed_fail, 1);
    assert!(report.failed.is_empty(), "who waited for the ack has the item");
    assert!(report.tally.balances());
    Ok(())
}
