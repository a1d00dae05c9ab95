//! The plan, and how it is made.

use std::ops::Range;

use super::cores::Seats;
use super::cpuset::CpuSet;
use super::options::{Options, Pin};
use super::topology::{Cpu, Topology};
use crate::config::FLUSHERS_MAX;

/// What a node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Its number in the operating system; `None` for a machine about which nothing is known.
    pub os_index: Option<u32>,
    /// The CPUs of the node that threads of this process can use.
    pub cpus: CpuSet,
    /// Its rings, as indices into [`Plan::rings`].
    pub rings: Range<usize>,
    /// Its flushers, as indices into [`Plan::flushers`].
    pub flushers: Range<usize>,
    /// Why it has them.
    pub why: String,
}

/// A ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingPlan {
    /// Its node, as an index into [`Plan::nodes`].
    pub node: usize,
    /// The number of the NUMA node its memory is to lie on; `None` for wherever the system puts it.
    pub memory: Option<u32>,
    /// Who collects from it, as indices into [`Plan::flushers`]; at least one.
    pub flushers: Vec<usize>,
    /// Why its memory lies there.
    pub why: String,
}

/// A flusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlusherPlan {
    /// Its node, as an index into [`Plan::nodes`].
    pub node: usize,
    /// What it collects from, as an index into [`Plan::rings`].
    pub ring: usize,
    /// The CPUs its thread is pinned to; `None` where it is not pinned.
    pub cpus: Option<CpuSet>,
    /// Why these.
    pub why: String,
}

/// A NUMA node without ring and flusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its number in the operating system.
    pub os_index: u32,
    /// The home of whatever adds from one of its CPUs all the same, as an index into
    /// [`Plan::nodes`].
    pub home: usize,
    /// Why it was left out.
    pub why: String,
}

/// Rings, flushers and where they are to be, with a reason for each choice. Made by [`plan`].
///
/// Nodes, rings and flushers are named by their indices here, which have no gaps; the numbers that
/// the operating system gives to nodes and CPUs are `u32`.
///
/// `Display` draws it for a terminal of 100 columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) topology: Topology,
    pub(super) options: Options,
    nodes: Vec<NodePlan>,
    rings: Vec<RingPlan>,
    flushers: Vec<FlusherPlan>,
    left_out: Vec<LeftOut>,
    notes: Vec<String>,
    nearest: Vec<Vec<usize>>,
    /// Each CPU of the machine and its home, by CPU.
    homes: Vec<(u32, usize)>,
}

impl Plan {
    /// The nodes that have rings and flushers; at least one.
    #[must_use]
    pub fn nodes(&self) -> &[NodePlan] {
        &self.nodes
    }

    /// All rings, node by node.
    #[must_use]
    pub fn rings(&self) -> &[RingPlan] {
        &self.rings
    }

    /// All flushers, node by node.
    #[must_use]
    pub fn flushers(&self) -> &[FlusherPlan] {
        &self.flushers
    }

    /// The NUMA nodes of the machine that have none.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// What the caller should know and might not expect.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The machine that it was made for.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The home of a producer that runs on this CPU, as an index into [`nodes`](Self::nodes): the
    /// CPU's node, or the nearest to it if that has no ring; the first node for a CPU that the
    /// topology does not know.
    #[must_use]
    pub fn home(&self, cpu: u32) -> usize {
        let found = self.homes.binary_search_by_key(&cpu, |home| home.0);
        found.ok().and_then(|index| self.homes.get(index)).map_or(0, |home| home.1)
    }

    /// The other nodes, the nearest first, as indices into [`nodes`](Self::nodes); none for a node
    /// that there is not. Among equals: first those of the same package, then the next one, going
    /// round.
    #[must_use]
    pub fn nearest(&self, node: usize) -> &[usize] {
        self.nearest.get(node).map_or(&[], Vec::as_slice)
    }
}

/// Plans rings and flushers for a machine.
///
/// Every NUMA node with a CPU that can be used gets at least one ring and one flusher, unless
/// [`Shards::Total`](super::Shards::Total) says that there are fewer rings than nodes. No CPU that
/// is offline or forbidden is ever used. If there is none that can be used, or nothing is known
/// about the machine, the plan has one node and pins nothing. The same machine and options give
/// the same plan.
#[must_use]
pub fn plan(topology: &Topology, options: &Options) -> Plan {
    let usable = |node: u32| topology.cpus_of(node, Cpu::usable);
    let numbers = topology.nodes().iter().map(|node| node.os_index);
    let (mut with, mut without): (Vec<u32>, Vec<u32>) =
        numbers.partition(|&node| !usable(node).is_empty());
    let mut draft = Draft { topology, options, plan: empty(topology, options) };
    if !topology.offline().is_empty() {
        let note = format!("offline, and of an unknown node: CPU {}", topology.offline());
        draft.plan.notes.push(note);
    }
    if with.is_empty() {
        draft.whole_machine();
        return draft.plan;
    }
    let alone = with.len() == 1;
    let mut shards = options.shards.on_each(with.len());
    shards.retain(|&shards| shards > 0);
    without.extend(with.drain(shards.len()..));
    without.sort_unstable();
    for (&node, shards) in with.iter().zip(shards) {
        draft.node(node, usable(node), shards, alone);
    }
    if with.len() > 1 && options.pin == Pin::None {
        let note = "flushers are not pinned: they may run far from their rings";
        draft.plan.notes.push(note.to_owned());
    }
    draft.find_neighbours(&with);
    draft.leave_out(&with, without);
    draft.find_homes(&with);
    draft.plan
}

