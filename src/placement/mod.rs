//! Placement: which node gets a ring, where its memory lies, and which CPUs a flusher may run on.
//!
//! [`plan`] is a function of data: a [`Topology`] and [`Options`] in, a [`Plan`] out, with a reason
//! for each choice. It looks at no machine and binds nothing, so that what the engine would do on
//! a machine can be seen, and tested, on another.
//!
//! ```text
//!  Topology ── nodes, CPUs (online? allowed?), SMT siblings, caches, memory, distances
//!      │
//!      ├─ node with a usable CPU ─────→ its shards: rings, each with its flushers
//!      │     memory of a ring:          its node's own; else the nearest node's that has some
//!      │     CPUs of a flusher:         by Pin: any, those of the node, or one
//!      ├─ node without a usable CPU ──→ nothing; what adds there has the nearest node as its home
//!      └─ no usable CPU at all ───────→ one node that is the whole machine, nothing pinned
//! ```
//!
//! **Which core** ([`Pin::Core`]): among the usable CPUs of the node the one that is first by this
//! order. No flusher yet on the CPU, then none on its core (an SMT sibling halves the speed of
//! both); not the first core of the node, which the system's own work and most interrupts use; the
//! fastest kind of core; the last-level cache where the ring's other flushers are, or for a new
//! ring the one with the fewest flushers; the lowest number. With more flushers than CPUs it goes
//! round, and says so.
//!
//! **The same every time**: nothing depends on the order in which things were told, or on chance.
//!
//! ```
//! use sluicegate::placement::{Cpu, NumaNode, Options, Pin, Topology, plan};
//!
//! let topology = Topology::builder()
//!     .nodes([NumaNode::new(0, 16 << 30), NumaNode::new(1, 16 << 30)])
//!     .cpus((0..8).map(|cpu| Cpu::new(cpu, cpu / 4)))
//!     .build();
//! let plan = plan(&topology, &Options::default().pin(Pin::Core));
//! assert_eq!(plan.rings().len(), 2);
//! let cpus = plan.flushers()[1].cpus.as_ref().map(|cpus| cpus.to_string());
//! assert_eq!(cpus.as_deref(), Some("5")); // not the first core of the second node
//! assert_eq!(plan.home(6), 1);
//! assert!(plan.to_string().contains("[5=F1]")); // a drawing for the terminal
//! ```

#[cfg(not(any(loom, shuttle)))]
mod affinity;
mod bind;
mod cores;
mod cpuset;
mod draw;
#[cfg(feature = "numa")]
#[cfg(not(any(loom, shuttle)))]
mod hwloc;
mod json;
mod machine;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod machine_tests;
mod near;
mod options;
mod placed;
mod plan;
#[cfg(any(feature = "testing", test, loom, shuttle))]
mod pretend;
#[cfg(not(any(loom, shuttle)))]
mod process;
#[cfg(feature = "numa")]
#[cfg(not(any(loom, shuttle)))]
mod survey;
#[cfg(not(any(loom, shuttle)))]
mod sys;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
mod topology;

pub(crate) use bind::{bind_memory, bind_thread};
pub use cpuset::CpuSet;
pub use machine::Machine;
pub(crate) use near::{Near, apart};
pub use options::{Options, Pin, Shards};
pub(crate) use placed::Placed;
pub use placed::{FlusherPlacement, Placement, RingPlacement};
pub use plan::{FlusherPlan, LeftOut, NodePlan, Plan, RingPlan, plan};
#[cfg(any(feature = "testing", test, loom, shuttle))]
#[doc(hidden)] // see `testing`
pub use pretend::seem_on_cpu;
pub use topology::{Cpu, NumaNode, Topology, TopologyBuilder};
