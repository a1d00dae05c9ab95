//! Promise: one bad row costs no other row, at the price of a few more transactions, also before a
//! database that takes all of a batch or nothing and does not say why.
#![allow(clippy::unwrap_used)] // a test may fail

use rusqlite::Connection;
use sluicegate::{
    Applied, Batch, Batcher, BoxError, Builder, Class, Pump, Shutdown, Sink, TestClock,
    WriteContext, WriteError,
};
use sluicegate_sqlite::{
    BindRow, DeadLetter, DeadLetterSink, DeadLetterStore, Row, SqliteOptions, SqliteSink,
};
use tempfile::TempDir;

const SCHEMA: &str = "CREATE TABLE items (item INTEGER PRIMARY KEY CHECK (item >= 0))";

/// A check that does not find a row bad, but fails itself, which SQLite blames on no row: `abs` of
/// the least number is an "integer overflow".
const FAILING_CHECK: &str = "CREATE TABLE items (item INTEGER PRIMARY KEY CHECK (abs(item) > 0))";

/// A batch of 512, and one of 10,000.
const SIZES: [i64; 2] = [512, 10_000];

/// One `BEGIN … COMMIT` for the whole batch: what a bulk load or a remote procedure is like.
struct AllOrNothing(Connection);

impl Sink<i64> for AllOrNothing {
    fn write(&mut self, batch: &Batch<i64>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let transaction = self.0.transaction().map_err(WriteError::transient)?;
        for item in batch {
            let sql = "INSERT INTO items VALUES (?1)";
            let mut insert = transaction.prepare_cached(sql).map_err(WriteError::transient)?;
            insert.execute([item]).map_err(WriteError::permanent)?; // dropped: rolled back
        }
        transaction.commit().map_err(WriteError::transient)
    }
}

/// A sink that counts how often it is called.
struct Counted<S>(S, u64);

impl<S: Sink<i64>> Sink<i64> for Counted<S> {
    fn write(&mut self, batch: &Batch<i64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.1 += 1;
        self.0.write(batch, cx)
    }
}

struct Db(TempDir);

impl Db {
    fn new(schema: &str) -> Self {
        let db = Self(tempfile::tempdir().unwrap());
        db.connect().execute_batch(schema).unwrap();
        db
    }

    fn connect(&self) -> Connection {
        Connection::open(self.0.path().join("test.db")).unwrap()
    }

    fn sink(&self) -> SqliteSink<i64, impl BindRow<i64> + use<>> {
        fn bind(item: &i64, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
            row.integer(*item)
        }
        SqliteOptions::new(self.0.path().join("test.db")).open(bind).unwrap()
    }

    fn items(&self) -> Vec<i64> {
        let db = self.connect();
        let mut statement = db.prepare("SELECT item FROM items ORDER BY rowid").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// One batch of `size`, with a table for dead letters.
    fn builder(&self, size: i64) -> Builder<i64> {
        let encode = |item: &i64, out: &mut Vec<u8>| {
            out.extend_from_slice(item.to_string().as_bytes());
            Ok(())
        };
        let options = SqliteOptions::new(self.0.path().join("dead.db"));
        let size = usize::try_from(size).unwrap();
        Batcher::builder()
            .queue_depth(16_384)
            .max_batch_size(size)
            .dead_letters(DeadLetterSink::open(&options, encode).unwrap())
    }

    fn letters(&self) -> Vec<DeadLetter> {
        let store = DeadLetterStore::open(self.0.path().join("dead.db")).unwrap();
        store.list(&[], 0, 1_000).unwrap()
    }

    /// Writes 1 to `n` in one batch, with `bad` in the place of one of them; then all the others
    /// are in and the bad one is the only dead letter, with its error. Returns the writes.
    fn write<S: Sink<i64>>(&self, sink: S, n: i64, place: i64, bad: i64, error: &str) -> u64 {
        let sink = Counted(sink, 0);
        let mut pump: Pump<_, _> = self.builder(n).pump(sink, TestClock::new()).unwrap();
        let mut items = (1..=n).map(|item| if item == place { bad } else { item }).collect();
        pump.producer().try_add_many(&mut items).unwrap();
        assert!(items.is_empty());
        pump.run();
        let calls = pump.sink().unwrap().1;
        let report = pump.shutdown();
        self.assert_one_letter(&report, bad, error);
        assert_eq!(report.stats.writes, calls);
        assert_eq!(report.stats.splits, calls - 1, "every other write is a part");
        let good: Vec<i64> = (1..=n).filter(|item| *item != place).collect();
        assert_eq!((report.stats.retries, self.items()), (0, good));
        calls
    }

    fn assert_one_letter(&self, report: &Shutdown<i64>, bad: i64, error: &str) {
        let letters = self.letters();
        let [letter] = &letters[..] else { panic!("{letters:?}") };
        assert_eq!(letter.item, bad.to_string().as_bytes());
        assert_eq!(letter.class, Class::Permanent.name());
        assert_eq!(letter.applied, Applied::Nothing.name());
        assert!(letter.error.contains(error), "{letter:?}");
        let stats = &report.stats;
        assert_eq!((stats.dead_lettered, stats.dead_letter_failures), (1, 0));
        assert_eq!((report.tally.flushed_fail, report.tally.unknown), (1, 0));
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }
}

fn assert_few(writes: u64, n: i64) {
    let extra = writes - 1;
    assert!((1.0..=2.0 * (n as f64).log2() + 2.0).contains(&(extra as f64)), "{extra} more of {n}");
}

#[test]
fn before_an_all_or_nothing_database_bad_rows_are_found_by_halving() {
    for n in SIZES {
        for bad in [1, n / 3, n] {
            let db = Db::new(SCHEMA);
            let sink = AllOrNothing(db.connect());
            assert_few(db.write(sink, n, bad, -bad, "CHECK"), n);
        }
    }
}

#[test]
fn where_sqlite_blames_no_row_the_sqlite_sink_fails_the_batch_and_it_is_halved() {
    for n in SIZES {
        for bad in [1, n / 3, n] {
            let db = Db::new(FAILING_CHECK);
            assert_few(db.write(db.sink(), n, bad, i64::MIN, "integer overflow"), n);
        }
    }
}

/// A row that breaks a constraint is known to SQLite, so the sink marks it and commits the others:
/// no bisection, and not one write more.
#[test]
fn a_row_that_breaks_a_constraint_costs_the_sqlite_sink_no_further_write() {
    for n in SIZES {
        for bad in [1, n / 3, n] {
            let db = Db::new(SCHEMA);
            assert_eq!(db.write(db.sink(), n, bad, -bad, "CHECK"), 1);
        }
    }
}
