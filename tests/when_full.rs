//! Promise: on a full queue each way to add does what the policy says: it waits, gives the item
//! back, or lets one go, and counts it there. `docs/guarantees.md` has the table; its cells name
//! these tests.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Census, Gate, Going, LONG, Log, POLICIES, Rng, assert_balances, block_on, full_by, holding,
    random_sinks, until,
};
use sluicegate::{
    Ack, AckReason, AddError, AddManyError, AddReason, Batch, Batcher, DropReason, DroppedItem,
    FlushError, Producer, Tracked, WhenFull,
};

/// The item that meets the full queue.
const NEW: u64 = 9;

type Told = Arc<Mutex<Vec<(u64, DropReason)>>>;

/// An engine whose sink holds item 0, and whose queue of 4 is full of 1 to 4.
struct Full {
    batcher: Batcher<u64, Tracked>,
    gate: Gate,
    log: Log<u64>,
    /// What `on_dropped` was given.
    told: Told,
}

fn full(policy: WhenFull) -> Full {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let builder = Batcher::builder().when_full(policy).on_dropped(move |dropped| {
        tell.lock().unwrap().push((dropped.item, dropped.reason));
    });
    let (batcher, gate, log) = full_by(builder.with_acks(), 4);
    Full { batcher, gate, log, told }
}

impl Full {
    fn drops(&self) -> [u64; 3] {
        DropReason::ALL.map(|reason| self.batcher.stats().drops.get(reason))
    }

    /// Opens the gate, and checks what was written and how the items add up.
    #[track_caller]
    fn ends_with(self, written: &[u64], dropped: u64, rejected: u64) {
        self.gate.open();
        let tally = self.batcher.flush(LONG).unwrap();
        assert_eq!(tally.in_flight, 0);
        let report = self.batcher.shutdown(LONG);
        assert_balances(&report.tally);
        assert_eq!(report.tally.enqueued, written.len() as u64 + dropped);
        assert_eq!(report.tally.flushed_ok, written.len() as u64);
        assert_eq!(report.tally.dropped, dropped);
        let drops: u64 = report.stats.drops.iter().map(|(_, items)| items).sum();
        assert_eq!((drops, report.stats.rejected), (dropped, rejected));
        assert_eq!(self.log.items(), written);
        assert_eq!(self.told.lock().unwrap().len() as u64, dropped);
    }
}

/// What an add said: the ack, if it gives one; or the item back.
type Answer = Result<Option<Ack<u64>>, (u64, AddReason)>;
type Method = fn(&Producer<u64, Tracked>, Duration) -> Answer;

fn no_ack(result: Result<(), AddError<u64>>) -> Answer {
    result.map(|()| None).map_err(back)
}

fn with_ack(result: Result<Ack<u64>, AddError<u64>>) -> Answer {
    result.map(Some).map_err(back)
}

fn back(error: AddError<u64>) -> (u64, AddReason) {
    let reason = error.reason();
    (error.into_inner(), reason)
}

// The time is for those that take one.
fn add(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    no_ack(producer.add(NEW))
}

fn try_add(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    no_ack(producer.try_add(NEW))
}

fn add_timeout(producer: &Producer<u64, Tracked>, timeout: Duration) -> Answer {
    no_ack(producer.add_timeout(NEW, timeout))
}

fn add_deadline(producer: &Producer<u64, Tracked>, timeout: Duration) -> Answer {
    no_ack(producer.add_deadline(NEW, Instant::now() + timeout))
}

fn add_many(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    let mut items = vec![NEW];
    match producer.add_many(&mut items) {
        Ok(added) => {
            assert_eq!((added, items.len()), (1, 0));
            Ok(None)
        }
        Err(AddManyError { added, reason }) => {
            assert_eq!(added, 0);
            Err((items[0], reason))
        }
    }
}

fn try_add_many(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    let mut items = vec![NEW];
    match producer.try_add_many(&mut items) {
        Ok(added) => {
            assert_eq!(added, 1 - items.len());
            items.first().map_or(Ok(None), |item| Err((*item, AddReason::Full)))
        }
        Err(AddManyError { reason, .. }) => Err((items[0], reason)),
    }
}

fn add_async(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    no_ack(block_on(producer.add_async(NEW)))
}

