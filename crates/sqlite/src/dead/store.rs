//! What looks into the table.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params_from_iter};
use sluicegate::Dead;

use super::filter::where_clause;
use super::{DeadCondition, TABLE, unix_ms};

/// How long other users of the file are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const COLUMNS: &str = "id, uid, item, class, applied, error, attempts, first_ms, last_ms, batch, \
                       coalesce(part, 0), tenant, version, replayed_ms";

/// A letter as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number in the store; counts up.
    pub row: i64,
    /// A name that no other letter has.
    pub id: String,
    /// The item as its encoder gave it.
    pub item: Vec<u8>,
    /// Name of the error's class.
    pub class: String,
    /// What is known of what took effect: `nothing` or `unknown`.
    pub applied: String,
    /// The error's text.
    pub error: String,
    /// How often it was written.
    pub attempts: u32,
    /// When it failed first, in milliseconds since 1970 (UTC).
    pub first_ms: i64,
    /// When it failed last, in milliseconds since 1970 (UTC).
    pub last_ms: i64,
    /// The batch it was in.
    pub batch: u64,
    /// Which part of it; 0 for the whole.
    pub part: u32,
    /// Whose item it is.
    pub tenant: Option<String>,
    /// The layout that it was written in.
    pub version: u32,
    /// When it was replayed, in milliseconds since 1970 (UTC); `None` if it was not.
    pub replayed_ms: Option<i64>,
}

/// Letters with the same error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadGroup {
    /// Name of the error's class.
    pub class: String,
    /// The error's text.
    pub error: String,
    /// How many there are.
    pub count: u64,
    /// How many of them were replayed.
    pub replayed: u64,
    /// When the first of them failed first, in milliseconds since 1970 (UTC).
    pub first_ms: i64,
    /// When the last of them failed last, in milliseconds since 1970 (UTC).
    pub last_ms: i64,
    /// How many failed in the last minute.
    pub last_minute: u64,
    /// How many failed in the last hour.
    pub last_hour: u64,
}

impl DeadGroup {
    /// The group of a first letter, still without it.
    #[must_use]
    pub fn of(letter: &DeadLetter) -> Self {
        Self {
            class: letter.class.clone(),
            error: letter.error.clone(),
            count: 0,
            replayed: 0,
            first_ms: letter.first_ms,
            last_ms: letter.last_ms,
            last_minute: 0,
            last_hour: 0,
        }
    }

    /// Counts one more letter, as seen at `now`.
    pub fn add(&mut self, letter: &DeadLetter, now: SystemTime) {
        let age = unix_ms(now).saturating_sub(letter.last_ms);
        self.count += 1;
        self.replayed += u64::from(letter.replayed_ms.is_some());
        self.first_ms = self.first_ms.min(letter.first_ms);
        self.last_ms = self.last_ms.max(letter.last_ms);
        self.last_minute += u64::from(age <= MINUTE_MS);
        self.last_hour += u64::from(age <= HOUR_MS);
    }
}

/// Why a store could not be read or changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeadStoreError {
    /// There is no table of dead letters in the file.
    NoLetters,
    /// A letter was written by a newer version of the library, and would be misread.
    Version {
        /// The version found.
        found: u32,
    },
    /// SQLite itself refused.
    Sqlite(rusqlite::Error),
}

impl fmt::Display for DeadStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLetters => write!(f, "no table {TABLE:?}"),
            Self::Version { found } => {
                let known = Dead::<()>::VERSION;
                write!(f, "has letters of version {found}; this program knows {known}")
            }
            Self::Sqlite(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DeadStoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sqlite(error) => error.source(),
            Self::NoLetters | Self::Version { .. } => None,
        }
    }
}

impl From<rusqlite::Error> for DeadStoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Looks into the dead letters that a [`DeadLetterSink`](super::DeadLetterSink) has written; it may
/// go on writing meanwhile.
#[derive(Debug)]
pub struct DeadLetterStore {
    db: Connection,
}

