//! Everything at once, for as long as `SLUICEGATE_STRESS` says (seconds; 20 unless told): threads
//! that add in every way with random pauses, several flushers, small queues, sinks that fail in
//! every way, flushes, snapshots, and a close at a random moment. After each run every item is
//! accounted for: count, sum, order per producer, and dropped exactly once.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::stress::{Fails, Shared, keep_on, weight};
use common::{
    Census, Going, LONG, OWN, Rng, Tracked, assert_balances, assert_in_order, no_second_try,
    random_sinks,
};
use sluicegate::{AddReason, Batcher, FailedItem, FlushWhen, Producer, Shutdown};

const DEFAULT_SECONDS: u64 = 20;

#[test]
fn everything_at_once() {
    keep_on(DEFAULT_SECONDS, |rng| Run::random(rng).go(rng));
}

/// What one run is like.
#[derive(Debug)]
struct Run {
    producers: u64,
    flushers: usize,
    depth: usize,
    size: usize,
    delay: Option<Duration>,
    idle: bool,
    bytes: Option<u64>,
    fails: Fails,
    tell: bool,
    /// Items that each producer adds, unless the engine is closed before.
    each: u64,
    close_early: bool,
    deadline: Duration,
}

impl Run {
    fn random(rng: &mut Rng) -> Self {
        let depth = rng.pick(&[2, 4, 8, 64, 512]);
        let micros = rng.pick(&[0, 10, 200, 1_000]);
        Self {
            producers: 1 + rng.below(4),
            flushers: 1 + rng.index(3),
            depth,
            size: 1 + rng.index(depth),
            delay: (!rng.one_in(4)).then(|| Duration::from_micros(micros)),
            idle: rng.one_in(4),
            bytes: rng.one_in(3).then(|| 1 + rng.below(60)),
            fails: Fails { one_in: rng.pick(&[0, 2, 10]), panics: true },
            tell: rng.one_in(2),
            each: rng.below(2_000),
            close_early: rng.one_in(2),
            deadline: rng.pick(&[LONG, Duration::MAX, Duration::ZERO]),
        }
    }

    /// One engine's life; returns how many items it has taken.
    fn go(&self, rng: &mut Rng) -> u64 {
        let (census, record) = (Census::default(), Shared::default());
        let batcher = self.start(&record, rng);
        let going = AtomicBool::new(true);
        let (accepted, report) = thread::scope(|scope| {
            let producers: Vec<_> = (0..self.producers)
                .map(|id| {
                    let (producer, census, rng) = (batcher.producer(), &census, rng.fork());
                    scope.spawn(move || produce(&producer, census, id, self.each, rng))
                })
                .collect();
            if self.close_early {
                (0..rng.below(200)).for_each(|_| rng.pause());
                return self.finish(batcher, producers, rng.one_in(2));
            }
            thread::scope(|watchers| {
                let (batcher, going, mut rng) = (&batcher, &going, rng.fork());
                let _stop = Going::new(going);
                watchers.spawn(move || {
                    while going.load(Ordering::Relaxed) {
                        assert_balances(&batcher.stats().tally);
                        if rng.one_in(4) {
                            assert_balances(&batcher.flush(LONG).unwrap());
                        }
                        thread::yield_now();
                    }
                });
                until_done(&producers);
            });
            self.finish(batcher, producers, false)
        });
        let taken = self.check(&accepted, &report, &record, &census);
        drop((report, record));
        common::until("every item is dropped", || census.made() == census.dropped());
        taken
    }

    fn start(&self, record: &Shared, rng: &mut Rng) -> Batcher<Tracked> {
        let (rng, fails, shared) = (rng.fork(), self.fails, Arc::clone(record));
        let mut builder = no_second_try(Batcher::builder())
            .queue_depth(self.depth)
            .max_batch_size(self.size)
            .max_batch_delay(self.delay)
            .flushers(self.flushers)
            .flush_when(if self.idle { FlushWhen::Idle } else { FlushWhen::Due });
        if let Some(bytes) = self.bytes {
            builder = builder.weight(weight).max_batch_bytes(bytes);
        }
        if self.tell {
            let told = Arc::clone(record);
            builder = builder.on_failed(move |failed: FailedItem<Tracked>| {
                told.lock().unwrap().told.push(failed.item.number);
                if failed.item.number.is_multiple_of(13) {
                    resume_unwind(Box::new("as planned"));
                }
            });
        }
        builder
            .spawn(random_sinks(rng, move |batch, cx, rng| {
                rng.pause();
                fails.answer(batch, cx, &shared, rng)
            }))
            .unwrap()
    }

