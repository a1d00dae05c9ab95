//! A plan, and what came of it.

use super::bind::{bind_thread, current_cpu};
use super::cpuset::CpuSet;
use super::machine::Machine;
use super::near::Near;
use super::options::Options;
use super::plan::{Plan, RingPlan, plan};
use crate::ring::Barrier;
use crate::sync::{Mutex, lock, planted};
use crate::telemetry::Counter;

/// Where rings and flushers were to be, and where they are; from
/// [`Batcher::placement`](crate::Batcher::placement).
///
/// What the system refuses is no error: the engine runs all the same, and this says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// Who has told about the machine: `hwloc` with its version, `core_affinity`, or `caller`.
    pub backend: String,
    /// What there is to know about the machine and might not be expected.
    pub notes: Vec<String>,
    /// What was planned.
    pub plan: Plan,
    /// The rings, as in the plan.
    pub rings: Vec<RingPlacement>,
    /// The flushers, as in the plan.
    pub flushers: Vec<FlusherPlacement>,
    /// What keeps flushers and the owners of rings in order; `None` without
    /// [`owned_depth`](crate::Builder::owned_depth).
    pub barrier: Option<Barrier>,
}

/// Where a ring lies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingPlacement {
    /// The NUMA node it was to be bound to; `None` where nothing was to be bound.
    pub wanted: Option<u32>,
    /// The NUMA node it is bound to.
    pub got: Option<u32>,
    /// Whether it lies in huge pages, as far as the system tells.
    pub huge_pages: bool,
    /// Why it lies there, and what was refused.
    pub why: String,
}

/// Where a flusher runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlusherPlacement {
    /// The CPUs it was to be pinned to; `None` where it was not to be pinned.
    pub wanted: Option<CpuSet>,
    /// The CPUs it is pinned to.
    pub got: Option<CpuSet>,
    /// The NUMA node that its batches were to lie on; `None` where they were to lie anywhere.
    pub memory_wanted: Option<u32>,
    /// The NUMA node that its batches lie on, as far as the system lets them be moved: until it
    /// refuses, what was wanted.
    pub memory_got: Option<u32>,
    /// Why these, and what was refused.
    pub why: String,
}

impl Placement {
    /// Whether everything is where it was to be.
    #[must_use]
    pub fn is_as_planned(&self) -> bool {
        self.refused().next().is_none()
    }

    /// What the system has refused, one sentence each.
    pub fn refused(&self) -> impl Iterator<Item = &str> {
        let rings = self.rings.iter().filter(|ring| ring.wanted != ring.got).map(|ring| &ring.why);
        let elsewhere = |flusher: &&FlusherPlacement| {
            flusher.wanted != flusher.got || flusher.memory_wanted != flusher.memory_got
        };
        let flushers = self.flushers.iter().filter(elsewhere);
        rings.chain(flushers.map(|flusher| &flusher.why)).map(String::as_str)
    }
}

/// A plan in use.
pub struct Placed {
    plan: Plan,
    /// Whether memory is to be bound: there is memory on several nodes.
    binds_memory: bool,
    /// For each ring the others, the nearest first.
    near: Vec<Vec<usize>>,
    /// For each node how many producers it was home to.
    turns: Vec<Counter>,
    report: Mutex<Placement>,
}