fn add_with_ack(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    with_ack(producer.add_with_ack(NEW))
}

fn try_add_with_ack(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    with_ack(producer.try_add_with_ack(NEW))
}

fn add_with_ack_timeout(producer: &Producer<u64, Tracked>, timeout: Duration) -> Answer {
    with_ack(producer.add_with_ack_timeout(NEW, timeout))
}

fn add_with_ack_async(producer: &Producer<u64, Tracked>, _: Duration) -> Answer {
    with_ack(block_on(producer.add_with_ack_async(NEW)))
}

const METHODS: [Method; 11] = [
    add,
    try_add,
    add_timeout,
    add_deadline,
    add_many,
    try_add_many,
    add_async,
    add_with_ack,
    try_add_with_ack,
    add_with_ack_timeout,
    add_with_ack_async,
];

/// It waits until there is room; nothing is lost.
#[track_caller]
fn waits(policy: WhenFull, method: Method) {
    let full = full(policy);
    let ack = thread::scope(|scope| {
        let waiting = scope.spawn(|| method(&full.batcher.producer(), LONG));
        until("it sleeps", || full.batcher.stats().waiting_producers == 1);
        assert_eq!(full.batcher.tally().enqueued, 5);
        full.gate.admit_one();
        waiting.join().unwrap().unwrap()
    });
    assert_eq!(full.batcher.stats().waiting_producers, 0);
    full.ends_with(&[0, 1, 2, 3, 4, NEW], 0, 0);
    assert!(ack.is_none_or(|ack| ack.wait().is_ok()));
}

/// The caller has its item back, and nothing else has changed.
#[track_caller]
fn gives_back(policy: WhenFull, method: Method, reason: AddReason, rejected: u64) {
    let full = full(policy);
    let answer = method(&full.batcher.producer(), Duration::from_millis(1));
    assert_eq!(answer.unwrap_err(), (NEW, reason));
    assert_eq!((full.batcher.tally().enqueued, full.drops()), (5, [0; 3]));
    assert_eq!(full.batcher.stats().waiting_producers, 0);
    full.ends_with(&[0, 1, 2, 3, 4], 0, rejected);
}

/// A success; the new item is let go.
#[track_caller]
fn lets_the_newest_go(method: Method) {
    let full = full(WhenFull::DropNewest);
    let ack = method(&full.batcher.producer(), Duration::from_millis(1)).unwrap();
    assert_eq!(*full.told.lock().unwrap(), [(NEW, DropReason::Newest)]);
    assert_eq!(full.drops(), [1, 0, 0]);
    let tally = full.batcher.tally();
    assert_eq!((tally.enqueued, tally.dropped, tally.in_flight), (6, 1, 5));
    if let Some(mut ack) = ack {
        let error = ack.try_wait().expect("resolved before the add returned").unwrap_err();
        assert_eq!((error.reason, error.item, error.batch), (AckReason::Newest, None, None));
    }
    full.ends_with(&[0, 1, 2, 3, 4], 1, 0);
}

/// A success; the oldest in the queue is let go for it.
#[track_caller]
fn lets_the_oldest_go(method: Method) {
    let full = full(WhenFull::DropOldest);
    let ack = method(&full.batcher.producer(), Duration::from_millis(1)).unwrap();
    assert_eq!(*full.told.lock().unwrap(), [(1, DropReason::Oldest)], "0 is being written");
    assert_eq!(full.drops(), [0, 1, 0]);
    let tally = full.batcher.tally();
    assert_eq!((tally.enqueued, tally.dropped, tally.in_flight), (6, 1, 5));
    full.ends_with(&[0, 2, 3, 4, NEW], 1, 0);
    assert!(ack.is_none_or(|ack| ack.wait().is_ok()), "the new one was written");
}

#[test]
fn block_add() {
    waits(WhenFull::Block, add);
}

#[test]
fn block_try_add() {
    gives_back(WhenFull::Block, try_add, AddReason::Full, 1);
}

#[test]
fn block_add_timeout() {
    waits(WhenFull::Block, add_timeout);
    gives_back(WhenFull::Block, add_timeout, AddReason::Timeout, 1);
}

#[test]
fn block_add_deadline() {
    waits(WhenFull::Block, add_deadline);
    gives_back(WhenFull::Block, add_deadline, AddReason::Timeout, 1);
}

