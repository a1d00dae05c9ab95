//! What an engine's placement is to be: as the machine asks for, and as the report says.

use std::collections::BTreeMap;
use std::fmt::Debug;

use sluicegate::placement::{CpuSet, Placement};
use sluicegate::{Batcher, Shutdown};

use crate::machine::{Machine, Set, list};
use crate::sinks::Sinks;

/// The nodes with CPUs that a process may use, with these CPUs.
pub type Usable = BTreeMap<usize, Set>;

/// What is usable where only these CPUs are.
pub fn usable(machine: &Machine, cpus: &Set) -> Usable {
    let nodes = machine.nodes.iter().map(|(&node, own)| (node, own & cpus));
    nodes.filter(|(_, own)| !own.is_empty()).collect()
}

/// The plan has just these nodes with just these CPUs, and everything is where it was to be. Where
/// there are several nodes, every flusher is pinned to CPUs of its own.
pub fn placement(placement: &Placement, usable: &Usable) -> Result<(), String> {
    let plan = &placement.plan;
    let planned = plan.nodes().iter().map(|node| (node.os_index.map(usize_of), set(&node.cpus)));
    let wanted = usable.iter().map(|(&node, cpus)| (Some(node), cpus.clone()));
    same("nodes", planned.collect::<Vec<_>>(), wanted.collect())?;
    same("backend", placement.backend.starts_with("hwloc"), true)?;
    same("notes", &placement.notes, &Vec::new())?;
    same("refused", placement.refused().collect::<Vec<_>>(), Vec::new())?;
    same("as planned", placement.is_as_planned(), true)?;
    for (index, flusher) in placement.flushers.iter().enumerate() {
        let node = plan.nodes().get(plan.flushers()[index].node).ok_or("a flusher of no node")?;
        let inside = match &flusher.got {
            Some(cpus) => !cpus.is_empty() && cpus.iter().all(|cpu| node.cpus.contains(cpu)),
            None => usable.len() == 1,
        };
        same(&format!("flusher {index}: got is wanted"), &flusher.got, &flusher.wanted)?;
        same(&format!("flusher {index} on its node, {flusher:?}"), inside, true)?;
    }
    Ok(())
}

/// Each flusher was seen, on its node only, and on the CPUs that it is to be pinned to; in its
/// batches there was nothing but what its shard had.
pub fn flushers(placement: &Placement, sinks: &Sinks, every: bool) -> Result<(), String> {
    let (plan, seen) = (&placement.plan, sinks.flushers());
    for (index, flusher) in plan.flushers().iter().enumerate() {
        let written = seen.get(&index).ok_or_else(|| format!("flusher {index} was not seen"))?;
        let node = &plan.nodes()[flusher.node];
        let of = |why: String| format!("flusher {index} ({}): {why}", flusher.why);
        if let Some(node) = node.os_index {
            written.places.prove_node(usize_of(node)).map_err(of)?;
        }
        let cpus = set(flusher.cpus.as_ref().unwrap_or(&node.cpus));
        if !written.places.cpus.is_subset(&cpus) {
            return Err(of(format!("on CPUs {}", list(&written.places.cpus))));
        }
        if every && written.batches == 0 {
            return Err(of("it has written nothing".to_owned()));
        }
    }
    same("flushers", seen.len(), plan.flushers().len())
}

/// Each flusher has written batches of its own shard only.
pub fn own_shards(placement: &Placement, sinks: &Sinks) -> Result<(), String> {
    for (index, written) in sinks.flushers() {
        let own = Set::from([placement.plan.flushers()[index].ring]);
        if !written.shards.is_subset(&own) {
            return Err(format!("flusher {index} wrote shards {}", list(&written.shards)));
        }
    }
    Ok(())
}

/// Every page of each batch that a flusher was given lies where the report says; returns how many
/// pages that were.
pub fn batches(placement: &Placement, sinks: &Sinks) -> Result<usize, String> {
    let mut all = 0;
    for (index, written) in sinks.flushers() {
        let Some(node) = placement.flushers[index].memory_got else { continue };
        let proved =
            if written.batches == 0 { Ok(()) } else { written.pages.prove_node(usize_of(node)) };
        proved.map_err(|why| format!("batches of flusher {index}: {why}"))?;
        all += written.pages.on.values().sum::<usize>();
    }
    Ok(all)
}

/// Everything was written, and nothing is left.
pub fn all_written(report: &Shutdown<u64>, items: u64) -> Result<(), String> {
    let tally = report.tally;
    let all = tally.enqueued == items && tally.flushed_ok == items;
    if report.is_clean() && tally.balances() && all { Ok(()) } else { Err(format!("{report:?}")) }
}

/// The index in the plan of the node of that number.
pub fn index(batcher: &Batcher<u64>, number: usize) -> Result<usize, String> {
    let plan = batcher.placement().plan;
    let found = plan.nodes().iter().position(|node| node.os_index.map(usize_of) == Some(number));
    found.ok_or_else(|| format!("node {number} is not in the plan"))
}

pub fn same<T: PartialEq + Debug>(what: &str, is: T, wanted: T) -> Result<(), String> {
    if is == wanted { Ok(()) } else { Err(format!("{what}: {is:?}, not {wanted:?}")) }
}

pub fn set(cpus: &CpuSet) -> Set {
    cpus.iter().map(usize_of).collect()
}

pub fn usize_of(number: u32) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}
