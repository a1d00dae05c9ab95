//! How far apart two CPUs are: the time in which a cache line goes from one thread to another and
//! back.
//!
//! A hypervisor may move virtual CPUs at any time, and what lies between them decides what adding
//! costs. Rounds compare only where probes are alike.

use std::hint::spin_loop;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::figures::Quartiles;

const BURSTS: u64 = 401;
const TRIPS: u64 = 50;
/// There is an end even where threads have to wait for a CPU at each turn.
const ENOUGH: Duration = Duration::from_millis(150);
/// Waiting longer than this, a thread lets the other have the CPU: they may have the same one.
const SPINS: u32 = 1 << 9;
/// The turn after the last.
const END: u64 = u64::MAX;

/// Lines of its own: prefetchers fetch pairs.
#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    /// Waits until it is no longer this turn; returns which it is. The number is all that passes
    /// between the threads, so nothing needs to be ordered.
    fn wait_after(&self, turn: u64) -> u64 {
        let mut spins = 0_u32;
        loop {
            let now = self.0.load(Ordering::Relaxed);
            if now != turn {
                return now;
            }
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
        thread::Builder::new().spawn_scoped(scope, || answer(&line))?;
        let begun = Instant::now();
        let mut bursts = Vec::new();
        for burst in 0..BURSTS {
            let start = Instant::now();
            for trip in TRIPS * burst..TRIPS * (burst + 1) {
                line.pass(2 * trip + 1);
                line.wait_after(2 * trip + 1);
            }
            bursts.push(start.elapsed().as_nanos() as f64 / TRIPS as f64);
            if begun.elapsed() > ENOUGH {
                break;
            }
        }
        line.pass(END);
        Ok::<_, io::Error>(bursts)
    })?;
    Ok(Quartiles::of(bursts).median)
}

/// Passes each turn on.
fn answer(line: &Line) {
    let mut turn = 0;
    loop {
        match line.wait_after(turn) {
            END => return,
            now => turn = now + 1,
        }
        line.pass(turn);
    }
}
