//! Promise: a task adds, flushes and shuts down as a thread does, on any runtime; it can be dropped
//! at any point, and whoever waits gets through.

#![allow(clippy::unwrap_used, unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common::{
    Census, Gate, LONG, Log, Wakes, assert_balances, block_on, full, holding, null_sinks,
    poll_once, sink_of, until,
};
use futures_util::future::join_all;
use sluicegate::{
    AckReason, AddError, AddReason, Batch, Batcher, FlushError, Producer, Pump, Stuck, TestClock,
    WhenFull, WriteContext, sink,
};
use tokio::runtime;

/// The system's allocator, with a count of the bytes that a thread has taken and not given back.
struct Live;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn note(bytes: usize, sign: isize) {
    let _ = LIVE.try_with(|live| live.set(live.get() + sign * isize::try_from(bytes).unwrap_or(0)));
}

// SAFETY: every call goes to the system's allocator as it is; counting touches no memory that is
// given out.
unsafe impl GlobalAlloc for Live {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Live = Live;

/// A pump with a full queue of two, of which each step frees one slot.
fn full_pump<T: Send + 'static>(items: [T; 2]) -> Pump<T, sink::NullSink> {
    let builder = Batcher::builder().max_batch_size(1).queue_depth(2);
    let pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
    items.into_iter().for_each(|item| pump.producer().try_add(item).unwrap());
    pump
}

fn multi_thread() -> runtime::Runtime {
    runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

fn current_thread() -> runtime::Runtime {
    runtime::Builder::new_current_thread().build().unwrap()
}

/// Adds 3 to a full queue by `run`, which blocks until it is in.
fn gets_through(run: impl FnOnce(Producer<u64>) + Send) {
    let (batcher, gate, log) = full(2);
    thread::scope(|scope| {
        let producer = batcher.producer();
        let added = scope.spawn(|| run(producer));
        until("it waits", || batcher.stats().waiting_producers == 1);
        gate.admit_one();
        added.join().unwrap();
    });
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), [0, 1, 2, 3]);
}

#[test]
fn a_task_waits_for_room_on_every_runtime() {
    gets_through(|producer| block_on(producer.add_async(3)).unwrap());
    gets_through(|producer| current_thread().block_on(producer.add_async(3)).unwrap());
    gets_through(|producer| {
        let runtime = multi_thread();
        let task = runtime.spawn(async move { producer.add_async(3).await.unwrap() });
        runtime.block_on(task).unwrap();
    });
}

#[test]
fn waiting_tasks_hold_no_thread_of_the_runtime() {
    let (batcher, gate, log) = full(2);
    let runtime = current_thread();
    let tasks: Vec<_> = (3..103)
        .map(|item| {
            let producer = batcher.producer();
            runtime.spawn(async move { producer.add_async(item).await.unwrap() })
        })
        .collect();
    runtime.block_on(async {
        while batcher.stats().waiting_producers < tasks.len() {
            tokio::task::yield_now().await;
        }
        gate.open();
        join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    });
    assert!(batcher.shutdown(LONG).is_clean());
    let mut items = log.items();
    items.sort_unstable();
    assert_eq!(items, (0..103).collect::<Vec<_>>());
}

#[test]
fn threads_and_tasks_are_served_in_the_order_in_which_they_came_to_wait() {
    let (batcher, gate, log) = full(2);
    let runtime = multi_thread();
    thread::scope(|scope| {
        for id in 0..8 {
            let producer = batcher.producer();
            match id % 3 {
                0 => drop(scope.spawn(move || producer.add(100 + id).unwrap())),
                1 => {
                    drop(runtime.spawn(async move { producer.add_async(100 + id).await.unwrap() }))
                }
                _ => drop(scope.spawn(move || block_on(producer.add_async(100 + id)).unwrap())),
            }
            until("it waits", || batcher.stats().waiting_producers as u64 == id + 1);
        }
        // One slot at a time: a waiter is through before the next is served.
        for id in 0..8 {
            gate.wait_for(id + 1);
            gate.admit_one();
            until("it is through", || batcher.tally().enqueued == 4 + id);
        }
        gate.open();
    });
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(log.items(), [0, 1, 2, 100, 101, 102, 103, 104, 105, 106, 107]);
}

