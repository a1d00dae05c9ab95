//! How many writes may be under way at once, found out from how long they take.
//!
//! In the manner of TCP Vegas (Brakmo and Peterson, 1995): a sink that is not full answers as fast
//! as it can, and what is beyond that waits in a queue of the sink's. With `base` for the latency
//! without a queue, `writes × (1 − base / latency)` of the writes under way are in that queue. The
//! limit grows while that is below `alpha`, shrinks when it is above `beta`, and stays in between:
//! the sink is busy, and little waits. A write that fails because the sink is overloaded, or does
//! not answer at all, shrinks the limit at once, by a quarter (AIMD).
//!
//! **No oscillation.** The limit changes by one, at most once a round, which is [`ROUND_TRIPS`]
//! times as many answers as the limit. A round is judged only by writes that began after the last
//! change: the answers of those that were under way then tell of the old limit. `beta − alpha` is
//! at least that one step wide. Only at the start the limit doubles, up to the first queue, and
//! goes back by half.
//!
//! **Like with like.** `latency` is the mean of a round, `base` the least mean of the last while.
//! The least of single latencies would make a sink whose writes differ look as if it were full. So
//! does the least of many means: hence a lower one counts only when two rounds in a row agree, and
//! only what is more than [`DOUBT`] standard errors above `base` is taken for a queue. Without
//! these, a sink with exponential service times was kept three quarters idle.
//!
//! **A minimum that is out of date does not stick.** When the sink got slower, the old minimum
//! would pass for ever; when it got faster, the new one was measured with a queue. So after
//! [`BASE_FOR`] it is measured anew, with the limit lowered for a round to what is thought not to
//! be in the queue, and one in [`PROBE_STEP`] less. Had there been no queue, that makes no write
//! faster; if it does, there was one still, and the limit stays there while the next round goes
//! lower.
//!
//! **Not promised.** Below `min` the sink's own queue cannot be drained, so a `min` that is more
//! than the sink can do stays unnoticed.

use std::time::{Duration, Instant};

use super::{nonzero, within};
use crate::config::ConfigError;

/// How old the least latency may become before it is measured anew,
const BASE_FOR: Duration = Duration::from_secs(10);
/// and how many times the latency, for sinks that take long.
const BASE_LATENCIES: f64 = 100.0;
/// The part of the limit by which a probe looks lower; one write at least.
const PROBE_STEP: usize = 8;
/// How often each write under way is answered in a round,
const ROUND_TRIPS: usize = 4;
/// and how many writes are taken for under way at least, so that a few answers do not decide.
const ROUND_WIDTH_MIN: usize = 8;
/// Standard errors of a round's mean that may be chance.
const DOUBT: f64 = 2.0;
/// Seconds; differences below this are not the sink's.
const LATENCY_MIN: f64 = 1e-6;

/// Finds out how many writes the sink does well with at once, and keeps to that.
///
/// The limit grows while writes take no longer for it, and shrinks when they queue up in the sink,
/// when it says that it is given too much, or when it does not answer.
///
/// ```
/// use sluicegate::Adaptive;
///
/// let adaptive = Adaptive::default().min(2).max(32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    pub(crate) min: usize,
    pub(crate) max: usize,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { min: 1, max: 64 }
    }
}

impl Adaptive {
    /// The fewest writes under way that it goes down to, and what it starts with. 1 unless told
    /// otherwise.
    #[must_use]
    pub fn min(mut self, writes: usize) -> Self {
        self.min = writes;
        self
    }

    /// The most writes under way that it allows. 64 unless told otherwise.
    #[must_use]
    pub fn max(mut self, writes: usize) -> Self {
        self.max = writes;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        nonzero("adaptive.min", self.min)?;
        within(self.max >= self.min, "adaptive.max", self.max, "at least adaptive.min")
    }
}

/// What the limiter is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Doubling, up to the first queue.
    Start,
    Steady,
    /// Measuring the latency without a queue; `from` so many writes it is thought not to change.
    Probe {
        back_to: usize,
        from: usize,
    },
}

/// The limit.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    settings: Adaptive,
    limit: usize,
    phase: Phase,
    /// Writes under way that began under another limit.
    stale: usize,
    round: Round,
    base: Option<Base>,
    /// The last round, when it was below that.
    below: Option<Base>,
}

/// The least mean latency.
#[derive(Clone, Copy, Debug)]
struct Base {
    /// In seconds.
    mean: f64,
    /// How much the latencies differed: their standard deviation, in seconds.
    spread: f64,
    /// When it was measured.
    since: Instant,
}

/// The answers since the last judgement.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    answers: usize,
    /// Of the latencies in seconds,
    sum: f64,
    /// and of their squares.
    squares: f64,
    /// The most writes under way.
    peak: usize,
}

impl Round {
    fn add(&mut self, latency: Duration, in_flight: usize) {
        let seconds = latency.as_secs_f64().max(LATENCY_MIN);
        self.answers += 1;
        self.sum += seconds;
        self.squares += seconds * seconds;
        self.peak = self.peak.max(in_flight);
    }

