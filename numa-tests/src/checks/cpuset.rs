//! A process that may use only a part of the machine: its cgroup has a cpuset (version 2). The
//! checks inside run in a child process, which goes into the cgroup before it does anything else.

use std::env;
use std::fs;
use std::process::Command;

use super::{engine, placed};
use crate::expect;
use crate::machine::{Machine, Set, list, read, set, write};
use crate::proof::{Sightings, nodes_of, pinned, touched};
use crate::report::Found;
use crate::sys;

const CGROUPS: &str = "/sys/fs/cgroup";
const PAGES: usize = 64;
const ITEMS: u64 = 100_000;

/// One CPU of the first node and one of the last, memory of all nodes.
pub fn spread(machine: &Machine) -> Found {
    let first = machine.nodes_with_cpus().next().and_then(|(_, cpus)| cpus.last());
    let last = machine.nodes_with_cpus().last().and_then(|(_, cpus)| cpus.first());
    let cpus = first.into_iter().chain(last).copied().collect();
    inside(machine, "spread", &cpus, &machine.nodes.keys().copied().collect())
}

/// The last node with CPUs, and its memory.
pub fn one_node(machine: &Machine) -> Found {
    let (node, cpus) = machine.nodes_with_cpus().last().ok_or("no node has CPUs")?;
    inside(machine, "one-node", cpus, &Set::from([node]))
}

/// The CPUs of the first node, and the memory of the last one only, which may have no CPUs.
pub fn far_memory(machine: &Machine) -> Found {
    let (_, cpus) = machine.nodes_with_cpus().next().ok_or("no node has CPUs")?;
    let last = machine.nodes.keys().last().ok_or("no node")?;
    inside(machine, "far-memory", cpus, &Set::from([*last]))
}

/// The CPUs of the first node, and memory of all nodes but that one: what belongs to the node has
/// to lie on the nearest of the others.
pub fn near_memory(machine: &Machine) -> Found {
    let (first, cpus) = machine.nodes_with_cpus().next().ok_or("no node has CPUs")?;
    let others = machine.nodes.keys().copied().filter(|&node| node != first);
    inside(machine, "near-memory", cpus, &others.collect())
}

/// Runs this program again in a cgroup.
fn inside(machine: &Machine, name: &str, cpus: &Set, nodes: &Set) -> Found {
    let group = format!("{CGROUPS}/{name}");
    write(&format!("{CGROUPS}/cgroup.subtree_control"), "+cpuset")?;
    fs::create_dir(&group).map_err(|error| format!("creating {group}: {error}"))?;
    write(&format!("{group}/cpuset.cpus"), &list(cpus))?;
    write(&format!("{group}/cpuset.mems"), &list(nodes))?;
    let program = env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = Command::new(program);
    command.args(["in-cpuset", &group, &list(cpus), &list(nodes), &list(&machine.cpus())]);
    let output = command.output().map_err(|error| format!("starting a child: {error}"))?;
    fs::remove_dir(&group).map_err(|error| format!("removing {group}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !said.is_empty() {
        return Ok(said);
    }
    Err(format!("{}: {said} {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// The child: goes into the cgroup, then checks what it may and may not do there.
pub fn child(arguments: &[String]) -> Found {
    let [group, cpus, nodes, all] = arguments else {
        return Err(format!("not a cgroup and three lists: {arguments:?}"));
    };
    write(&format!("{group}/cgroup.procs"), "0")?;
    let (cpus, nodes, all) = (set(cpus)?, set(nodes)?, set(all)?);
    let allowed = sys::affinity().map_err(|error| format!("sched_getaffinity: {error}"))?;
    if allowed != cpus {
        return Err(format!("CPUs {allowed:?} are allowed, not {cpus:?}"));
    }
    if mems_allowed()? != nodes {
        return Err(format!("nodes {:?} are allowed, not {nodes:?}", mems_allowed()?));
    }
    threads(&cpus, &all)?;
    memory(&cpus, &nodes)?;
    let machine = Machine::asked()?;
    let usable = expect::usable(&machine, &cpus);
    let run = engine::run(ITEMS, &usable, || Ok(()))?;
    let lie = if nodes.len() > 1 { pages(&machine, &usable, &nodes)? } else { String::new() };
    Ok(format!("CPUs {}, memory of nodes {}; {run}{lie}", list(&cpus), list(&nodes)))
}

/// Where there is memory on several nodes, rings and batches lie on the nearest of them.
fn pages(machine: &Machine, usable: &expect::Usable, nodes: &Set) -> Found {
    let nearest = |node: usize| {
        let distance = |&&other: &&usize| machine.distances[node][other];
        nodes.iter().min_by_key(distance).copied().unwrap_or(node)
    };
    Ok(format!("; {}", placed::near_memory(usable, &nearest)?))
}

/// A thread may be pinned to each CPU that is allowed, and to no other.
fn threads(cpus: &Set, all: &Set) -> Result<(), String> {
    for cpu in all {
        let only = Set::from([*cpu]);
        match (pinned(&only, Sightings::of_this_thread), cpus.contains(cpu)) {
            (Ok(seen), true) if seen.cpus == only => {}
            (Err(_), false) => {}
            (seen, allowed) => return Err(format!("CPU {cpu}, allowed: {allowed}, {seen:?}")),
        }
    }
    Ok(())
}

/// Memory comes from the nodes that are allowed: that of the thread, if it is one of them.
fn memory(cpus: &Set, nodes: &Set) -> Result<(), String> {
    for cpu in cpus {
        let (here, memory) = pinned(&Set::from([*cpu]), || {
            let here = sys::here().map_err(|error| format!("getcpu: {error}"))?;
            Ok((here.node, touched(PAGES, |_| Ok(()))?))
        })?;
        let pages = nodes_of(&memory)?;
        if nodes.contains(&here) {
            pages.prove_node(here)?;
        } else if pages.absent > 0 || !pages.on.keys().all(|node| nodes.contains(node)) {
            return Err(format!("pages outside nodes {nodes:?}: {pages:?}"));
        }
    }
    Ok(())
}

fn mems_allowed() -> Result<Set, String> {
    let status = read("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:"));
    set(line.ok_or("no Mems_allowed_list")?)
}
