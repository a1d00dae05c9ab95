//! On whatever machine this runs: at least one CPU, and a system that may refuse what it likes, as
//! long as the reason comes out.
//!
//! Threads that are pinned are the test's own, and so is the process wherever the environment says
//! something else.

#![allow(clippy::unwrap_used)]

use std::mem::MaybeUninit;
use std::thread;

use super::bind::{bind_memory, bind_thread, current_cpu, move_memory, page_size};
use super::{CpuSet, Machine, Topology, affinity};

fn set(cpus: impl IntoIterator<Item = u32>) -> CpuSet {
    cpus.into_iter().collect()
}

fn usable(topology: &Topology) -> CpuSet {
    set(topology.cpus().iter().filter(|cpu| cpu.usable()).map(|cpu| cpu.os_index))
}

/// On a thread that is nobody else's.
fn apart<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// What a look at the machine has to hold, whoever looked.
fn is_sound(machine: &Machine) {
    let (topology, notes) = (&machine.topology, &machine.notes);
    assert!(!usable(topology).is_empty(), "this runs somewhere: {machine:?}");
    assert!(topology.cpus().iter().all(|cpu| cpu.online));
    for cpu in topology.cpus() {
        let near = topology.cpus().iter().filter(|other| other.core == cpu.core);
        assert!(near.clone().all(|other| (other.node, other.package) == (cpu.node, cpu.package)));
        assert!(topology.nodes().iter().any(|node| node.os_index == cpu.node));
    }
    assert!(notes.iter().all(|note| note.len() > 10), "{notes:?}");
    #[cfg(target_os = "linux")]
    {
        let now = current_cpu().unwrap();
        assert!(usable(topology).contains(now), "CPU {now} is not in {topology:?}");
    }
}

#[test]
fn either_way_of_looking_finds_the_cpus_of_this_machine() {
    let (machine, plain) = (Machine::detect(), affinity::machine());
    is_sound(&machine);
    is_sound(&plain);
    assert_eq!(usable(&machine.topology), usable(&plain.topology));
    assert_eq!(plain.topology.nodes().len(), 1);
    assert_eq!(plain.backend, "core_affinity");
    let asked = !machine.notes.iter().any(|note| note.starts_with("hwloc was not asked"));
    let expected = if cfg!(feature = "numa") && asked { "hwloc " } else { "core_affinity" };
    assert!(machine.backend.starts_with(expected), "{machine:?}");
}

#[test]
fn a_thread_can_be_pinned_to_each_cpu_and_is_there() {
    for cpu in usable(&Machine::detect().topology).iter().take(8) {
        for bind in [bind_thread, affinity::bind_thread] {
            apart(|| {
                bind(&set([cpu])).unwrap();
                assert!(current_cpu().is_none_or(|now| now == cpu));
            });
        }
    }
}

#[test]
fn a_thread_can_have_all_cpus_that_the_process_may_use() {
    let all = usable(&Machine::detect().topology);
    apart(|| bind_thread(&all).unwrap());
    apart(|| affinity::bind_thread(&all).unwrap());
}

#[test]
fn core_affinity_refuses_what_it_cannot_do_and_says_so() {
    let all = usable(&affinity::machine().topology);
    apart(|| {
        let first = all.iter().next().unwrap();
        affinity::bind_thread(&set([first])).unwrap();
        if all.len() > 1 {
            let why = affinity::bind_thread(&all).unwrap_err();
            let (feature, where_) = ("`numa`", format!("may run on CPU {first}"));
            assert!(why.contains(feature) && why.contains(&where_), "{why}");
        }
    });
    for cpu in [1024, u32::MAX] {
        let why = apart(|| affinity::bind_thread(&set([cpu]))).unwrap_err();
        assert!(why.contains("1024"), "{why}");
    }
}

#[test]
fn a_cpu_that_is_not_there_is_refused_with_a_reason() {
    let last = Machine::detect().topology.cpus().last().unwrap().os_index;
    let known = usable(&Machine::detect().topology).iter().next().unwrap();
    let odd = [vec![], vec![1023.max(last + 100)], vec![1 << 20], vec![known, u32::MAX]];
    for cpus in odd {
        let cpus = set(cpus);
        let why = apart(|| bind_thread(&cpus)).unwrap_err();
        let reason = why.strip_prefix(&format!("not pinned to CPU {cpus}: ")).unwrap();
        assert!(reason.len() > 10, "{why}");
    }
}

#[test]
fn a_look_from_a_pinned_thread_finds_all_cpus() {
    let (machine, plain) = (Machine::detect(), affinity::machine());
    let cpu = usable(&machine.topology).iter().last().unwrap();
    apart(|| {
        bind_thread(&set([cpu])).unwrap();
        assert_eq!(Machine::detect(), machine);
        assert_eq!(affinity::machine(), plain);
    });
}

#[test]
fn memory_is_bound_to_its_node_or_there_is_a_reason() {
    let topology = Machine::detect().topology;
    let mut memory: Vec<u8> = Vec::with_capacity(1 << 20);
    let memory: &[MaybeUninit<u8>] = memory.spare_capacity_mut();
    let gives = topology.nodes().iter().find(|node| node.gives_memory());
    for node in gives.map(|node| node.os_index).into_iter().chain([1_000_000, u32::MAX]) {
        let bound = bind_memory(memory, node);
        let there = topology.nodes().iter().any(|known| known.os_index == node);
        assert!(there || bound.is_err(), "there is no node {node}");
        if let Err(why) = bound {
            let reason = why.strip_prefix(&format!("not bound to node {node}: ")).unwrap();
            assert!(reason.len() > 10, "{why}");
            assert!(cfg!(feature = "numa") || why.contains("`numa`"), "{why}");
        }
    }
}

