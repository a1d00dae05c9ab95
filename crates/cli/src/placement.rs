//! What a call may say about placement.

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use sluicegate::placement::Shards;
use sluicegate::{Home, Pin};

/// The most rings, flushers or producers: as for the engine.
pub(crate) const THREADS_MAX: u64 = 1_024;

/// Takes a number of rings or threads.
pub(crate) fn count_parser() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=THREADS_MAX)
}

/// Whether these are more flushers than there can be, on a node or in all.
pub(crate) fn too_many(shards: Shards, flushers: usize) -> bool {
    let (Shards::PerNode(rings) | Shards::Total(rings)) = shards;
    rings.saturating_mul(flushers) as u64 > THREADS_MAX
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PinArg {
    /// Wherever the system puts them.
    None,
    /// On the CPUs of their node; on a machine of one node, any.
    Node,
    /// Each on one CPU of its node.
    Core,
}

impl From<PinArg> for Pin {
    fn from(pin: PinArg) -> Self {
        match pin {
            PinArg::None => Self::None,
            PinArg::Node => Self::Node,
            PinArg::Core => Self::Core,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HomeArg {
    /// One ring of the node where the producer was made.
    Sticky,
    /// The producer moves when its thread has moved to another node, once that costs no order.
    FollowCpu,
}

impl HomeArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sticky => "sticky",
            Self::FollowCpu => "follow-cpu",
        }
    }
}

impl From<HomeArg> for Home {
    fn from(home: HomeArg) -> Self {
        match home {
            HomeArg::Sticky => Self::Sticky,
            HomeArg::FollowCpu => Self::FollowCpu,
        }
    }
}
