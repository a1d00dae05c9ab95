//! Shapes too big for loom, under random schedules: more threads, more items, every way to add.
//!
//! shuttle knows sequential consistency only, so this says nothing about memory orderings: loom
//! checks those. A failure prints its schedule; `shuttle::replay` takes it.

#![cfg(shuttle)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, Runner};
use sluicegate::internals::{
    Admission, Budget, Permits, Resolution, Shared, Writer, owned_producer, position, producer,
    seat,
};
use sluicegate::sink::from_fn;
use sluicegate::{
    AckReason, Adaptive, AddError, AddReason, Batch, Breaker, FailedItem, Mode, Plain, Producer,
    Retry, Sink, Tracked, WhenFull, WhileOpen, WriteContext, WriteError,
};
use sluicegate_loom_tests::{
    Failing, Item, Parts, block_on, every_item_dropped_once, failing, forget_items, make, parts,
    parts_with, poll_once, serve,
};

/// Schedules of each kind for each test.
const SCHEDULES: usize = 30_000;
/// Priority changes in a schedule of the PCT kind.
const CHANGES: usize = 3;
const STACK: usize = 256 << 10;
/// Longer than any run: nothing here takes time.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

fn check(name: &str, body: fn()) {
    run(name, "random", RandomScheduler::new(SCHEDULES), body);
    run(name, "pct", PctScheduler::new(CHANGES, SCHEDULES), body);
}

fn run(name: &str, kind: &str, scheduler: impl Scheduler + 'static, body: fn()) {
    let mut config = Config::new();
    config.stack_size = STACK;
    let begin = Instant::now();
    Runner::new(scheduler, config).run(move || {
        forget_items();
        body();
        every_item_dropped_once();
    });
    println!("{name}, {kind}: {SCHEDULES} schedules, {:.1} s", begin.elapsed().as_secs_f64());
}

/// What the sinks were given: position, producer, number. Of std, for it is no part of what is
/// checked.
type Seen = Arc<Mutex<Vec<(u64, u32, u32)>>>;

fn flushers<const N: usize, M: Mode<Item>>(
    parts: &Arc<Shared<Item, M>>,
    seen: &Seen,
) -> [JoinHandle<()>; N] {
    std::array::from_fn(|index| {
        let (parts, seen) = (Arc::clone(parts), Arc::clone(seen));
        thread::spawn(move || {
            serve(&parts, &mut Writer::new(seat(index), Some(sink(seen))));
            parts.ledger.ended(seat(index), Vec::new());
        })
    })
}

fn sink(seen: Seen) -> impl Sink<Item> {
    from_fn(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| {
        thread::yield_now();
        let items = batch.iter().map(|item| (item.producer(), item.number()));
        let items = (position(batch)..).zip(items).map(|(at, (id, n))| (at, id, n));
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend(items);
        Ok(())
    })
}

/// Numbers of the items of each producer, by position; positions have no gap.
fn numbers<const PRODUCERS: usize>(seen: &Seen) -> [Vec<u32>; PRODUCERS] {
    let mut all = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    all.sort_unstable();
    let mut numbers = [const { Vec::new() }; PRODUCERS];
    for ((at, id, number), expected) in all.into_iter().zip(0..) {
        assert_eq!(at, expected, "a gap, or an item in two batches");
        numbers[id as usize].push(number);
    }
    numbers
}

/// Adds `items` items in one of the ways there are, until the engine is closed; returns how many it
/// took.
fn add_all(producer: &Producer<Item>, id: u32, items: u32) -> u32 {
    let mut left: Vec<_> = (0..items).map(|n| Item::new(id, n)).collect();
    let closed = |reason| assert_eq!(reason, AddReason::Closed);
    match id {
        0 => add_singly(left, |item| producer.add(item)),
        1 => add_singly(left, |item| producer.add_timeout(item, FOR_EVER)),
        2 => {
            producer.add_many(&mut left).map_or_else(|error| closed(error.reason), |_| ());
            items - u32::try_from(left.len()).unwrap()
        }
        _ => loop {
            match producer.try_add_many(&mut left) {
                Ok(_) if left.is_empty() => return items,
                Ok(_) => thread::yield_now(),
                Err(error) => {
                    closed(error.reason);
                    return items - u32::try_from(left.len()).unwrap();
                }
            }
        },
    }
}

