//! Promise: a producer's home is the node its thread runs on; it moves when it is told to, or when
//! its thread has moved and nothing of it is in flight, and so its items stay in order.

#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{
    Gate, LONG, OWN, Rng, assert_in_order, block_on, poll_once, random_sinks, sink_of, until,
};
use shard_rig::{Books, gates, nodes, two_nodes};
use sluicegate::testing::seem_on_cpu;
use sluicegate::{Batch, Batcher, FlushError, Home, Pin, Producer, WriteContext};

const SHORT: Duration = Duration::from_millis(1);
/// Adds after which a producer that follows has looked at its CPU; see `Home::FollowCpu`.
const LOOK: u64 = 64;

/// Does this on a thread that seems to run on that CPU.
fn on_cpu<R: Send>(cpu: u32, work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            seem_on_cpu(cpu);
            work()
        });
        there.join().unwrap()
    })
}

#[test]
fn it_is_the_node_of_the_thread_that_makes_or_clones_it() {
    let books = Books::default();
    let batcher = two_nodes().spawn(books.gated(&[])).unwrap();
    for (cpu, node) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        let producer = on_cpu(cpu, || batcher.producer());
        assert_eq!(producer.home(), Some(node), "CPU {cpu}");
        producer.add(u64::from(cpu)).unwrap();
        let clone = on_cpu(3 - cpu, || producer.clone());
        assert_eq!(clone.home(), Some(1 - node), "a clone looks anew");
    }
    assert_eq!(on_cpu(99, || batcher.producer()).home(), Some(0), "nobody knows that CPU");
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!((books.of(0), books.of(1)), (vec![0, 1], vec![2, 3]));
}

#[test]
fn a_node_may_be_named_and_clones_stay_there() {
    let books = Books::default();
    let batcher = two_nodes().home(Home::FollowCpu).spawn(books.gated(&[])).unwrap();
    let producer = batcher.producer_on(1).unwrap();
    on_cpu(0, || {
        let clone = producer.clone();
        for number in 0..3 * LOOK {
            clone.add(number).unwrap();
            batcher.flush(LONG).unwrap();
        }
        assert_eq!((producer.home(), clone.home()), (Some(1), Some(1)));
    });
    assert!(batcher.producer_on(2).is_none());
    assert!(batcher.producer_on(usize::MAX).is_none());
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(books.of(0), []);
}

