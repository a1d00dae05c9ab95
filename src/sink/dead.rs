//! The dead letter: an item that the sink will never take, and what is known about why.
//!
//! A dead-letter sink is any `Sink<Dead<T>> + Send`: a file
//! ([`DeadLetterFile`](super::DeadLetterFile)), a table of SQLite (the crate `sluicegate-sqlite`),
//! or one of your own.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Applied, Class, WriteError};
use crate::batch::BatchId;

/// An item that the sink will never take, with its error, attempts and times.
///
/// `Debug` never shows the item, so that no item ever reaches a log.
///
/// ```
/// use sluicegate::{BatchId, Class, Dead, WriteError};
///
/// let dead = Dead::new("secret", WriteError::permanent("no such column"), BatchId::new(17))
///     .attempts(3);
/// assert_eq!(dead.class(), Class::Permanent);
/// assert!(!format!("{dead:?}").contains("secret"));
/// ```
#[non_exhaustive]
pub struct Dead<T> {
    /// The item.
    pub item: T,
    /// The last error. Items of a batch that failed as a whole share it.
    pub error: Arc<WriteError>,
    /// How often it was written, the first time included; at least 1.
    pub attempts: u32,
    /// When it failed first, by the wall clock.
    pub first: SystemTime,
    /// When it failed last, by the wall clock.
    pub last: SystemTime,
    /// The batch it was in.
    pub batch: BatchId,
    /// Whose item it is; `None` where there are no tenants.
    pub tenant: Option<Arc<str>>,
    /// The layout of this envelope as stores keep it: [`Dead::VERSION`].
    pub version: u32,
}

impl<T> Dead<T> {
    /// The layout that this version of the library writes. A reader refuses higher ones, which it
    /// would misread.
    pub const VERSION: u32 = 1;

    /// An item that failed once, just now.
    pub fn new(item: T, error: impl Into<Arc<WriteError>>, batch: BatchId) -> Self {
        let now = SystemTime::now();
        Self {
            item,
            error: error.into(),
            attempts: 1,
            first: now,
            last: now,
            batch,
            tenant: None,
            version: Self::VERSION,
        }
    }

    /// How often it was written, the first time included; 1 unless told otherwise, 0 is read as 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// When it failed first and when last; now unless told otherwise.
    #[must_use]
    pub fn failed_at(mut self, first: SystemTime, last: SystemTime) -> Self {
        (self.first, self.last) = (first, last);
        self
    }

    /// Whose item it is; nobody's in particular unless told otherwise.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Arc<str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn class(&self) -> Class {
        self.error.class()
    }

    /// What may have taken effect all the same.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.error.what_applied()
    }
}

impl<T> fmt::Debug for Dead<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dead")
            .field("error", &self.error)
            .field("attempts", &self.attempts)
            .field("first", &self.first)
            .field("last", &self.last)
            .field("batch", &self.batch)
            .field("tenant", &self.tenant)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
