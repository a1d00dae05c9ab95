//! What SQLite's result codes mean for the engine.

use rusqlite::{Error, ErrorCode};
use sluicegate::{Class, WriteError};

/// Whether the row is at fault, not the database: the same insert with other values might work.
pub(crate) fn is_row_fault(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig
        ),
        Error::ToSqlConversionFailure(_)
        | Error::InvalidParameterCount(..)
        | Error::InvalidParameterName(_) => true,
        _ => false,
    }
}

pub(crate) fn is_constraint(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation))
}

/// Whether a commit that failed so may be in the log all the same, to be found by a later recovery.
pub(crate) fn may_have_applied(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown)
    )
}

pub(crate) fn write_error(error: Error) -> WriteError {
    WriteError::new(class(&error), error)
}

fn class(error: &Error) -> Class {
    match error.sqlite_error_code() {
        // Goes away when another writer ends, memory or room is found, or the disk answers again.
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged
            | ErrorCode::OperationInterrupted
            | ErrorCode::OperationAborted
            | ErrorCode::OutOfMemory
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure,
        ) => Class::Transient,
        Some(ErrorCode::CannotOpen) => Class::Disconnected,
        _ => Class::Permanent,
    }
}
