//! Promise: the SQLite sink keeps to what the engine relies on, on the tables that people have.
#![allow(clippy::unwrap_used)] // a test may fail

use std::time::Duration;

use rusqlite::Connection;
use sluicegate::BoxError;
use sluicegate::testing::conformance::{Kit, Report, Verdict};
use sluicegate_sqlite::{OpenError, Row, SqliteOptions, SqliteSink};
use tempfile::TempDir;

/// Items from here on are bad, from `PANICKING` on binding panics at them.
const BAD: i64 = 1_000_000;
const PANICKING: i64 = 2_000_000;

type Bind = fn(&i64, &mut Row<'_, '_>) -> Result<(), BoxError>;

fn bind(item: &i64, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
    assert!(*item < PANICKING, "as planned");
    row.integer(*item)
}

/// A database with a table, in a folder that goes away with the test.
struct Db {
    dir: TempDir,
    options: SqliteOptions,
}

impl Db {
    fn new(schema: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        // Longer than any check: who does not look at the deadline hangs.
        let options = SqliteOptions::new(path).busy_timeout(Duration::from_secs(3600));
        let db = Self { dir, options };
        db.connect().execute_batch(schema).unwrap();
        db
    }

    fn connect(&self) -> Connection {
        Connection::open(self.dir.path().join("test.db")).unwrap()
    }

    fn open(&self) -> Result<SqliteSink<i64, Bind>, OpenError> {
        self.options.open(bind as Bind)
    }

    fn items(&self) -> Result<Vec<i64>, rusqlite::Error> {
        let db = self.connect();
        let mut statement = db.prepare("SELECT item FROM items ORDER BY rowid")?;
        statement.query_map([], |row| row.get(0))?.collect()
    }

    /// Another program that writes, for as long as it is there.
    fn locked(&self) -> Connection {
        let other = self.connect();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }
}

fn kit(schema: &'static str) -> Kit<i64, Db, SqliteSink<i64, Bind>> {
    let number = |n: u64| i64::try_from(n).unwrap();
    Kit::new(move || Db::new(schema), Db::open, number, Db::items)
        .bad_item(move |n| BAD + number(n))
        .panicking_item(move |n| PANICKING + number(n))
        .stalled_by(Db::locked)
}

#[track_caller]
fn assert_remark(report: &Report, check: &str, remark: &str) {
    let verdict = report.verdict(check).unwrap();
    assert!(matches!(verdict, Verdict::Passed(text) if text.contains(remark)), "\n{report}");
}

#[test]
fn with_a_constraint_that_the_bad_row_breaks_at_once() {
    let report =
        kit("CREATE TABLE items (item INTEGER NOT NULL CHECK (item < 1000000)) STRICT").run();
    report.assert();
    assert_remark(&report, "a bad item is told exactly", "the bad item fails alone");
    assert_remark(&report, "the same batch twice", "idempotent: no");
    let in_time = Verdict::Passed(String::new()); // and no remark that it was hardly tried
    assert_eq!(report.verdict("a deadline that has passed"), Some(&in_time), "\n{report}");
}

#[test]
fn with_a_constraint_that_rolls_the_transaction_back() {
    kit("CREATE TABLE items (item INTEGER);
         INSERT INTO items VALUES (-1); DELETE FROM items;
         CREATE TRIGGER no_bad BEFORE INSERT ON items WHEN NEW.item >= 1000000
         BEGIN SELECT RAISE(ROLLBACK, 'too big'); END")
    .run()
    .assert();
}

#[test]
fn with_a_constraint_that_only_the_commit_checks() {
    let report = kit("PRAGMA foreign_keys = ON;
         CREATE TABLE bounds (item INTEGER PRIMARY KEY);
         CREATE TABLE items (
           item INTEGER,
           bound INTEGER GENERATED ALWAYS AS (CASE WHEN item >= 1000000 THEN 1 END) STORED
             REFERENCES bounds (item) DEFERRABLE INITIALLY DEFERRED)")
    .run();
    report.assert();
    assert_remark(&report, "a bad item is told exactly", "the bad item fails alone");
}

#[test]
fn a_table_with_a_key_that_replaces_makes_it_idempotent() {
    let schema = "CREATE TABLE items (item INTEGER UNIQUE ON CONFLICT REPLACE \
                  CHECK (item < 1000000))";
    let report = kit(schema).idempotent(true).run();
    report.assert();
    assert_remark(&report, "the same batch twice", "idempotent: yes");
}
