//! Measures items/s of the same work through sluicegate and through what a user could pick instead:
//! P producers add single items, one consumer forms batches of 512 and folds them. And latency: one
//! producer adds 1 M items a second, on a schedule.
//!
//! All contestants of a shape (producers, item bytes, depth) take turns within a round, each turn
//! in a process of its own; the order rotates from round to round. Ratios are taken within a round.
//! Each turn stands between two probes of how far apart the CPUs are, and has a label from them.
//! Every turn checks count and sum. Of items/s, the clock runs from the moment when every thread is
//! ready to the end of the last fold.
//!
//! Not: other paces, waking, idling, allocation; those have benches of their own.
//!
//! `ci/compare.sh` builds and runs it; `compare --help` lists the options.

mod args;
mod chart;
mod contestant;
mod field;
mod figures;
mod latency;
mod machine;
mod paced;
#[path = "../../common/probe.rs"]
mod probe;
mod race;
mod record;
mod report;
mod rounds;
mod targets;
#[cfg(test)]
mod tests;
mod turn;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use args::{Asked, Options};
use record::Record;

const RATES: &str = "compare.csv";
const LATENCIES: &str = "compare-latency.csv";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Asked::read(std::env::args().skip(1)) {
        Ok(Asked::Help(text)) => {
            println!("{text}");
            Ok(())
        }
        Ok(Asked::Turn(turn)) => {
            turn.take();
            Ok(())
        }
        Ok(Asked::Redraw(folder)) => redraw(&folder),
        Ok(Asked::Compare(options)) => compare(&options),
        Err(why) => Err(why.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("compare: {why}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    if !field::FIELD.iter().any(|who| options.names(who.name())) {
        return Err("no contestant has that in its name; --list shows them".into());
    }
    let out = &options.out;
    std::fs::create_dir_all(out)?;
    let facts = machine::facts(options);
    let mut rates = Record::create(&out.join(RATES), facts.clone())?;
    rounds::run(options, &mut rates, &mut Record::create(&out.join(LATENCIES), facts)?)?;
    redraw(out)
}

/// Makes the tables and the chart of what is in the CSV files.
fn redraw(folder: &Path) -> Result<(), Box<dyn Error>> {
    let rates = Record::read(&folder.join(RATES))?;
    let latencies = Record::read(&folder.join(LATENCIES))?;
    let report = report::markdown(&rates, &latencies);
    std::fs::write(folder.join("compare.md"), &report)?;
    chart::draw(&folder.join("compare.svg"), &rates)?;
    print!("{}", report::summary(&report));
    println!("written: {}/{{{RATES},{LATENCIES},compare.md,compare.svg}}", folder.display());
    Ok(())
}
