//! From hwloc's objects to the machine as plain data.

use std::collections::BTreeSet;

use hwlocality::Topology as Hwloc;
use hwlocality::bitmap::BitmapIndex;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::distance::DistancesKind;
use hwlocality::object::types::ObjectType;

use super::process::Allowed;
use super::topology::{Cpu, NumaNode, Topology, TopologyBuilder};

/// A look at what hwloc has found.
pub struct Survey<'a> {
    hwloc: &'a Hwloc,
    /// The nodes and the CPUs that are near them.
    nodes: Vec<(NumaNode, BTreeSet<u32>)>,
    /// The CPUs of each kind, the slowest first; none where their speeds are not known.
    kinds: Vec<BTreeSet<u32>>,
}

impl<'a> Survey<'a> {
    pub fn new(hwloc: &'a Hwloc) -> Self {
        let nodes = hwloc.objects_with_type(ObjectType::NUMANode).filter_map(node).collect();
        let kinds = hwloc.cpu_kinds().into_iter().flatten();
        let ranked = kinds.clone().all(|kind| kind.efficiency.is_some());
        let kinds = kinds.filter(|_| ranked);
        let kinds = kinds.map(|kind| numbers(kind.cpuset.weight(), kind.cpuset.iter_set()));
        Self { hwloc, nodes, kinds: kinds.collect() }
    }

    /// The machine, of which this process may use so much.
    pub fn topology(&self, allowed: &Allowed) -> Topology {
        let by_hwloc = || {
            let nodes = self.hwloc.allowed_nodeset();
            numbers(nodes.weight(), nodes.iter_set())
        };
        let memory = allowed.nodes.clone().unwrap_or_else(by_hwloc);
        let nodes = self.nodes.iter().map(|(node, _)| NumaNode {
            memory_allowed: memory.contains(&node.os_index),
            ..node.clone()
        });
        // CPUs that are off are in this set, and nowhere else.
        let all = self.hwloc.complete_cpuset();
        let builder = Topology::builder()
            .nodes(nodes)
            .cpus(self.cpus(&allowed.cpus))
            .offline(numbers(all.weight(), all.iter_set()));
        self.distances(builder).build()
    }

    fn cpus(&self, allowed: &BTreeSet<u32>) -> Vec<Cpu> {
        let units = self.hwloc.objects_with_type(ObjectType::PU);
        let mut cores = Ranks::default();
        let mut caches = Ranks::default();
        let cpu = |unit: &TopologyObject| {
            let os_index = number(unit)?;
            let core = unit.first_ancestor_with_type(ObjectType::Core).unwrap_or(unit);
            let package = unit.first_ancestor_with_type(ObjectType::Package);
            let is_cache = |above: &&TopologyObject| above.object_type().is_cpu_data_cache();
            let cache = unit.ancestors().filter(is_cache).last();
            let kind = self.kinds.iter().position(|kind| kind.contains(&os_index));
            Some(Cpu {
                core: cores.rank(core),
                package: package.map_or(0, |package| small(package.logical_index())),
                cache: cache.map(|cache| caches.rank(cache)),
                performance: small(kind.unwrap_or(0)),
                allowed: allowed.contains(&os_index),
                ..Cpu::new(os_index, self.home(os_index))
            })
        };
        units.filter_map(cpu).collect()
    }

    /// The node of a CPU: of those that have it near them the one with the fewest CPUs. hwloc gives
    /// a node without CPUs those of its neighbours, and numbers it after them.
    fn home(&self, cpu: u32) -> u32 {
        let near = self.nodes.iter().filter(|(_, cpus)| cpus.contains(&cpu));
        let nearest = near.min_by_key(|(node, cpus)| (cpus.len(), node.os_index));
        nearest.map_or(0, |(node, _)| node.os_index)
    }

    fn distances(&self, mut builder: TopologyBuilder) -> TopologyBuilder {
        let found = self.hwloc.distances(Some(DistancesKind::MEANS_LATENCY)).unwrap_or_default();
        let is_node = |object: Option<&TopologyObject>| {
            object.is_some_and(|object| object.object_type() == ObjectType::NUMANode)
        };
        let Some(matrix) = found.iter().find(|matrix| matrix.objects().all(is_node)) else {
            return builder;
        };
        for ((from, to), distance) in matrix.object_distances() {
            if let (Some(from), Some(to)) = (from.and_then(number), to.and_then(number)) {
                builder = builder.distance(from, to, u32::try_from(distance).unwrap_or(u32::MAX));
            }
        }
        builder
    }
}

/// Numbers objects in the order in which they are met.
#[derive(Default)]
struct Ranks(Vec<u64>);

impl Ranks {
    fn rank(&mut self, object: &TopologyObject) -> u32 {
        let id = object.global_persistent_index();
        let found = self.0.iter().rposition(|known| *known == id);
        small(found.unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        }))
    }
}

fn node(object: &TopologyObject) -> Option<(NumaNode, BTreeSet<u32>)> {
    let memory = match object.attributes() {
        Some(ObjectAttributes::NUMANode(node)) => node.local_memory().map(u64::from),
        _ => None,
    };
    let cpus = object.cpuset();
    let cpus = cpus.map(|cpus| numbers(cpus.weight(), cpus.iter_set()));
    Some((NumaNode::new(number(object)?, memory), cpus.unwrap_or_default()))
}

/// The number that the system gives it.
fn number(object: &TopologyObject) -> Option<u32> {
    object.os_index().and_then(|number| u32::try_from(number).ok())
}

/// The numbers in a set of hwloc's; none if it has no end.
pub fn numbers(weight: Option<usize>, set: impl Iterator<Item = BitmapIndex>) -> BTreeSet<u32> {
    let set = weight.map(|_| set.filter_map(|index| u32::try_from(usize::from(index)).ok()));
    set.into_iter().flatten().collect()
}

fn small(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
