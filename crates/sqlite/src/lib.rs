//! SQLite sink for sluicegate: one transaction per batch.
//!
//! A batch is one `BEGIN IMMEDIATE … COMMIT` with a prepared `INSERT` per row, in WAL mode, so that
//! a commit (and its wait for the disk) is paid once per batch. A row that SQLite refuses fails
//! that row only; a failure of the database fails the batch, and the batch is rolled back.
//!
//! ```
//! use sluicegate_sqlite::{Affinity, Column, Row, SqliteSink, Synchronous};
//!
//! struct Reading { sensor: String, value: f64 }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = std::env::temp_dir().join(format!("sluicegate-doc-{}.db", std::process::id()));
//! let sink = SqliteSink::<Reading>::options(&path)
//!     .table("readings")
//!     .columns([Column::new("sensor").affinity(Affinity::Text), Column::new("value")])
//!     .synchronous(Synchronous::Normal)
//!     .open(|reading: &Reading, row: &mut Row<'_, '_>| {
//!         row.text(&reading.sensor)?;
//!         row.real(reading.value)
//!     })?;
//! # drop(sink);
//! # std::fs::remove_file(&path)?;
//! # Ok(())
//! # }
//! ```
//!
//! **Several flushers on one file** each open a sink of their own from the same options: they write
//! one at a time, as SQLite demands, and take turns. Writers of other processes are waited for up
//! to [`busy_timeout`](SqliteOptions::busy_timeout).
//!
//! **Dead letters**: [`DeadLetterSink`] keeps them in a table, [`DeadLetterStore`] looks into it,
//! and a [`Replayer`] brings them into another table, each once.
#![forbid(unsafe_code)]

mod classify;
mod dead;
mod error;
mod options;
mod row;
mod schema;
mod sink;
mod turn;

pub use dead::{
    DeadCondition, DeadGroup, DeadLetter, DeadLetterSink, DeadLetterStore, DeadStoreError,
    Replayed, Replayer,
};
pub use error::OpenError;
pub use options::{Affinity, Column, SqliteOptions, Synchronous};
pub use row::{BindRow, Row};
pub use schema::quote;
pub use sink::SqliteSink;