impl Placed {
    /// For this machine.
    pub fn new(machine: Machine, options: &Options) -> Self {
        let Machine { topology, backend, notes } = machine;
        let plan = plan(&topology, options);
        let with_memory = topology.nodes().iter().filter(|node| node.gives_memory()).count();
        let binds_memory = with_memory > 1;
        let memory = |ring: &RingPlan| ring.memory.filter(|_| binds_memory);
        let rings = plan.rings().iter().map(|ring| RingPlacement {
            wanted: memory(ring),
            got: None,
            huge_pages: false,
            why: ring.why.clone(),
        });
        let flushers = plan.flushers().iter().map(|flusher| FlusherPlacement {
            wanted: flusher.cpus.clone(),
            got: None,
            memory_wanted: plan.rings().get(flusher.ring).and_then(memory),
            memory_got: plan.rings().get(flusher.ring).and_then(memory),
            why: flusher.why.clone(),
        });
        let (rings, flushers) = (rings.collect(), flushers.collect());
        let near = (0..plan.rings().len()).map(|ring| near(&plan, ring)).collect();
        let turns = plan.nodes().iter().map(|_| Counter::new(0)).collect();
        let plan_is = plan.clone();
        let report = Placement { backend, notes, plan: plan_is, rings, flushers, barrier: None };
        Self { plan, binds_memory, near, turns, report: Mutex::new(report) }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The report as it is now.
    pub fn report(&self) -> Placement {
        lock(&self.report).clone()
    }

    /// The node of the CPU that the calling thread runs on.
    pub fn home(&self) -> usize {
        #[cfg(any(feature = "testing", test, loom, shuttle))]
        let current_cpu = || super::pretend::seeming_cpu().or_else(current_cpu);
        let home = current_cpu().map_or(0, |cpu| self.plan.home(cpu));
        if planted("home_elsewhere") { self.elsewhere(home) } else { home }
    }

    /// Another node than that, for bugs that are planted.
    fn elsewhere(&self, node: usize) -> usize {
        (node + 1) % self.plan.nodes().len()
    }

    /// The node of a ring.
    pub fn node_of(&self, ring: usize) -> usize {
        self.plan.rings().get(ring).map_or(0, |ring| ring.node)
    }

    /// The ring for the next producer of a node: they take turns.
    pub fn next_shard(&self, node: usize) -> usize {
        let Some(rings) = self.plan.nodes().get(node).map(|node| node.rings.clone()) else {
            return 0;
        };
        let turn = self.turns.get(node).map_or(0, Counter::count) % rings.len().max(1) as u64;
        rings.start + usize::try_from(turn).unwrap_or(0)
    }

    /// The other rings, the nearest first: those of the same node, then those of other nodes.
    pub fn near(&self, ring: usize) -> &[usize] {
        self.near.get(ring).map_or(&[], Vec::as_slice)
    }

    /// The CPUs of the node of a ring, for who is to touch its memory first.
    pub fn cpus_near(&self, ring: usize) -> Option<&CpuSet> {
        let node = self.plan.nodes().get(self.node_of(ring))?;
        Some(&node.cpus).filter(|cpus| self.binds_memory && !cpus.is_empty())
    }

    /// The NUMA node that the memory of a ring is to be bound to.
    pub fn memory_of(&self, ring: usize) -> Option<u32> {
        let ring = self.plan.rings().get(ring)?;
        let memory = ring.memory.filter(|_| self.binds_memory);
        if planted("bind_elsewhere") {
            let other = self.plan.nodes().get(self.elsewhere(ring.node))?;
            return memory.and(other.os_index);
        }
        memory
    }

    /// Pins the calling thread as the plan has it for this flusher.
    pub fn pin(&self, flusher: usize) {
        let Some(entry) = self.plan.flushers().get(flusher) else { return };
        let Some(cpus) = &entry.cpus else { return };
        let pinned = match self.plan.nodes().get(self.elsewhere(entry.node)) {
            Some(other) if planted("pin_elsewhere") => bind_thread(&other.cpus),
            _ => bind_thread(cpus),
        };
        let mut report = lock(&self.report);
        let Some(entry) = report.flushers.get_mut(flusher) else { return };
        match pinned {
            Ok(()) => entry.got = Some(cpus.clone()),
            Err(why) => {
                entry.got = None;
                entry.why = format!("flusher {flusher}: {why}");
            }
        }
    }

    /// What brings the batches of a flusher to its node, of which there are so many at a time; `None`
    /// where they may lie anywhere, and where the system has refused to move them.
    pub fn near_of(&self, flusher: usize, batches: usize) -> Option<Near> {
        let node = lock(&self.report).flushers.get(flusher)?.memory_got?;
        if planted("batches_elsewhere") {
            let other = self.elsewhere(self.plan.flushers().get(flusher)?.node);
            return Some(Near::new(flusher, self.plan.nodes().get(other)?.os_index?, batches));
        }
        Some(Near::new(flusher, node, batches))
    }

    /// Whether the batches of two shards are to lie on nodes of their own.
    pub fn lie_apart(&self, shard: usize, other: usize) -> bool {
        self.binds_memory && self.memory_of(shard) != self.memory_of(other)
    }

    /// Takes note that the batches of a flusher lie where they happen to.
    pub fn not_brought(&self, flusher: usize, why: &str) {
        let mut report = lock(&self.report);
        let all = |entry: &FlusherPlacement| entry.memory_wanted == entry.memory_got;
        let first = report.flushers.iter().all(all);
        let Some(entry) = report.flushers.get_mut(flusher) else { return };
        entry.memory_got = None;
        entry.why = format!("{}; {why}", entry.why);
        drop(report);
        if first {
            tracing::warn!(flusher, why, "batches lie where they happen to; see placement()");
        }
    }

    /// Takes note of how binding the memory of a ring went, and whether it lies in huge pages, if it
    /// was to.
    pub fn lies(
        &self,
        ring: usize,
        bound: Option<Result<(), String>>,
        huge: Option<Result<(), String>>,
    ) {
        let mut report = lock(&self.report);
        let Some(entry) = report.rings.get_mut(ring) else { return };
        match bound {
            Some(Ok(())) => entry.got = entry.wanted,
            Some(Err(why)) => {
                entry.why =
                    format!("ring {ring}: {why}; it was first touched by a thread of the node");
            }
            None => {}
        }
        entry.huge_pages = matches!(huge, Some(Ok(())));
        if let Some(Err(why)) = huge {
            entry.why = format!("{}; no huge pages: {why}", entry.why);
        }
    }
}

/// The other rings, the nearest first, beginning behind the ring itself and going round, so that
/// not all turn to the same one.
fn near(plan: &Plan, ring: usize) -> Vec<usize> {
    let Some(node) = plan.rings().get(ring).map(|ring| ring.node) else { return Vec::new() };
    let nodes = std::iter::once(node).chain(plan.nearest(node).iter().copied());
    let rings = nodes.filter_map(|node| plan.nodes().get(node)).flat_map(|node| {
        let rings = node.rings.clone();
        let first = if rings.contains(&ring) { ring + 1 } else { rings.start + ring % rings.len() };
        (first..rings.end).chain(rings.start..first.min(rings.end))
    });
    rings.filter(|&other| other != ring).collect()
}
