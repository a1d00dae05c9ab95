//! Promise: a batch is closed by its size, its bytes, the age of its first item, idleness, a flush
//! or the end, and by nothing else; never empty, never late, never too large.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{LONG, Log, until};
use sluicegate::FlushReason::{Bytes, Flush, Idle, Shutdown, Size, Time};
use sluicegate::{
    Batch, Batcher, Builder, FlushReason, FlushWhen, Flusher, Pump, PumpStep, Sink, SinkLimits,
    TestClock, WriteContext, WriteError, sink,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A sink for pumps: writes down what it sees, can take time, and has limits.
struct Slow<T> {
    log: Log<T>,
    clock: TestClock,
    takes: Duration,
    limits: SinkLimits,
}

impl<T: Clone> Sink<T> for Slow<T> {
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.log.record(batch, cx);
        self.clock.advance(self.takes);
        Ok(())
    }
    fn limits(&self) -> SinkLimits {
        self.limits
    }
}

type Driven<T> = (Pump<T, Slow<T>>, Log<T>, TestClock);

fn pump<T: Clone + Send + 'static>(builder: Builder<T>) -> Driven<T> {
    pump_with(builder, Duration::ZERO, SinkLimits::default())
}

fn pump_with<T: Clone + Send + 'static>(
    builder: Builder<T>,
    takes: Duration,
    limits: SinkLimits,
) -> Driven<T> {
    let (clock, log) = (TestClock::new(), Log::new());
    let sink = Slow { log: log.clone(), clock: clock.clone(), takes, limits };
    (builder.pump(sink, clock.clone()).unwrap(), log, clock)
}

#[track_caller]
fn add<T: Send + 'static, S: Sink<T>>(pump: &Pump<T, S>, items: impl IntoIterator<Item = T>) {
    let producer = pump.producer();
    items.into_iter().for_each(|item| producer.add(item).unwrap());
}