#[test]
fn block_add_many() {
    waits(WhenFull::Block, add_many);
}

#[test]
fn block_try_add_many() {
    gives_back(WhenFull::Block, try_add_many, AddReason::Full, 0);
}

#[test]
fn block_add_async() {
    waits(WhenFull::Block, add_async);
}

#[test]
fn block_add_with_ack() {
    waits(WhenFull::Block, add_with_ack);
    waits(WhenFull::Block, add_with_ack_timeout);
    waits(WhenFull::Block, add_with_ack_async);
    gives_back(WhenFull::Block, try_add_with_ack, AddReason::Full, 1);
    gives_back(WhenFull::Block, add_with_ack_timeout, AddReason::Timeout, 1);
}

#[test]
fn reject_add() {
    gives_back(WhenFull::Reject, add, AddReason::Full, 1);
}

#[test]
fn reject_try_add() {
    gives_back(WhenFull::Reject, try_add, AddReason::Full, 1);
}

#[test]
fn reject_add_timeout() {
    waits(WhenFull::Reject, add_timeout);
    gives_back(WhenFull::Reject, add_timeout, AddReason::Timeout, 1);
}

#[test]
fn reject_add_deadline() {
    waits(WhenFull::Reject, add_deadline);
    gives_back(WhenFull::Reject, add_deadline, AddReason::Timeout, 1);
}

#[test]
fn reject_add_many() {
    gives_back(WhenFull::Reject, add_many, AddReason::Full, 1);
}

#[test]
fn reject_try_add_many() {
    gives_back(WhenFull::Reject, try_add_many, AddReason::Full, 0);
}

#[test]
fn reject_add_async() {
    gives_back(WhenFull::Reject, add_async, AddReason::Full, 1);
}

#[test]
fn reject_add_with_ack() {
    waits(WhenFull::Reject, add_with_ack_timeout);
    gives_back(WhenFull::Reject, add_with_ack, AddReason::Full, 1);
    gives_back(WhenFull::Reject, try_add_with_ack, AddReason::Full, 1);
    gives_back(WhenFull::Reject, add_with_ack_timeout, AddReason::Timeout, 1);
    gives_back(WhenFull::Reject, add_with_ack_async, AddReason::Full, 1);
}

#[test]
fn newest_add() {
    lets_the_newest_go(add);
}

#[test]
fn newest_try_add() {
    lets_the_newest_go(try_add);
}

#[test]
fn newest_add_timeout() {
    waits(WhenFull::DropNewest, add_timeout);
    lets_the_newest_go(add_timeout);
}

#[test]
fn newest_add_deadline() {
    waits(WhenFull::DropNewest, add_deadline);
    lets_the_newest_go(add_deadline);
}

#[test]
fn newest_add_many() {
    lets_the_newest_go(add_many);
}

#[test]
fn newest_try_add_many() {
    lets_the_newest_go(try_add_many);
}

#[test]
fn newest_add_async() {
    lets_the_newest_go(add_async);
}

#[test]
fn newest_add_with_ack() {
    waits(WhenFull::DropNewest, add_with_ack_timeout);
    lets_the_newest_go(add_with_ack);
    lets_the_newest_go(try_add_with_ack);
    lets_the_newest_go(add_with_ack_timeout);
    lets_the_newest_go(add_with_ack_async);
}

#[test]
fn oldest_add() {
    lets_the_oldest_go(add);
}

#[test]
fn oldest_try_add() {
    lets_the_oldest_go(try_add);
}

#[test]
fn oldest_add_timeout() {
    waits(WhenFull::DropOldest, add_timeout);
    lets_the_oldest_go(add_timeout);
}

#[test]
fn oldest_add_deadline() {
    waits(WhenFull::DropOldest, add_deadline);
    lets_the_oldest_go(add_deadline);
}

#[test]
fn oldest_add_many() {
    lets_the_oldest_go(add_many);
}

#[test]
fn oldest_try_add_many() {
    lets_the_oldest_go(try_add_many);
}

#[test]
fn oldest_add_async() {
    lets_the_oldest_go(add_async);
}

