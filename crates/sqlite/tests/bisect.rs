//! Promise: one bad row costs no other row, at the price of a few more transactions, also before a
//! database that takes all of a batch or nothing and does not say why.
#![allow(clippy::unwrap_used)] // a test may fail

use rusqlite::Connection;
use sluicegate::testing::{FaultSink, Faults};
use sluicegate::{
    Batch, Batcher, BoxError, Builder, Class, Pump, Sink, TestClock, WriteContext, WriteError,
};
use sluicegate_sqlite::{Row, SqliteOptions};
use tempfile::TempDir;

const SCHEMA: &str = "CREATE TABLE items (item INTEGER PRIMARY KEY CHECK (item >= 0))";

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

struct Db(TempDir);

impl Db {
    fn new() -> Self {
        let db = Self(tempfile::tempdir().unwrap());
        db.connect().execute_batch(SCHEMA).unwrap();
        db
    }

    fn connect(&self) -> Connection {
        Connection::open(self.0.path().join("test.db")).unwrap()
    }

    fn items(&self) -> Vec<i64> {
        let db = self.connect();
        let mut statement = db.prepare("SELECT item FROM items ORDER BY rowid").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn builder(size: i64) -> Builder<i64> {
    let size = usize::try_from(size).unwrap();
    Batcher::builder().queue_depth(16_384).max_batch_size(size)
}

/// Writes 1 to `n` in one batch, of which the row at `bad` breaks the constraint.
fn write<S: Sink<i64>>(pump: &mut Pump<i64, S>, n: i64, bad: i64) {
    let mut items = (1..=n).map(|item| if item == bad { -item } else { item }).collect();
    pump.producer().try_add_many(&mut items).unwrap();
    pump.run();
}

#[test]
fn before_an_all_or_nothing_database_bad_rows_are_found_by_halving() {
    for n in SIZES {
        for bad in [1, n / 3, n] {
            let db = Db::new();
            let sink = AllOrNothing(db.connect());
            let mut pump = builder(n).pump(sink, TestClock::new()).unwrap();
            write(&mut pump, n, bad);
            let report = pump.shutdown();
            let extra = report.stats.writes - 1;
            assert!(extra as f64 <= 2.0 * (n as f64).log2() + 2.0, "{extra} more, {bad} of {n}");
            assert_eq!(report.failed.len(), 1);
            assert_eq!(report.failed[0].item, -bad);
            assert_eq!(report.failed[0].error.class(), Class::Permanent);
            assert!(report.failed[0].error.to_string().contains("CHECK"));
            assert_eq!(db.items(), (1..=n).filter(|item| *item != bad).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_sqlite_sink_knows_the_bad_row_and_needs_one_write() {
    fn bind(item: &i64, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
        row.integer(*item)
    }
    for n in SIZES {
        let db = Db::new();
        let sink = SqliteOptions::new(db.0.path().join("test.db")).open(bind).unwrap();
        let faults = Faults::seeded(0);
        let sink: FaultSink<i64, _> = faults.wrap(sink);
        let mut pump = builder(n).pump(sink, TestClock::new()).unwrap();
        write(&mut pump, n, n / 3);
        let report = pump.shutdown();
        assert_eq!((report.stats.writes, report.stats.splits, faults.log().len()), (1, 0, 1));
        assert_eq!((report.failed.len(), report.failed[0].item), (1, -(n / 3)));
        assert_eq!(db.items(), (1..=n).filter(|item| *item != n / 3).collect::<Vec<_>>());
    }
}
