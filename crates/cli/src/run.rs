//! `sluicegate run`: a thread reads, the engine's flushers write, and this one watches.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate::{Batcher, Class, FailedItem, FlushWhen, Retry, SpawnError, Throttle};

use crate::args::{FailureArgs, FlushWhenArg, ReportFormat, RunArgs, Target};
use crate::dead;
use crate::gate::Gate;
use crate::input;
use crate::input::source::{FileId, Source};
use crate::item::Item;
use crate::output;
use crate::progress::Progress;
use crate::reader::{Counters, Reader};
use crate::rejects::{Rejects, RejectsFile};
use crate::report::Report;
use crate::signals::{self, Stop};
use crate::watch::{Event, Watch};

/// Why the command did not do its work at all.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A mistake in the call.
    Usage { option: String, what: String },
    /// The machine.
    Io(io::Error),
}

impl Failure {
    pub(crate) fn usage(option: &str, what: impl fmt::Display) -> Self {
        Self::Usage { option: option.to_owned(), what: what.to_string() }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage { option, what } => write!(f, "{option}: {what}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// Who closes the pipe (`| head -1`) has seen enough.
pub(crate) fn or_enough(shown: Result<u8, Failure>) -> Result<u8, Failure> {
    match shown {
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other,
    }
}

/// Runs, prints the report, and returns the exit status.
pub(crate) fn command(args: &RunArgs) -> Result<u8, Failure> {
    let (report, stop) = run(args)?;
    let printed = match (args.report, &args.to) {
        (ReportFormat::Human, _) => report.write_human(&mut io::stderr().lock()),
        (ReportFormat::Json, Target::Stdout) => report.write_json(&mut io::stderr().lock()),
        (ReportFormat::Json, _) => report.write_json(&mut io::stdout().lock()),
    };
    if let Err(error) = &printed {
        let _ = writeln!(io::stderr(), "error: cannot print the report: {error}");
    }
    // A report for a program, which does not get it, is a promise that was not kept.
    let kept = printed.is_ok() || args.report == ReportFormat::Human;
    Ok(match report {
        Report { aborted: true, .. } => 128 + u8::try_from(stop.signal()).unwrap_or(0),
        report if kept && report.is_clean() => 0,
        _ => 1,
    })
}

/// Runs to the end of the input or to a stop.
pub(crate) fn run(args: &RunArgs) -> Result<(Report, Arc<Stop>), Failure> {
    args.check()?;
    let (stop, stop_reader) = Stop::new()?;
    let source = Source::open(&args.from, stop_reader)?;
    if args.target().is_some_and(|path| source.is_same_file(path)) {
        return Err(Failure::usage("--to", "is the file given with --from"));
    }
    let (events, inbox) = mpsc::channel();
    signals::listen(&stop, events.clone(), || Event::Signal)?;
    let source_id = source.id();
    let mut records = input::open(source, args);
    // Before anything is made or emptied: a header that will not do is a mistake in the call.
    records.begin().map_err(|error| Failure::usage(error.option, error))?;

    let rejects = Arc::new(Rejects::default());
    let batcher = open(args, source_id, &rejects, &stop)?;
    let counters = Arc::new(Counters::default());
    let reader = Reader {
        records,
        producer: batcher.producer(),
        gate: gate(args),
        rejects: Arc::clone(&rejects),
        counters: Arc::clone(&counters),
        stop: Arc::clone(&stop),
        drain_deadline: args.drain_deadline,
    };
    let left_over = keep(&rejects, events.clone())?;
    reader.spawn(events.clone())?;
    let watch = Watch {
        batcher,
        events,
        inbox,
        counters,
        rejects,
        left_over,
        stop: Arc::clone(&stop),
        drain_deadline: args.drain_deadline,
        progress: Progress::new(),
        started: Instant::now(),
    };
    Ok((watch.watch(), stop))
}

/// Opens the destination and the file for rejects, which is emptied only when it is known to be
/// neither the destination nor the input.
fn open(
    args: &RunArgs,
    source: Option<FileId>,
    rejects: &Arc<Rejects>,
    stop: &Arc<Stop>,
) -> Result<Batcher<Item>, Failure> {
    let Some(path) = &args.rejects else { return spawn(args, rejects, stop) };
    let file = RejectsFile::open(path)?;
    let opened = file.check_apart(source, args.target()).and_then(|()| spawn(args, rejects, stop));
    let batcher = match opened {
        Ok(batcher) => batcher,
        Err(failure) => {
            file.give_back();
            return Err(failure);
        }
    };
    // Again, now that all the files of the destination are there.
    let started = file.check_apart(source, args.target()).and_then(|()| rejects.start(file));
    if let Err(failure) = started {
        // Nothing was added yet.
        let _ = batcher.shutdown(Duration::ZERO);
        return Err(failure);
    }
    Ok(batcher)
}

/// Starts the thread that brings rejects to the disk.
fn keep(rejects: &Arc<Rejects>, events: Sender<Event>) -> io::Result<Sender<Vec<Item>>> {
    let (left_over, inbox) = mpsc::channel();
    let rejects = Arc::clone(rejects);
    thread::Builder::new().name("rejects".to_owned()).spawn(move || {
        let _ = events.send(Event::RejectsDone(rejects.keep(&inbox)));
    })?;
    Ok(left_over)
}

fn gate(args: &RunArgs) -> Arc<Gate> {
    let batching = &args.batching;
    let batches = batching.flushers.saturating_add(2);
    let in_batches = batches.saturating_mul(batching.max_batch_size);
    let items = batching.queue_depth.saturating_add(in_batches);
    let bytes = batching.max_batch_bytes.saturating_add(2 * args.max_line_bytes as u64);
    Arc::new(Gate::new(items, batches, bytes))
}

fn spawn(
    args: &RunArgs,
    rejects: &Arc<Rejects>,
    stop: &Arc<Stop>,
) -> Result<Batcher<Item>, Failure> {
    let batching = &args.batching;
    let (rejects, stop) = (Arc::clone(rejects), Arc::clone(stop));
    let on_failed = move |failed: FailedItem<Item>| {
        rejects.store(&failed);
        if failed.error.class() == Class::Disconnected {
            // A pipe that was closed does not open again: reading on would only fail more items.
            stop.stop_intake();
        }
    };
    let mut builder = Batcher::builder();
    if let Some(path) = &args.failure.dead_letters {
        builder = builder.dead_letters(dead::open(path, args)?);
    }
    if is_pipe(&args.to) {
        builder = builder.retry(None).breaker(None); // who has closed it does not come back
    } else {
        let FailureArgs { max_attempts, give_up_after, .. } = args.failure;
        let retry = Retry::default().max_attempts(max_attempts).give_up_after(give_up_after);
        builder = builder.retry(retry);
    }
    builder
        .throttle(throttle(args))
        .max_batch_size(batching.max_batch_size)
        .max_batch_bytes(batching.max_batch_bytes)
        .max_batch_delay(batching.max_batch_delay)
        .queue_depth(batching.queue_depth)
        .flushers(batching.flushers)
        .shards(1) // one thread reads
        .pin(batching.pin.into())
        .huge_pages(batching.huge_pages)
        .flush_when(match batching.flush_when {
            FlushWhenArg::Due => FlushWhen::Due,
            FlushWhenArg::Idle => FlushWhen::Idle,
        })
        .allow_long_delay(batching.allow_long_delay)
        .leave_behind_after(None) // a slow reader of a pipe is waited for; signals cut it short
        .weight(Item::weight)
        .on_failed(on_failed)
        .spawn(output::factory(args))
        .map_err(refused)
}

/// Whether it is a pipe or a terminal rather than a file.
fn is_pipe(target: &Target) -> bool {
    match target {
        Target::Stdout => true,
        Target::File(path) => std::fs::metadata(path).is_ok_and(|found| !found.is_file()),
        Target::Sqlite(_) | Target::Null => false,
    }
}

fn throttle(args: &RunArgs) -> Option<Throttle> {
    let FailureArgs { calls_per_second: calls, items_per_second: items, .. } = args.failure;
    let some = calls.is_some() || items.is_some();
    some.then(|| Throttle::default().calls_per_second(calls).items_per_second(items))
}

/// What the library refuses becomes a mistake in the call.
pub(crate) fn refused(error: SpawnError) -> Failure {
    match error {
        SpawnError::Config(error) => {
            let (key, text) = (error.key(), error.to_string());
            let what = text.strip_prefix(&format!("{key}: ")).unwrap_or(&text);
            Failure::usage(&option_of(key), in_options(what))
        }
        SpawnError::Open { source, .. } => match source.downcast() {
            Ok(failure) => *failure,
            Err(source) => Failure::usage("--to", source),
        },
        error => Failure::Io(io::Error::other(error)),
    }
}

fn option_of(key: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    format!("--{}", name.replace('_', "-"))
}

/// The library's names of settings become the options that set them.
fn in_options(what: &str) -> String {
    let keys =
        ["queue_depth", "max_batch_size", "max_batch_bytes", "max_batch_delay", "allow_long_delay"];
    keys.iter().fold(what.to_owned(), |text, key| text.replace(key, &option_of(key)))
}
