//! Promise: each kind of bad input has the treatment that `docs/command.md` states, and no other
//! line suffers.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use common::{Done, Place, run};

/// What was stored, quoted by SQLite, and the report.
fn stored(options: &str, input: impl AsRef<[u8]>) -> (Place, Vec<String>, Done) {
    let place = Place::new();
    let done = run(&place, &format!("--to DB --rejects REJECTS {options}"), input);
    let rows = place.rows("SELECT quote(item) FROM items ORDER BY rowid");
    (place, rows, done)
}

fn reasons(place: &Place) -> Vec<(u64, String)> {
    let reason = |r: &serde_json::Value| {
        (r["line"].as_u64().unwrap(), r["reason"].as_str().unwrap().to_owned())
    };
    place.rejects().iter().map(reason).collect()
}

#[test]
fn invalid_utf8_is_rejected() {
    for format in ["ndjson", "lines"] {
        let input = b"\"a\"\n\"b\xff\"\n\"c\"\n";
        let (place, rows, done) = stored(&format!("--format {format}"), input);
        assert_eq!(rows, ["'\"a\"'", "'\"c\"'"]);
        assert_eq!(reasons(&place), [(2, "invalid UTF-8 after 2 bytes".to_owned())]);
        assert_eq!(done.code, Some(1));
    }
}

#[test]
fn a_last_line_without_an_end_is_an_item() {
    assert_eq!(stored("--format lines", "a\nb").1, ["'a'", "'b'"]);
    assert_eq!(stored("", "1\n2").1, ["'1'", "'2'"]);
}

#[test]
fn a_last_line_cut_short_is_rejected_where_the_format_can_tell() {
    let (place, rows, _) = stored("", "{\"a\":1}\n{\"a\":");
    assert_eq!(rows, ["'{\"a\":1}'"]);
    assert!(reasons(&place)[0].1.contains("cut short"), "{:?}", reasons(&place));
    let (place, rows, _) = stored("--format csv --columns item", "item,b\n1,2\n3,\"x");
    assert_eq!(rows, ["'1'"]);
    assert!(reasons(&place)[0].1.contains("cut short"), "{:?}", reasons(&place));
}

#[test]
fn a_byte_order_mark_is_dropped_at_the_start() {
    assert_eq!(stored("", "\u{feff}1\n2\n").1, ["'1'", "'2'"]);
    assert_eq!(stored("--format lines", "\u{feff}a\n").1, ["'a'"]);
    assert_eq!(stored("--format csv --columns item", "\u{feff}item\n1\n").1, ["'1'"]);
    let (place, rows, _) = stored("", "1\n\u{feff}2\n");
    assert_eq!(rows, ["'1'"]);
    assert_eq!(reasons(&place)[0].0, 2);
}

#[test]
fn crlf_ends_a_line_as_lf_does() {
    assert_eq!(stored("--format lines", "a\r\nb\rc\r\n").1, ["'a'", "'b\rc'"]);
    assert_eq!(stored("", "1\r\n2\r\n").1, ["'1'", "'2'"]);
    assert_eq!(stored("--format csv --columns item", "item\r\n1\r\n2\r\n").1, ["'1'", "'2'"]);
}

#[test]
fn nul_is_kept_in_text_and_is_no_json() {
    let (_, rows, done) = stored("--format lines", "a\0b\n");
    assert_eq!(rows.len(), 1);
    assert_eq!(done.code, Some(0));
    let place = done_place("--format lines", "a\0b\n");
    assert_eq!(place.rows("SELECT hex(item) FROM items"), ["610062"]);
    let (place, rows, _) = stored("", "\"a\0b\"\n\"c\"\n");
    assert_eq!(rows, ["'\"c\"'"]);
    assert!(reasons(&place)[0].1.contains("control character"), "{:?}", reasons(&place));
    let place = done_place("--columns item", "{\"item\":\"a\\u0000b\"}\n");
    assert_eq!(place.rows("SELECT hex(item) FROM items"), ["610062"]);
}

