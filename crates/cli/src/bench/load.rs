//! One run: producers add through an engine, whose sink counts and adds up.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::placement::Placement;
use sluicegate::{Batch, Batcher, Flusher, Producer, Sink, WriteContext, WriteError};

use super::args::{AddArg, BenchArgs, ItemBytes};
use super::setting::Setting;
use crate::run::{Failure, refused};

/// For what does not take long unless something is wrong.
const LONG: Duration = Duration::from_secs(600);
/// Items of a run of `add_many`.
const RUN: u64 = 64;
/// Items between two looks at whether time is up.
const CHUNK: u64 = 1_024;
/// The part of a run that is added before it, so that caches, pages and clocks are warm.
const WARM_UP: u32 = 10;

/// What a run has given.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Added in the time that was measured.
    pub(super) items: u64,
    /// From the first add to the end of the last write.
    pub(super) took: Duration,
    /// What producers spent on adding, together.
    pub(super) adding: Duration,
    /// Added, those of the warm-up included.
    pub(super) added: u64,
    /// Seen by the sink.
    pub(super) written: u64,
    /// Where the system did not do as planned, a sentence each.
    pub(super) refused: Vec<String>,
}

impl Sample {
    pub(super) fn items_per_second(&self) -> f64 {
        self.items as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Nanoseconds that a producer spent on an item.
    pub(super) fn add_ns(&self) -> f64 {
        self.adding.as_nanos() as f64 / self.items.max(1) as f64
    }
}

/// An item that is made of a number.
trait Numbered: Copy + Send + Sync + 'static {
    fn of(number: u64) -> Self;
    /// Its part in the sum; every byte counts.
    fn sum(&self) -> u64;
}

impl Numbered for u64 {
    fn of(number: u64) -> Self {
        number
    }
    fn sum(&self) -> u64 {
        *self
    }
}

impl Numbered for [u64; 8] {
    fn of(number: u64) -> Self {
        [number; 8]
    }
    fn sum(&self) -> u64 {
        self.iter().copied().fold(0, u64::wrapping_add)
    }
}

/// Measures once.
pub(super) fn measure(
    args: &BenchArgs,
    setting: &Setting,
    producers: usize,
) -> Result<Sample, Failure> {
    match args.item_bytes {
        ItemBytes::Eight => run::<u64>(args, setting, producers),
        ItemBytes::SixtyFour => run::<[u64; 8]>(args, setting, producers),
    }
}

fn run<T: Numbered>(
    args: &BenchArgs,
    setting: &Setting,
    producers: usize,
) -> Result<Sample, Failure> {
    let totals = Arc::new(Totals::default());
    let batcher = spawn::<T>(args, setting, &totals)?;
    let (items, time) =
        (args.items.unwrap_or(u64::MAX), args.items.is_none().then_some(args.seconds));
    let warm_up = (items / u64::from(WARM_UP), time.map(|time| time / WARM_UP));
    let warm = phase(&batcher, args.add, producers, warm_up)?;
    batcher.flush(LONG).map_err(io::Error::other)?;
    let adds = phase(&batcher, args.add, producers, (items, time))?;
    batcher.flush(LONG).map_err(io::Error::other)?;
    let ended = Instant::now();
    let started = adds.iter().map(|adds| adds.started).min().unwrap_or(ended);

    let refused = refusals(&batcher.placement(), setting);
    let shutdown = batcher.shutdown(LONG);
    let added = Seen::added::<T>(warm.iter().chain(&adds));
    let written = totals.seen();
    if !shutdown.is_clean() || shutdown.tally.flushed_ok != added.items || added != written {
        return Err(Failure::Io(io::Error::other(format!(
            "{setting}: added {added:?}, written {written:?}, {:?}: a bug in sluicegate",
            shutdown.tally
        ))));
    }
    Ok(Sample {
        items: adds.iter().map(Adds::items).sum(),
        took: ended - started,
        adding: adds.iter().map(|adds| adds.took).sum(),
        added: added.items,
        written: written.items,
        refused,
    })
}

fn refusals(placement: &Placement, setting: &Setting) -> Vec<String> {
    let small = placement.rings.iter().filter(|ring| setting.huge_pages && !ring.huge_pages);
    let small = small.map(|ring| format!("a ring without huge pages: {}", ring.why));
    placement.refused().map(str::to_owned).chain(small).collect()
}

fn spawn<T: Numbered>(
    args: &BenchArgs,
    setting: &Setting,
    totals: &Arc<Totals>,
) -> Result<Batcher<T>, Failure> {
    let totals = Arc::clone(totals);
    let open = move |_: Flusher| {
        Ok::<_, WriteError>(Counting { items: 0, sum: 0, totals: Arc::clone(&totals) })
    };
    let builder =
        Batcher::builder().max_batch_size(args.max_batch_size).queue_depth(args.queue_depth);
    setting.apply(builder, args.flushers).spawn(open).map_err(refused)
}

/// How many items, and their sum, which wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    items: u64,
    sum: u64,
}

impl Seen {
    /// What producers have added; found out when time no longer counts.
    fn added<'a, T: Numbered>(adds: impl Iterator<Item = &'a Adds>) -> Self {
        let numbers = adds.flat_map(|adds| adds.numbers.clone());
        numbers.fold(Self { items: 0, sum: 0 }, |Self { items, sum }, number| Self {
            items: items + 1,
            sum: sum.wrapping_add(T::of(number).sum()),
        })
    }
}

