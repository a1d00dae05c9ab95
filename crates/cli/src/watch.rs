//! The main thread's part: it waits for the reader, then for the sink, and makes the report. Nothing
//! that it calls waits without a limit, so that signals are always obeyed.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT};
use sluicegate::{Batcher, FlushError, Shutdown, Stats};

use crate::input::End;
use crate::item::Item;
use crate::progress::Progress;
use crate::reader::Counters;
use crate::rejects::Rejects;
use crate::report::Report;
use crate::signals::Stop;

/// Between two looks at the clock, the signals and the progress bar. What is waited for wakes at
/// once by itself.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// How long after the end of the drain a thread that is stuck in the kernel is waited for.
const GRACE: Duration = Duration::from_millis(500);

/// What the main thread is woken for.
pub(crate) enum Event {
    Signal,
    ReaderDone(io::Result<End>),
    ShutDown(Box<Shutdown<Item>>),
    /// The rejects are in the file; the first error there was.
    RejectsDone(Option<String>),
}

pub(crate) struct Watch {
    pub(crate) batcher: Batcher<Item>,
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) rejects: Arc<Rejects>,
    /// Takes the items that are left over, once.
    pub(crate) left_over: Sender<Vec<Item>>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) drain_deadline: Duration,
    pub(crate) progress: Progress,
    pub(crate) started: Instant,
}

/// What is left of the watch when the engine is gone.
struct Ended {
    stats: Stats,
    unflushed: Vec<Item>,
    errors: Vec<String>,
}

impl Watch {
    pub(crate) fn watch(mut self) -> Report {
        let read = self.wait_for_reader();
        let left_behind = read.is_none();
        let intake_ended = Instant::now();
        let (end, error) = match read {
            Some(Ok(end)) => (Some(end), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        let drained = self.drain();
        let Self { batcher, events, inbox, counters, rejects, left_over, stop, .. } = self;
        let ended = if drained {
            close(batcher, events, &inbox, &stop, self.drain_deadline)
        } else {
            Ended::of(batcher.shutdown(Duration::ZERO))
        };
        self.progress.finish();
        let Ended { stats, unflushed, mut errors } = ended;
        let mut intake = counters.get();
        if left_behind {
            // Its last count may be one behind what it did, so the sum is taken from what is known.
            intake.items_read = intake.rejected + intake.unqueued + stats.tally.enqueued;
            errors.push("the reader did not come back".to_owned());
        }
        errors.extend(error.as_ref().map(|error| format!("reading failed: {error}")));
        let drain = intake_ended.elapsed();
        // The receiver is the thread that keeps the file; it may hang, but it does not end before.
        let _ = left_over.send(unflushed);
        let is_over = || stop.is_over(self.drain_deadline);
        let kept = wait_for_rejects(&inbox, &rejects, is_over);
        errors.extend(kept.map(|error| format!("--rejects: {error}")));

        let mut report = Report::new(intake, &stats, self.started.elapsed(), drain);
        report.errors = errors;
        report.aborted = stop.is_aborting();
        report.stopped_by = stopped_by(&stop, error.is_some());
        if let Some(End::Stopped { partial }) = end {
            report.partial_line_bytes = partial;
        }
        report
    }

    /// None if the reader is stuck beyond the deadline.
    fn wait_for_reader(&mut self) -> Option<io::Result<End>> {
        let mut late = None;
        loop {
            match self.inbox.recv_timeout(TICK) {
                Ok(Event::ReaderDone(result)) => return Some(result),
                Ok(_) | Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if self.stop.is_over(self.drain_deadline)
                && late.get_or_insert_with(Instant::now).elapsed() > GRACE
            {
                return None;
            }
        }
    }

    /// Waits until everything is written, without limit at the end of the input, up to the deadline
    /// after a stop. Whether everything is, so that the figures will not change any more.
    fn drain(&mut self) -> bool {
        self.batcher.close();
        while !self.stop.is_over(self.drain_deadline) {
            match self.batcher.flush(TICK) {
                Err(FlushError::Timeout(_)) => self.tick(),
                Ok(tally) => return tally.in_flight == 0,
                // No flusher is left, and waiting would not help.
                Err(_) => return false,
            }
        }
        false
    }

    fn tick(&mut self) {
        self.progress.update(self.counters.get(), &self.batcher.stats());
    }
}

/// Closes the sinks of an engine that has nothing in hand. That may take its time, so it happens on
/// a thread of its own, and signals are obeyed meanwhile.
fn close(
    batcher: Batcher<Item>,
    events: Sender<Event>,
    inbox: &Receiver<Event>,
    stop: &Stop,
    deadline: Duration,
) -> Ended {
    // Nothing is in hand, so these are the last figures too.
    let stats = batcher.stats();
    let helper = thread::Builder::new().name("shutdown".to_owned()).spawn(move || {
        let shutdown = batcher.shutdown(deadline);
        let _ = events.send(Event::ShutDown(Box::new(shutdown)));
    });
    let not_closed = |why: String| Ended { stats, unflushed: Vec::new(), errors: vec![why] };
    if let Err(error) = helper {
        return not_closed(format!("cannot start a thread for the shutdown: {error}"));
    }
    loop {
        if let Ok(Event::ShutDown(shutdown)) = inbox.recv_timeout(TICK) {
            return Ended::of(*shutdown);
        }
        if stop.is_over(deadline) {
            return not_closed("the sinks were not closed in time".to_owned());
        }
    }
}

impl Ended {
    fn of(shutdown: Shutdown<Item>) -> Self {
        let mut errors = Vec::new();
        let left_behind = shutdown.left_behind.len();
        if left_behind > 0 {
            errors.push(format!("{left_behind} flushers did not come back from the sink"));
        }
        for (flusher, error) in &shutdown.close_errors {
            errors.push(format!("closing the sink of flusher {}: {error}", flusher.index));
        }
        Self { stats: shutdown.stats, unflushed: shutdown.unflushed, errors }
    }
}

/// Waits until the rejects are in their file, without limit unless the drain `is_over`, and then as
/// long as it goes on.
fn wait_for_rejects(
    inbox: &Receiver<Event>,
    rejects: &Rejects,
    is_over: impl Fn() -> bool,
) -> Option<String> {
    let mut taken = rejects.taken();
    let mut since = None;
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(Event::RejectsDone(error)) => return error,
            Err(RecvTimeoutError::Disconnected) => return Some("nobody wrote them".to_owned()),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
        }
        if !is_over() || mem::replace(&mut taken, rejects.taken()) != rejects.taken() {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() > GRACE {
            return Some("the file did not take what was written to it".to_owned());
        }
    }
}

fn stopped_by(stop: &Stop, read_failed: bool) -> &'static str {
    match (stop.signal(), stop.since()) {
        (SIGINT, _) => "SIGINT",
        (SIGHUP, _) => "SIGHUP",
        (0, Some(_)) => "sink gone",
        (0, None) if read_failed => "read error",
        (0, None) => "end of input",
        _ => "SIGTERM",
    }
}
