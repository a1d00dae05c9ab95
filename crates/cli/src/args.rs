//! The command line: what it takes, and what it refuses before anything is opened.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluicegate_sqlite::Affinity;

use crate::bench::args::BenchArgs;
use crate::dlq::args::DlqCommand;
use crate::placement::PinArg;
use crate::run::Failure;
use crate::topology::TopologyArgs;
use crate::units::parse_bytes;

/// A record of CSV may become six times as long as JSON, with the names of its columns, and an item
/// counts its bytes in 32 bits.
const MAX_LINE_BYTES_MAX: u64 = 64 << 20;

/// Room is made for so many items at start, and is never given back.
pub(crate) const QUEUE_DEPTH_MAX: usize = 1 << 22;

/// Takes single items in and writes them out in batches, with every item accounted for.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Reads items from a file or standard input and writes them in batches.
    ///
    /// Exit status: 0 if every item read was stored, 1 if one was not, 2 for a mistake in the
    /// options, 128 plus the signal's number when a second SIGINT, SIGTERM or SIGHUP has cut the
    /// drain short.
    Run(Box<RunArgs>),
    /// Looks into dead letters, replays them, and deletes them.
    ///
    /// Exit status: 0 if all went well, 1 if a letter was not replayed or a line could not be read,
    /// 2 for a mistake in the options.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Shows the machine as the engine sees it, and what it would put where.
    Topology(TopologyArgs),
    /// Measures the engine on this machine, with several placements that take turns.
    ///
    /// Producers on threads of their own add numbers, and a sink adds them up. Every run checks
    /// count and sum. Exit status: 0 if all came out, 1 if something did not, 2 for a mistake in
    /// the options.
    Bench(BenchArgs),
    /// Shows what batching is worth, with a million made-up audit events or a file of one's own.
    Demo(DemoArgs),
    /// Prints made-up audit events as NDJSON; the same ones for the same seed.
    DemoEvents(EventsArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// Where items come from; `-` is standard input.
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    pub(crate) from: PathBuf,
    /// How the input is read: a JSON value per line, CSV with a header row, or plain lines.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    pub(crate) format: Format,
    /// Where items go: sqlite:PATH, file:PATH, stdout or null.
    #[arg(long, value_name = "sqlite:PATH|file:PATH|stdout|null")]
    pub(crate) to: Target,
    #[command(flatten)]
    pub(crate) rows: RowArgs,
    /// Writes every line that was not stored to this file, as NDJSON. Replaces the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// Longer lines (CSV: records) are rejected; their rest is skipped without being kept.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_line_bytes)]
    pub(crate) max_line_bytes: usize,
    /// How the final report is given: for people on standard error, or one JSON object on standard
    /// output (with `--to stdout`: on standard error).
    #[arg(long, value_enum, default_value_t = ReportFormat::Human)]
    pub(crate) report: ReportFormat,
    /// How long items in hand may take to be stored after a SIGINT, SIGTERM or SIGHUP.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) drain_deadline: Duration,
    #[command(flatten)]
    pub(crate) batching: BatchingArgs,
    #[command(flatten)]
    pub(crate) failure: FailureArgs,
    /// When SQLite waits for the disk (sqlite): see the documentation of what a power cut can take.
    /// Default: full.
    #[arg(long, value_enum)]
    pub(crate) synchronous: Option<SynchronousArg>,
    /// Forces each batch to the disk before it counts as written (file).
    #[arg(long)]
    pub(crate) fsync: bool,
}

/// What an item becomes where it is written.
#[derive(Clone, Debug, Args)]
pub(crate) struct RowArgs {
    /// The table to write to (sqlite); created where it is missing. Default: items.
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// The columns to write, by name; types: any (default), integer, real, text. Without it each
    /// item goes whole into the column `item`.
    #[arg(long, value_name = "NAME[:TYPE],…", value_delimiter = ',')]
    #[arg(value_parser = ColumnArg::from_str)]
    pub(crate) columns: Vec<ColumnArg>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Batching")]
pub(crate) struct BatchingArgs {
    /// The most items in a batch.
    #[arg(long, value_name = "ITEMS", default_value_t = 512)]
    pub(crate) max_batch_size: usize,
    /// The most bytes of input in a batch; a single larger item travels alone.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_bytes)]
    pub(crate) max_batch_bytes: u64,
    /// The longest that an item waits for its batch to fill.
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    pub(crate) max_batch_delay: Duration,
    /// The most items waiting between the reader and the flushers: a power of two, at most
    /// 4194304.
    #[arg(long, value_name = "ITEMS", default_value_t = 8_192)]
    pub(crate) queue_depth: usize,
    /// Threads that write, each with a connection of its own.
    #[arg(long, value_name = "THREADS", default_value_t = 1)]
    pub(crate) flushers: usize,
    /// Where the threads that write may run, on a machine with several NUMA nodes or with `core`.
    #[arg(long, value_enum, default_value_t = PinArg::Node)]
    pub(crate) pin: PinArg,
    /// Has the queue lie in huge pages, if the system gives some.
    #[arg(long)]
    pub(crate) huge_pages: bool,
    /// `due` waits for a batch to fill or to get old; `idle` writes whenever a flusher is free.
    #[arg(long, value_enum, default_value_t = FlushWhenArg::Due)]
    pub(crate) flush_when: FlushWhenArg,
    /// Takes a --max-batch-delay of more than 60 s.
    #[arg(long)]
    pub(crate) allow_long_delay: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When the sink fails")]
pub(crate) struct FailureArgs {
    /// Keeps what the sink will never take, with its error, in this file: .ndjson, .jsonl, .db or
    /// .sqlite. See `sluicegate dlq`. Adds to the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) dead_letters: Option<PathBuf>,
    /// The most writes of an item that fails in passing; 1 for a single try.
    #[arg(long, value_name = "WRITES", default_value_t = 20)]
    pub(crate) max_attempts: u32,
    /// How long such an item is tried again.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    pub(crate) give_up_after: Duration,
    /// The most calls of the sink in a second; batches grow instead.
    #[arg(long, value_name = "CALLS")]
    pub(crate) calls_per_second: Option<f64>,
    /// The most items given to the sink in a second.
    #[arg(long, value_name = "ITEMS")]
    pub(crate) items_per_second: Option<f64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// A file to load instead of made-up events; .ndjson, .jsonl, .json and .csv are parsed, others
    /// are read as lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where the databases go; databases of an earlier demo in it are replaced.
    #[arg(long, value_name = "FOLDER", default_value = "demo-out")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) events: EventsArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EventsArgs {
    /// How many events.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) count: u64,
    /// What they are made from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Ndjson,
    Csv,
    Lines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlushWhenArg {
    Due,
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SynchronousArg {
    /// A power cut takes nothing that was reported as stored.
    Full,
    /// A power cut may take the last batches; the database stays sound.
    Normal,
    /// A power cut may damage the database.
    Off,
}

/// Where items go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Sqlite(PathBuf),
    File(PathBuf),
    Stdout,
    Null,
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", ":memory:")) => Err("a database in memory keeps nothing".to_owned()),
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            None if text == "stdout" => Ok(Self::Stdout),
            None if text == "null" => Ok(Self::Null),
            _ => Err("expected sqlite:PATH, file:PATH, stdout or null".to_owned()),
        }
    }
}

/// A column as given: `name` or `name:type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnArg {
    pub(crate) name: String,
    pub(crate) affinity: Affinity,
}

