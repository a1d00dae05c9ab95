//! Promise: whatever the sink does, under whatever policy and load, each item meets exactly one
//! fate, and every bound on retries, memory and rates holds. Deterministic: one seed is one
//! scenario.
//!
//! `SLUICEGATE_SIM=100000` runs so many scenarios; `SLUICEGATE_SIM_SEED=17` runs that one.

#![allow(clippy::unwrap_used)]

mod common;
mod sim;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::Rng;
use sim::{Scenario, Seen};

const SCENARIOS: u64 = 10_000;
/// Each scenario is on a thread of its own and knows nothing of the others.
const THREADS_MAX: usize = 4;

#[test]
fn every_item_has_one_fate_and_every_bound_holds() {
    let number = |key| std::env::var(key).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SLUICEGATE_SIM_SEED") {
        Scenario::random(seed).run();
        return;
    }
    let start = number("SLUICEGATE_SEED").unwrap_or_else(|| Rng::seeded().next());
    let count = number("SLUICEGATE_SIM").unwrap_or(SCENARIOS);
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX));
    let next = AtomicU64::new(0);
    let mut seen = Seen::default();
    let ran: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| share(start, count, &next))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ran in ran {
        match ran {
            Ok(some) => seen.add_all(&some),
            Err((seed, panic)) => tell(seed, panic),
        }
    }
    if count >= SCENARIOS {
        seen.assert_all();
    }
}

/// A seed whose scenario has failed, and how.
type Failure = (u64, Box<dyn Any + Send>);

/// Runs one scenario after the other, as long as there are more.
fn share(start: u64, count: u64, next: &AtomicU64) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    loop {
        let scenario = next.fetch_add(1, Ordering::Relaxed);
        if scenario >= count {
            return Ok(seen);
        }
        let seed = start.wrapping_add(scenario);
        match catch_unwind(AssertUnwindSafe(|| Scenario::random(seed).run())) {
            Ok(ran) => seen.add_all(&ran),
            Err(panic) => {
                next.store(count, Ordering::Relaxed);
                return Err((seed, panic));
            }
        }
    }
}

#[allow(clippy::print_stderr)]
fn tell(seed: u64, panic: Box<dyn Any + Send>) -> ! {
    eprintln!(
        "to run this scenario again:\n    SLUICEGATE_SIM_SEED={seed} cargo test --test simulation"
    );
    resume_unwind(panic)
}
