//! The limit before a simulated server, in virtual time.
//!
//! With `SLUICEGATE_PLOT_DIR` set, the step load is written there as `adaptive.csv`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Write;
use std::ops::RangeInclusive;

use fastrand::Rng;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof};

use super::*;
use crate::seeded::runner;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Writes after which the limit has settled, at the start and after each step.
const SETTLE: usize = 600;

/// A server of some workers with one queue, and clients that keep as many writes under way as the
/// limit allows.
struct Model {
    workers: usize,
    service: Duration,
    spread: Spread,
    rng: Rng,
    /// Clients that would write.
    clients: usize,
    start: Instant,
    now: Duration,
    queue: VecDeque<Duration>,
    /// When it ends, and when it began to wait.
    running: BinaryHeap<Reverse<(Duration, Duration)>>,
    limiter: Limiter,
    log: Vec<Answer>,
}

/// How service times differ.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// By so many hundredths, up and down.
    Even(u32),
    /// Without memory: mostly short, now and then many times the mean.
    Exponential,
}

#[derive(Clone, Copy)]
struct Answer {
    at: Duration,
    workers: usize,
    limit: usize,
    latency: Duration,
}

impl Model {
    fn new(workers: usize, adaptive: Adaptive) -> Self {
        Self {
            workers,
            service: 10 * MS,
            spread: Spread::Even(0),
            rng: Rng::with_seed(1),
            clients: usize::MAX,
            start: Instant::now(),
            now: Duration::ZERO,
            queue: VecDeque::new(),
            running: BinaryHeap::new(),
            limiter: Limiter::new(adaptive),
            log: Vec::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.len() + self.running.len()
    }

    /// Fills up to the limit, and waits for one answer.
    fn step(&mut self, ok: bool) {
        while self.in_flight() < self.limiter.limit().min(self.clients) {
            self.queue.push_back(self.now);
        }
        while self.running.len() < self.workers
            && let Some(sent) = self.queue.pop_front()
        {
            let takes = match self.spread {
                Spread::Even(spread) => {
                    self.service * self.rng.u32(100 - spread..=100 + spread) / 100
                }
                Spread::Exponential => self.service.mul_f64(-(1.0 - self.rng.f64()).ln()),
            };
            self.running.push(Reverse((self.now + takes, sent)));
        }
        let in_flight = self.in_flight();
        let Reverse((end, sent)) = self.running.pop().unwrap();
        self.now = end;
        self.limiter.record(self.start + end, end - sent, in_flight, ok);
        let (workers, limit) = (self.workers, self.limiter.limit());
        self.log.push(Answer { at: end, workers, limit, latency: end - sent });
    }

    /// Goes on for so long; returns what was answered.
    fn run(&mut self, time: Duration) -> &[Answer] {
        let (from, end) = (self.log.len(), self.now + time);
        while self.now < end {
            self.step(true);
        }
        &self.log[from..]
    }
}

fn limits(answers: &[Answer]) -> RangeInclusive<usize> {
    let least = answers.iter().map(|answer| answer.limit).min().unwrap();
    let most = answers.iter().map(|answer| answer.limit).max().unwrap();
    least..=most
}

fn writes_per_second(answers: &[Answer]) -> f64 {
    let time = answers[answers.len() - 1].at - answers[0].at;
    (answers.len() - 1) as f64 / time.as_secs_f64()
}

#[test]
fn each_bad_value_is_refused_under_its_own_key() {
    assert_eq!(Adaptive::default().check(), Ok(()));
    assert_eq!(Adaptive::default().max(1).check(), Ok(()));
    for (bad, key) in [
        (Adaptive::default().min(0), "adaptive.min"),
        (Adaptive::default().min(5).max(4), "adaptive.max"),
    ] {
        assert_eq!(bad.check().expect_err("must be refused").key(), key);
    }
}

/// Long enough for the base to be measured anew in each phase; these rounds are not left out.
#[test]
fn it_settles_after_each_step_of_the_load_and_does_not_oscillate() {
    let mut model = Model::new(8, Adaptive::default());
    for workers in [8, 2, 8] {
        model.workers = workers;
        let settled = &model.run(15 * SECOND)[SETTLE..];
        let (least, most) = limits(settled).into_inner();
        assert!(least + 1 >= workers && most <= workers + 4, "{workers}: {least}..={most}");
        let mut all: Vec<usize> = settled.iter().map(|answer| answer.limit).collect();
        all.sort_unstable();
        let median = all[all.len() / 2];
        assert!(least + 2 >= median && most <= median + 2, "{least}..={most} about {median}");
        let full = workers as f64 * 100.0;
        assert!(writes_per_second(settled) >= 0.98 * full, "the sink is kept busy");
        let latency: Duration = settled.iter().map(|answer| answer.latency).sum();
        assert!(latency / u32::try_from(settled.len()).unwrap() <= 20 * MS, "and little waits");
    }
    plot(&model.log);
}

/// At most 300 rows: the means of short times.
fn plot(log: &[Answer]) {
    let Some(folder) = std::env::var_os("SLUICEGATE_PLOT_DIR") else { return };
    let mut csv = String::from("seconds,workers,limit,latency_ms\n");
    let step = log[log.len() - 1].at.as_nanos() / 300 + 1;
    for row in log.chunk_by(|a, b| a.at.as_nanos() / step == b.at.as_nanos() / step) {
        let last = row[row.len() - 1];
        let latency = row.iter().map(|answer| answer.latency.as_secs_f64()).sum::<f64>();
        let latency = 1e3 * latency / row.len() as f64;
        let seconds = last.at.as_secs_f64();
        writeln!(csv, "{seconds:.2},{},{},{latency:.1}", last.workers, last.limit).unwrap();
    }
    std::fs::write(std::path::Path::new(&folder).join("adaptive.csv"), csv).unwrap();
}

#[test]
fn it_keeps_sinks_busy_whose_writes_differ() {
    let spread = prop_oneof![(0..100_u32).prop_map(Spread::Even), Just(Spread::Exponential)];
    let cases = (1..30_usize, spread, any::<u64>());
    runner(20)
        .run(&cases, |(workers, spread, seed)| {
            let mut model = Model::new(workers, Adaptive::default());
            (model.spread, model.rng) = (spread, Rng::with_seed(seed));
            model.run(20 * SECOND);
            let settled = model.run(20 * SECOND);
            let (busy, limits) = (writes_per_second(settled), limits(settled));
            prop_assert!(busy >= 90.0 * workers as f64, "{busy} per second, {limits:?}");
            let limit = settled.iter().map(|answer| answer.limit).sum::<usize>() / settled.len();
            prop_assert!(limit <= 2 * workers + 6, "{limit}, {limits:?}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_base_that_is_out_of_date_does_not_stick() {
    let mut model = Model::new(8, Adaptive::default());
    model.run(5 * SECOND);
    model.service = 30 * MS; // each write takes longer, and the sink is no fuller for it
    let before = limits(&model.run(5 * SECOND)[300..]);
    assert!(*before.end() < 8, "it takes that for a queue: {before:?}");
    model.run(10 * SECOND);
    let after = limits(&model.run(10 * SECOND)[SETTLE..]);
    assert!(*after.start() >= 7 && *after.end() <= 12, "{after:?}");
    model.service = 10 * MS; // the least is soon found, but with the queue that there was
    model.run(12 * SECOND);
    let faster = limits(model.run(10 * SECOND));
    assert!(*faster.start() >= 7 && *faster.end() <= 12, "{faster:?}");
}

#[test]
fn one_look_lower_is_enough_to_find_the_end_of_a_long_queue() {
    let mut model = Model::new(4, Adaptive::default());
    // As if nothing but the queue of 32 writes had ever been seen.
    let base = Base { mean: 0.080, spread: 0.0, since: model.start };
    let limiter = &mut model.limiter;
    (limiter.limit, limiter.phase, limiter.base) = (32, Phase::Steady, Some(base));
    model.run(9 * SECOND);
    assert!(model.limiter.limit() >= 32, "it passes for the latency without a queue");
    model.run(5 * SECOND);
    let found = model.limiter.base.unwrap().mean;
    assert!((found - 0.010).abs() < 0.001, "{found} s");
    let limits = limits(&model.run(10 * SECOND)[SETTLE..]);
    assert!(*limits.start() >= 3 && *limits.end() <= 6, "{limits:?}");
}

/// A queue that is there all the time would otherwise become the base, and then the next one.
#[test]
fn the_limit_does_not_creep_up_in_ten_minutes() {
    let mut model = Model::new(4, Adaptive::default());
    model.run(540 * SECOND);
    let last = limits(model.run(60 * SECOND));
    assert!(*last.start() >= 3 && *last.end() <= 6, "{last:?}");
}

#[test]
fn overload_shrinks_it_by_a_quarter_once_a_round() {
    let mut model = Model::new(40, Adaptive::default().min(32));
    model.run(SECOND);
    let before = model.limiter.limit();
    for _ in 0..before {
        model.step(false);
    }
    let once = before - before.div_ceil(4);
    assert_eq!(model.limiter.limit(), once.max(32), "all of one round count as one");
    let mut limiter = Limiter::new(Adaptive::default().min(3));
    (limiter.limit, limiter.phase) = (40, Phase::Steady);
    let mut seen = Vec::new();
    for _ in 0..200 {
        limiter.record(model.start, SECOND, limiter.limit, false);
        seen.push(limiter.limit);
    }
    seen.dedup();
    assert_eq!(seen, [30, 22, 16, 12, 9, 6, 4, 3], "but never below the least");
}

#[test]
fn it_does_not_grow_beyond_what_is_used() {
    let mut model = Model::new(50, Adaptive::default());
    model.clients = 10;
    model.run(20 * SECOND);
    let limit = model.limiter.limit();
    assert!((10..=22).contains(&limit), "{limit} for 10 clients");
    model.clients = 1_000;
    model.run(20 * SECOND);
    assert!(model.limiter.limit() >= 50);
}

#[test]
fn it_stays_in_its_bounds_whatever_it_is_told() {
    let latency = prop_oneof![
        any::<Duration>(),
        (0..100_u64).prop_map(Duration::from_millis),
        (0..3_u64).prop_map(Duration::from_nanos),
    ];
    let answer = (0..2_000_u64, latency, any::<u8>(), proptest::bool::weighted(0.95));
    let cases = (1..9_usize, 0..90_usize, proptest::collection::vec(answer, 1..600));
    runner(300)
        .run(&cases, |(min, more, answers)| {
            let start = Instant::now();
            let mut limiter = Limiter::new(Adaptive::default().min(min).max(min + more));
            let mut now = start;
            for (pause, latency, in_flight, ok) in answers {
                now += Duration::from_millis(pause);
                limiter.record(now, latency, usize::from(in_flight % 64), ok);
                prop_assert!((min..=min + more).contains(&limiter.limit()));
            }
            Ok(())
        })
        .unwrap();
}
