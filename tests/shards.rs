//! Promise: with several shards each key's items come to one sink in order, also while it fails;
//! without keys each producer's do; the figures are those of all shards together, at any moment.

#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Gate, Going, LONG, OWN, Rng, assert_balances, assert_in_order, block_on, no_second_try,
    null_sinks, sink_of, until,
};
use shard_rig::{Books, gates, homes, two_nodes};
use sluicegate::{
    Batch, Batcher, Builder, ConfigError, Flusher, Home, OnFailure, Overflow, Pin, Producer, Retry,
    Shards, SinkFactory, SpawnError, WriteContext, WriteError, sink,
};

const SHARDS: usize = 4;
const PRODUCERS: u64 = 4;
const KEYS: u64 = 13;

/// An item: whose, of which key, and which of them.
#[derive(Clone, Copy, Debug)]
struct Event {
    producer: u64,
    key: u64,
    number: u64,
}

/// What the sinks took, and that each shard has one flusher at a time.
#[derive(Clone, Default)]
struct Taken {
    events: Arc<Mutex<Vec<(usize, Event)>>>,
    busy: Arc<[AtomicUsize; SHARDS]>,
    /// What must not be; a panic of a sink would only be one more failure to the engine.
    wrong: Arc<Mutex<Option<String>>>,
}

impl Taken {
    /// Sinks that now and then take a while, and that fail one call in so many; 0: none.
    fn sinks(&self, fails: u64, rng: &mut Rng) -> impl SinkFactory<Event> + use<> {
        let (taken, seed) = (self.clone(), Mutex::new(rng.fork()));
        move |_: Flusher| {
            let (taken, mut rng) = (taken.clone(), seed.lock().unwrap().fork());
            let each = move |batch: &Batch<Event>, cx: &mut WriteContext<'_>| {
                let busy = &taken.busy[batch.shard()];
                let (beside, flusher) = (busy.fetch_add(1, Ordering::SeqCst), cx.flusher().index);
                if beside > 0 || flusher != batch.shard() {
                    let wrong = format!("{batch:?}: {beside} beside flusher {flusher}");
                    taken.wrong.lock().unwrap().get_or_insert(wrong);
                }
                (0..rng.below(4)).for_each(|_| rng.pause());
                let fail = fails > 0 && rng.one_in(fails);
                if !fail {
                    let events = batch.iter().map(|event| (batch.shard(), *event));
                    taken.events.lock().unwrap().extend(events);
                }
                busy.fetch_sub(1, Ordering::SeqCst);
                if fail { Err(WriteError::transient("as planned")) } else { Ok(()) }
            };
            Ok::<_, WriteError>(sink::from_fn(each))
        }
    }

    /// Each key's items of one producer are in order, in one shard, and all there.
    fn check(&self, each: u64) {
        assert_eq!(*self.wrong.lock().unwrap(), None, "a shard has one flusher");
        let events = self.events.lock().unwrap();
        let (mut last, mut shards) = (HashMap::new(), HashMap::new());
        for (shard, event) in &*events {
            let before = last.insert((event.producer, event.key), event.number);
            assert!(before.is_none_or(|before| before < event.number), "{before:?} {event:?}");
            assert_eq!(*shards.entry(event.key).or_insert(*shard), *shard, "{event:?}");
        }
        assert_eq!(events.len() as u64, PRODUCERS * each, "not one is missing, none came twice");
        assert!(shards.values().collect::<HashSet<_>>().len() > 1, "all in one shard");
    }
}

/// Adds so many items of random keys, in every way there is.
fn add_all(producer: &Producer<Event>, id: u64, each: u64, mut rng: Rng) {
    let mut number = 0;
    while number < each {
        let count = if rng.one_in(4) { 1 + rng.below(12).min(each - number - 1) } else { 1 };
        let mut events: Vec<_> = (number..number + count)
            .map(|number| Event { producer: id, key: rng.below(KEYS), number })
            .collect();
        match rng.below(4) {
            _ if count > 1 => assert_eq!(producer.add_many(&mut events).unwrap() as u64, count),
            0 => block_on(producer.add_async(events[0])).unwrap(),
            1 => until("there is room", || producer.try_add(events[0]).is_ok()),
            2 => until("in time", || {
                producer.add_timeout(events[0], Duration::from_micros(50)).is_ok()
            }),
            _ => producer.add(events[0]).unwrap(),
        }
        number += count;
        rng.pause();
    }
}

