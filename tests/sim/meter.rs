//! What the engine may write by its settings, worked out anew from the calls that the sink has seen.

use std::time::Instant;

/// Tokens from fresh batches that the engine keeps at most.
const KEPT: f64 = 100.0;
/// Sums of fractions, and a clock that knows no less than a nanosecond.
const ROUNDING: f64 = 1e-6;

/// Fills up at a rate, to a limit.
pub struct Bucket {
    rate: f64,
    most: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Full.
    pub fn new(rate: f64, most: f64, now: Instant) -> Self {
        Self { rate, most, level: most, at: now }
    }

    /// What is in it.
    fn level(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + passed * self.rate).min(self.most);
        self.level
    }

    /// Takes so much out, which may leave it in debt; whether as much as `needed` was there.
    pub fn take(&mut self, now: Instant, needed: f64, amount: f64) -> bool {
        let there = self.level(now) + self.rate * 2e-9 + ROUNDING >= needed;
        self.level -= amount;
        there
    }
}

/// The retries that there may be.
pub struct Tokens {
    share: f64,
    pub kept: f64,
    floor: Bucket,
    /// Retries may have been paid for that were not written: not known in which of the two ways.
    pub either: bool,
}

impl Tokens {
    pub fn new(share: f64, floor: f64, now: Instant) -> Self {
        let floor = Bucket::new(floor, floor.max(1.0), now);
        Self { share, kept: 0.0, floor, either: false }
    }

    /// A fresh batch was written.
    pub fn fresh(&mut self) {
        self.kept = (self.kept + self.share).min(KEPT);
    }

    /// Something is tried again; whether it may be.
    pub fn retry(&mut self, now: Instant) -> bool {
        let floor = self.floor.level(now) + self.floor.rate * 2e-9 + ROUNDING;
        let kept = self.kept + ROUNDING;
        if floor >= 1.0 {
            self.floor.level -= 1.0;
        } else if kept >= 1.0 {
            self.kept -= 1.0;
        } else if self.either && floor + kept >= 1.0 {
            self.kept -= 1.0 - floor;
            self.floor.level = 0.0;
        } else {
            return false;
        }
        true
    }
}
