//! How to test code that depends on batching, without threads and without sleep: a `Pump` is the
//! same engine, driven step by step, and its `TestClock` stands still until it is told to advance.
//!
//! Five minutes of engine time pass here, in no time.
//!
//! `cargo run --example test_your_triggers`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use sluicegate::{
    Batch, Batcher, Builder, DropReason, FlushReason, PumpStep, Sink, TestClock, WriteContext,
    WriteError,
};

/// The code under test: what the service configures.
fn configured() -> Builder<String> {
    Batcher::builder()
        .max_batch_size(3)
        .max_batch_bytes(100)
        .weight(String::len)
        .max_batch_delay(Duration::from_millis(200))
}

/// Writes down what it is given.
#[derive(Default)]
struct Recorder(Vec<Vec<String>>);

impl Sink<String> for Recorder {
    fn write(&mut self, batch: &Batch<String>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.0.push(batch.to_vec());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    by_size()?;
    by_bytes()?;
    by_time()?;
    too_old()?;
    println!("four triggers behave as they are meant to");
    Ok(())
}

fn by_size() -> Result<(), Box<dyn Error>> {
    let mut pump = configured().pump(Recorder::default(), TestClock::new())?;
    let producer = pump.producer();
    for name in ["a", "b", "c", "d"] {
        producer.add(name.into())?;
    }
    let step = pump.step();
    assert!(matches!(step, PumpStep::Wrote { reason: FlushReason::Size, items: 3, .. }));
    assert_eq!(pump.step(), PumpStep::Idle, "the fourth waits for company");

    let report = pump.shutdown();
    assert_eq!(report.stats.flush_reasons.get(FlushReason::Shutdown), 1);
    assert!(report.is_clean());
    Ok(())
}

fn by_bytes() -> Result<(), Box<dyn Error>> {
    let mut pump = configured().pump(Recorder::default(), TestClock::new())?;
    let producer = pump.producer();
    producer.add("x".repeat(60))?;
    producer.add("y".repeat(60))?;
    pump.flush();
    let written = &pump.sink().ok_or("the sink has not panicked")?.0;
    assert_eq!(written.len(), 2, "120 bytes are two batches of at most 100");
    assert!(pump.shutdown().is_clean());
    Ok(())
}

fn by_time() -> Result<(), Box<dyn Error>> {
    let clock = TestClock::new();
    let mut pump = configured().pump(Recorder::default(), clock.clone())?;
    let producer = pump.producer();
    pump.advance(Duration::from_secs(300)); // an idle night costs no later item its delay
    producer.add("first".into())?;
    let added = clock.now();

    assert_eq!(pump.advance(Duration::from_millis(150)), 0);
    producer.add("second".into())?; // does not prolong the wait of the first
    assert_eq!(pump.advance(Duration::from_millis(49)), 0, "not a millisecond early");
    assert_eq!(pump.next_due(), Some(added + Duration::from_millis(200)));
    assert_eq!(pump.advance(Duration::from_millis(1)), 1, "nor late");
    let written = &pump.sink().ok_or("the sink has not panicked")?.0;
    assert_eq!(*written, [["first", "second"]]);
    assert!(pump.shutdown().is_clean());
    Ok(())
}

/// An item that nobody wants any more when its turn comes is let go, and counted.
fn too_old() -> Result<(), Box<dyn Error>> {
    let clock = TestClock::new();
    let builder = configured().max_age(Duration::from_secs(1));
    let mut pump = builder.pump(Recorder::default(), clock.clone())?;
    let producer = pump.producer();
    producer.add("stale".into())?;
    clock.advance(Duration::from_secs(2)); // as if the flusher had been held by its sink
    producer.add("fresh".into())?;
    pump.flush();
    let written = &pump.sink().ok_or("the sink has not panicked")?.0;
    assert_eq!(*written, [["fresh"]]);

    let report = pump.shutdown();
    assert_eq!(report.stats.drops.get(DropReason::Expired), 1);
    assert_eq!((report.tally.flushed_ok, report.tally.dropped), (1, 1));
    Ok(())
}