fn keys_in_order(builder: Builder<Event>, fails: u64, each: u64) {
    let mut rng = Rng::seeded();
    let taken = Taken::default();
    let batcher = builder
        .shards(SHARDS)
        .key(|event: &Event| event.key)
        .queue_depth(16)
        .max_batch_size(5)
        .max_batch_delay(Duration::from_micros(200))
        .seed(rng.next())
        .spawn(taken.sinks(fails, &mut rng))
        .unwrap();
    thread::scope(|scope| {
        for id in 0..PRODUCERS {
            let (producer, rng) = (batcher.producer(), rng.fork());
            assert_eq!(producer.home(), None, "each item has its own");
            scope.spawn(move || add_all(&producer, id, each, rng));
        }
    });
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean(), "{:?}", report.tally);
    taken.check(each);
}

#[test]
fn the_items_of_a_key_come_in_order() {
    keys_in_order(Batcher::builder(), 0, 2_000);
}

#[test]
fn they_do_though_the_sinks_fail() {
    let retry = Retry::default()
        .initial_delay(Duration::from_micros(50))
        .max_delay(Duration::from_millis(1))
        .budget_floor(1e6)
        .give_up_after(None)
        .max_attempts(None);
    let builder = Batcher::builder().on_failure(OnFailure::ParkKey).retry(retry).breaker(None);
    keys_in_order(builder, 4, 1_000);
}

#[test]
fn a_producers_items_stay_on_one_shard_in_order_and_shards_take_turns() {
    let (books, mut rng) = (Books::default(), Rng::seeded());
    let builder = Batcher::builder().shards(3).max_batch_size(4).queue_depth(8);
    let batcher = builder.spawn(books.gated(&[])).unwrap();
    thread::scope(|scope| {
        for id in 0..6 {
            let (producer, mut rng) = (batcher.producer(), rng.fork());
            scope.spawn(move || {
                for number in (0..400).step_by(2) {
                    producer.add(id * OWN + number).unwrap();
                    block_on(producer.add_async(id * OWN + number + 1)).unwrap();
                    rng.pause();
                }
            });
        }
    });
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.flushed_ok == 2_400, "{:?}", report.tally);
    let shards = books.shards();
    for id in 0..6 {
        let own: HashSet<_> = (0..400).map(|number| shards[&(id * OWN + number)]).collect();
        let expected = usize::try_from(id).unwrap() % 3;
        assert_eq!(own, HashSet::from([expected]), "producer {id} was dealt to that shard");
    }
    (0..3).for_each(|shard| assert_in_order(&books.of(shard)));
}

#[test]
fn each_shard_has_its_flushers_and_each_flusher_a_sink() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    let (books, seen) = (Books::default(), Arc::clone(&opened));
    let inner = books.gated(&[]);
    let builder = Batcher::builder().shards(3).flushers(2).max_batch_size(2).queue_depth(4);
    let batcher = builder
        .spawn(move |flusher: Flusher| {
            seen.lock().unwrap().push(flusher.index);
            inner.open(flusher)
        })
        .unwrap();
    let producers: Vec<_> = (0..3).map(|_| batcher.producer()).collect();
    for number in 0..100 {
        (0..).zip(&producers).for_each(|(id, producer)| producer.add(id * OWN + number).unwrap());
    }
    let capacity = batcher.stats().queue_capacity;
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.flushed_ok == 300 && capacity == 12);
    let mut opened = opened.lock().unwrap().clone();
    opened.sort_unstable();
    assert_eq!(opened, [0, 1, 2, 3, 4, 5]);
    let batches = books.batches();
    for batch in &batches {
        assert_eq!(batch.flusher / 2, batch.shard, "{batch:?}");
    }
    let ids: HashSet<_> = batches.iter().map(|batch| batch.id).collect();
    assert_eq!((ids.len(), report.stats.batches), (batches.len(), batches.len() as u64));
}

#[test]
fn the_figures_add_up_at_any_moment() {
    let books = Books::default();
    let builder = Batcher::builder().shards(3).max_batch_size(7).queue_depth(16);
    let batcher = builder.spawn(books.gated(&[])).unwrap();
    let going = AtomicBool::new(true);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut looks) = (batcher.tally(), 0_u64);
            while going.load(Ordering::Relaxed) || looks == 0 {
                let stats = batcher.stats();
                let tally = stats.tally;
                assert_balances(&tally);
                assert!(tally.enqueued >= last.enqueued, "{last:?} {tally:?}");
                assert!(tally.flushed_ok >= last.flushed_ok, "{last:?} {tally:?}");
                assert!(stats.queue_depth <= tally.in_flight, "{stats:?}");
                last = batcher.tally();
                assert_balances(&last);
                looks += 1;
            }
        });
        let _stop = Going::new(&going);
        let adding: Vec<_> = (0..3)
            .map(|id| {
                let producer = batcher.producer();
                scope.spawn(move || {
                    (0..5_000).for_each(|number| producer.add(id * OWN + number).unwrap());
                })
            })
            .collect();
        adding.into_iter().for_each(|thread| thread.join().unwrap());
        drop(_stop);
        reader.join().unwrap();
    });
    let report = batcher.shutdown(LONG);
    assert_eq!((report.is_clean(), report.tally.flushed_ok), (true, 15_000));
}

