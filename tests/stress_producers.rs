//! The producers' side at once, for as long as `SLUICEGATE_STRESS` says (seconds; 10 unless told):
//! tasks and threads that add, wait, give up and are aborted, every policy, budgets, ages, acks,
//! sinks that fail and panic, flushes, and a close at a random moment. After each run every item is
//! accounted for, every ack has resolved once, and no byte is held.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::stress::{self, Fails, keep_on};
use common::{
    Census, LONG, OWN, POLICIES, Rng, assert_balances, assert_in_order, assert_once, no_second_try,
    random_sinks, until,
};
use futures_util::future::join_all;
use sluicegate::{Ack, AckReason, Batcher, DropReason, Producer, Shutdown, Tracked, WhenFull};
use tokio::runtime::{self, Runtime};

const DEFAULT_SECONDS: u64 = 10;
const TASKS: u64 = 64;
const THREADS: u64 = 8;
/// Bytes of the heaviest item.
const HEAVIEST: u64 = 7;

type Item = common::Tracked;

#[test]
fn tasks_and_threads_at_once() {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.unwrap();
    keep_on(DEFAULT_SECONDS, |rng| Run::random(rng).go(rng, &runtime));
}

/// What one run is like.
#[derive(Debug)]
struct Run {
    policy: WhenFull,
    flushers: usize,
    depth: usize,
    size: usize,
    budget: Option<u64>,
    age: Option<Duration>,
    fails: Fails,
    /// Who takes failed items and those let go.
    tell: bool,
    each: u64,
    close_early: bool,
    aborts: bool,
    deadline: Duration,
}

/// What is known of the items from outside the engine.
#[derive(Default)]
struct Record {
    /// By the sinks.
    seen: stress::Shared,
    told_failed: AtomicU64,
    told_dropped: AtomicU64,
}

/// How adds and acks have ended.
#[derive(Default)]
struct Ends {
    /// Adds that returned `Ok`.
    added: u64,
    /// Acks, by what they said; `None` is a success.
    acks: HashMap<Option<AckReason>, u64>,
}

impl Ends {
    fn ack(&mut self, done: Result<sluicegate::Receipt, sluicegate::AckError<Item>>) {
        *self.acks.entry(done.err().map(|error| error.reason)).or_default() += 1;
    }
}

impl Run {
    fn random(rng: &mut Rng) -> Self {
        let depth = rng.pick(&[2, 4, 16, 128]);
        Self {
            policy: if rng.one_in(2) { WhenFull::Block } else { rng.pick(&POLICIES) },
            flushers: 1 + rng.index(3),
            depth,
            size: 1 + rng.index(depth),
            budget: rng.one_in(2).then(|| rng.pick(&[8, 50, 10_000])),
            age: rng.one_in(4).then(|| Duration::from_micros(rng.pick(&[1, 50, 5_000]))),
            fails: Fails { one_in: rng.pick(&[0, 3, 10]), panics: true },
            tell: rng.one_in(2),
            each: rng.below(60),
            close_early: rng.one_in(2),
            aborts: rng.one_in(2),
            deadline: rng.pick(&[LONG, LONG, Duration::ZERO]),
        }
    }