#[test]
fn with_fewer_shards_than_nodes_the_nearest_that_has_one_is_home() {
    let books = Books::default();
    let builder = Batcher::builder().topology(nodes(3)).pin(Pin::None).shards(2);
    let batcher = builder.spawn(books.gated(&[])).unwrap();
    assert_eq!(batcher.placement().plan.nodes().len(), 2);
    for cpu in 0..6 {
        let home = on_cpu(cpu, || batcher.producer()).home().unwrap();
        assert!(home < 2 && (cpu > 3 || home == cpu as usize / 2), "CPU {cpu}: {home}");
    }
    assert!(batcher.producer_on(2).is_none());
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn rehome_moves_and_what_was_before_it_is_written_before() {
    let (books, gates) = (Books::default(), gates(2));
    gates[0].open();
    let batcher = two_nodes().spawn(books.gated(&gates)).unwrap();
    let mut producer = on_cpu(0, || batcher.producer());
    let other = batcher.producer_on(1).unwrap();
    (0..10).for_each(|number| producer.add(number).unwrap());
    other.add(OWN).unwrap();
    on_cpu(2, || {
        producer.rehome(LONG).unwrap(); // does not wait for the shard it goes to: its sink is shut
        assert_eq!(books.of(0), (0..10).collect::<Vec<_>>());
        assert_eq!(producer.home(), Some(1));
        assert_eq!(producer.clone().home(), Some(1));
        producer.rehome(Duration::ZERO).unwrap(); // there already
    });
    (10..20).for_each(|number| producer.add(number).unwrap());
    gates[1].open();
    assert!(batcher.shutdown(LONG).is_clean());
    let own: Vec<_> = books.items().into_iter().filter(|item| *item != OWN).collect();
    assert_eq!(own, (0..20).collect::<Vec<_>>());
}

#[test]
fn rehome_that_comes_too_late_stays() {
    for home in [Home::Sticky, Home::FollowCpu] {
        let (books, gates) = (Books::default(), gates(2));
        let batcher = two_nodes().home(home).spawn(books.gated(&gates)).unwrap();
        let mut producer = on_cpu(0, || batcher.producer());
        producer.add(0).unwrap();
        on_cpu(2, || {
            let Err(FlushError::Timeout(tally)) = producer.rehome(SHORT) else { panic!("shut") };
            assert_eq!((tally.in_flight, producer.home()), (1, Some(0)));
            producer.add(1).unwrap();
            gates[0].open();
            producer.rehome(LONG).unwrap();
            assert_eq!(producer.home(), Some(1));
            producer.add(2).unwrap();
        });
        gates[1].open();
        assert!(batcher.shutdown(LONG).is_clean());
        assert_eq!((books.of(0), books.of(1)), (vec![0, 1], vec![2]));
    }
}

#[test]
fn a_sink_cannot_wait_for_itself() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let moving: Arc<Mutex<Option<Producer<u64>>>> = Arc::default();
    let (told, producer) = (Arc::clone(&said), Arc::clone(&moving));
    let sinks = sink_of(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
        seem_on_cpu(2);
        if let Some(mut producer) = producer.lock().unwrap().take() {
            told.lock().unwrap().push(producer.rehome(LONG));
        }
        Ok(())
    });
    let batcher = two_nodes().spawn(sinks).unwrap();
    *moving.lock().unwrap() = Some(on_cpu(0, || batcher.producer()));
    batcher.producer_on(0).unwrap().add(0).unwrap();
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(*said.lock().unwrap(), [Err(FlushError::Reentrant)]);
}

#[test]
fn a_producer_that_follows_moves_between_bursts_and_not_within() {
    let (books, gates) = (Books::default(), gates(2));
    gates[1].open();
    let builder = two_nodes().home(Home::FollowCpu).max_batch_size(1).queue_depth(1024);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    on_cpu(0, || {
        let producer = batcher.producer();
        producer.add(0).unwrap();
        gates[0].wait_for(1);
        seem_on_cpu(3);
        (1..4 * LOOK).for_each(|number| producer.add(number).unwrap());
        assert_eq!(producer.home(), Some(0), "an item of it is in flight");
        gates[0].open();
        batcher.flush(LONG).unwrap();
        let mut number = 4 * LOOK;
        while producer.home() == Some(0) {
            assert!(number < 6 * LOOK, "it has not looked");
            producer.add(number).unwrap();
            batcher.flush(LONG).unwrap();
            number += 1;
        }
        (number..8 * LOOK).for_each(|number| producer.add(number).unwrap());
    });
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(books.items(), (0..8 * LOOK).collect::<Vec<_>>());
    assert!(books.of(1).len() as u64 > LOOK);
}

/// An engine whose producers follow, with a small ring for each of three nodes.
fn following(books: &Books, rng: &mut Rng) -> Batcher<u64> {
    let taken = books.clone();
    let sinks = random_sinks(rng.fork(), move |batch: &Batch<u64>, cx, rng| {
        (0..rng.below(4)).for_each(|_| rng.pause());
        taken.record(batch, cx.flusher().index);
        Ok(())
    });
    Batcher::builder()
        .topology(nodes(3))
        .pin(Pin::None)
        .home(Home::FollowCpu)
        .queue_depth(8)
        .max_batch_size(4)
        .max_batch_delay(Duration::from_micros(100))
        .spawn(sinks)
        .unwrap()
}