#[test]
fn with_room_it_is_ready_at_once_and_nothing_happens_before_the_first_poll() {
    let batcher = Batcher::builder().spawn(null_sinks()).unwrap();
    let producer = batcher.producer();
    let mut add = producer.add_async(1);
    assert_eq!(batcher.tally().enqueued, 0);
    assert_eq!(poll_once(&mut add), Poll::Ready(Ok(())));
    drop(add);
    assert_eq!(batcher.tally().enqueued, 1);
    assert!(batcher.shutdown(LONG).is_clean());
}

/// What happens to a queue around the polls of a future that waits for it: an event before each.
/// Nothing, a look for no reason, a slot freed and stolen, a look for no reason, a slot freed.
const POLLS: usize = 5;

/// Drops an add after so many half steps: event, poll, event, poll… At each point it must leave
/// nothing behind, and the next in line must get through.
fn cancel_after(half_steps: usize) {
    let census = Census::default();
    let mut pump = full_pump([census.item(0), census.item(1)]);
    let producer = pump.producer();
    let (mine, others) = (Wakes::new(), Wakes::new());
    let mut add = producer.add_async(census.item(100));
    let mut next = producer.add_async(census.item(200));
    let mut ready = false;
    for half in 0..half_steps {
        match half {
            4 => {
                pump.step();
                producer.try_add(census.item(50)).unwrap(); // a thief
                assert_eq!(mine.count(), 1);
            }
            8 => drop(pump.step()),
            _ if half % 2 == 0 => {}
            _ => {
                assert!(!ready);
                match mine.poll(&mut add) {
                    Poll::Ready(added) => {
                        added.unwrap();
                        ready = true;
                    }
                    Poll::Pending => assert!(half < 2 * POLLS - 1),
                }
            }
        }
        if half == 1 {
            assert!(others.poll(&mut next).is_pending()); // behind it
        }
    }
    if half_steps < 2 {
        assert!(others.poll(&mut next).is_pending());
    }
    assert_eq!(ready, half_steps == 2 * POLLS);
    let (enqueued, dropped) = (pump.tally().enqueued, census.dropped());
    drop(add);
    assert_eq!(pump.tally().enqueued, enqueued, "dropping adds nothing");
    assert_eq!(census.dropped() - dropped, u64::from(!ready), "its item goes with it");
    // A slot is free: then the next one knows already. Else the next slot is for it, whether or not
    // it was woken for one that the thief has.
    if pump.stats().queue_depth == 2 {
        if others.count() > 0 {
            assert!(others.poll(&mut next).is_pending());
        }
        pump.step();
    }
    assert!(others.count() > 0, "after {half_steps}");
    assert!(matches!(others.poll(&mut next), Poll::Ready(Ok(()))));
    drop(next);
    assert_eq!(pump.stats().waiting_producers, 0);
    let report = pump.shutdown();
    assert_balances(&report.tally);
    assert_eq!(report.tally.flushed_ok, report.tally.enqueued);
    drop(report);
    assert_eq!(census.made(), census.dropped());
}

#[test]
fn it_can_be_dropped_between_any_two_polls() {
    (0..=2 * POLLS).for_each(cancel_after);
}