impl DeadLetterStore {
    /// Opens the file, which must be there.
    ///
    /// # Errors
    /// [`DeadStoreError::NoLetters`] where the table is missing, [`DeadStoreError::Version`] where
    /// letters are of a newer layout.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DeadStoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(PATIENCE)?;
        let sql = "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND name = ?1";
        if db.query_row(sql, [TABLE], |_| Ok(())).optional()?.is_none() {
            return Err(DeadStoreError::NoLetters);
        }
        let store = Self { db };
        store.check_versions()?;
        Ok(store)
    }

    fn check_versions(&self) -> Result<(), DeadStoreError> {
        let sql = "SELECT max(version) FROM dead_letters";
        match self.db.query_row(sql, [], |row| row.get::<_, Option<u32>>(0))? {
            Some(found) if found > Dead::<()>::VERSION => Err(DeadStoreError::Version { found }),
            _ => Ok(()),
        }
    }

    /// The letters that all conditions hold for, grouped by error and class, the largest group
    /// first. `now` is where the last minute and the last hour end.
    ///
    /// # Errors
    /// Whatever SQLite failed with.
    pub fn groups(
        &self,
        conditions: &[DeadCondition],
        now: SystemTime,
    ) -> Result<Vec<DeadGroup>, DeadStoreError> {
        let (clause, mut values) = where_clause(conditions);
        let now = unix_ms(now);
        // The values of the columns come before those of the clause.
        let since = [now - MINUTE_MS, now - HOUR_MS].map(Value::Integer);
        values.splice(0..0, since);
        let sql = format!(
            "SELECT class, error, count(*), count(replayed_ms), min(first_ms), max(last_ms), \
             sum(last_ms >= ?), sum(last_ms >= ?) FROM dead_letters {clause} \
             GROUP BY class, error ORDER BY count(*) DESC, max(last_ms) DESC, error"
        );
        let mut statement = self.db.prepare(&sql)?;
        let groups = statement.query_map(params_from_iter(values), |row| {
            Ok(DeadGroup {
                class: row.get(0)?,
                error: row.get(1)?,
                count: natural(row, 2)?,
                replayed: natural(row, 3)?,
                first_ms: row.get(4)?,
                last_ms: row.get(5)?,
                last_minute: natural(row, 6)?,
                last_hour: natural(row, 7)?,
            })
        })?;
        Ok(groups.collect::<Result<_, _>>()?)
    }

    /// The first `limit` letters behind number `after` (0: from the start) that all conditions hold
    /// for, the oldest first.
    ///
    /// # Errors
    /// Whatever SQLite failed with.
    pub fn list(
        &self,
        conditions: &[DeadCondition],
        after: i64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeadStoreError> {
        let (clause, mut values) = where_clause(conditions);
        values.push(Value::Integer(after));
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let sql =
            format!("SELECT {COLUMNS} FROM dead_letters {clause} AND id > ? ORDER BY id LIMIT ?");
        let mut statement = self.db.prepare_cached(&sql)?;
        let letters = statement.query_map(params_from_iter(values), letter)?;
        Ok(letters.collect::<Result<_, _>>()?)
    }

    /// The letter of this number, if there is one.
    ///
    /// # Errors
    /// Whatever SQLite failed with.
    pub fn get(&self, row: i64) -> Result<Option<DeadLetter>, DeadStoreError> {
        let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = ?1");
        Ok(self.db.query_row(&sql, [row], letter).optional()?)
    }

    /// Deletes the letters that all conditions hold for, and says how many there were. Without
    /// conditions these are all letters.
    ///
    /// # Errors
    /// Whatever SQLite failed with; then none was deleted.
    pub fn purge(&self, conditions: &[DeadCondition]) -> Result<u64, DeadStoreError> {
        let (clause, values) = where_clause(conditions);
        let sql = format!("DELETE FROM dead_letters {clause}");
        Ok(self.db.execute(&sql, params_from_iter(values))? as u64)
    }

    /// Notes that the letters of these numbers were replayed just now, all or none. Those that have
    /// such a note keep it.
    ///
    /// # Errors
    /// Whatever SQLite failed with.
    pub fn mark_replayed(&mut self, rows: &[i64]) -> Result<(), DeadStoreError> {
        let now = unix_ms(SystemTime::now());
        let transaction = self.db.transaction()?;
        {
            let sql = "UPDATE dead_letters SET replayed_ms = ?1 \
                       WHERE id = ?2 AND replayed_ms IS NULL";
            let mut statement = transaction.prepare_cached(sql)?;
            for row in rows {
                statement.execute([now, *row])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// A number that is never negative.
fn natural(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        row: row.get(0)?,
        id: row.get(1)?,
        item: match row.get::<_, Value>(2)? {
            Value::Text(text) => text.into_bytes(),
            Value::Blob(bytes) => bytes,
            Value::Null => Vec::new(),
            Value::Integer(number) => number.to_string().into_bytes(),
            Value::Real(number) => number.to_string().into_bytes(),
        },
        class: row.get(3)?,
        applied: row.get(4)?,
        error: row.get(5)?,
        attempts: row.get(6)?,
        first_ms: row.get(7)?,
        last_ms: row.get(8)?,
        batch: natural(row, 9)?,
        part: row.get(10)?,
        tenant: row.get(11)?,
        version: row.get(12)?,
        replayed_ms: row.get(13)?,
    })
}
