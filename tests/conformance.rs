//! Promise: our own sinks keep to what the engine relies on; and the kit that says so fails each
//! sink that breaks one of its rules.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate::sink::{FileSink, WriterSink};
use sluicegate::testing::conformance::{Kit, Verdict};
use sluicegate::testing::{Gate, Recorder};
use sluicegate::{Applied, Batch, BoxError, Sink, SinkLimits, WriteContext, WriteError};

/// Items from here on are bad, from `PANICKING` on the sink panics at them.
const BAD: u64 = 1_000_000;
const PANICKING: u64 = 2_000_000;

fn encode(item: &u64, out: &mut Vec<u8>) -> Result<(), BoxError> {
    assert!(*item < PANICKING, "as planned");
    out.extend_from_slice(item.to_string().as_bytes()); // before the error: it must be taken back
    if *item >= BAD { Err("too big".into()) } else { Ok(()) }
}

fn decode(text: &str) -> Result<Vec<u64>, BoxError> {
    text.lines().map(|line| line.parse().map_err(BoxError::from)).collect()
}

/// A path in the temporary folder that goes away with the test.
struct TempPath(PathBuf);

impl TempPath {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluicegate-conformance-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A writer whose bytes can be read.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_sink_conforms() {
    let read = |path: &TempPath| match std::fs::read_to_string(&path.0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        text => decode(&text?),
    };
    for fsync in [false, true] {
        let open = move |path: &TempPath| FileSink::open(&path.0, encode).map(|s| s.fsync(fsync));
        let report = Kit::new(TempPath::new, open, |n| n, read)
            .bad_item(|n| BAD + n)
            .panicking_item(|n| PANICKING + n)
            .run();
        report.assert();
        let bad = Verdict::Passed("the bad item fails alone".to_owned());
        assert_eq!(report.verdict("a bad item is told exactly"), Some(&bad), "\n{report}");
    }
}

#[test]
fn a_writer_sink_conforms() {
    let open = |store: &Bytes| Ok::<_, BoxError>(WriterSink::new(store.clone(), encode));
    let read = |store: &Bytes| decode(std::str::from_utf8(&store.0.lock().unwrap())?);
    Kit::new(Bytes::default, open, |n| n, read)
        .bad_item(|n| BAD + n)
        .panicking_item(|n| PANICKING + n)
        .run()
        .assert();
}

#[test]
fn a_recorder_conforms_and_what_was_not_given_is_not_applicable() {
    let open = |store: &Recorder<u64>| Ok::<_, BoxError>(store.clone());
    let read = |store: &Recorder<u64>| Ok::<_, BoxError>(store.items());
    let report = Kit::new(Recorder::new, open, |n| n, read).run();
    report.assert();
    let skipped = |name| matches!(report.verdict(name), Some(Verdict::NotApplicable(_)));
    for name in ["a bad item is told exactly", "works on after an error", "limits are kept"] {
        assert!(skipped(name), "\n{report}");
    }
    let twice = report.verdict("the same batch twice").unwrap();
    assert!(matches!(twice, Verdict::Passed(text) if text.starts_with("idempotent: no")));
    assert_eq!(report.checks().len(), 11);
}

/// What a sink does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    /// Puts its items in twice.
    Doubles,
    /// Puts its items in backwards.
    Backwards,
    /// Says `Ok` and writes when the next batch comes, or on `close`.
    Buffers,
    /// Marks an item that it has written.
    Marks,
    /// Marks an item that is not there.
    MarksOutside,
    /// Takes fewer items than it says.
    RefusesWithinLimits,
    /// Says something else later.
    ChangesLimits,
    /// Fails the whole batch for a bad item, but has written what came before it.
    TornBatch,
    /// Says that the bad item is in.
    HidesBadItem,
    /// As `TornBatch`, when the bad item is the last.
    TornLast,
    /// Fails for ever after a bad item.
    StaysBroken,
    /// Is not idempotent.
    ClaimsTooMuch,
    /// Refuses what it has once seen: the data is right, but the answer is not.
    RefusesSecond,
    /// Waits for the store without looking at the deadline.
    IgnoresDeadline,
    /// Fails to close after an error.
    CannotClose,
    /// Cuts off what it has written, unless it was closed.
    LosesOnDrop,
    /// Keeps a lock that a panic spoils.
    PoisonedByPanic,
}

#[derive(Default)]
struct Table {
    rows: Mutex<Vec<u64>>,
    /// A lock that the panic of its holder spoils.
    turn: Mutex<()>,
    /// Whether it answers.
    stalled: Mutex<bool>,
    /// Nobody opens it.
    gate: Gate,
}

