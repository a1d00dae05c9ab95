//! How far apart two CPUs are: the time in which a cache line goes from one thread to another and
//! back.
//!
//! A hypervisor may move virtual CPUs at any time, and what lies between them decides what adding
//! costs. Rounds compare only where probes are alike.

use std::hint::spin_loop;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::figures::Quartiles;

const BURSTS: u64 = 41;
const TRIPS: u64 = 500;
/// Waiting longer than this, a thread lets the other have the CPU: they may have the same one.
const SPINS: u32 = 1 << 12;

/// Lines of its own: prefetchers fetch pairs.
#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    /// Waits until it is this turn. The number is all that passes between the threads, so nothing
    /// needs to be ordered.
    fn wait_for(&self, turn: u64) {
        let mut spins = 0_u32;
        while self.0.load(Ordering::Relaxed) != turn {
            spins += 1;
            if spins.is_multiple_of(SPINS) { thread::yield_now() } else { spin_loop() }
        }
    }

    fn pass(&self, turn: u64) {
        self.0.store(turn, Ordering::Relaxed);
    }
}

/// Nanoseconds of a round trip: the median of short bursts, so that a thread that is stopped for a
/// while does not count.
pub(super) fn round_trip_ns() -> io::Result<f64> {
    let line = Line(AtomicU64::new(0));
    let bursts: Vec<f64> = thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, || {
            for turn in 0..TRIPS * BURSTS {
                line.wait_for(2 * turn + 1);
                line.pass(2 * turn + 2);
            }
        })?;
        let burst = |burst: u64| {
            let start = Instant::now();
            for turn in TRIPS * burst..TRIPS * (burst + 1) {
                line.pass(2 * turn + 1);
                line.wait_for(2 * turn + 2);
            }
            start.elapsed().as_nanos() as f64 / TRIPS as f64
        };
        Ok::<_, io::Error>((0..BURSTS).map(burst).collect())
    })?;
    Ok(Quartiles::of(bursts).median)
}
