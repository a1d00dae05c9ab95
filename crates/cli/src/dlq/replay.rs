//! `dlq replay`: each letter once.
//!
//! Into SQLite the target notes each letter in the transaction of its row, so that it is exactly
//! once; the mark in the store follows. Elsewhere (a file, standard output) nothing can be noted,
//! so the mark alone counts: a crash between writing and marking writes those letters again.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use sluicegate::{Batcher, WriteError};
use sluicegate_sqlite::{DeadLetter, Replayed, Replayer};

use super::args::ReplayArgs;
use super::show::brief;
use super::{PAGE, Pages, SHOWN, Source, tell_bad};
use crate::args::{ReportFormat, RunArgs, Target};
use crate::input::source::file_id;
use crate::input::{self, Columns};
use crate::item::Item;
use crate::output::{self, Cells};
use crate::run::Failure;
use crate::units::grouped;

/// What became of the letters.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// `read == replayed + already + failed`
    read: u64,
    replayed: u64,
    /// Replayed before.
    already: u64,
    failed: u64,
    /// Lines that are no letters.
    bad: u64,
    errors: Vec<String>,
}

impl Report {
    fn fail(&mut self, letter: &DeadLetter, why: &str) {
        self.failed += 1;
        if self.failed <= SHOWN {
            let _ = writeln!(io::stderr(), "letter {} ({}): {}", letter.row, letter.id, brief(why));
        }
    }

    fn fail_all(&mut self, letters: &[&DeadLetter], why: &str) {
        letters.iter().for_each(|letter| self.fail(letter, why));
    }

    fn balances(&self) -> bool {
        self.read == self.replayed + self.already + self.failed
    }

    fn print(&self, args: &ReplayArgs) -> io::Result<()> {
        if args.report == ReportFormat::Json {
            let text = serde_json::to_string(self)?;
            return match args.to {
                Target::Stdout => writeln!(io::stderr(), "{text}"),
                _ => writeln!(io::stdout(), "{text}"),
            };
        }
        let [read, replayed, already, failed] =
            [self.read, self.replayed, self.already, self.failed].map(grouped);
        let mut out = io::stderr().lock();
        writeln!(
            out,
            "read {read} = replayed {replayed} + already replayed {already} + failed {failed}"
        )?;
        if self.bad > 0 {
            writeln!(out, "  {} lines are no dead letters and were skipped", grouped(self.bad))?;
        }
        if !self.balances() {
            writeln!(out, "  THE SUM DOES NOT COME OUT: this is a bug in sluicegate")?;
        }
        self.errors.iter().try_for_each(|error| writeln!(out, "  error: {error}"))
    }
}

/// Replays, prints the report, and returns the exit status.
pub(crate) fn replay(args: &ReplayArgs) -> Result<u8, Failure> {
    let run_args = args.run_args()?;
    let mut source = Source::open(&args.which.file)?;
    if !args.skip_bad {
        refuse_bad(&source)?;
    }
    let mut target = Destination::open(args, &run_args, &source)?;
    let columns: Columns = run_args.rows.columns.clone().into();
    let mut pages = Pages::new(&source, &args.which.conditions);
    let mut report = Report::default();
    loop {
        let letters = pages.next(&source, PAGE, tell_bad)?;
        if letters.is_empty() {
            break;
        }
        report.read += letters.len() as u64;
        let (waiting, items) = parse(&letters, args, &columns, &mut report);
        let done = target.write(&waiting, items, &mut report);
        if let Err(error) = source.mark(&done) {
            report.errors.push(format!("marking what was replayed: {error}"));
        }
        if !report.errors.is_empty() {
            break;
        }
    }
    report.bad = pages.bad;
    report.print(args)?;
    Ok(u8::from(report.failed > 0 || !report.errors.is_empty() || !report.balances()))
}

/// Before anything is written: a file that cannot be read to its end may be another file than was
/// meant.
fn refuse_bad(source: &Source) -> Result<(), Failure> {
    let mut pages = Pages::new(source, &[]);
    let mut first = None;
    if matches!(source, Source::Sqlite(_)) {
        return Ok(());
    }
    loop {
        let letters = pages.next(source, PAGE, |_, bad| {
            first.get_or_insert(bad);
        })?;
        match &first {
            Some(bad) => {
                let what = format!("{bad}; --skip-bad replays the others");
                return Err(Failure::usage("FILE", what));
            }
            None if letters.is_empty() => return Ok(()),
            None => {}
        }
    }
}

/// Those that wait for a replay, with their items.
fn parse<'a>(
    letters: &'a [DeadLetter],
    args: &ReplayArgs,
    columns: &Columns,
    report: &mut Report,
) -> (Vec<&'a DeadLetter>, Vec<Item>) {
    let (mut waiting, mut items) = (Vec::new(), Vec::new());
    for letter in letters {
        if letter.replayed_ms.is_some() {
            report.already += 1;
            continue;
        }
        let number = u64::try_from(letter.row).unwrap_or(0);
        match input::parse_one(number, &letter.item, args.format, columns) {
            Ok(item) => {
                waiting.push(letter);
                items.push(item);
            }
            Err(why) => report.fail(letter, &why),
        }
    }
    (waiting, items)
}

