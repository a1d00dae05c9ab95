//! Stopping: by signal, by a sink that is gone, and the wake-up of a reader that waits for input.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const RUNNING: u8 = 0;
const STOPPING: u8 = 1;
const ABORTING: u8 = 2;

/// Whether to go on, shared by everybody.
#[derive(Debug)]
pub(crate) struct Stop {
    level: AtomicU8,
    signal: AtomicI32,
    since: OnceLock<Instant>,
    /// Dropped to wake the reader: its `poll` then sees the other end hang up.
    wake: Mutex<Option<PipeWriter>>,
}

impl Stop {
    /// The stop, and the pipe whose end of file means "stop reading".
    pub(crate) fn new() -> io::Result<(Arc<Self>, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        let stop = Self {
            level: AtomicU8::new(RUNNING),
            signal: AtomicI32::new(0),
            since: OnceLock::new(),
            wake: Mutex::new(Some(writer)),
        };
        Ok((Arc::new(stop), reader))
    }

    /// Stops intake; what is in hand is drained.
    pub(crate) fn stop_intake(&self) {
        let _ = self.since.set(Instant::now());
        self.level.fetch_max(STOPPING, Relaxed);
        if let Ok(mut wake) = self.wake.lock() {
            *wake = None;
        }
    }

    /// Gives up what is in hand.
    fn abort(&self) {
        self.stop_intake();
        self.level.fetch_max(ABORTING, Relaxed);
    }

    /// The first signal stops intake, the second aborts. A stop that has another cause does not
    /// count as the first.
    fn on_signal(&self, signal: i32) {
        if self.signal.swap(signal, Relaxed) == 0 {
            self.stop_intake();
        } else {
            self.abort();
        }
    }

    pub(crate) fn is_aborting(&self) -> bool {
        self.level.load(Relaxed) == ABORTING
    }

    /// When intake was stopped; none while it goes on.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since.get().copied()
    }

    /// Whether the drain has taken `deadline` or longer, or is given up.
    pub(crate) fn is_over(&self, deadline: Duration) -> bool {
        self.is_aborting() || self.since().is_some_and(|since| since.elapsed() >= deadline)
    }

    /// The last signal; 0 for none.
    pub(crate) fn signal(&self) -> i32 {
        self.signal.load(Relaxed)
    }
}

/// Takes SIGINT, SIGTERM and, unless it was ignored (`nohup`), SIGHUP from now on; `wake` hears of
/// each.
pub(crate) fn listen<E: Send + 'static>(
    stop: &Arc<Stop>,
    wake: mpsc::Sender<E>,
    event: fn() -> E,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if hangup_counts() {
        signals.add_signal(SIGHUP)?;
    }
    let stop = Arc::clone(stop);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            stop.on_signal(signal);
            // Nobody waits any more: the report is being printed.
            let _ = wake.send(event());
        }
    })?;
    Ok(())
}

/// Whether SIGHUP is not ignored, as Linux tells; where nobody does, it keeps its default effect.
fn hangup_counts() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (SIGHUP - 1)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn the_first_signal_stops_the_second_aborts() {
        let (stop, mut reader) = Stop::new().unwrap();
        assert!(stop.since().is_none());
        stop.on_signal(SIGTERM);
        assert!(stop.since().is_some() && !stop.is_aborting());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        stop.on_signal(SIGINT);
        assert!(stop.is_aborting());
        assert_eq!(stop.signal(), SIGINT);
    }

    #[test]
    fn a_stop_by_the_sink_is_not_the_first_signal() {
        let (stop, _reader) = Stop::new().unwrap();
        stop.stop_intake();
        stop.on_signal(SIGINT);
        assert!(!stop.is_aborting());
        assert!(!stop.is_over(Duration::from_secs(600)));
        assert!(stop.is_over(Duration::ZERO));
    }
}
