//! Machines to plan for: exports of hwloc beside this file (`export.sh` makes them), and some that
//! are put together here.

#![allow(dead_code, clippy::unwrap_used)] // each file of tests uses its part

mod xml;

use sluicegate::placement::{Cpu, NumaNode, Topology};

pub const GIB: u64 = 1 << 30;

/// The machines that `export.sh` writes.
pub const EXPORTS: [&str; 9] = [
    "two-sockets",
    "memory-only",
    "sub-numa",
    "confined",
    "offline",
    "hybrid",
    "sparse",
    "eight-sockets",
    "two-memories",
];

/// An export of hwloc.
pub fn export(name: &str) -> Topology {
    let path = format!("{}/tests/machines/{name}.xml", env!("CARGO_MANIFEST_DIR"));
    xml::topology(&std::fs::read_to_string(path).unwrap())
}

/// Every machine, by name.
pub fn all() -> Vec<(&'static str, Topology)> {
    let mut machines: Vec<_> = EXPORTS.iter().map(|name| (*name, export(name))).collect();
    machines.extend([
        ("unknown", Topology::default()),
        ("laptop", laptop()),
        ("single", single()),
        ("many_caches", many_caches()),
        ("four_sockets", four_sockets()),
        ("scattered", scattered()),
        ("asymmetric", asymmetric()),
        ("all_forbidden", all_forbidden()),
        ("forbidden_memory", forbidden_memory()),
    ]);
    machines
}

/// One node, four cores with two threads each; the threads of a core have neighbouring numbers.
pub fn laptop() -> Topology {
    let cpus = (0..8).map(|cpu| Cpu { core: cpu / 2, cache: Some(0), ..Cpu::new(cpu, 0) });
    Topology::builder().nodes([NumaNode::new(0, 16 * GIB)]).cpus(cpus).build()
}

/// A container with one CPU of a machine that has more.
pub fn single() -> Topology {
    let cpus = (0..4).map(|cpu| Cpu { allowed: cpu == 2, ..Cpu::new(cpu, 0) });
    Topology::builder().nodes([NumaNode::new(0, 8 * GIB)]).cpus(cpus).build()
}

/// One node with four last-level caches of three cores each.
pub fn many_caches() -> Topology {
    let cpus = (0..12).map(|cpu| Cpu { cache: Some(cpu / 3), ..Cpu::new(cpu, 0) });
    Topology::builder().nodes([NumaNode::new(0, 64 * GIB)]).cpus(cpus).build()
}

/// Sockets of four cores in a square: the one across is farther.
pub fn four_sockets() -> Topology {
    let nodes = (0..4).map(|node| NumaNode::new(node, 32 * GIB));
    let cpus = (0..16).map(|cpu| Cpu { package: cpu / 4, ..Cpu::new(cpu, cpu / 4) });
    let mut builder = Topology::builder().nodes(nodes).cpus(cpus);
    for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
        let steps: u32 = [0, 1, 2, 1][(from ^ to) as usize];
        builder = builder.distance(from, to, 10 + 10 * steps);
    }
    builder.build()
}

/// The same, in a cgroup with some CPUs of three of the nodes.
pub fn scattered() -> Topology {
    let whole = four_sockets();
    let cpus = whole.cpus().iter().cloned();
    let cpus = cpus.map(|cpu| Cpu { allowed: [0, 2, 7, 13, 14].contains(&cpu.os_index), ..cpu });
    let mut builder = Topology::builder().nodes(whole.nodes().iter().cloned()).cpus(cpus);
    for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
        builder = builder.distance(from, to, whole.distance(from, to));
    }
    builder.build()
}

/// A large node, a small one, one with a single CPU and no memory; distances that differ by
/// direction.
pub fn asymmetric() -> Topology {
    let node = |cpu: u32| [0, 0, 0, 0, 0, 0, 1, 1, 2][cpu as usize];
    let cpus = (0..9).map(|cpu| Cpu { package: node(cpu), ..Cpu::new(cpu, node(cpu)) });
    let nodes = [NumaNode::new(0, 48 * GIB), NumaNode::new(1, GIB / 2), NumaNode::new(2, None)];
    let builder = Topology::builder().nodes(nodes).cpus(cpus);
    let builder = builder.distance(0, 1, 30).distance(0, 2, 20).distance(1, 0, 15);
    builder.distance(1, 2, 40).distance(2, 0, 22).distance(2, 1, 21).build()
}

/// A machine of which this process may use nothing, as far as it is told.
pub fn all_forbidden() -> Topology {
    let cpus = (0..4).map(|cpu| Cpu { allowed: false, ..Cpu::new(cpu, cpu / 2) });
    let nodes = [NumaNode::new(0, GIB), NumaNode::new(1, GIB)];
    Topology::builder().nodes(nodes).cpus(cpus).build()
}

/// Two nodes, and memory of the second only.
pub fn forbidden_memory() -> Topology {
    let first = NumaNode { memory_allowed: false, ..NumaNode::new(0, 8 * GIB) };
    let cpus = (0..4).map(|cpu| Cpu { package: cpu / 2, ..Cpu::new(cpu, cpu / 2) });
    Topology::builder().nodes([first, NumaNode::new(1, 8 * GIB)]).cpus(cpus).build()
}
