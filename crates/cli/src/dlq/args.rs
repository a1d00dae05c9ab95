//! What `sluicegate dlq` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sluicegate_sqlite::DeadCondition;

use super::filter::parse_condition;
use crate::args::{Format, ReportFormat, RowArgs, RunArgs, Target};
use crate::run::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// Lists the letters, grouped by their error.
    Ls(LsArgs),
    /// Shows letters with their items, the oldest first.
    Show(ShowArgs),
    /// Writes the letters' items to where they belong, each once.
    #[command(mut_arg("columns", |arg| arg.help("The columns to write, as of `sluicegate run`")))]
    Replay(ReplayArgs),
    /// Deletes letters from a SQLite store.
    Purge(PurgeArgs),
}

/// Which letters.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The SQLite store, or the NDJSON file, whose renamed predecessors are read too.
    pub(crate) file: PathBuf,
    /// Only letters that this holds for: class=NAME, applied=nothing|unknown, error~TEXT,
    /// batch=NUMBER or since=DURATION. May be given several times: then all must hold.
    #[arg(long = "where", value_name = "CONDITION", value_parser = parse_condition)]
    pub(crate) conditions: Vec<DeadCondition>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The most letters to show.
    #[arg(long, value_name = "LETTERS", default_value_t = 20)]
    pub(crate) limit: usize,
    /// A JSON object per letter.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Where items go: sqlite:PATH, file:PATH, stdout or null. Only with sqlite:PATH is each
    /// written once whatever crashes; letters of an NDJSON file go nowhere else.
    #[arg(long, value_name = "sqlite:PATH|file:PATH|stdout|null")]
    pub(crate) to: Target,
    #[command(flatten)]
    pub(crate) rows: RowArgs,
    /// How items are read: as JSON values, or as plain lines.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    pub(crate) format: Format,
    /// Replays the other letters where a line of the file cannot be read.
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// How the report is given: for people on standard error, or one JSON object on standard output
    /// (with `--to stdout`: on standard error).
    #[arg(long, value_enum, default_value_t = ReportFormat::Human)]
    pub(crate) report: ReportFormat,
}

impl ReplayArgs {
    /// The run that would write the same way.
    pub(crate) fn run_args(&self) -> Result<RunArgs, Failure> {
        let mut args = RunArgs::writing_to(self.to.clone())?;
        args.rows.clone_from(&self.rows);
        args.format = self.format;
        // What is marked as replayed must be on the disk.
        args.fsync = matches!(self.to, Target::File(_));
        args.check()?;
        if self.format == Format::Csv {
            return Err(Failure::usage("--format", "records of CSV are kept as JSON: ndjson"));
        }
        Ok(args)
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only letters that were replayed.
    #[arg(long)]
    pub(crate) replayed: bool,
    /// All letters, where no condition is given.
    #[arg(long, conflicts_with_all = ["conditions", "replayed"])]
    pub(crate) all: bool,
}
