//! Measures rows/s into SQLite, through the engine and by the same transactions without it: same
//! rows, same statement, same number of rows in each transaction, WAL, a new file each time.
//!
//! | case | |
//! |---|---|
//! | `engine` | one producer adds the rows, one flusher with a `SqliteSink` writes them |
//! | `direct` | one thread makes the rows and writes them: what a program without a batcher would do |
//!
//! Clock: from the open file to the end of the last commit. The two are neighbours in a turn, and
//! the first place changes from round to round; ratios are of the same turn. `normal` and `full` are
//! SQLite's `synchronous`: with `normal` no commit waits for the disk, so that the engine's own cost
//! shows. Every turn asks the file for count and sum.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use sluicegate::{Batcher, BoxError, WriteError};
use sluicegate_sqlite::{Affinity, Column, Row, SqliteOptions, SqliteSink, Synchronous};

#[path = "../../../benches/common/mod.rs"]
mod common;
use common::{Figure, Turn, or_quick, take_turns};

/// Rows of a transaction, when SQLite waits for the disk, and rows in all: whole transactions.
const SIZES: [(usize, Synchronous, i64); 4] = [
    (64, Synchronous::Normal, 64 * 1_600),
    (512, Synchronous::Normal, 512 * 400),
    (4_096, Synchronous::Normal, 4_096 * 50),
    (512, Synchronous::Full, 512 * 200),
];
const ROUNDS: usize = 9;
const LONG: Duration = Duration::from_secs(600);
const SENSORS: [&str; 4] = ["inlet", "outlet", "upstream gauge", "downstream gauge"];

/// A row.
struct Reading {
    number: i64,
    sensor: &'static str,
    value: f64,
}

impl Reading {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // numbers count from 0
    fn new(number: i64) -> Self {
        let sensor = SENSORS[number as usize % SENSORS.len()];
        Self { number, sensor, value: number as f64 / 7.0 }
    }
}

/// What the two do alike.
#[derive(Clone, Copy)]
struct Work {
    batch: usize,
    synchronous: Synchronous,
    rows: i64,
}

fn main() {
    take_turns("sqlite", ROUNDS, SIZES.map(turn).into());
}

fn turn((batch, synchronous, rows): (usize, Synchronous, i64)) -> Turn {
    let size = format!("{batch} rows {}", synchronous.name());
    Turn::new(size.clone(), move |round| {
        let work = Work { batch, synchronous, rows: or_quick(rows, rows / 10) };
        let (engine, direct) = if round % 2 == 1 {
            let engine = rate(work, through_engine);
            (engine, rate(work, directly))
        } else {
            let direct = rate(work, directly);
            (rate(work, through_engine), direct)
        };
        vec![
            Figure::new(format!("engine {size}"), RATE, engine),
            Figure::new(format!("engine {size}"), "engine / direct", engine / direct),
            Figure::new(format!("direct {size}"), RATE, direct),
        ]
    })
}

const RATE: &str = "K rows/s";

/// Thousand rows a second into a new file on the disk of the target directory.
fn rate(work: Work, write: fn(Work, &SqliteOptions, &Path) -> Duration) -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made");
    let file = folder.path().join("readings.db");
    let columns = [
        Column::new("number").affinity(Affinity::Integer),
        Column::new("sensor").affinity(Affinity::Text),
        Column::new("value").affinity(Affinity::Real),
    ];
    let options = SqliteSink::<Reading>::options(&file)
        .table("readings")
        .columns(columns)
        .synchronous(work.synchronous);
    let took = write(work, &options, &file);
    check(work, &file);
    work.rows as f64 / took.as_secs_f64() / 1e3
}

fn bind(reading: &Reading, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
    row.integer(reading.number)?;
    row.text(reading.sensor)?;
    row.real(reading.value)
}

fn through_engine(work: Work, options: &SqliteOptions, _: &Path) -> Duration {
    let options = options.clone();
    let spawned = Batcher::builder()
        .max_batch_size(work.batch)
        .queue_depth(8_192)
        .spawn(move |_| options.open(bind).map_err(WriteError::permanent));
    let batcher = spawned.expect("the file can be opened");
    let producer = batcher.producer();
    let start = Instant::now();
    for number in 0..work.rows {
        producer.add(Reading::new(number)).expect("the engine is open");
    }
    batcher.flush(LONG).expect("SQLite takes everything");
    let took = start.elapsed();
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    assert_eq!(report.stats.batches, transactions(work));
    took
}

fn transactions(work: Work) -> u64 {
    (work.rows as u64).div_ceil(work.batch as u64)
}

fn directly(work: Work, options: &SqliteOptions, file: &Path) -> Duration {
    drop(options.open(bind).expect("the file can be opened")); // makes the table, and enters WAL
    let db = Connection::open(file).expect("the file can be opened");
    let set = db.pragma_update(None, "synchronous", work.synchronous.name());
    set.expect("SQLite knows the setting");
    let start = Instant::now();
    let mut next = 0;
    for _ in 0..transactions(work) {
        let end = (next + work.batch as i64).min(work.rows);
        transaction(&db, next..end).expect("SQLite takes everything");
        next = end;
    }
    start.elapsed()
}

fn transaction(db: &Connection, numbers: std::ops::Range<i64>) -> rusqlite::Result<()> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut insert = db.prepare_cached("INSERT INTO readings VALUES (?, ?, ?)")?;
    for Reading { number, sensor, value } in numbers.map(Reading::new) {
        insert.execute(params![number, sensor, value])?;
    }
    drop(insert);
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn check(work: Work, file: &Path) {
    let db = Connection::open(file).expect("the file can be opened");
    let ask = "SELECT count(*), sum(number), (SELECT journal_mode FROM pragma_journal_mode) \
               FROM readings";
    let told = db.query_row(ask, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let expected = (work.rows, (0..work.rows).sum::<i64>(), "wal".to_owned());
    assert_eq!(told, Ok(expected));
}