fn done_place(options: &str, input: &str) -> Place {
    let place = Place::new();
    assert_eq!(run(&place, &format!("--to DB {options}"), input).code, Some(0));
    place
}

#[test]
fn deep_nesting_is_rejected() {
    let nest = |n: usize| format!("{}{}\n", "[".repeat(n), "]".repeat(n));
    let input = nest(128) + &nest(129) + &nest(400_000);
    for options in ["", "--columns item"] {
        let (place, rows, _) = stored(options, &input);
        assert_eq!(rows.len(), usize::from(options.is_empty()));
        let deep = |line| (line, "nested deeper than 128 levels".to_owned());
        assert!(reasons(&place).ends_with(&[deep(2), deep(3)]), "{:?}", reasons(&place));
    }
}

#[test]
fn duplicate_keys_are_kept_in_text_and_rejected_for_columns() {
    let input = "{\"item\":1,\"item\":2}\n{\"item\":3}\n";
    assert_eq!(stored("", input).1, ["'{\"item\":1,\"item\":2}'", "'{\"item\":3}'"]);
    let (place, rows, _) = stored("--columns item", input);
    assert_eq!(rows, ["3"]);
    assert_eq!(reasons(&place), [(1, "duplicate key \"item\"".to_owned())]);
}

#[test]
fn long_lines_are_rejected_with_their_beginning() {
    let long = "x".repeat(5_000_000);
    let input = format!("short\n{long}\nlast\n");
    let (place, rows, _) = stored("--format lines --max-line-bytes 1000", &input);
    assert_eq!(rows, ["'short'", "'last'"]);
    let reject = &place.rejects()[0];
    assert_eq!(reject["reason"], "too long: 5000000 bytes, --max-line-bytes is 1000");
    assert_eq!((reject["text"].as_str().unwrap().len(), &reject["cut"]), (256, &true.into()));
}

#[test]
fn blank_lines_are_skipped_and_keep_their_number() {
    let (place, rows, done) = stored("", "1\n\n  \t \r\nx\n");
    assert_eq!(rows, ["'1'"]);
    assert_eq!(reasons(&place)[0].0, 4);
    assert_eq!(done.report().n("items_read"), 2);
}

#[test]
fn empty_input_is_fine() {
    for options in ["", "--format csv", "--format lines"] {
        let (_, rows, done) = stored(options, "");
        assert_eq!((rows.len(), done.code), (0, Some(0)), "{}", done.stderr);
    }
}

#[test]
fn json_values_keep_their_kind_in_columns() {
    let place = Place::new();
    let input = r#"{"z":0,"e":{"x":[1]},"b":-1.5,"a":7,"c":"\"é\u00e9","d":true,"f":null}
{"a":9223372036854775808}
"#;
    let done = run(&place, "--to DB --columns a,b,c,d,e,f,g", input);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let columns =
        ["a", "b", "c", "d", "e", "f", "g"].map(|c| format!("quote({c})")).join("||' '||");
    assert_eq!(
        place.rows(&format!("SELECT {columns} FROM items ORDER BY rowid")),
        [
            r#"7 -1.5 '"éé' 1 '{"x":[1]}' NULL NULL"#,
            "'9223372036854775808' NULL NULL NULL NULL NULL NULL",
        ]
    );
}

#[test]
fn csv_is_matched_by_its_header() {
    let place = Place::new();
    let input = "b,a,c\n\"x,\"\"y\"\"\nz\",1,\nfew\n,,3\n";
    let options = "--to DB --format csv --columns a:integer,b,c:text --rejects REJECTS";
    assert_eq!(run(&place, options, input).code, Some(1));
    let sql = "SELECT quote(a)||quote(b)||quote(c) FROM items ORDER BY rowid";
    assert_eq!(place.rows(sql), ["1'x,\"y\"\nz'''", "NULL'''3'"]);
    assert_eq!(reasons(&place), [(4, "1 fields, the header has 3".to_owned())]);
    let place = done_place("--format csv", "a,b\n1,\"q\"\"\"\n");
    assert_eq!(place.rows("SELECT item FROM items"), [r#"{"a":"1","b":"q\""}"#]);
}