    /// One engine's life; returns how many items it has taken.
    fn go(&self, rng: &mut Rng, runtime: &Runtime) -> u64 {
        let (census, record) = (Census::default(), Arc::new(Record::default()));
        let batcher = self.start(&record, rng);
        let ends = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..TASKS)
            .map(|id| {
                let (producer, census, rng) = (batcher.producer(), census.clone(), rng.fork());
                let (ends, each) = (Arc::clone(&ends), self.each);
                // Made here: a task may be aborted before it begins.
                let mut teller = Teller { ends: Ends::default(), to: ends };
                runtime.spawn(async move {
                    task(&producer, &census, id, each, rng, &mut teller.ends).await;
                })
            })
            .collect();
        let done = || ends.lock().unwrap().len() as u64 == TASKS + THREADS;
        let (report, quiet) = thread::scope(|scope| {
            for id in TASKS..TASKS + THREADS {
                let (producer, census, rng) = (batcher.producer(), &census, rng.fork());
                let (ends, each) = (Arc::clone(&ends), self.each);
                scope.spawn(move || {
                    let mut teller = Teller { ends: Ends::default(), to: ends };
                    thread(&producer, census, id, each, rng, &mut teller.ends);
                });
            }
            if self.aborts {
                for _ in 0..rng.below(TASKS) {
                    tasks[rng.index(tasks.len())].abort();
                    rng.pause();
                }
            }
            if self.close_early {
                (0..rng.below(300)).for_each(|_| rng.pause());
                if rng.one_in(2) {
                    batcher.close();
                    if rng.one_in(2) {
                        until("the producers have found it closed", done);
                    }
                }
            } else {
                until("the producers are done", || {
                    assert_balances(&batcher.tally());
                    if rng.one_in(8) {
                        // Acks are waited for, and nothing may be due for long.
                        assert_balances(&batcher.flush(LONG).unwrap());
                    }
                    done()
                });
            }
            let quiet = done();
            let report = if rng.one_in(2) {
                runtime.block_on(batcher.shutdown_async(self.deadline))
            } else {
                batcher.shutdown(self.deadline)
            };
            (report, quiet)
        });
        let aborted = runtime.block_on(join_all(tasks)).into_iter().filter(|task| match task {
            Ok(()) => false,
            Err(error) => error.is_cancelled() || panic!("{error}"),
        });
        let aborted = aborted.count();
        let ends = std::mem::take(&mut *ends.lock().unwrap());
        let taken = self.check(ends, aborted, &report, &record);
        // An add that is being refused holds its bytes for a moment.
        let held = if quiet { 0 } else { (TASKS + THREADS) * HEAVIEST };
        let bytes = report.stats.queue_bytes;
        assert!(bytes <= held || !report.left_behind.is_empty(), "{bytes} left, {self:?}");
        drop((report, record));
        until("every item is dropped", || census.made() == census.dropped());
        taken
    }

    fn start(&self, record: &Arc<Record>, rng: &mut Rng) -> Batcher<Item, Tracked> {
        let (rng, fails, shared) = (rng.fork(), self.fails, Arc::clone(&record.seen));
        let mut builder = no_second_try(Batcher::builder())
            .with_acks()
            .queue_depth(self.depth)
            .max_batch_size(self.size)
            .max_batch_delay(Duration::from_micros(200))
            .flushers(self.flushers)
            .when_full(self.policy)
            .weight(|item: &Item| 1 + usize::try_from(item.number % HEAVIEST).unwrap());
        if let Some(bytes) = self.budget {
            builder = builder.max_queue_bytes(bytes);
        }
        if let Some(age) = self.age {
            builder = builder.max_age(age);
        }
        if self.tell {
            let (failed, dropped) = (Arc::clone(record), Arc::clone(record));
            builder = builder
                .on_failed(move |item| {
                    failed.told_failed.fetch_add(1, Ordering::Relaxed);
                    if item.item.number.is_multiple_of(13) {
                        resume_unwind(Box::new("as planned"));
                    }
                })
                .on_dropped(move |_| {
                    dropped.told_dropped.fetch_add(1, Ordering::Relaxed);
                });
        }
        builder
            .spawn(random_sinks(rng, move |batch, cx, rng| {
                rng.pause();
                fails.answer(batch, cx, &shared, rng)
            }))
            .unwrap()
    }

    fn check(
        &self,
        ends: Vec<Ends>,
        aborted: usize,
        report: &Shutdown<Item>,
        record: &Record,
    ) -> u64 {
        let (tally, stats) = (report.tally, &report.stats);
        assert_balances(&tally);
        let drops: u64 = stats.drops.iter().map(|(_, items)| items).sum();
        assert_eq!(tally.dropped, drops);
        // A producer that the system has stopped between its claim and its publish, past the
        // deadline, has one more in flight.
        let stopped = tally.in_flight - report.unflushed.len() as u64;
        let most = if self.deadline == LONG { 0 } else { TASKS + THREADS };
        assert!(stopped <= most, "{self:?} {tally:?} {:?}", report.unflushed);
        if !report.left_behind.is_empty() {
            assert_eq!(self.deadline, Duration::ZERO, "{self:?} {:?}", report.left_behind);
            return tally.enqueued;
        }
        let added: u64 = ends.iter().map(|ends| ends.added).sum();
        if aborted == 0 {
            assert_eq!(tally.enqueued, added, "{self:?}");
        } else {
            // A task that is aborted between its add and its note: one item each.
            assert!((added..=added + aborted as u64).contains(&tally.enqueued), "{self:?}");
        }
        let stress::Record { ok, bad, .. } = &*record.seen.lock().unwrap();
        assert_eq!(tally.flushed_ok, ok.len() as u64, "{self:?}");
        let failed = tally.flushed_fail + tally.unknown;
        assert_eq!(failed, bad.len() as u64, "{self:?}");
        if self.tell {
            assert_eq!(failed, record.told_failed.load(Ordering::Relaxed), "{self:?}");
            assert_eq!(drops, record.told_dropped.load(Ordering::Relaxed), "{self:?}");
        }
        assert_once(ok);
        if self.flushers == 1 {
            assert_in_order(ok);
        }
        let handed_back: Vec<_> = report.unflushed.iter().map(|item| item.number).collect();
        assert_in_order(&handed_back);
        let acks = |reason| ends.iter().filter_map(|ends| ends.acks.get(&reason)).sum::<u64>();
        assert!(acks(None) <= tally.flushed_ok);
        assert!(acks(Some(AckReason::Failed)) <= tally.flushed_fail);
        assert!(acks(Some(AckReason::Unknown)) <= tally.unknown);
        assert!(acks(Some(AckReason::HandedBack)) <= tally.in_flight);
        for (reason, drop) in [
            (AckReason::Newest, DropReason::Newest),
            (AckReason::Evicted, DropReason::Oldest),
            (AckReason::Expired, DropReason::Expired),
        ] {
            assert!(acks(Some(reason)) <= stats.drops.get(drop), "{self:?} {reason:?}");
        }
        for never in
            [AckReason::Abandoned, AckReason::Reentrant, AckReason::Taken, AckReason::Forked]
        {
            assert_eq!(acks(Some(never)), 0, "{self:?} {never:?}");
        }
        tally.enqueued
    }
}