enum Destination<'a> {
    /// Notes what it has.
    Sqlite(Box<Replayer<Item, Cells>>),
    /// Notes nothing.
    Other(&'a RunArgs),
}

impl<'a> Destination<'a> {
    fn open(args: &ReplayArgs, run: &'a RunArgs, source: &Source) -> Result<Self, Failure> {
        let file = &args.which.file;
        let same = |path: &Path| {
            let id = file_id(std::fs::metadata(path));
            id.is_some() && id == file_id(std::fs::metadata(file))
        };
        let Target::Sqlite(path) = &args.to else {
            if matches!(source, Source::Ndjson(_)) {
                let what = "letters of an NDJSON file go to sqlite:PATH only, which notes what \
                            was replayed; for another place use `dlq show --json`";
                return Err(Failure::usage("--to", what));
            }
            if run.target().is_some_and(same) {
                return Err(Failure::usage("--to", "is the file with the letters"));
            }
            return Ok(Self::Other(run));
        };
        let options = output::sqlite_options(path, run);
        let name = file.display().to_string();
        let replayer = Replayer::open(&options, name, Cells)
            .map_err(|error| output::at_fault(&error, path, args.rows.table.as_deref()))?
            .store_is_target(matches!(source, Source::Sqlite(_)) && same(path));
        Ok(Self::Sqlite(Box::new(replayer)))
    }

    /// Writes the items, and says which letters are to be marked.
    fn write(
        &mut self,
        letters: &[&DeadLetter],
        items: Vec<Item>,
        report: &mut Report,
    ) -> Vec<i64> {
        if letters.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Sqlite(replayer) => into_sqlite(replayer, letters, items, report),
            Self::Other(args) => through_engine(args, letters, items, report),
        }
    }
}

fn into_sqlite(
    replayer: &mut Replayer<Item, Cells>,
    letters: &[&DeadLetter],
    items: Vec<Item>,
    report: &mut Report,
) -> Vec<i64> {
    let named: Vec<_> = letters.iter().map(|letter| letter.id.as_str()).zip(items).collect();
    let fates = match replayer.replay(&named) {
        Ok(fates) => fates,
        Err(error) => {
            report.fail_all(letters, &error.to_string());
            report.errors.push(format!("the target: {error}"));
            return Vec::new();
        }
    };
    let mut done = Vec::new();
    for (letter, fate) in letters.iter().zip(fates) {
        match fate {
            Replayed::Now => report.replayed += 1,
            Replayed::Already => report.already += 1,
            Replayed::Failed(error) => {
                report.fail(letter, &error.to_string());
                continue;
            }
        }
        done.push(letter.row);
    }
    done
}

/// Each page has an engine of its own, so that what it says is known before the page is marked.
fn through_engine(
    args: &RunArgs,
    letters: &[&DeadLetter],
    items: Vec<Item>,
    report: &mut Report,
) -> Vec<i64> {
    let batcher = Batcher::builder()
        .shards(1) // one thread reads
        .max_batch_size(PAGE)
        .failed_kept(PAGE)
        .weight(Item::weight)
        .retry(None) // what fails stays, to be replayed again
        .bisect(false)
        .breaker(None)
        .spawn(output::factory(args));
    let batcher = match batcher {
        Ok(batcher) => batcher,
        Err(error) => {
            report.fail_all(letters, &error.to_string());
            report.errors.push(error.to_string());
            return Vec::new();
        }
    };
    let producer = batcher.producer();
    let mut failed: HashMap<u64, String> = HashMap::new();
    for item in items {
        if let Err(error) = producer.add(item) {
            let why = error.to_string();
            failed.insert(error.into_inner().line, why);
        }
    }
    let shutdown = batcher.shutdown(args.drain_deadline);
    let why = |error: &WriteError| error.to_string();
    failed.extend(shutdown.failed.iter().map(|f| (f.item.line, why(&f.error))));
    let unflushed: HashSet<u64> = shutdown.unflushed.iter().map(|item| item.line).collect();
    failed.extend(unflushed.into_iter().map(|line| (line, "was not written in time".to_owned())));
    settle(letters, &failed, shutdown.tally.flushed_ok, report)
}

/// Letters without a failure were written, if that is what the engine has counted.
fn settle(
    letters: &[&DeadLetter],
    failed: &HashMap<u64, String>,
    flushed_ok: u64,
    report: &mut Report,
) -> Vec<i64> {
    if flushed_ok + failed.len() as u64 != letters.len() as u64 {
        let what = "it is not known which letters were written; none was marked";
        report.fail_all(letters, what);
        report.errors.push(what.to_owned());
        return Vec::new();
    }
    let mut done = Vec::new();
    for letter in letters {
        match u64::try_from(letter.row).ok().and_then(|row| failed.get(&row)) {
            Some(why) => report.fail(letter, why),
            None => {
                report.replayed += 1;
                done.push(letter.row);
            }
        }
    }
    done
}
