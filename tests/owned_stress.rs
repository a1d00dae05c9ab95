//! Everything at once, with owned rings, for as long as `SLUICEGATE_STRESS` says (seconds; 10 unless
//! told): owned and shared producers that add in every way, come and go, two flushers, small rings,
//! sinks that fail, flushes, snapshots, and a close at a random moment. After each run every item is
//! accounted for: count, sum, order per producer, and dropped exactly once.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::stress::{Fails, Record, Shared, keep_on, weight};
use common::{
    Census, LONG, OWN, POLICIES, Rng, Tracked, assert_balances, assert_in_order, no_second_try,
    random_sinks, until,
};
use sluicegate::{
    AddError, AddManyError, AddReason, Batcher, Builder, DroppedItem, FlushWhen, Mode, OwnedError,
    OwnedProducer, Producer, Shutdown, WhenFull,
};

const DEFAULT_SECONDS: u64 = 10;
const FLUSHERS: usize = 2;

#[test]
fn everything_at_once_through_owned_rings() {
    keep_on(DEFAULT_SECONDS, |rng| {
        let run = Run::random(rng);
        let builder = run.builder();
        match rng.pick(&[None, Some(60), Some(500)]) {
            None => run.go(builder, rng),
            Some(bytes) => run.go(builder.weight(weight).max_queue_bytes(bytes), rng),
        }
    });
}

/// What one run is like.
#[derive(Debug)]
struct Run {
    owners: u64,
    sharers: u64,
    depth: usize,
    owned_depth: usize,
    size: usize,
    delay: Option<Duration>,
    idle: bool,
    policy: WhenFull,
    fails: Fails,
    /// Items that each thread adds, unless the engine is closed before.
    each: u64,
    close_early: bool,
    deadline: Duration,
}

impl Run {
    fn random(rng: &mut Rng) -> Self {
        let depth = rng.pick(&[8, 16, 64, 512]);
        let micros = rng.pick(&[0, 10, 200, 1_000]);
        Self {
            owners: 1 + rng.below(4),
            sharers: rng.below(3),
            depth,
            owned_depth: rng.pick(&[2, 4, 8]),
            size: 1 + rng.index(depth),
            delay: (!rng.one_in(3)).then(|| Duration::from_micros(micros)),
            idle: rng.one_in(4),
            policy: if rng.one_in(2) { WhenFull::Block } else { rng.pick(&POLICIES) },
            fails: Fails { one_in: rng.pick(&[0, 2, 10]), panics: false },
            each: rng.below(2_000),
            close_early: rng.one_in(2),
            deadline: rng.pick(&[LONG, Duration::MAX, Duration::ZERO]),
        }
    }

    fn builder(&self) -> Builder<Tracked> {
        no_second_try(Batcher::builder())
            .queue_depth(self.depth)
            .owned_depth(self.owned_depth)
            .max_batch_size(self.size)
            .max_batch_delay(self.delay)
            .flushers(FLUSHERS)
            .flush_when(if self.idle { FlushWhen::Idle } else { FlushWhen::Due })
            .when_full(self.policy)
    }

    /// One engine's life; returns how many items it has taken.
    fn go<M: Mode<Tracked>>(&self, builder: Builder<Tracked, M>, rng: &mut Rng) -> u64 {
        let (census, record) = (Census::default(), Shared::default());
        let (shared, told, fails) = (Arc::clone(&record), Arc::clone(&record), self.fails);
        let batcher = builder
            .on_dropped(move |DroppedItem { item, .. }| {
                told.lock().unwrap().told.push(item.number);
            })
            .spawn(random_sinks(rng.fork(), move |batch, cx, rng| {
                rng.pause();
                fails.answer(batch, cx, &shared, rng)
            }))
            .unwrap();
        let accepted = thread::scope(|scope| {
            let adding: Vec<_> = (0..self.owners + self.sharers)
                .map(|id| {
                    let (batcher, census, rng) = (&batcher, &census, rng.fork());
                    let make = move || match id < self.owners {
                        true => owned(batcher).map(Adder::Owned),
                        false => Some(Adder::Shared(batcher.producer())),
                    };
                    scope.spawn(move || produce(make, census, id, self.each, rng))
                })
                .collect();
            if self.close_early {
                (0..rng.below(500)).for_each(|_| rng.pause());
            } else {
                let done = || adding.iter().all(|adding| adding.is_finished());
                while !done() {
                    let stats = batcher.stats();
                    assert_balances(&stats.tally);
                    assert!(stats.queue_depth <= stats.tally.in_flight, "{stats:?}");
                    if rng.one_in(4) {
                        assert_balances(&batcher.flush(LONG).unwrap());
                    }
                    thread::yield_now();
                }
            }
            batcher.close();
            adding.into_iter().map(|adding| adding.join().unwrap()).collect::<Vec<_>>()
        });
        let report = batcher.shutdown(self.deadline);
        let taken = self.check(&accepted, &report, &record);
        assert!(census.made() >= taken);
        drop((report, record));
        until("every item is dropped", || census.made() == census.dropped());
        taken
    }

