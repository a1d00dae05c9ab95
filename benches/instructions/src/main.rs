//! Counts, under valgrind, the instructions that an item costs and the cache lines that it writes.
//! Where time is noise, on a shared machine, such a count is the same run after run.
//!
//! `count` starts this program under valgrind, for each case of [`cases::CASES`] and each tool,
//! with `run CASE ITEMS`. There are no threads and no clock: the engine is a pump on a test clock.
//! So what a wake-up, a lost race for a slot or a cache miss costs is not in the figures; that takes
//! time to measure, and other benches do.
//!
//! `ci/instructions.sh` builds and runs it.

mod cases;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::{env, fs, thread};

use counting::counts::{Comparison, Counts, Row};
use counting::measured::PLANTED;
use counting::valgrind::{self, Run};

const USAGE: &str = "usage: instructions count FILE    counts into the file
       instructions plant NOW FILE    again, with a regression of `add` that is made on purpose
       instructions compare BASELINE NOW    fails if there are more instructions now";

const RENEW: &str = "ci/instructions.sh --renew";

/// Items (or steps) of a case under callgrind.
const ITEMS: usize = 65_536;
/// Under lackey, which writes a line for each access to memory.
const TRACED: usize = 1_024;
/// The case whose regression is planted.
const PLANT: &str = "add";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["count", file] => count(file),
        ["plant", now, file] => plant(now, file),
        ["compare", baseline, now] => compare(baseline, now),
        ["run", case, items] => run(case, items),
        ["run", case, items, "planted"] => {
            PLANTED.store(true, Ordering::Relaxed);
            run(case, items)
        }
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn count(file: &str) -> Result<(), String> {
    let rows = side_by_side(&cases::CASES, |&(case, _)| {
        let instructions =
            each(valgrind::instructions, Run { case, items: ITEMS, planted: false })?;
        let lines = each(valgrind::lines, Run { case, items: TRACED, planted: false })?;
        Ok(Row { case: case.to_owned(), instructions, lines })
    })?;
    write(file, &Counts { facts: valgrind::facts()?, rows })
}

/// Counts the instructions only: the lines are those of `now`.
fn plant(now: &str, file: &str) -> Result<(), String> {
    let Counts { facts, rows } = Counts::read(now)?;
    let rows = side_by_side(&rows, |row| {
        let run = Run { case: &row.case, items: ITEMS, planted: row.case == PLANT };
        Ok(Row { instructions: each(valgrind::instructions, run)?, ..row.clone() })
    })?;
    write(file, &Counts { facts, rows })
}

/// All at the same time: no count depends on what else is going on.
fn side_by_side<T: Sync>(
    cases: &[T],
    row: impl Fn(&T) -> Result<Row, String> + Sync,
) -> Result<Vec<Row>, String> {
    let row = &row;
    thread::scope(|scope| {
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(move || row(case))).collect();
        let rows = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        rows.collect()
    })
}

fn each(count: impl Fn(&Run<'_>) -> Result<u64, String>, run: Run<'_>) -> Result<f64, String> {
    Ok(count(&run)? as f64 / run.items as f64)
}

fn write(file: &str, counts: &Counts) -> Result<(), String> {
    fs::write(file, counts.to_string()).map_err(|why| format!("{file}: {why}"))
}

/// Prints the table and what is to be known; fails with what must not be.
fn compare(baseline: &str, now: &str) -> Result<(), String> {
    let Comparison { table, notes, failures } =
        Comparison::of(&Counts::read(baseline)?, &Counts::read(now)?);
    print!("{table}");
    notes.iter().for_each(|note| println!("{note}"));
    if failures.is_empty() {
        return Ok(());
    }
    println!("If it is meant, or the toolchain's doing: renew the baseline, {RENEW}.");
    Err(failures.join("\n"))
}

fn run(case: &str, items: &str) -> Result<(), String> {
    let named = cases::CASES.iter().find(|(name, _)| *name == case);
    let (_, run) = named.ok_or(format!("no case {case}"))?;
    let items = items.parse().map_err(|why| format!("{items}: {why}"))?;
    valgrind::tell_places();
    run(items);
    Ok(())
}
