//! Puts together what the benches have measured: `bench.csv`, `bench.md` and the charts.
//!
//! Usage: `report RAW CRITERION OUT COMMAND`: the file that `SLUICEGATE_BENCH_CSV` named, the folder
//! that `CRITERION_HOME` named, where to write, and what was typed. `ci/bench.sh` does it. Without
//! arguments, as in a plain `cargo bench`, it says so and does nothing.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "../common/mod.rs"]
mod common;

mod chart;
mod criterion;
mod facts;
mod page;

use common::Record;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let done = match args.as_slice() {
        [] => {
            println!("report: nothing to do; ci/bench.sh runs it");
            return ExitCode::SUCCESS;
        }
        [raw, criterion, out, command] => write(raw.as_ref(), criterion.as_ref(), out, command),
        _ => Err("usage: report RAW CRITERION OUT COMMAND".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("report: {why}");
            ExitCode::FAILURE
        }
    }
}

fn write(raw: &Path, criterion: &Path, out: &str, command: &str) -> Result<(), Box<dyn Error>> {
    let mut record = Record { facts: facts::facts(command), rows: criterion::rows(criterion)? };
    if raw.exists() {
        record.add(Record::read(raw)?.rows);
    }
    if record.rows.is_empty() {
        return Err("nothing was measured".into());
    }
    let out = PathBuf::from(out);
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("bench.csv"), "")?; // anew
    record.append_to(&out.join("bench.csv"))?;
    let page = page::markdown(&record);
    std::fs::write(out.join("bench.md"), &page)?;
    let charts = chart::draw_all(&out, &record)?;
    println!(
        "{}written: {}/bench.{{csv,md}} {}",
        page::targets(&record),
        out.display(),
        charts.join(" ")
    );
    Ok(())
}
