//! How far apart two CPUs are: nanoseconds per round trip of one cache line between two threads. On
//! virtual machines that changes while one measures, and figures with it, fourfold.
//!
//! `benches/compare` has this file, too: it needs nothing but `std`.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Below it CPUs are near.
const NEAR_NS: f64 = 100.0;
/// Above it the two threads have shared a CPU: no distance is as long as this.
const BUSY_NS: f64 = 2_000.0;
/// Two probes that differ by more than this factor are of different places.
const MOVED: f64 = 1.5;

const BURSTS: u64 = 61;
const TRIPS: u64 = 200;
/// Where other programs have the CPUs, fewer bursts have to do.
const ENOUGH: Duration = Duration::from_millis(100);
/// Tells the other thread to end.
const OVER: u64 = u64::MAX;

/// What two probes around a turn say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Both under 100 ns.
    Near,
    /// Above.
    Far,
    /// They differ by more than half.
    Moved,
    /// One of them says that another program had a CPU. Its turn says nothing.
    Busy,
    /// There were none: one thread, so that the distance does not matter.
    Alone,
}

impl Label {
    const ALL: [Self; 5] = [Self::Near, Self::Far, Self::Moved, Self::Busy, Self::Alone];

    /// From the probes before and after.
    pub fn of(before: f64, after: f64) -> Self {
        if before.max(after) > BUSY_NS {
            Self::Busy
        } else if before.max(after) > MOVED * before.min(after) {
            Self::Moved
        } else if (before + after) / 2.0 < NEAR_NS {
            Self::Near
        } else {
            Self::Far
        }
    }

    /// The word in the CSV file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Moved => "moved",
            Self::Busy => "busy",
            Self::Alone => "alone",
        }
    }

    /// The label of this word.
    pub fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.name() == name)
    }
}

/// A cache line of its own; two, since prefetchers fetch pairs.
#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    /// Waits until the line says so; false if the probe is over.
    fn wait_for(&self, turn: u64) -> bool {
        let mut looks = 0_u32;
        loop {
            match self.0.load(Ordering::Relaxed) {
                OVER => return false,
                now if now == turn => return true,
                _ => {}
            }
            looks += 1;
            if looks.is_multiple_of(512) {
                thread::yield_now(); // both threads may be on one CPU
            } else {
                spin_loop();
            }
        }
    }
}

/// The median of short bursts, so that a thread that is stopped for a while does not count.
pub fn probe() -> f64 {
    let line = Line(AtomicU64::new(0));
    let begin = Instant::now();
    let burst = |burst| {
        let start = Instant::now();
        for turn in burst * TRIPS..(burst + 1) * TRIPS {
            line.0.store(2 * turn + 1, Ordering::Relaxed);
            line.wait_for(2 * turn + 2);
        }
        start.elapsed().as_nanos() as f64 / TRIPS as f64
    };
    let mut bursts: Vec<f64> = thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 1;
            while line.wait_for(turn) {
                line.0.store(turn + 1, Ordering::Relaxed);
                turn += 2;
            }
        });
        let bursts = (0..BURSTS).map(burst).take_while(|_| begin.elapsed() < ENOUGH);
        let bursts: Vec<f64> = bursts.collect();
        line.0.store(OVER, Ordering::Relaxed);
        bursts
    });
    bursts.sort_by(f64::total_cmp);
    let none = begin.elapsed().as_nanos() as f64 / TRIPS as f64; // not one burst was done in time
    bursts.get(bursts.len() / 2).copied().unwrap_or(none)
}
