//! Promise: what the report says is in the table is in the table, and a bad row takes no other row
//! with it.
#![allow(clippy::unwrap_used)] // a test may fail

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use sluicegate::{Applied, Batcher, BoxError, Class, Flusher, Shutdown};
use sluicegate_sqlite::{Affinity, Column, OpenError, Row, SqliteOptions, SqliteSink, Synchronous};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

struct Db {
    _dir: TempDir,
    path: PathBuf,
}

impl Db {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { path: dir.path().join("test.db"), _dir: dir }
    }
    fn with(schema: &str) -> Self {
        let db = Self::new();
        db.connect().execute_batch(schema).unwrap();
        db
    }
    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }
    fn options(&self) -> SqliteOptions {
        SqliteOptions::new(&self.path)
    }
    fn texts(&self, sql: &str) -> Vec<String> {
        let db = self.connect();
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
    fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.connect().query_row(&sql, [], |row| row.get(0)).unwrap()
    }
}

fn bind(item: &&'static str, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
    match *item {
        "unbindable" => Err("cannot be bound".into()),
        "unbound" => Ok(()),
        text => row.text(text),
    }
}

/// All items in one batch.
fn write(options: &SqliteOptions, items: &[&'static str]) -> Shutdown<&'static str> {
    let options = options.clone();
    let batcher = Batcher::builder()
        .retry(None)
        .bisect(false)
        .breaker(None)
        .max_batch_size(1_000)
        .max_batch_delay(Duration::from_secs(50))
        .spawn(move |_: Flusher| options.open(bind))
        .unwrap();
    let producer = batcher.producer();
    for item in items {
        producer.add(*item).unwrap();
    }
    let shutdown = batcher.shutdown(LONG);
    assert!(shutdown.tally.balances());
    shutdown
}

fn failed(shutdown: &Shutdown<&'static str>) -> Vec<(&'static str, String)> {
    shutdown.failed.iter().map(|failed| (failed.item, failed.error.to_string())).collect()
}

#[test]
fn a_batch_is_a_transaction_in_a_strict_table_of_its_own_making() {
    let db = Db::new();
    let shutdown = write(&db.options(), &["a", "b", "a\0b"]);
    assert!(shutdown.is_clean(), "{shutdown:?}");
    assert_eq!(db.texts("SELECT item FROM items ORDER BY rowid"), ["a", "b", "a\0b"]);
    assert_eq!(shutdown.stats.batches, 1);
    let sql = db.texts("SELECT sql FROM sqlite_schema");
    assert_eq!(sql, [r#"CREATE TABLE "items" ("item" ANY) STRICT"#]);
    assert_eq!(db.texts("PRAGMA journal_mode"), ["wal"]);
}

#[test]
fn every_kind_of_value_is_bound() {
    let db = Db::new();
    let options = db.options().columns(["a", "b", "c", "d", "e"].map(Column::new));
    let batcher = Batcher::builder()
        .retry(None)
        .bisect(false)
        .breaker(None)
        .spawn(move |_: Flusher| {
            options.open(|_: &u8, row: &mut Row<'_, '_>| {
                row.integer(-1)?;
                row.real(0.5)?;
                row.text("é")?;
                row.blob(&[0, 255])?;
                row.null()
            })
        })
        .unwrap();
    batcher.producer().add(0).unwrap();
    assert!(batcher.shutdown(LONG).is_clean());
    let row = "SELECT quote(a)||quote(b)||quote(c)||quote(d)||quote(e) FROM items";
    assert_eq!(db.texts(row), ["-10.5'é'X'00FF'NULL"]);
}

#[test]
fn a_bad_row_fails_alone() {
    let db = Db::with("CREATE TABLE items (item TEXT UNIQUE CHECK (item <> 'bad')) STRICT");
    let shutdown = write(&db.options(), &["a", "bad", "b", "a", "unbindable", "unbound", "c"]);
    let reasons = [
        ("bad", "CHECK constraint failed: item <> 'bad'"),
        ("a", "UNIQUE constraint failed: items.item"),
        ("unbindable", "cannot be bound"),
        ("unbound", "0 values were bound for 1 columns"),
    ];
    assert_eq!(failed(&shutdown), reasons.map(|(item, reason)| (item, reason.to_owned())));
    assert!(shutdown.failed.iter().all(|f| f.error.class() == Class::Permanent));
    assert_eq!(db.texts("SELECT item FROM items ORDER BY rowid"), ["a", "b", "c"]);
    assert_eq!((shutdown.tally.flushed_ok, shutdown.tally.flushed_fail), (3, 4));
}

#[test]
fn a_value_that_a_strict_column_cannot_hold_fails_its_row() {
    let db = Db::new();
    let column = Column::new("item").affinity(Affinity::Integer);
    let shutdown = write(&db.options().columns([column]), &["1", "x", "3"]);
    let reason = "cannot store TEXT value in INTEGER column items.item".to_owned();
    assert_eq!(failed(&shutdown), [("x", reason)]);
    assert_eq!(db.texts("SELECT CAST(item AS TEXT) FROM items"), ["1", "3"]);
}

#[test]
fn a_row_that_rolls_the_transaction_back_takes_no_other_row_with_it() {
    let db = Db::with("CREATE TABLE items (item TEXT UNIQUE ON CONFLICT ROLLBACK)");
    let shutdown = write(&db.options(), &["a", "b", "a", "c", "b", "d"]);
    let items: Vec<_> = failed(&shutdown).into_iter().map(|(item, _)| item).collect();
    assert_eq!(items, ["a", "b"]);
    assert_eq!(db.texts("SELECT item FROM items ORDER BY rowid"), ["a", "b", "c", "d"]);
}

#[test]
fn a_row_that_the_table_ignores_is_not_counted_as_stored() {
    let db = Db::with("CREATE TABLE items (item TEXT UNIQUE ON CONFLICT IGNORE)");
    let shutdown = write(&db.options(), &["a", "a", "b"]);
    assert_eq!(failed(&shutdown).len(), 1);
    assert_eq!(db.count("items"), 2);
}

#[test]
fn a_constraint_checked_at_the_commit_fails_only_the_row_that_broke_it() {
    let db = Db::with(
        "CREATE TABLE parents (name TEXT PRIMARY KEY);
         INSERT INTO parents VALUES ('a'), ('b');
         CREATE TABLE items (item TEXT REFERENCES parents DEFERRABLE INITIALLY DEFERRED);",
    );
    let shutdown = write(&db.options(), &["a", "orphan", "b"]);
    assert_eq!(failed(&shutdown), [("orphan", "FOREIGN KEY constraint failed".to_owned())]);
    assert_eq!(db.texts("SELECT item FROM items ORDER BY rowid"), ["a", "b"]);
}

#[test]
fn names_are_quoted_never_spliced() {
    let db = Db::with("CREATE TABLE victim (x); INSERT INTO victim VALUES (1);");
    let table = r#"x"; DROP TABLE victim; --"#;
    let column = Column::new(r#"a" TEXT); DROP TABLE victim; --"#);
    let options = db.options().table(table).columns([column]);
    assert!(write(&options, &["a"]).is_clean());
    assert!(write(&options, &["b"]).is_clean());
    assert_eq!(db.count("victim"), 1);
    assert_eq!(db.count(&sluicegate_sqlite::quote(table).unwrap()), 2);
}

fn refusal(options: &SqliteOptions) -> OpenError {
    options.open(bind).unwrap_err()
}

#[test]
fn what_does_not_match_is_named() {
    let db = Db::with(
        "CREATE TABLE items (Item TEXT, other TEXT NOT NULL, made TEXT AS (item || 'x'));
         CREATE VIEW look AS SELECT * FROM items;",
    );
    let columns =
        |names: &[&str]| db.options().columns(names.iter().map(|name| Column::new(*name)));
    let says = |options: &SqliteOptions, what: &str| {
        let error = refusal(options);
        assert!(error.is_schema() && error.to_string().contains(what), "{error}");
    };
    says(&columns(&["item"]), r#"needs a value for its column "other""#);
    says(
        &columns(&["item", "other", "x"]),
        r#"has no column ["x"]; it has ["Item", "other", "made"]"#,
    );
    says(&columns(&["item", "other", "made"]), r#"computes its column "made""#);
    says(&columns(&["item", "ITEM"]), r#"column "ITEM" is named twice"#);
    says(&columns(&[]), "no columns");
    says(&columns(&["a\0b"]), "contains a NUL");
    says(&db.options().table(""), "is empty");
    says(&db.options().table("look"), "is a view");
    says(&db.options().table("missing").create(false), "does not exist");
    columns(&["ITEM", "other"]).open(bind).unwrap();
}

#[test]
fn names_and_numbers_that_sqlite_cannot_have_are_told() {
    let db = Db::new();
    let error = refusal(&db.options().table("SQLite_x"));
    assert!(matches!(error, OpenError::Name { .. }), "{error}");
    let many = (0..2_001).map(|n| Column::new(format!("c{n}")));
    let error = refusal(&db.options().columns(many));
    assert!(matches!(error, OpenError::Columns(_)), "{error}");
}

#[test]
fn a_key_that_must_be_given_is_missed_and_a_row_number_is_not() {
    let keyed = [
        "CREATE TABLE items (id TEXT NOT NULL PRIMARY KEY, item)",
        "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, item) WITHOUT ROWID",
        "CREATE TABLE items (id INTEGER NOT NULL, b INTEGER, item, PRIMARY KEY (id, b))",
        "CREATE TABLE items (id TEXT PRIMARY KEY, item TEXT) STRICT",
    ];
    for schema in keyed {
        let error = refusal(&Db::with(schema).options());
        assert!(error.to_string().contains("needs a value for its column \"id\""), "{error}");
    }
    let db = Db::with("CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, item)");
    assert!(write(&db.options(), &["a"]).is_clean());
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let db = Db::new();
    std::fs::write(&db.path, "not a database, but long enough to look like one".repeat(50))
        .unwrap();
    assert!(matches!(refusal(&db.options()), OpenError::Sqlite(_)));
    assert!(!refusal(&db.options()).is_schema());
}

#[test]
fn a_lock_that_outlasts_the_patience_is_transient_and_nothing_was_applied() {
    let db = Db::with("CREATE TABLE items (item TEXT); PRAGMA journal_mode = wal;");
    let other = db.connect();
    let options = db.options().busy_timeout(Duration::from_millis(20));
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let shutdown = write(&options, &["a", "b"]);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(shutdown.tally.flushed_fail, 2);
    for failed in &shutdown.failed {
        let error = (failed.error.class(), failed.error.what_applied());
        assert_eq!(error, (Class::Transient, Applied::Nothing));
    }
    assert_eq!(db.count("items"), 0);
}

#[test]
fn a_transaction_that_takes_its_time_is_not_cut_short() {
    const LIMIT: Duration = Duration::from_millis(20);
    let db = Db::new();
    let options = db.options();
    let slow = |item: &u64, row: &mut Row<'_, '_>| -> Result<(), BoxError> {
        let began = std::time::Instant::now();
        while *item == 0 && began.elapsed() <= LIMIT {
            thread::yield_now();
        }
        row.text(&item.to_string())
    };
    let batcher = Batcher::builder()
        .write_timeout(LIMIT)
        .max_batch_delay(None)
        .spawn(move |_: Flusher| options.open(slow))
        .unwrap();
    let mut items = Vec::from_iter(0..200_u64);
    batcher.producer().add_many(&mut items).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!((report.tally.flushed_ok, db.count("items")), (200, 200));
    assert_eq!((report.stats.writes, report.stats.splits), (1, 0));
}

#[test]
fn a_shutdown_ends_the_waiting_for_the_turn() {
    let db = Db::new();
    let options = db.options();
    let (sender, reached) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let slow = move |item: &u64, row: &mut Row<'_, '_>| -> Result<(), BoxError> {
        if *item == 0 {
            sender.send(())?;
            let _ = gate.lock().unwrap().recv(); // until the test has its report
        }
        row.text(&item.to_string())
    };
    let slow = std::sync::Arc::new(slow);
    let batcher = Batcher::builder()
        .max_batch_size(1)
        .flushers(2)
        .write_timeout(LONG)
        .spawn(move |_: Flusher| {
            let slow = std::sync::Arc::clone(&slow);
            options.open(move |item: &u64, row: &mut Row<'_, '_>| slow(item, row))
        })
        .unwrap();
    batcher.producer().add(0).unwrap();
    reached.recv_timeout(LONG).unwrap();
    batcher.producer().add(1).unwrap();
    while batcher.stats().queue_depth > 0 {
        thread::yield_now(); // until the other flusher has it
    }
    let report = batcher.shutdown(Duration::from_millis(100));
    assert_eq!((report.tally.unknown, report.unflushed), (1, vec![1]), "it was not sent");
    drop(open);
}

#[test]
fn a_lock_that_ends_in_time_only_delays() {
    let db = Db::with("CREATE TABLE items (item TEXT); PRAGMA journal_mode = wal;");
    let other = db.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (options, (done, finished)) = (db.options().busy_timeout(LONG), mpsc::channel());
    let writer = thread::spawn(move || done.send(write(&options, &["a"]).is_clean()));
    other.execute_batch("COMMIT").unwrap();
    assert!(finished.recv().unwrap());
    writer.join().unwrap().unwrap();
}

#[test]
fn a_full_database_fails_the_batch_and_leaves_what_was_there() {
    let db = Db::new();
    assert!(write(&db.options(), &["a"]).is_clean());
    let big: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    let shutdown = write(&db.options().max_page_count(32), &["b", big, "c"]);
    assert_eq!(shutdown.tally.flushed_fail, 3);
    assert!(shutdown.failed.iter().all(|failed| failed.error.class() == Class::Transient));
    assert_eq!(db.texts("SELECT item FROM items"), ["a"]);
}

#[test]
fn a_dropped_table_is_permanent_and_the_sink_goes_on_when_it_is_back() {
    let db = Db::new();
    let options = db.options();
    let batcher = Batcher::builder()
        .retry(None)
        .bisect(false)
        .breaker(None)
        .spawn(move |_: Flusher| options.open(bind))
        .unwrap();
    let producer = batcher.producer();
    let other = db.connect();
    other.execute_batch("DROP TABLE items").unwrap();
    producer.add("a").unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_fail, 1);
    other.execute_batch("CREATE TABLE items (item TEXT)").unwrap();
    producer.add("b").unwrap();
    assert_eq!(batcher.flush(LONG).unwrap().flushed_ok, 1);
    let shutdown = batcher.shutdown(LONG);
    assert_eq!(shutdown.failed[0].error.class(), Class::Permanent);
}

#[test]
fn several_flushers_share_a_file() {
    const ITEMS: u64 = 20_000;
    let db = Db::new();
    let options = db.options().synchronous(Synchronous::Off).busy_timeout(LONG);
    let batcher = Batcher::builder()
        .retry(None)
        .bisect(false)
        .breaker(None)
        .flushers(4)
        .max_batch_size(64)
        .spawn(move |_: Flusher| {
            options.open(|item: &u64, row: &mut Row<'_, '_>| row.integer(i64::try_from(*item)?))
        })
        .unwrap();
    let producer = batcher.producer();
    for item in 0..ITEMS {
        producer.add(item).unwrap();
    }
    assert!(batcher.shutdown(LONG).is_clean());
    let sql = "SELECT count(*) || ' ' || count(DISTINCT item) || ' ' || sum(item) FROM items";
    let sum = ITEMS * (ITEMS - 1) / 2;
    assert_eq!(db.texts(sql), [format!("{ITEMS} {ITEMS} {sum}")]);
}

#[test]
fn the_limit_is_told_to_the_engine() {
    let db = Db::new();
    let shutdown = write(&db.options().max_batch_size(2), &["a", "b", "c", "d", "e"]);
    assert!(shutdown.is_clean());
    assert_eq!(shutdown.stats.batch_size.max, 2);
}

#[test]
fn the_choice_of_synchronous_reaches_sqlite() {
    for (choice, number) in
        [(Synchronous::Full, 2), (Synchronous::Normal, 1), (Synchronous::Off, 0)]
    {
        let db = Db::new();
        let sink: SqliteSink<&'static str, _> =
            db.options().synchronous(choice).open(bind).unwrap();
        assert!(format!("{sink:?}").contains(&format!("synchronous: {number}")), "{sink:?}");
    }
}
