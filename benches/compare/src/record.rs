//! What was measured: a CSV file, a row for each turn, under lines that say where and when.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::contestant::Shape;
use crate::probe::Label;

const HEADER: &str = "round,label,contestant,version,producers,item_bytes,depth,items,seconds,\
                      probe_before_ns,probe_after_ns,note";

/// One turn.
#[derive(Clone, Debug)]
pub struct Row {
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
    /// How long, or what went wrong.
    pub seconds: Result<f64, String>,
    /// The probes before and after, in nanoseconds.
    pub probes: [f64; 2],
}

impl Row {
    /// Items per second.
    pub fn rate(&self) -> Option<f64> {
        self.seconds.as_ref().ok().map(|seconds| self.items as f64 / seconds)
    }
}

/// The file, or what it holds.
pub struct Record {
    /// What is the same for all rows: names and values.
    pub facts: Vec<(String, String)>,
    /// The turns, if the file was read.
    pub rows: Vec<Row>,
    file: Option<File>,
}

impl Record {
    /// A new file, to be filled row by row.
    pub fn create(path: &Path, facts: Vec<(String, String)>) -> io::Result<Self> {
        let mut file = File::create(path)?;
        for (name, value) in &facts {
            writeln!(file, "# {name}: {value}")?;
        }
        writeln!(file, "{HEADER}")?;
        Ok(Self { facts, rows: Vec::new(), file: Some(file) })
    }

    /// Writes a row, at once: what is there stays when the program is stopped.
    pub fn add(&mut self, row: &Row) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let Shape { producers, bytes, depth } = row.shape;
        let (seconds, note) = match &row.seconds {
            Ok(seconds) => (format!("{seconds:.6}"), String::new()),
            Err(why) => (String::new(), why.replace([',', '\n'], ";")),
        };
        writeln!(
            file,
            "{},{},{},{},{producers},{bytes},{depth},{},{seconds},{:.1},{:.1},{note}",
            row.round,
            row.label.name(),
            row.contestant,
            row.version,
            row.items,
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
        for line in text.lines().filter(|line| *line != HEADER) {
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

fn row(line: &str) -> Option<Row> {
    let fields: [&str; 12] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
    let [round, label, contestant, version, producers, bytes, depth, items, rest @ ..] = fields;
    let [seconds, before, after, note] = rest;
    Some(Row {
        round: round.parse().ok()?,
        label: Label::read(label)?,
        contestant: contestant.to_owned(),
        version: version.to_owned(),
        shape: Shape {
            producers: producers.parse().ok()?,
            bytes: bytes.parse().ok()?,
            depth: depth.parse().ok()?,
        },
        items: items.parse().ok()?,
        seconds: if note.is_empty() { Ok(seconds.parse().ok()?) } else { Err(note.to_owned()) },
        probes: [before.parse().ok()?, after.parse().ok()?],
    })
}
