//! Which letters: conditions that are bound, never put into the SQL.

use rusqlite::types::Value;
use sluicegate::{Applied, Class};

use super::integer;
use super::store::DeadLetter;

/// One condition; several are all to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadCondition {
    /// The error is of this class.
    Class(Class),
    /// This is known of what took effect.
    Applied(Applied),
    /// The error's text contains this, case and all.
    ErrorContains(String),
    /// It was in the batch of this number.
    Batch(u64),
    /// It failed last at this moment or later, in milliseconds since 1970 (UTC).
    SinceMs(i64),
    /// Whether it was replayed.
    Replayed(bool),
}

impl DeadCondition {
    /// Whether the letter is meant.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::Class(class) => letter.class == class.name(),
            Self::Applied(applied) => letter.applied == applied.name(),
            Self::ErrorContains(text) => letter.error.contains(text),
            Self::Batch(batch) => letter.batch == *batch,
            Self::SinceMs(since) => letter.last_ms >= *since,
            Self::Replayed(replayed) => letter.replayed_ms.is_some() == *replayed,
        }
    }

    /// The condition in SQL, with one `?` for its value.
    fn sql(&self) -> &'static str {
        match self {
            Self::Class(_) => "class = ?",
            Self::Applied(_) => "applied = ?",
            Self::ErrorContains(_) => "instr(error, ?) > 0",
            Self::Batch(_) => "batch = ?",
            Self::SinceMs(_) => "last_ms >= ?",
            Self::Replayed(_) => "(replayed_ms IS NOT NULL) = ?",
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Class(class) => Value::Text(class.name().to_owned()),
            Self::Applied(applied) => Value::Text(applied.name().to_owned()),
            Self::ErrorContains(text) => Value::Text(text.clone()),
            Self::Batch(batch) => Value::Integer(integer(*batch)),
            Self::SinceMs(since) => Value::Integer(*since),
            Self::Replayed(replayed) => Value::Integer((*replayed).into()),
        }
    }
}

/// All conditions as a `WHERE` clause, and their values.
pub(super) fn where_clause(conditions: &[DeadCondition]) -> (String, Vec<Value>) {
    let sql: Vec<_> = conditions.iter().map(DeadCondition::sql).collect();
    let clause = if sql.is_empty() { "1".to_owned() } else { sql.join(" AND ") };
    (format!("WHERE {clause}"), conditions.iter().map(DeadCondition::value).collect())
}
