//! `sluicegate run`: a thread reads, the engine's flushers write, and this one watches.

use std::fmt;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGINT;
use sluicegate::{
    AddError, Batcher, Class, FailedItem, FlushError, FlushWhen, Producer, Shutdown, SpawnError,
    Stats,
};

use crate::args::{FlushWhenArg, ReportFormat, RunArgs, Target};
use crate::gate::Gate;
use crate::input::source::Source;
use crate::input::{self, End, HeaderError, Next, Records};
use crate::item::Item;
use crate::output;
use crate::progress::Progress;
use crate::rejects::Rejects;
use crate::report::{Intake, Report};
use crate::signals::{self, Stop};

/// Between two looks at the clock, the signals and the progress bar. What is waited for wakes at
/// once by itself.
const TICK: Duration = Duration::from_millis(100);
/// How long after the drain deadline a reader that is stuck in the kernel is waited for.
const READER_GRACE: Duration = Duration::from_millis(500);

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

/// Runs, prints the report, and returns the exit status.
pub(crate) fn command(args: &RunArgs) -> Result<u8, Failure> {
    let (report, stop) = run(args)?;
    let printed = match (args.report, &args.to) {
        (ReportFormat::Human, _) => report.write_human(&mut io::stderr().lock()),
        (ReportFormat::Json, Target::Stdout) => report.write_json(&mut io::stderr().lock()),
        (ReportFormat::Json, _) => report.write_json(&mut io::stdout().lock()),
    };
    if let Err(error) = printed {
        // A reader of the report that has gone away does not change what was stored.
        let _ = writeln!(io::stderr(), "error: cannot print the report: {error}");
    }
    Ok(match report {
        Report { aborted: true, .. } => 128 + u8::try_from(stop.signal()).unwrap_or(0),
        report if report.is_clean() => 0,
        _ => 1,
    })
}

/// What the main thread is woken for.
enum Event {
    Signal,
    ReaderDone(io::Result<End>),
    ShutDown(Box<Shutdown<Item>>),
}

/// What the reader has counted so far, for the main thread to see.
#[derive(Debug, Default)]
struct Counters {
    items_read: AtomicU64,
    rejected: AtomicU64,
    unqueued: AtomicU64,
}

impl Counters {
    fn get(&self) -> Intake {
        Intake {
            items_read: self.items_read.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            unqueued: self.unqueued.load(Relaxed),
        }
    }
}

/// Runs to the end of the input or to a stop.
pub(crate) fn run(args: &RunArgs) -> Result<(Report, Arc<Stop>), Failure> {
    args.check()?;
    let (stop, stop_reader) = Stop::new()?;
    let source = Source::open(&args.from, stop_reader)?;
    refuse_own_tail(args, &source)?;
    let rejects = Arc::new(Rejects::default());
    let batcher = spawn(args, &rejects, &stop)?;
    if let Err(failure) = rejects.open(args.rejects.as_deref()) {
        // Nothing was added yet.
        let _ = batcher.shutdown(Duration::ZERO);
        return Err(failure);
    }
    let (events, inbox) = mpsc::channel();
    signals::listen(&stop, events.clone(), || Event::Signal)?;

    let counters = Arc::new(Counters::default());
    let reader = Reader {
        records: input::open(source, args),
        producer: batcher.producer(),
        gate: gate(args),
        rejects: Arc::clone(&rejects),
        counters: Arc::clone(&counters),
        stop: Arc::clone(&stop),
        drain_deadline: args.drain_deadline,
    };
    reader.spawn(events.clone())?;
    let watch = Watch {
        batcher,
        events,
        inbox,
        counters,
        rejects,
        stop: Arc::clone(&stop),
        drain_deadline: args.drain_deadline,
        progress: Progress::new(),
        started: Instant::now(),
    };
    Ok((watch.watch()?, stop))
}

