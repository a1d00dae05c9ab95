//! How an item becomes a row.

use rusqlite::Statement;
use rusqlite::types::{Null, ToSqlOutput, Value, ValueRef};
use sluicegate::BoxError;

/// Turns an item into the values of a row, one per column, in the order of the columns.
///
/// Implemented for every `Fn(&T, &mut Row<'_, '_>) -> Result<(), BoxError>`.
pub trait BindRow<T> {
    /// Binds the values of `item`.
    ///
    /// # Errors
    /// An error, or a number of values other than the number of columns, fails this row alone.
    fn bind(&self, item: &T, row: &mut Row<'_, '_>) -> Result<(), BoxError>;
}

impl<T, F> BindRow<T> for F
where
    F: Fn(&T, &mut Row<'_, '_>) -> Result<(), BoxError>,
{
    fn bind(&self, item: &T, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
        self(item, row)
    }
}

/// The row being bound: each call sets the value of the next column.
#[derive(Debug)]
pub struct Row<'s, 'c> {
    statement: &'s mut Statement<'c>,
    bound: usize,
}

impl<'s, 'c> Row<'s, 'c> {
    pub(crate) fn new(statement: &'s mut Statement<'c>) -> Self {
        Self { statement, bound: 0 }
    }

    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    /// Binds text. NUL characters are kept, but many tools show the text only up to the first one.
    ///
    /// # Errors
    /// More values than columns, or more text than SQLite's limit (1 GB).
    pub fn text(&mut self, value: &str) -> Result<(), BoxError> {
        self.borrowed(ValueRef::Text(value.as_bytes()))
    }

    /// Binds bytes.
    ///
    /// # Errors
    /// More values than columns, or more bytes than SQLite's limit (1 GB).
    pub fn blob(&mut self, value: &[u8]) -> Result<(), BoxError> {
        self.borrowed(ValueRef::Blob(value))
    }

    /// Binds an integer.
    ///
    /// # Errors
    /// More values than columns.
    pub fn integer(&mut self, value: i64) -> Result<(), BoxError> {
        self.next(ToSqlOutput::Owned(Value::Integer(value)))
    }

    /// Binds a number; SQLite stores a NaN as NULL.
    ///
    /// # Errors
    /// More values than columns.
    pub fn real(&mut self, value: f64) -> Result<(), BoxError> {
        self.next(ToSqlOutput::Owned(Value::Real(value)))
    }

    /// Binds NULL.
    ///
    /// # Errors
    /// More values than columns.
    pub fn null(&mut self) -> Result<(), BoxError> {
        self.bound += 1;
        Ok(self.statement.raw_bind_parameter(self.bound, Null)?)
    }

    fn borrowed(&mut self, value: ValueRef<'_>) -> Result<(), BoxError> {
        self.next(ToSqlOutput::Borrowed(value))
    }

    fn next(&mut self, value: ToSqlOutput<'_>) -> Result<(), BoxError> {
        self.bound += 1;
        Ok(self.statement.raw_bind_parameter(self.bound, value)?)
    }
}
