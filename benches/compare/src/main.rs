//! Measures items/s of the same work through sluicegate and through what a user could pick instead:
//! P producers add single items, one consumer forms batches of 512 and folds them.
//!
//! All contestants of a shape (producers, item bytes, depth) take turns within a round, each turn
//! in a process of its own; the order rotates from round to round. Ratios are taken within a round.
//! Each turn stands between two probes of how far apart the CPUs are, and has a label from them.
//! Every turn checks count and sum. The clock runs from the moment when every thread is ready to
//! the end of the last fold.
//!
//! Not: latency, waking, idling, allocation; those have benches of their own.
//!
//! `ci/compare.sh` builds and runs it; `compare --help` lists the options.

mod args;
mod chart;
mod contestant;
mod field;
mod figures;
mod machine;
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
    std::fs::create_dir_all(&options.out)?;
    rounds::run(options, &mut Record::create(&csv(&options.out), machine::facts(options))?)?;
    redraw(&options.out)
}

/// Makes the table and the chart of what is in the CSV file.
fn redraw(folder: &Path) -> Result<(), Box<dyn Error>> {
    let record = Record::read(&csv(folder))?;
    let report = report::markdown(&record);
    std::fs::write(folder.join("compare.md"), &report)?;
    chart::draw(&folder.join("compare.svg"), &record)?;
    print!("{}", report::summary(&report));
    println!("written: {}/compare.{{csv,md,svg}}", folder.display());
    Ok(())
}

fn csv(folder: &Path) -> std::path::PathBuf {
    folder.join("compare.csv")
}
