//! Promise: the sink is given no more than it is to be given, whatever is waiting; and what waits
//! makes the batches grow, not the number of calls.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{LONG, Rng, sink_of};
use rig::{Asked, MS, Rig, SECOND, always, ms, sinks};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{Adaptive, Batch, Batcher, Builder, Retry, Throttle};

fn builder(batch: usize, throttle: Throttle) -> Builder<u64> {
    Batcher::builder().max_batch_size(batch).seed(1).breaker(None).throttle(throttle)
}

/// Of a rate with a burst: how much there was at most in any time, in seconds, since `burst` is
/// counted too.
fn worst(asked: &[Asked], burst: Duration, amount: impl Fn(&Asked) -> f64) -> f64 {
    let mut worst = 0.0_f64;
    for from in 0..asked.len() {
        let mut sum = 0.0;
        for call in &asked[from..] {
            // Before this one: a batch goes out whole, and the next waits.
            if call.at > asked[from].at || sum > 0.0 {
                let seconds = (call.at - asked[from].at + burst).as_secs_f64();
                worst = worst.max(sum / seconds);
            }
            sum += amount(call);
        }
    }
    worst
}

#[test]
fn fifty_thousand_items_over_a_hundred_calls_end_in_batches_of_five_hundred() {
    let throttle = Throttle::default().calls_per_second(100.0);
    let builder = builder(4_096, throttle).max_batch_delay(MS);
    let mut rig = Rig::new(builder, &Faults::seeded(0));
    let mut deepest = 0;
    for tick in 0..5_000 {
        rig.add(tick * 50..(tick + 1) * 50);
        rig.pump.advance(MS);
        if tick % 100 == 0 {
            deepest = deepest.max(rig.stats().queue_depth);
        }
    }
    let (calls, sizes) = (rig.calls(), rig.sizes());
    assert!(calls <= 100 * 5 + 10, "{calls} calls in 5 s, and 10 saved up");
    assert!(calls >= 100 * 5 - 1, "{calls}: the rate is used");
    let settled = &sizes[20..];
    assert!(settled.iter().all(|size| (500..=512).contains(size)), "{settled:?}");
    assert!(deepest <= 1_000, "nothing piles up: {deepest}");
    let written = rig.store.len();
    assert!(written >= 249_000, "{written}");
    assert_eq!(rig.store.items(), (0..written as u64).collect::<Vec<_>>());
}

/// The same load without a throttle, so that the test above shows something.
#[test]
fn without_a_throttle_the_delay_makes_small_batches() {
    let mut rig =
        Rig::new(builder(4_096, Throttle::default()).max_batch_delay(MS), &Faults::seeded(0));
    for tick in 0..100 {
        rig.add(tick * 50..(tick + 1) * 50);
        rig.pump.advance(MS);
    }
    assert_eq!(rig.sizes(), vec![50; 100]);
}

#[test]
fn a_batch_that_has_to_wait_takes_in_what_comes_meanwhile() {
    let throttle = Throttle::default().calls_per_second(10.0).burst(Duration::ZERO);
    let mut rig = Rig::new(builder(8, throttle).max_batch_delay(MS), &Faults::seeded(0));
    for item in 0..6 {
        rig.add(item..item + 1);
        rig.pump.advance(10 * MS);
    }
    rig.pump.advance(SECOND);
    assert_eq!(rig.sizes(), [1, 5]);
    assert_eq!(rig.times()[1] - rig.times()[0], 100 * MS);
}

#[test]
fn items_and_bytes_per_second_are_kept() {
    let burst = 100 * MS;
    for bytes in [false, true] {
        let throttle = Throttle::default().burst(burst);
        let (throttle, weight) = match bytes {
            false => (throttle.items_per_second(1_000.0), 1),
            true => (throttle.bytes_per_second(10_000.0), 10),
        };
        let builder = builder(64, throttle).weight(move |_| weight).queue_depth(256);
        let mut rig = Rig::new(builder, &Faults::seeded(0));
        let mut next = 0;
        for _ in 0..1_000 {
            while rig.pump.producer().try_add(next).is_ok() {
                next += 1;
            }
            rig.pump.advance(10 * MS);
        }
        let asked = rig.asked();
        let worst = worst(&asked, burst, |call| call.items.len() as f64);
        assert!(worst <= 1_000.0 * 1.001, "{worst} per second");
        let written = rig.store.len();
        assert!((9_900..=10_000 + 100 + 64).contains(&written), "{written} in 10 s");
        assert_eq!(rig.stats().tally.flushed_fail, 0);
    }
}

