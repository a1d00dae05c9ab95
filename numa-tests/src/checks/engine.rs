//! The engine at work: nothing lost, nothing twice, the tally balances, and every flusher stays on
//! its node.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batcher, Builder, SpawnError};

use crate::expect::{self, Usable};
use crate::machine::{Machine, Set, list};
use crate::report::Found;
use crate::sinks::{LIMIT, Sinks, add};

const ITEMS: u64 = 1_000_000;
const PRODUCERS: usize = 4;
const FLUSHERS: usize = 2;

/// A million items.
pub fn smoke(machine: &Machine) -> Found {
    run(ITEMS, &expect::usable(machine, &machine.cpus()), || Ok(()))
}

/// Puts items through an engine. Once half of them are written, `midway` happens while the
/// producers go on; the last quarter is added after it.
pub fn run(items: u64, usable: &Usable, midway: impl FnOnce() -> Result<(), String>) -> Found {
    let begin = Instant::now();
    let sinks = Sinks::default();
    let half_written = sinks.once_written(items / 2);
    let batcher = spawn(&sinks, builder().flushers(FLUSHERS))?;
    let placement = batcher.placement();
    expect::placement(&placement, usable)?;
    let share = items / PRODUCERS as u64;
    let after_midway = Barrier::new(1 + PRODUCERS); // with this thread
    let (happened, added) = thread::scope(|scope| {
        let work = |maker| {
            let producer = batcher.producer(); // here, so that this thread's node is its home
            let before = add(&producer, maker, 0..share * 3 / 4);
            after_midway.wait();
            before.and_then(|()| add(&producer, maker, share * 3 / 4..share))
        };
        let producers: Vec<_> =
            (0..PRODUCERS).map(|maker| scope.spawn(move || work(maker))).collect();
        let written = half_written.recv_timeout(LIMIT);
        let happened =
            written.map_err(|error| format!("half of it: {error}")).and_then(|()| midway());
        after_midway.wait();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<(), String>>| {
            thread.join().unwrap_or_else(|_| Err("a producer panicked".to_owned()))
        };
        (happened, producers.into_iter().map(join).collect::<Result<Vec<()>, String>>())
    });
    let report = batcher.shutdown(LIMIT);
    happened?;
    added?;
    expect::all_written(&report, items)?;
    (0..PRODUCERS).try_for_each(|maker| sinks.arrived(maker).expect_each_once(share))?;
    expect::flushers(&placement, &sinks, false)?;
    expect::own_shards(&placement, &sinks)?;
    expect::batches(&placement, &sinks)?;
    let elapsed = begin.elapsed();
    let on: Set =
        sinks.flushers().values().flat_map(|written| written.places.nodes.clone()).collect();
    Ok(format!(
        "{items} items in {:.1} s, {} batches, {} flushers, each on its node of {}",
        elapsed.as_secs_f64(),
        report.stats.batches,
        placement.flushers.len(),
        list(&on)
    ))
}

/// An engine to be configured.
pub fn builder() -> Builder<u64> {
    Batcher::builder()
        .max_batch_size(512)
        .max_batch_delay(Duration::from_millis(5))
        .queue_depth(8_192)
}

/// Starts it, with these sinks.
pub fn spawn(sinks: &Sinks, builder: Builder<u64>) -> Result<Batcher<u64>, String> {
    let sinks = sinks.clone();
    let spawned = builder.spawn(move |flusher| sinks.open(flusher));
    spawned.map_err(|error: SpawnError| format!("no engine: {error}"))
}
