//! Promise: what the sink will never take is kept with its error, can be mended and written after
//! all, and every item is accounted for at each step. The walk-through of `docs/command.md`.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use common::{Done, Place, run, sluicegate};
use serde_json::Value;

const ROWS: u64 = 2_000;
/// Rows that the table refuses.
const BAD: [u64; 3] = [7, 700, 1_999];

fn events() -> String {
    (0..ROWS)
        .map(|n| format!("{{\"id\":{n},\"level\":{}}}\n", u8::from(BAD.contains(&n))))
        .collect()
}

fn dlq(place: &Place, words: &[&str]) -> Done {
    let mut command = sluicegate(["dlq", words[0]]);
    command.arg(place.path("dead.db")).args(&words[1..]);
    Done::of(command.output().unwrap())
}

#[test]
fn fail_list_mend_replay_and_the_sums_come_out() {
    let place = Place::new();
    let strict = "CREATE TABLE events (id INTEGER PRIMARY KEY, level INTEGER CHECK (level = 0))";
    place.connect().execute_batch(strict).unwrap();
    let dead = place.path("dead.db").display().to_string();
    let to = format!(
        "--to {} --table events --columns id:integer,level:integer --dead-letters {dead}",
        place.db()
    );

    let failed = run(&place, &to, events());
    let report = failed.report();
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    let counts = ["items_read", "flushed_ok", "flushed_fail", "dead_lettered"].map(|n| report.n(n));
    assert_eq!(counts, [ROWS, ROWS - 3, 3, 3]);

    let listed = dlq(&place, &["ls", "--json"]);
    let listing: Value = serde_json::from_str(listed.stdout.trim()).unwrap();
    assert_eq!(listing["letters"], 3, "{}", listed.stdout);
    let error = listing["groups"][0]["error"].as_str().unwrap();
    assert!(error.contains("CHECK constraint failed"), "{error}");
    let shown = dlq(&place, &["show", "--where", "error~CHECK"]);
    assert!(shown.stdout.contains("\"id\":700"), "{}", shown.stdout);

    let mend = "ALTER TABLE events RENAME TO old;
                CREATE TABLE events (id INTEGER PRIMARY KEY, level INTEGER);
                INSERT INTO events SELECT * FROM old; DROP TABLE old";
    place.connect().execute_batch(mend).unwrap();
    let target = place.db();
    for (replayed, already) in [(3, 0), (0, 3)] {
        let columns = ["--table", "events", "--columns", "id:integer,level:integer"];
        let words = [&["replay", "--to", &target, "--report", "json"][..], &columns].concat();
        let done = dlq(&place, &words);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let report: Value = serde_json::from_str(done.stdout.trim()).unwrap();
        assert_eq!((&report["replayed"], &report["already"]), (&replayed.into(), &already.into()));
        let rows = place.rows("SELECT CAST(count(DISTINCT id) AS TEXT) FROM events");
        assert_eq!(rows, [ROWS.to_string()]);
    }
    assert_eq!(dlq(&place, &["purge", "--replayed"]).code, Some(0));
    let listed = dlq(&place, &["ls", "--json"]);
    let listing: Value = serde_json::from_str(listed.stdout.trim()).unwrap();
    assert_eq!(listing["letters"], 0);
}

/// The lines of the page, as they stand there.
fn page() -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/command.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("## Dead letters").unwrap();
    let (_, lines) = section.split_once("```sh\n").unwrap();
    lines.split_once("```").unwrap().0.lines().map(str::to_owned).collect()
}

#[test]
fn the_page_can_be_followed_to_the_letter() {
    let place = Place::new();
    let said = [
        (0, ""),
        (1, "flushed_fail 1000"),
        (0, "No space left on device"),
        (0, "applied nothing"),
        (0, "replayed 1000 + already replayed 0 + failed 0"),
        (0, "replayed 0 + already replayed 1000 + failed 0"),
        (0, "1000 letters deleted"),
    ];
    let page = page();
    assert_eq!(page.len(), said.len());
    for (line, (code, text)) in page.iter().zip(said) {
        let done = sh(&place, line);
        let both = format!("{}{}", done.stdout, done.stderr).replace(',', "");
        assert_eq!(done.code, Some(code), "{line}: {both}");
        assert!(both.contains(text), "{line}: {both}");
    }
    let lines = |file| std::fs::read_to_string(place.path(file)).unwrap();
    assert_eq!(lines("events.out"), lines("events.ndjson"));
}

/// Runs a line of a shell where the tests' own files are.
fn sh(place: &Place, line: &str) -> Done {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_sluicegate"));
    let mut path = vec![binary.parent().unwrap().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", line])
        .current_dir(place.path("."))
        .env("PATH", std::env::join_paths(path).unwrap());
    Done::of(shell.output().unwrap())
}

#[test]
fn the_file_of_dead_letters_is_not_the_destination() {
    let place = Place::new();
    let to = format!("--to DB --dead-letters {}", place.path("test.db").display());
    let done = run(&place, &to, "{}\n");
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(done.stderr.contains("--dead-letters"), "{}", done.stderr);
}

#[test]
fn settings_of_failure_are_refused_by_their_option() {
    for (options, name) in [
        ("--max-attempts 0", "--max-attempts"),
        ("--calls-per-second 0", "--calls-per-second"),
        ("--items-per-second=-1", "--items-per-second"),
        ("--dead-letters x.csv", "--dead-letters"),
    ] {
        let place = Place::new();
        let done = run(&place, &format!("--to null {options}"), "{}\n");
        assert_eq!(done.code, Some(2), "{options}: {}", done.stderr);
        assert!(done.stderr.contains(name), "{options}: {}", done.stderr);
    }
}