impl FromStr for ColumnArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, affinity) = match text.rsplit_once(':') {
            None => (text.trim(), Affinity::Any),
            Some((name, kind)) => (name.trim(), affinity(kind.trim())?),
        };
        if name.is_empty() {
            return Err("a column needs a name".to_owned());
        }
        Ok(Self { name: name.to_owned(), affinity })
    }
}

fn affinity(name: &str) -> Result<Affinity, String> {
    match name {
        "any" => Ok(Affinity::Any),
        "integer" => Ok(Affinity::Integer),
        "real" => Ok(Affinity::Real),
        "text" => Ok(Affinity::Text),
        _ => Err(format!("unknown type {name:?}; use any, integer, real or text")),
    }
}

fn parse_line_bytes(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        bytes if bytes <= MAX_LINE_BYTES_MAX => usize::try_from(bytes).map_err(|e| e.to_string()),
        _ => Err("at most 64MiB".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; expected such as 100ms, 2s or 1m"))
}

impl RunArgs {
    /// What `sluicegate run --to` has by default, for commands that write as it does.
    pub(crate) fn writing_to(target: Target) -> Result<Self, Failure> {
        match Cli::try_parse_from(["sluicegate", "run", "--to", "null"]).map(|cli| cli.command) {
            Ok(Command::Run(args)) => Ok(Self { to: target, ..*args }),
            Ok(_) => Err(Failure::usage("--to", "leads nowhere")),
            Err(error) => Err(Failure::usage("--to", error)),
        }
    }

    /// The file that is written to, if it is one.
    pub(crate) fn target(&self) -> Option<&Path> {
        match &self.to {
            Target::File(path) | Target::Sqlite(path) => Some(path),
            Target::Stdout | Target::Null => None,
        }
    }

    /// Refuses combinations that clap can't know, with the option at fault.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let sqlite = matches!(self.to, Target::Sqlite(_));
        let only = |with: &str| format!("only goes with --to {with}");
        if !sqlite && self.rows.table.is_some() {
            return Err(Failure::usage("--table", only("sqlite:PATH")));
        }
        if !sqlite && self.synchronous.is_some() {
            return Err(Failure::usage("--synchronous", only("sqlite:PATH")));
        }
        if self.fsync && !matches!(self.to, Target::File(_)) {
            return Err(Failure::usage("--fsync", only("file:PATH")));
        }
        if self.batching.queue_depth > QUEUE_DEPTH_MAX {
            return Err(Failure::usage("--queue-depth", "at most 4194304 (2^22) items"));
        }
        if let Some(path) = &self.failure.dead_letters
            && Some(path.as_path()) == self.target()
        {
            return Err(Failure::usage("--dead-letters", "is the file given with --to"));
        }
        let columns = &self.rows.columns;
        if self.format == Format::Lines && columns.len() > 1 {
            return Err(Failure::usage("--columns", "lines have one value, so at most one column"));
        }
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|c| c.name.eq_ignore_ascii_case(&column.name)) {
                let what = format!("column {:?} is named twice", column.name);
                return Err(Failure::usage("--columns", what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn targets() {
        assert_eq!("sqlite:a:b.db".parse(), Ok(Target::Sqlite("a:b.db".into())));
        assert_eq!("null".parse(), Ok(Target::Null));
        for bad in ["", "sqlite:", "file:", "sqlite", "sqlite::memory:", "stdout:x", "postgres:x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn columns() {
        let column: ColumnArg = "a:b:integer".parse().unwrap();
        assert_eq!((column.name.as_str(), column.affinity), ("a:b", Affinity::Integer));
        let column: ColumnArg = " a b : real ".parse().unwrap();
        assert_eq!((column.name.as_str(), column.affinity), ("a b", Affinity::Real));
        assert!("a:int8".parse::<ColumnArg>().is_err());
        assert!("  ".parse::<ColumnArg>().is_err());
        assert!(":text".parse::<ColumnArg>().is_err());
    }
}
