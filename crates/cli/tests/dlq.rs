//! Promise: dead letters can be looked at, and replayed each once, whatever refuses or crashes.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use common::{Done, Place, sluicegate};
use serde_json::{Value, json};
use sluicegate::sink::DeadLetterFile;
use sluicegate::{BatchId, Batcher, BoxError, Dead, Flusher, Sink, WriteError};
use sluicegate_sqlite::{DeadLetterSink, SqliteOptions};

type Letter = Dead<String>;

fn encode(item: &String, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.extend_from_slice(item.as_bytes());
    Ok(())
}

/// Writes letters as an engine would.
fn fill(sink: impl Sink<Letter> + Send + 'static, letters: Vec<Letter>) {
    let sink = Mutex::new(Some(sink));
    let batcher = Batcher::builder()
        .spawn(move |_: Flusher| sink.lock().unwrap().take().ok_or("opened twice"))
        .unwrap();
    for letter in letters {
        batcher.producer().add(letter).unwrap();
    }
    assert!(batcher.shutdown(Duration::from_secs(60)).is_clean());
}

fn store(place: &Place, letters: Vec<Letter>) {
    let options = SqliteOptions::new(place.path("dead.db"));
    fill(DeadLetterSink::open(&options, encode).unwrap(), letters);
}

/// In two files, of which the first was renamed.
fn file(place: &Place, mut letters: Vec<Letter>) {
    let rest = letters.split_off(letters.len() / 2);
    one_file(place, letters);
    one_file(place, rest);
    assert!(place.path("dead.1.ndjson").exists());
}

/// Appends to the file, or to a new one if there is anything in it.
fn one_file(place: &Place, letters: Vec<Letter>) {
    let file = DeadLetterFile::open(place.path("dead.ndjson"), encode).unwrap();
    fill(file.json().rotate_at(1), letters);
}

/// `{"n":0}` and so on, all refused; every second one in batch 17, the others in batch 18.
fn letters(count: u64) -> Vec<Letter> {
    let letter = |n| {
        let error = WriteError::permanent(if n % 3 == 0 { "no \u{1b}[2J row" } else { "a, b=c" });
        Dead::new(format!("{{\"n\":{n}}}"), error, BatchId::new(17 + n % 2).with_part(3))
            .attempts(2)
    };
    (0..count).map(letter).collect()
}

/// Runs `dlq`; words with a `/` in front are files of the test.
fn dlq(place: &Place, options: &str) -> Done {
    let word = |word: &str| match word.strip_prefix('/') {
        Some(name) => place.path(name).display().to_string(),
        None if word == "DB" => place.db(),
        None => word.to_owned(),
    };
    Done::of(sluicegate(["dlq"]).args(options.split_whitespace().map(word)).output().unwrap())
}

/// What became of the letters: read, replayed, already, failed. The sum must come out.
fn replay(place: &Place, from: &str, more: &str) -> (Option<i32>, [u64; 4]) {
    let done = dlq(place, &format!("replay {from} --columns n:integer --report json {more}"));
    let report: Value = serde_json::from_str(done.stdout.trim())
        .unwrap_or_else(|_| panic!("{:?} {} {}", done.code, done.stdout, done.stderr));
    let counts = ["read", "replayed", "already", "failed"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts[0], counts[1] + counts[2] + counts[3], "{report}");
    let told = done.stderr.lines().filter(|line| line.starts_with("letter ")).count();
    assert_eq!(told as u64, counts[3].min(10), "{}", done.stderr);
    (done.code, counts)
}

fn numbers(place: &Place) -> Vec<String> {
    place.rows("SELECT CAST(n AS TEXT) FROM items ORDER BY n")
}

