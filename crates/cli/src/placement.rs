//! What a call may say about placement, and how it is told to the planner.

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use sluicegate::Pin;
use sluicegate::placement::{Options, Topology, plan};

/// The most rings, flushers or producers; the engine's own bound.
pub(crate) const THREADS_MAX: u64 = 1_024;

/// Takes a number of rings or threads.
pub(crate) fn count_parser() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=THREADS_MAX)
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

/// How many rings there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shards {
    PerNode(usize),
    Total(usize),
}

/// The planner's options; flushers are those of each ring.
pub(crate) fn options(topology: &Topology, pin: Pin, shards: Shards, flushers: usize) -> Options {
    let rings = match shards {
        Shards::PerNode(rings) => rings,
        Shards::Total(rings) => {
            rings.div_ceil(plan(topology, &Options::default()).nodes().len().max(1))
        }
    };
    Options::default().pin(pin).rings_per_node(rings).flushers_per_node(rings * flushers)
}