/// Of a vector: where it begins, and its bytes.
fn area(memory: &[u8]) -> (usize, usize) {
    (memory.as_ptr().addr(), memory.len())
}

#[test]
fn pages_are_moved_to_a_node_of_this_machine_or_there_is_a_reason() {
    let topology = Machine::detect().topology;
    let memory: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    let (start, bytes) = area(&memory);
    assert!(bytes / page_size() > 8 && page_size().is_power_of_two());
    let gives = topology.nodes().iter().find(|node| node.gives_memory());
    match move_memory(start, bytes, gives.map_or(0, |node| node.os_index)) {
        Ok(stayed) => assert_eq!(stayed, 0, "nobody else has these pages"),
        Err(why) => {
            assert!(why.starts_with("batches not moved to node ") && why.len() > 40, "{why}");
            assert!(cfg!(feature = "numa") || why.contains("`numa`"), "{why}");
        }
    }
    assert!(memory.iter().copied().eq((0..=250).cycle().take(1 << 20)), "nothing is lost");
}

#[test]
fn pages_are_never_moved_to_a_node_that_is_not_there() {
    let memory = vec![1; 3 * page_size()];
    let (start, bytes) = area(&memory);
    for node in [1_000, 1_000_000, u32::MAX] {
        let why = move_memory(start, bytes, node).unwrap_err();
        let reason = why.strip_prefix(&format!("batches not moved to node {node}: ")).unwrap();
        assert!(reason.len() > 10, "{why}");
    }
}

#[test]
#[cfg(all(feature = "numa", target_os = "linux"))]
fn pages_that_are_not_in_memory_are_passed_over() {
    use super::sys::move_pages;
    // In a container both may be refused, in the same words.
    let known = vec![1; 200 * page_size()];
    let usual = move_pages(known.as_ptr().addr(), known.len(), 0).map_err(|why| why.to_string());
    let untouched: Vec<u8> = Vec::with_capacity(64 << 20);
    let start = untouched.as_ptr().addr() + page_size();
    let moved = move_pages(start, 300 * page_size(), 0).map_err(|why| why.to_string());
    assert_eq!((moved, move_pages(start, 0, 0).ok()), (usual, Some(0)));
}

/// Runs a test of this file in a process of its own, with a variable that hwloc heeds.
#[cfg(feature = "numa")]
fn elsewhere(scene: &str, variable: &str, value: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let scene = format!("placement::machine_tests::{scene}");
    command.args(["--exact", &scene, "--ignored", "--nocapture", "--test-threads=1"]);
    let output = command.env(variable, value).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{out}");
}

#[test]
#[cfg(feature = "numa")]
fn a_machine_out_of_the_environment_is_told_of_and_never_bound() {
    elsewhere("made_up", "HWLOC_SYNTHETIC", "numa:2(memory=1GB) core:2 pu:2");
}

#[test]
#[cfg(feature = "numa")]
#[ignore = "needs a variable: run by a_machine_out_of_the_environment_is_told_of_and_never_bound"]
fn made_up() {
    let machine = Machine::detect();
    assert_eq!((machine.topology.nodes().len(), machine.topology.cpus().len()), (2, 8));
    assert_eq!(usable(&machine.topology).to_string(), "0-7", "not what this process may use");
    assert_eq!((machine.backend.as_str(), machine.notes.len()), ("hwloc", 1));
    let memory = [MaybeUninit::uninit(); 1 << 16];
    let (before, all) = (affinity::machine(), usable(&affinity::machine().topology));
    let refusals = [
        apart(|| {
            let bound = bind_thread(&set([0]));
            affinity::bind_thread(&all).unwrap();
            bound
        }),
        bind_memory(&memory, 0),
        move_memory(memory.as_ptr().addr(), memory.len(), 0).map(drop),
        Err(machine.notes[0].clone()),
    ];
    for why in refusals {
        let why = why.unwrap_err();
        let expected = "hwloc describes another machine than this one (HWLOC_SYNTHETIC is set)";
        assert!(why.contains(expected), "{why}");
    }
    assert_eq!(affinity::machine(), before);
}

#[test]
#[cfg(feature = "numa")]
fn nonsense_in_the_environment_does_no_harm() {
    elsewhere("told", "HWLOC_COMPONENTS", "linux");
    elsewhere("whatever", "HWLOC_XMLFILE", "/nowhere/at/all.xml");
    elsewhere("whatever", "HWLOC_SYNTHETIC", "numa:0 \u{1f980}:x");
}

#[test]
#[cfg(feature = "numa")]
#[ignore = "needs a variable: run by nonsense_in_the_environment_does_no_harm"]
fn told() {
    let machine = Machine::detect();
    is_sound(&machine);
    assert_eq!(machine.notes, ["hwloc describes the machine as HWLOC_COMPONENTS told it to"]);
}

#[test]
#[cfg(feature = "numa")]
#[ignore = "needs a variable: run by nonsense_in_the_environment_does_no_harm"]
fn whatever() {
    let machine = Machine::detect();
    is_sound(&machine);
    assert_eq!(machine.notes.len(), 1, "{:?}", machine.notes);
    assert!(machine.notes[0].contains("HWLOC_") || machine.notes[0].contains("hwloc could not"));
}