#[test]
fn size_closes_a_batch_and_the_rest_waits() {
    let (mut pump, log, _) = pump(Batcher::builder().max_batch_size(3));
    add(&pump, 0..8);
    assert_eq!(pump.run(), 2);
    assert_eq!(log.sizes(), [3, 3]);
    assert_eq!(log.reasons(), [Size, Size]);
    assert_eq!(pump.step(), PumpStep::Idle);
    assert_eq!(log.items(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn size_one_and_size_of_the_whole_queue() {
    let (mut one, log, _) = pump(Batcher::builder().max_batch_size(1).queue_depth(4));
    add(&one, 0..4);
    assert_eq!(one.run(), 4);
    assert_eq!(log.reasons(), [Size; 4]);

    for size in [Some(4), None] {
        let (mut whole, log, _) = pump(Batcher::builder().max_batch_size(size).queue_depth(4));
        add(&whole, 0..3);
        assert_eq!(whole.run(), 0);
        add(&whole, 3..4);
        assert!(whole.producer().try_add(4).is_err(), "full");
        assert_eq!(whole.run(), 1, "a full queue must not wait for more");
        assert_eq!(log.sizes(), [4]);
    }
}

#[test]
fn the_first_items_age_closes_a_batch_to_the_nanosecond() {
    let (mut pump, log, clock) = pump(Batcher::builder().max_batch_delay(ms(100)));
    pump.advance(ms(1_000)); // an engine that was idle long owes its next item the full delay
    add(&pump, [1]);
    let added = clock.now();
    assert_eq!(pump.run(), 0);
    assert_eq!(pump.next_due(), Some(added + ms(100)));
    clock.advance(ms(100) - Duration::from_nanos(1));
    assert_eq!(pump.step(), PumpStep::Idle, "too early by a nanosecond");
    clock.advance(Duration::from_nanos(1));
    assert!(matches!(pump.step(), PumpStep::Wrote { reason: Time, items: 1, .. }));
    assert_eq!(pump.next_due(), None);
    assert_eq!(log.items(), [1]);
    assert_eq!(pump.stats().timer_lateness.max, Duration::ZERO);
}

#[test]
fn later_items_never_prolong_the_wait() {
    let (mut pump, log, _) = pump(Batcher::builder().max_batch_delay(ms(100)));
    for item in 0..100 {
        add(&pump, [item]);
        pump.advance(ms(10));
    }
    pump.advance(ms(100));
    assert_eq!(log.sizes(), [10; 10], "each batch closes 100 ms after its first item");
    assert!(log.reasons().iter().all(|reason| *reason == Time));
}

#[test]
fn time_holds_when_input_never_pauses_and_nothing_else_closes_a_batch() {
    let (mut pump, log, clock) =
        pump(Batcher::builder().max_batch_size(8192).max_batch_delay(ms(10)));
    let producer = pump.producer();
    let start = clock.now();
    for tick in 0..1_000 {
        producer.try_add(tick).unwrap(); // at every millisecond there is more
        pump.step();
        clock.advance(ms(1));
    }
    assert_eq!(clock.now() - start, ms(1_000));
    assert!(log.sizes().iter().all(|size| (10..=11).contains(size)), "{:?}", log.sizes());
    assert!(pump.stats().timer_lateness.max <= ms(1));
}

#[test]
fn a_sink_slower_than_the_delay_delays_by_its_own_time_only() {
    let (mut pump, log, clock) = pump_with(
        Batcher::builder().max_batch_delay(ms(100)).max_batch_size(4),
        ms(250),
        SinkLimits::default(),
    );
    add(&pump, 0..4);
    assert!(matches!(pump.step(), PumpStep::Wrote { reason: Size, .. })); // takes until 250
    add(&pump, 4..6); // came while the sink was busy, as far as anyone can tell
    assert!(matches!(pump.step(), PumpStep::Wrote { items: 2, .. }) || pump.advance(ms(100)) == 1);
    assert_eq!(log.items(), [0, 1, 2, 3, 4, 5]);
    // 3 batches behind: each is overdue, so none waits for its own delay.
    let before = clock.now();
    add(&pump, 6..16);
    pump.advance(ms(100));
    assert_eq!(log.items(), (0..16).collect::<Vec<_>>());
    assert!(clock.now() - before <= ms(100 + 3 * 250), "{:?}", clock.now() - before);
}

#[test]
fn delays_of_nothing_of_next_to_nothing_and_of_for_ever() {
    for delay in [Duration::ZERO, Duration::from_nanos(1)] {
        let (mut pump, log, clock) = pump(Batcher::builder().max_batch_delay(delay));
        for item in 0..5 {
            add(&pump, [item]);
            clock.advance(delay);
            assert!(matches!(pump.step(), PumpStep::Wrote { reason: Time, items: 1, .. }));
            assert_eq!(pump.step(), PumpStep::Idle, "no batch without an item");
        }
        assert_eq!(log.items(), [0, 1, 2, 3, 4]);
    }
    let for_ever = [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(1 << 40)];
    for delay in for_ever {
        let (mut pump, log, _) =
            pump(Batcher::builder().max_batch_delay(delay).allow_long_delay(true));
        add(&pump, [1]);
        assert_eq!(pump.advance(Duration::from_secs(1 << 30)), 0);
        assert_eq!(pump.shutdown().tally.flushed_ok, 1);
        assert_eq!(log.reasons(), [Shutdown]);
    }
}

#[test]
fn a_delay_of_for_ever_is_waited_for_on_a_real_thread_too() {
    for delay in [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(1 << 40)] {
        let log = Log::new();
        let batcher = Batcher::builder()
            .max_batch_delay(delay)
            .allow_long_delay(true)
            .spawn(log.factory())
            .unwrap();
        let mut flushed = 0;
        until("it slept over its open batch", || {
            let parks = batcher.stats().parks;
            let_it_sleep();
            batcher.producer().add(1).unwrap();
            let_it_sleep();
            assert_eq!(log.items().len() as u64, batcher.tally().enqueued - 1, "too early");
            flushed = batcher.flush(LONG).unwrap().flushed_ok;
            batcher.stats().parks >= parks + 2 // over nothing, and over the one item
        });
        assert_eq!(flushed, batcher.tally().enqueued);
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn without_a_delay_time_closes_nothing() {
    let (mut pump, log, _) = pump(Batcher::builder().max_batch_delay(None).max_batch_size(2));
    add(&pump, 0..3);
    assert_eq!(pump.advance(Duration::from_secs(1 << 20)), 1);
    assert_eq!(pump.next_due(), None);
    assert_eq!(log.items(), [0, 1]);
}

fn weighed() -> Builder<usize> {
    Batcher::builder().weight(|bytes: &usize| *bytes).max_batch_delay(None)
}

#[test]
fn bytes_close_a_batch_before_it_is_too_large_and_when_it_is_just_full() {
    let (mut pump, log, _) = pump(weighed().max_batch_bytes(10));
    add(&pump, [4, 4, 4, 6, 9, 10, 1]);
    pump.run();
    let batches: Vec<_> = log.batches().into_iter().map(|b| (b.items, b.reason, b.bytes)).collect();
    let expected = [
        (vec![4, 4], Bytes, 8),
        (vec![4, 6], Bytes, 10),
        (vec![9], Bytes, 9),
        (vec![10], Bytes, 10),
    ];
    assert_eq!(batches, expected);
    assert_eq!(pump.flush().flushed_ok, 7);
    assert_eq!(log.reasons().last(), Some(&Flush));
}

#[test]
fn an_item_that_is_too_large_travels_alone_and_in_its_place() {
    let (mut pump, log, _) = pump(weighed().max_batch_bytes(10));
    add(&pump, [1, 2, 11, 3, usize::MAX, usize::MAX, 4]);
    pump.flush();
    let items: Vec<_> = log.batches().into_iter().map(|batch| batch.items).collect();
    let alone = [vec![1, 2], vec![11], vec![3], vec![usize::MAX], vec![usize::MAX], vec![4]];
    assert_eq!(items, alone);
}

#[test]
fn items_of_no_weight_and_a_bound_beyond_reach_are_no_trap() {
    for max in [1, 10, u64::MAX] {
        let (mut pump, log, _) = pump(weighed().max_batch_bytes(max).max_batch_size(4));
        add(&pump, [0; 10]);
        pump.run();
        assert_eq!(log.sizes(), [4, 4], "size counts all the same");
        assert_eq!(pump.flush().flushed_ok, 10);
    }
}

#[test]
fn idle_writes_what_is_there_whenever_it_is_free() {
    let (mut pump, log, _) = pump(Batcher::builder().flush_when(FlushWhen::Idle).max_batch_size(4));
    add(&pump, 0..1);
    assert!(matches!(pump.step(), PumpStep::Wrote { reason: Idle, items: 1, .. }));
    add(&pump, 1..4);
    pump.run();
    add(&pump, 4..9); // the busy sink built these
    pump.run();
    assert_eq!(log.reasons(), [Idle, Idle, Size, Idle]);
    assert_eq!(log.sizes(), [1, 3, 4, 1]);
    assert_eq!(pump.step(), PumpStep::Idle);
}

#[test]
fn flush_and_the_end_close_what_is_there_and_never_an_empty_batch() {
    let (mut pump, log, _) = pump(Batcher::builder().max_batch_size(4));
    pump.flush();
    pump.advance(Duration::from_secs(10));
    assert_eq!(log.sizes(), [0; 0], "nothing is there to be written");
    add(&pump, 0..6);
    assert_eq!(pump.flush().flushed_ok, 6);
    assert_eq!(pump.flush().flushed_ok, 6);
    add(&pump, 6..8);
    let report = pump.shutdown();
    assert!(report.is_clean());
    assert_eq!(log.reasons(), [Size, Flush, Shutdown]);
    for (reason, count) in report.stats.flush_reasons.iter() {
        let expected = log.reasons().iter().filter(|r| **r == reason).count() as u64;
        assert_eq!(count, expected, "{reason}");
    }
}

#[test]
fn a_flush_is_not_a_standing_order() {
    let (mut pump, _, _) = pump(Batcher::builder().max_batch_size(4).max_batch_delay(None));
    add(&pump, 0..2);
    pump.flush();
    add(&pump, 2..4);
    assert_eq!(pump.step(), PumpStep::Idle, "these came after the flush");
}

#[test]
fn sinks_narrow_the_triggers_and_never_widen_them() {
    let narrow = SinkLimits::default().max_batch_size(3);
    let (mut pump1, log, _) = pump_with(Batcher::builder(), Duration::ZERO, narrow);
    add(&pump1, 0..7);
    pump1.flush();
    assert_eq!(log.sizes(), [3, 3, 1]);
    assert_eq!(log.reasons(), [Size, Size, Flush]);

    let zero = SinkLimits::default().max_batch_size(0);
    let (mut pump2, log, _) = pump_with(Batcher::builder(), Duration::ZERO, zero);
    add(&pump2, 0..2);
    pump2.flush();
    assert_eq!(log.sizes(), [1, 1], "0 is read as 1");

    let wide = SinkLimits::default().max_batch_size(1_000).max_batch_bytes(1_000);
    let builder = weighed().max_batch_size(2).max_batch_bytes(10);
    let (mut pump3, log, _) = pump_with(builder, Duration::ZERO, wide);
    add(&pump3, [9, 9, 1, 1, 1]);
    pump3.flush();
    assert_eq!(log.sizes(), [1, 2, 2]);

    let bytes = SinkLimits::default().max_batch_bytes(10);
    let (mut pump4, log, _) = pump_with(weighed(), Duration::ZERO, bytes);
    add(&pump4, [6, 6, 4]);
    pump4.flush();
    assert_eq!(log.sizes(), [1, 2], "a sink's byte limit counts without one of the builder's");
}

#[test]
fn the_narrowest_of_several_sinks_counts() {
    struct Narrow(Log<u64>, usize);
    impl Sink<u64> for Narrow {
        fn write(
            &mut self,
            batch: &Batch<u64>,
            cx: &mut WriteContext<'_>,
        ) -> Result<(), WriteError> {
            self.0.record(batch, cx);
            Ok(())
        }
        fn limits(&self) -> SinkLimits {
            SinkLimits::default().max_batch_size(self.1)
        }
    }
    let log = Log::new();
    let sinks = log.clone();
    let batcher = Batcher::builder()
        .flushers(3)
        .spawn(move |flusher: Flusher| {
            Ok::<_, WriteError>(Narrow(sinks.clone(), [9, 4, 6][flusher.index]))
        })
        .unwrap();
    batcher.producer().add_many(&mut (0..400).collect()).unwrap();
    assert!(batcher.shutdown(LONG).is_clean());
    assert!(log.sizes().iter().all(|size| *size <= 4), "{:?}", log.sizes());
    assert_eq!(log.items().len(), 400);
}

/// Long enough, mostly, for a flusher to fall asleep; nothing depends on it.
fn let_it_sleep() {
    for _ in 0..100 {
        std::thread::yield_now();
    }
}

/// Each thing that a flusher may be woken for wakes it, alone, out of its sleep.
#[test]
fn every_reason_alone_wakes_a_sleeping_flusher() {
    type Cause = fn(&Batcher<u64>);
    let nothing: Cause = |_| {};
    let flush: Cause = |batcher| assert!(batcher.flush(LONG).unwrap().balances());
    let fill: Cause = |batcher| (0..3).for_each(|item| batcher.producer().add(item).unwrap());
    let run: Cause = |batcher| {
        assert_eq!(batcher.producer().add_many(&mut vec![1, 2, 3]), Ok(3));
    };
    let builder = || Batcher::<u64>::builder().max_batch_size(4).max_batch_delay(None);
    let cases = [
        (builder(), flush, Flush),
        (builder(), fill, Size),
        (builder(), run, Size),
        (builder(), Batcher::close, Shutdown),
        (builder().max_batch_delay(ms(1)), nothing, Time),
        (builder().flush_when(FlushWhen::Idle), nothing, Idle),
        (builder().weight(|_| 7).max_batch_bytes(7), nothing, Bytes),
    ];
    for (builder, cause, reason) in cases {
        let log = Log::new();
        let batcher = builder.spawn(log.factory()).unwrap();
        until("it was asleep, and woke", || {
            let batches = batcher.stats().batches;
            let_it_sleep();
            batcher.producer().add(0).unwrap();
            let_it_sleep();
            cause(&batcher);
            until("the cause alone wakes it", || batcher.stats().batches > batches);
            batcher.stats().parks >= 4 || batcher.is_closed()
        });
        assert!(log.reasons().iter().all(|r| *r == reason), "{reason}: {:?}", log.reasons());
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn an_idle_engine_sleeps_however_short_its_delay() {
    for nanos in [0, 1, 1_000, 20_000, 100_000] {
        let batcher = Batcher::<u64>::builder()
            .max_batch_delay(Duration::from_nanos(nanos))
            .spawn(|_| Ok::<_, WriteError>(sink::NullSink))
            .unwrap();
        until("it was asleep, and woke", || {
            let_it_sleep();
            batcher.producer().add(1).unwrap();
            batcher.flush(LONG).unwrap();
            batcher.stats().parks >= 2
        });
        assert!(batcher.shutdown(LONG).is_clean());
    }
}

#[test]
fn reasons_have_the_names_that_reports_use() {
    let names: Vec<_> = FlushReason::ALL.iter().map(|reason| reason.to_string()).collect();
    assert_eq!(names, ["size", "bytes", "time", "idle", "flush", "shutdown"]);
}

#[test]
fn items_that_are_suddenly_heavy_are_noticed_without_a_delay() {
    let mut pump = Batcher::builder()
        .max_batch_size(8192)
        .max_batch_bytes(1_000)
        .max_batch_delay(None)
        .weight(|bytes: &usize| *bytes)
        .pump(sink::NullSink, TestClock::new())
        .unwrap();
    let producer = pump.producer();
    producer.add_many(&mut vec![1; 10]).unwrap();
    assert_eq!(pump.run(), 0);
    producer.add_many(&mut vec![1_000_000; 900]).unwrap();
    pump.run();
    let tally = pump.tally();
    assert!(tally.in_flight <= 1, "{tally:?}"); // the last may wait for what still fits
    assert!(pump.stats().flush_reasons.get(FlushReason::Bytes) >= 900);
}
