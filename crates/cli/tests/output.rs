//! Promise: what was stored, what was not, and why: the same in the destination, the rejects and
//! the report.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use std::io::Write as _;

use common::{Done, Place, run, sluicegate, words};

#[test]
fn the_report_has_the_promised_names() {
    let place = Place::new();
    let input: String = (0..1_000).map(|n| format!("{n}\n")).collect();
    let done = run(&place, "--to DB --max-batch-size 100", input);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let report = done.report();
    for (name, value) in [
        ("items_read", 1_000),
        ("rejected", 0),
        ("enqueued", 1_000),
        ("flushed_ok", 1_000),
        ("flushed_fail", 0),
        ("dropped", 0),
        ("unknown", 0),
        ("in_flight", 0),
        ("unqueued", 0),
        ("partial_line_bytes", 0),
    ] {
        assert_eq!(report.n(name), value, "{name}");
    }
    let (batches, mean) = (report.n("batches"), report.0["mean_batch"].as_f64().unwrap());
    assert!((mean * batches as f64 - 1_000.0).abs() < 1e-6);
    let reasons = report.0["flush_reasons"].as_object().unwrap();
    assert_eq!(reasons.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), batches);
    assert!(report.0["durations"]["run"].as_f64().unwrap() > 0.0);
    assert!(report.0["items_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(report.0["stopped_by"], "end of input");
    assert_eq!(done.stderr, "", "silence where there is no terminal");
    assert_eq!(place.count(), 1_000);
}

#[test]
fn people_get_theirs_on_standard_error() {
    let place = Place::new();
    let input = place.write("input", "1\n2\n");
    let mut command = sluicegate(["run", "--to", "null", "--from"]);
    let done = Done::of(command.arg(input).output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""));
    assert!(done.stderr.contains("2 items read, 2 stored"), "{}", done.stderr);
}

#[test]
fn rejects_name_line_stage_reason_and_text() {
    let place = Place::new();
    let input = "{\"a\":1}\n{\"a\":\nx\n{\"a\":1}\n{\"a\":2}\n";
    place.connect().execute_batch("CREATE TABLE items (a INTEGER UNIQUE)").unwrap();
    let done = run(&place, "--to DB --columns a:integer --rejects REJECTS", input);
    assert_eq!(done.code, Some(1));
    let mut rejects = place.rejects();
    rejects.sort_by_key(|reject| reject["line"].as_u64());
    let brief = |r: &serde_json::Value| format!("{} {} {}", r["line"], r["stage"], r["text"]);
    assert_eq!(
        rejects.iter().map(brief).collect::<Vec<_>>(),
        [r#"2 "parse" "{\"a\":""#, r#"3 "parse" "x""#, r#"4 "store" "{\"a\":1}""#]
    );
    assert!(rejects.iter().all(|reject| !reject["reason"].as_str().unwrap().is_empty()));
    let report = done.report();
    assert_eq!((report.n("rejected"), report.n("flushed_fail"), place.count()), (2, 1, 2));
}

#[test]
fn without_a_file_the_first_ten_rejects_are_shown_and_all_are_counted() {
    let input = "x\n".repeat(100);
    let done = run(&Place::new(), "--to null", input);
    assert_eq!(done.report().n("rejected"), 100);
    assert_eq!(done.stderr.matches("not JSON").count(), 10);
    assert!(done.stderr.starts_with("line 1: not JSON"), "{}", done.stderr);
}

#[test]
fn a_file_is_appended_to_and_keeps_lines_as_they_were() {
    let place = Place::new();
    let input = "{\"b\": 1,  \"a\": \"é\"}\n[1]\n";
    for _ in 0..2 {
        assert_eq!(run(&place, "--to OUT --fsync", input).code, Some(0));
    }
    assert_eq!(std::fs::read_to_string(place.path("out")).unwrap(), input.repeat(2));
}

#[test]
fn columns_become_an_object_in_a_file() {
    let place = Place::new();
    let input = "{\"b\":{\"x\": 1},\"a\":\"q\\\"\",\"z\":0}\n";
    assert_eq!(run(&place, "--to OUT --columns a,b,c", input).code, Some(0));
    let out = std::fs::read_to_string(place.path("out")).unwrap();
    assert_eq!(out, "{\"a\":\"q\\\"\",\"b\":{\"x\": 1},\"c\":null}\n");
}

#[test]
fn standard_output_carries_items_alone_and_standard_input_is_the_default() {
    let mut child = sluicegate(["run", "--to", "stdout", "--format", "lines", "--report", "json"])
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "a\nb\n"));
    assert_eq!(done.report().n("flushed_ok"), 2);
}

#[test]
fn hostile_names_stay_names() {
    let place = Place::new();
    let input = place.write("input", "{\"a\\\"; DROP TABLE x; --\":1}\n");
    let column = "a\"; DROP TABLE x; --";
    let mut command = sluicegate(["run", "--to", &place.db(), "--table", "t\"; --", "--columns"]);
    command.arg(column).arg("--from").arg(input);
    let done = Done::of(command.output().unwrap());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(place.rows("SELECT quote(\"a\"\"; DROP TABLE x; --\") FROM \"t\"\"; --\""), ["1"]);
}

