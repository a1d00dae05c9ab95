//! Whether the sink is down: after too many failures it is left alone, then tried with one write.
//!
//! ```text
//!            failures ≥ failure_rate × writes, and writes ≥ min_writes, in the window
//!   closed ──────────────────────────────────────────────────────────────────────────→ open
//!     ↑                                                                               │   ↑
//!     │ the probe succeeds                      after open_for, twice that, … open_max│   │
//!     └───────────────────────────────────────── half-open ←──────────────────────────┘   │
//!                                                    │ the probe fails                    │
//!                                                    └────────────────────────────────────┘
//! ```
//!
//! **Late results count for nothing.** A write that began before the sink was given up may answer
//! when it is being tried again, and would then speak for the probe (Polly's #217, #218 and #223).
//! So a pass carries a generation, of which each change of state begins a new one.
//!
//! **One probe.** Who has the pass of the probe must answer it or return it: until then nobody
//! else is let through.
//!
//! **Only a failure opens.** The success that makes up `min_writes` is no reason to give up.
//!
//! **The wait starts over only after a whole window without opening.** A sink that takes one write
//! and fails under many would otherwise be stormed after `open_for` for ever.

use std::time::{Duration, Instant};

use super::{later, nonzero, within};
use crate::config::ConfigError;

/// Steps in which the window slides.
const BUCKETS: u32 = 10;

/// What becomes of batches while the breaker is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhileOpen {
    /// They wait, and when the queue is full so do the producers; nothing is lost.
    #[default]
    Hold,
    /// Their items become dead letters at once, and the queue stays short.
    DeadLetter,
}

/// Whether the sink is written to.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// It is.
    #[default]
    Closed,
    /// It failed too often and is left alone.
    Open,
    /// It is tried with one write.
    HalfOpen,
}

impl BreakerState {
    /// Every state, in one fixed order.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name used in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// When the sink is left alone, and for how long.
///
/// ```
/// use sluicegate::{Breaker, WhileOpen};
///
/// let breaker = Breaker::default().failure_rate(0.8).while_open(WhileOpen::DeadLetter);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    pub(crate) failure_rate: f64,
    pub(crate) min_writes: u32,
    pub(crate) window: Duration,
    pub(crate) open_for: Duration,
    pub(crate) open_max: Duration,
    pub(crate) while_open: WhileOpen,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failure_rate: 0.5,
            min_writes: 10,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(1),
            open_max: Duration::from_secs(30),
            while_open: WhileOpen::Hold,
        }
    }
}

impl Breaker {
    /// Which share of the writes must fail; more than 0, at most 1. A half unless told otherwise.
    #[must_use]
    pub fn failure_rate(mut self, share: f64) -> Self {
        self.failure_rate = share;
        self
    }

    /// How many writes there must be in the window. 10 unless told otherwise.
    #[must_use]
    pub fn min_writes(mut self, writes: u32) -> Self {
        self.min_writes = writes;
        self
    }

    /// How far back writes count; it slides in tenths. 10 s unless told otherwise.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long the sink is left alone at first; each probe that fails doubles it. It starts over
    /// after a whole window without opening. 1 s unless told otherwise.
    #[must_use]
    pub fn open_for(mut self, wait: Duration) -> Self {
        self.open_for = wait;
        self
    }

    /// Where the doubling ends. 30 s unless told otherwise.
    #[must_use]
    pub fn open_max(mut self, wait: Duration) -> Self {
        self.open_max = wait;
        self
    }

    /// What becomes of batches meanwhile. They wait unless told otherwise.
    #[must_use]
    pub fn while_open(mut self, policy: WhileOpen) -> Self {
        self.while_open = policy;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        // By name, so that a new value cannot be forgotten here.
        let Self { failure_rate, min_writes, window, open_for, open_max, while_open: _ } = *self;
        within(
            failure_rate > 0.0 && failure_rate <= 1.0,
            "breaker.failure_rate",
            failure_rate,
            "more than 0 and at most 1",
        )?;
        nonzero("breaker.min_writes", min_writes)?;
        nonzero("breaker.window", window)?;
        nonzero("breaker.open_for", open_for)?;
        within(
            open_max >= open_for,
            "breaker.open_max",
            format_args!("{open_max:?}"),
            "at least breaker.open_for",
        )
    }
}

/// Whether a write may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It may: take a pass.
    Go,
    /// Not before this.
    Until(Instant),
    /// Not before the probe that is under way has answered or was returned.
    Probing,
}

