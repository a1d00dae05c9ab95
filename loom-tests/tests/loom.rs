//! Models of the protocols: loom runs every interleaving, and every value that a weak memory may
//! give, within a bound on preemptions (2 unless `LOOM_MAX_PREEMPTIONS` says otherwise).
//!
//! Each module names what it forbids. `mutants.txt` names the bugs that each model must find; the
//! README has figures. Where one thread waits for another, the model parks or yields: stock loom
//! explores those shapes well, and misses races in others.

#![cfg(loom)]

#[path = "loom/ack.rs"]
mod ack;
#[path = "loom/bell.rs"]
mod bell;
#[path = "loom/budget.rs"]
mod budget;
#[path = "loom/cancel.rs"]
mod cancel;
#[path = "loom/close.rs"]
mod close;
#[path = "loom/evict.rs"]
mod evict;
#[path = "loom/failure.rs"]
mod failure;
#[path = "loom/flush.rs"]
mod flush;
#[path = "loom/lease.rs"]
mod lease;
#[path = "loom/ledger.rs"]
mod ledger;
#[path = "loom/owned.rs"]
mod owned;
#[path = "loom/ring.rs"]
mod ring;
#[path = "loom/room.rs"]
mod room;
#[path = "loom/shards.rs"]
mod shards;
#[path = "loom/wake.rs"]
mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sluicegate_loom_tests::{every_item_dropped_once, forget_items};

/// Preemptions where the environment does not say.
const PREEMPTIONS: usize = 2;
/// A run with more steps than this is taken for one that spins for ever.
const STEPS_MAX: usize = 20_000;

/// Runs every interleaving of `body`, which must have joined its threads and let go of its items
/// when it returns.
pub fn model<F: Fn() + Send + Sync + 'static>(body: F) {
    let name = std::any::type_name::<F>().trim_start_matches("loom::").replace("::{{closure}}", "");
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.max_branches = STEPS_MAX;
    let iterations = Arc::new(AtomicU64::new(0)); // of std: takes no part in the model
    let counter = Arc::clone(&iterations);
    let begin = Instant::now();
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        forget_items();
        body();
        every_item_dropped_once();
    });
    let (iterations, seconds) = (iterations.load(Ordering::Relaxed), begin.elapsed().as_secs_f64());
    println!("{name}: {iterations} iterations, {seconds:.2} s");
}

/// Waits for all of them.
pub fn join(threads: impl IntoIterator<Item = loom::thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("loom ends the model when a thread panics");
    }
}