/// Tells of the ends when it is dropped, by an abort too.
struct Teller {
    ends: Ends,
    to: Arc<Mutex<Vec<Ends>>>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.to.lock().unwrap().push(std::mem::take(&mut self.ends));
    }
}

/// Adds in every way that a task can.
async fn task(
    producer: &Producer<Item, Tracked>,
    census: &Census,
    id: u64,
    each: u64,
    mut rng: Rng,
    ends: &mut Ends,
) {
    let mut acks: Vec<Ack<Item>> = Vec::new();
    for number in 0..each {
        let item = census.item(id * OWN + number);
        match rng.below(5) {
            0 => {
                // Given up after a while: dropped in the middle of its wait.
                let micros = Duration::from_micros(rng.below(200));
                let added = tokio::time::timeout(micros, producer.add_async(item)).await;
                ends.added += u64::from(matches!(added, Ok(Ok(()))));
            }
            1 | 2 => {
                if let Ok(ack) = producer.add_with_ack_async(item).await {
                    ends.added += 1;
                    acks.push(ack);
                }
            }
            3 => ends.added += u64::from(producer.try_add(item).is_ok()),
            _ => ends.added += u64::from(producer.add_async(item).await.is_ok()),
        }
        if rng.one_in(8) {
            tokio::task::yield_now().await;
        }
        if acks.len() > rng.index(8) {
            match rng.below(3) {
                0 => drop(acks.swap_remove(rng.index(acks.len()))),
                1 => ends.ack(acks.swap_remove(rng.index(acks.len())).await),
                _ => {}
            }
        }
    }
    for ack in acks {
        ends.ack(ack.await);
    }
}

/// Adds in every way that a thread can.
fn thread(
    producer: &Producer<Item, Tracked>,
    census: &Census,
    id: u64,
    each: u64,
    mut rng: Rng,
    ends: &mut Ends,
) {
    let mut acks: Vec<Ack<Item>> = Vec::new();
    let each = each * TASKS / THREADS;
    let mut number = 0;
    while number < each {
        rng.pause();
        let item = || census.item(id * OWN + number);
        let micros = Duration::from_micros(rng.below(100));
        let result = match rng.below(6) {
            0 => producer.try_add(item()).map_err(drop),
            1 => producer.add_timeout(item(), micros).map_err(drop),
            2 => {
                let want = 1 + rng.below(2 * THREADS);
                let mut items: Vec<_> =
                    (number..number + want).map(|number| census.item(id * OWN + number)).collect();
                let done = producer.add_many(&mut items);
                let added = want - items.len() as u64;
                assert_eq!(done.unwrap_or_else(|error| error.added) as u64, added);
                ends.added += added;
                number += want; // those that are left are not tried again
                continue;
            }
            3 => producer.add_with_ack(item()).map(|ack| acks.push(ack)).map_err(drop),
            4 => producer
                .add_with_ack_timeout(item(), micros)
                .map(|ack| acks.push(ack))
                .map_err(drop),
            _ => producer.add(item()).map_err(drop),
        };
        ends.added += u64::from(result.is_ok());
        number += 1;
        if acks.len() > 8 {
            let mut ack = acks.swap_remove(rng.index(acks.len()));
            match rng.below(3) {
                0 => ends.ack(ack.wait()),
                1 => drop(ack),
                _ => match ack.wait_timeout(micros) {
                    Some(done) => ends.ack(done),
                    None => acks.push(ack),
                },
            }
        }
    }
    acks.into_iter().for_each(|ack| ends.ack(ack.wait()));
}