#[test]
fn several_flushers_store_every_item_once() {
    let place = Place::new();
    let input: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let options = "--to DB --flushers 3 --flush-when idle --synchronous off";
    let done = run(&place, options, input);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(place.rows("SELECT CAST(count(DISTINCT item) AS TEXT) FROM items"), ["20000"]);
    let place = Place::new();
    let input: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(run(&place, "--to OUT --flushers 3", input).code, Some(0));
    let out = std::fs::read_to_string(place.path("out")).unwrap();
    let mut numbers: Vec<u32> = out.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20_000).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_is_in_the_report_and_the_rejects() {
    let place = Place::new();
    let done = run(&place, "--to file:/dev/full --rejects REJECTS", "1\n2\n");
    assert_eq!(done.code, Some(1));
    assert_eq!(done.report().n("flushed_fail"), 2);
    assert_eq!(place.rejects().len(), 2);
}

#[test]
fn an_input_that_cannot_be_read_on_is_an_error() {
    let place = Place::new();
    // Its first page is nobody's, so that reading it fails.
    let options = words(&place, "run --report json --to DB --from /proc/self/mem");
    let done = Done::of(sluicegate(options).output().unwrap());
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let report = done.report();
    assert_eq!(report.0["stopped_by"], "read error");
    assert!(report.0["errors"][0].as_str().unwrap().starts_with("reading failed: "));
}

#[test]
fn rejects_that_cannot_be_written_are_an_error() {
    let done = run(&Place::new(), "--to null --rejects /dev/full", "x\n");
    assert_eq!(done.code, Some(1));
    assert!(done.report().0["errors"][0].as_str().unwrap().starts_with("--rejects: "));
}

#[test]
fn long_items_do_not_fill_the_memory() {
    // 300 MB of lines of 1 MiB each, through a queue that would take them all.
    let place = Place::new();
    let mut input = std::fs::File::create(place.path("input")).unwrap();
    let line = [vec![b'x'; (1 << 20) - 1], vec![b'\n']].concat();
    for _ in 0..300 {
        input.write_all(&line).unwrap();
    }
    let mut command = sluicegate(words(&place, "run --format lines --to OUT --report json --from"));
    let mut child = command.arg(place.path("input")).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    common::until(|| {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = kib.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        child.try_wait().unwrap()
    });
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.report().n("flushed_ok"), 300);
    assert!((1..200_000).contains(&peak), "peak {peak} kB");
}

#[test]
fn typed_columns_are_the_same_for_every_destination() {
    let input = "{\"i\":\"07\",\"r\":1,\"t\":1.50}\n{\"i\":1.5}\n{\"r\":1e999}\n{\"a\":1e999}\n";
    let columns = "--columns i:integer,r:real,t:text,a --rejects REJECTS";
    let place = Place::new();
    run(&place, &format!("--to DB {columns}"), input);
    let sql = "SELECT quote(i)||quote(r)||quote(t)||quote(a) FROM items ORDER BY rowid";
    assert_eq!(place.rows(sql), ["71.0'1.50'NULL", "NULLNULLNULL'1e999'"]);
    let expected = "{\"i\":7,\"r\":1.0,\"t\":\"1.50\",\"a\":null}\n\
                    {\"i\":null,\"r\":null,\"t\":null,\"a\":\"1e999\"}\n";
    let done = run(&place, &format!("--to stdout {columns}"), input);
    assert_eq!(done.stdout, expected);
    let done = run(&place, &format!("--to OUT {columns}"), input);
    assert_eq!(std::fs::read_to_string(place.path("out")).unwrap(), expected);
    assert_eq!((done.report().n("rejected"), place.rejects().len()), (2, 2));
}

#[test]
fn typed_columns_of_csv_are_the_same_for_every_destination() {
    let place = Place::new();
    let options = "--to OUT --format csv --columns i:integer,r:real,t:text,a";
    run(&place, options, "i,r,t,a\n 007 ,2,2,2\n,,,\nx,1,1,1\n");
    let expected = "{\"i\":7,\"r\":2.0,\"t\":\"2\",\"a\":\"2\"}\n\
                    {\"i\":null,\"r\":null,\"t\":\"\",\"a\":\"\"}\n";
    assert_eq!(std::fs::read_to_string(place.path("out")).unwrap(), expected);
}

#[test]
fn rejects_go_to_a_pipe_that_somebody_reads() {
    let place = Place::new();
    let path = place.path("rejects");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let done = run(&place, "--to null --rejects REJECTS", "x\n");
    assert_eq!(done.code, Some(2), "nobody reads: {}", done.stderr);
    let reader = std::thread::spawn(move || std::fs::read_to_string(path).unwrap());
    // The other end is there a moment later.
    common::until(|| {
        (run(&place, "--to null --rejects REJECTS", "x\n").code != Some(2)).then_some(())
    });
    assert!(reader.join().unwrap().starts_with("{\"line\":1"));
}
