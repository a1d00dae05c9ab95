//! Figures with their round and their label, and the CSV file that keeps them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::{Figure, Label};

const HEADER: &str = "bench,case,measure,round,label,probe_before_ns,probe_after_ns,value";

/// A figure of one turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which bench.
    pub bench: String,
    /// From 1 on.
    pub round: usize,
    /// Where the CPUs were.
    pub label: Label,
    /// The probes before and after, in nanoseconds; 0 if there were none.
    pub probes: [f64; 2],
    /// What came out.
    pub figure: Figure,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Record {
    /// What is the same for all rows: names and values.
    pub facts: Vec<(String, String)>,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
}

impl Record {
    /// More rows.
    pub fn add(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// Adds the rows to a file, which gets its header if it is new.
    pub fn append_to(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let mut text = if file.metadata()?.len() == 0 { self.head() } else { String::new() };
        self.rows.iter().for_each(|row| text.push_str(&row.line()));
        file.write_all(text.as_bytes())
    }

    fn head(&self) -> String {
        let facts = self.facts.iter().map(|(name, value)| format!("# {name}: {value}\n"));
        facts.chain([format!("{HEADER}\n")]).collect()
    }

    /// What a file holds.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
        let mut record = Self::default();
        for line in text.lines().filter(|line| *line != HEADER) {
            if let Some(fact) = line.strip_prefix("# ") {
                let (name, value) = fact.split_once(": ").unwrap_or((fact, ""));
                record.facts.push((name.to_owned(), value.to_owned()));
            } else {
                let row = Row::read(line);
                record.rows.push(row.ok_or(format!("{}: not a row: {line}", path.display()))?);
            }
        }
        Ok(record)
    }

    /// The benches, in the order of the rows.
    pub fn benches(&self) -> Vec<&str> {
        distinct(self.rows.iter().map(|row| row.bench.as_str()))
    }

    /// The rows of a bench.
    pub fn of<'r>(&'r self, bench: &'r str) -> impl Iterator<Item = &'r Row> {
        self.rows.iter().filter(move |row| row.bench == bench)
    }

    /// The cases of a bench, in the order of the rows.
    pub fn cases<'r>(&'r self, bench: &'r str) -> Vec<&'r str> {
        distinct(self.of(bench).map(|row| row.figure.case.as_str()))
    }

    /// What a bench measures, in the order of the rows.
    pub fn measures<'r>(&'r self, bench: &'r str) -> Vec<&'r str> {
        distinct(self.of(bench).map(|row| row.figure.measure.as_str()))
    }
}

impl Row {
    fn line(&self) -> String {
        let Self { bench, round, label, probes: [before, after], figure } = self;
        let Figure { case, measure, value } = figure;
        for name in [bench, case, measure] {
            assert!(!name.contains([',', '\n']), "{name:?} can't be in a CSV file as it is");
        }
        let label = label.name();
        format!("{bench},{case},{measure},{round},{label},{before:.1},{after:.1},{value}\n")
    }

    fn read(line: &str) -> Option<Self> {
        let fields: [&str; 8] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
        let [bench, case, measure, round, label, before, after, value] = fields;
        Some(Self {
            bench: bench.to_owned(),
            round: round.parse().ok()?,
            label: Label::read(label)?,
            probes: [before.parse().ok()?, after.parse().ok()?],
            figure: Figure::new(case, measure, value.parse().ok()?),
        })
    }
}

fn distinct<'r>(names: impl Iterator<Item = &'r str>) -> Vec<&'r str> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}