#[test]
fn tasks_that_are_aborted_at_random_leave_the_others_alone() {
    let (batcher, gate, _) = full(2);
    let runtime = multi_thread();
    for round in 0..200 {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let producer = batcher.producer();
                runtime.spawn(async move { producer.add_async(7).await.unwrap() })
            })
            .collect();
        gate.admit_one(); // one slot, for one of them
        tasks[round % 4].abort();
        (0..4).for_each(|_| gate.admit_one());
        for task in tasks {
            match runtime.block_on(task) {
                Ok(()) => {}
                Err(error) => assert!(error.is_cancelled()),
            }
        }
    }
    assert_eq!(batcher.stats().waiting_producers, 0);
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn closing_wakes_tasks_with_their_items() {
    let (batcher, gate, _) = full(2);
    let wakes = Wakes::new();
    let producer = batcher.producer();
    let mut adds: Vec<_> = (10..20).map(|item| producer.add_async(item)).collect();
    assert!(adds.iter_mut().all(|add| wakes.poll(add).is_pending()));
    assert_eq!(batcher.stats().waiting_producers, 10);
    batcher.close();
    assert_eq!(wakes.count(), 10);
    for (add, item) in adds.iter_mut().zip(10..) {
        assert_eq!(wakes.poll(add), Poll::Ready(Err(AddError::Closed(item))));
    }
    assert_eq!(poll_once(&mut producer.add_async(1)), Poll::Ready(Err(AddError::Closed(1))));
    drop(adds);
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn closing_wakes_who_waits_for_bytes_though_none_are_given_back() {
    let gate = Gate::new();
    let builder = Batcher::builder().weight(|_: &u64| 10).max_queue_bytes(10);
    let batcher = holding(builder, &gate, 0);
    let producer = batcher.producer();
    let wakes = Wakes::new();
    let mut add = producer.add_async(1);
    assert!(wakes.poll(&mut add).is_pending());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| batcher.producer().add(2));
        let many = scope.spawn(|| batcher.producer().add_many(&mut vec![3]));
        until("they sleep", || batcher.stats().waiting_producers == 3);
        batcher.close(); // the sink holds all bytes still
        assert_eq!(waiting.join().unwrap(), Err(AddError::Closed(2)));
        assert_eq!(many.join().unwrap().unwrap_err().reason, AddReason::Closed);
    });
    assert_eq!(wakes.poll(&mut add), Poll::Ready(Err(AddError::Closed(1))));
    assert_eq!(producer.try_add(4), Err(AddError::Closed(4)), "closed, rather than full");
    drop(add);
    gate.open();
    assert!(batcher.shutdown(LONG).is_clean());
}

#[test]
fn with_a_budget_too_a_task_is_not_woken_before_there_is_room() {
    let builder = Batcher::builder().weight(|_: &u64| 1).max_queue_bytes(1 << 20);
    let builder = builder.max_batch_size(1).queue_depth(2);
    let mut pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
    let producer = pump.producer();
    (0..2).for_each(|item| producer.try_add(item).unwrap());
    let wakes = Wakes::new();
    let mut adds: Vec<_> = (2..5).map(|item| producer.add_async(item)).collect();
    for _ in 0..3 {
        assert!(adds.iter_mut().all(|add| wakes.poll(add).is_pending()));
    }
    assert_eq!(wakes.count(), 0);
    pump.step();
    assert!(wakes.poll(&mut adds[0]).is_ready());
    assert_eq!(pump.stats().queue_bytes, 2);
}

#[test]
fn a_task_that_moves_is_woken_where_it_is() {
    let mut pump = full_pump([0, 1]);
    let producer = pump.producer();
    let (first, second) = (Wakes::new(), Wakes::new());
    let mut add = producer.add_async(2);
    assert!(first.poll(&mut add).is_pending());
    assert!(second.poll(&mut add).is_pending());
    assert!(second.poll(&mut add).is_pending());
    pump.step();
    assert_eq!((first.count(), second.count()), (0, 1), "the last waker counts");
    assert!(first.poll(&mut add).is_ready());
    drop(add);
    assert_eq!(Arc::strong_count(&first), 1, "no waker is kept");
    assert_eq!(Arc::strong_count(&second), 1);
}

#[test]
fn cancelled_futures_leave_no_trace() {
    let pump = full_pump([0_u64, 1]);
    let producer = pump.producer();
    let one_by_one = |times: u64| {
        for item in 0..times {
            assert!(poll_once(&mut producer.add_async(item)).is_pending());
        }
    };
    let at_once = |times: u64| {
        let mut adds: Vec<_> = (0..times).map(|item| producer.add_async(item)).collect();
        assert!(adds.iter_mut().all(|add| poll_once(add).is_pending()));
        assert_eq!(pump.stats().waiting_producers as u64, times);
    };
    one_by_one(100);
    let before = LIVE.get();
    one_by_one(100_000);
    assert_eq!(LIVE.get(), before, "bytes held");
    at_once(10_000);
    assert!(LIVE.get() <= before, "{} bytes held, before: {before}", LIVE.get());
    assert_eq!(pump.stats().waiting_producers, 0);
    assert_eq!(pump.tally().enqueued, 2);
}

