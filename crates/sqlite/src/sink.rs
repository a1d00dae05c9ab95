//! The sink: a transaction per batch.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, TransactionState};
use sluicegate::sink::SinkLimits;
use sluicegate::{Applied, Batch, BoxError, Sink, WriteContext, WriteError};

use crate::classify::{is_constraint, is_row_fault, may_have_applied, write_error};
use crate::row::{BindRow, Row};
use crate::turn::Turn;
use crate::{OpenError, SqliteOptions, schema};

/// Between two tries to switch a file to WAL, for which SQLite does not use its own busy handler.
const WAL_RETRY: Duration = Duration::from_millis(5);

/// Writes each batch in one transaction. Opened by [`SqliteOptions::open`]; one per flusher.
///
/// # What a failure means
/// - A row that SQLite refuses (a constraint, a value that a `STRICT` column can't hold, one that
///   is too big, one that the table's own `ON CONFLICT IGNORE` or a trigger dropped) fails alone;
///   the rest of the batch is committed.
/// - Everything else fails the batch, which is rolled back, so that nothing was applied. Locked by
///   another writer, disk full, an I/O error: [`Class::Transient`](sluicegate::Class::Transient).
/// - A `COMMIT` that ends in an I/O error leaves open whether a later recovery finds the batch in
///   the log: [`Applied::Unknown`].
/// - A constraint that only `COMMIT` checks (a deferred foreign key) does not say which row broke
///   it: the rows are then written one by one.
pub struct SqliteSink<T, B = fn(&T, &mut Row<'_, '_>) -> Result<(), BoxError>> {
    db: Connection,
    insert: String,
    columns: usize,
    bind: B,
    busy_timeout: Duration,
    limits: SinkLimits,
    /// Items of the batch at hand that have failed; kept for its buffer.
    refused: Vec<bool>,
    /// Held while writing: SQLite's own waiting sleeps up to 100 ms at a time and starves whoever
    /// has bad luck, which is left to writers of other processes.
    turn: Arc<Turn>,
    item: PhantomData<fn(&T)>,
}

/// How one pass over the batch ended.
enum Pass {
    /// Committed.
    Done,
    /// A bad row has rolled the whole transaction back (`ON CONFLICT ROLLBACK`): again, without it.
    Again,
    /// A row breaks a constraint that is checked at the commit.
    Deferred,
}

impl<T> SqliteSink<T> {
    /// Where a sink starts: the options for this file.
    pub fn options(path: impl AsRef<Path>) -> SqliteOptions {
        SqliteOptions::new(path)
    }
}

impl<T, B: BindRow<T>> SqliteSink<T, B> {
    pub(crate) fn open(options: &SqliteOptions, bind: B) -> Result<Self, OpenError> {
        let (db, insert) = connect(options)?;
        let mut limits = SinkLimits::default();
        limits.max_batch_size = options.max_batch_size;
        Ok(Self {
            db,
            insert,
            columns: options.columns.len(),
            bind,
            busy_timeout: options.busy_timeout,
            limits,
            refused: Vec::new(),
            turn: Arc::clone(&options.turn),
            item: PhantomData,
        })
    }

    fn transaction(
        &mut self,
        batch: &Batch<T>,
        cx: &mut WriteContext<'_>,
    ) -> Result<Pass, WriteError> {
        let db = &self.db;
        execute(db, "BEGIN IMMEDIATE").map_err(write_error)?;
        let mut statement = db.prepare_cached(&self.insert).map_err(write_error)?;
        for (index, item) in batch.iter().enumerate() {
            if self.refused[index] {
                continue;
            }
            let Err(fault) = insert(&mut statement, &self.bind, item, self.columns) else {
                continue;
            };
            match fault {
                Fault::Row(error) => {
                    self.refused[index] = true;
                    cx.fail(index, error);
                    if db.is_autocommit() {
                        return Ok(Pass::Again);
                    }
                }
                Fault::Database(error) => return Err(write_error(error)),
            }
        }
        drop(statement);
        match execute(db, "COMMIT") {
            Ok(()) => Ok(Pass::Done),
            Err(error) if is_constraint(&error) && batch.len() > 1 => Ok(Pass::Deferred),
            Err(error) if may_have_applied(&error) => {
                Err(write_error(error).applied(Applied::Unknown))
            }
            Err(error) => Err(write_error(error)),
        }
    }

    /// A transaction per row. Some rows may be in when a later one fails, so each failure is told
    /// by its row.
    fn one_by_one(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) {
        for (index, item) in batch.iter().enumerate() {
            if self.refused[index] {
                continue;
            }
            let patience = self.limit_patience(cx);
            if let Err(error) = patience.and_then(|()| self.one(item)) {
                cx.fail(index, error);
            }
            let _ = self.roll_back();
        }
    }

