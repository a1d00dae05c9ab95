//! What the benches share: turns between probes, and the figures that come out of them.
//!
//! The turns of a bench come one after the other, round after round, so that what changes with time
//! hits all of them. Around each turn a probe tells how far apart two CPUs are, and the figures of
//! the turn are labelled by it: on virtual machines that distance changes while one measures, and
//! figures with it, fourfold. Printed is, for each figure, the median of the rounds that count,
//! with the quartiles; which rounds count says [`Basis`].
//!
//! Usage of each such bench: `cargo bench --bench NAME -- [WORD…]`; with words, only the turns in
//! whose name one of them occurs.
//!
//! | environment | |
//! |---|---|
//! | `SLUICEGATE_BENCH_CSV` | a file to which every figure is added, a row for each |
//! | `SLUICEGATE_BENCH_QUICK` | if set, few and short rounds: shows that it works, measures nothing |

#![allow(dead_code, unused_imports)] // each bench uses its part
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod basis;
mod probe;
mod record;
mod spread;
mod table;

pub use basis::{Basis, Middle};
pub use probe::{Label, probe};
pub use record::{Record, Row};
pub use spread::Spread;
pub use table::{short, table};

use std::path::PathBuf;

/// What a turn gives: a value in a line and a column of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The line: what was run.
    pub case: String,
    /// The column: what of it was measured, and in which unit.
    pub measure: String,
    /// How much.
    pub value: f64,
}

impl Figure {
    /// Names have no comma, since they go into a CSV file.
    pub fn new(case: impl Into<String>, measure: impl Into<String>, value: f64) -> Self {
        Self { case: case.into(), measure: measure.into(), value }
    }
}

/// Something to be run once in every round.
pub struct Turn {
    name: String,
    run: Box<dyn Fn(usize) -> Vec<Figure>>,
}

impl Turn {
    /// `run` is given the number of the round, from 1 on, and checks what it runs.
    pub fn new(name: impl Into<String>, run: impl Fn(usize) -> Vec<Figure> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// Whether to be short.
pub fn quick() -> bool {
    std::env::var_os("SLUICEGATE_BENCH_QUICK").is_some()
}

/// The first, or the second if it is to be quick.
pub fn or_quick<T>(full: T, quickly: T) -> T {
    if quick() { quickly } else { full }
}

/// Runs the turns, `rounds` times each (twice if it is to be quick), records and prints what they
/// give.
pub fn take_turns(bench: &str, rounds: usize, mut turns: Vec<Turn>) {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    turns.retain(|turn| words.is_empty() || words.iter().any(|word| turn.name.contains(word)));
    if turns.is_empty() {
        eprintln!("{bench}: no turn has any of {words:?} in its name");
        std::process::exit(2);
    }
    let rounds = or_quick(rounds, 2);
    let path = std::env::var_os("SLUICEGATE_BENCH_CSV").map(PathBuf::from);
    let mut record = Record::default();
    for round in 1..=rounds {
        let mut before = probe();
        for turn in &turns {
            let figures = (turn.run)(round);
            let after = probe();
            let probes = [before, after];
            let label = Label::of(before, after);
            record.add(figures.into_iter().map(|figure| Row {
                bench: bench.to_owned(),
                round,
                label,
                probes,
                figure,
            }));
            before = after;
        }
        turns.rotate_left(1);
    }
    if let Some(path) = path {
        let written = record.append_to(&path);
        written.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    }
    println!("{bench}: {rounds} rounds; median (quartiles)\n");
    println!("{}", table(&record, bench));
}