struct Broken {
    wrong: Wrong,
    table: Arc<Table>,
    buffered: Vec<u64>,
    wrote: usize,
    calls: usize,
    failed: bool,
    closed: bool,
}

impl Broken {
    fn new(wrong: Wrong, table: &Arc<Table>) -> Self {
        let table = Arc::clone(table);
        Self { wrong, table, buffered: vec![], wrote: 0, calls: 0, failed: false, closed: false }
    }

    fn put(&mut self, rows: &[u64]) {
        self.wrote += rows.len();
        self.table.rows.lock().unwrap().extend_from_slice(rows);
    }

    fn fail_batch(&mut self, batch: &[u64], bad: usize) -> Result<(), WriteError> {
        let last = bad + 1 == batch.len();
        match self.wrong {
            Wrong::TornBatch => self.put(&batch[..bad]),
            Wrong::TornLast if last && bad > 1 => self.put(&batch[..bad]),
            Wrong::HidesBadItem => {
                let rest: Vec<u64> = batch.iter().copied().filter(|item| *item < BAD).collect();
                self.put(&rest);
                return Ok(());
            }
            _ => {}
        }
        self.failed = true;
        Err(WriteError::permanent("a bad item"))
    }

    /// Waits for a store that does not answer.
    fn wait(&self, cx: &WriteContext<'_>) -> Result<(), WriteError> {
        if !*self.table.stalled.lock().unwrap() {
            return Ok(());
        }
        match cx.time_left() {
            Some(left) if self.wrong != Wrong::IgnoresDeadline => {
                let through = self.table.gate.pass_within(left);
                if through { Ok(()) } else { Err(WriteError::transient("too late")) }
            }
            _ => {
                self.table.gate.pass();
                Ok(())
            }
        }
    }

    fn put_wrongly(&mut self, batch: &[u64], cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        match self.wrong {
            Wrong::Doubles => self.put(&[batch, batch].concat()),
            Wrong::Backwards => self.put(&batch.iter().rev().copied().collect::<Vec<_>>()),
            Wrong::Buffers => {
                let before = std::mem::replace(&mut self.buffered, batch.to_vec());
                self.put(&before);
            }
            Wrong::Marks | Wrong::MarksOutside => {
                let index = if self.wrong == Wrong::Marks { 0 } else { batch.len() };
                cx.fail(index, WriteError::permanent("no"));
                self.put(batch);
            }
            Wrong::RefusesWithinLimits if batch.len() > 3 => {
                return Err(WriteError::too_large("more than 3"));
            }
            Wrong::RefusesSecond if self.table.rows.lock().unwrap().contains(&batch[0]) => {
                return Err(WriteError::permanent("seen before"));
            }
            Wrong::StaysBroken if self.failed => {
                return Err(WriteError::transient("in a transaction"));
            }
            _ => self.put(batch),
        }
        Ok(())
    }
}

impl Sink<u64> for Broken {
    fn write(&mut self, batch: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.calls += 1;
        self.wait(cx)?;
        let table = Arc::clone(&self.table);
        let _turn = match table.turn.lock() {
            Err(_) if self.wrong == Wrong::PoisonedByPanic => panic!("the lock is poisoned"),
            turn => turn,
        };
        assert!(batch.iter().all(|item| *item < PANICKING), "as planned");
        match batch.iter().position(|item| *item >= BAD) {
            Some(bad) => self.fail_batch(batch, bad),
            None => self.put_wrongly(batch, cx),
        }
    }

    fn limits(&self) -> SinkLimits {
        let changed = self.wrong == Wrong::ChangesLimits && self.calls > 0;
        SinkLimits::default().max_batch_size(if changed { 7 } else { 5 })
    }

    fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.closed = true;
        let rest = std::mem::take(&mut self.buffered);
        self.put(&rest);
        let fails = self.wrong == Wrong::CannotClose && self.failed;
        if fails { Err(WriteError::permanent("not in this state")) } else { Ok(()) }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if self.wrong == Wrong::LosesOnDrop && !self.closed {
            let mut rows = self.table.rows.lock().unwrap();
            let kept = rows.len().saturating_sub(self.wrote);
            rows.truncate(kept);
        }
    }
}

/// While it lives, the table does not answer.
struct Stalled(Arc<Table>);

impl Drop for Stalled {
    fn drop(&mut self) {
        *self.0.stalled.lock().unwrap() = false;
    }
}

fn kit(wrong: Wrong) -> Kit<u64, Arc<Table>, Broken> {
    let open = move |table: &Arc<Table>| Ok::<_, BoxError>(Broken::new(wrong, table));
    let read = |table: &Arc<Table>| Ok::<_, BoxError>(table.rows.lock().unwrap().clone());
    Kit::new(Arc::<Table>::default, open, |n| n, read)
        .bad_item(|n| BAD + n)
        .panicking_item(|n| PANICKING + n)
        .stalled_by(|table| {
            *table.stalled.lock().unwrap() = true;
            Stalled(Arc::clone(table))
        })
        .idempotent(matches!(wrong, Wrong::ClaimsTooMuch | Wrong::RefusesSecond))
}

