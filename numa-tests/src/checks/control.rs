//! Controls: threads and memory that these checks place themselves, right and wrong. They show what
//! the kernel does with a placement, and that the proofs notice one that is wrong.
//!
//! A thread that nobody pins is no control: the scheduler may put it right by chance.

use std::collections::BTreeSet;
use std::io;

use crate::machine::{Machine, Set};
use crate::mutants::planted;
use crate::proof::{Sightings, nodes_of, pinned, touched};
use crate::report::Found;
use crate::sys::{self, Mapping, Policy};

const PAGES: usize = 64;

/// A thread for each node with CPUs was seen on its node only.
pub fn threads(machine: &Machine) -> Found {
    for (node, _) in machine.nodes_with_cpus() {
        pinned(cpus_for(machine, node), Sightings::of_this_thread)?.prove_node(node)?;
    }
    Ok("each on its node".to_owned())
}

/// Memory lies on the node of the thread that touched it first.
pub fn first_touch(machine: &Machine) -> Found {
    for (node, _) in machine.nodes_with_cpus() {
        let memory = pinned(cpus_for(machine, node), || touched(PAGES, |_| Ok(())))?;
        nodes_of(&memory)?.prove_node(node)?;
        expect_policy(&memory, libc::MPOL_DEFAULT, &Set::new())?;
    }
    Ok("on the node of who touched it".to_owned())
}

/// Memory that is bound to a node lies there, touched from whichever node.
pub fn bound(machine: &Machine) -> Found {
    for &node in machine.nodes.keys() {
        let to = if planted("control_memory") { machine.other(node) } else { node };
        let from = machine.other(node);
        let bind = |memory: &mut Mapping| memory.bind(to);
        let memory = pinned(&machine.nodes[&from], || touched(PAGES, bind))?;
        nodes_of(&memory)?.prove_node(node)?;
        expect_policy(&memory, libc::MPOL_BIND, &Set::from([node]))?;
    }
    Ok(format!("on each of {} nodes, touched from another", machine.nodes.len()))
}

/// The proofs fail for a thread of another node, for its memory, and for memory nobody touched.
pub fn noticed(machine: &Machine) -> Found {
    for (node, _) in machine.nodes_with_cpus() {
        let other = &machine.nodes[&machine.other(node)];
        let seen = pinned(other, Sightings::of_this_thread)?;
        refuted(seen.prove_node(node), "a thread of another node")?;
        let memory = pinned(other, || touched(PAGES, |_| Ok(())))?;
        refuted(nodes_of(&memory)?.prove_node(node), "memory of another node")?;
        let untouched = Mapping::pages(PAGES).map_err(|error| format!("mmap: {error}"))?;
        refuted(nodes_of(&untouched)?.prove_node(node), "memory that nobody touched")?;
    }
    refuted(Sightings::default().prove_node(0), "a thread that was never seen")?;
    Ok("threads and pages of another node, and of none".to_owned())
}

/// A CPU and a node that do not exist are refused, not ignored.
pub fn refused(machine: &Machine) -> Found {
    let no_cpu = Set::from([machine.cpus().last().map_or(0, |last| last + 1)]);
    if pinned(&no_cpu, || Ok(())).is_ok() {
        return Err(format!("a thread was pinned to CPU {no_cpu:?}"));
    }
    let no_node = machine.nodes.len();
    match touched(1, |memory| memory.bind(no_node)) {
        Err(_) => Ok("a CPU and a node that are not there".to_owned()),
        Ok(_) => Err(format!("memory was bound to node {no_node}")),
    }
}

/// Where a control for this node is pinned.
fn cpus_for(machine: &Machine, node: usize) -> &Set {
    &machine.nodes[&if planted("control_thread") { machine.other(node) } else { node }]
}

fn refuted(proof: Result<(), String>, what: &str) -> Result<(), String> {
    if proof.is_ok() { Err(format!("not noticed: {what}")) } else { Ok(()) }
}

fn expect_policy(memory: &Mapping, mode: i32, nodes: &BTreeSet<usize>) -> Result<(), String> {
    let policy = sys::policy_of(memory.start());
    let policy = policy.map_err(|error: io::Error| format!("get_mempolicy: {error}"))?;
    if policy == (Policy { mode, nodes: nodes.clone() }) {
        return Ok(());
    }
    Err(format!("policy {policy:?}, not mode {mode} of nodes {nodes:?}"))
}
