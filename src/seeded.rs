//! Randomised unit tests that can be run again: each prints its seed, and `SLUICEGATE_SEED=` brings
//! it back.

use std::time::SystemTime;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The seed of this run. `cargo test` shows the line when the test fails.
#[allow(clippy::print_stderr)]
fn seed() -> u64 {
    let given = std::env::var("SLUICEGATE_SEED").ok();
    let seed = given.map_or_else(fresh, |seed| seed.parse().expect("SLUICEGATE_SEED is a number"));
    eprintln!("SLUICEGATE_SEED={seed}");
    seed
}

fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs())
}

/// A proptest runner for this many cases. It shrinks, and writes no files.
pub fn runner(cases: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}
