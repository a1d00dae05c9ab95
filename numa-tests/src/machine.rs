//! The machine: as it was asked for on the kernel's command line, and as the kernel shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A set of CPUs or of nodes.
pub type Set = BTreeSet<usize>;

const NODES: &str = "/sys/devices/system/node";
const CPUS: &str = "/sys/devices/system/cpu";

/// What `ci/numa.sh` asked for: `sluicegate.machine`, `.nodes`, `.distances`, `.mib`, `.checks`.
#[derive(Debug)]
pub struct Machine {
    pub name: String,
    /// The CPUs of each node; a node with memory only has none.
    pub nodes: BTreeMap<usize, Set>,
    /// From each node to each.
    pub distances: Vec<Vec<usize>>,
    /// Memory of each node.
    pub mib: usize,
    /// The only checks that are to run; none stands for all.
    pub checks: Vec<String>,
}

impl Machine {
    /// From the kernel's command line: `nodes` are lists of CPUs or `none` between slashes,
    /// `distances` rows of numbers between slashes.
    pub fn asked() -> Result<Self, String> {
        let line = read("/proc/cmdline")?;
        let word = |name: &str| {
            let words = &mut line.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(&format!("sluicegate.{name}=")));
            value.ok_or_else(|| format!("no sluicegate.{name} on the kernel's command line"))
        };
        let nodes = word("nodes")?.split('/').enumerate();
        let nodes = nodes
            .map(|(node, cpus)| Ok((node, if cpus == "none" { Set::new() } else { set(cpus)? })));
        let rows = word("distances")?.split('/');
        let distances = rows.map(|row| row.split(',').map(number).collect());
        Ok(Self {
            name: word("machine")?.to_owned(),
            nodes: nodes.collect::<Result<_, String>>()?,
            distances: distances.collect::<Result<_, String>>()?,
            mib: number(word("mib")?)?,
            checks: word("checks")
                .into_iter()
                .flat_map(|names| names.split(','))
                .map(str::to_owned)
                .collect(),
        })
    }

    /// All CPUs.
    pub fn cpus(&self) -> Set {
        self.nodes.values().flatten().copied().collect()
    }

    /// The nodes that threads can run on, with their CPUs.
    pub fn nodes_with_cpus(&self) -> impl Iterator<Item = (usize, &Set)> {
        self.nodes.iter().filter(|(_, cpus)| !cpus.is_empty()).map(|(&node, cpus)| (node, cpus))
    }

    /// The node of a CPU.
    pub fn node_of(&self, cpu: usize) -> Option<usize> {
        self.nodes.iter().find(|(_, cpus)| cpus.contains(&cpu)).map(|(&node, _)| node)
    }

    /// Another node with CPUs, for what must go wrong.
    pub fn other(&self, node: usize) -> usize {
        let mut others = self.nodes_with_cpus().map(|(other, _)| other);
        others
            .find(|&other| other != node)
            .expect("a machine of these tests has two nodes with CPUs")
    }
}

/// The CPUs of a node, as the kernel has them now.
pub fn cpus_of(node: usize) -> Result<Set, String> {
    set(&read(&format!("{NODES}/node{node}/cpulist"))?)
}

/// A list of nodes in sysfs: `online`, `has_memory`, `has_cpu`.
pub fn nodes_that_are(what: &str) -> Result<Set, String> {
    set(&read(&format!("{NODES}/{what}"))?)
}

/// Distances from a node.
pub fn distances_of(node: usize) -> Result<Vec<usize>, String> {
    read(&format!("{NODES}/node{node}/distance"))?.split_whitespace().map(number).collect()
}

/// Memory of a node that the kernel can use, in MiB.
pub fn mib_of(node: usize) -> Result<usize, String> {
    let info = read(&format!("{NODES}/node{node}/meminfo"))?;
    let line = info.lines().find(|line| line.contains("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(3)).ok_or("no MemTotal")?;
    Ok(number(kib)? / 1024)
}

/// The CPUs that are online.
pub fn online() -> Result<Set, String> {
    set(&read(&format!("{CPUS}/online"))?)
}

/// Takes a CPU away, or brings it back.
pub fn set_online(cpu: usize, online: bool) -> Result<(), String> {
    write(&format!("{CPUS}/cpu{cpu}/online"), if online { "1" } else { "0" })
}

pub fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("reading {path}: {error}"))
}

pub fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("writing '{text}' to {path}: {error}"))
}

/// Reads a list such as `0-2,7`.
pub fn set(list: &str) -> Result<Set, String> {
    let mut set = Set::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        set.extend(number(first)?..=number(last)?);
    }
    Ok(set)
}

/// Writes a list that [`set`] and the kernel read.
pub fn list(set: &Set) -> String {
    set.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn number(digits: &str) -> Result<usize, String> {
    digits.parse().map_err(|error| format!("'{digits}': {error}"))
}
