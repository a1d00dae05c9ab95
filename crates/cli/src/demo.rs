//! `sluicegate demo`: what batching is worth, in figures taken while one watches.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Parser as _;

use crate::args::{Cli, Command, DemoArgs, RunArgs};
use crate::events;
use crate::report::Report;
use crate::run::{self, Failure};
use crate::units::{grouped, rounded};

/// One call per item is slow, so only the first so many items go that way.
const SUBSET: usize = 5_000;

/// Of fewer items the speeds say nothing.
const ENOUGH: u64 = 5_000;

/// Runs the demo; the exit status is 1 if anything does not agree.
pub(crate) fn command(args: &DemoArgs) -> Result<u8, Failure> {
    fs::create_dir_all(&args.dir)
        .map_err(|e| Failure::usage("--dir", format!("cannot make {}: {e}", args.dir.display())))?;
    let input = input(args)?;
    let batched_db = fresh(&args.dir, "demo.db")?;
    let single_db = fresh(&args.dir, "one-by-one.db")?;

    say(&format!("Loading {} into {} in batches …", input.display(), batched_db.display()))?;
    let (batched, stop) = run::run(&*run_args(args, &input, &batched_db, &[])?)?;
    batched.write_human(&mut io::stderr().lock())?;
    if stop.since().is_some() {
        return Ok(1);
    }
    let subset = args.dir.join("subset");
    let items = copy_head(&input, &subset, SUBSET)?;
    say(&format!("\nThe first {} lines again, one call per item …", grouped(items)))?;
    let one_by_one = ["--max-batch-size", "1", "--format", format_of(&input, args)];
    let (single, _) = run::run(&*run_args(args, &subset, &single_db, &one_by_one)?)?;

    let rows = [count(&batched_db)?, count(&single_db)?];
    compare(&batched, &single, rows)?;
    say(&format!("\nThe database is {}", absolute(&batched_db).display()))?;
    let agree = rows == [batched.flushed_ok, single.flushed_ok];
    Ok(if agree && batched.balances() && single.balances() { 0 } else { 1 })
}

/// The file to load: the one given, or made-up events.
fn input(args: &DemoArgs) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    let path = args.dir.join("events.ndjson");
    let (count, seed) = (grouped(args.events.count), args.events.seed);
    say(&format!("Making {count} audit events (seed {seed}) …"))?;
    events::write(&args.events, &mut BufWriter::with_capacity(1 << 18, File::create(&path)?))?;
    Ok(path)
}

/// The call that a user would make, put together from words so that the demo shows nothing else.
fn run_args(
    args: &DemoArgs,
    input: &Path,
    db: &Path,
    extra: &[&str],
) -> Result<Box<RunArgs>, Failure> {
    let mut words: Vec<std::ffi::OsString> = ["sluicegate", "run", "--from"].map(Into::into).into();
    words.push(input.into());
    let mut target = std::ffi::OsString::from("sqlite:");
    target.push(db);
    words.extend(["--to".into(), target]);
    if extra.is_empty() {
        words.extend(["--format".into(), format_of(input, args).into()]);
    }
    words.extend(extra.iter().map(Into::into));
    if args.file.is_none() {
        words.extend(["--columns".into(), events::COLUMNS.join(",").into()]);
    }
    let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    say(&format!("  {}", shown.join(" ")))?;
    match Cli::try_parse_from(&words).map(|cli| cli.command) {
        Ok(Command::Run(run)) => Ok(run),
        Ok(_) => Err(Failure::usage("--file", "cannot be loaded")),
        Err(error) => Err(Failure::usage("--file", error)),
    }
}

fn format_of(input: &Path, args: &DemoArgs) -> &'static str {
    if args.file.is_none() {
        return "ndjson";
    }
    match input.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("ndjson" | "jsonl" | "json") => "ndjson",
        Some("csv") => "csv",
        _ => "lines",
    }
}

/// A database path with nothing left of an earlier demo.
fn fresh(dir: &Path, name: &str) -> io::Result<PathBuf> {
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(dir.join(format!("{name}{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(dir.join(name))
}

/// Copies the first lines, and says how many there were.
fn copy_head(from: &Path, to: &Path, lines: usize) -> io::Result<u64> {
    let mut reader = BufReader::new(File::open(from)?);
    let mut writer = BufWriter::new(File::create(to)?);
    let mut line = Vec::new();
    let mut copied = 0;
    for _ in 0..lines {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        writer.write_all(&line)?;
        copied += 1;
    }
    writer.flush()?;
    Ok(copied)
}

fn count(db: &Path) -> Result<u64, Failure> {
    rusqlite::Connection::open(db)
        .and_then(|db| db.query_row("SELECT count(*) FROM items", [], |row| row.get::<_, i64>(0)))
        .map(i64::unsigned_abs)
        .map_err(|error| Failure::Io(io::Error::other(error)))
}

fn compare(batched: &Report, single: &Report, rows: [u64; 2]) -> io::Result<()> {
    let out = &mut io::stdout().lock();
    writeln!(out, "\n{:<22}{:>14}{:>14}{:>14}", "", "items", "calls", "items/s")?;
    for (name, report) in [("one call per item", single), ("in batches", batched)] {
        let rate = rounded(report.items_per_second);
        let (items, calls) = (grouped(report.flushed_ok), grouped(report.batches));
        writeln!(out, "{name:<22}{items:>14}{calls:>14}{rate:>14}")?;
    }
    if batched.flushed_ok < ENOUGH {
        writeln!(out, "\nSo few items are stored before there is a speed to compare.")?;
    } else if single.items_per_second > 0.0 && batched.batches > 0 {
        writeln!(
            out,
            "\nBatching makes {:.0} calls into one and is {:.1} times as fast \
             (one call per item was measured on the first {} items only).",
            batched.flushed_ok as f64 / batched.batches as f64,
            batched.items_per_second / single.items_per_second,
            grouped(single.items_read),
        )?;
    }
    for (name, report, rows) in [("in batches", batched, rows[0]), ("one by one", single, rows[1])]
    {
        let verdict = if rows == report.flushed_ok { "agrees" } else { "DOES NOT AGREE" };
        let (rows, stored) = (grouped(rows), grouped(report.flushed_ok));
        writeln!(out, "{name}: SELECT count(*) = {rows}, the report says {stored}: {verdict}")?;
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}