#[test]
fn the_same_sink_with_nothing_wrong_passes_every_check() {
    let report = kit(Wrong::Nothing).run();
    for check in report.checks() {
        assert!(matches!(check.verdict, Verdict::Passed(_)), "{}\n{report}", check.name);
    }
}

#[test]
fn each_wrong_sink_fails_the_check_that_is_about_it() {
    let cases = [
        (Wrong::Doubles, "items arrive once and in order", "in the store twice"),
        (Wrong::Backwards, "items arrive once and in order", "out of order"),
        (Wrong::Buffers, "items arrive once and in order", "is not in the store"),
        (Wrong::Marks, "no marks after success", "1 of 1 good items were marked"),
        (Wrong::MarksOutside, "no marks after success", "item 1 of a batch of 1 was marked"),
        (Wrong::RefusesWithinLimits, "limits are kept", "refused as too large"),
        (Wrong::ChangesLimits, "limits are kept", "later"),
        (Wrong::TornBatch, "a bad item is told exactly", "is in the store, but the sink said"),
        (Wrong::HidesBadItem, "a bad item is told exactly", "the bad item was written"),
        (Wrong::TornLast, "nothing applied means nothing", "the bad item was last"),
        (Wrong::StaysBroken, "works on after an error", "in a transaction"),
        (Wrong::ClaimsTooMuch, "the same batch twice", "in up to 2 times"),
        (Wrong::RefusesSecond, "the same batch twice", "seen before"),
        (Wrong::CannotClose, "close after an error", "not in this state"),
        (Wrong::LosesOnDrop, "dropped without a close", "is not in the store"),
        (Wrong::PoisonedByPanic, "opened again after a panic", "the lock is poisoned"),
    ];
    for (wrong, name, says) in cases {
        let report = kit(wrong).run();
        let Some(Verdict::Failed(text)) = report.verdict(name) else {
            panic!("{wrong:?} must fail {name:?}\n{report}");
        };
        assert!(text.contains(says), "{wrong:?}: {text}");
        assert!(!report.passed());
    }
}

/// The one check that ends by the patience of the kit: the sink never returns.
#[test]
fn a_sink_that_ignores_its_deadline_fails_that_check() {
    let report = kit(Wrong::IgnoresDeadline).patience(Duration::from_millis(100)).run();
    let name = "a deadline that has passed";
    let Some(Verdict::Failed(text)) = report.verdict(name) else { panic!("\n{report}") };
    assert!(text.contains("not back after 100ms"), "{text}");
}

#[test]
fn what_cannot_be_opened_or_read_fails_with_its_reason() {
    let open = |_: &()| Err::<Recorder<u64>, _>("no such host");
    let report = Kit::new(|| (), open, |n| n, |()| Ok::<_, BoxError>(Vec::new())).run();
    assert_eq!(report.failed().count(), 11, "\n{report}");
    assert!(report.to_string().contains("the sink did not open: no such host"), "\n{report}");

    let open = |store: &Recorder<u64>| Ok::<_, BoxError>(store.clone());
    let report = Kit::new(Recorder::new, open, |n| n, |_| Err("no such table")).run();
    assert!(report.to_string().contains("`read` failed: no such table"), "\n{report}");
}

#[test]
#[should_panic(expected = "the sink does not conform")]
fn assert_fails_the_test() {
    kit(Wrong::Doubles).run().assert();
}

/// "It cannot be known" is an answer too, and nothing is held against it.
#[test]
fn an_unknown_outcome_is_not_held_against_the_sink() {
    struct Honest(Recorder<u64>);
    impl Sink<u64> for Honest {
        fn write(
            &mut self,
            batch: &Batch<u64>,
            cx: &mut WriteContext<'_>,
        ) -> Result<(), WriteError> {
            self.0.write(batch, cx)?;
            if batch.iter().any(|item| *item >= BAD) {
                return Err(WriteError::disconnected("gone").applied(Applied::Unknown));
            }
            Ok(())
        }
    }
    let open = |store: &Recorder<u64>| Ok::<_, BoxError>(Honest(store.clone()));
    let read = |store: &Recorder<u64>| Ok::<_, BoxError>(store.items());
    let report = Kit::new(Recorder::new, open, |n| n, read).bad_item(|n| BAD + n).run();
    report.assert();
    let text = report.to_string();
    assert!(text.contains("it cannot be known what of it is in"), "\n{text}");
}
