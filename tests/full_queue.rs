//! Promise: on a full queue `add` waits and uses no core, the others say so in time, and whoever
//! waits gets through.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Gate, LONG, Log, full, holding, null_sinks, sink_of, until};
use sluicegate::{AddError, AddReason, Batch, Batcher, Producer, TestClock, WriteContext, sink};

#[test]
fn try_add_says_full_and_gives_the_item_back() {
    let (batcher, gate, log) = full(4);
    let producer = batcher.producer();
    assert_eq!(producer.try_add(9), Err(AddError::Full(9)));
    let mut items = vec![8, 9];
    assert_eq!(producer.try_add_many(&mut items), Ok(0));
    assert_eq!(items, [8, 9]);
    assert_eq!(batcher.stats().queue_depth, 4);
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), [0, 1, 2, 3, 4]);
}

#[test]
fn add_waits_until_there_is_room() {
    let (batcher, gate, log) = full(2);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| batcher.producer().add(3));
        until("it sleeps", || batcher.stats().waiting_producers == 1);
        gate.admit_one();
        assert_eq!(waiting.join().unwrap(), Ok(()));
        assert_eq!(batcher.stats().waiting_producers, 0);
    });
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), [0, 1, 2, 3]);
}

#[test]
fn a_deadline_gives_the_item_back_and_leaves_no_trace() {
    let (batcher, gate, log) = full(2);
    let producer = batcher.producer();
    let now = Instant::now();
    assert_eq!(producer.add_timeout(9, Duration::ZERO), Err(AddError::Timeout(9)));
    assert_eq!(producer.add_timeout(9, Duration::from_millis(5)), Err(AddError::Timeout(9)));
    assert_eq!(producer.add_deadline(9, now), Err(AddError::Timeout(9)), "in the past");
    assert!(now.elapsed() >= Duration::from_millis(5), "it did wait");
    assert_eq!(batcher.stats().waiting_producers, 0);
    gate.open();
    until("there is room", || batcher.stats().queue_depth == 0);
    assert_eq!(producer.add_deadline(3, now), Ok(()), "with room there is no need to wait");
    assert_eq!(producer.add_timeout(4, Duration::MAX), Ok(()));
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_time_out_of_for_ever_is_none() {
    for timeout in [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(1 << 40)]
    {
        let (batcher, gate, _) = full(2);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| batcher.producer().add_timeout(3, timeout));
            until("it sleeps", || batcher.stats().waiting_producers == 1);
            gate.open();
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn add_many_goes_in_by_runs_and_says_how_far_it_came() {
    let (batcher, gate, log) = full(4);
    thread::scope(|scope| {
        let many = scope.spawn(|| {
            let mut items: Vec<u64> = (5..25).collect();
            (batcher.producer().add_many(&mut items), items)
        });
        until("it sleeps", || batcher.stats().waiting_producers == 1);
        gate.open();
        assert_eq!(many.join().unwrap(), (Ok(20), vec![]));
    });
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), (0..25).collect::<Vec<_>>());

    // Closed half way: the count and the rest agree.
    let (batcher, gate, log) = full(4);
    thread::scope(|scope| {
        let many = scope.spawn(|| {
            let mut items: Vec<u64> = (5..25).collect();
            (batcher.producer().add_many(&mut items), items)
        });
        gate.admit_one(); // room for one
        until("it has added one and sleeps", || {
            batcher.tally().enqueued == 6 && batcher.stats().waiting_producers == 1
        });
        batcher.close();
        let (error, items) = many.join().unwrap();
        let error = error.unwrap_err();
        assert_eq!((error.added, error.reason), (1, AddReason::Closed));
        assert_eq!(items, (6..25).collect::<Vec<_>>());
    });
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), (0..6).collect::<Vec<_>>());
}

#[test]
fn adding_nothing_is_nothing() {
    let (batcher, gate, _) = full(2);
    assert_eq!(batcher.producer().add_many(&mut vec![]), Ok(0));
    assert_eq!(batcher.producer().try_add_many(&mut vec![]), Ok(0));
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(Batcher::<u64>::builder().spawn(null_sinks()).unwrap().stats().tally.enqueued, 0);
}

#[test]
fn producers_are_served_in_the_order_in_which_they_came_to_wait() {
    let (batcher, gate, log) = full(2);
    thread::scope(|scope| {
        for id in 0..6 {
            let producer = batcher.producer();
            scope.spawn(move || producer.add(100 + id).unwrap());
            until("it sleeps", || batcher.stats().waiting_producers as u64 == id + 1);
        }
        // One slot at a time: a waiter is through before the next is served.
        for id in 0..6 {
            gate.wait_for(id + 1);
            gate.admit_one();
            until("it is through", || batcher.tally().enqueued == 4 + id);
        }
        gate.open();
    });
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), [0, 1, 2, 100, 101, 102, 103, 104, 105]);
}