    fn mean(&self) -> f64 {
        self.sum / self.answers as f64
    }

    fn base(&self, now: Instant) -> Base {
        let variance = self.squares / self.answers as f64 - self.mean() * self.mean();
        Base { mean: self.mean(), spread: variance.max(0.0).sqrt(), since: now }
    }
}

impl Limiter {
    /// Starts at the least.
    pub(crate) fn new(settings: Adaptive) -> Self {
        let min = settings.min.max(1);
        let settings = Adaptive { min, max: settings.max.max(min) };
        let (phase, round) = (Phase::Start, Round::default());
        Self { settings, limit: min, phase, stale: 0, round, base: None, below: None }
    }

    /// How many writes may be under way.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A write has ended that took so long; with it, so many were under way. Not `ok` is one that
    /// says that the sink is overloaded or gone: throttled, timed out, disconnected.
    pub(crate) fn record(&mut self, now: Instant, latency: Duration, in_flight: usize, ok: bool) {
        if self.stale > 0 {
            self.stale -= 1;
            return;
        }
        if !ok {
            return self.back_off(in_flight);
        }
        self.round.add(latency, in_flight);
        if self.round.answers >= ROUND_TRIPS.saturating_mul(self.limit.max(ROUND_WIDTH_MIN)) {
            let round = std::mem::take(&mut self.round);
            self.judge(now, round, in_flight);
        }
    }

    fn back_off(&mut self, in_flight: usize) {
        let from = match self.phase {
            Phase::Probe { back_to, .. } => back_to,
            Phase::Start | Phase::Steady => self.limit,
        };
        self.phase = Phase::Steady;
        self.round = Round::default();
        self.set(from - from.div_ceil(4), in_flight);
    }

    fn judge(&mut self, now: Instant, round: Round, in_flight: usize) {
        let mean = round.mean();
        if let Phase::Probe { back_to, from } = self.phase {
            return self.judge_probe(round.base(now), (back_to, from), in_flight);
        }
        let base = self.lower_base(round.base(now));
        let used = round.peak.min(self.limit);
        let age = now.saturating_duration_since(base.since).as_secs_f64();
        if age >= BASE_FOR.as_secs_f64().max(mean * BASE_LATENCIES) {
            return self.probe(self.limit, without_queue(used, base.mean / mean), in_flight);
        }
        let doubt = DOUBT * base.spread / (round.answers as f64).sqrt();
        let queue = used as f64 * (1.0 - (base.mean + doubt) / mean);
        let idle = used.saturating_mul(4) < self.limit.saturating_mul(3);
        let limit = self.next_limit(queue, idle);
        self.set(limit, in_flight);
    }

    /// What two rounds in a row are below is too high.
    fn lower_base(&mut self, found: Base) -> Base {
        let base = *self.base.get_or_insert(found);
        if found.mean >= base.mean {
            self.below = None;
            return base;
        }
        match self.below.replace(found) {
            Some(before) if before.mean > found.mean => {
                *self.base.insert(Base { since: found.since, ..before })
            }
            Some(_) => *self.base.insert(found),
            None => base,
        }
    }

    /// Looks whether fewer writes than `from` are faster.
    fn probe(&mut self, back_to: usize, from: usize, in_flight: usize) {
        self.phase = Phase::Probe { back_to, from };
        self.set(from.saturating_sub((from / PROBE_STEP).max(1)), in_flight);
    }

    fn judge_probe(&mut self, found: Base, (back_to, from): (usize, usize), in_flight: usize) {
        // With a queue the latency falls as the limit does, without one not at all.
        let half_way = 0.5 + 0.5 * self.limit as f64 / from.max(1) as f64;
        let fell = self.base.is_some_and(|base| found.mean < base.mean * half_way);
        (self.base, self.below) = (Some(found), None);
        if fell && self.limit > self.settings.min {
            return self.probe(self.limit, self.limit, in_flight); // more only made a queue
        }
        self.phase = Phase::Steady;
        self.set(back_to, in_flight);
    }

    fn next_limit(&mut self, queue: f64, idle: bool) -> usize {
        let alpha = 0.5 * (self.limit as f64).log10().max(1.0);
        let beta = 3.0 * alpha;
        if self.phase == Phase::Start {
            if queue > alpha {
                self.phase = Phase::Steady;
                return self.limit / 2;
            }
            return if idle { self.limit } else { self.limit.saturating_mul(2) };
        }
        if queue > beta {
            self.limit - 1
        } else if queue < alpha && !idle {
            self.limit.saturating_add(1)
        } else {
            self.limit
        }
    }

    fn set(&mut self, limit: usize, in_flight: usize) {
        let limit = limit.clamp(self.settings.min, self.settings.max);
        if limit != self.limit {
            self.limit = limit;
            self.stale = in_flight.saturating_sub(1);
        }
    }
}

/// Of so many writes under way, those that are not in a queue; rounded to the nearest.
#[allow(clippy::cast_possible_truncation)] // a share of `writes`
fn without_queue(writes: usize, share: f64) -> usize {
    (writes as f64 * share.min(1.0)).round() as usize
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
