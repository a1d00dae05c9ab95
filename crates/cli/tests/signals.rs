//! Promise: a signal stops intake and drains, a second one ends the drain, and every item is
//! accounted for.
//!
//! `SLUICEGATE_KILLS=100` makes the kill test longer, `SLUICEGATE_SEED=…` replays its moments.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test may fail

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Done, Place, feed, give, rows_so_far, signal, sluicegate, until, words};
use rustix::process::Signal;

const KILLS: u64 = 10;
/// More than fits the pipe: when so much is written the command has begun to read, and listens to
/// signals.
const BEFORE_FIRST: u64 = 5_000;
const SPREAD: u64 = 60_000;

fn start(place: &Place, options: &str) -> Child {
    let mut command: Command = sluicegate(["run", "--report", "json"]);
    command.args(words(place, options)).spawn().unwrap()
}

/// Feeds until the process is gone, sends the signal after `lines`, and returns what the process
/// said.
fn kill_under_load(mut child: Child, lines: u64, by: Signal) -> Done {
    let stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| feed(stdin, lines, || signal(&child, by)));
    });
    Done::of(child.wait_with_output().unwrap())
}

/// Every line read is in the table or in the rejects, exactly once.
fn account(place: &Place, done: &Done) {
    let report = done.report();
    let rejects = place.rejects();
    assert_eq!(place.count() + rejects.len() as u64, report.n("items_read"));
    let mut lines: Vec<u64> = rejects.iter().map(|r| r["line"].as_u64().unwrap()).collect();
    let ids = place.rows("SELECT CAST(id AS TEXT) FROM items");
    lines.extend(ids.iter().map(|id| id.parse::<u64>().unwrap()));
    lines.sort_unstable();
    assert!(lines.iter().copied().eq(1..=report.n("items_read")), "a line is missing or twice");
}

#[test]
fn killed_at_random_moments_every_item_is_accounted_for() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let kills = number("SLUICEGATE_KILLS").unwrap_or(KILLS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seed = number("SLUICEGATE_SEED").unwrap_or(now.as_secs());
    eprintln!("SLUICEGATE_SEED={seed}");
    for kill in 0..kills {
        // Knuth's multiplier; the high bits are the random ones.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lines = BEFORE_FIRST + (seed >> 33) % SPREAD;
        let flushers = 1 + kill % 2;
        eprintln!("kill {kill}: after {lines} lines, {flushers} flushers");
        let place = Place::new();
        let options = format!(
            "--to DB --columns id:integer,text --rejects REJECTS --queue-depth 1024 \
             --max-batch-size 200 --drain-deadline 1h --flushers {flushers}"
        );
        let by = if kill % 3 == 0 { Signal::INT } else { Signal::TERM };
        let done = kill_under_load(start(&place, &options), lines, by);
        // Every tenth line is rejected.
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        let report = done.report();
        assert_eq!(report.n("in_flight") + report.n("unqueued"), 0, "drained in time");
        account(&place, &done);
    }
}

#[test]
fn a_deadline_that_comes_too_soon_leaves_items_that_are_counted() {
    let place = Place::new();
    let options = "--to DB --columns id:integer,text --rejects REJECTS --drain-deadline 0s";
    let done = kill_under_load(start(&place, options), BEFORE_FIRST * 4, Signal::TERM);
    assert_eq!(done.code, Some(1));
    let report = done.report();
    // A write that was under way at the deadline may have gone through: it is `unknown`, and in the
    // table or not.
    let stored = place.count();
    let range = report.n("flushed_ok")..=report.n("flushed_ok") + report.n("unknown");
    assert!(range.contains(&stored), "{stored} rows, {}", report.0);
    // What no sink has seen is in the rejects, each line once.
    let rejects = place.rejects();
    let drained = rejects.iter().filter(|r| r["stage"] == "drain").count() as u64;
    assert_eq!(drained, report.n("in_flight") + report.n("unqueued"));
    let mut lines: Vec<u64> = rejects.iter().map(|r| r["line"].as_u64().unwrap()).collect();
    let before = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), before);
}

#[test]
fn after_a_second_signal_the_report_agrees_with_the_table() {
    let place = Place::new();
    let options = "--to DB --columns id:integer,text --rejects REJECTS --max-batch-size 1";
    let mut child = start(&place, options);
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| feed(&mut stdin, u64::MAX, || ()));
        until(|| (rows_so_far(&place.path("test.db")) > 10).then_some(()));
        signal(&child, Signal::TERM);
        thread::sleep(Duration::from_millis(100));
        signal(&child, Signal::TERM);
    });
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(143), "{}", done.stderr);
    let report = done.report();
    let stored = place.count();
    let range = report.n("flushed_ok")..=report.n("flushed_ok") + report.n("unknown");
    assert!(range.contains(&stored), "{stored} rows, {}", report.0);
    let drained = place.rejects().iter().filter(|r| r["stage"] == "drain").count() as u64;
    assert!(drained > 0);
    assert_eq!(drained, report.n("in_flight") + report.n("unqueued"));
}

#[test]
fn a_rejects_file_that_blocks_does_not_keep_a_signal_waiting() {
    let place = Place::new();
    let path = place.path("rejects");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    // Read by nobody, but open, so that the pipe fills up.
    let _held = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut child = start(&place, "--to null --rejects REJECTS --drain-deadline 100ms");
    let mut stdin = child.stdin.take().unwrap();
    let (enough, fed) = mpsc::channel();
    // More rejects than a pipe holds; the rest of the input is never asked for.
    thread::spawn(move || feed(&mut stdin, ENOUGH, || enough.send(()).unwrap()));
    fed.recv().unwrap();
    signal(&child, Signal::TERM);
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let errors = done.report().0["errors"].to_string();
    assert!(errors.contains("--rejects: the file did not take"), "{errors}");
}

