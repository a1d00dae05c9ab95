//! Promise: whatever the sink does, under whatever policy and load, each item meets exactly one
//! fate, and every bound on retries holds. Deterministic: one seed is one scenario.
//!
//! `SLUICEGATE_SIM=100000` runs so many scenarios; `SLUICEGATE_SIM_SEED=17` runs that one.

#![allow(clippy::unwrap_used)]

mod common;
mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use common::Rng;
use sim::Scenario;

const SCENARIOS: u64 = 10_000;

#[test]
fn every_item_has_one_fate_and_every_bound_holds() {
    let number = |key| std::env::var(key).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SLUICEGATE_SIM_SEED") {
        Scenario::random(seed).run();
        return;
    }
    let start = number("SLUICEGATE_SEED").unwrap_or_else(|| Rng::seeded().next());
    let mut seen = sim::Seen::default();
    for scenario in 0..number("SLUICEGATE_SIM").unwrap_or(SCENARIOS) {
        let seed = start.wrapping_add(scenario);
        match catch_unwind(AssertUnwindSafe(|| Scenario::random(seed).run())) {
            Ok(ran) => seen.add(&ran),
            Err(panic) => tell(seed, panic),
        }
    }
    seen.assert_all();
}

#[allow(clippy::print_stderr)]
fn tell(seed: u64, panic: Box<dyn std::any::Any + Send>) -> ! {
    eprintln!(
        "to run this scenario again:\n    SLUICEGATE_SIM_SEED={seed} cargo test --test simulation"
    );
    resume_unwind(panic)
}
