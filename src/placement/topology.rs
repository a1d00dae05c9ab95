//! The machine as plain data.

use std::collections::BTreeMap;

use super::cpuset::CpuSet;

/// Distance from a node to its own memory, where none was told: as Linux has it.
const NEAR: u32 = 10;

/// Distance from a node to another, where none was told: as Linux has it.
const FAR: u32 = 20;

/// A NUMA node: memory, and as a rule CPUs that are near it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number in the operating system; numbers may have gaps.
    pub os_index: u32,
    /// Its memory in bytes; `None` where it has none, or none is known.
    pub memory: Option<u64>,
    /// Whether this process may have memory there (cgroup: `cpuset.mems`).
    pub memory_allowed: bool,
}

impl NumaNode {
    /// A node whose memory may be used: so many bytes, or `None` for a node without.
    #[must_use]
    pub fn new(os_index: u32, memory: impl Into<Option<u64>>) -> Self {
        Self { os_index, memory: memory.into(), memory_allowed: true }
    }

    /// Whether a ring can lie there.
    pub(super) fn gives_memory(&self) -> bool {
        self.memory_allowed && self.memory.is_some_and(|bytes| bytes > 0)
    }
}

/// A CPU: what the system runs one thread on at a time.
///
/// ```
/// use sluicegate::placement::Cpu;
///
/// // The second hardware thread of a fast core.
/// let cpu = Cpu { core: 1, performance: 1, ..Cpu::new(9, 0) };
/// assert!(cpu.usable());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number in the operating system; numbers may have gaps.
    pub os_index: u32,
    /// The number of the NUMA node it belongs to.
    pub node: u32,
    /// A number that it shares with its SMT siblings and with no other CPU of the machine.
    pub core: u32,
    /// The number of its package (socket).
    pub package: u32,
    /// A number that it shares with the CPUs of the same last-level cache and with no other CPU of
    /// the machine; `None` where that is not known.
    pub cache: Option<u32>,
    /// How fast its core is where a machine has cores of several kinds: more is faster.
    pub performance: u32,
    /// Whether it runs at all.
    pub online: bool,
    /// Whether this process may use it (affinity mask, cgroup).
    pub allowed: bool,
}

impl Cpu {
    /// A CPU that may be used: a core of its own on package 0, of the only kind there is, with no
    /// known cache.
    #[must_use]
    pub fn new(os_index: u32, node: u32) -> Self {
        Self {
            os_index,
            node,
            core: os_index,
            package: 0,
            cache: None,
            performance: 0,
            online: true,
            allowed: true,
        }
    }

    /// Whether a thread of this process can run there.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.online && self.allowed
    }
}

/// The machine: its NUMA nodes, its CPUs, and how far the nodes are from one another.
///
/// The default is a machine about which nothing is known.
///
/// ```
/// use sluicegate::placement::{Cpu, NumaNode, Topology};
///
/// let topology = Topology::builder()
///     .nodes([NumaNode::new(0, 16 << 30), NumaNode::new(1, 16 << 30)])
///     .cpus((0..4).map(|cpu| Cpu::new(cpu, cpu / 2)))
///     .distance(0, 1, 21)
///     .distance(1, 0, 21)
///     .build();
/// assert_eq!(topology.distance(0, 1), 21);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<NumaNode>,
    cpus: Vec<Cpu>,
    offline: CpuSet,
    distances: BTreeMap<(u32, u32), u32>,
}

impl Topology {
    /// Starts with an empty machine.
    #[must_use]
    pub fn builder() -> TopologyBuilder {
        TopologyBuilder::default()
    }

    /// Its nodes, by number.
    #[must_use]
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// Its CPUs, by number.
    #[must_use]
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// CPUs that are offline and of which therefore only the number is known.
    #[must_use]
    pub fn offline(&self) -> &CpuSet {
        &self.offline
    }

    /// How far the memory of node `to` is from the CPUs of node `from`, by their numbers: what was
    /// told, or else 10 for the node itself and 20 for others, which is what Linux says where it
    /// does not know.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        let told = self.distances.get(&(from, to)).copied();
        told.unwrap_or(if from == to { NEAR } else { FAR })
    }

    /// The CPUs of a node that fulfil a condition.
    pub(super) fn cpus_of(&self, node: u32, is: impl Fn(&Cpu) -> bool) -> CpuSet {
        self.cpus_on(node).filter(|cpu| is(cpu)).map(|cpu| cpu.os_index).collect()
    }

    /// The CPUs of a node.
    pub(super) fn cpus_on(&self, node: u32) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(move |cpu| cpu.node == node)
    }

    /// Some of the nodes, the nearest to `from` first. Among equals come those of the same package,
    /// then others with CPUs, then those without; and then the next by number, beginning after
    /// `from` and going round, so that not all nodes have the same first neighbour.
    pub(super) fn nearest(&self, from: u32, mut nodes: Vec<u32>) -> Vec<u32> {
        let home = self.package_of(from);
        nodes.sort_by_cached_key(|&node| {
            let strangeness = match self.package_of(node) {
                None => 2,
                package => u8::from(package != home),
            };
            (self.distance(from, node), strangeness, node < from, node)
        });
        nodes
    }

    fn package_of(&self, node: u32) -> Option<u32> {
        self.cpus_on(node).map(|cpu| cpu.package).next()
    }
}

/// Collects what a machine consists of. What does not fit together is put right rather than
/// refused, since an odd machine is no reason not to start: what is told twice counts as told last,
/// and a node that only CPUs have told of is one without memory.
#[derive(Clone, Debug, Default)]
pub struct TopologyBuilder {
    nodes: BTreeMap<u32, NumaNode>,
    cpus: BTreeMap<u32, Cpu>,
    offline: Vec<u32>,
    distances: BTreeMap<(u32, u32), u32>,
}

impl TopologyBuilder {
    /// Adds nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = NumaNode>) -> Self {
        self.nodes.extend(nodes.into_iter().map(|node| (node.os_index, node)));
        self
    }

    /// Adds CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = Cpu>) -> Self {
        self.cpus.extend(cpus.into_iter().map(|cpu| (cpu.os_index, cpu)));
        self
    }

    /// Adds CPUs that are offline and of which only the number is known: the system forgets the
    /// node and the core of such CPUs. Those added as [`cpus`](Self::cpus) too do not count here.
    #[must_use]
    pub fn offline(mut self, cpus: impl IntoIterator<Item = u32>) -> Self {
        self.offline.extend(cpus);
        self
    }

    /// Says how far the memory of node `to` is from the CPUs of node `from`.
    #[must_use]
    pub fn distance(mut self, from: u32, to: u32, distance: u32) -> Self {
        self.distances.insert((from, to), distance);
        self
    }

    /// The machine.
    #[must_use]
    pub fn build(self) -> Topology {
        let Self { mut nodes, cpus, offline, distances } = self;
        for cpu in cpus.values() {
            nodes.entry(cpu.node).or_insert_with(|| NumaNode::new(cpu.node, None));
        }
        let offline = offline.into_iter().filter(|cpu| !cpus.contains_key(cpu)).collect();
        let (nodes, cpus) = (nodes.into_values().collect(), cpus.into_values().collect());
        Topology { nodes, cpus, offline, distances }
    }
}
