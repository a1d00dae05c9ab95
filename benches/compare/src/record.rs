//! What was measured: a CSV file, a row for each turn, under lines that say where and when.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::contestant::Shape;
use crate::paced::Latency;
use crate::probe::Label;
use crate::turn::{Measure, Seconds, of_words};

/// Turns for items/s.
pub type Rates = Record<Seconds>;
/// Turns for latency.
pub type Latencies = Record<Latency>;

/// One turn.
#[derive(Clone, Debug)]
pub struct Row<M> {
    /// From 1 on.
    pub round: usize,
    /// Where the CPUs were.
    pub label: Label,
    /// Who.
    pub contestant: String,
    /// Of which version.
    pub version: String,
    /// What.
    pub shape: Shape,
    /// How many.
    pub items: u64,
    /// What came of it, or what went wrong.
    pub measured: Result<M, String>,
    /// The probes before and after, in nanoseconds.
    pub probes: [f64; 2],
}

impl Row<Seconds> {
    /// Items per second.
    pub fn rate(&self) -> Option<f64> {
        self.measured.as_ref().ok().map(|seconds| self.items as f64 / seconds.0)
    }
}

/// The file, or what it holds.
pub struct Record<M> {
    /// What is the same for all rows: names and values.
    pub facts: Vec<(String, String)>,
    /// The turns, if the file was read.
    pub rows: Vec<Row<M>>,
    file: Option<File>,
}

impl<M: Measure> Record<M> {
    /// A new file, to be filled row by row.
    pub fn create(path: &Path, facts: Vec<(String, String)>) -> io::Result<Self> {
        let mut file = File::create(path)?;
        for (name, value) in &facts {
            writeln!(file, "# {name}: {value}")?;
        }
        writeln!(file, "{}", header::<M>())?;
        Ok(Self { facts, rows: Vec::new(), file: Some(file) })
    }

    /// Writes a row, at once: what is there stays when the program is stopped.
    pub fn add(&mut self, row: &Row<M>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let Shape { producers, bytes, depth } = row.shape;
        let (measured, note) = match &row.measured {
            Ok(measured) => (measured.words(), String::new()),
            Err(why) => (vec![String::new(); M::COLUMNS.len()], why.replace([',', '\n'], ";")),
        };
        writeln!(
            file,
            "{},{},{},{},{producers},{bytes},{depth},{},{},{:.1},{:.1},{note}",
            row.round,
            row.label.name(),
            row.contestant,
            row.version,
            row.items,
            measured.join(","),
            row.probes[0],
            row.probes[1],
        )
    }

    /// What a file holds.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (mut facts, mut rows) = (Vec::new(), Vec::new());
        let header = header::<M>();
        for line in text.lines().filter(|line| *line != header) {
            if let Some(fact) = line.strip_prefix("# ") {
                let (name, value) = fact.split_once(": ").unwrap_or((fact, ""));
                facts.push((name.to_owned(), value.to_owned()));
            } else {
                rows.push(row(line).ok_or(format!("not a row: {line}"))?);
            }
        }
        Ok(Self { facts, rows, file: None })
    }

    /// One of the facts.
    pub fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|fact| fact.0 == name).map_or("?", |fact| &fact.1)
    }
}

fn header<M: Measure>() -> String {
    let measured = M::COLUMNS.join(",");
    format!(
        "round,label,contestant,version,producers,item_bytes,depth,items,{measured},\
         probe_before_ns,probe_after_ns,note"
    )
}

fn row<M: Measure>(line: &str) -> Option<Row<M>> {
    let fields: Vec<&str> = line.split(',').collect();
    let [round, label, contestant, version, producers, bytes, depth, items, rest @ ..] =
        &fields[..]
    else {
        return None;
    };
    let [measured @ .., before, after, note] = rest else { return None };
    Some(Row {
        round: round.parse().ok()?,
        label: Label::read(label)?,
        contestant: (*contestant).to_owned(),
        version: (*version).to_owned(),
        shape: Shape {
            producers: producers.parse().ok()?,
            bytes: bytes.parse().ok()?,
            depth: depth.parse().ok()?,
        },
        items: items.parse().ok()?,
        measured: if note.is_empty() {
            Ok(of_words(measured.iter().copied())?)
        } else {
            Err((*note).to_owned())
        },
        probes: [before.parse().ok()?, after.parse().ok()?],
    })
}