/// Writing to the file that is read would never end, or would empty it.
fn refuse_own_tail(args: &RunArgs, source: &Source) -> Result<(), Failure> {
    let target = match &args.to {
        Target::File(path) | Target::Sqlite(path) => Some(path),
        Target::Stdout | Target::Null => None,
    };
    for (option, path) in [("--to", target), ("--rejects", args.rejects.as_ref())] {
        if path.is_some_and(|path| source.is_same_file(path)) {
            return Err(Failure::usage(option, "is the file given with --from"));
        }
    }
    if target.is_some() && target == args.rejects.as_ref() {
        return Err(Failure::usage("--rejects", "is the file given with --to"));
    }
    Ok(())
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
    Batcher::builder()
        .max_batch_size(batching.max_batch_size)
        .max_batch_bytes(batching.max_batch_bytes)
        .max_batch_delay(batching.max_batch_delay)
        .queue_depth(batching.queue_depth)
        .flushers(batching.flushers)
        .flush_when(match batching.flush_when {
            FlushWhenArg::Due => FlushWhen::Due,
            FlushWhenArg::Idle => FlushWhen::Idle,
        })
        .allow_long_delay(batching.allow_long_delay)
        .weight(Item::weight)
        .on_failed(on_failed)
        .spawn(output::factory(args))
        .map_err(refused)
}

fn refused(error: SpawnError) -> Failure {
    match error {
        SpawnError::Config(error) => {
            let (key, text) = (error.key(), error.to_string());
            let what = text.strip_prefix(&format!("{key}: ")).unwrap_or(&text);
            Failure::usage(&format!("--{}", key.replace('_', "-")), what)
        }
        SpawnError::Open { source, .. } => match source.downcast() {
            Ok(failure) => *failure,
            Err(source) => Failure::usage("--to", source),
        },
        error => Failure::Io(io::Error::other(error)),
    }
}

/// Reads items and puts them into the engine.
struct Reader {
    records: Box<dyn Records + Send>,
    producer: Producer<Item>,
    gate: Arc<Gate>,
    rejects: Arc<Rejects>,
    counters: Arc<Counters>,
    stop: Arc<Stop>,
    drain_deadline: Duration,
}

impl Reader {
    fn spawn(self, events: Sender<Event>) -> io::Result<()> {
        thread::Builder::new().name("reader".to_owned()).spawn(move || {
            // Whatever happens here, the main thread must hear of it, or it would wait for ever.
            let result = catch_unwind(AssertUnwindSafe(|| self.read()))
                .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
            // The receiver lives until the process is about to end.
            let _ = events.send(Event::ReaderDone(result));
        })?;
        Ok(())
    }

    fn read(mut self) -> io::Result<End> {
        let mut count = Intake::default();
        loop {
            match self.records.next()? {
                Next::End(end) => return Ok(end),
                Next::Reject(reject) => {
                    count.rejected += 1;
                    self.rejects.parse(&reject);
                }
                Next::Item(item) => {
                    if !self.add(item) {
                        count.unqueued += 1;
                    }
                }
            }
            count.items_read += 1;
            // This thread alone writes them, so plain stores will do.
            self.counters.rejected.store(count.rejected, Relaxed);
            self.counters.unqueued.store(count.unqueued, Relaxed);
            self.counters.items_read.store(count.items_read, Relaxed);
        }
    }

    /// Waits until the engine has the item; false if it will not have it: the drain deadline has
    /// come first.
    fn add(&self, mut item: Item) -> bool {
        while item.charge.is_none() && self.gate.charges(item.weight()) {
            item.charge = self.gate.pay(item.weight(), TICK);
            if item.charge.is_none() && self.is_over() {
                return false;
            }
        }
        let mut result = self.producer.try_add(item);
        loop {
            item = match result {
                Ok(()) => return true,
                Err(AddError::Full(item) | AddError::Timeout(item)) => item,
                Err(_) => return false,
            };
            if self.is_over() {
                return false;
            }
            result = self.producer.add_timeout(item, TICK);
        }
    }

    fn is_over(&self) -> bool {
        self.stop.is_over(self.drain_deadline)
    }
}

/// The main thread's part.
struct Watch {
    batcher: Batcher<Item>,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    counters: Arc<Counters>,
    rejects: Arc<Rejects>,
    stop: Arc<Stop>,
    drain_deadline: Duration,
    progress: Progress,
    started: Instant,
}

