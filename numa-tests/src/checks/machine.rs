//! Whether the machine is the one that was asked for: if not, no other check says much.

use crate::machine::{self, Machine, Set, list};
use crate::proof::{Sightings, pinned};
use crate::report::Found;

/// Every node with its CPUs, all of them online.
pub fn cpus(machine: &Machine) -> Found {
    let asked: Set = machine.nodes.keys().copied().collect();
    expect("nodes", &machine::nodes_that_are("online")?, &asked)?;
    for (&node, cpus) in &machine.nodes {
        expect(&format!("CPUs of node {node}"), &machine::cpus_of(node)?, cpus)?;
    }
    expect("CPUs online", &machine::online()?, &machine.cpus())?;
    Ok(format!("{} nodes, {} CPUs", machine.nodes.len(), machine.cpus().len()))
}

/// Every node with memory; the kernel keeps some of it for itself.
pub fn memory(machine: &Machine) -> Found {
    let asked: Set = machine.nodes.keys().copied().collect();
    expect("nodes with memory", &machine::nodes_that_are("has_memory")?, &asked)?;
    let mut seen = Vec::new();
    for &node in machine.nodes.keys() {
        let mib = machine::mib_of(node)?;
        if mib < machine.mib / 2 || mib > machine.mib {
            return Err(format!("node {node} has {mib} MiB of {}", machine.mib));
        }
        seen.push(mib.to_string());
    }
    Ok(format!("{} MiB", seen.join(", ")))
}

/// The distances between nodes.
pub fn distances(machine: &Machine) -> Found {
    for (node, asked) in machine.distances.iter().enumerate() {
        let seen = machine::distances_of(node)?;
        if seen != *asked {
            return Err(format!("from node {node}: {seen:?}, not {asked:?}"));
        }
    }
    Ok(format!("{:?}", machine.distances))
}

/// A thread that is pinned to a CPU finds itself there, and on the node of that CPU.
pub fn getcpu(machine: &Machine) -> Found {
    for cpu in machine.cpus() {
        let node = machine.node_of(cpu).ok_or("a CPU without a node")?;
        let seen = pinned(&Set::from([cpu]), Sightings::of_this_thread)?;
        expect(&format!("a thread pinned to CPU {cpu}: CPUs"), &seen.cpus, &Set::from([cpu]))?;
        seen.prove_node(node)?;
    }
    Ok("each CPU in turn".to_owned())
}

fn expect(what: &str, seen: &Set, asked: &Set) -> Result<(), String> {
    if seen == asked {
        return Ok(());
    }
    Err(format!("{what}: '{}', not '{}'", list(seen), list(asked)))
}
