//! Checks of sluicegate on a Linux kernel with several NUMA nodes.
//!
//! `ci/numa.sh` boots that kernel under emulation, with this program in its first file system; the
//! script `init` starts it. It prints a line for each check and a verdict. Don't run it elsewhere:
//! it takes CPUs off line.

mod checks;
mod expect;
mod machine;
mod mutants;
mod proof;
mod report;
mod rings;
mod sinks;
#[allow(unsafe_code)]
mod sys;

use std::env;
use std::process::ExitCode;

use checks::{busy, control, cpuset, engine, homes, machine as asked, offline, placed};
use machine::Machine;
use report::{Found, Report};

type Check = fn(&Machine) -> Found;

/// Every check, in the order in which they run: first what the others stand on.
const CHECKS: [(&str, Check); 24] = [
    ("machine.cpus", asked::cpus),
    ("machine.memory", asked::memory),
    ("machine.distances", asked::distances),
    ("machine.getcpu", asked::getcpu),
    ("control.threads", control::threads),
    ("control.first_touch", control::first_touch),
    ("control.bound", control::bound),
    ("control.noticed", control::noticed),
    ("control.refused", control::refused),
    ("engine.smoke", engine::smoke),
    ("placed.flushers", placed::flushers),
    ("placed.batches", placed::batches),
    ("placed.pages", placed::pages),
    ("placed.huge_pages", placed::huge_pages),
    ("homes.found", homes::homes),
    ("homes.followed", homes::follow),
    ("busy.overflow", busy::overflow),
    ("busy.steal", busy::steal),
    ("cpuset.spread", cpuset::spread),
    ("cpuset.one_node", cpuset::one_node),
    ("cpuset.far_memory", cpuset::far_memory),
    ("cpuset.near_memory", cpuset::near_memory),
    ("offline.pinned_thread", offline::pinned_thread),
    ("offline.engine", offline::engine),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let passed = match arguments.first().map(String::as_str) {
        None => all(),
        Some("in-cpuset") => {
            let found = cpuset::child(&arguments[1..]);
            println!("{}", found.as_ref().unwrap_or_else(|why| why));
            found.is_ok()
        }
        Some("leave") => {
            let passed = arguments.get(1).is_some_and(|code| code == "0");
            println!("still here: {}", sys::leave(passed));
            false
        }
        Some(other) => {
            println!("not a subcommand: {other}");
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all() -> bool {
    let machine = match Machine::asked() {
        Ok(machine) => machine,
        Err(why) => {
            println!("verdict: FAIL, no check: {why}");
            return false;
        }
    };
    let mut report = Report::default();
    for (name, check) in CHECKS {
        if machine.checks.is_empty() || machine.checks.iter().any(|only| only == name) {
            report.check(name, || check(&machine));
        }
    }
    report.verdict(&machine.name)
}