#[test]
fn oldest_add_with_ack() {
    waits(WhenFull::DropOldest, add_with_ack_timeout);
    lets_the_oldest_go(add_with_ack);
    lets_the_oldest_go(try_add_with_ack);
    lets_the_oldest_go(add_with_ack_timeout);
    lets_the_oldest_go(add_with_ack_async);
}

#[test]
fn closed_is_closed_under_every_policy_and_lets_nothing_go() {
    for policy in POLICIES {
        let full = full(policy);
        full.batcher.close();
        for method in METHODS {
            let answer = method(&full.batcher.producer(), LONG);
            assert_eq!(answer.unwrap_err(), (NEW, AddReason::Closed), "{policy:?}");
        }
        full.ends_with(&[0, 1, 2, 3, 4], 0, 0);
    }
}

#[test]
fn with_room_every_policy_takes_the_item() {
    for policy in POLICIES {
        for method in METHODS {
            let full = full(policy);
            full.gate.admit_one();
            until("there is room", || full.batcher.stats().queue_depth == 3);
            let _ = method(&full.batcher.producer(), Duration::ZERO).unwrap();
            full.ends_with(&[0, 1, 2, 3, 4, NEW], 0, 0);
        }
    }
}

#[test]
fn a_run_that_is_too_long_is_cut_by_the_policy() {
    // (added, left, written, dropped, rejected) of 10 items on a queue with room for 4
    let cases = [
        (WhenFull::Reject, 4, (14..20).collect::<Vec<u64>>(), vec![10, 11, 12, 13], 0, 1),
        (WhenFull::DropNewest, 10, vec![], vec![10, 11, 12, 13], 6, 0),
        (WhenFull::DropOldest, 10, vec![], vec![16, 17, 18, 19], 6, 0),
    ];
    for (policy, added, left, written, dropped, rejected) in cases {
        for wait in [true, false] {
            let full = full(policy);
            (1..=4).for_each(|_| full.gate.admit_one());
            full.gate.wait_for(5);
            let mut items: Vec<u64> = (10..20).collect();
            let producer = full.batcher.producer();
            let result = if wait {
                producer.add_many(&mut items)
            } else {
                producer.try_add_many(&mut items)
            };
            if wait && !left.is_empty() {
                assert_eq!(result, Err(AddManyError { added, reason: AddReason::Full }));
            } else {
                assert_eq!(result, Ok(added));
            }
            assert_eq!(items, left);
            let written = [&[0, 1, 2, 3, 4], &written[..]].concat();
            full.ends_with(&written, dropped, if wait { rejected } else { 0 });
        }
    }
}

#[test]
fn the_oldest_go_first_and_the_rest_keeps_its_order() {
    let full = full(WhenFull::DropOldest);
    let producer = full.batcher.producer();
    (5..100).for_each(|item| producer.add(item).unwrap());
    let told = full.told.lock().unwrap().clone();
    assert_eq!(told, (1..96).map(|item| (item, DropReason::Oldest)).collect::<Vec<_>>());
    full.ends_with(&[0, 96, 97, 98, 99], 95, 0);
}

#[test]
fn the_ack_of_an_evicted_item_says_so_and_has_it() {
    let gate = Gate::new();
    let builder = Batcher::builder().queue_depth(2).when_full(WhenFull::DropOldest);
    let batcher = holding(builder.with_acks(), &gate, 0);
    let producer = batcher.producer();
    let mut acks: Vec<_> = (1..=3).map(|item| producer.add_with_ack(item).unwrap()).collect();
    let evicted = acks.remove(0).wait().unwrap_err();
    assert_eq!((evicted.reason, evicted.item), (AckReason::Evicted, Some(1)));
    assert!(evicted.error.is_none() && evicted.batch.is_none());
    gate.open();
    assert!(acks.into_iter().all(|ack| ack.wait().is_ok()));
    assert_eq!(batcher.shutdown(LONG).tally.dropped, 1);
}

