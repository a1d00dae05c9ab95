//! `sluicegate bench`: what the engine does on this machine, and what placement gives.
//!
//! A figure by itself says little: load, the clock of the CPUs and the place of virtual CPUs change
//! from minute to minute. So the settings take turns, forwards in one round and backwards in the
//! next, and each is compared with the first of the same round.

pub(crate) mod args;
mod figures;
mod load;
mod probe;
mod report;
mod setting;

use std::collections::BTreeSet;
use std::io;
use std::thread;

use indicatif::ProgressBar;
use sluicegate::placement::{Machine, plan};

use crate::run::{Failure, or_enough};
use args::BenchArgs;
use load::Sample;
use report::{Host, Report};

/// The probes of a run differ by more than this factor: so do its figures.
const PROBE_FACTOR: f64 = 1.5;

/// No two CPUs are so far apart, in nanoseconds: a thread had to wait for its turn.
const BUSY_NS: f64 = 10_000.0;

/// A setting with a number of producers, and what its runs have given, a sample for each round.
struct Case {
    producers: usize,
    /// As an index into the settings.
    setting: usize,
    samples: Vec<Sample>,
}

/// Measures and reports; returns the exit status.
pub(crate) fn command(args: &BenchArgs) -> Result<u8, Failure> {
    args.check()?;
    let machine = Machine::detect();
    let host = Host::new(&machine);
    let mut cases: Vec<Case> = Vec::new();
    for &producers in &args.producers {
        let settings = 0..args.compare.len();
        cases.extend(settings.map(|setting| Case { producers, setting, samples: Vec::new() }));
    }
    let probes = take_turns(args, &mut cases)?;
    let mut notes = notes(args, &machine, &host, &probes);
    notes.extend(refusals(args, &cases));
    let report = Report { args, host, cases, probes, notes };
    let out = &mut io::stdout().lock();
    let written = if args.json { report.write_json(out) } else { report.write_table(out) };
    or_enough(written.map(|()| 0).map_err(Failure::Io))
}

/// Measures each case once a round, after a run that does not count: the first one of a process is
/// slow. Returns the probes, one before each round and one after the last.
fn take_turns(args: &BenchArgs, cases: &mut [Case]) -> Result<Vec<f64>, Failure> {
    let bar = ProgressBar::new(u64::from(args.rounds) * cases.len() as u64);
    if let (Some(setting), Some(&producers)) = (args.compare.first(), args.producers.first()) {
        load::measure(args, setting, producers)?;
    }
    let mut probes = vec![probe::round_trip_ns()?];
    let mut order: Vec<usize> = (0..cases.len()).collect();
    for _ in 0..args.rounds {
        for &index in &order {
            let Some(case) = cases.get_mut(index) else { continue };
            let Some(setting) = args.compare.get(case.setting) else { continue };
            case.samples.push(load::measure(args, setting, case.producers)?);
            bar.inc(1);
        }
        order.reverse();
        probes.push(probe::round_trip_ns()?);
    }
    bar.finish_and_clear();
    Ok(probes)
}

/// What makes the figures worth less than they seem.
fn notes(args: &BenchArgs, machine: &Machine, host: &Host, probes: &[f64]) -> Vec<String> {
    let mut notes = machine.notes.clone();
    let most = args.producers.iter().copied().max().unwrap_or(0);
    let plans = args.compare.iter().map(|s| plan(&machine.topology, &s.options(args.flushers)));
    let flushers = plans.map(|plan| plan.flushers().len());
    let threads = most + flushers.max().unwrap_or(0);
    if threads > host.cpus {
        notes.push(format!(
            "{threads} threads (producers and flushers) for {} CPUs: they wait for one another",
            host.cpus
        ));
    }
    let (low, high) = report::range(probes);
    if high > BUSY_NS {
        notes.push("CPUs were not free (see the probe): repeat the run with less load".to_owned());
    } else if high > PROBE_FACTOR * low {
        notes.push(
            "CPUs were not always equally far apart (see the probe): compare ratios, not items/s, \
             and repeat the run"
                .to_owned(),
        );
    }
    if host.is_virtual {
        notes.push("a virtual machine: its host may move CPUs, and has other work".to_owned());
    }
    notes
}

/// Where the system did not do as planned, once for each placement.
fn refusals(args: &BenchArgs, cases: &[Case]) -> BTreeSet<String> {
    let mut refusals = BTreeSet::new();
    for case in cases {
        let Some(setting) = args.compare.get(case.setting) else { continue };
        let all = case.samples.iter().flat_map(|sample| &sample.refused);
        refusals.extend(all.map(|refused| format!("{setting}: {refused}")));
    }
    refusals
}

/// The CPUs that threads of this process can have at a time; a cgroup's quota counts.
fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
