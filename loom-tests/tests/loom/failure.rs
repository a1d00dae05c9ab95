//! Forbidden: a flusher asleep over a work that waits and may be written, or over a write that has
//! ended; a flush that returns before an item that failed first has met its fate; an item written
//! twice, or handed back and written; a flusher that ends while something waits. Allowed: whoever
//! comes first writes what another has failed to. Method: sinks fail once, delays are nothing, and
//! who would come when a time has come is another thread.

use std::sync::Arc;
use std::time::Duration;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};
use sluicegate::internals::{Clock, Permits, Resolution, Seat, Writer, seat};
use sluicegate::sink::from_fn;
use sluicegate::{
    Adaptive, Batch, Breaker, BreakerState, OnFailure, Retry, Sink, Tally, TestClock, WriteContext,
    WriteError,
};
use sluicegate_loom_tests::{Failing, Item, Parts, add, failing, next, serve, write};

use crate::{join, model};

/// Longer than any model: loom has no clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);
const HOUR: Duration = Duration::from_secs(3600);

/// Failed items are due again at once.
fn at_once() -> Retry {
    let retry = Retry::default().give_up_after(None);
    retry.initial_delay(Duration::ZERO).max_delay(Duration::ZERO)
}

fn retrying() -> Failing {
    Failing { retry: Some(at_once()), ..Failing::default() }
}

/// Batches of one, two flushers.
fn singles(items: u32, settings: Failing) -> Parts {
    let parts = failing(2, 1, 2, settings);
    (0..items).for_each(|n| add(&parts, Item::new(0, n)).unwrap());
    parts
}

/// What the sinks of a model do together. Of loom, so that others get between a write's begin and
/// its end; a sink that yields would wait until they can do nothing more.
struct Sinks {
    parts: Parts,
    calls: AtomicU64,
    /// Calls that fail, a bit for each.
    fail: u64,
    error: fn() -> WriteError,
    /// The items written, a bit for each.
    written: AtomicU64,
    /// The engine is closed when these are.
    close_after: u64,
}

