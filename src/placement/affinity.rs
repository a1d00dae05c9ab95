//! The machine without hwloc, by core_affinity: CPUs, all in one node, and pinning to a single one.

use std::collections::BTreeSet;

use super::cpuset::CpuSet;
use super::machine::{CALLER_ONLY, Machine};
use super::process;
use super::topology::{Cpu, NumaNode, Topology};

/// core_affinity knows CPUs below this.
const CPUS_MAX: u32 = 1024;

/// The machine: the CPUs that run, and of these the ones that some thread of this process may use.
pub fn machine() -> Machine {
    let mut notes = Vec::new();
    let own = own_cpus().unwrap_or_default();
    let usable = usable_cpus(&own).unwrap_or_else(|| {
        notes.extend(cfg!(target_os = "linux").then(|| CALLER_ONLY.to_owned()));
        own.clone()
    });
    let all: BTreeSet<u32> = process::online().into_iter().flatten().chain(own).collect();
    if all.last().is_some_and(|last| *last >= CPUS_MAX) {
        notes.push(format!("threads cannot be pinned to CPU {CPUS_MAX} and above without hwloc"));
    }
    let nodes: CpuSet = process::nodes().into_iter().flatten().collect();
    if nodes.len() > 1 {
        let how = "only the feature `numa` can tell them apart";
        notes.push(format!("the machine has NUMA nodes {nodes}, and {how}"));
    }
    let cpus: Vec<Cpu> = all
        .into_iter()
        .map(|cpu| Cpu { allowed: usable.contains(&cpu), ..Cpu::new(cpu, 0) })
        .collect();
    let node = (!cpus.is_empty()).then(|| NumaNode::new(0, None));
    let topology = Topology::builder().nodes(node).cpus(cpus).build();
    Machine { topology, backend: "core_affinity".to_owned(), notes }
}

/// Pins the calling thread. Several CPUs are more than core_affinity can set, so that is well only
/// if it is so already.
pub fn bind_thread(cpus: &CpuSet) -> Result<(), String> {
    let wanted: BTreeSet<u32> = cpus.iter().collect();
    let only = match (wanted.first(), wanted.last()) {
        (Some(first), Some(last)) if first == last => *first,
        _ => return is_everything(&wanted),
    };
    if only >= CPUS_MAX {
        return Err(format!("core_affinity knows CPUs below {CPUS_MAX} only"));
    }
    let id = usize::try_from(only).map_err(|error| error.to_string())?;
    if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
        let hint = "it may be offline, not in this process's cpuset, or pinning may be forbidden";
        return Err(format!("the system refused, and core_affinity does not say why; {hint}"));
    }
    match own_cpus() {
        Some(own) if own == wanted => Ok(()),
        Some(own) => Err(elsewhere(own)),
        None => Err("the system does not say where the thread is".to_owned()),
    }
}

/// Whether the thread runs on these CPUs and on all of them that it can have, without being pinned.
fn is_everything(wanted: &BTreeSet<u32>) -> Result<(), String> {
    let own = own_cpus().ok_or("the system does not say where the thread is")?;
    let usable = usable_cpus(&own).unwrap_or_else(|| own.clone());
    let inside = !own.is_empty() && own.is_subset(wanted);
    if inside && usable.intersection(wanted).all(|cpu| own.contains(cpu)) {
        return Ok(());
    }
    Err(format!("without the feature `numa` only one CPU can be had; {}", elsewhere(own)))
}

fn elsewhere(own: BTreeSet<u32>) -> String {
    format!("the thread may run on CPU {}", own.into_iter().collect::<CpuSet>())
}

/// The CPUs that run and that some thread of this process may use, those of the calling thread
/// anyhow; `None` where that is not known. What a thread may use can include CPUs that are not there.
fn usable_cpus(own: &BTreeSet<u32>) -> Option<BTreeSet<u32>> {
    let online = process::online()?;
    let allowed = process::allowed(&online)?;
    Some(allowed.cpus.intersection(&online).chain(own).copied().collect())
}

/// The CPUs that the calling thread may use; `None` where that is not known. On Linux that fails
/// with more CPUs than core_affinity knows.
fn own_cpus() -> Option<BTreeSet<u32>> {
    let ids = core_affinity::get_core_ids()?;
    Some(ids.into_iter().filter_map(|core| u32::try_from(core.id).ok()).collect())
}
