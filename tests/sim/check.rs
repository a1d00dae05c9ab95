//! What must hold, whatever happens.

use std::collections::HashMap;
use std::time::Instant;

use sluicegate::{Applied, BreakerState, Class, OnFailure, Shutdown, Stats, Tally};

use super::{Elsewhere, Scenario, Seen};
use crate::common::assert_balances;

/// A call of the sink.
pub struct Call {
    pub at: Instant,
    pub ended: Instant,
    pub id: (u64, u32),
    pub items: Vec<u64>,
    pub marked: Vec<Option<Class>>,
    pub said: Result<(), (Class, Applied)>,
}

pub struct Checks {
    scenario: Scenario,
    start: Instant,
    pub well: bool,
    pub halted: bool,
    added: Vec<u64>,
    /// Items of each batch and part, by name.
    contents: HashMap<(u64, u32), Vec<u64>>,
    /// When each item first failed.
    failed_at: HashMap<u64, Instant>,
    /// Items that are in, in the order in which they went in.
    written: Vec<u64>,
    opened: u64,
    parked: u64,
    /// What the sink has seen that must not be: a panic there would be the engine's to catch.
    wrong: Option<String>,
}

impl Checks {
    pub fn new(scenario: Scenario, start: Instant) -> Self {
        Self {
            scenario,
            start,
            well: false,
            halted: false,
            added: Vec::new(),
            contents: HashMap::new(),
            failed_at: HashMap::new(),
            written: Vec::new(),
            opened: 0,
            parked: 0,
            wrong: None,
        }
    }

    pub fn added(&mut self, item: u64) {
        self.added.push(item);
    }

    /// The sink was called.
    pub fn called(&mut self, call: Call) {
        let Call { at, ended, id, items, marked, said } = call;
        let known = self.contents.entry(id).or_insert_with(|| items.clone());
        if *known != items {
            self.wrong = Some(format!("{id:?} has other items now"));
        }
        if let Some(retry) = &self.scenario.retry {
            for item in &items {
                let late = self.failed_at.get(item).is_some_and(|first| {
                    at.saturating_duration_since(*first) > retry.give_up_after
                });
                if late {
                    self.wrong = Some(format!("{item} is written and has failed for too long"));
                }
            }
        }
        for (item, mark) in items.iter().zip(&marked) {
            if said.is_ok() && mark.is_none() {
                self.written.push(*item);
            } else {
                self.failed_at.entry(*item).or_insert(ended);
            }
        }
    }

    /// Between any two calls.
    pub fn step(&mut self, tally: &Tally) {
        assert_balances(tally);
        assert_eq!(tally.enqueued, self.added.len() as u64);
        assert_eq!(self.wrong, None, "{:?}", self.scenario);
    }

    /// Now and then: figures take their time.
    pub fn bounds(&mut self, stats: &Stats, now: Instant) {
        let scenario = &self.scenario;
        self.opened += u64::from(stats.breaker != BreakerState::Closed);
        let seconds = (now - self.start).as_secs_f64();
        if let Some(retry) = &scenario.retry {
            let fresh = stats.batches as f64;
            let most = retry.floor * (seconds + 1.0) + retry.budget * fresh + 100.0;
            assert!((stats.retries as f64) <= most, "{} retries, {most}", stats.retries);
            // Parts of what was in a flusher's hands come on top.
            let most = (retry.max_items.max(scenario.size) + scenario.size) as u64;
            let parked = scenario.on_failure == OnFailure::ParkKey;
            let most = if parked { most + scenario.size as u64 } else { most };
            assert!(stats.retry_items <= most, "{} wait: {scenario:?}", stats.retry_items);
            self.parked += u64::from(parked && stats.retry_items > 0);
        }
        if let Some(rate) = scenario.calls_per_second {
            let most = rate * (seconds + 0.1) + 1.0;
            assert!((stats.writes as f64) <= most.floor(), "{} writes, {most}", stats.writes);
        }
    }

    /// Whether the engine has stopped because an item has failed.
    pub fn halts(&self, tally: &Tally) -> bool {
        let failed = tally.flushed_fail + tally.unknown;
        self.scenario.on_failure == OnFailure::Halt && failed > 0
    }

    pub fn seen(&self, report: &Shutdown<u64>) -> Seen {
        let stats = &report.stats;
        Seen {
            retries: stats.retries,
            splits: stats.splits,
            overflows: stats.retry_overflows,
            opened: self.opened,
            failed: stats.tally.flushed_fail,
            unknown: stats.tally.unknown,
            handed_back: report.unflushed.len() as u64,
            expired: 0,
            halted: u64::from(self.halted),
            parked: self.parked,
            buried: stats.dead_lettered,
            refused: stats.dead_letter_failures,
        }
    }

    /// At the end: each item once.
    pub fn end(&mut self, report: Shutdown<u64>, elsewhere: &Elsewhere) {
        let buried = elsewhere.buried.lock().unwrap().clone();
        assert_eq!(report.stats.dead_lettered, buried.len() as u64);
        let kept = report.failed.iter().map(|failed| (failed.item, failed.error.what_applied()));
        let failed: Vec<(u64, Applied)> = kept.chain(buried).collect();
        let of = |applied| failed.iter().filter(|failed| failed.1 == applied).count() as u64;
        let dropped = elsewhere.dropped.lock().unwrap();
        assert_eq!(report.tally.flushed_fail, of(Applied::Nothing));
        assert_eq!(report.tally.unknown, of(Applied::Unknown));
        assert_eq!(report.tally.flushed_ok, self.written.len() as u64);
        assert_eq!(report.tally.in_flight, report.unflushed.len() as u64);
        let parks = self.scenario.on_failure == OnFailure::ParkKey && self.scenario.keys > 1;
        let scattered = self.scenario.faults.partial > 0 || parks;
        assert!(scattered || report.unflushed.is_sorted(), "{:?}", report.unflushed);
        let failed: Vec<u64> = failed.iter().map(|failed| failed.0).collect();
        let mut all = [&self.written[..], &failed, &dropped, &report.unflushed].concat();
        all.sort_unstable();
        assert_eq!(all, self.added, "each item once: {:?}", self.scenario);
        self.order(&failed, &report.unflushed);
    }

    fn order(&self, failed: &[u64], unflushed: &[u64]) {
        let Scenario { on_failure, keys, faults, .. } = &self.scenario;
        if faults.partial > 0 {
            return; // a sink that takes the second half of a batch has broken the order itself
        }
        match on_failure {
            OnFailure::Skip => {}
            OnFailure::ParkKey => {
                for key in 0..*keys {
                    let of_key = self.written.iter().filter(|item| *item % keys == key);
                    assert!(
                        of_key.is_sorted(),
                        "key {key}: {:?} {:?}",
                        self.written,
                        self.scenario
                    );
                }
            }
            OnFailure::Halt => {
                assert!(self.written.is_sorted(), "{:?}", self.written);
                // Nothing behind a failed item is written.
                let first = failed.iter().chain(unflushed).min();
                let last = self.written.last();
                assert!(first.is_none_or(|first| last.is_none_or(|last| last < first)));
            }
        }
    }
}