/// Adds in every way there is while its thread seems to hop; an async add may be given up. Returns
/// how many are in.
fn hop(batcher: &Batcher<u64>, producer: &Producer<u64>, id: u64, each: u64, mut rng: Rng) -> u64 {
    let (mut number, mut added) = (id * OWN, 0);
    let end = number + each;
    while number < end {
        if rng.one_in(20) {
            seem_on_cpu(u32::try_from(rng.below(6)).unwrap());
        }
        if rng.one_in(100) {
            // A quiet time: at some look nothing of it is in flight, and it moves.
            let quiet = number..end.min(number + LOOK);
            number = quiet.end;
            for item in quiet {
                batcher.flush(LONG).unwrap();
                producer.add(item).unwrap();
                added += 1;
            }
            continue;
        }
        match rng.below(5) {
            0 => {
                let mut items: Vec<_> = (number..end.min(number + 12)).collect();
                number += items.len() as u64 - 1;
                added += producer.add_many(&mut items).unwrap() as u64;
            }
            1 => added += u64::from(producer.try_add(number).is_ok()),
            2 => {
                let mut adding = producer.add_async(number);
                if poll_once(&mut adding).is_ready() {
                    added += 1;
                } else if rng.one_in(2) {
                    block_on(adding).unwrap();
                    added += 1;
                }
            }
            _ => {
                producer.add(number).unwrap();
                added += 1;
            }
        }
        number += 1;
        rng.pause();
    }
    added
}

#[test]
fn one_that_follows_a_thread_that_hops_keeps_its_order() {
    let mut rng = Rng::seeded();
    let books = Books::default();
    let batcher = following(&books, &mut rng);
    let added: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|id| {
                let (batcher, rng) = (&batcher, rng.fork());
                scope.spawn(move || hop(batcher, &batcher.producer(), id, 1_500, rng))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.enqueued == added, "{:?} {added}", report.tally);
    assert_in_order(&books.items());
    assert!((0..3).all(|shard| !books.of(shard).is_empty()), "nobody has moved");
}

#[test]
fn threads_that_share_one_keep_each_its_order() {
    let mut rng = Rng::seeded();
    let books = Books::default();
    let batcher = following(&books, &mut rng);
    let producer = batcher.producer();
    let added: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|id| {
                let (batcher, producer, rng) = (&batcher, &producer, rng.fork());
                scope.spawn(move || hop(batcher, producer, id, 1_500, rng))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.enqueued == added, "{:?} {added}", report.tally);
    assert_in_order(&books.items());
}

#[test]
fn one_whose_call_waits_does_not_move() {
    let (books, gates) = (Books::default(), gates(2));
    let builder = two_nodes().home(Home::FollowCpu).max_batch_size(1).queue_depth(2);
    let batcher = builder.spawn(books.gated(&gates)).unwrap();
    on_cpu(0, || {
        let producer = batcher.producer();
        producer.add(0).unwrap();
        gates[0].wait_for(1);
        (1..3).for_each(|number| producer.try_add(number).unwrap());
        let mut waiting = producer.add_async(3);
        assert!(poll_once(&mut waiting).is_pending());
        let mut given_up = producer.add_async(4);
        assert!(poll_once(&mut given_up).is_pending());
        gates[0].open();
        until("all is written", || batcher.tally().in_flight == 0);
        seem_on_cpu(2);
        for number in 10..10 + 2 * LOOK {
            producer.add(number).unwrap();
            until("it is written", || batcher.tally().in_flight == 0);
        }
        assert_eq!(producer.home(), Some(0), "two of its adds wait there");
        block_on(waiting).unwrap();
        drop(given_up);
        gates[1].open();
        for number in 200..200 + 2 * LOOK {
            until("it is written", || batcher.tally().in_flight == 0);
            producer.add(number).unwrap();
        }
        assert_eq!(producer.home(), Some(1));
    });
    assert_eq!(batcher.stats().waiting_producers, 0);
    gates.iter().for_each(Gate::open);
    assert!(batcher.shutdown(LONG).is_clean());
    assert!(!books.items().contains(&4), "it was dropped");
}
