//! Sinks with faults, which tell the checks of every call.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate::{
    Applied, Batch, Class, Dead, Sink, SinkLimits, TestClock, WriteContext, WriteError,
};

use super::Scenario;
use super::check::{Call, Checks};
use crate::common::Rng;

/// How the sink fails: one call in so many, 0 for never.
#[derive(Clone, Debug)]
pub struct Faults {
    pub transient: u64,
    pub unknown: u64,
    pub throttled: u64,
    /// Marks items, beside what it says of the others.
    pub partial: u64,
    pub panics: u64,
    /// One item in so many is bad, and its batch with it.
    pub poison: u64,
    /// More items than this are too many, and more bytes too large.
    pub limit: Option<usize>,
    pub bytes: Option<u64>,
    /// Down for good until it is well again.
    pub down: bool,
    /// How long a call takes at most, in ms.
    pub slow: u64,
}

impl Faults {
    pub fn random(rng: &mut Rng) -> Self {
        let mut some = |rates: &[u64]| if rng.one_in(2) { 0 } else { rng.pick(rates) };
        Self {
            transient: some(&[2, 5, 20]),
            unknown: some(&[5, 20]),
            throttled: some(&[5, 20]),
            partial: some(&[3, 10]),
            panics: some(&[0, 0, 0, 100]),
            poison: some(&[3, 30, 300]),
            limit: [None, None, Some(1), Some(3)][usize::try_from(some(&[1, 2, 3])).unwrap()],
            bytes: [None, None, Some(30), Some(300)][usize::try_from(some(&[1, 2, 3])).unwrap()],
            down: some(&[1, 1, 1, 2]) == 2,
            slow: some(&[1, 50]),
        }
    }
}

pub type Marks = Vec<Option<(Class, Applied)>>;

pub struct SimSink {
    faults: Faults,
    rng: Rng,
    clock: TestClock,
    checks: Arc<Mutex<Checks>>,
}

impl SimSink {
    pub fn new(scenario: &Scenario, clock: TestClock, checks: Arc<Mutex<Checks>>) -> Self {
        let rng = Rng::with(scenario.seed ^ 0x5EED);
        Self { faults: scenario.faults.clone(), rng, clock, checks }
    }

    /// What it says of the batch; `None` for a panic.
    fn answer(&mut self, batch: &Batch<u64>) -> Option<Result<(), WriteError>> {
        let Self { faults, rng, .. } = self;
        let mut one_in = |rate: u64| rate > 0 && rng.one_in(rate);
        if one_in(faults.panics) {
            return None;
        }
        Some(if faults.down || one_in(faults.transient) {
            Err(WriteError::new(Class::Disconnected, "down"))
        } else if one_in(faults.unknown) {
            Err(WriteError::transient("cut off").applied(Applied::Unknown))
        } else if one_in(faults.throttled) {
            Err(WriteError::throttled("too often", Some(Duration::from_millis(300))))
        } else if faults.limit.is_some_and(|limit| batch.len() > limit)
            || faults.bytes.is_some_and(|limit| batch.bytes() > limit)
        {
            Err(WriteError::too_large("too much at once"))
        } else {
            self.sort_out(batch)
        })
    }

    fn sort_out(&self, batch: &Batch<u64>) -> Result<(), WriteError> {
        let bad = batch.iter().any(|item| is_poison(*item, self.faults.poison));
        if bad { Err(WriteError::permanent("a bad row")) } else { Ok(()) }
    }

    /// Marks some of the items.
    fn mark(&mut self, cx: &mut WriteContext<'_>, marked: &mut Marks) {
        if self.faults.partial == 0 || !self.rng.one_in(self.faults.partial) {
            return;
        }
        for (index, mark) in marked.iter_mut().enumerate() {
            if self.rng.one_in(2) {
                let class = self.rng.pick(&[Class::Transient, Class::Permanent]);
                let unknown = self.faults.unknown > 0 && self.rng.one_in(4);
                let applied = if unknown { Applied::Unknown } else { Applied::Nothing };
                cx.fail(index, WriteError::new(class, "this one").applied(applied));
                *mark = Some((class, applied));
            }
        }
    }
}