fn empty(topology: &Topology, options: &Options) -> Plan {
    Plan {
        topology: topology.clone(),
        options: *options,
        nodes: Vec::new(),
        rings: Vec::new(),
        flushers: Vec::new(),
        left_out: Vec::new(),
        notes: Vec::new(),
        nearest: Vec::new(),
        homes: Vec::new(),
    }
}

/// A plan in the making.
struct Draft<'a> {
    topology: &'a Topology,
    options: &'a Options,
    plan: Plan,
}

impl Draft<'_> {
    /// One node for all, because there is nothing to tell nodes apart by.
    fn whole_machine(&mut self) {
        let why = if self.topology.cpus().is_empty() {
            "nothing is known about the machine's CPUs"
        } else {
            "of the CPUs that are known none can be used"
        };
        let unpinned = |_| (None, format!("not pinned: {why}"));
        let shards = self.options.shards.on_each(1).iter().sum();
        let pins = (0..self.flushers_of(shards)).map(unpinned).collect();
        let memory = (None, "wherever the system puts it".to_owned());
        let node = (None, CpuSet::default());
        self.add_node(node, shards, memory, pins, format!("one node for all: {why}"));
        self.plan.notes.push(format!("{why}: the whole machine is one node, nothing is pinned"));
        self.plan.nearest.push(Vec::new());
        self.plan.homes = self.topology.cpus().iter().map(|cpu| (cpu.os_index, 0)).collect();
        let nodes = self.topology.nodes().iter().map(|node| node.os_index).collect();
        self.leave_out(&[], nodes);
    }

    /// A node with CPUs that can be used.
    fn node(&mut self, node: u32, cpus: CpuSet, shards: usize, alone: bool) {
        let memory = self.memory(node);
        let flushers = self.flushers_of(shards);
        let pins = match self.options.pin {
            Pin::None => each(flushers, None, "not pinned, as asked"),
            Pin::Node if alone => {
                let why = "not pinned: it is the only node, and where this process may run at all";
                each(flushers, None, why)
            }
            Pin::Node => {
                let why = match cpus.len() {
                    1 => "the node's only CPU".to_owned(),
                    cpus => format!("may move among the node's {cpus} CPUs"),
                };
                each(flushers, Some(&cpus), &why)
            }
            Pin::Core => self.pins_to_cores(node, flushers),
        };
        self.note_crowding(node, flushers);
        let out = |is: fn(&Cpu) -> bool, what: &str| match self.topology.cpus_of(node, is) {
            none if none.is_empty() => String::new(),
            cpus => format!("; {what}: CPU {cpus}"),
        };
        let offline = out(|cpu| !cpu.online, "offline");
        let forbidden = out(|cpu| cpu.online && !cpu.allowed, "not for this process");
        let why = format!("usable: CPU {cpus}{offline}{forbidden}");
        self.add_node((Some(node), cpus), shards, memory, pins, why);
    }

    /// How many flushers so many shards have, within what an engine may have.
    fn flushers_of(&self, shards: usize) -> usize {
        shards * self.options.flushers.min((FLUSHERS_MAX / shards).max(1))
    }

    fn pins_to_cores(&self, node: u32, flushers: usize) -> Vec<(Option<CpuSet>, String)> {
        let mut seats = Seats::new(self.topology, node);
        let first = self.plan.flushers.len();
        for index in 0..flushers {
            seats.take(index / self.options.flushers);
        }
        seats.explain(first).map(|(cpu, why)| (Some(CpuSet::from_iter([cpu])), why)).collect()
    }

    /// Where rings of this node are to lie, and why.
    fn memory(&self, node: u32) -> (Option<u32>, String) {
        let nodes = self.topology.nodes();
        let Some(own) = nodes.iter().find(|own| own.os_index == node) else {
            return (None, String::new());
        };
        if own.gives_memory() {
            return (Some(node), "in the node's own memory".to_owned());
        }
        if nodes.iter().all(|node| node.memory.is_none()) {
            return (None, "wherever the system puts it: no node's memory is known".to_owned());
        }
        let lack = match own.memory_allowed {
            true => format!("node {node} has no memory"),
            false => format!("this process may have no memory of node {node}"),
        };
        let others = nodes.iter().filter(|other| other.gives_memory()).map(|node| node.os_index);
        match self.topology.nearest(node, others.collect()).first() {
            Some(&near) => {
                let far = self.topology.distance(node, near);
                let why = format!("in memory of node {near}, the nearest (distance {far}): {lack}");
                (Some(near), why)
            }
            None => (None, format!("wherever the system puts it: {lack}, nor of any other")),
        }
    }

    /// Says so when flushers leave no core to the producers.
    fn note_crowding(&mut self, node: u32, flushers: usize) {
        let mut cores: Vec<u32> =
            self.topology.cpus_on(node).filter(|cpu| cpu.usable()).map(|cpu| cpu.core).collect();
        cores.sort_unstable();
        cores.dedup();
        if flushers < cores.len() {
            return;
        }
        let (what, of) = (count(flushers, "flusher"), count(cores.len(), "core"));
        let share = if flushers > cores.len() { "flushers share cores, and " } else { "" };
        let note =
            format!("node {node}: {what} for {of}: {share}producers have none to themselves");
        self.plan.notes.push(note);
    }

    /// Adds a node with its rings, and its flushers with their pins.
    fn add_node(
        &mut self,
        (os_index, cpus): (Option<u32>, CpuSet),
        shards: usize,
        (memory, memory_why): (Option<u32>, String),
        pins: Vec<(Option<CpuSet>, String)>,
        why: String,
    ) {
        let Plan { nodes, rings, flushers, .. } = &mut self.plan;
        let node = nodes.len();
        let (first_ring, first_flusher) = (rings.len(), flushers.len());
        let each = pins.len() / shards;
        rings.extend((0..shards).map(|index| RingPlan {
            node,
            memory,
            flushers: (0..each).map(|own| first_flusher + index * each + own).collect(),
            why: memory_why.clone(),
        }));
        let pins = pins.into_iter().enumerate();
        flushers.extend(pins.map(|(index, (cpus, why))| {
            let ring = first_ring + index / each;
            FlusherPlan { node, ring, cpus, why }
        }));
        let (rings, flushers) = (first_ring..rings.len(), first_flusher..flushers.len());
        nodes.push(NodePlan { os_index, cpus, rings, flushers, why });
    }

    fn find_neighbours(&mut self, with: &[u32]) {
        let neighbours = |&node: &u32| {
            let others = with.iter().copied().filter(|&other| other != node).collect();
            indices(with, &self.topology.nearest(node, others))
        };
        self.plan.nearest = with.iter().map(neighbours).collect();
    }

    fn leave_out(&mut self, with: &[u32], without: Vec<u32>) {
        let left_out = without.into_iter().map(|node| {
            let near = self.topology.nearest(node, with.to_vec());
            let home = indices(with, &near).first().copied().unwrap_or(0);
            LeftOut { os_index: node, home, why: self.why_left_out(node) }
        });
        self.plan.left_out = left_out.collect();
    }

    fn why_left_out(&self, node: u32) -> String {
        let all = self.topology.cpus_of(node, |_| true);
        let offline = self.topology.cpus_of(node, |cpu| !cpu.online);
        let forbidden = self.topology.cpus_of(node, |cpu| cpu.online && !cpu.allowed);
        if all.is_empty() {
            "it has no CPU for a flusher".to_owned()
        } else if !self.topology.cpus_of(node, Cpu::usable).is_empty() {
            "there are fewer shards than nodes".to_owned()
        } else if forbidden.is_empty() {
            format!("its CPUs are offline: CPU {offline}")
        } else if offline.is_empty() {
            format!("this process may use none of its CPUs: CPU {forbidden}")
        } else {
            format!("this process may not use CPU {forbidden}, and CPU {offline} is offline")
        }
    }

    fn find_homes(&mut self, with: &[u32]) {
        let home = |cpu: &Cpu| {
            let left_out = || self.plan.left_out.iter().find(|out| out.os_index == cpu.node);
            let own = with.iter().position(|&node| node == cpu.node);
            (cpu.os_index, own.or_else(|| left_out().map(|out| out.home)).unwrap_or(0))
        };
        self.plan.homes = self.topology.cpus().iter().map(home).collect();
    }
}

/// The same for so many flushers.
fn each(flushers: usize, cpus: Option<&CpuSet>, why: &str) -> Vec<(Option<CpuSet>, String)> {
    vec![(cpus.cloned(), why.to_owned()); flushers]
}

/// Where these nodes stand among those with rings.
fn indices(with: &[u32], nodes: &[u32]) -> Vec<usize> {
    nodes.iter().filter_map(|node| with.iter().position(|other| other == node)).collect()
}

/// So many of these, in words.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