impl Sinks {
    /// The first call fails.
    fn new(parts: &Parts) -> Self {
        Self {
            parts: Arc::clone(parts),
            calls: AtomicU64::new(0),
            fail: 1,
            error: || WriteError::transient("once"),
            written: AtomicU64::new(0),
            close_after: 0,
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn write(&self, batch: &Batch<Item>) -> Result<(), WriteError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.fail >> call & 1 == 1 {
            return Err((self.error)());
        }
        let bits: u64 = batch.iter().map(|item| 1 << item.number()).sum();
        let before = self.written.fetch_or(bits, Ordering::Relaxed);
        assert_eq!(before & bits, 0, "an item came twice");
        if before | bits == self.close_after {
            self.parts.any().close();
        }
        Ok(())
    }
}

fn writer(index: usize, sinks: &Arc<Sinks>) -> Writer<impl Sink<Item> + use<>> {
    seated(seat(index), sinks)
}

fn seated(seat: Seat, sinks: &Arc<Sinks>) -> Writer<impl Sink<Item> + use<>> {
    let sinks = Arc::clone(sinks);
    let sink = from_fn(move |batch: &Batch<Item>, _: &mut WriteContext<'_>| sinks.write(batch));
    Writer::new(seat, Some(sink))
}

fn serving(index: usize, parts: &Parts, sinks: &Arc<Sinks>) -> JoinHandle<()> {
    let (parts, sinks) = (Arc::clone(parts), Arc::clone(sinks));
    thread::spawn(move || serve(&parts, &mut writer(index, &sinks)))
}

/// The first write has failed before any thread starts.
fn one_has_failed(parts: &Parts) -> Sinks {
    let sinks = Arc::new(Sinks::new(parts));
    let work = next(parts).unwrap();
    assert!(write(parts, &mut writer(0, &sinks), work));
    Arc::into_inner(sinks).unwrap()
}

/// The next batch is in this flusher's hands before the other one starts to serve.
fn one_is_writing(parts: &Parts, sinks: Sinks) -> Arc<Sinks> {
    let sinks = Arc::new(sinks);
    let mut own = writer(0, &sinks);
    let work = next(parts).unwrap();
    let other = serving(1, parts, &sinks);
    if write(parts, &mut own, work) {
        serve(parts, &mut own);
    }
    other.join().unwrap();
    sinks
}

fn tally(parts: &Parts) -> Tally {
    let stats = parts.stats();
    assert!(stats.tally.balances(), "{stats:?}");
    assert!(stats.retry_items <= stats.tally.in_flight, "{stats:?}");
    stats.tally
}

/// At the end: so many items, all written.
fn all_written(parts: &Parts, items: u64) {
    let end = tally(parts);
    assert_eq!((end.enqueued, end.flushed_ok, end.in_flight), (items, items, 0), "{end:?}");
}

/// A flusher sleeps beside an empty ring, as the holder of the lease, when the write of another
/// fails: nobody else wakes it, and without it nobody gets at what waits.
#[test]
fn alarm() {
    model(|| {
        let parts = singles(1, retrying());
        one_is_writing(&parts, Sinks { close_after: 1, ..Sinks::new(&parts) });
        all_written(&parts, 1);
    });
}

/// One write at a time: the other flusher sleeps until it has ended, whatever is in the ring.
#[test]
fn held_by_the_limit() {
    model(|| {
        let permits = Permits { adaptive: Some(Adaptive::default().max(1)), ..Permits::default() };
        let parts = singles(2, Failing { permits, ..Failing::default() });
        parts.any().close();
        one_is_writing(&parts, Sinks { fail: 0, ..Sinks::new(&parts) });
        all_written(&parts, 2);
    });
}

/// The breaker is half open: the other flusher sleeps until the probe has ended.
#[test]
fn held_by_the_probe() {
    model(|| {
        let breaker = Breaker::default().min_writes(1).open_for(Duration::ZERO);
        let permits = Permits { breaker: Some(breaker), ..Permits::default() };
        let parts = singles(2, Failing { permits, retry: Some(at_once()), ..Failing::default() });
        parts.any().close();
        let sinks = one_has_failed(&parts);
        let breaker = parts.stats().breaker;
        assert_eq!(breaker, BreakerState::HalfOpen);
        one_is_writing(&parts, sinks);
        all_written(&parts, 2);
    });
}

/// Retries have run out of tokens, and a fresh batch brings one: either flusher sees it.
#[test]
fn tokens_of_a_fresh_batch() {
    model(|| {
        let retry = at_once().budget(0.5).budget_floor(0.0);
        let parts = singles(2, Failing { retry: Some(retry), ..Failing::default() });
        parts.any().close();
        let sinks = one_has_failed(&parts);
        one_is_writing(&parts, sinks);
        all_written(&parts, 2);
    });
}

/// A flush waits for the second write of an item.
#[test]
fn flush() {
    model(|| {
        let parts = failing(2, 2, 1, retrying());
        let sinks = Arc::new(Sinks::new(&parts));
        add(&parts, Item::new(0, 0)).unwrap();
        let caller = flushing(&parts, &sinks, 1);
        serve(&parts, &mut writer(0, &sinks));
        caller.join().unwrap();
        all_written(&parts, 1);
    });
}

/// The same, and another flusher may do that write.
#[test]
fn flush_of_two_flushers() {
    model(|| {
        let parts = singles(1, retrying());
        let sinks = Sinks { close_after: 1, ..Sinks::new(&parts) };
        let caller = {
            let parts = Arc::clone(&parts);
            thread::spawn(move || {
                assert_eq!(parts.ledger.wait_resolved(&[1], FOR_EVER), Resolution::Resolved);
                assert_eq!(tally(&parts).flushed_ok, 1, "flush came back too early");
            })
        };
        one_is_writing(&parts, sinks);
        caller.join().unwrap();
        all_written(&parts, 1);
    });
}

/// A flush waits for both halves of a batch that was split.
#[test]
fn flush_of_halves() {
    model(|| {
        let parts = failing(2, 2, 1, Failing { bisect: true, ..Failing::default() });
        let refused = || WriteError::permanent("a bad item");
        let sinks = Arc::new(Sinks { error: refused, ..Sinks::new(&parts) });
        (0..2).for_each(|n| add(&parts, Item::new(0, n)).unwrap());
        let caller = flushing(&parts, &sinks, 0b11);
        serve(&parts, &mut writer(0, &sinks));
        caller.join().unwrap();
        all_written(&parts, 2);
    });
}

/// Flushes, finds these items written, and closes.
fn flushing(parts: &Parts, sinks: &Arc<Sinks>, items: u64) -> JoinHandle<()> {
    let (parts, sinks) = (Arc::clone(parts), Arc::clone(sinks));
    thread::spawn(move || {
        assert_eq!(parts.flush(FOR_EVER), Resolution::Resolved);
        assert_eq!(sinks.written(), items, "flush came back too early");
        parts.any().close();
    })
}

/// Shutdown stops the writing while a flusher writes, settles with a work that goes on, or writes
/// that again.
#[test]
fn stop() {
    model(|| {
        let parts = failing(2, 1, 1, retrying());
        add(&parts, Item::new(0, 0)).unwrap();
        parts.any().close();
        let sinks = Arc::new(Sinks::new(&parts));
        let serving = serving(0, &parts, &sinks);
        let reader = {
            let parts = Arc::clone(&parts);
            thread::spawn(move || assert!(tally(&parts).in_flight <= 1))
        };
        parts.ledger.stop();
        parts.any().stop();
        join([serving, reader]);
        let end = tally(&parts);
        assert_eq!(end.flushed_ok, sinks.written().count_ones().into());
        assert_eq!(end.flushed_ok + unflushed(&parts), 1, "one fate: {end:?}");
    });
}

/// The same, and shutdown does not wait for a write under way.
#[test]
fn giving_up() {
    model(|| {
        let parts = failing(2, 1, 1, retrying());
        add(&parts, Item::new(0, 0)).unwrap();
        parts.any().close();
        let sinks = Arc::new(Sinks::new(&parts));
        let serving = serving(0, &parts, &sinks);
        parts.ledger.stop();
        parts.any().stop();
        let left = parts.ledger.leave_behind(None);
        let (before, calls) = (tally(&parts), sinks.calls());
        serving.join().unwrap();
        let end = tally(&parts);
        if left.is_empty() {
            assert_eq!(sinks.calls(), calls, "no write may start now");
        } else {
            assert_eq!((before.unknown, end), (1, before), "what it still does counts for nothing");
        }
        assert_eq!(unflushed(&parts), end.in_flight, "{end:?}");
    });
}

/// A write is left behind at any moment, and another flusher takes the place of its own.
#[test]
fn hung() {
    model(|| {
        let parts = failing(2, 1, 1, Failing::default());
        (0..2).for_each(|n| add(&parts, Item::new(0, n)).unwrap());
        parts.any().close();
        let sinks = Arc::new(Sinks { fail: 0, ..Sinks::new(&parts) });
        let first = serving(0, &parts, &sinks);
        let hung = parts.ledger.take_hung(Duration::ZERO);
        for hung in &hung {
            let seat = hung.seat.unwrap();
            serve(&parts, &mut seated(seat, &sinks));
            parts.ledger.ended(seat, Vec::new());
            assert_eq!(tally(&parts).in_flight, 0, "it is through, whatever the other still does");
        }
        first.join().unwrap();
        let end = tally(&parts);
        assert_eq!((end.flushed_ok, end.unknown), (2 - hung.len() as u64, hung.len() as u64));
        assert_eq!(sinks.written(), 0b11, "each came to the sink, once");
        assert_eq!(parts.ledger.wait_resolved(&[2], FOR_EVER), Resolution::Resolved);
    });
}

/// Hands everything back, when nobody writes any more; says how many items that are.
fn unflushed(parts: &Parts) -> u64 {
    parts.hand_back_waiting();
    let mut items = parts.ledger.take_handed_back();
    parts.any().take_rest(&mut parts.any().lease.lock().unwrap(), &mut items);
    items.len() as u64
}

/// The engine is closed, and the ring empty, while an item waits to be due: a flusher waits for it,
/// and then both end. The time comes in a thread of its own.
#[test]
fn close() {
    model(|| {
        let clock = TestClock::new();
        let parts = singles(1, Failing { clock: Clock::Test(clock.clone()), ..retrying() });
        parts.any().close();
        let later = || WriteError::throttled("not now", Some(HOUR));
        let sinks = Arc::new(Sinks { error: later, ..Sinks::new(&parts) });
        let work = next(&parts).unwrap();
        write(&parts, &mut writer(0, &sinks), work);
        let flushers = [0, 1].map(|index| serving(index, &parts, &sinks));
        tally(&parts); // loom does not see the clock: here they may go on before it moves
        clock.advance(HOUR);
        parts.any().wake.alarm(&parts.any().ring);
        join(flushers);
        all_written(&parts, 1);
    });
}

/// The engine halts at an item that fails for good: the other flusher ends, asleep or with a batch
/// in its hands.
#[test]
fn halt() {
    model(|| {
        let parts = singles(2, Failing { on_failure: OnFailure::Halt, ..Failing::default() });
        let refused = || WriteError::permanent("a bad item");
        let sinks = one_is_writing(&parts, Sinks { error: refused, ..Sinks::new(&parts) });
        let end = tally(&parts);
        assert_eq!(end.flushed_ok, sinks.written().count_ones().into());
        assert_eq!((end.flushed_fail, end.in_flight), (1, 1 - end.flushed_ok));
        assert_eq!(unflushed(&parts), end.in_flight, "{end:?}");
    });
}
