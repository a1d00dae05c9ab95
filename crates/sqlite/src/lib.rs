//! SQLite sink for sluicegate: one transaction per batch.
#![forbid(unsafe_code)]