    fn one(&self, item: &T) -> Result<(), WriteError> {
        execute(&self.db, "BEGIN IMMEDIATE").map_err(write_error)?;
        let mut statement = self.db.prepare_cached(&self.insert).map_err(write_error)?;
        match insert(&mut statement, &self.bind, item, self.columns) {
            Ok(()) => {}
            Err(Fault::Row(error)) => return Err(error),
            Err(Fault::Database(error)) => return Err(write_error(error)),
        }
        drop(statement);
        execute(&self.db, "COMMIT").map_err(|error| {
            let unknown = may_have_applied(&error);
            write_error(error).applied(if unknown { Applied::Unknown } else { Applied::Nothing })
        })
    }

    /// Ends a transaction that is still open; does nothing where SQLite has ended it.
    fn roll_back(&self) -> Result<(), rusqlite::Error> {
        if self.db.is_autocommit() { Ok(()) } else { execute(&self.db, "ROLLBACK") }
    }

    /// Other writers are waited for no longer than the engine waits for this call.
    fn limit_patience(&self, cx: &WriteContext<'_>) -> Result<(), WriteError> {
        match cx.time_left() {
            Some(left) => self.db.busy_timeout(left.min(self.busy_timeout)).map_err(write_error),
            None => Ok(()),
        }
    }
}

impl<T, B: BindRow<T>> Sink<T> for SqliteSink<T, B> {
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let turn = Arc::clone(&self.turn);
        let _turn = turn.take(cx)?;
        self.limit_patience(cx)?;
        self.roll_back().map_err(write_error)?;
        self.refused.clear();
        self.refused.resize(batch.len(), false);
        // Each further pass has at least one more refused row, so this ends.
        loop {
            let pass = self.transaction(batch, cx);
            let rolled_back =
                if matches!(pass, Ok(Pass::Done)) { Ok(()) } else { self.roll_back() };
            match pass {
                Ok(Pass::Done) => return Ok(()),
                Ok(Pass::Again) => rolled_back.map_err(write_error)?,
                Ok(Pass::Deferred) => {
                    rolled_back.map_err(write_error)?;
                    self.one_by_one(batch, cx);
                    return Ok(());
                }
                // Where even the rollback failed the transaction is still uncommitted: `write`
                // rolls back again before the next batch, and closing the connection does too.
                Err(error) => return Err(error),
            }
        }
    }

    fn limits(&self) -> SinkLimits {
        self.limits
    }
}

impl<T, B> fmt::Debug for SqliteSink<T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writing =
            matches!(self.db.transaction_state::<&str>(None), Ok(TransactionState::Write));
        let synchronous =
            self.db.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0));
        f.debug_struct("SqliteSink")
            .field("insert", &self.insert)
            .field("synchronous", &synchronous.unwrap_or(-1))
            .field("in_transaction", &writing)
            .finish_non_exhaustive()
    }
}

/// Opens the file, with its table created or checked, and gives the insert for it.
pub(crate) fn connect(options: &SqliteOptions) -> Result<(Connection, String), OpenError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, options.create);
    let db = Connection::open_with_flags(&options.path, flags)?;
    db.busy_timeout(options.busy_timeout)?;
    enter_wal(&db, options.busy_timeout)?;
    db.pragma_update(None, "synchronous", options.synchronous.name())?;
    if let Some(pages) = options.max_page_count {
        db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    let insert = schema::prepare(&db, options)?;
    db.prepare_cached(&insert)?;
    Ok((db, insert))
}

/// Who is at fault when an insert fails.
pub(crate) enum Fault {
    Row(WriteError),
    Database(rusqlite::Error),
}

pub(crate) fn insert<T, B: BindRow<T>>(
    statement: &mut Statement<'_>,
    bind: &B,
    item: &T,
    columns: usize,
) -> Result<(), Fault> {
    let mut row = Row::new(statement);
    bind.bind(item, &mut row).map_err(|error| Fault::Row(WriteError::permanent(error)))?;
    let bound = row.bound();
    if bound != columns {
        let what = format!("{bound} values were bound for {columns} columns");
        return Err(Fault::Row(WriteError::permanent(what)));
    }
    match statement.raw_execute() {
        Ok(0) => {
            let what = "the table's own conflict clause or a trigger ignored the row";
            Err(Fault::Row(WriteError::permanent(what)))
        }
        Ok(_) => Ok(()),
        Err(error) if is_row_fault(&error) => Err(Fault::Row(write_error(error))),
        Err(error) => Err(Fault::Database(error)),
    }
}

pub(crate) fn execute(db: &Connection, sql: &'static str) -> Result<(), rusqlite::Error> {
    db.prepare_cached(sql)?.raw_execute().map(|_| ())
}

pub(crate) fn enter_wal(db: &Connection, patience: Duration) -> Result<(), OpenError> {
    let give_up = Instant::now() + patience;
    loop {
        let set = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0));
        let mode: String = match set {
            Err(error) if is_locked(&error) && Instant::now() < give_up => {
                std::thread::sleep(WAL_RETRY);
                continue;
            }
            other => other?,
        };
        // A database in memory has no log and needs none.
        return match mode.as_str() {
            "wal" | "memory" => Ok(()),
            _ => Err(OpenError::Wal { mode }),
        };
    }
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
