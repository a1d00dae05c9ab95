//! Promise: a sink that is down for a minute, under load, is left alone but for a few probes; the
//! producers wait, and afterwards everything arrives, each item once.
//!
//! With `SLUICEGATE_PLOT_DIR` set, the run is written there as `outage.csv`.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::fmt::Write;
use std::time::Duration;

use rig::{MS, Rig, SECOND, advancing};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{Batcher, BreakerState, Retry, TestClock};

const DOWN: Duration = Duration::from_secs(20);
const UP: Duration = Duration::from_secs(80);
const END: Duration = Duration::from_secs(100);
const TICK: Duration = Duration::from_millis(10);
const SAMPLE: Duration = Duration::from_millis(500);

/// The engine at a moment.
struct Row {
    at: Duration,
    queued: u64,
    /// Of the last batch that the sink took.
    batch: usize,
    /// Since the row before.
    written: f64,
    calls: f64,
}

struct Run {
    rig: Rig,
    items_per_second: u64,
    offered: u64,
    added: u64,
    rows: Vec<Row>,
    /// When the breaker was first seen open.
    opened: Option<Duration>,
}

impl Run {
    fn new(items_per_second: u64, retry: Retry) -> Self {
        let clock = TestClock::new();
        let start = clock.now();
        let faults = Faults::seeded(0)
            .on_delay(advancing(&clock))
            .one_in(1, Fault::Delay(5 * MS))
            .down_between(start + DOWN, start + UP);
        let rig = Rig::at(clock, Batcher::builder().seed(1).retry(retry), &faults);
        Self { rig, items_per_second, offered: 0, added: 0, rows: Vec::new(), opened: None }
    }

    /// Producers that would rather wait than lose an item add what there is room for.
    fn produce(&mut self) {
        let now = self.rig.now();
        self.offered = self.items_per_second * u64::try_from(now.as_millis()).unwrap() / 1_000;
        while self.added < self.offered && self.rig.pump.producer().try_add(self.added).is_ok() {
            self.added += 1;
        }
    }

    /// One tick; where producers wait, they add as soon as there is room.
    fn tick(&mut self) {
        let end = self.rig.now() + TICK;
        loop {
            self.produce();
            let wrote = self.rig.pump.run();
            if wrote == 0 || self.rig.now() >= end {
                break;
            }
        }
        self.rig.pump.advance(end.saturating_sub(self.rig.now()));
    }

    fn sample(&mut self) {
        let stats = self.rig.stats();
        if stats.breaker == BreakerState::Open {
            self.opened.get_or_insert(self.rig.now());
        }
        let since = self.rows.last().map_or(Duration::ZERO, |row| row.at);
        let at = self.rig.now();
        let asked = self.rig.asked();
        let calls: Vec<_> = asked.iter().filter(|call| since <= call.at && call.at < at).collect();
        let written: usize = calls.iter().filter(|c| c.ok).map(|call| call.items.len()).sum();
        let seconds = (at - since).as_secs_f64();
        self.rows.push(Row {
            at,
            queued: stats.queue_depth,
            batch: calls.last().filter(|call| call.ok).map_or(0, |call| call.items.len()),
            written: written as f64 / seconds,
            calls: calls.len() as f64 / seconds,
        });
    }

    fn until(mut self, end: Duration) -> Self {
        let mut next = SAMPLE;
        while self.rig.now() < end {
            self.tick();
            if self.rig.now() >= next {
                self.sample();
                next += SAMPLE;
            }
        }
        self
    }

    fn csv(&self) -> String {
        let mut csv =
            String::from("seconds,queue_depth,batch_size,items_written_per_s,calls_per_s\n");
        for Row { at, queued, batch, written, calls } in &self.rows {
            let seconds = at.as_secs_f64();
            writeln!(csv, "{seconds:.2},{queued},{batch},{written:.0},{calls:.0}").unwrap();
        }
        csv
    }
}

#[test]
fn a_minute_without_the_sink_costs_nothing_but_time() {
    let run = Run::new(2_000, Retry::default()).until(END);
    let opened = run.opened.expect("it opens");
    let asked = run.rig.asked();
    let down: Vec<_> = asked.iter().filter(|call| (DOWN..UP).contains(&call.at)).collect();
    assert!(down.iter().all(|call| !call.ok));
    let probes: Vec<_> = down.iter().filter(|call| call.at >= opened).collect();
    assert!(probes.len() <= 6, "1 s, 2, 4, 8, 16 and 30 s apart: {}", probes.len());
    assert!(opened < DOWN + 5 * SECOND, "half of ten seconds must have failed: {opened:?}");
    let full = run.rows.iter().filter(|row| row.at < UP && row.at > DOWN + 10 * SECOND);
    assert!(full.clone().count() > 50);
    assert!(full.clone().all(|row| row.queued == 8_192), "the producers wait");
    let back = asked.iter().find(|call| call.at >= UP && call.ok).unwrap().at;
    assert!(back <= UP + 30 * SECOND, "{back:?}");
    if let Ok(dir) = std::env::var("SLUICEGATE_PLOT_DIR") {
        std::fs::write(std::path::Path::new(&dir).join("outage.csv"), run.csv()).unwrap();
    }
    let Run { rig, added, offered, .. } = run;
    assert!(offered - added < 100, "those who waited are through");
    let report = rig.pump.shutdown();
    assert!(report.is_clean(), "{:?} {:?}", report.tally, report.stats);
    let mut written = rig.store.take();
    written.sort_unstable();
    assert_eq!(written, (0..added).collect::<Vec<_>>(), "each once");
}

/// What fails before the breaker opens waits for its retry; when that has no more room, the rest
/// waits in the queue.
#[test]
fn at_a_higher_rate_nothing_is_lost_either() {
    for rate in [5_000, 20_000] {
        let run = Run::new(rate, Retry::default()).until(END);
        let stats = run.rig.stats();
        assert_eq!(stats.retry_overflows, 0, "{rate}: {stats:?}");
        assert!(run.rig.pump.shutdown().is_clean(), "{rate}");
    }
}
