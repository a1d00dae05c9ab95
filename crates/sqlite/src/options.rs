//! What a sink is opened with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::row::BindRow;
use crate::turn::Turn;
use crate::{OpenError, SqliteSink};

const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const DEFAULT_TABLE: &str = "items";
pub(crate) const DEFAULT_COLUMN: &str = "item";

/// When SQLite waits for the disk (`PRAGMA synchronous`, in WAL mode).
///
/// None of them loses or damages anything when only the *process* ends, however it ends: what was
/// committed is with the operating system. They differ in what the end of the *machine* (power cut,
/// kernel crash) may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// Each commit waits until the log is on the disk. A power cut loses nothing that was counted
    /// as flushed, as far as the disk tells the truth about its own cache. The default.
    #[default]
    Full,
    /// The disk is waited for at checkpoints only. A power cut may take the last commits, whole and
    /// newest first; the database stays sound.
    Normal,
    /// The disk is never waited for. A power cut may take commits and may damage the database file.
    Off,
}

impl Synchronous {
    /// The name, as `PRAGMA synchronous` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
            Self::Off => "off",
        }
    }
}

/// What a column of a table that the sink creates holds. Created tables are `STRICT`: a value that
/// can't become the column's type without loss is refused, and its row fails alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Whatever is bound, unchanged.
    #[default]
    Any,
    /// 64-bit signed integers.
    Integer,
    /// Floating-point numbers.
    Real,
    /// Text.
    Text,
    /// Bytes.
    Blob,
}

impl Affinity {
    /// The name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "ANY",
            Self::Integer => "INTEGER",
            Self::Real => "REAL",
            Self::Text => "TEXT",
            Self::Blob => "BLOB",
        }
    }
}

/// A column that rows are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub(crate) name: String,
    pub(crate) affinity: Affinity,
}

impl Column {
    /// A column of this name that takes any value.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), affinity: Affinity::Any }
    }

    /// The column's type where the sink creates the table; an existing table keeps its own.
    #[must_use]
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = affinity;
        self
    }
}

/// Opens [`SqliteSink`]s. A factory opens one per flusher; sinks opened with the same options, or
/// with a clone of them, take turns at the file instead of polling SQLite's lock.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub(crate) path: PathBuf,
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) synchronous: Synchronous,
    pub(crate) busy_timeout: Duration,
    pub(crate) create: bool,
    pub(crate) max_batch_size: Option<usize>,
    pub(crate) max_page_count: Option<u32>,
    pub(crate) turn: Arc<Turn>,
}

impl SqliteOptions {
    /// The defaults for this file: table `items`, one column `item`, [`Synchronous::Full`], 5 s of
    /// patience with other writers, the table created where there is none.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            table: DEFAULT_TABLE.to_owned(),
            columns: vec![Column::new(DEFAULT_COLUMN)],
            synchronous: Synchronous::default(),
            busy_timeout: DEFAULT_BUSY_TIMEOUT,
            create: true,
            max_batch_size: None,
            max_page_count: None,
            turn: Arc::default(),
        }
    }

    /// The table to write to. The name is quoted, so it may be any text without NUL.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// The columns, in the order in which a row binds them.
    #[must_use]
    pub fn columns(mut self, columns: impl IntoIterator<Item = Column>) -> Self {
        self.columns = columns.into_iter().collect();
        self
    }

    /// When SQLite waits for the disk.
    #[must_use]
    pub fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// How long a batch waits for other writers of the file before it fails as transient; cut to the
    /// time that the engine gives the call, `write_timeout` or the deadline of a shutdown that has
    /// begun.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Whether a missing table (and a missing file) is created; otherwise opening fails.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The most rows in one transaction: what [`Sink::limits`](sluicegate::Sink::limits) tells the
    /// engine. SQLite itself has no such limit, but other writers wait as long as a transaction
    /// lasts.
    #[must_use]
    pub fn max_batch_size(mut self, rows: usize) -> Self {
        self.max_batch_size = Some(rows);
        self
    }

    /// The most pages (of 4 KiB, mostly) that the database may have: beyond it batches fail as with
    /// a full disk.
    #[must_use]
    pub fn max_page_count(mut self, pages: u32) -> Self {
        self.max_page_count = Some(pages);
        self
    }

    /// Opens the file, creates or checks the table, and prepares the insert; `bind` turns an item
    /// into a row.
    ///
    /// # Errors
    /// [`OpenError`] says whether a name, the existing table, or the file is at fault.
    pub fn open<T, B: BindRow<T>>(&self, bind: B) -> Result<SqliteSink<T, B>, OpenError> {
        SqliteSink::open(self, bind)
    }
}
