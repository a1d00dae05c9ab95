//! How a sink says what went wrong.

use crate::guard::guarded;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Any error that can cross threads.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// What kind of failure a sink met; it decides what may be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// May go away by itself: lock contention, a restart.
    Transient,
    /// The same items will fail again: bad data, a missing table.
    Permanent,
    /// The batch is larger than the sink takes in one call.
    TooLarge,
    /// The sink asks for fewer calls.
    Throttled,
    /// The connection is gone. The sink makes a new one at its next write: the engine opens a sink anew
    /// only after a panic.
    Disconnected,
}

impl Class {
    /// Every class, in one fixed order.
    pub const ALL: [Self; 5] =
        [Self::Transient, Self::Permanent, Self::TooLarge, Self::Throttled, Self::Disconnected];

    /// The name used in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::TooLarge => "too_large",
            Self::Throttled => "throttled",
            Self::Disconnected => "disconnected",
        }
    }
}

/// What a failed write may have left behind in the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Nothing took effect: the items count as `flushed_fail`.
    Nothing,
    /// It cannot be known whether they took effect: the items count as `unknown`.
    Unknown,
}

impl Applied {
    /// The name used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a write failed, and what may have taken effect all the same.
///
/// ```
/// use sluicegate::{Applied, Class, WriteError};
///
/// let error = WriteError::disconnected("reset by peer").applied(Applied::Unknown);
/// assert_eq!(error.class(), Class::Disconnected);
/// assert_eq!(error.to_string(), "reset by peer");
/// ```
#[derive(Debug)]
pub struct WriteError {
    class: Class,
    applied: Applied,
    retry_after: Option<Duration>,
    source: BoxError,
}

impl WriteError {
    /// An error of this class after which nothing took effect.
    pub fn new(class: Class, source: impl Into<BoxError>) -> Self {
        Self { class, applied: Applied::Nothing, retry_after: None, source: source.into() }
    }

    /// [`Class::Transient`].
    pub fn transient(source: impl Into<BoxError>) -> Self {
        Self::new(Class::Transient, source)
    }

    /// [`Class::Permanent`].
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        Self::new(Class::Permanent, source)
    }

    /// [`Class::TooLarge`].
    pub fn too_large(source: impl Into<BoxError>) -> Self {
        Self::new(Class::TooLarge, source)
    }

    /// [`Class::Throttled`]; `retry_after` is how long the sink asks to be left alone, if it said
    /// so.
    pub fn throttled(source: impl Into<BoxError>, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..Self::new(Class::Throttled, source) }
    }

    /// [`Class::Disconnected`].
    pub fn disconnected(source: impl Into<BoxError>) -> Self {
        Self::new(Class::Disconnected, source)
    }

    /// The same error with something said before it.
    pub(crate) fn again(&self, before: &str) -> Self {
        let text = guarded(|| self.source.to_string()).unwrap_or_default();
        let source: BoxError = format!("{before}{text}").into();
        Self { class: self.class, applied: self.applied, retry_after: None, source }
    }

    /// Says what may have taken effect; [`Applied::Nothing`] unless told otherwise.
    #[must_use]
    pub fn applied(mut self, applied: Applied) -> Self {
        self.applied = applied;
        self
    }

    /// The same error as another class: where the caller knows better whether it may go away.
    pub(super) fn with_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// What may have taken effect.
    #[must_use]
    pub fn what_applied(&self) -> Applied {
        self.applied
    }

    /// How long the sink asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}