fn sqlite(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn letters_are_listed_by_their_error() {
    let place = Place::new();
    store(&place, letters(30));
    file(&place, letters(30));
    for source in ["/dead.db", "/dead.ndjson"] {
        let done = dlq(&place, &format!("ls {source} --json"));
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{source}");
        let listing = &objects(&done.stdout)[0];
        assert_eq!((&listing["letters"], &listing["bad"]), (&json!(30), &json!(0)), "{source}");
        let groups = listing["groups"].as_array().unwrap();
        let brief: Vec<_> = groups.iter().map(|g| (&g["error"], &g["count"])).collect();
        let (first, second) = (json!("a, b=c"), json!("no \u{1b}[2J row"));
        assert_eq!(brief, [(&first, &json!(20)), (&second, &json!(10))], "{source}");
        assert_eq!(groups[0]["last_hour"], 20, "{source}");
        let replayed = if source == "/dead.db" { json!(0) } else { Value::Null };
        assert_eq!(groups[0]["replayed"], replayed, "{source}");
        assert!(groups[0]["first_ms"].as_i64() <= groups[0]["last_ms"].as_i64());
        let done = dlq(&place, &format!("ls {source} --where error~a, --where batch=17"));
        assert!(done.stdout.contains("permanent     a, b=c"), "{}", done.stdout);
        assert!(done.stdout.ends_with("10 letters, 1 errors\n"), "{}", done.stdout);
        let done = dlq(&place, &format!("ls {source}"));
        assert!(!done.stdout.contains('\u{1b}'), "{:?}", done.stdout);
    }
}

#[test]
fn letters_are_shown_with_their_items() {
    let place = Place::new();
    store(&place, letters(5));
    file(&place, letters(5));
    for source in ["/dead.db", "/dead.ndjson"] {
        let done = dlq(&place, &format!("show {source} --json --limit 4"));
        let shown = objects(&done.stdout);
        let items: Vec<_> = shown.iter().map(|letter| letter["item"].as_str().unwrap()).collect();
        assert_eq!(items, [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#], "{source}");
        assert_eq!((&shown[0]["batch"], &shown[0]["part"]), (&json!(17), &json!(3)), "{source}");
        assert_eq!(shown[0]["attempts"], json!(2));
        let done = dlq(&place, &format!("show {source} --where class=permanent --where since=1h"));
        assert_eq!(done.stdout.matches("  item:  {\"n\":").count(), 5, "{}", done.stdout);
        let done = dlq(&place, &format!("show {source} --where class=transient"));
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""));
    }
}

#[test]
fn who_closes_the_pipe_has_seen_enough() {
    let place = Place::new();
    store(&place, letters(5_000));
    let mut command = sluicegate(["dlq", "show", "--limit", "5000"]);
    let mut child = command.arg(place.path("dead.db")).spawn().unwrap();
    drop(child.stdout.take());
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn replay_writes_each_once_and_what_is_refused_can_be_fixed() {
    for source in ["/dead.db", "/dead.ndjson"] {
        let place = Place::new();
        if source == "/dead.db" {
            store(&place, letters(20))
        } else {
            file(&place, letters(20))
        }
        let strict = "CREATE TABLE items (n INTEGER CHECK (n <> 7))";
        place.connect().execute_batch(strict).unwrap();
        assert_eq!(replay(&place, source, "--to DB"), (Some(1), [20, 19, 0, 1]), "{source}");
        assert_eq!(numbers(&place).len(), 19);
        let fix = "ALTER TABLE items RENAME TO old; CREATE TABLE items (n INTEGER UNIQUE);
                   INSERT INTO items SELECT n FROM old; DROP TABLE old";
        place.connect().execute_batch(fix).unwrap();
        assert_eq!(replay(&place, source, "--to DB"), (Some(0), [20, 1, 19, 0]), "{source}");
        assert_eq!(replay(&place, source, "--to DB"), (Some(0), [20, 0, 20, 0]), "{source}");
        let mut seen: Vec<u64> = numbers(&place).iter().map(|n| n.parse().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>(), "{source}");
    }
}

#[test]
fn replay_into_the_store_itself_is_one_transaction() {
    let place = Place::new();
    store(&place, letters(4));
    std::fs::rename(place.path("dead.db"), place.path("test.db")).unwrap();
    assert_eq!(replay(&place, "/test.db", "--to DB --where batch=17"), (Some(0), [2, 2, 0, 0]));
    assert_eq!(numbers(&place), ["0", "2"]);
    let marks = place.rows("SELECT CAST(replayed_ms IS NOT NULL AS TEXT) FROM dead_letters");
    assert_eq!(marks, ["1", "0", "1", "0"]);
    assert_eq!(replay(&place, "/test.db", "--to DB"), (Some(0), [4, 2, 2, 0]));
}

#[test]
fn a_crash_between_row_and_mark_writes_nothing_twice() {
    let place = Place::new();
    store(&place, letters(6));
    assert_eq!(replay(&place, "/dead.db", "--to DB").1, [6, 6, 0, 0]);
    // As a kill leaves it: the target has committed, the store knows nothing of it.
    let dead = sqlite(&place.path("dead.db"));
    dead.execute("UPDATE dead_letters SET replayed_ms = NULL WHERE id > 2", []).unwrap();
    assert_eq!(replay(&place, "/dead.db", "--to DB"), (Some(0), [6, 0, 6, 0]));
    assert_eq!(numbers(&place).len(), 6);
    let marked = "SELECT count(replayed_ms) FROM dead_letters";
    assert_eq!(dead.query_row(marked, [], |row| row.get::<_, i64>(0)).unwrap(), 6);
}

#[test]
fn replays_that_are_killed_write_nothing_twice_and_lose_nothing() {
    const LETTERS: i64 = 4_000;
    for source in ["dead.db", "dead.ndjson"] {
        let place = Place::new();
        let all = letters(LETTERS.unsigned_abs());
        if source == "dead.db" {
            store(&place, all)
        } else {
            file(&place, all)
        }
        let (from, target) = (place.path(source), place.path("test.db"));
        for kill in 1..=4 {
            let mut command = sluicegate(["dlq", "replay", "--columns", "n:integer", "--to"]);
            let mut child = command.arg(place.db()).arg(&from).spawn().unwrap();
            common::until(|| {
                let is_there = common::rows_so_far(&target) >= kill * LETTERS / 6;
                (is_there || child.try_wait().unwrap().is_some()).then_some(())
            });
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let (code, counts) = replay(&place, &format!("/{source}"), "--to DB");
        assert_eq!((code, counts[0], counts[3]), (Some(0), LETTERS.unsigned_abs(), 0), "{source}");
        let distinct = "SELECT count(*) || ' ' || count(DISTINCT n) FROM items";
        assert_eq!(place.rows(distinct), [format!("{LETTERS} {LETTERS}")], "{source}");
    }
}

#[test]
fn a_copy_of_a_store_replays_nothing_twice() {
    let place = Place::new();
    store(&place, letters(3));
    std::fs::copy(place.path("dead.db"), place.path("copy.db")).unwrap();
    assert_eq!(replay(&place, "/dead.db", "--to DB").1, [3, 3, 0, 0]);
    assert_eq!(replay(&place, "/copy.db", "--to DB").1, [3, 0, 3, 0]);
}

#[test]
fn items_that_do_not_parse_stay() {
    let place = Place::new();
    let mut all = letters(2);
    all.push(Dead::new("no JSON".to_owned(), WriteError::permanent("x"), BatchId::new(1)));
    store(&place, all);
    assert_eq!(replay(&place, "/dead.db", "--to DB"), (Some(1), [3, 2, 0, 1]));
    let done = dlq(&place, "replay /dead.db --to DB --format lines --table whole");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("read 3 = replayed 1 + already replayed 2 + failed 0"));
    assert_eq!(place.rows("SELECT item FROM whole"), ["no JSON"]);
}

#[test]
fn replay_into_other_places_is_marked_in_the_store() {
    let place = Place::new();
    store(&place, letters(600));
    let to = format!("--to file:{}", place.path("out").display());
    assert_eq!(replay(&place, "/dead.db", &to), (Some(0), [600, 600, 0, 0]));
    assert_eq!(replay(&place, "/dead.db", &to), (Some(0), [600, 0, 600, 0]));
    let out = std::fs::read_to_string(place.path("out")).unwrap();
    let expected: String = (0..600).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert_eq!(out, expected);
}

#[test]
fn a_place_that_takes_nothing_marks_nothing() {
    let place = Place::new();
    store(&place, letters(3));
    assert_eq!(replay(&place, "/dead.db", "--to file:/dev/full"), (Some(1), [3, 0, 0, 3]));
    assert_eq!(replay(&place, "/dead.db", "--to DB"), (Some(0), [3, 3, 0, 0]));
}

#[test]
fn purge_deletes_what_was_replayed() {
    let place = Place::new();
    store(&place, letters(10));
    assert_eq!(replay(&place, "/dead.db", "--to DB --where batch=17").1, [5, 5, 0, 0]);
    let done = dlq(&place, "purge /dead.db");
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    let done = dlq(&place, "purge /dead.db --replayed");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "5 letters deleted\n"));
    let done = dlq(&place, "purge /dead.db --where error~b=c");
    assert_eq!(done.stdout, "3 letters deleted\n", "of 1, 3, 5, 7 and 9");
    assert_eq!(dlq(&place, "purge /dead.db --all").stdout, "2 letters deleted\n");
    assert_eq!(replay(&place, "/dead.db", "--to DB").1, [0, 0, 0, 0]);
    assert_eq!(numbers(&place).len(), 5);
}

