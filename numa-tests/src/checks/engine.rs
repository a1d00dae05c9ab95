//! The engine at work: nothing lost, nothing twice, the tally balances.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Producer, Shutdown, WriteContext, WriteError, sink};

use crate::machine::{Machine, list};
use crate::proof::Sightings;
use crate::report::Found;

const ITEMS: u64 = 1_000_000;
const PRODUCERS: u64 = 4;
const FLUSHERS: usize = 2;
/// Generous: emulation is slow, and the machine below it may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A million items.
pub fn smoke(_: &Machine) -> Found {
    run(ITEMS, || Ok(()))
}

/// Puts items through an engine. Once half of them are written, `midway` happens while the
/// producers go on; the last quarter is added after it.
pub fn run(items: u64, midway: impl FnOnce() -> Result<(), String>) -> Found {
    let begin = Instant::now();
    let (half, half_written) = mpsc::channel();
    let seen = Arc::new(Seen::new(items, half));
    let batcher = start(&seen).map_err(|error| format!("no engine: {error}"))?;
    let after_midway = Barrier::new(1 + (0..PRODUCERS).count()); // with this thread
    let (happened, added) = thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|index| {
                let (producer, after_midway) = (batcher.producer(), &after_midway);
                scope.spawn(move || add(&producer, index, items / PRODUCERS, after_midway))
            })
            .collect();
        let written = half_written.recv_timeout(LIMIT);
        let happened =
            written.map_err(|error| format!("half of it: {error}")).and_then(|()| midway());
        after_midway.wait();
        let joined = producers.into_iter().map(|thread| thread.join().unwrap_or(0));
        (happened, joined.sum::<u64>())
    });
    let report = batcher.shutdown(LIMIT);
    happened?;
    if added != items {
        return Err(format!("{added} of {items} items were taken"));
    }
    expect_all(&report, items)?;
    seen.expect_each_once()?;
    let elapsed = begin.elapsed();
    if elapsed > LIMIT {
        return Err(format!("it took {elapsed:?}"));
    }
    let places = seen.places();
    Ok(format!(
        "{items} items in {:.1} s, {} batches, flushers seen on nodes {}",
        elapsed.as_secs_f64(),
        report.stats.batches,
        list(&places.nodes)
    ))
}

fn start(seen: &Arc<Seen>) -> Result<Batcher<u64>, sluicegate::SpawnError> {
    let seen = Arc::clone(seen);
    Batcher::builder()
        .max_batch_size(512)
        .max_batch_delay(Duration::from_millis(5))
        .queue_depth(8_192)
        .flushers(FLUSHERS)
        .spawn(move |_| {
            let seen = Arc::clone(&seen);
            let write = move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
                seen.write(batch).map_err(WriteError::permanent)
            };
            Ok::<_, WriteError>(sink::from_fn(write))
        })
}

/// Adds a producer's share; returns how many items were taken.
fn add(producer: &Producer<u64>, index: u64, share: u64, after_midway: &Barrier) -> u64 {
    let own = index * share;
    let taken = |numbers: std::ops::Range<u64>| {
        numbers.filter(|number| producer.add(own + number).is_ok()).count() as u64
    };
    let before = taken(0..share * 3 / 4);
    after_midway.wait();
    before + taken(share * 3 / 4..share)
}

fn expect_all(report: &Shutdown<u64>, items: u64) -> Result<(), String> {
    let tally = report.tally;
    let all = tally.enqueued == items && tally.flushed_ok == items;
    if report.is_clean() && tally.balances() && all { Ok(()) } else { Err(format!("{report:?}")) }
}

/// What the sinks have seen, together.
struct Seen {
    items: u64,
    /// A bit for each item.
    bits: Vec<AtomicU64>,
    twice: AtomicU64,
    written: AtomicU64,
    half: mpsc::Sender<()>,
    places: Mutex<Sightings>,
}

impl Seen {
    fn new(items: u64, half: mpsc::Sender<()>) -> Self {
        let bits = (0..items.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (twice, written) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { items, bits, twice, written, half, places: Mutex::default() }
    }

    fn write(&self, batch: &[u64]) -> Result<(), String> {
        for item in batch {
            let word = usize::try_from(item / 64).ok().and_then(|word| self.bits.get(word));
            let bit = 1 << (item % 64);
            let before = word.ok_or("an item that nobody made")?.fetch_or(bit, Ordering::Relaxed);
            if before & bit != 0 {
                self.twice.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.places.lock().unwrap_or_else(PoisonError::into_inner).look()?;
        let len = batch.len() as u64;
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before < self.items / 2 && before + len >= self.items / 2 {
            // Nobody listens any more if the run is given up.
            let _ = self.half.send(());
        }
        Ok(())
    }

    fn places(&self) -> Sightings {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every item was seen, and none twice.
    fn expect_each_once(&self) -> Result<(), String> {
        let seen: u64 =
            self.bits.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum();
        let twice = self.twice.load(Ordering::Relaxed);
        if seen == self.items && twice == 0 {
            return Ok(());
        }
        Err(format!("the sink saw {seen} of {} items, {twice} twice", self.items))
    }
}