#[test]
fn a_hangup_stops_as_a_termination_does_unless_it_was_ignored() {
    for ignored in [false, true] {
        let place = Place::new();
        let mut command = Command::new(if ignored { "nohup" } else { "env" });
        command.arg(env!("CARGO_BIN_EXE_sluicegate")).args(["run", "--report", "json"]);
        command.args(words(&place, "--to DB --format lines"));
        let (stdin, out, err) = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let mut child = command.stdin(stdin).stdout(out).stderr(err).spawn().unwrap();
        give(&mut child, b"a\n");
        until(|| (rows_so_far(&place.path("test.db")) == 1).then_some(()));
        signal(&child, Signal::HUP);
        if ignored {
            signal(&child, Signal::TERM);
        }
        let stdin = child.stdin.take();
        let done = Done::of(child.wait_with_output().unwrap());
        drop(stdin);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let name = if ignored { "SIGTERM" } else { "SIGHUP" };
        assert_eq!(done.report().0["stopped_by"], name);
    }
}

#[test]
fn standard_input_that_never_closes_does_not_keep_a_signal_waiting() {
    for by in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let mut child = start(&place, "--to DB --format lines");
        give(&mut child, b"a\nb\nunfinished");
        until(|| (rows_so_far(&place.path("test.db")) == 2).then_some(()));
        signal(&child, by);
        let stdin = child.stdin.take();
        let done = Done::of(child.wait_with_output().unwrap());
        drop(stdin);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let report = done.report();
        assert_eq!((report.n("items_read"), report.n("partial_line_bytes")), (2, 10));
        let name = if by == Signal::TERM { "SIGTERM" } else { "SIGINT" };
        assert_eq!(report.0["stopped_by"], name);
    }
}

/// So many lines are more than two pipes hold, so the command has read enough to fill its output;
/// and they are fewer than the pipes and the queue hold together, so they can all be written while
/// it hangs.
const ENOUGH: u64 = 10_000;

/// A command whose standard output is not read any more, so that its sink hangs in a write.
fn hung(options: &str) -> (Place, Child) {
    let place = Place::new();
    let mut child = start(&place, &format!("--to stdout {options}"));
    let mut stdin = child.stdin.take().unwrap();
    let (enough, fed) = mpsc::channel();
    thread::spawn(move || feed(&mut stdin, ENOUGH, || enough.send(()).unwrap()));
    let mut first = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("{\"id\":1,"), "{first}");
    fed.recv().unwrap();
    (place, child)
}

#[test]
fn a_second_signal_ends_the_drain_and_the_report_still_comes() {
    let (_place, mut child) = hung("--drain-deadline 1h");
    let stderr = child.stderr.take().unwrap();
    let reader = thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    // Two signals sent at once may arrive as one, so it is sent until it has its effect.
    let status = until(|| {
        signal(&child, Signal::TERM);
        child.try_wait().unwrap()
    });
    assert_eq!((status.code(), status.signal()), (Some(143), None));
    let stderr = reader.join().unwrap();
    let done = Done { code: status.code(), stdout: String::new(), stderr };
    let report = done.report();
    assert_eq!(report.0["aborted"], true);
    assert!(report.n("in_flight") + report.n("unknown") > 0);
}

#[test]
fn a_sink_that_hangs_is_left_behind_at_the_deadline() {
    let (_place, mut child) = hung("--drain-deadline 100ms");
    signal(&child, Signal::TERM);
    let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    let code = child.wait().unwrap().code();
    let done = Done { code, stdout: String::new(), stderr };
    assert_eq!(done.code, Some(1));
    let report = done.report();
    assert!(report.n("unknown") > 0, "{}", report.0);
    assert!(report.0["errors"][0].as_str().unwrap().contains("did not come back"));
}

#[test]
fn a_pipe_that_is_closed_ends_the_run_without_a_panic() {
    let (place, mut child) = hung("--rejects REJECTS");
    drop(child.stdout.take());
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(1));
    let report = done.report();
    assert_eq!(report.0["stopped_by"], "sink gone");
    assert_eq!(report.n("in_flight") + report.n("unqueued"), 0);
    let lost = report.n("rejected") + report.n("flushed_fail") + report.n("unknown");
    assert_eq!(place.rejects().len() as u64, lost);
}

#[test]
fn a_closed_reader_of_the_report_or_of_demo_events_is_no_panic() {
    let mut child = sluicegate(["demo-events", "--count", "100000"]).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    drop(child.stdout.take());
    assert_eq!(Done::of(child.wait_with_output().unwrap()).code, Some(0));

    let mut child = sluicegate(["run", "--to", "null", "--report", "json"]).spawn().unwrap();
    drop(child.stdout.take());
    drop(child.stdin.take());
    // The report was asked for.
    assert_eq!(Done::of(child.wait_with_output().unwrap()).code, Some(1));
}

#[test]
fn a_destination_that_is_gone_is_said_once() {
    let (_place, mut child) = hung("");
    drop(child.stdout.take());
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.stderr.matches("Broken pipe").count(), 1, "{}", done.stderr);
}