/// Whether an item is bad, for good.
pub fn is_poison(item: u64, rate: u64) -> bool {
    rate > 0 && (item & 0xFFFF_FFFF).wrapping_mul(0x9E37_79B9).is_multiple_of(rate)
}

impl Sink<u64> for SimSink {
    fn write(&mut self, batch: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let at = cx.now();
        let well = self.checks.lock().unwrap().well;
        let mut marked = vec![None; batch.len()];
        let result = if well { Some(self.sort_out(batch)) } else { self.answer(batch) };
        if !well {
            self.mark(cx, &mut marked);
        }
        if self.faults.slow > 0 {
            self.clock.advance(Duration::from_millis(self.rng.below(self.faults.slow)));
        }
        let said = match &result {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err((error.class(), error.what_applied())),
            None => Err((Class::Permanent, Applied::Unknown)),
        };
        if result.is_none() {
            marked.fill(None); // a list cut short says nothing
        }
        let (id, bytes) = ((batch.id().get(), batch.id().part()), batch.bytes());
        let items = batch.to_vec();
        let call = Call { at, ended: cx.now(), id, bytes, items, marked, said };
        let mut checks = self.checks.lock().unwrap();
        checks.called(&call);
        checks.gone |= result.is_none();
        drop(checks);
        result.unwrap_or_else(|| resume_unwind(Box::new("as planned")))
    }
}

/// How the dead-letter sink fails: one letter, or one call, in so many; 0 for never.
#[derive(Clone, Debug)]
pub struct Grave {
    refuses: u64,
    fails: u64,
    panics: u64,
    most: Option<usize>,
}

impl Grave {
    pub fn random(rng: &mut Rng) -> Self {
        Self {
            refuses: rng.pick(&[0, 0, 2]),
            fails: rng.pick(&[0, 0, 5]),
            panics: rng.pick(&[0, 0, 20]),
            most: rng.pick(&[None, Some(1), Some(3)]),
        }
    }
}

pub struct GraveSink {
    pub faults: Grave,
    pub rng: Rng,
    /// It has panicked: the engine asks it no more.
    pub gone: bool,
    pub checks: Arc<Mutex<Checks>>,
}

impl Sink<Dead<u64>> for GraveSink {
    fn write(
        &mut self,
        batch: &Batch<Dead<u64>>,
        cx: &mut WriteContext<'_>,
    ) -> Result<(), WriteError> {
        let Self { faults, rng, .. } = self;
        let mut one_in = |rate: u64| rate > 0 && rng.one_in(rate);
        let mut checks = self.checks.lock().unwrap();
        let asked = !self.gone && batch.len() <= faults.most.unwrap_or(usize::MAX);
        checks.fates.must(asked, || format!("{} letters, after a panic or too many", batch.len()));
        if one_in(faults.fails) {
            checks.unburied += batch.len() as u64;
            return Err(WriteError::disconnected("no room at all"));
        }
        if one_in(faults.panics) {
            self.gone = true;
            checks.unburied += batch.len() as u64;
            checks.grave_gone = true;
            checks.seen.add("panic of the dead-letter sink", 1);
            drop(checks);
            resume_unwind(Box::new("as planned"));
        }
        for (index, letter) in batch.iter().enumerate() {
            if one_in(faults.refuses) {
                cx.fail(index, WriteError::transient("no room"));
                checks.unburied += 1;
            } else {
                checks.buried(letter);
            }
        }
        Ok(())
    }

    fn limits(&self) -> SinkLimits {
        let most = self.faults.most;
        most.map_or_else(SinkLimits::default, |most| SinkLimits::default().max_batch_size(most))
    }
}