#[test]
fn whatever_comes_the_calls_keep_to_their_rate() {
    let mut rng = Rng::seeded();
    for _ in 0..20 {
        let rate = rng.pick(&[5.0, 40.0, 300.0]);
        let burst = ms(rng.pick(&[0, 100, 1_000]));
        let throttle = Throttle::default().calls_per_second(rate).burst(burst);
        let builder = builder(8, throttle).retry(Retry::default().budget_floor(1e6));
        let faults = Faults::seeded(rng.next()).one_in(4, Fault::Transient).poison(|i| i % 40 == 7);
        let mut rig = Rig::new(builder, &faults);
        for item in 0..300 {
            let _ = rig.pump.producer().try_add(item);
            match rng.below(4) {
                0 => _ = rig.pump.flush(),
                1 => _ = rig.pump.step(),
                _ => _ = rig.pump.advance(ms(rng.below(40))),
            }
        }
        let saved = (rate * burst.as_secs_f64()).max(1.0);
        let times = rig.times();
        for from in 0..times.len() {
            for to in from..times.len() {
                let most = rate * (times[to] - times[from]).as_secs_f64() + saved;
                assert!((to - from + 1) as f64 <= most + 1e-6, "{} > {most}", to - from + 1);
            }
        }
    }
}

#[test]
fn a_flush_does_not_break_the_limit() {
    let throttle = Throttle::default().calls_per_second(10.0).burst(Duration::ZERO);
    let mut rig = Rig::new(builder(4, throttle), &Faults::seeded(0));
    rig.add(0..4);
    rig.add(4..10);
    rig.pump.flush();
    assert_eq!(rig.calls(), 1);
    rig.pump.advance(SECOND);
    assert_eq!(rig.times(), [0, 100, 200].map(|ms| ms * MS));
    assert_eq!(rig.store.len(), 10);
}

#[test]
fn shutdown_does_not_break_the_limit() {
    let throttle = Throttle::default().calls_per_second(100.0).burst(Duration::ZERO);
    let faults = Faults::seeded(0);
    let log = faults.log();
    let (open, store) = sinks(faults);
    let batcher = builder(10, throttle).flushers(2).spawn(open).unwrap();
    (0..200).for_each(|item| batcher.producer().add(item).unwrap());
    assert!(batcher.shutdown(LONG).is_clean());
    let mut times: Vec<Instant> = log.calls().iter().map(|call| call.at).collect();
    times.sort_unstable();
    let took = times[times.len() - 1] - times[0];
    // The permit comes a moment before the call: by that much the first call may be late.
    assert!(took >= 10 * MS * 17, "{} calls within {took:?}", times.len());
    assert_eq!((store.len(), times.len()), (200, 20));
}

#[test]
fn what_the_throttle_holds_back_is_handed_back() {
    let throttle = Throttle::default().calls_per_second(0.001);
    let mut rig = Rig::new(builder(2, throttle), &Faults::seeded(0));
    rig.add(0..2);
    rig.pump.producer().add_many(&mut vec![2, 3, 4]).unwrap();
    let report = rig.pump.shutdown();
    assert_eq!((report.tally.flushed_ok, report.unflushed), (2, vec![2, 3, 4]));
}

#[test]
fn one_large_batch_runs_into_debt_and_the_next_waits() {
    let throttle = Throttle::default().items_per_second(100.0).burst(Duration::ZERO);
    let mut rig = Rig::new(builder(50, throttle), &Faults::seeded(0));
    rig.add(0..50);
    rig.add(50..100);
    rig.pump.advance(SECOND);
    assert_eq!(rig.times(), [Duration::ZERO, 500 * MS]);
}

#[test]
fn the_adaptive_limit_is_kept_and_shown() {
    let limit = 2;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let sink = sink_of(move |_: &Batch<u64>, _: &mut sluicegate::WriteContext<'_>| {
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        std::thread::yield_now();
        now.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    });
    let adaptive = Adaptive::default().min(limit).max(limit);
    let builder = builder(1, Throttle::default()).flushers(8).adaptive(adaptive);
    let batcher = builder.spawn(sink).unwrap();
    (0..20_000).for_each(|item| batcher.producer().add(item).unwrap());
    assert_eq!(batcher.stats().writes_max, Some(limit));
    assert!(batcher.shutdown(LONG).is_clean());
    let most = seen.load(Ordering::Relaxed);
    assert!(most <= limit, "{most} at once");
}

#[test]
fn the_adaptive_limit_shrinks_when_the_sink_is_in_trouble() {
    let faults = always(Fault::Throttled(Duration::ZERO));
    let builder = builder(1, Throttle::default()).retry(None).adaptive(Adaptive::default().max(9));
    let builder = builder.adaptive(Adaptive::default().min(1).max(9));
    let mut rig = Rig::new(builder, &faults);
    assert_eq!(rig.stats().writes_max, Some(1), "it starts with the least");
    rig.add(0..50);
    assert_eq!((rig.stats().writes_max, rig.calls()), (Some(1), 50));
    let mut well = Rig::new(
        Batcher::builder().max_batch_size(1).adaptive(Adaptive::default().max(9)),
        &Faults::seeded(0),
    );
    well.add(0..200);
    let grown = well.stats().writes_max.unwrap();
    assert!((2..=9).contains(&grown), "all of it was used, and nothing took longer: {grown}");
    let off = Rig::new(Batcher::builder(), &Faults::seeded(0));
    assert_eq!(off.stats().writes_max, None);
}