#[test]
fn a_forgotten_future_strands_nobody() {
    let mut pump = full_pump([0, 1]);
    let producer = pump.producer();
    for item in 100..102 {
        let mut add = producer.add_async(item);
        assert!(poll_once(&mut add).is_pending());
        mem::forget(add);
    }
    let wakes = Wakes::new();
    let mut add = producer.add_async(2);
    assert!(wakes.poll(&mut add).is_pending());
    assert_eq!(pump.run(), 2);
    // Both slots were for those two, who do not come. A flusher with nothing to do looks again.
    assert_eq!((wakes.count(), pump.stats().waiting_producers), (1, 0));
    assert!(wakes.poll(&mut add).is_ready());
    drop(add);

    // Closing wakes everyone, however many are forgotten.
    let pump = full_pump([0, 1]);
    let producer = pump.producer();
    let mut forgotten = producer.add_async(2);
    assert!(poll_once(&mut forgotten).is_pending());
    mem::forget(forgotten);
    let wakes = Wakes::new();
    let mut add = producer.add_async(3);
    assert!(wakes.poll(&mut add).is_pending());
    pump.close();
    assert_eq!((wakes.count(), wakes.poll(&mut add)), (1, Poll::Ready(Err(AddError::Closed(3)))));
}

#[test]
fn other_policies_do_not_wait() {
    for policy in [WhenFull::Reject, WhenFull::DropNewest, WhenFull::DropOldest] {
        let builder = Batcher::builder().max_batch_size(1).queue_depth(2).when_full(policy);
        let mut pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
        let producer = pump.producer();
        for item in 0..3 {
            let added = poll_once(&mut producer.add_async(item));
            let refused = item == 2 && policy == WhenFull::Reject;
            let expected = if refused { Err(AddError::Full(2)) } else { Ok(()) };
            assert_eq!(added, Poll::Ready(expected), "{policy:?}");
        }
        assert_eq!(pump.run(), 2);
        assert_balances(&pump.tally());
    }
}

#[test]
fn an_async_add_has_an_ack_too() {
    let builder = Batcher::builder().with_acks().max_batch_size(1).queue_depth(2);
    let mut pump = builder.pump(sink::NullSink, TestClock::new()).unwrap();
    let producer = pump.producer();
    let mut acks: Vec<_> = (0..2)
        .map(|item| match poll_once(&mut producer.add_with_ack_async(item)) {
            Poll::Ready(Ok(ack)) => ack,
            _ => panic!("there is room"),
        })
        .collect();
    let (wakes, told) = (Wakes::new(), Wakes::new());
    let mut add = producer.add_with_ack_async(2);
    assert!(wakes.poll(&mut add).is_pending());
    assert!(told.poll(&mut acks[0]).is_pending());
    pump.step();
    assert_eq!((wakes.count(), told.count()), (1, 1));
    let Poll::Ready(Ok(mut last)) = wakes.poll(&mut add) else { panic!("there is room") };
    assert!(matches!(told.poll(&mut acks[0]), Poll::Ready(Ok(_))));
    drop(add);
    assert!(told.poll(&mut last).is_pending());
    pump.run();
    assert!(matches!(told.poll(&mut last), Poll::Ready(Ok(_))));
    let again = told.poll(&mut last).map(|again| again.unwrap_err().reason);
    assert_eq!(again, Poll::Ready(AckReason::Taken));
}

#[test]
fn flush_async_covers_what_was_added_before_its_first_poll() {
    let (batcher, gate, log) = full(4);
    let wakes = Wakes::new();
    let mut early = batcher.flush_async();
    assert!(wakes.poll(&mut early).is_pending());
    let mut dropped = batcher.flush_async();
    let unused = Wakes::new();
    assert!(unused.poll(&mut dropped).is_pending());
    drop(dropped);
    assert_eq!(Arc::strong_count(&unused), 1, "no waker is kept");
    gate.open();
    let tally = block_on(early).unwrap();
    assert!(tally.flushed_ok >= 5, "{tally:?}");
    assert_eq!(log.items(), [0, 1, 2, 3, 4]);
    batcher.producer().add(5).unwrap();
    let tally = current_thread().block_on(batcher.flush_async()).unwrap();
    assert_eq!((tally.flushed_ok, tally.in_flight), (6, 0));
    assert!(batcher.shutdown(LONG).is_clean());
    assert_eq!(unused.count(), 0);
}