#[test]
fn many_more_producers_than_slots_all_get_through() {
    const PRODUCERS: u64 = 16;
    const EACH: u64 = 300;
    let log = Log::new();
    let batcher = Batcher::builder().max_batch_size(2).queue_depth(2).spawn(log.factory()).unwrap();
    thread::scope(|scope| {
        for id in 0..PRODUCERS {
            let producer = batcher.producer();
            scope.spawn(move || {
                for number in 0..EACH {
                    let item = (id, number);
                    match number % 3 {
                        0 => producer.add_timeout(item, LONG).unwrap(),
                        1 => drop(producer.add_many(&mut vec![item]).unwrap()),
                        _ => producer.add(item).unwrap(),
                    }
                }
            });
        }
    });
    assert!(batcher.shutdown(LONG).is_clean());
    let mut next = vec![0; usize::try_from(PRODUCERS).unwrap()];
    for (id, number) in log.items() {
        let next = &mut next[usize::try_from(id).unwrap()];
        assert_eq!(number, *next, "items of producer {id} in its order, each once");
        *next += 1;
    }
    assert!(next.iter().all(|next| *next == EACH));
}

#[test]
fn a_waiter_that_gives_up_passes_its_wake_up_on() {
    for _ in 0..200 {
        let (batcher, gate, _) = full(2);
        thread::scope(|scope| {
            let hasty =
                scope.spawn(|| batcher.producer().add_timeout(7, Duration::from_micros(50)));
            let patient = scope.spawn(|| batcher.producer().add_timeout(8, LONG));
            gate.admit_one(); // one slot, for one of them
            let hasty = hasty.join().unwrap().is_ok();
            if hasty {
                gate.open();
            }
            assert_eq!(patient.join().unwrap(), Ok(()), "its wake-up went to one who had left");
        });
        gate.open();
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn from_the_sink_it_is_an_error_and_no_deadlock() {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let (note, own) = (Arc::clone(&answers), Arc::new(Mutex::new(None::<Producer<u64>>)));
    let inside = Arc::clone(&own);
    let batcher = Batcher::builder()
        .max_batch_size(2)
        .queue_depth(2)
        .max_batch_delay(None)
        .spawn(sink_of(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            let Some(producer) = inside.lock().unwrap().take() else { return Ok(()) };
            let mut many = vec![14, 15, 16];
            let mut answers = note.lock().unwrap();
            answers.push(producer.add(10).map_err(|e| e.reason())); // there is room
            answers.push(producer.add(11).map_err(|e| e.reason()));
            answers.push(producer.add(12).map_err(|e| e.reason()));
            answers.push(producer.add_timeout(13, LONG).map_err(|e| e.reason()));
            answers.push(producer.try_add(13).map_err(|e| e.reason()));
            answers.push(producer.add_many(&mut many).map(drop).map_err(|e| e.reason));
            assert_eq!(many.len(), 3);
            Ok(())
        }))
        .unwrap();
    *own.lock().unwrap() = Some(batcher.producer());
    batcher.producer().add_many(&mut vec![0, 1]).unwrap();
    batcher.flush(LONG).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!(report.tally.flushed_ok, 4);
    let reentrant = Err(AddReason::Reentrant);
    let expected = [Ok(()), Ok(()), reentrant, reentrant, Err(AddReason::Full), reentrant];
    assert_eq!(*answers.lock().unwrap(), expected);
}

#[test]
fn a_pump_says_full_instead_of_waiting_for_itself() {
    let mut pump = Batcher::builder()
        .max_batch_size(2)
        .queue_depth(2)
        .pump(sink::NullSink, TestClock::new())
        .unwrap();
    let mut items = vec![1, 2, 3];
    let error = pump.producer().add_many(&mut items).unwrap_err();
    assert_eq!((error.added, error.reason), (2, AddReason::Full));
    assert_eq!(pump.producer().add(items[0]), Err(AddError::Full(3)));
    assert_eq!(pump.producer().add_timeout(3, LONG), Err(AddError::Full(3)));
    assert_eq!(pump.run(), 1);
    assert_eq!(pump.producer().add(3), Ok(()));
}

#[test]
fn errors_show_no_item() {
    struct Secret;
    let batcher = Batcher::builder().spawn(null_sinks()).unwrap();
    batcher.close();
    let error = batcher.producer().add(Secret).unwrap_err();
    assert_eq!(
        (format!("{error:?}"), error.to_string()),
        ("Closed(..)".into(), "the engine is closed".into())
    );
    let Secret = error.into_inner();
}

#[test]
fn with_a_budget_waiting_for_a_slot_is_sleep_too() {
    let gate = Gate::new();
    let builder = Batcher::builder().weight(|_: &u64| 1).queue_depth(2);
    let builder = builder.max_queue_bytes(1 << 20); // slots are scarce, not bytes
    let batcher = holding(builder, &gate, 0);
    let producer = batcher.producer();
    (1..=2).for_each(|item| producer.try_add(item).unwrap());
    // Each attempt charges nothing, so none wakes whoever tries.
    assert_eq!(producer.add_timeout(9, Duration::from_millis(1)), Err(AddError::Timeout(9)));
    thread::scope(|scope| {
        let patient = [3, 4].map(|item| {
            let producer = batcher.producer();
            scope.spawn(move || producer.add(item))
        });
        until("they sleep", || batcher.stats().waiting_producers == 2);
        let hasty = producer.add_timeout(9, Duration::from_millis(1));
        assert_eq!(hasty, Err(AddError::Timeout(9)), "nor do the others");
        gate.open();
        patient.into_iter().for_each(|add| add.join().unwrap().unwrap());
    });
    assert!(batcher.shutdown(LONG).is_clean());
}