    fn check(&self, accepted: &[u64], report: &Shutdown<Tracked>, record: &Shared) -> u64 {
        let tally = report.tally;
        assert_balances(&tally);
        assert_eq!(tally.enqueued, accepted.iter().sum::<u64>(), "{self:?}");
        assert_eq!(tally.in_flight, report.unflushed.len() as u64, "{self:?} {tally:?}");
        let seen = tally.enqueued - tally.in_flight;
        // A flusher that was left behind may still be about to write its batch down.
        until("all that is not handed back was seen", || {
            let Record { ok, bad, told } = &*record.lock().unwrap();
            (ok.len() + bad.len() + told.len()) as u64 == seen
        });
        let record = record.lock().unwrap();
        assert_eq!(tally.dropped, record.told.len() as u64, "{self:?}");
        if report.left_behind.is_empty() {
            assert_eq!(tally.flushed_ok, record.ok.len() as u64, "{self:?}");
        }
        assert!(self.policy != WhenFull::Block || record.told.is_empty());
        let handed_back: Vec<_> = report.unflushed.iter().map(|item| item.number).collect();
        let Record { ok, bad, told } = &*record;
        let mut all = [&ok[..], bad, told, &handed_back].concat();
        all.sort_unstable();
        let expected = (0..).zip(accepted).flat_map(|(id, n)| id * OWN..id * OWN + n);
        assert!(all.into_iter().eq(expected), "each item once: {self:?}");
        assert_in_order(&handed_back);
        tally.enqueued
    }
}

/// A producer of either kind.
enum Adder<M: Mode<Tracked>> {
    Shared(Producer<Tracked, M>),
    Owned(OwnedProducer<Tracked, M>),
}

macro_rules! either {
    ($adder:expr, $producer:ident => $call:expr) => {
        match $adder {
            Adder::Shared($producer) => $call,
            Adder::Owned($producer) => $call,
        }
    };
}

impl<M: Mode<Tracked>> Adder<M> {
    fn add(&mut self, item: Tracked, rng: &mut Rng) -> Result<(), AddError<Tracked>> {
        let short = Duration::from_micros(rng.below(100));
        match rng.below(5) {
            0 => either!(self, producer => producer.try_add(item)),
            1 => either!(self, producer => producer.add_timeout(item, short)),
            2 => either!(self, producer => producer.add_deadline(item, Instant::now())),
            3 => either!(self, producer => producer.add_timeout(item, Duration::MAX)),
            _ => either!(self, producer => producer.add(item)),
        }
    }

    fn add_many(&mut self, items: &mut Vec<Tracked>, wait: bool) -> Result<usize, AddManyError> {
        match wait {
            true => either!(self, producer => producer.add_many(items)),
            false => either!(self, producer => producer.try_add_many(items)),
        }
    }
}

/// None while the slots are those of who was before.
fn owned<M: Mode<Tracked>>(batcher: &Batcher<Tracked, M>) -> Option<OwnedProducer<Tracked, M>> {
    match batcher.owned_producer() {
        Ok(owner) => Some(owner),
        Err(OwnedError::NoSlots { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Adds up to `each` items in every way; returns how many were taken.
fn produce<M: Mode<Tracked>>(
    make: impl Fn() -> Option<Adder<M>>,
    census: &Census,
    id: u64,
    each: u64,
    mut rng: Rng,
) -> u64 {
    let (mut next, mut adder) = (0, None);
    while next < each {
        rng.pause();
        if rng.one_in(50) {
            adder = None; // with items in it, maybe
        }
        if adder.is_none() {
            adder = make();
        }
        let Some(adder) = &mut adder else {
            if rng.one_in(1_000) {
                return next; // others have the slots
            }
            continue;
        };
        let reason = if rng.one_in(4) {
            let want = 1 + rng.below(30);
            let mut items: Vec<_> = (0..want).map(|k| census.item(id * OWN + next + k)).collect();
            let result = adder.add_many(&mut items, rng.one_in(2));
            let added = want - items.len() as u64;
            assert_eq!(result.unwrap_or_else(|error| error.added) as u64, added);
            next += added;
            assert!((next..).zip(&items).all(|(n, item)| item.number == id * OWN + n));
            result.err().map(|error| error.reason)
        } else {
            match adder.add(census.item(id * OWN + next), &mut rng) {
                Ok(()) => {
                    next += 1;
                    None
                }
                Err(error) => {
                    let reason = error.reason();
                    assert_eq!(error.into_inner().number, id * OWN + next);
                    Some(reason)
                }
            }
        };
        match reason {
            Some(AddReason::Closed) => return next,
            None | Some(AddReason::Full | AddReason::Timeout) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
    next
}
