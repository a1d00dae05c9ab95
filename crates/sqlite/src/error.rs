//! Why a sink could not be opened.

use std::fmt;

/// Why a [`SqliteSink`](crate::SqliteSink) could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// A name that SQLite can't have.
    Name {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No columns, or one named twice.
    Columns(String),
    /// The table is there and does not fit; says what does not match.
    Schema(String),
    /// The file system of the database cannot do write-ahead logging.
    Wal {
        /// The journal mode that SQLite stayed in.
        mode: String,
    },
    /// SQLite itself refused.
    Sqlite(rusqlite::Error),
}

impl OpenError {
    /// Whether the table and columns asked for are at fault, not the file.
    #[must_use]
    pub fn is_schema(&self) -> bool {
        matches!(self, Self::Name { .. } | Self::Columns(_) | Self::Schema(_))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name, reason } => write!(f, "the name {name:?} {reason}"),
            Self::Columns(what) | Self::Schema(what) => f.write_str(what),
            Self::Wal { mode } => {
                write!(f, "no write-ahead log on this file system (journal mode stays {mode:?})")
            }
            Self::Sqlite(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sqlite(error) => error.source(),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
