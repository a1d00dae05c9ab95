//! `sluicegate dlq`: what became dead letters, and what is to become of them.

pub(crate) mod args;
mod filter;
mod ndjson;
mod replay;
mod show;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sluicegate::sink::dead_letter_files;
use sluicegate_sqlite::{DeadCondition, DeadLetter, DeadLetterStore, DeadStoreError};

use crate::dead::Kind;
use crate::run::{Failure, or_enough};
use args::{DlqCommand, PurgeArgs};
use ndjson::{Bad, Lines};

/// How many errors are shown one by one.
const SHOWN: u64 = 10;
/// Letters held at a time.
const PAGE: usize = 512;
/// How a database of SQLite begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Runs; returns the exit status.
pub(crate) fn command(command: &DlqCommand) -> Result<u8, Failure> {
    match command {
        DlqCommand::Ls(args) => or_enough(show::ls(args)),
        DlqCommand::Show(args) => or_enough(show::show(args)),
        DlqCommand::Replay(args) => replay::replay(args),
        DlqCommand::Purge(args) => purge(args),
    }
}

fn purge(args: &PurgeArgs) -> Result<u8, Failure> {
    let mut conditions = args.which.conditions.clone();
    if args.replayed {
        conditions.push(DeadCondition::Replayed(true));
    }
    if conditions.is_empty() && !args.all {
        return Err(Failure::usage("purge", "needs --where, --replayed or --all"));
    }
    let Source::Sqlite(store) = Source::open(&args.which.file)? else {
        let what = "is NDJSON, which is never rewritten: delete the files that are done with";
        return Err(Failure::usage("FILE", what));
    };
    let purged = store.purge(&conditions).map_err(io::Error::other)?;
    writeln!(io::stdout(), "{purged} letters deleted")?;
    Ok(0)
}

/// Where letters are.
#[derive(Debug)]
pub(crate) enum Source {
    Sqlite(DeadLetterStore),
    Ndjson(Vec<PathBuf>),
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let at = |what: &dyn std::fmt::Display| {
            Failure::usage("FILE", format!("cannot read {}: {what}", path.display()))
        };
        match kind(path).map_err(|e| at(&e))? {
            Kind::Sqlite => DeadLetterStore::open(path).map(Self::Sqlite).map_err(|e| at(&e)),
            Kind::Ndjson => {
                let files = dead_letter_files(path).map_err(|e| at(&e))?;
                if files.is_empty() {
                    return Err(at(&io::Error::from(io::ErrorKind::NotFound)));
                }
                Ok(Self::Ndjson(files))
            }
        }
    }

    /// Every letter; none may be bad.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Result<Vec<DeadLetter>, Failure> {
        let mut pages = Pages::new(self, &[]);
        pages.next(self, usize::MAX >> 1, |_, bad| panic!("{bad}"))
    }

    /// Notes that these letters were replayed, where the source can.
    fn mark(&mut self, rows: &[i64]) -> Result<(), DeadStoreError> {
        match self {
            Self::Sqlite(store) => store.mark_replayed(rows),
            Self::Ndjson(_) => Ok(()),
        }
    }
}

/// By the file's name, or else by how it begins.
fn kind(path: &Path) -> io::Result<Kind> {
    if let Some(kind) = Kind::of(path) {
        return Ok(kind);
    }
    let mut start = Vec::new();
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(if start == MAGIC { Kind::Sqlite } else { Kind::Ndjson })
}

/// Reads the letters that all conditions hold for, page by page.
#[derive(Debug)]
struct Pages {
    conditions: Vec<DeadCondition>,
    /// Number of the last letter read.
    after: i64,
    lines: Option<Lines>,
    /// Lines that are no letters.
    bad: u64,
}

impl Pages {
    fn new(source: &Source, conditions: &[DeadCondition]) -> Self {
        let lines = match source {
            Source::Sqlite(_) => None,
            Source::Ndjson(files) => Some(Lines::new(files.clone())),
        };
        Self { conditions: conditions.to_vec(), after: 0, lines, bad: 0 }
    }

    /// The next letters, at most so many; none at the end. Bad lines go to `on_bad`.
    fn next(
        &mut self,
        source: &Source,
        limit: usize,
        mut on_bad: impl FnMut(u64, Bad),
    ) -> Result<Vec<DeadLetter>, Failure> {
        let lines = match (source, &mut self.lines) {
            (Source::Sqlite(store), _) => {
                let letters = store.list(&self.conditions, self.after, limit);
                let letters = letters.map_err(io::Error::other)?;
                self.after = letters.last().map_or(self.after, |letter| letter.row);
                return Ok(letters);
            }
            (Source::Ndjson(_), None) => return Ok(Vec::new()),
            (Source::Ndjson(_), Some(lines)) => lines,
        };
        let mut letters = Vec::new();
        while letters.len() < limit {
            match lines.next()? {
                None => break,
                Some(Err(bad)) => {
                    self.bad += 1;
                    on_bad(self.bad, bad);
                }
                Some(Ok(letter)) => {
                    if self.conditions.iter().all(|condition| condition.matches(&letter)) {
                        letters.push(letter);
                    }
                }
            }
        }
        Ok(letters)
    }
}

/// Shows the first few bad lines; the rest are only counted.
fn tell_bad(nth: u64, bad: Bad) {
    if nth <= SHOWN {
        let _ = writeln!(io::stderr(), "{bad}");
    }
}
