//! Promise: what the system refuses of a plan is no error, and is told: which flusher, which CPU.

#![allow(clippy::unwrap_used)]

mod common;
mod shard_rig;

use std::thread;

use common::{LONG, null_sinks};
use sluicegate::placement::{Cpu, Machine, NumaNode, Placement, Topology};
use sluicegate::{Batcher, Builder, Pin};

/// Two nodes of CPUs that no machine of ours has.
fn nowhere() -> Topology {
    Topology::builder()
        .nodes([NumaNode::new(0, 1 << 30), NumaNode::new(1, None)])
        .cpus((700..704).map(|cpu| Cpu::new(cpu, (cpu - 700) / 2)))
        .build()
}

/// What came of a plan, of an engine that writes.
#[track_caller]
fn placed(builder: Builder<u64>) -> Placement {
    let batcher = builder.spawn(null_sinks()).unwrap();
    let placement = batcher.placement();
    for node in 0..placement.plan.nodes().len() {
        let producer = batcher.producer_on(node).unwrap();
        (0..100).for_each(|item| producer.add(item).unwrap());
    }
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.enqueued > 0, "{:?}", report.tally);
    placement
}

#[test]
fn flushers_of_cpus_that_are_not_there_run_and_say_so() {
    for (pin, cpus) in [(Pin::Node, ["700-701", "702-703"]), (Pin::Core, ["701", "703"])] {
        let placement = placed(Batcher::builder().topology(nowhere()).pin(pin));
        assert!(!placement.is_as_planned(), "{placement:?}");
        assert_eq!(placement.backend, "caller");
        let refused: Vec<_> = placement.refused().collect();
        assert_eq!(refused.len(), 2, "{refused:?}");
        for (index, why) in refused.iter().enumerate() {
            let (flusher, cpus) = (format!("flusher {index}: "), format!("CPU {}", cpus[index]));
            assert!(why.starts_with(&flusher) && why.contains(&cpus), "{why}");
            let flusher = &placement.flushers[index];
            assert_eq!(flusher.wanted.as_ref().unwrap().to_string(), cpus[4..]);
            assert_eq!((flusher.got.as_ref(), flusher.why.as_str()), (None, *why));
        }
    }
}

#[test]
fn batches_that_are_not_moved_to_their_node_are_written_and_told_once() {
    let batcher = shard_rig::two_memories().max_batch_size(10).spawn(null_sinks()).unwrap();
    let before = batcher.placement();
    for flusher in &before.flushers {
        assert_eq!(flusher.memory_got, flusher.memory_wanted, "nothing was to be moved yet");
    }
    for node in 0..2 {
        let producer = batcher.producer_on(node).unwrap();
        (0..100).for_each(|item| producer.add(item).unwrap());
    }
    batcher.flush(LONG).unwrap();
    let placement = batcher.placement();
    let far = &placement.flushers[1];
    assert_eq!((far.memory_wanted, far.memory_got), (Some(1_000), None));
    let told = "batches not moved to node 1000: ";
    assert_eq!(far.why.matches(told).count(), 1, "{}", far.why);
    assert!(far.why.starts_with(&before.flushers[1].why), "{}", far.why);
    assert!(placement.refused().any(|why| why == far.why), "{placement:?}");
    let near = &placement.flushers[0];
    let refused = near.memory_got.is_none();
    assert!(!refused || near.why.contains("batches not moved to node 0: "), "{}", near.why);
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean() && report.tally.flushed_ok == 200, "{:?}", report.tally);
}

#[test]
fn what_was_not_to_be_pinned_is_as_planned() {
    let placement = placed(Batcher::builder().topology(nowhere()).pin(Pin::None));
    assert!(placement.is_as_planned(), "{placement:?}");
    assert!(placement.flushers.iter().all(|flusher| flusher.wanted.is_none()));
}

#[test]
fn a_flusher_is_pinned_to_a_core_that_is_there() {
    // Flushers pin themselves: this thread keeps its CPUs.
    let machine = Machine::detect();
    let placement = placed(Batcher::builder().topology(machine.topology).pin(Pin::Core));
    for flusher in &placement.flushers {
        assert!(flusher.wanted.is_some());
        assert_eq!(flusher.got, flusher.wanted, "{}", flusher.why);
    }
    assert_eq!(placement.flushers.len(), placement.plan.flushers().len());
}

#[test]
fn rings_lie_in_huge_pages_or_say_why_not_and_the_plan_holds_either_way() {
    let builder = Batcher::builder().huge_pages(true).pin(Pin::None).shards(2);
    let topology = shard_rig::nodes(1); // no memory to choose from
    let placement = placed(builder.topology(topology));
    assert_eq!(placement.rings.len(), 2);
    for ring in &placement.rings {
        assert_eq!((ring.wanted, ring.got), (None, None));
        assert!(ring.huge_pages != ring.why.contains("no huge pages: "), "{ring:?}");
    }
    assert!(placement.is_as_planned(), "{placement:?}");
    let plain = placed(Batcher::builder().topology(shard_rig::nodes(1)));
    assert!(plain.rings.iter().all(|ring| !ring.huge_pages && !ring.why.contains("huge")));
}

#[test]
fn memory_of_a_node_that_is_not_there_is_refused_and_the_ring_works() {
    let both = (700..702).map(|node| NumaNode::new(node, 1 << 30));
    let cpus = (0..2).map(|cpu| Cpu::new(cpu, 700 + cpu));
    let topology = Topology::builder().nodes(both).cpus(cpus).build();
    let builder = Batcher::builder().topology(topology).pin(Pin::None);
    // On a thread that is spawned: its rings are made on threads of their nodes.
    let placement = thread::spawn(move || placed(builder)).join().unwrap();
    assert!(!placement.is_as_planned());
    for (index, why) in placement.refused().enumerate() {
        assert!(why.starts_with(&format!("ring {index}: ")), "{why}");
    }
    assert_eq!(placement.refused().count(), 2);
    assert!(placement.rings.iter().all(|ring| ring.wanted.is_some() && ring.got.is_none()));
}
