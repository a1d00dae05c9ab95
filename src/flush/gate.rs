//! The permit stage: whether a flusher may write now. Breaker, throttle, retry budget and the limit
//! on writes in flight in one place, under the ledger's lock.
//!
//! A permit is asked for before a batch is closed, so that a batch which has to wait goes on
//! growing: a slow sink gets larger batches, never a queue of small ones.

use std::time::{Duration, Instant};

use super::permit::{
    Adaptive, Breaker, BreakerState, Buckets, Limiter, Look, Pass, Retry, RetryBudget, Switch,
    Throttle, WhileOpen,
};
use super::retries::Kind;
use crate::sink::{Class, WriteError};
use crate::sync::mutated;
use crate::telemetry::Cause;

/// The longest that a sink is left alone because it asks for it.
const ASKED_MAX: Duration = Duration::from_secs(120);

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub items: u64,
    pub bytes: u64,
    /// `None` for a fresh batch.
    pub kind: Option<Kind>,
}

/// What decides.
pub struct Gate {
    breaker: Option<(Switch, WhileOpen)>,
    buckets: Option<Buckets>,
    limiter: Option<Limiter>,
    budget: Option<RetryBudget>,
    /// A sink has asked to be left alone until then.
    asked: Option<Instant>,
    /// Writes under way that have a permit.
    writing: usize,
    /// Somebody waits for one of them to end.
    blocked: bool,
}

/// Settings of the permit stage.
#[derive(Clone, Debug, Default)]
pub struct Permits {
    pub breaker: Option<Breaker>,
    pub throttle: Option<Throttle>,
    pub adaptive: Option<Adaptive>,
}

/// What may be done with the next batch.
#[derive(Clone, Copy, Debug)]
pub enum Permit {
    /// Write it.
    Write(Option<Pass>),
    /// Do not: the items have failed.
    Refuse(Refusal),
    /// None was needed.
    Unneeded,
}

impl Permit {
    /// Whether it is for the one write that a breaker lets through to see how the sink is.
    pub fn is_probe(self) -> bool {
        matches!(self, Self::Write(Some(pass)) if pass.is_probe())
    }
}

/// Why something is not written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The breaker is open, and what comes meanwhile is dead-lettered.
    BreakerOpen,
    /// It has failed for as long as it may.
    TooLong,
}

/// Why there is no permit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub cause: Cause,
    /// When to ask again; unknown while it depends on a write under way.
    pub until: Option<Instant>,
}

impl Gate {
    pub fn new(permits: &Permits, retry: Option<&Retry>, now: Instant) -> Self {
        let breaker = permits.breaker;
        Self {
            breaker: breaker.map(|breaker| (Switch::new(breaker, now), breaker.while_open)),
            buckets: permits.throttle.map(|throttle| Buckets::new(throttle, now)),
            limiter: permits.adaptive.map(Limiter::new),
            budget: retry.map(|retry| RetryBudget::new(retry, now)),
            asked: None,
            writing: 0,
            blocked: false,
        }
    }

    /// Whether there is anything that could withhold a permit.
    pub fn is_any(&self) -> bool {
        let Self { breaker, buckets, limiter, budget, .. } = self;
        breaker.is_some() || buckets.is_some() || limiter.is_some() || budget.is_some()
    }

    /// Whether there is a permit now. What has to wait for a write under way is told by
    /// [`unblocked`](Self::unblocked).
    pub fn look(&mut self, now: Instant) -> Result<(), Held> {
        let looked = if self.refuses(now) { Ok(()) } else { self.look_at_all(now) };
        self.blocked |= matches!(looked, Err(Held { until: None, .. }));
        looked
    }

    /// Whether somebody waits for the write that has just ended.
    pub fn unblocked(&mut self) -> bool {
        std::mem::take(&mut self.blocked)
    }

    /// Whether fresh batches are to wait rather than to fail for want of room to wait in.
    pub fn holds(&self) -> bool {
        matches!(self.breaker, Some((_, WhileOpen::Hold)))
    }

    /// Whether nothing is written while the breaker is open, and nothing waits for it either.
    fn refuses(&mut self, now: Instant) -> bool {
        match &mut self.breaker {
            Some((switch, WhileOpen::DeadLetter)) => switch.look(now) != Look::Go,
            _ => false,
        }
    }

