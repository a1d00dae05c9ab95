//! Single steps, and any schedule against a model that remembers every write.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::seeded::runner;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A write that begins and ends now.
fn write(switch: &mut Switch, now: Instant, ok: bool) -> Option<BreakerState> {
    assert_eq!(switch.look(now), Look::Go);
    let pass = switch.take(now);
    switch.answered(now, pass, ok)
}

/// Fails until it opens.
fn knock_out(switch: &mut Switch, now: Instant) {
    for _ in 0..switch.settings.min_writes - 1 {
        assert_eq!(write(switch, now, false), None);
    }
    assert_eq!(write(switch, now, false), Some(BreakerState::Open));
}

fn opened_at(start: Instant) -> Switch {
    let mut switch = Switch::new(Breaker::default(), start);
    knock_out(&mut switch, start);
    switch
}

#[test]
fn each_bad_value_is_refused_under_its_own_key() {
    let breaker = Breaker::default();
    assert_eq!(breaker.check(), Ok(()));
    assert_eq!(breaker.failure_rate(1.0).open_for(30 * SECOND).check(), Ok(()));
    for (bad, key) in [
        (breaker.failure_rate(0.0), "breaker.failure_rate"),
        (breaker.failure_rate(1.1), "breaker.failure_rate"),
        (breaker.failure_rate(f64::NAN), "breaker.failure_rate"),
        (breaker.min_writes(0), "breaker.min_writes"),
        (breaker.window(Duration::ZERO), "breaker.window"),
        (breaker.open_for(Duration::ZERO), "breaker.open_for"),
        (breaker.open_max(MS), "breaker.open_max"),
    ] {
        assert_eq!(bad.check().expect_err("must be refused").key(), key);
    }
}

#[test]
fn states_have_names_of_their_own() {
    assert_eq!(BreakerState::ALL.map(BreakerState::name), ["closed", "open", "half_open"]);
}

#[test]
fn it_opens_at_the_rate_and_not_below() {
    let start = Instant::now();
    let mut switch = Switch::new(Breaker::default(), start);
    for _ in 0..6 {
        assert_eq!(write(&mut switch, start, true), None);
    }
    for _ in 0..5 {
        assert_eq!(write(&mut switch, start, false), None, "fewer than half");
    }
    assert_eq!(write(&mut switch, start, false), Some(BreakerState::Open), "six of twelve");
    assert_eq!(switch.look(start), Look::Until(start + SECOND));
    assert_eq!(switch.state(start), BreakerState::Open);
}

#[test]
fn a_success_never_opens() {
    let start = Instant::now();
    let mut switch = Switch::new(Breaker::default(), start);
    for _ in 0..9 {
        assert_eq!(write(&mut switch, start, false), None);
    }
    assert_eq!(write(&mut switch, start, true), None, "nine of ten have failed");
    assert_eq!(write(&mut switch, start, false), Some(BreakerState::Open));
}

#[test]
fn old_failures_are_forgotten() {
    let start = Instant::now();
    let mut switch = Switch::new(Breaker::default(), start);
    for second in [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24] {
        assert_eq!(write(&mut switch, start + second * SECOND, false), None, "five in ten seconds");
    }
}

#[test]
fn one_probe_is_let_through_and_no_other() {
    let start = Instant::now();
    let mut switch = opened_at(start);
    let now = start + SECOND;
    assert_eq!(switch.state(now), BreakerState::HalfOpen);
    assert_eq!(switch.look(now), Look::Go);
    let probe = switch.take(now);
    assert!(probe.is_probe());
    assert_eq!(switch.look(now + 100 * SECOND), Look::Probing, "however long it takes");
    switch.returned(probe);
    assert_eq!(switch.look(now), Look::Go, "a pass that was not used");
    let probe = switch.take(now);
    assert_eq!(switch.answered(now, probe, true), Some(BreakerState::Closed));
    assert_eq!(switch.look(now), Look::Go);
    assert!(!switch.take(now).is_probe());
    assert_eq!(switch.answered(now, probe, false), None, "a second answer counts for nothing");
}

#[test]
fn results_of_an_earlier_period_count_for_nothing() {
    let start = Instant::now();
    let mut switch = Switch::new(Breaker::default(), start);
    let late = [switch.take(start), switch.take(start), switch.take(start)];
    knock_out(&mut switch, start);
    assert_eq!(switch.answered(start, late[0], true), None, "while open");
    let now = start + SECOND;
    let probe = switch.take(now);
    assert_eq!(switch.answered(now, late[1], true), None, "it does not speak for the probe");
    switch.returned(late[1]);
    assert_eq!(switch.look(now), Look::Probing, "nor is it the probe that comes back");
    assert_eq!(switch.answered(now, probe, true), Some(BreakerState::Closed));
    for _ in 0..9 {
        assert_eq!(write(&mut switch, now, false), None);
    }
    assert_eq!(switch.answered(now, late[2], false), None, "it would have been the tenth");
    assert_eq!(switch.state(now), BreakerState::Closed);
}

#[test]
fn each_failed_probe_doubles_the_wait_to_a_limit() {
    let start = Instant::now();
    let mut switch = opened_at(start);
    let mut now = start;
    for wait in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(switch.look(now), Look::Until(now + wait * SECOND));
        now += wait * SECOND;
        assert_eq!(write(&mut switch, now, false), Some(BreakerState::Open));
    }
}

