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

/// How many shards there are: rings, each with its own flushers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shards {
    /// So many on each node.
    PerNode(usize),
    /// So many in all, dealt out to the nodes; with fewer of them than nodes the last nodes get
    /// none.
    Total(usize),
}

impl Default for Shards {
    fn default() -> Self {
        Self::PerNode(1)
    }
}

/// [`Shards::Total`].
impl From<usize> for Shards {
    fn from(shards: usize) -> Self {
        Self::Total(shards)
    }
}

impl Shards {
    /// How many they are on each of so many nodes; 0 on those that get none.
    pub(super) fn on_each(self, nodes: usize) -> Vec<usize> {
        let within = |shards: usize| shards.clamp(1, FLUSHERS_MAX);
        match self {
            Self::PerNode(shards) => vec![within(shards); nodes],
            Self::Total(shards) => {
                let (all, more) = (within(shards) / nodes, within(shards) % nodes);
                (0..nodes).map(|node| all + usize::from(node < more)).collect()
            }
        }
    }
}

/// What the nodes are to have.
///
/// ```
/// use sluicegate::placement::{Options, Pin, Shards};
///
/// let options = Options::default().shards(Shards::PerNode(2)).flushers(2).pin(Pin::Core);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    pub(super) flushers: usize,
    pub(super) shards: Shards,
    pub(super) pin: Pin,
}

impl Default for Options {
    fn default() -> Self {
        Self { flushers: 1, shards: Shards::default(), pin: Pin::default() }
    }
}

impl Options {
    /// Threads that write, for each ring; 1 unless told otherwise. Less than 1 is read as 1, more
    /// than 1,024 as 1,024.
    #[must_use]
    pub fn flushers(mut self, threads: usize) -> Self {
        self.flushers = threads.clamp(1, FLUSHERS_MAX);
        self
    }

    /// Rings, each with its flushers; one on each node unless told otherwise. Less than 1 is read
    /// as 1, more than 1,024 as 1,024.
    #[must_use]
    pub fn shards(mut self, shards: impl Into<Shards>) -> Self {
        self.shards = shards.into();
        self
    }

    /// Where flushers may run; [`Pin::Node`] unless told otherwise.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }
}