    fn look_at_all(&mut self, now: Instant) -> Result<(), Held> {
        if let Some(limiter) = &self.limiter
            && self.writing >= limiter.limit()
        {
            return Err(Held { cause: Cause::Throttle, until: None });
        }
        if let Some((switch, while_open)) = &mut self.breaker
            && *while_open == WhileOpen::Hold
        {
            match switch.look(now) {
                Look::Go => {}
                Look::Until(at) => return Err(Held { cause: Cause::Breaker, until: Some(at) }),
                Look::Probing => return Err(Held { cause: Cause::Breaker, until: None }),
            }
        }
        let asked = self.asked.filter(|until| *until > now);
        let ready = self.buckets.as_mut().and_then(|buckets| buckets.ready_at(now));
        match asked.max(ready) {
            Some(at) => Err(Held { cause: Cause::Throttle, until: Some(at) }),
            None => Ok(()),
        }
    }

    /// Takes a permit for so much. What comes of it is told by one of the two calls below.
    pub fn take(&mut self, now: Instant, load: Load) -> Result<Permit, Held> {
        if self.refuses(now) {
            return Ok(Permit::Refuse(Refusal::BreakerOpen));
        }
        self.look(now)?;
        let pass = self.breaker.as_mut().map(|(switch, _)| switch.take(now));
        let Load { items, bytes, kind } = load;
        if let Some(buckets) = &mut self.buckets {
            buckets.charge_call(now);
            buckets.charge(now, items, bytes);
        }
        if let Some(budget) = &mut self.budget {
            match kind {
                None if mutated("fresh_brings_nothing") => {}
                None => budget.fresh(),
                Some(Kind::Retry) => budget.take(now),
                Some(Kind::Part | Kind::Parked) => {}
            }
        }
        self.writing += 1;
        Ok(Permit::Write(pass))
    }

    /// There was nothing to write after all, of a `fresh` batch or another.
    pub fn returned(&mut self, permit: Permit, fresh: bool) {
        let Permit::Write(pass) = permit else { return };
        self.writing = self.writing.saturating_sub(1);
        if let Some(buckets) = &mut self.buckets {
            buckets.refund_call();
        }
        if let Some(budget) = self.budget.as_mut().filter(|_| fresh) {
            budget.not_fresh();
        }
        if let (Some((switch, _)), Some(pass)) = (&mut self.breaker, pass) {
            switch.returned(pass);
        }
    }

    /// The sink has answered, or never will (`None`). Returns the breaker's new state if it has
    /// changed.
    pub fn answered(
        &mut self,
        now: Instant,
        permit: Permit,
        said: Option<Said>,
    ) -> Option<BreakerState> {
        let Permit::Write(pass) = permit else { return None };
        let down = said.is_none_or(|said| said.down);
        if let Some(limiter) = &mut self.limiter {
            let took = said.map_or(Duration::MAX, |said| said.took);
            limiter.record(now, took, self.writing, !down);
        }
        self.writing = self.writing.saturating_sub(1);
        let wait = said.and_then(|said| said.retry_after).map(|wait| wait.min(ASKED_MAX));
        let until = wait.and_then(|wait| now.checked_add(wait));
        self.asked = self.asked.max(until);
        let (switch, _) = self.breaker.as_mut()?;
        switch.answered(now, pass?, !down)
    }

    /// Whether a retry may be written, and if not, when. A fresh batch may bring that nearer; who
    /// takes its permit holds the lease, so nobody sleeps meanwhile who has looked before.
    pub fn retry_at(&mut self, now: Instant) -> Option<Instant> {
        self.budget.as_mut()?.ready_at(now)
    }

    /// Where the breaker stands.
    pub fn state(&mut self, now: Instant) -> BreakerState {
        self.breaker.as_mut().map_or(BreakerState::Closed, |(switch, _)| switch.state(now))
    }

    /// Writes that may be in flight, where that adapts.
    pub fn limit(&self) -> Option<usize> {
        self.limiter.as_ref().map(Limiter::limit)
    }
}

/// What an answer says of the sink.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// The sink itself is in trouble: bad data says nothing about that.
    pub down: bool,
    pub retry_after: Option<Duration>,
    pub took: Duration,
}

impl Said {
    pub fn new(error: Option<&WriteError>, panicked: bool, took: Duration) -> Self {
        let down = error.is_some_and(|error| match error.class() {
            Class::Transient | Class::Throttled | Class::Disconnected => true,
            Class::Permanent | Class::TooLarge => panicked,
        });
        Self { down, retry_after: error.and_then(WriteError::retry_after), took }
    }
}