#[test]
fn the_wait_starts_over_after_a_whole_window() {
    let start = Instant::now();
    let mut switch = opened_at(start);
    let mut now = start + SECOND;
    assert_eq!(write(&mut switch, now, false), Some(BreakerState::Open));
    now += 2 * SECOND;
    assert_eq!(write(&mut switch, now, true), Some(BreakerState::Closed));
    now += 9 * SECOND;
    knock_out(&mut switch, now);
    assert_eq!(switch.look(now), Look::Until(now + 2 * SECOND), "within the window: as before");
    now += 2 * SECOND;
    assert_eq!(write(&mut switch, now, true), Some(BreakerState::Closed));
    now += 10 * SECOND;
    knock_out(&mut switch, now);
    assert_eq!(switch.look(now), Look::Until(now + SECOND));
}

#[derive(Clone, Debug)]
enum Op {
    Take,
    /// The n-th of the passes that are out is answered.
    Answer(usize, bool),
    Return(usize),
    Advance(u32),
}

/// What the breaker must be, from every write that it was ever told of.
struct Model {
    settings: Breaker,
    start: Instant,
    state: BreakerState,
    until: Instant,
    closed_at: Instant,
    wait: Duration,
    period: usize,
    probe: bool,
    /// Of the current closed period.
    log: Vec<(Instant, bool)>,
}

impl Model {
    fn new(settings: Breaker, start: Instant) -> Self {
        let wait = settings.open_for;
        let (state, until, closed_at) = (BreakerState::Closed, start, start);
        Self {
            settings,
            start,
            state,
            until,
            closed_at,
            wait,
            period: 0,
            probe: false,
            log: Vec::new(),
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.state == BreakerState::Open && now >= self.until {
            (self.state, self.probe) = (BreakerState::HalfOpen, false);
            self.period += 1;
        }
    }

    fn open(&mut self, now: Instant) -> Option<BreakerState> {
        (self.state, self.until) = (BreakerState::Open, now + self.wait);
        self.period += 1;
        Some(BreakerState::Open)
    }

    /// The tenth of a window in which that was, since the breaker closed.
    fn tenth(&self, at: Instant) -> u128 {
        (at - self.closed_at).as_nanos() / (self.settings.window.as_nanos() / 10)
    }

    fn answer(&mut self, now: Instant, of: (usize, bool), ok: bool) -> Option<BreakerState> {
        if of.0 != self.period {
            return None;
        }
        if self.state == BreakerState::HalfOpen && of.1 {
            if !ok {
                self.wait = (self.wait * 2).min(self.settings.open_max);
                return self.open(now);
            }
            (self.state, self.closed_at) = (BreakerState::Closed, now);
            self.log.clear();
            self.period += 1;
            return Some(BreakerState::Closed);
        }
        if self.state != BreakerState::Closed {
            return None;
        }
        self.log.push((now, ok));
        let recent = self.log.iter().filter(|(at, _)| self.tenth(*at) + 10 > self.tenth(now));
        let (failed, fine): (Vec<_>, Vec<_>) = recent.copied().partition(|(_, ok)| !ok);
        let writes = failed.len() + fine.len();
        let enough = writes >= self.settings.min_writes as usize;
        if ok || !enough || (failed.len() as f64) < self.settings.failure_rate * writes as f64 {
            return None;
        }
        if now - self.closed_at >= self.settings.window {
            self.wait = self.settings.open_for;
        }
        self.open(now)
    }
}

#[test]
fn any_schedule_agrees_with_a_model_that_remembers_every_write() {
    let op = prop_oneof![
        6 => Just(Op::Take),
        6 => (any::<usize>(), prop::bool::weighted(0.4)).prop_map(|(n, ok)| Op::Answer(n, ok)),
        1 => any::<usize>().prop_map(Op::Return),
        2 => (0..700_u32).prop_map(Op::Advance),
    ];
    let settings = (0.05..1.0_f64, 1..6_u32, 1..3_u32).prop_map(|(rate, min, open)| {
        let breaker = Breaker::default().failure_rate(rate).min_writes(min).window(SECOND);
        breaker.open_for(open * 100 * MS).open_max(500 * MS)
    });
    let cases = (settings, proptest::collection::vec(op, 1..200));
    runner(500).run(&cases, |(settings, ops)| follow(settings, &ops)).unwrap();
}

fn follow(settings: Breaker, ops: &[Op]) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let (mut switch, mut model) = (Switch::new(settings, start), Model::new(settings, start));
    let mut now = model.start;
    let mut out: Vec<(Pass, (usize, bool))> = Vec::new();
    for op in ops {
        prop_assert_eq!(switch.clone().state(now), {
            model.tick(now);
            model.state
        });
        let open = model.state == BreakerState::Open;
        let probing = model.state == BreakerState::HalfOpen && model.probe;
        let expected = match (open, probing) {
            (true, _) => Look::Until(model.until),
            (_, true) => Look::Probing,
            _ => Look::Go,
        };
        prop_assert_eq!(switch.look(now), expected);
        match op {
            Op::Advance(ms) => now += *ms * MS,
            Op::Take if expected == Look::Go => {
                let probe = model.state == BreakerState::HalfOpen;
                let pass = switch.take(now);
                prop_assert_eq!(pass.is_probe(), probe);
                model.probe = probe;
                out.push((pass, (model.period, probe)));
            }
            Op::Answer(n, ok) if !out.is_empty() => {
                let (pass, of) = out.swap_remove(n % out.len());
                prop_assert_eq!(switch.answered(now, pass, *ok), model.answer(now, of, *ok));
            }
            Op::Return(n) if !out.is_empty() => {
                let (pass, of) = out.swap_remove(n % out.len());
                switch.returned(pass);
                model.probe &= of != (model.period, true);
            }
            _ => {}
        }
        let probes = out.iter().filter(|(_, of)| *of == (model.period, true)).count();
        prop_assert!(probes <= 1, "{probes} probes");
    }
    Ok(())
}