#[test]
fn a_bad_line_is_named_skipped_and_counted_and_replay_refuses_it() {
    let place = Place::new();
    one_file(&place, letters(2));
    let good = std::fs::read_to_string(place.path("dead.ndjson")).unwrap();
    let lines: Vec<_> = good.lines().collect();
    let newer = lines[0].replace("\"version\":1", "\"version\":2");
    let torn = &lines[1][..40];
    let bad = format!("{}\n\n{torn}\n{newer}\n{}\n", lines[0], lines[1]);
    std::fs::write(place.path("dead.ndjson"), bad).unwrap();
    for options in ["ls /dead.ndjson --json", "show /dead.ndjson --json"] {
        let done = dlq(&place, options);
        assert_eq!(done.code, Some(1), "{options}");
        assert!(done.stderr.contains("dead.ndjson line 3: no dead letter: EOF"), "{}", done.stderr);
        let version = "line 4: a letter of version 2; this program knows 1";
        assert!(done.stderr.contains(version), "{}", done.stderr);
    }
    assert_eq!(objects(&dlq(&place, "ls /dead.ndjson --json").stdout)[0]["bad"], 2);
    let done = dlq(&place, "replay /dead.ndjson --to DB --columns n");
    assert_eq!(done.code, Some(2));
    assert!(
        done.stderr.contains("line 3") && done.stderr.contains("--skip-bad"),
        "{}",
        done.stderr
    );
    assert!(!place.path("test.db").exists());
    let replayed = replay(&place, "/dead.ndjson", "--to DB --skip-bad");
    assert_eq!(replayed, (Some(0), [2, 2, 0, 0]));
}