impl Watch {
    fn watch(mut self) -> Result<Report, Failure> {
        let read = self.wait_for_reader();
        let left_behind = read.is_none();
        let intake_ended = Instant::now();
        let (end, error) = match read {
            Some(Ok(end)) => (Some(end), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        if let Some(header) = error.as_ref().and_then(header_error) {
            self.progress.finish();
            return Err(Failure::usage(header.option, header));
        }
        self.drain();
        let Self { rejects, stop, .. } = &self;
        let (rejects, stop) = (Arc::clone(rejects), Arc::clone(stop));
        let started = self.started;
        let (mut intake, stats, mut errors) = self.shut_down();
        if left_behind {
            // Its last count may be one behind what it did, so the sum is taken from what is known.
            intake.items_read = intake.rejected + intake.unqueued + stats.tally.enqueued;
            errors.push("the reader did not come back from the input".to_owned());
        }
        errors.extend(error.as_ref().map(|error| format!("reading failed: {error}")));
        errors.extend(rejects.flush().map(|error| format!("--rejects: {error}")));

        let mut report = Report::new(intake, &stats, started.elapsed(), intake_ended.elapsed());
        report.errors = errors;
        report.aborted = stop.is_aborting();
        report.stopped_by = stopped_by(&stop, error.is_some());
        if let Some(End::Stopped { partial }) = end {
            report.partial_line_bytes = partial;
        }
        Ok(report)
    }

    /// None if the reader is stuck beyond the deadline.
    fn wait_for_reader(&mut self) -> Option<io::Result<End>> {
        let mut aborted_at = None;
        loop {
            match self.inbox.recv_timeout(TICK) {
                Ok(Event::ReaderDone(result)) => return Some(result),
                Ok(_) | Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            let is_late = |since: Instant| since.elapsed() > self.drain_deadline + READER_GRACE;
            if self.stop.since().is_some_and(is_late) {
                return None;
            }
            if self.stop.is_aborting()
                && aborted_at.get_or_insert_with(Instant::now).elapsed() > READER_GRACE
            {
                return None;
            }
        }
    }

    /// Waits until everything is written, without limit at the end of the input, up to the deadline
    /// after a stop.
    fn drain(&mut self) {
        self.batcher.close();
        while !self.stop.is_over(self.drain_deadline) {
            match self.batcher.flush(TICK) {
                Err(FlushError::Timeout(_)) => self.tick(),
                // All is written; or no flusher is left, and waiting would not help.
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Shuts the engine down on a thread of its own, so that a second signal is obeyed meanwhile.
    fn shut_down(self) -> (Intake, Stats, Vec<String>) {
        let Self { batcher, events, inbox, counters, stop, drain_deadline, progress, .. } = self;
        let before = batcher.stats();
        let left = match stop.since() {
            Some(since) => drain_deadline.saturating_sub(since.elapsed()),
            None => drain_deadline,
        };
        let helper = thread::Builder::new().name("shutdown".to_owned()).spawn(move || {
            let shutdown = batcher.shutdown(left);
            let _ = events.send(Event::ShutDown(Box::new(shutdown)));
        });
        let mut errors = Vec::new();
        if let Err(error) = helper {
            errors.push(format!("cannot start a thread for the shutdown: {error}"));
        }
        let shutdown = loop {
            if let Ok(Event::ShutDown(shutdown)) = inbox.recv_timeout(TICK) {
                break Some(shutdown);
            }
            if stop.is_aborting() || !errors.is_empty() {
                break None;
            }
        };
        progress.finish();
        let Some(shutdown) = shutdown else { return (counters.get(), before, errors) };
        let left_behind = shutdown.left_behind.len();
        if left_behind > 0 {
            errors.push(format!("{left_behind} flushers did not come back from the sink"));
        }
        for (flusher, error) in &shutdown.close_errors {
            errors.push(format!("closing the sink of flusher {}: {error}", flusher.index));
        }
        let mut stats = shutdown.stats.clone();
        stats.tally = shutdown.tally;
        (counters.get(), stats, errors)
    }

    fn tick(&mut self) {
        self.progress.update(self.counters.get(), &self.batcher.stats());
        // What was rejected long ago should be in the file while an endless input goes on.
        self.rejects.flush();
    }
}

fn header_error(error: &io::Error) -> Option<&HeaderError> {
    error.get_ref()?.downcast_ref()
}

fn stopped_by(stop: &Stop, read_failed: bool) -> &'static str {
    match (stop.signal(), stop.since()) {
        (SIGINT, _) => "SIGINT",
        (0, Some(_)) => "sink gone",
        (0, None) if read_failed => "read error",
        (0, None) => "end of input",
        _ => "SIGTERM",
    }
}
