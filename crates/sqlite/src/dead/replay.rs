//! What brings letters into a table, each once.

use std::fmt;
use std::marker::PhantomData;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _};
use sluicegate::{Applied, WriteError};

use super::unix_ms;
use crate::classify::{is_constraint, may_have_applied, write_error};
use crate::sink::{Fault, connect, execute, insert};
use crate::{BindRow, OpenError, SqliteOptions};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS sluicegate_replayed (
    id TEXT NOT NULL PRIMARY KEY,
    source TEXT NOT NULL,
    replayed_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID";
const IS_NOTED: &str = "SELECT 1 FROM sluicegate_replayed WHERE id = ?1";
const NOTE: &str = "INSERT INTO sluicegate_replayed VALUES (?1, ?2, ?3)";
const MARK: &str =
    "UPDATE dead_letters SET replayed_ms = ?1 WHERE uid = ?2 AND replayed_ms IS NULL";

/// What became of a letter.
#[derive(Debug)]
pub enum Replayed {
    /// Its item is in the table, since just now.
    Now,
    /// It was replayed before; nothing was written.
    Already,
    /// The table refused it, and it can be tried again.
    Failed(WriteError),
}

/// Replays letters into a table: the row and the note that it was written are one transaction, so
/// that a letter is written once, however often it is replayed and whatever crashes meanwhile.
pub struct Replayer<T, B> {
    db: Connection,
    insert: String,
    columns: usize,
    bind: B,
    source: String,
    store_is_target: bool,
    item: PhantomData<fn(&T)>,
}

/// Why a transaction did not go through.
enum Broken {
    /// Because of one of its rows; it cannot be said which.
    Row(WriteError),
    /// Because of the database.
    Database(WriteError),
}

impl<T, B: BindRow<T>> Replayer<T, B> {
    /// Opens the file and the table that the options name, as for a sink, and creates the table
    /// `sluicegate_replayed` beside it. `source` says where the letters come from; it is kept for
    /// people.
    ///
    /// # Errors
    /// [`OpenError`] says whether a name, the existing table, or the file is at fault.
    pub fn open(
        options: &SqliteOptions,
        source: impl Into<String>,
        bind: B,
    ) -> Result<Self, OpenError> {
        let (db, insert) = connect(options)?;
        db.execute_batch(CREATE)?;
        let columns = options.columns.len();
        let source = source.into();
        Ok(Self { db, insert, columns, bind, source, store_is_target: false, item: PhantomData })
    }

    /// Whether the letters are in the same database: then they are marked as replayed in the same
    /// transaction too. Not unless told so.
    #[must_use]
    pub fn store_is_target(mut self, is: bool) -> Self {
        self.store_is_target = is;
        self
    }

    /// Replays these letters, given by id and item, in one transaction, and says what became of
    /// each, in their order. A letter that is refused takes no other with it.
    ///
    /// # Errors
    /// The database failed. With [`Applied::Nothing`] none of them was written; otherwise some may
    /// be, and doing it again is safe either way.
    pub fn replay(&mut self, letters: &[(&str, T)]) -> Result<Vec<Replayed>, WriteError> {
        match self.transaction(letters) {
            Ok(fates) => Ok(fates),
            Err(Broken::Database(error)) => Err(error),
            Err(Broken::Row(error)) if letters.len() == 1 => Ok(vec![Replayed::Failed(error)]),
            // One by one it can be said whose fault it is. What was written when a later letter
            // meets a failure of the database is noted, as ever.
            Err(Broken::Row(_)) => {
                let mut fates = Vec::with_capacity(letters.len());
                for letter in letters.chunks(1) {
                    let fate = self.replay(letter);
                    fates.extend(fate.map_err(|error| error.applied(Applied::Unknown))?);
                }
                Ok(fates)
            }
        }
    }

    fn transaction(&self, letters: &[(&str, T)]) -> Result<Vec<Replayed>, Broken> {
        let result = self.try_transaction(letters);
        if result.is_err() && !self.db.is_autocommit() {
            // Where even this fails, the next BEGIN does, and closing rolls back.
            let _ = execute(&self.db, "ROLLBACK");
        }
        result
    }

    fn try_transaction(&self, letters: &[(&str, T)]) -> Result<Vec<Replayed>, Broken> {
        let now = unix_ms(SystemTime::now());
        execute(&self.db, "BEGIN IMMEDIATE")?;
        let mut fates = Vec::with_capacity(letters.len());
        for (id, item) in letters {
            let fate = self.letter(id, item, now)?;
            if self.store_is_target && !matches!(fate, Replayed::Failed(_)) {
                self.db.prepare_cached(MARK)?.execute((now, id))?;
            }
            fates.push(fate);
        }
        match execute(&self.db, "COMMIT") {
            Ok(()) => Ok(fates),
            Err(error) if is_constraint(&error) => Err(Broken::Row(write_error(error))),
            Err(error) if may_have_applied(&error) => {
                Err(Broken::Database(write_error(error).applied(Applied::Unknown)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn letter(&self, id: &str, item: &T, now: i64) -> Result<Replayed, Broken> {
        let mut is_noted = self.db.prepare_cached(IS_NOTED)?;
        if is_noted.query_row([id], |_| Ok(())).optional()?.is_some() {
            return Ok(Replayed::Already);
        }
        let mut statement = self.db.prepare_cached(&self.insert)?;
        match insert(&mut statement, &self.bind, item, self.columns) {
            Ok(()) => {}
            // The table's own `ON CONFLICT ROLLBACK` has taken the other rows along.
            Err(Fault::Row(error)) if self.db.is_autocommit() => return Err(Broken::Row(error)),
            Err(Fault::Row(error)) => return Ok(Replayed::Failed(error)),
            Err(Fault::Database(error)) => return Err(error.into()),
        }
        self.db.prepare_cached(NOTE)?.execute((id, &self.source, now))?;
        Ok(Replayed::Now)
    }
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(write_error(error))
    }
}

impl<T, B> fmt::Debug for Replayer<T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayer")
            .field("insert", &self.insert)
            .field("source", &self.source)
            .field("store_is_target", &self.store_is_target)
            .finish_non_exhaustive()
    }
}
