//! What a caller may ask of the planner.

use crate::config::FLUSHERS_MAX;

/// Where a flusher may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pin {
    /// Wherever the system puts it.
    None,
    /// On the CPUs of its node. Where there is but one node nothing is pinned.
    #[default]
    Node,
    /// On one CPU of its node, with a core of its own as long as there are enough.
    Core,
}

impl Pin {
    /// Every value, in one fixed order.
    pub const ALL: [Self; 3] = [Self::None, Self::Node, Self::Core];

    /// The name used in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Node => "node",
            Self::Core => "core",
        }
    }
}

/// What a node is to have.
///
/// ```
/// use sluicegate::placement::{Options, Pin};
///
/// let options = Options::default().flushers_per_node(2).pin(Pin::Core);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    pub(super) flushers_per_node: usize,
    pub(super) rings_per_node: usize,
    pub(super) pin: Pin,
}

impl Default for Options {
    fn default() -> Self {
        Self { flushers_per_node: 1, rings_per_node: 1, pin: Pin::default() }
    }
}

impl Options {
    /// Threads that write, on each node; 1 unless told otherwise. Less than 1 is read as 1, more
    /// than 1,024 as 1,024.
    #[must_use]
    pub fn flushers_per_node(mut self, threads: usize) -> Self {
        self.flushers_per_node = threads.clamp(1, FLUSHERS_MAX);
        self
    }

    /// Rings of each node; 1 unless told otherwise. Less than 1 is read as 1, more than 1,024 as
    /// 1,024. The flushers of the node are dealt out to them: each ring has at least one, and a
    /// flusher has several rings where rings are more.
    #[must_use]
    pub fn rings_per_node(mut self, rings: usize) -> Self {
        self.rings_per_node = rings.clamp(1, FLUSHERS_MAX);
        self
    }

    /// Where flushers may run; [`Pin::Node`] unless told otherwise.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }
}