    fn finish<'scope>(
        &self,
        batcher: Batcher<Tracked>,
        producers: Vec<thread::ScopedJoinHandle<'scope, u64>>,
        close_first: bool,
    ) -> (Vec<u64>, Shutdown<Tracked>) {
        if close_first {
            batcher.close();
        }
        let report = batcher.shutdown(self.deadline);
        (producers.into_iter().map(|producer| producer.join().unwrap()).collect(), report)
    }

    fn check(
        &self,
        accepted: &[u64],
        report: &Shutdown<Tracked>,
        record: &Shared,
        census: &Census,
    ) -> u64 {
        let tally = report.tally;
        assert_balances(&tally);
        assert_eq!(tally.enqueued, accepted.iter().sum::<u64>(), "{self:?}");
        assert_eq!(tally.in_flight, report.unflushed.len() as u64, "{self:?} {tally:?}");
        assert_eq!(report.stats.tally, tally);
        let seen = tally.enqueued - tally.in_flight;
        // A flusher that was left behind may still be about to write its batch down.
        common::until("sinks have seen what is not handed back", || {
            let record = record.lock().unwrap();
            (record.ok.len() + record.bad.len()) as u64 == seen
        });
        let record = record.lock().unwrap();
        if report.left_behind.is_empty() {
            assert_eq!(tally.flushed_ok, record.ok.len() as u64, "{self:?}");
            assert_eq!(tally.flushed_fail + tally.unknown, record.bad.len() as u64);
            let mut failed: Vec<u64> = report.failed.iter().map(|f| f.item.number).collect();
            failed.extend(&record.told);
            assert_same(failed, record.bad.clone(), "each failed item is told of once");
        } else {
            assert_eq!(self.deadline, Duration::ZERO, "{self:?} {:?}", report.left_behind);
        }
        let handed_back: Vec<_> = report.unflushed.iter().map(|item| item.number).collect();
        let all = [&record.ok[..], &record.bad, &handed_back].concat();
        let expected =
            accepted.iter().zip(0..).flat_map(|(n, id)| id * OWN..id * OWN + n).collect();
        assert_same(all, expected, "each item once");
        assert_in_order(&handed_back);
        if self.flushers == 1 {
            assert_in_order(&record.ok);
        }
        assert!(census.made() >= tally.enqueued);
        tally.enqueued
    }
}

#[track_caller]
fn assert_same(mut left: Vec<u64>, mut right: Vec<u64>, what: &str) {
    left.sort_unstable();
    right.sort_unstable();
    assert!(left == right, "{what}");
}

fn until_done(producers: &[thread::ScopedJoinHandle<'_, u64>]) {
    common::until("the producers are done", || producers.iter().all(|p| p.is_finished()));
}

/// Adds up to `each` items in every way; returns how many were taken.
fn produce(producer: &Producer<Tracked>, census: &Census, id: u64, each: u64, mut rng: Rng) -> u64 {
    let mut next = 0;
    while next < each {
        rng.pause();
        let item = || census.item(id * OWN + next);
        let refused = match rng.below(8) {
            0 => producer.try_add(item()),
            1 => producer.add_timeout(item(), Duration::from_micros(rng.below(100))),
            2 => producer.add_deadline(item(), Instant::now()),
            3 => producer.add_timeout(item(), Duration::MAX),
            way @ (4 | 5) => {
                let want = 1 + rng.below(100);
                let mut items: Vec<_> =
                    (0..want).map(|k| census.item(id * OWN + next + k)).collect();
                let result = if way == 4 {
                    producer.add_many(&mut items)
                } else {
                    producer.try_add_many(&mut items)
                };
                let added = want - items.len() as u64;
                assert_eq!(result.unwrap_or_else(|error| error.added) as u64, added);
                next += added;
                assert!(items.iter().zip(0..).all(|(item, k)| item.number == id * OWN + next + k));
                if result.is_err() {
                    return next;
                }
                continue;
            }
            _ => producer.add(item()),
        };
        match refused {
            Ok(()) => next += 1,
            Err(error) => {
                let reason = error.reason();
                assert_eq!(error.into_inner().number, id * OWN + next);
                if reason == AddReason::Closed {
                    return next;
                }
                assert!(matches!(reason, AddReason::Full | AddReason::Timeout));
            }
        }
    }
    next
}
