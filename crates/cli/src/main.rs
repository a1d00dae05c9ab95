//! The `sluicegate` command: batches lines, NDJSON or CSV into SQLite or files and accounts for
//! every item.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod dead;
mod demo;
mod dlq;
mod events;
mod gate;
mod input;
mod item;
mod output;
mod placement;
mod progress;
mod reader;
mod rejects;
mod report;
mod run;
mod signals;
mod topology;
mod units;
mod watch;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser as _;
use run::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .init();
    let result = match cli.command {
        Command::Run(args) => run::command(&args),
        Command::Dlq(command) => dlq::command(&command),
        Command::Topology(args) => topology::command(&args),
        Command::Bench(args) => bench::command(&args),
        Command::Demo(args) => demo::command(&args),
        Command::DemoEvents(args) => events::command(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // Nothing is left to tell it to where standard error is gone too.
            let _ = writeln!(io::stderr(), "error: {failure}");
            ExitCode::from(match failure {
                Failure::Usage { .. } => 2,
                Failure::Io(_) => 1,
            })
        }
    }
}