/// The permission for one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pass is answered or returned: nobody else gets through while a probe is out"]
pub struct Pass {
    generation: u64,
    probe: bool,
}

impl Pass {
    /// Whether all others wait for this write.
    pub(crate) fn is_probe(self) -> bool {
        self.probe
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { since: Instant },
    Open { until: Instant },
    HalfOpen { probing: bool },
}

/// The breaker.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    settings: Breaker,
    phase: Phase,
    generation: u64,
    /// How long it was open, or will be.
    wait: Duration,
    window: Window,
}

impl Switch {
    /// Starts closed.
    pub(crate) fn new(settings: Breaker, now: Instant) -> Self {
        Self {
            settings,
            phase: Phase::Closed { since: now },
            generation: 0,
            wait: settings.open_for,
            window: Window::new(settings.window, now),
        }
    }

    /// Whether a write may begin now.
    pub(crate) fn look(&mut self, now: Instant) -> Look {
        if let Phase::Open { until } = self.phase {
            if now < until {
                return Look::Until(until);
            }
            self.enter(Phase::HalfOpen { probing: false });
        }
        match self.phase {
            Phase::HalfOpen { probing: true } => Look::Probing,
            _ => Look::Go,
        }
    }

    /// Begins a write; only after [`Look::Go`]. A pass taken at any other time counts for nothing.
    pub(crate) fn take(&mut self, now: Instant) -> Pass {
        let probe = self.look(now) == Look::Go && matches!(self.phase, Phase::HalfOpen { .. });
        if probe {
            self.phase = Phase::HalfOpen { probing: true };
        }
        Pass { generation: self.generation, probe }
    }

    /// The write is over; says the new state when that changed it.
    pub(crate) fn answered(&mut self, now: Instant, pass: Pass, ok: bool) -> Option<BreakerState> {
        if pass.generation != self.generation {
            return None;
        }
        match self.phase {
            Phase::Closed { since } => {
                self.window.record(now, ok);
                (!ok && self.window.has_failed(&self.settings)).then(|| {
                    if now.saturating_duration_since(since) >= self.settings.window {
                        self.wait = self.settings.open_for;
                    }
                    self.open(now)
                })
            }
            Phase::HalfOpen { .. } if pass.probe && ok => {
                self.window = Window::new(self.settings.window, now);
                self.enter(Phase::Closed { since: now });
                Some(BreakerState::Closed)
            }
            Phase::HalfOpen { .. } if pass.probe => {
                self.wait = self.wait.saturating_mul(2).min(self.settings.open_max);
                Some(self.open(now))
            }
            Phase::HalfOpen { .. } | Phase::Open { .. } => None,
        }
    }

    /// The pass was not used.
    pub(crate) fn returned(&mut self, pass: Pass) {
        if pass.probe && pass.generation == self.generation {
            self.phase = Phase::HalfOpen { probing: false };
        }
    }

    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn open(&mut self, now: Instant) -> BreakerState {
        self.enter(Phase::Open { until: later(now, self.wait) });
        BreakerState::Open
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

/// The writes of the last while, in buckets of a tenth of it.
#[derive(Clone, Debug)]
struct Window {
    /// Length of a bucket.
    width: Duration,
    /// When the bucket that is being filled, the first, will be.
    end: Instant,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    writes: u64,
    failures: u64,
}

impl Window {
    fn new(length: Duration, now: Instant) -> Self {
        let width = (length / BUCKETS).max(Duration::from_nanos(1));
        Self { width, end: later(now, width), buckets: [Bucket::default(); BUCKETS as usize] }
    }

    fn record(&mut self, now: Instant, ok: bool) {
        if now >= self.end {
            self.slide(now);
        }
        self.buckets[0].writes += 1;
        self.buckets[0].failures += u64::from(!ok);
    }

    /// Begins the bucket of that time.
    fn slide(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.end);
        let into = past.as_nanos() % self.width.as_nanos();
        let buckets = past.as_nanos() / self.width.as_nanos() + 1;
        for _ in 0..buckets.min(u128::from(BUCKETS)) {
            self.buckets.rotate_right(1); // after a whole window all are empty
            self.buckets[0] = Bucket::default();
        }
        self.end = later(now, self.width - Duration::from_nanos_u128(into));
    }

    fn has_failed(&self, settings: &Breaker) -> bool {
        let writes: u64 = self.buckets.iter().map(|bucket| bucket.writes).sum();
        let failures: u64 = self.buckets.iter().map(|bucket| bucket.failures).sum();
        writes >= u64::from(settings.min_writes)
            && failures as f64 >= settings.failure_rate * writes as f64
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