#[test]
fn queues_and_ages_are_those_of_all_shards() {
    let (books, gates) = (Books::default(), gates(2));
    let builder = two_nodes().max_batch_size(1).queue_depth(4);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    let [one, other] = homes(&batcher);
    assert_eq!(batcher.stats().oldest_age, None, "there is nothing");
    one.add(0).unwrap();
    other.add(OWN).unwrap();
    gates.iter().for_each(|gate| gate.wait_for(1));
    (1..4).for_each(|number| one.add(number).unwrap());
    other.add(OWN + 1).unwrap();
    let stats = batcher.stats();
    assert_eq!((stats.queue_capacity, stats.queue_depth, stats.tally.in_flight), (8, 4, 6));
    assert!(stats.oldest_age.is_some());
    gates.iter().for_each(Gate::open);
    batcher.flush(LONG).unwrap();
    assert_eq!((batcher.stats().queue_depth, batcher.stats().oldest_age), (0, None));
    assert!(batcher.shutdown(LONG).is_clean());
}

/// The flusher of one shard has written all there was, and is busy telling of it: it has not looked
/// at its ring since.
#[test]
fn the_oldest_age_is_not_that_of_a_shard_that_is_empty() {
    let (told, gate) = (Gate::new(), Gate::new());
    let (door, inside) = (told.clone(), gate.clone());
    let builder = no_second_try(two_nodes()).max_batch_size(1).on_failed(move |_| door.pass());
    let sinks = sink_of(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        if batch.shard() == 0 {
            return Err(WriteError::permanent("as planned"));
        }
        inside.pass();
        Ok(())
    });
    let batcher = builder.spawn(sinks).unwrap();
    let [one, other] = homes(&batcher);
    one.add(0).unwrap();
    told.wait_for(1);
    let mut rounds = 0;
    // More than one round: an age is a bound, and the flusher may just have looked before the add.
    until("the age is that of an item there is", || {
        let before = Instant::now();
        other.add(OWN).unwrap();
        other.add(OWN + 1).unwrap();
        gate.wait_for(2 * rounds + 1);
        let age = batcher.stats().oldest_age.unwrap();
        let right = age <= before.elapsed();
        (0..2).for_each(|_| gate.admit_one());
        gate.wait_for(2 * rounds + 2);
        rounds += 1;
        right
    });
    told.open();
    gate.open();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 2 * rounds);
}

#[test]
fn what_cannot_work_is_refused() {
    fn key(builder: Builder<u64>) -> Option<&'static str> {
        match builder.spawn(null_sinks()) {
            Err(SpawnError::Config(error)) => Some(error.key()),
            Err(other) => panic!("{other}"),
            Ok(batcher) => {
                assert!(batcher.shutdown(LONG).is_clean());
                None
            }
        }
    }
    let keyed = || Batcher::builder().shards(2).key(|item: &u64| *item);
    assert_eq!(key(keyed()), None);
    assert_eq!(key(keyed().steal(true)), Some("steal"));
    assert_eq!(key(keyed().overflow(Overflow::Nearest)), Some("overflow"));
    assert_eq!(key(keyed().home(Home::FollowCpu)), Some("home"));
    assert_eq!(key(keyed().flushers(2)), Some("flushers"));
    assert_eq!(key(keyed().concurrency(2)), Some("concurrency"));
    let plain = || Batcher::<u64>::builder();
    assert_eq!(key(plain().shards(0)), Some("shards"));
    assert_eq!(key(plain().shards(Shards::PerNode(0))), Some("shards"));
    assert_eq!(key(plain().shards(1_025)), Some("shards"));
    assert_eq!(key(plain().steal(true).on_failure(OnFailure::Halt)), Some("steal"));
    let many =
        plain().topology(shard_rig::nodes(2)).pin(Pin::None).queue_depth(2).max_batch_size(1);
    let Err(SpawnError::Config(error)) = many.flushers(513).spawn(null_sinks()) else {
        panic!("1,026 flushers");
    };
    let expected = ConfigError::ShardsTimesFlushers { shards: 2, flushers: 513 };
    assert_eq!((&error, error.key()), (&expected, "shards"));
    let halting = || plain().shards(2).on_failure(OnFailure::Halt);
    assert_eq!(key(halting().overflow(Overflow::Nearest)), Some("overflow"));
    assert_eq!(key(halting()), None, "it is kept within each shard");
    let two_nodes = || plain().topology(shard_rig::nodes(2)).pin(Pin::None).key(|item| *item);
    assert_eq!(key(two_nodes().flushers(2)), Some("flushers"), "though nobody spoke of shards");
    assert_eq!(key(two_nodes().shards(1).flushers(2)), None, "no order was promised");
}
