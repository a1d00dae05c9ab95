//! Promise: a mistake in the call ends with status 2, names the option, and has written nothing.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use common::{Done, Place, run, sluicegate, words};

/// Runs with input at hand; the status must be 2 and the option named.
fn refused(options: &str, option: &str) -> String {
    let place = Place::new();
    refused_in(&place, options, option)
}

fn refused_in(place: &Place, options: &str, option: &str) -> String {
    let done = run(place, options, "{\"a\":1}\n");
    assert_eq!(done.code, Some(2), "{options}: {} {}", done.stdout, done.stderr);
    assert!(done.stderr.contains(option), "{options}: {}", done.stderr);
    assert_eq!(done.stdout, "", "{options}");
    done.stderr
}

#[test]
fn batching_options_are_checked_by_the_library_and_named() {
    refused("--to null --queue-depth 3", "--queue-depth");
    refused("--to null --queue-depth 1", "--queue-depth");
    refused("--to null --max-batch-size 0", "--max-batch-size");
    refused("--to null --max-batch-size 100 --queue-depth 64", "--max-batch-size");
    refused("--to null --flushers 0", "--flushers");
    let error = refused("--to null --max-batch-delay 61s", "--max-batch-delay");
    assert!(error.contains("--allow-long-delay"), "{error}");
    let error = refused("--to null --max-batch-size 100 --queue-depth 64", "--queue-depth");
    assert!(!error.contains("queue_depth"), "{error}");
    let error = refused("--to null --queue-depth 8388608", "--queue-depth");
    assert!(error.contains("at most 4194304"), "{error}");
}

#[test]
fn a_long_delay_can_be_allowed() {
    let options = "--to null --max-batch-delay 61s --allow-long-delay";
    assert_eq!(run(&Place::new(), options, "1\n").code, Some(0));
}

#[test]
fn values_that_do_not_parse() {
    refused("", "--to");
    refused("--to kafka:x", "--to");
    refused("--to null --format xml", "--format");
    refused("--to null --max-batch-delay 5", "--max-batch-delay");
    refused("--to null --max-batch-bytes 0", "--max-batch-bytes");
    refused("--to null --max-batch-bytes 1XB", "--max-batch-bytes");
    refused("--to null --max-line-bytes 1GiB", "--max-line-bytes");
    refused("--to null --drain-deadline soon", "--drain-deadline");
    refused("--to null --columns a:int8", "--columns");
    refused("--to sqlite::memory:", "--to");
    refused("--to null --flush-when never", "--flush-when");
    refused("--to null --report xml", "--report");
    refused("--to DB --synchronous maybe", "--synchronous");
}

#[test]
fn options_that_do_not_go_together() {
    refused("--to null --table t", "--table");
    refused("--to OUT --synchronous off", "--synchronous");
    refused("--to DB --fsync", "--fsync");
    refused("--to null --format lines --columns a,b", "--columns");
    refused("--to null --columns a,A", "--columns");
}

#[test]
fn places_that_cannot_be_opened() {
    let place = Place::new();
    refused_in(&place, "--to sqlite:/nonexistent/x.db", "--to");
    refused_in(&place, "--to file:/nonexistent/x", "--to");
    refused_in(&place, "--to null --rejects /nonexistent/x", "--rejects");
    for from in ["/nonexistent", "/"] {
        let done = Done::of(sluicegate(["run", "--to", "null", "--from", from]).output().unwrap());
        assert_eq!(done.code, Some(2));
        assert!(done.stderr.contains("--from"), "{}", done.stderr);
    }
}

#[test]
fn the_input_is_never_written_to() {
    let place = Place::new();
    let input = place.path("input").display().to_string();
    refused_in(&place, &format!("--to file:{input}"), "--to");
    refused_in(&place, &format!("--to null --rejects {input}"), "--rejects");
    assert_eq!(std::fs::read(place.path("input")).unwrap(), b"{\"a\":1}\n");
    let out = place.path("out").display().to_string();
    refused_in(&place, &format!("--to OUT --rejects {out}"), "--rejects");
    assert!(!place.path("out").exists());
}

#[test]
fn rejects_never_replace_the_destination_under_whatever_name() {
    let place = Place::new();
    place.connect().execute_batch("CREATE TABLE items (item)").unwrap();
    let db = place.path("test.db");
    let before = std::fs::read(&db).unwrap();
    std::fs::hard_link(&db, place.path("hard")).unwrap();
    std::os::unix::fs::symlink(&db, place.path("soft")).unwrap();
    let dir = place.path("").display().to_string();
    for name in ["./test.db", "hard", "soft", "test.db-wal", "test.db-shm"] {
        refused_in(&place, &format!("--to DB --rejects {dir}{name}"), "--rejects: is the file");
        assert_eq!(std::fs::read(&db).unwrap(), before, "{name}");
    }
    let linked = format!("--to sqlite:{dir}soft --rejects {dir}test.db-wal");
    refused_in(&place, &linked, "--rejects: is the file");
}

#[test]
fn a_table_that_does_not_match_is_described() {
    let place = Place::new();
    place.connect().execute_batch("CREATE TABLE items (a TEXT, b TEXT)").unwrap();
    let error = refused_in(&place, "--to DB", "--table and --columns");
    assert!(error.contains(r#"no column ["item"]; it has ["a", "b"]"#), "{error}");
    let error = refused_in(&place, "--to DB --columns a,c", "--columns");
    assert!(error.contains(r#"no column ["c"]"#), "{error}");
}

#[test]
fn a_header_without_a_column_is_described() {
    let place = Place::new();
    let done = run(&place, "--to DB --format csv --columns a,x", "a,b\n1,2\n");
    assert_eq!(done.code, Some(2));
    let expected = "error: --columns: CSV header: no column \"x\"; it has [\"a\", \"b\"]\n";
    assert_eq!(done.stderr, expected);
    assert!(!place.path("test.db").exists());
    place.write("rejects", "precious\n");
    refused_in(&place, "--to DB --format csv --columns x --rejects REJECTS", "--columns");
    assert_eq!(std::fs::read(place.path("rejects")).unwrap(), b"precious\n");
}

#[test]
fn a_mistake_leaves_the_files_of_earlier_runs_alone() {
    let place = Place::new();
    place.write("rejects", "precious\n");
    refused_in(&place, "--to DB --rejects REJECTS --queue-depth 3", "--queue-depth");
    assert_eq!(std::fs::read(place.path("rejects")).unwrap(), b"precious\n");
    assert!(!place.path("test.db").exists());
}

#[test]
fn help_and_version_are_no_mistakes() {
    for args in [vec!["--help"], vec!["run", "--help"], vec!["--version"]] {
        assert_eq!(Done::of(sluicegate(args).output().unwrap()).code, Some(0));
    }
    assert_eq!(words(&Place::new(), "a b").len(), 2);
}