fn add_singly(items: Vec<Item>, add: impl Fn(Item) -> Result<(), AddError<Item>>) -> u32 {
    let mut added = 0;
    for item in items {
        let (id, number) = (item.producer(), item.number());
        match add(item) {
            Ok(()) => added += 1,
            Err(AddError::Closed(back)) => {
                assert_eq!((back.producer(), back.number()), (id, number));
                return added;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    added
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("shuttle ends the run when a thread panics");
    }
}

/// Four producers, each with another way to add, on a ring of four slots; two flushers; closing at
/// any moment.
#[test]
fn every_item_has_one_fate() {
    check("every_item_has_one_fate", || {
        const ITEMS: u32 = 6;
        let (parts, seen) = (parts(4, 3, 2), Seen::default());
        let flushers: [_; 2] = flushers(&parts, &seen);
        let producers = [0, 1, 2, 3].map(|id| {
            let producer = producer(Arc::clone(&parts));
            thread::spawn(move || add_all(&producer, id, ITEMS))
        });
        for _ in 0..thread_rng().gen_range(0..60) {
            thread::yield_now();
        }
        let tally = parts.tally();
        assert!(tally.balances(), "{tally:?}");
        let pushed = parts.any().close();
        let added = producers.map(|producer| producer.join().unwrap());
        join(flushers);
        let expected = added.map(|added| (0..added).collect::<Vec<_>>());
        assert_eq!(numbers(&seen), expected, "accepted, and in the order of each producer");
        let tally = parts.tally();
        assert_eq!((tally.enqueued, tally.flushed_ok, tally.in_flight), (pushed, pushed, 0));
        assert_eq!(parts.any().room.len(), 0, "nobody waits for a closed engine");
    });
}

/// Every batch fills, and nobody flushes or closes before all is written: no wake-up but the
/// batch's own, and none for producers but for slots freed.
#[test]
fn full_batches_need_no_help() {
    check("full_batches_need_no_help", || {
        const ITEMS: u32 = 3;
        let (parts, seen) = (parts(4, 3, 2), Seen::default());
        let flushers: [_; 2] = flushers(&parts, &seen);
        let producers = [0, 1, 2, 3].map(|id| {
            let producer = producer(Arc::clone(&parts));
            thread::spawn(move || assert_eq!(add_all(&producer, id, ITEMS), ITEMS))
        });
        assert_eq!(parts.ledger.wait_resolved(&[12], FOR_EVER), Resolution::Resolved);
        parts.any().close();
        join(producers);
        join(flushers);
        assert_eq!(numbers(&seen), [const { [0, 1, 2] }; 4]);
    });
}

/// Three producers flush after each of their items, while two flushers write; batches never fill by
/// themselves.
#[test]
fn flush_covers_what_was_added() {
    check("flush_covers_what_was_added", || {
        const ITEMS: u32 = 2;
        let (parts, seen) = (parts(8, 8, 2), Seen::default());
        let flushers: [_; 2] = flushers(&parts, &seen);
        let through = Arc::new(AtomicUsize::new(0));
        let callers = [0, 1, 2].map(|id| {
            let (parts, seen) = (Arc::clone(&parts), Arc::clone(&seen));
            let through = Arc::clone(&through);
            thread::spawn(move || {
                let producer = producer(Arc::clone(&parts));
                for n in 0..ITEMS {
                    producer.add(Item::new(id, n)).unwrap();
                    assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
                    let seen = seen.lock().unwrap();
                    assert!(seen.iter().any(|&(_, by, number)| (by, number) == (id, n)));
                }
                if through.fetch_add(1, Ordering::Relaxed) == 2 {
                    parts.any().close();
                }
            })
        });
        join(callers);
        join(flushers);
        assert_eq!(numbers(&seen), [const { [0, 1] }; 3]);
    });
}

/// Three producers with rings of their own, and one without; two flushers; flushes and closing at any
/// moment. The owners go when they are through.
fn owners(when_full: WhenFull) {
    const ITEMS: u32 = 5;
    let lossless = when_full == WhenFull::Block;
    let choice = Failing { owned_depth: 4, ..Failing::default() };
    let admission = Admission { when_full, ..Admission::default() };
    let (parts, seen) = (make::<Plain>(4, 3, 2, admission, choice), Seen::default());
    let flushers: [_; 2] = flushers(&parts, &seen);
    let owners = [1, 2, 3].map(|id| {
        let (parts, seen) = (Arc::clone(&parts), Arc::clone(&seen));
        let mut owner = owned_producer(&parts);
        thread::spawn(move || {
            add_or_lose(id, ITEMS, |item| {
                let number = item.number();
                owner.add(item)?;
                if thread_rng().gen_bool(0.2) {
                    assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
                    let seen = seen.lock().unwrap();
                    let written = seen.iter().any(|&(_, by, n)| (by, n) == (id, number));
                    assert!(written || !lossless);
                }
                Ok(())
            })
        })
    });
    let shared = thread::spawn({
        let producer = producer(Arc::clone(&parts));
        move || add_or_lose(0, ITEMS, |item| producer.add(item))
    });
    for _ in 0..thread_rng().gen_range(0..80) {
        thread::yield_now();
    }
    let tally = parts.tally();
    assert!(tally.balances(), "{tally:?}");
    parts.any().close();
    let added =
        shared.join().unwrap() + owners.map(|owner| owner.join().unwrap()).iter().sum::<u64>();
    join(flushers);
    let tally = parts.tally();
    assert_eq!(
        (tally.enqueued, tally.flushed_ok + tally.dropped, tally.in_flight),
        (added, added, 0)
    );
    assert!(tally.dropped == 0 || !lossless, "{tally:?}");
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_unstable();
    assert_eq!(seen.len() as u64, tally.flushed_ok);
    for id in 0..4 {
        let numbers = seen.iter().filter(|seen| seen.1 == id).map(|seen| seen.2);
        assert!(numbers.is_sorted_by(|one, next| one < next), "{seen:?}");
    }
    let shard = parts.any();
    shard.owned.as_ref().unwrap().look(&shard.ring, added, u64::MAX);
    assert_eq!(shard.capacity(), shard.ring.capacity(), "the slots of owners that went are free");
}

/// Adds one by one until the engine is closed; returns how many it took. Under `DropOldest` there may
/// be nothing to let go of.
fn add_or_lose(
    id: u32,
    items: u32,
    mut add: impl FnMut(Item) -> Result<(), AddError<Item>>,
) -> u64 {
    let mut added = 0;
    for number in 0..items {
        match add(Item::new(id, number)) {
            Ok(()) => added += 1,
            Err(AddError::Full(_)) => {}
            Err(AddError::Closed(_)) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    added
}

#[test]
fn owners_block() {
    check("owners_block", || owners(WhenFull::Block));
}

#[test]
fn owners_evict() {
    check("owners_evict", || owners(WhenFull::DropOldest));
}

/// Shutdown gives up at any moment: what was written, what is unknown and what is handed back make
/// up everything.
#[test]
fn giving_up_loses_nothing() {
    check("giving_up_loses_nothing", || {
        const ITEMS: u32 = 4;
        let (parts, seen) = (parts(4, 2, 2), Seen::default());
        let flushers: [_; 2] = flushers(&parts, &seen);
        let producers = [0, 1].map(|id| {
            let producer = producer(Arc::clone(&parts));
            thread::spawn(move || add_all(&producer, id, ITEMS))
        });
        for _ in 0..thread_rng().gen_range(0..40) {
            thread::yield_now();
        }
        let pushed = parts.any().close();
        parts.ledger.stop();
        parts.any().stop();
        drop(parts.ledger.leave_behind(None));
        join(flushers);
        let added: u32 = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        let mut unflushed = parts.ledger.take_handed_back();
        parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut unflushed);
        let tally = parts.tally();
        assert!(tally.balances(), "{tally:?}");
        assert_eq!((tally.enqueued, u64::from(added)), (pushed, pushed));
        assert_eq!(tally.in_flight, unflushed.len() as u64, "{tally:?}");
        let sinks_saw = seen.lock().unwrap().len() as u64;
        assert_eq!(sinks_saw, tally.flushed_ok + tally.unknown, "a write left behind has its end");
    });
}

/// What became of the items of one producer.
#[derive(Default)]
struct Fates {
    /// In the sink, says the ack.
    written: u64,
    /// Let go for a newer one, says the ack.
    evicted: u64,
    /// Added without an ack.
    unknown: u64,
}

/// Adds items as threads and as tasks, with acks and without, some given up half-way; waits for
/// every ack, as a thread or as a task, or drops it.
fn add_somehow(producer: &Producer<Item, Tracked>, id: u32, items: u32) -> Fates {
    let (mut fates, mut acks) = (Fates::default(), Vec::new());
    for n in 0..items {
        let item = Item::new(id, n);
        let added = match thread_rng().gen_range(0..4) {
            0 => producer.add(item).map(|()| None),
            1 => block_on(producer.add_async(item)).map(|()| None),
            2 => producer.add_with_ack(item).map(Some),
            _ => {
                let mut adding = producer.add_with_ack_async(item);
                let polled = poll_once(&mut adding);
                match polled {
                    Some(added) => added.map(Some),
                    None if thread_rng().gen_bool(0.5) => continue, // given up, with its item
                    None => block_on(adding).map(Some),
                }
            }
        };
        match added {
            Ok(Some(ack)) if thread_rng().gen_bool(0.8) => acks.push(ack),
            Ok(_) => fates.unknown += 1,
            Err(AddError::Closed(_)) => break,
            Err(AddError::Full(_)) => {} // nothing to let go of: it is just being published
            Err(other) => panic!("{other:?}"),
        }
    }
    for ack in acks {
        let outcome = if thread_rng().gen_bool(0.5) { ack.wait() } else { block_on(ack) };
        match outcome.map_err(|error| (error.reason, error.item)) {
            Ok(_) => fates.written += 1,
            Err((AckReason::Evicted, Some(_))) => fates.evicted += 1,
            Err((reason, _)) => panic!("{reason:?}"),
        }
    }
    fates
}

/// Three producers that add in every way, two flushers, closing at any moment.
fn tasks_and_threads(when_full: WhenFull, budget: Option<u64>) {
    const ITEMS: u32 = 4;
    let admission = Admission {
        when_full,
        budget: budget.map(Budget::new),
        weight: Some(Arc::new(|item: &Item| 1 + item.number() as usize % 3)),
        ..Admission::default()
    };
    let (parts, seen) = (parts_with::<Tracked>(4, 3, 2, admission), Seen::default());
    let flushers: [_; 2] = flushers(&parts, &seen);
    let producers = [0, 1, 2].map(|id| {
        let producer = producer(Arc::clone(&parts));
        thread::spawn(move || add_somehow(&producer, id, ITEMS))
    });
    for _ in 0..thread_rng().gen_range(0..60) {
        thread::yield_now();
    }
    let tally = parts.tally();
    assert!(tally.balances(), "{tally:?}");
    let pushed = parts.any().close();
    let fates = producers.map(|producer| producer.join().unwrap());
    join(flushers);
    let tally = parts.tally();
    assert!(tally.balances(), "{tally:?}");
    let sum = |what: fn(&Fates) -> u64| fates.iter().map(what).sum::<u64>();
    let (written, evicted) = (sum(|f| f.written), sum(|f| f.evicted));
    assert_eq!((tally.enqueued, tally.in_flight), (pushed, 0), "{tally:?}");
    assert_eq!(written + evicted + sum(|f| f.unknown), pushed, "accepted");
    assert_eq!(tally.flushed_ok, seen.lock().unwrap().len() as u64, "delivered");
    assert_eq!(tally.flushed_ok + tally.dropped, pushed, "{tally:?}");
    assert!(written <= tally.flushed_ok && evicted <= tally.dropped, "{tally:?}");
    assert_eq!(parts.any().room.len(), 0, "nobody waits for a closed engine");
    assert_eq!(parts.any().admission.budget.as_ref().map_or(0, Budget::used), 0, "bytes were lost");
}

#[test]
fn tasks_block() {
    check("tasks_block", || tasks_and_threads(WhenFull::Block, None));
}

#[test]
fn tasks_evict() {
    check("tasks_evict", || tasks_and_threads(WhenFull::DropOldest, None));
}

#[test]
fn tasks_are_short_of_bytes() {
    check("tasks_are_short_of_bytes", || tasks_and_threads(WhenFull::Block, Some(4)));
}

#[test]
fn tasks_evict_for_bytes() {
    check("tasks_evict_for_bytes", || tasks_and_threads(WhenFull::DropOldest, Some(4)));
}

/// Half of the items are refused: each is with its ack, or, if that is gone, with the engine.
#[test]
fn a_failed_item_is_in_one_place() {
    check("a_failed_item_is_in_one_place", || {
        const ITEMS: u32 = 4;
        let parts = parts_with::<Tracked>(4, 2, 1, Admission::default());
        let flusher = thread::spawn({
            let parts = Arc::clone(&parts);
            move || {
                let sink = from_fn(|batch: &Batch<Item>, cx: &mut WriteContext<'_>| {
                    let odd = (0..batch.len()).filter(|at| batch[*at].number() % 2 == 1);
                    odd.for_each(|at| cx.fail(at, WriteError::permanent("refused")));
                    Ok(())
                });
                serve(&parts, &mut Writer::new(seat(0), Some(sink)));
            }
        });
        let producers = [0, 1].map(|id| {
            let producer = producer(Arc::clone(&parts));
            thread::spawn(move || {
                let add = |n| producer.add_with_ack(Item::new(id, n)).unwrap();
                let acks: Vec<_> = (0..ITEMS).map(add).collect();
                let kept = acks.into_iter().filter(|_| thread_rng().gen_bool(0.5));
                kept.filter_map(|ack| ack.wait().err()?.item).count()
            })
        });
        let acked: usize = producers.map(|producer| producer.join().unwrap()).into_iter().sum();
        parts.any().close();
        flusher.join().unwrap();
        let kept = parts.ledger.take_failed().0.len();
        assert!(acked + kept <= ITEMS as usize, "an item in two places");
        assert_eq!(parts.tally().flushed_fail, u64::from(ITEMS));
    });
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Written,
    Failed,
    HandedBack,
}

/// Of each item, by producer and number; of std, for it is no part of what is checked.
#[derive(Clone, Default)]
struct FateOf(Arc<Mutex<BTreeMap<(u32, u32), Fate>>>);

impl FateOf {
    fn meets(&self, item: &Item, fate: Fate) {
        let before = self.0.lock().unwrap().insert((item.producer(), item.number()), fate);
        assert_eq!(before, None, "{item:?} has two fates, now {fate:?}");
    }

    fn is_known(&self, id: u32, number: u32) -> bool {
        self.0.lock().unwrap().contains_key(&(id, number))
    }

    fn count(&self, which: Fate) -> u64 {
        self.0.lock().unwrap().values().filter(|fate| **fate == which).count() as u64
    }
}

/// A sink that fails half of the time, as a whole or an item, for now or for good.
fn failing_sink(fates: FateOf) -> impl Sink<Item> {
    from_fn(move |batch: &Batch<Item>, cx: &mut WriteContext<'_>| {
        thread::yield_now();
        let mut bad = None;
        match thread_rng().gen_range(0..10) {
            0 | 1 => return Err(WriteError::transient("for now")),
            2 => return Err(WriteError::permanent("for good")),
            3 => bad = Some(WriteError::transient("one for now")),
            4 => bad = Some(WriteError::permanent("one for good")),
            _ => {}
        }
        let bad = bad.map(|error| {
            let at = thread_rng().gen_range(0..batch.len());
            cx.fail(at, error);
            at
        });
        let good = batch.iter().enumerate().filter(|(at, _)| bad != Some(*at));
        good.for_each(|(_, item)| fates.meets(item, Fate::Written));
        Ok(())
    })
}

/// Three flushers that try again at once, split what is refused, and share a breaker; sometimes no
/// more than two of them may write.
fn failing_parts(fates: &FateOf) -> Parts {
    let retry = Retry::default().max_attempts(3).give_up_after(None).budget_floor(1e6);
    let retry = retry.initial_delay(Duration::ZERO).max_delay(Duration::ZERO);
    let while_open = [WhileOpen::Hold, WhileOpen::DeadLetter][thread_rng().gen_range(0..2)];
    let breaker = Breaker::default().min_writes(2).open_for(Duration::ZERO).while_open(while_open);
    let two = thread_rng().gen_bool(0.5).then(|| Adaptive::default().min(2).max(2));
    let permits = Permits { breaker: Some(breaker), adaptive: two, ..Permits::default() };
    let settings = Failing { retry: Some(retry), bisect: true, permits, ..Failing::default() };
    let mut parts = failing(4, 2, 3, settings);
    let fates = fates.clone();
    let on_failed = move |failed: FailedItem<Item>| fates.meets(&failed.item, Fate::Failed);
    Arc::get_mut(&mut parts).unwrap().on_failed = Some(Arc::new(on_failed));
    parts
}

/// Adds items, and flushes now and then; returns how many it added.
fn add_and_flush(parts: &Parts, fates: &FateOf, id: u32, items: u32) -> u32 {
    let producer = producer(Arc::clone(parts));
    for n in 0..items {
        if let Err(error) = producer.add(Item::new(id, n)) {
            assert!(matches!(error, AddError::Closed(_)), "{error:?}");
            return n;
        }
        if thread_rng().gen_bool(0.4) && parts.flush(FOR_EVER) == Resolution::Resolved {
            assert!((0..=n).all(|n| fates.is_known(id, n)), "flush came back too early");
        }
    }
    items
}

/// Sinks fail at random; closing at any moment, and then sometimes a stop. Each item is written,
/// has failed or comes back, and just one of these; a flush waits for that.
#[test]
fn sinks_that_fail() {
    check("sinks_that_fail", || {
        const ITEMS: u32 = 4;
        let fates = FateOf::default();
        let parts = failing_parts(&fates);
        let flushers = [0, 1, 2].map(|index| {
            let (parts, sink) = (Arc::clone(&parts), failing_sink(fates.clone()));
            thread::spawn(move || {
                serve(&parts, &mut Writer::new(seat(index), Some(sink)));
                parts.ledger.ended(seat(index), Vec::new());
            })
        });
        let producers = [0, 1].map(|id| {
            let (parts, fates) = (Arc::clone(&parts), fates.clone());
            thread::spawn(move || add_and_flush(&parts, &fates, id, ITEMS))
        });
        for _ in 0..thread_rng().gen_range(0..100) {
            thread::yield_now();
        }
        let stats = parts.stats();
        assert!(stats.tally.balances(), "{stats:?}");
        let pushed = parts.any().close();
        let stopped = thread_rng().gen_bool(0.5);
        if stopped {
            parts.ledger.stop();
            parts.any().stop();
        }
        join(flushers);
        let added: u32 = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        parts.hand_back_waiting();
        let mut unflushed = parts.ledger.take_handed_back();
        parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut unflushed);
        unflushed.iter().for_each(|item| fates.meets(item, Fate::HandedBack));
        let tally = parts.tally();
        assert_eq!((tally.enqueued, u64::from(added)), (pushed, pushed), "{tally:?}");
        let counts = [Fate::Written, Fate::Failed, Fate::HandedBack].map(|fate| fates.count(fate));
        assert_eq!(counts, [tally.flushed_ok, tally.flushed_fail, tally.in_flight], "{tally:?}");
        assert_eq!(counts.iter().sum::<u64>(), pushed, "{tally:?}");
        assert!(stopped || tally.in_flight == 0, "{tally:?}");
    });
}