#[test]
fn many_flushes_at_once_from_tasks() {
    const TASKS: u64 = 64;
    let log = Log::new();
    let batcher = Arc::new(
        Batcher::builder().max_batch_delay(None).flushers(2).spawn(log.factory()).unwrap(),
    );
    let runtime = multi_thread();
    let tasks = (0..TASKS).map(|task| {
        let batcher = Arc::clone(&batcher);
        runtime.spawn(async move {
            for number in 0..20 {
                batcher.producer().add_async(task * 100 + number).await.unwrap();
                let tally = batcher.flush_async().await.unwrap();
                assert_balances(&tally);
                assert!(tally.flushed_ok > number);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    runtime.block_on(join_all(tasks)).into_iter().for_each(|task| task.unwrap());
    drop(runtime);
    let report = Arc::into_inner(batcher).unwrap().shutdown(LONG);
    assert_eq!(report.tally.flushed_ok, TASKS * 20);
    assert!(report.is_clean());
}

#[test]
fn from_the_sink_tasks_are_refused_too() {
    let own = Arc::new(Mutex::new(None::<Arc<Batcher<u64>>>));
    let (inside, answers) = (Arc::clone(&own), Arc::new(Mutex::new(Vec::new())));
    let note = Arc::clone(&answers);
    let batcher = Batcher::builder()
        .max_batch_size(2)
        .queue_depth(2)
        .max_batch_delay(None)
        .spawn(sink_of(move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            let Some(batcher) = inside.lock().unwrap().take() else { return Ok(()) };
            let producer = batcher.producer();
            let flushed = poll_once(&mut batcher.flush_async());
            note.lock().unwrap().push(flushed == Poll::Ready(Err(FlushError::Reentrant)));
            for item in 10..12 {
                let added = poll_once(&mut producer.add_async(item));
                note.lock().unwrap().push(added == Poll::Ready(Ok(())));
            }
            let added = poll_once(&mut producer.add_async(12));
            note.lock().unwrap().push(added == Poll::Ready(Err(AddError::Reentrant(12))));
            Ok(())
        }))
        .unwrap();
    let batcher = Arc::new(batcher);
    *own.lock().unwrap() = Some(Arc::clone(&batcher));
    batcher.producer().add_many(&mut vec![0, 1]).unwrap();
    block_on(batcher.flush_async()).unwrap();
    assert_eq!(*answers.lock().unwrap(), [true; 4]);
    until("the sink has let go of it", || Arc::strong_count(&batcher) == 1);
    assert!(Arc::into_inner(batcher).unwrap().shutdown(LONG).tally.balances());
}

#[test]
fn shutdown_async_brings_the_report() {
    let (batcher, gate, log) = full(4);
    let mut shutdown = batcher.shutdown_async(LONG);
    assert!(poll_once(&mut shutdown).is_pending());
    gate.open();
    let report = current_thread().block_on(shutdown);
    assert!(report.is_clean());
    assert_eq!(report.tally.flushed_ok, 5);
    assert_eq!(log.items(), [0, 1, 2, 3, 4]);
}

#[test]
fn shutdown_async_leaves_a_hung_sink_behind() {
    let (batcher, gate, _) = full(2);
    let report = block_on(batcher.shutdown_async(Duration::ZERO));
    assert_eq!(report.unflushed, [1, 2]);
    assert_eq!((report.tally.unknown, report.tally.in_flight), (1, 2));
    let [left] = report.left_behind[..] else { panic!("{:?}", report.left_behind) };
    assert!(matches!(left.stuck, Stuck::Writing { items: 1, .. }));
    gate.open();
}

#[test]
fn shutdown_async_goes_on_when_it_is_dropped() {
    let (batcher, gate, log) = full(4);
    let producer = batcher.producer();
    let mut shutdown = batcher.shutdown_async(LONG);
    assert!(poll_once(&mut shutdown).is_pending());
    drop(shutdown);
    assert_eq!(producer.try_add(9), Err(AddError::Closed(9)), "it began at once");
    gate.open();
    until("all is written", || log.items() == [0, 1, 2, 3, 4]);
}

#[test]
fn nobody_is_left_waiting_when_flushes_meet_the_end() {
    let (batcher, gate, _) = full(2);
    let batcher = Arc::new(batcher);
    let runtime = multi_thread();
    let flushes: Vec<_> = (0..8)
        .map(|_| {
            let batcher = Arc::clone(&batcher);
            runtime.spawn(async move { batcher.flush_async().await })
        })
        .collect();
    batcher.close();
    gate.open();
    for flushed in runtime.block_on(join_all(flushes)) {
        assert_eq!(flushed.unwrap().unwrap().in_flight, 0);
    }
    drop(runtime);
    assert!(Arc::into_inner(batcher).unwrap().shutdown(LONG).is_clean());
}

#[cfg(feature = "futures")]
mod futures_sink {
    use futures_util::{SinkExt, StreamExt, stream};

    use super::*;

    #[test]
    fn a_stream_is_forwarded() {
        let log = Log::new();
        let builder = Batcher::builder().max_batch_size(2).queue_depth(2);
        let batcher = builder.spawn(log.factory()).unwrap();
        let sink = batcher.producer().into_sink();
        let items = stream::iter(0..1_000_u64).map(Ok);
        current_thread().block_on(items.forward(sink)).unwrap();
        assert!(batcher.shutdown(LONG).is_clean());
        assert_eq!(log.items(), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn sending_is_done_when_the_item_is_in_and_says_why_not() {
        let (batcher, gate, _) = full(2);
        let mut sink = batcher.producer().into_sink();
        let wakes = Wakes::new();
        let mut send = sink.send(3);
        assert!(wakes.poll(&mut send).is_pending());
        assert_eq!(batcher.tally().enqueued, 3);
        gate.admit_one();
        block_on(&mut send).unwrap();
        assert_eq!(batcher.tally().enqueued, 4);
        batcher.close();
        assert_eq!(block_on(sink.send(4)), Err(AddError::Closed(4)));
        block_on(sink.close()).unwrap();
        gate.open();
        assert!(batcher.shutdown(LONG).is_clean());
    }

    #[test]
    fn it_holds_one_item_and_gives_it_back() {
        let census = Census::default();
        let pump = full_pump([census.item(0), census.item(1)]);
        let in_hand = |number| {
            let mut sink = pump.producer().into_sink();
            assert!(matches!(poll_once(&mut sink.feed(census.item(number))), Poll::Ready(Ok(()))));
            // No second one, before the first is in.
            assert!(poll_once(&mut sink.feed(census.item(number + 1))).is_pending());
            let refused = sink.start_send_unpin(census.item(number + 1)).unwrap_err();
            assert_eq!(refused.reason(), AddReason::Full);
            assert_eq!(pump.stats().waiting_producers, 1);
            sink
        };
        let (producer, item): (Producer<_>, _) = in_hand(10).into_parts();
        assert_eq!(item.as_ref().map(|item| item.number), Some(10));
        assert_eq!(pump.stats().waiting_producers, 0);
        assert!(producer.into_sink().into_parts().1.is_none());
        drop(item);
        drop(in_hand(20));
        assert_eq!(pump.stats().waiting_producers, 0);
        assert_eq!(pump.tally().enqueued, 2);
        assert_eq!(census.made() - census.dropped(), 2, "what is queued");
    }

    #[test]
    fn room_wakes_it() {
        let mut pump = full_pump([0, 1]);
        let mut sink = pump.producer().into_sink();
        let wakes = Wakes::new();
        let mut send = sink.send(2);
        assert!(wakes.poll(&mut send).is_pending());
        pump.step();
        assert_eq!(wakes.count(), 1);
        assert_eq!(wakes.poll(&mut send), Poll::Ready(Ok(())));
        assert_eq!(pump.run(), 2);
    }
}
