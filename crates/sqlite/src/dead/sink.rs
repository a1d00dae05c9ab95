//! The sink that fills the table.

use std::cell::RefCell;
use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sluicegate::sink::SinkLimits;
use sluicegate::{Batch, BoxError, Dead, Sink, WriteContext, WriteError};

use super::{TABLE, integer, unix_ms};
use crate::sink::enter_wal;
use crate::{BindRow, Column, OpenError, Row, SqliteOptions, SqliteSink};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(16)))),
    item ANY NOT NULL,
    class TEXT NOT NULL,
    applied TEXT NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    part INTEGER,
    tenant TEXT,
    version INTEGER NOT NULL,
    replayed_ms INTEGER
) STRICT";

/// In the order in which [`Letter`] binds them.
const COLUMNS: [&str; 11] = [
    "item", "class", "applied", "error", "attempts", "first_ms", "last_ms", "batch", "part",
    "tenant", "version",
];

/// Writes dead letters into the table `dead_letters`, a transaction per batch.
///
/// What a failure means is as with [`SqliteSink`].
///
/// ```
/// use sluicegate::BoxError;
/// use sluicegate_sqlite::{DeadLetterSink, SqliteOptions};
/// # let path = std::env::temp_dir().join(format!("sluicegate-dead-doc-{}", std::process::id()));
///
/// let encode = |event: &String, out: &mut Vec<u8>| -> Result<(), BoxError> {
///     out.extend_from_slice(event.as_bytes());
///     Ok(())
/// };
/// let sink = DeadLetterSink::open(&SqliteOptions::new(&path), encode)?;
/// # drop(sink);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DeadLetterSink<T, F> {
    inner: SqliteSink<Dead<T>, Letter<F>>,
}

impl<T, F> DeadLetterSink<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    /// Opens the store. `encode` appends one item; an item whose encoder fails, fails alone. Table
    /// and columns of the options are not used: they are always the same. On Unix a file that is
    /// not there is made readable for its owner alone (mode 0600): what failed may be secret.
    ///
    /// # Errors
    /// [`OpenError`] says whether the file or an existing table is at fault.
    pub fn open(options: &SqliteOptions, encode: F) -> Result<Self, OpenError> {
        if options.create {
            create(options)?;
        }
        let letter = Letter { encode, item: RefCell::default() };
        let columns = COLUMNS.map(Column::new);
        let inner = options.clone().table(TABLE).columns(columns).create(false).open(letter)?;
        Ok(Self { inner })
    }
}

impl<T, F> Sink<Dead<T>> for DeadLetterSink<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    fn write(
        &mut self,
        batch: &Batch<Dead<T>>,
        cx: &mut WriteContext<'_>,
    ) -> Result<(), WriteError> {
        self.inner.write(batch, cx)
    }

    fn limits(&self) -> SinkLimits {
        Sink::limits(&self.inner)
    }
}

impl<T, F> fmt::Debug for DeadLetterSink<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterSink").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn create(options: &SqliteOptions) -> Result<(), OpenError> {
    create_private(&options.path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(&options.path, flags)?;
    db.busy_timeout(options.busy_timeout)?;
    enter_wal(&db, options.busy_timeout)?;
    db.execute_batch(CREATE)?;
    Ok(())
}

/// SQLite gives its log the mode of the database. What goes wrong here, SQLite will meet too, and
/// say.
fn create_private(path: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(path));
}

/// Binds a letter's columns.
struct Letter<F> {
    encode: F,
    /// The encoded item, in a buffer that is kept.
    item: RefCell<Vec<u8>>,
}

impl<T, F> BindRow<Dead<T>> for Letter<F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    fn bind(&self, dead: &Dead<T>, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
        let mut item = self.item.borrow_mut();
        item.clear();
        (self.encode)(&dead.item, &mut item)?;
        match std::str::from_utf8(&item) {
            Ok(text) => row.text(text)?,
            Err(_) => row.blob(&item)?,
        }
        row.text(dead.class().name())?;
        row.text(dead.applied().name())?;
        row.text(&dead.error.to_string())?;
        row.integer(dead.attempts.into())?;
        row.integer(unix_ms(dead.first))?;
        row.integer(unix_ms(dead.last))?;
        row.integer(integer(dead.batch.get()))?;
        row.integer(dead.batch.part().into())?;
        match &dead.tenant {
            Some(tenant) => row.text(tenant)?,
            None => row.null()?,
        }
        row.integer(dead.version.into())
    }
}
