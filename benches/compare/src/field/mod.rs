//! Everybody who takes part, a file for each family. A new one is a
//! [`Peer`](crate::contestant::Peer) and a line in [`FIELD`]; the tests then run it, too.

mod batchers;
mod bulk_channels;
mod channels;
mod lanes;
mod limit;
mod ours;
mod queues;
mod rings;
mod tasks;

use crate::contestant::{Contestant, Of};

/// Names that the targets speak of.
pub mod name {
    /// The engine on its shared ring, single adds, a sink that folds.
    pub const ADD: &str = "sluicegate add";
    /// The same with runs of 64.
    pub const ADD_MANY: &str = "sluicegate add_many(64)";
    /// The engine with a sink that does nothing.
    pub const NULL: &str = "sluicegate null sink";
    /// The ring alone.
    pub const RING: &str = "sluicegate ring";
    /// A ring for each producer.
    pub const OWNED: &str = "sluicegate owned add";
    /// How fast bytes get from one core to another.
    pub const STREAM: &str = "core-to-core stream";
}

/// Every contestant.
pub static FIELD: &[&dyn Contestant] = &[
    &Of::<ours::Add>::new(),
    &Of::<ours::Owned>::new(),
    &Of::<ours::AddMany>::new(),
    &Of::<ours::Null>::new(),
    &Of::<ours::Bare>::new(),
    &Of::<channels::Crossbeam>::new(),
    &Of::<channels::Std>::new(),
    &Of::<channels::Crossfire>::new(),
    &Of::<channels::Thingbuf>::new(),
    &Of::<bulk_channels::Flume>::new(),
    &Of::<bulk_channels::Kanal>::new(),
    &Of::<bulk_channels::Tokio>::new(),
    &Of::<tasks::TokioTasks>::new(),
    &Of::<queues::ArrayQueue>::new(),
    &Of::<queues::Concurrent>::new(),
    &Of::<rings::Disruptor>::new(),
    &Of::<rings::DisruptorAsleep>::new(),
    &Of::<lanes::Rtrb>::new(),
    &Of::<lanes::Gil>::new(),
    &Of::<lanes::GilParking>::new(),
    &Of::<lanes::Vecs>::new(),
    &Of::<batchers::TokioStream>::new(),
    &Of::<batchers::FuturesBatch>::new(),
    &Of::<tasks::BatchAintOne>::new(),
    &Of::<batchers::BatchChannel>::new(),
    &Of::<batchers::AutoBatch>::new(),
    &Of::<batchers::RecvTimeout>::new(),
    &Of::<limit::Stream>::new(),
];

/// The contestant of this name.
pub fn find(name: &str) -> Option<&'static dyn Contestant> {
    FIELD.iter().copied().find(|contestant| contestant.name() == name)
}