/// What all sinks of an engine have seen.
#[derive(Debug, Default)]
struct Totals {
    items: AtomicU64,
    sum: AtomicU64,
}

impl Totals {
    fn seen(&self) -> Seen {
        let [items, sum] = [&self.items, &self.sum].map(|total| total.load(Ordering::Relaxed));
        Seen { items, sum }
    }
}

/// Counts for itself, and tells at the end: a line that flushers of several nodes write would be in
/// the figures.
struct Counting {
    items: u64,
    sum: u64,
    totals: Arc<Totals>,
}

impl<T: Numbered> Sink<T> for Counting {
    fn write(&mut self, batch: &Batch<T>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.items += batch.len() as u64;
        self.sum = batch.iter().fold(self.sum, |sum, item| sum.wrapping_add(item.sum()));
        Ok(())
    }

    fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.totals.items.fetch_add(self.items, Ordering::Relaxed);
        self.totals.sum.fetch_add(self.sum, Ordering::Relaxed);
        Ok(())
    }
}

/// What a producer has added.
struct Adds {
    started: Instant,
    took: Duration,
    /// What items were made of.
    numbers: Range<u64>,
}

impl Adds {
    fn items(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }
}

/// Has each producer add its share of so many items, or until time is up.
fn phase<T: Numbered>(
    batcher: &Batcher<T>,
    how: AddArg,
    producers: usize,
    (items, time): (u64, Option<Duration>),
) -> Result<Vec<Adds>, Failure> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..producers as u64 {
            let share = share(items, producers as u64, index);
            let (first, stop) = (index << 40, &stop);
            // On its own thread: where that runs decides which ring is its home.
            let add = move || add(&batcher.producer(), how, first, share, stop);
            let named = thread::Builder::new().name(format!("producer-{index}"));
            match named.spawn_scoped(scope, add) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(Failure::Io(error));
                }
            }
        }
        if let Some(time) = time {
            thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        }
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(adds) => adds.map_err(Failure::Io),
            Err(_) => Err(Failure::Io(io::Error::other("a producer has panicked"))),
        });
        ended.collect()
    })
}

/// What one of so many producers gets of the items; all together get all.
fn share(items: u64, producers: u64, index: u64) -> u64 {
    items / producers + u64::from(index < items % producers)
}

/// Adds numbers from `first` on, a chunk of them in any case.
fn add<T: Numbered>(
    producer: &Producer<T>,
    how: AddArg,
    first: u64,
    items: u64,
    stop: &AtomicBool,
) -> io::Result<Adds> {
    let end = first.saturating_add(items);
    let mut run = Vec::new();
    let mut next = first;
    let started = Instant::now();
    while next < end {
        let chunk = next..end.min(next + CHUNK);
        next = chunk.end;
        match how {
            AddArg::Single => add_each(producer, chunk)?,
            AddArg::Many => add_runs(producer, chunk, &mut run)?,
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(Adds { started, took: started.elapsed(), numbers: first..next })
}

fn add_each<T: Numbered>(producer: &Producer<T>, numbers: Range<u64>) -> io::Result<()> {
    for number in numbers {
        producer.add(T::of(number)).map_err(|error| io::Error::other(error.to_string()))?;
    }
    Ok(())
}

fn add_runs<T: Numbered>(
    producer: &Producer<T>,
    numbers: Range<u64>,
    run: &mut Vec<T>,
) -> io::Result<()> {
    let mut next = numbers.start;
    while next < numbers.end {
        let end = numbers.end.min(next + RUN);
        run.extend((next..end).map(T::of));
        producer.add_many(run).map_err(io::Error::other)?;
        next = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (items, producers) in [(0, 3), (1, 4), (10, 3), (12, 4), (1_000_003, 7)] {
            let all: u64 = (0..producers).map(|index| share(items, producers, index)).sum();
            assert_eq!(all, items);
        }
    }

    #[test]
    fn every_number_is_added_and_written_once() {
        for how in [AddArg::Single, AddArg::Many] {
            let totals = Arc::new(Totals::default());
            let sums = Arc::clone(&totals);
            let open = move |_: Flusher| {
                Ok::<_, WriteError>(Counting { items: 0, sum: 0, totals: Arc::clone(&sums) })
            };
            let batcher = Batcher::<u64>::builder().spawn(open).unwrap();
            let adds = phase(&batcher, how, 1, (CHUNK + RUN + 1, None)).unwrap();
            assert!(batcher.shutdown(LONG).is_clean());
            let items = CHUNK + RUN + 1;
            let expected = Seen { items, sum: (0..items).sum() };
            assert_eq!(
                (Seen::added::<u64>(adds.iter()), totals.seen()),
                (expected, expected),
                "{how:?}"
            );
        }
    }

    #[test]
    fn every_word_of_an_item_is_in_the_sum() {
        assert_eq!(<[u64; 8]>::of(3).sum(), 24);
        assert_eq!([0, 0, 0, 0, 0, 0, 0, 1_u64].sum(), 1);
        assert_eq!(u64::of(5).sum(), 5);
    }
}