#[test]
fn from_on_dropped_adding_to_the_full_queue_is_an_error_and_so_is_a_flush() {
    for policy in [WhenFull::DropNewest, WhenFull::DropOldest] {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (note, gate) = (Arc::clone(&answers), Gate::new());
        let own = Arc::new(Mutex::new(None::<Arc<Batcher<u64>>>));
        let inside = Arc::clone(&own);
        let builder = Batcher::builder().queue_depth(2).when_full(policy).on_dropped(move |_| {
            let Some(batcher) = inside.lock().unwrap().take() else { return };
            let (producer, mut many) = (batcher.producer(), vec![15, 16]);
            if policy == WhenFull::DropOldest {
                producer.add(10).unwrap(); // the place of the one that is let go
            }
            let mut answers = note.lock().unwrap();
            answers.extend([
                producer.add(11).unwrap_err().reason(),
                producer.try_add(12).unwrap_err().reason(),
                producer.add_timeout(13, LONG).unwrap_err().reason(),
                block_on(producer.add_async(14)).unwrap_err().reason(),
                producer.add_many(&mut many).unwrap_err().reason,
                producer.try_add_many(&mut many).unwrap_err().reason,
            ]);
            assert_eq!(many, [15, 16]);
            assert_eq!(batcher.flush(LONG), Err(FlushError::Reentrant));
        });
        let batcher = Arc::new(holding(builder, &gate, 0));
        batcher.producer().add_many(&mut vec![1, 2]).unwrap();
        *own.lock().unwrap() = Some(Arc::clone(&batcher));
        batcher.producer().add(3).unwrap();
        assert_eq!(*answers.lock().unwrap(), [AddReason::Reentrant; 6], "{policy:?}");
        gate.open();
        let tally = batcher.flush(LONG).unwrap();
        assert_balances(&tally);
        let stats = batcher.stats();
        // A run counts once, however long.
        assert_eq!((stats.rejected, stats.callback_panics), (6, 0), "{policy:?}");
        assert_eq!(tally.dropped, if policy == WhenFull::DropOldest { 2 } else { 1 });
        assert!(Arc::into_inner(batcher).unwrap().shutdown(LONG).unflushed.is_empty());
    }
}

#[test]
fn a_panic_of_on_dropped_is_caught_and_counted_and_the_item_is_gone() {
    for policy in [WhenFull::DropNewest, WhenFull::DropOldest] {
        let (census, gate) = (Census::default(), Gate::new());
        let builder = Batcher::builder()
            .queue_depth(2)
            .when_full(policy)
            .on_dropped(|_| resume_unwind(Box::new("as planned")));
        let batcher = holding(builder, &gate, census.item(0));
        (1..6).for_each(|number| batcher.producer().add(census.item(number)).unwrap());
        let stats = batcher.stats();
        assert_eq!((stats.callback_panics, stats.tally.dropped), (3, 3));
        assert_eq!(census.dropped(), 3);
        gate.open();
        let report = batcher.shutdown(LONG);
        assert_eq!((report.tally.flushed_ok, report.tally.dropped), (3, 3));
        assert_eq!((census.made(), census.dropped()), (6, 6));
    }
}

#[test]
fn behind_a_hung_sink_the_newest_items_are_kept_and_no_more() {
    const ITEMS: u64 = 20_000;
    let (census, gate) = (Census::default(), Gate::new());
    let builder = Batcher::builder().queue_depth(8).when_full(WhenFull::DropOldest);
    let batcher = holding(builder, &gate, census.item(0));
    for number in 1..ITEMS {
        batcher.producer().add(census.item(number)).unwrap();
        assert!(census.made() - census.dropped() <= 9);
    }
    let tally = batcher.tally();
    assert_eq!((tally.enqueued, tally.dropped, tally.in_flight), (ITEMS, ITEMS - 9, 9));
    let report = batcher.shutdown(Duration::ZERO);
    assert_balances(&report.tally);
    assert_eq!((report.tally.unknown, report.tally.in_flight), (1, 8));
    let back: Vec<u64> = report.unflushed.iter().map(|item| item.number).collect();
    assert_eq!(back, (ITEMS - 8..ITEMS).collect::<Vec<_>>());
    drop(report);
    gate.open();
    until("each is dropped, once", || census.dropped() == ITEMS);
}

