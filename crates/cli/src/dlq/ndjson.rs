//! Letters from the files of a `DeadLetterFile`, line by line.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;
use sluicegate::Dead;
use sluicegate_sqlite::DeadLetter;

/// A line that is no letter.
#[derive(Debug)]
pub(crate) struct Bad {
    file: PathBuf,
    line: u64,
    reason: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: {}", self.file.display(), self.line, self.reason)
    }
}

/// Reads one file after the other.
#[derive(Debug)]
pub(crate) struct Lines {
    files: VecDeque<PathBuf>,
    open: Option<Open>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    reader: BufReader<File>,
    line: u64,
}

impl Lines {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self { files: files.into(), open: None, buffer: Vec::new() }
    }

    /// The next letter, or why its line is none; nothing at the end. Blank lines are skipped.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<DeadLetter, Bad>>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                let reader = BufReader::new(File::open(&path)?);
                self.open = Some(Open { path, reader, line: 0 });
                continue;
            };
            self.buffer.clear();
            if open.reader.read_until(b'\n', &mut self.buffer)? == 0 {
                self.open = None;
                continue;
            }
            open.line += 1;
            let line = self.buffer.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let letter = parse(line, open.line);
            let bad = |reason| Bad { file: open.path.clone(), line: open.line, reason };
            return Ok(Some(letter.map_err(bad)));
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Line<'a> {
    id: String,
    batch: u64,
    #[serde(default)]
    part: u32,
    class: String,
    applied: String,
    error: String,
    attempts: u32,
    first_ms: i64,
    last_ms: i64,
    tenant: Option<String>,
    #[serde(borrow)]
    encoding: Cow<'a, str>,
    #[serde(borrow)]
    item: &'a RawValue,
}

fn parse(line: &[u8], number: u64) -> Result<DeadLetter, String> {
    let text = std::str::from_utf8(line)
        .map_err(|e| format!("invalid UTF-8 after {} bytes", e.valid_up_to()))?;
    // First, because a newer line may look quite different.
    let Version { version } = serde_json::from_str(text).map_err(no_letter)?;
    if version > Dead::<()>::VERSION {
        let known = Dead::<()>::VERSION;
        return Err(format!("a letter of version {version}; this program knows {known}"));
    }
    let line: Line<'_> = serde_json::from_str(text).map_err(no_letter)?;
    let item = match &*line.encoding {
        "json" => line.item.get().as_bytes().to_vec(),
        "text" => serde_json::from_str::<String>(line.item.get()).map_err(no_letter)?.into(),
        other => return Err(format!("unknown encoding {other:?}")),
    };
    Ok(DeadLetter {
        row: i64::try_from(number).unwrap_or(i64::MAX),
        id: line.id,
        item,
        class: line.class,
        applied: line.applied,
        error: line.error,
        attempts: line.attempts,
        first_ms: line.first_ms,
        last_ms: line.last_ms,
        batch: line.batch,
        part: line.part,
        tenant: line.tenant,
        version,
        replayed_ms: None,
    })
}

/// The line is always line 1 for the parser, which only misleads.
fn no_letter(error: serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("no dead letter: {what}")
}