#[test]
fn mistakes_are_named() {
    let place = Place::new();
    store(&place, letters(1));
    one_file(&place, letters(1));
    place.write("plain.db", "no database, but long enough to be looked at for its beginning");
    let out = format!("replay /dead.db --to file:{}", place.path("dead.db").display());
    for (options, fault) in [
        ("ls /missing.db", "cannot read"),
        ("ls /missing.ndjson", "cannot read"),
        ("ls /missing", "cannot read"),
        ("ls /plain.db", "not a database"),
        ("ls /dead.db --where class=bad", "\"bad\""),
        ("ls /dead.db --where n=1", "unknown condition \"n\""),
        ("show /dead.db --where since=soon", "\"soon\""),
        ("replay /dead.db", "--to"),
        ("replay /dead.db --to kafka:x", "--to"),
        ("replay /dead.db --to null --table t", "--table"),
        ("replay /dead.db --to DB --format csv", "--format"),
        ("replay /dead.ndjson --to stdout", "--to: letters of an NDJSON file"),
        ("purge /dead.ndjson --all", "is NDJSON"),
        ("purge /dead.db --all --replayed", "--all"),
        (out.as_str(), "--to: is the file with the letters"),
    ] {
        let done = dlq(&place, options);
        assert_eq!(done.code, Some(2), "{options}: {}", done.stderr);
        assert!(done.stderr.contains(fault), "{options}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{options}");
    }
    assert_eq!(objects(&dlq(&place, "ls /dead.db --json").stdout)[0]["letters"], 1);
}
