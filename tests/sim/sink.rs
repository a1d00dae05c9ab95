//! A sink with faults, which tells the checks of every call.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

use sluicegate::{Applied, Batch, Class, Sink, TestClock, WriteContext, WriteError};

use super::Scenario;
use super::check::{Call, Checks};
use crate::common::Rng;

/// How the sink fails: one call in so many, 0 for never.
#[derive(Clone, Debug)]
pub struct Faults {
    pub transient: u64,
    pub unknown: u64,
    pub throttled: u64,
    pub partial: u64,
    pub panics: u64,
    /// One item in so many is bad, and its batch with it.
    pub poison: u64,
    /// More items than this are too many.
    pub limit: Option<usize>,
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
            panics: 0,
            poison: some(&[3, 30, 300]),
            limit: [None, None, Some(1), Some(3)][usize::try_from(some(&[1, 2, 3])).unwrap()],
            down: some(&[1, 1, 1, 2]) == 2,
            slow: some(&[1, 50]),
        }
    }
}

pub struct SimSink {
    faults: Faults,
    rng: Rng,
    clock: TestClock,
    checks: Rc<RefCell<Checks>>,
}

impl SimSink {
    pub fn new(scenario: &Scenario, clock: TestClock, checks: Rc<RefCell<Checks>>) -> Self {
        let rng = Rng::with(scenario.seed ^ 0x5EED);
        Self { faults: scenario.faults.clone(), rng, clock, checks }
    }

    /// The answer, and whether the items went in all the same.
    fn answer(&mut self, batch: &Batch<u64>) -> Result<(), WriteError> {
        let Self { faults, rng, .. } = self;
        let mut one_in = |rate: u64| rate > 0 && rng.one_in(rate);
        if faults.down || one_in(faults.transient) {
            return Err(WriteError::new(Class::Disconnected, "down"));
        }
        if one_in(faults.unknown) {
            return Err(WriteError::transient("cut off").applied(Applied::Unknown));
        }
        if one_in(faults.throttled) {
            return Err(WriteError::throttled("too often", Some(Duration::from_millis(300))));
        }
        if faults.limit.is_some_and(|limit| batch.len() > limit) {
            return Err(WriteError::too_large("too many at once"));
        }
        if batch.iter().any(|item| is_poison(*item, faults.poison)) {
            return Err(WriteError::permanent("a bad row"));
        }
        if one_in(faults.panics) {
            resume_unwind(Box::new("as planned"));
        }
        Ok(())
    }
}

/// Whether an item is bad, for good.
pub fn is_poison(item: u64, rate: u64) -> bool {
    rate > 0 && (item & 0xFFFF_FFFF).wrapping_mul(0x9E37_79B9).is_multiple_of(rate)
}

impl Sink<u64> for SimSink {
    fn write(&mut self, batch: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let at = cx.now();
        let well = self.checks.borrow().well;
        let mut marked = vec![None; batch.len()];
        let result = if well {
            let bad = batch.iter().any(|item| is_poison(*item, self.faults.poison));
            if bad { Err(WriteError::permanent("a bad row")) } else { Ok(()) }
        } else {
            self.answer(batch)
        };
        if !well
            && result.is_ok()
            && self.faults.partial > 0
            && self.rng.one_in(self.faults.partial)
        {
            for (index, mark) in marked.iter_mut().enumerate() {
                if self.rng.one_in(2) {
                    let class = self.rng.pick(&[Class::Transient, Class::Permanent]);
                    cx.fail(index, WriteError::new(class, "this one"));
                    *mark = Some(class);
                }
            }
        }
        if self.faults.slow > 0 {
            self.clock.advance(Duration::from_millis(self.rng.below(self.faults.slow)));
        }
        let said = result.as_ref().map_err(|error| (error.class(), error.what_applied()));
        let call = Call {
            at,
            ended: cx.now(),
            id: (batch.id().get(), batch.id().part()),
            items: batch.to_vec(),
            marked,
            said: said.copied(),
        };
        self.checks.borrow_mut().called(call);
        result
    }
}