#[test]
fn with_many_threads_each_item_meets_one_fate_and_the_rest_keeps_its_order() {
    const PRODUCERS: u64 = 3;
    const EACH: u64 = 1_000;
    let mut rng = Rng::seeded();
    for policy in POLICIES {
        for flushers in [1, 2] {
            let (census, seed) = (Census::default(), rng.fork());
            let (written, told) = (Arc::new(Mutex::new(Vec::new())), Told::default());
            let (record, tell) = (Arc::clone(&written), Arc::clone(&told));
            let weighs = rng.one_in(2);
            let mut builder = Batcher::builder()
                .max_batch_size(3)
                .queue_depth(4)
                .flushers(flushers)
                .when_full(policy)
                .on_dropped(move |dropped: DroppedItem<common::Tracked>| {
                    tell.lock().unwrap().push((dropped.item.number, dropped.reason));
                });
            if weighs {
                builder = builder.weight(|_| 1).max_batch_bytes(2);
            }
            let batcher = builder
                .spawn(random_sinks(seed, move |batch: &Batch<common::Tracked>, _, rng| {
                    rng.pause();
                    record.lock().unwrap().extend(batch.iter().map(|item| item.number));
                    Ok(())
                }))
                .unwrap();
            let going = AtomicBool::new(true);
            let mut added: Vec<u64> = thread::scope(|scope| {
                let _stop = Going::new(&going);
                scope.spawn(|| {
                    while going.load(Ordering::Relaxed) {
                        let stats = batcher.stats();
                        assert_balances(&stats.tally);
                        let drops: u64 = stats.drops.iter().map(|(_, items)| items).sum();
                        assert_eq!(drops, stats.tally.dropped);
                        assert_balances(&batcher.flush(LONG).unwrap());
                        thread::yield_now();
                    }
                });
                let producers: Vec<_> = (0..PRODUCERS)
                    .map(|id| {
                        let (producer, census, mut rng) = (batcher.producer(), &census, rng.fork());
                        scope.spawn(move || {
                            let mut added = Vec::new();
                            for number in id * EACH..(id + 1) * EACH {
                                let item = census.item(number);
                                rng.pause();
                                let result = match rng.below(4) {
                                    0 => producer.try_add(item),
                                    1 => producer.add_timeout(item, Duration::from_micros(20)),
                                    2 => block_on(producer.add_async(item)),
                                    _ => producer.add(item),
                                };
                                if result.is_ok() {
                                    added.push(number);
                                }
                            }
                            added
                        })
                    })
                    .collect();
                producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect()
            });
            assert_eq!(batcher.flush(LONG).unwrap().in_flight, 0);
            let report = batcher.shutdown(LONG);
            assert_balances(&report.tally);
            assert_eq!(report.tally.enqueued, added.len() as u64);
            assert_eq!(report.stats.rejected, PRODUCERS * EACH - added.len() as u64);
            let (written, told) = (written.lock().unwrap().clone(), told.lock().unwrap().clone());
            assert_eq!(report.tally.dropped, told.len() as u64);
            if flushers == 1 {
                let mut last = HashMap::new();
                for number in &written {
                    let before = last.insert(number / EACH, *number);
                    assert!(before.is_none_or(|before| before < *number), "{before:?} {number}");
                }
            }
            let mut met: Vec<u64> = told.into_iter().map(|(number, _)| number).collect();
            met.extend(written);
            met.sort_unstable();
            added.sort_unstable();
            assert!(met == added, "each item that was added met one fate: {policy:?}");
            assert_eq!(census.made(), census.dropped());
        }
    }
}

#[test]
fn a_callback_may_hold_a_producer_and_add_where_there_is_room() {
    // Into another engine: what is let go here goes there.
    let spare_log = Log::new();
    let spare = Batcher::builder().max_batch_size(1).spawn(spare_log.factory()).unwrap();
    let (gate, other) = (Gate::new(), OnceLock::new());
    other.set(spare.producer()).unwrap();
    let builder = Batcher::builder().queue_depth(2).when_full(WhenFull::DropOldest);
    let builder = builder.on_dropped(move |dropped: DroppedItem<u64>| {
        other.get().unwrap().add(dropped.item).unwrap();
    });
    let batcher = holding(builder, &gate, 0);
    (1..=5).for_each(|item| batcher.producer().add(item).unwrap());
    gate.open();
    assert_eq!(batcher.shutdown(LONG).tally.dropped, 3);
    assert!(spare.shutdown(LONG).is_clean());
    assert_eq!(spare_log.items(), [1, 2, 3]);
}
