//! Dead letters in a table of SQLite: the sink that fills it ([`DeadLetterSink`]), what looks into
//! it ([`DeadLetterStore`]), and what brings letters to where they belong, each once
//! ([`Replayer`]).
//!
//! ```text
//! dead_letters         id · uid · item · class · applied · error · attempts · first_ms · last_ms
//!                      · batch · part · tenant · version · replayed_ms
//! sluicegate_replayed  id · source · replayed_ms          in the database that is replayed *into*
//! ```
//!
//! `id` counts up; `uid` is a name that no other letter has in any store, so that a copy of a store
//! replays nothing twice. `item` is text where it is UTF-8, else a blob. Times are milliseconds
//! since 1970 (UTC). `part` is 0 for a whole batch.
//!
//! **Once, over two files.** SQLite commits over several files as one only without a write-ahead
//! log, so no transaction spans the store and the target. Instead the target itself notes each
//! letter, in the same transaction as its row and under a unique key; the mark in the store comes
//! after. A crash between the two leaves a letter that looks as if it was not replayed: the next
//! replay finds it noted in the target, writes nothing, and sets the mark.

mod filter;
mod replay;
mod sink;
mod store;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use filter::DeadCondition;
pub use replay::{Replayed, Replayer};
pub use sink::DeadLetterSink;
pub use store::{DeadGroup, DeadLetter, DeadLetterStore, DeadStoreError};

pub(crate) const TABLE: &str = "dead_letters";

fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// SQLite has no unsigned integers of 64 bits; no engine forms so many batches.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
