//! Promise: on machines of every kind the plan gives rings and flushers to the right nodes, cores
//! and memory, and says why.

#![allow(clippy::unwrap_used)]

mod machines;

use std::collections::BTreeSet;

use sluicegate::placement::{Cpu, NumaNode, Options, Pin, Plan, Topology, plan};

use machines::{GIB, export};

/// A plan with so many flushers on each node, each pinned to a core.
fn on_cores(topology: &Topology, flushers: usize) -> Plan {
    plan(topology, &Options::default().flushers(flushers).pin(Pin::Core))
}

/// The CPUs of each flusher, as text.
fn cpus(plan: &Plan) -> Vec<String> {
    let text = |cpus: Option<&_>| cpus.map_or("any".to_owned(), ToString::to_string);
    plan.flushers().iter().map(|flusher| text(flusher.cpus.as_ref())).collect()
}

/// The numbers that the system gives to the nodes with rings.
fn nodes(plan: &Plan) -> Vec<u32> {
    plan.nodes().iter().filter_map(|node| node.os_index).collect()
}

/// For each node the others in the order in which they help, by number.
fn neighbours(plan: &Plan) -> Vec<Vec<u32>> {
    let numbers = nodes(plan);
    let near = |node| plan.nearest(node).iter().map(|&other| numbers[other]).collect();
    (0..numbers.len()).map(near).collect()
}

/// The home of each of these CPUs, by the number of the node.
fn homes(plan: &Plan, cpus: impl IntoIterator<Item = u32>) -> Vec<u32> {
    cpus.into_iter().map(|cpu| nodes(plan)[plan.home(cpu)]).collect()
}

/// Where the rings lie.
fn memory(plan: &Plan) -> Vec<Option<u32>> {
    plan.rings().iter().map(|ring| ring.memory).collect()
}

#[track_caller]
fn says(why: &str, parts: &[&str]) {
    for part in parts {
        assert!(why.contains(part), "{part:?} is not in {why:?}");
    }
}

#[test]
fn a_laptop_keeps_its_first_core_and_the_siblings_free() {
    let plan = on_cores(&machines::laptop(), 1);
    assert_eq!((nodes(&plan), cpus(&plan)), (vec![0], vec!["2".to_owned()]));
    let expected = ["a core of its own", "sibling CPU 3 gets no", "first core (CPU 0-1) is left"];
    says(&plan.flushers()[0].why, &expected);
    assert!(plan.notes().is_empty(), "{:?}", plan.notes());
    assert_eq!(cpus(&on_cores(&machines::laptop(), 3)), ["2", "4", "6"]);
}

#[test]
fn a_machine_of_one_node_is_left_alone_unless_cores_are_asked_for() {
    for pin in [Pin::None, Pin::Node] {
        let plan = plan(&machines::laptop(), &Options::default().pin(pin));
        assert_eq!(cpus(&plan), ["any"]);
        says(&plan.flushers()[0].why, &["not pinned"]);
    }
}

#[test]
fn more_flushers_than_cores_take_siblings_first_and_then_share_and_say_so() {
    let plan = on_cores(&machines::laptop(), 6);
    assert_eq!(cpus(&plan), ["2", "4", "6", "0", "3", "5"]);
    says(&plan.flushers()[0].why, &["2 flushers on the core, with CPU 3: 6 flushers for 4 cores"]);
    says(&plan.flushers()[3].why, &["a core of its own", "first core, as the others have"]);
    says(&plan.notes()[0], &["node 0", "6 flushers for 4 cores", "share cores"]);

    let plan = on_cores(&machines::laptop(), 10);
    assert_eq!(cpus(&plan)[6..], ["7", "1", "2", "4"], "then round again");
    says(&plan.flushers()[8].why, &["one of 2 flushers on the CPU: 10 flushers for 8 CPUs"]);

    let plan = on_cores(&machines::laptop(), 4);
    says(&plan.notes()[0], &["4 flushers for 4 cores: producers have none"]);
    assert!(!plan.to_string().contains("is left to the system"), "it is not:\n{plan}");
}

#[test]
fn a_hybrid_machine_gives_its_fast_cores_first() {
    let plan = on_cores(&export("hybrid"), 2);
    assert_eq!(cpus(&plan), ["2", "4"]);
    says(&plan.flushers()[0].why, &["of the fastest kind", "(CPU 0-1) is left"]);
    says(&plan.flushers()[1].why, &["a slower kind, as no fast core but the first was free"]);
}

#[test]
fn two_sockets_get_a_ring_and_a_flusher_each() {
    let plan = on_cores(&export("two-sockets"), 1);
    assert_eq!((nodes(&plan), memory(&plan)), (vec![0, 1], vec![Some(0), Some(1)]));
    assert_eq!(cpus(&plan), ["1", "5"]);
    says(&plan.flushers()[1].why, &["sibling CPU 13 gets no", "first core (CPU 4,12) is left"]);
    assert_eq!(homes(&plan, 0..16), [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(neighbours(&plan), [[1], [0]]);
}

#[test]
fn pinned_to_nodes_flushers_may_move_within_them() {
    let two = export("two-sockets");
    let plan = sluicegate::placement::plan(&two, &Options::default().flushers(2));
    assert_eq!(cpus(&plan), ["0-3,8-11", "0-3,8-11", "4-7,12-15", "4-7,12-15"]);
    says(&plan.flushers()[0].why, &["the node's 8 CPUs"]);

    let plan = sluicegate::placement::plan(&two, &Options::default().pin(Pin::None));
    assert_eq!((cpus(&plan), memory(&plan)), (vec!["any".to_owned(); 2], vec![Some(0), Some(1)]));
    says(&plan.notes()[0], &["not pinned", "far from their rings"]);
}

#[test]
fn four_sockets_in_a_square_help_their_nearer_neighbours_first() {
    let plan = on_cores(&machines::four_sockets(), 1);
    assert_eq!(cpus(&plan), ["1", "5", "9", "13"]);
    assert_eq!(neighbours(&plan), [[1, 3, 2], [2, 0, 3], [3, 1, 0], [0, 2, 1]]);
}

#[test]
fn eight_sockets_on_two_boards_help_on_their_own_board_first() {
    let plan = on_cores(&export("eight-sockets"), 1);
    assert_eq!(cpus(&plan), ["1", "3", "5", "7", "9", "11", "13", "15"]);
    let neighbours = neighbours(&plan);
    assert_eq!(neighbours[0], [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(neighbours[5], [6, 7, 4, 0, 1, 2, 3]);
    let first: BTreeSet<u32> = neighbours.iter().map(|near| near[0]).collect();
    assert!(first.len() > 4, "not all turn to the same: {first:?}");
}

#[test]
fn sub_numa_clusters_are_nodes_and_prefer_their_socket() {
    let plan = on_cores(&export("sub-numa"), 1);
    assert_eq!(cpus(&plan), ["1", "5", "9", "13"]);
    assert_eq!(neighbours(&plan), [[1, 2, 3], [0, 2, 3], [3, 0, 1], [2, 0, 1]]);
}

#[test]
fn without_distances_nodes_of_the_same_socket_are_nearer() {
    let clusters = export("sub-numa");
    let silent =
        Topology::builder().nodes(clusters.nodes().to_vec()).cpus(clusters.cpus().to_vec());
    let near = neighbours(&on_cores(&silent.build(), 1));
    assert_eq!(near, [[1, 2, 3], [0, 2, 3], [3, 0, 1], [2, 0, 1]]);
}

#[test]
fn memory_without_cpus_gets_nothing() {
    let plan = on_cores(&export("memory-only"), 1);
    assert_eq!((nodes(&plan), memory(&plan)), (vec![0, 1], vec![Some(0), Some(1)]));
    let [out] = plan.left_out() else { panic!("{:?}", plan.left_out()) };
    assert_eq!((out.os_index, out.home), (2, 1), "the second socket is nearer");
    says(&out.why, &["no CPU"]);
}

#[test]
fn memories_beside_the_same_cores_are_one_node() {
    let plan = on_cores(&export("two-memories"), 1);
    assert_eq!((nodes(&plan), memory(&plan)), (vec![0, 2], vec![Some(0), Some(2)]));
    assert_eq!(cpus(&plan), ["1", "5"]);
    assert_eq!(plan.left_out().len(), 2);
}

#[test]
fn nodes_with_gaps_in_their_numbers_and_one_without_memory() {
    let plan = on_cores(&export("sparse"), 1);
    assert_eq!(nodes(&plan), [0, 2, 8]);
    assert_eq!(memory(&plan), [Some(0), Some(8), Some(8)], "8 is nearer to 2 than 0 is");
    says(&plan.rings()[1].why, &["node 8, the nearest (distance 20)", "node 2 has no memory"]);
    assert_eq!(cpus(&plan), ["1", "5", "9"]);
    assert_eq!(neighbours(&plan), [[8, 2], [8, 0], [0, 2]]);
    assert_eq!(homes(&plan, [0, 4, 8, 1_000]), [0, 2, 8, 0]);
}

#[test]
fn at_the_same_distance_memory_with_cpus_is_taken_before_memory_alone() {
    let nodes = [NumaNode::new(0, None), NumaNode::new(1, GIB), NumaNode::new(2, GIB)];
    let cpus = [Cpu::new(0, 0), Cpu { package: 1, ..Cpu::new(1, 2) }];
    let plan = on_cores(&Topology::builder().nodes(nodes).cpus(cpus).build(), 1);
    assert_eq!(memory(&plan), [Some(2), Some(2)]);
}

#[test]
fn memory_that_is_forbidden_is_not_used() {
    let plan = on_cores(&machines::forbidden_memory(), 1);
    assert_eq!((nodes(&plan), memory(&plan)), (vec![0, 1], vec![Some(1), Some(1)]));
    says(&plan.rings()[0].why, &["this process may have no memory of node 0"]);
}

#[test]
fn a_cgroup_with_some_cpus_of_one_node() {
    let plan = on_cores(&export("confined"), 1);
    assert_eq!((nodes(&plan), cpus(&plan)), (vec![1], vec!["5".to_owned()]));
    assert_eq!(plan.nodes()[0].cpus.to_string(), "5-6,13-14");
    says(&plan.nodes()[0].why, &["usable: CPU 5-6,13-14", "not for this process: CPU 4,7,12,15"]);
    says(&plan.left_out()[0].why, &["may use none of its CPUs: CPU 0-3,8-11"]);
    assert_eq!(homes(&plan, 0..16), [1; 16]);
}

#[test]
fn a_cgroup_with_cpus_scattered_over_nodes() {
    let plan = on_cores(&machines::scattered(), 1);
    assert_eq!(nodes(&plan), [0, 1, 3]);
    assert_eq!(cpus(&plan), ["2", "7", "13"], "CPU 12, of the first core, is forbidden anyway");
    says(&plan.flushers()[1].why, &["the only core that can be used"]);
    assert_eq!(homes(&plan, [8, 11]), [3, 3], "node 2 has no ring: the next of the nearest");
}

#[test]
fn cpus_that_are_offline_are_not_used_and_are_told() {
    let plan = on_cores(&export("offline"), 2);
    assert_eq!(cpus(&plan), ["3", "10", "5", "6"]);
    says(&plan.notes()[0], &["offline", "CPU 1-2,9"]);

    let half = (0..4).map(|cpu| Cpu { online: cpu < 3, ..Cpu::new(cpu, cpu / 3) });
    let nodes = [NumaNode::new(0, GIB), NumaNode::new(1, GIB)];
    let plan = on_cores(&Topology::builder().nodes(nodes).cpus(half).build(), 1);
    assert_eq!(cpus(&plan), ["1"]);
    says(&plan.left_out()[0].why, &["CPUs are offline: CPU 3"]);
}

#[test]
fn an_asymmetric_machine() {
    let plan = on_cores(&machines::asymmetric(), 2);
    assert_eq!((nodes(&plan), memory(&plan)), (vec![0, 1, 2], vec![Some(0), Some(1), Some(1)]));
    assert_eq!(cpus(&plan), ["1", "2", "7", "6", "8", "8"]);
    assert_eq!(neighbours(&plan), [[2, 1], [0, 2], [1, 0]], "by the distance in that direction");
    says(&plan.notes()[1], &["node 2", "2 flushers for 1 core"]);
}

#[test]
fn a_container_with_one_cpu() {
    let plan = on_cores(&machines::single(), 1);
    assert_eq!(cpus(&plan), ["2"]);
    says(&plan.flushers()[0].why, &["the only core that can be used"]);
    says(&plan.notes()[0], &["1 flusher for 1 core: producers have none"]);
}

#[test]
fn flushers_of_a_ring_share_a_cache_and_rings_do_not() {
    let options = Options::default().flushers(2).shards(2).pin(Pin::Core);
    let plan = plan(&machines::many_caches(), &options);
    assert_eq!(cpus(&plan), ["1", "2", "3", "4"]);
    assert_eq!(plan.rings()[0].flushers, [0, 1]);
    assert_eq!(plan.rings()[1].flushers, [2, 3]);
    says(&plan.flushers()[1].why, &["same last-level cache as F0"]);

    let plan = on_cores(&machines::many_caches(), 3);
    assert_eq!(cpus(&plan), ["1", "2", "3"]);
    says(&plan.flushers()[2].why, &["not the last-level cache of F0"]);
}

#[test]
fn shards_in_all_are_dealt_out_and_nodes_without_one_are_left_out() {
    let two = export("two-sockets");
    let of = |shards: usize| plan(&two, &Options::default().shards(shards).pin(Pin::Core));
    let ring_nodes = |plan: &Plan| plan.rings().iter().map(|ring| ring.node).collect::<Vec<_>>();
    assert_eq!(ring_nodes(&of(5)), [0, 0, 0, 1, 1]);

    let one = of(1);
    assert_eq!((nodes(&one), cpus(&one)), (vec![0], vec!["1".to_owned()]));
    says(&one.left_out()[0].why, &["fewer shards than nodes"]);
    assert_eq!((one.left_out()[0].home, homes(&one, 4..6)), (0, vec![0, 0]));
    let pinned = plan(&two, &Options::default().shards(1));
    assert_eq!(cpus(&pinned), ["0-3,8-11"], "its ring lies there");
}

#[test]
fn a_machine_about_which_nothing_is_known_is_one_node() {
    for topology in [Topology::default(), machines::all_forbidden()] {
        let plan = on_cores(&topology, 2);
        assert_eq!((plan.nodes().len(), plan.rings().len()), (1, 1));
        assert_eq!((cpus(&plan), memory(&plan)), (vec!["any".to_owned(); 2], vec![None]));
        assert_eq!([plan.home(0), plan.home(3), plan.home(u32::MAX)], [0; 3]);
        assert!(plan.nearest(0).is_empty());
        says(&plan.notes()[0], &["one node, nothing is pinned"]);
    }
}

#[test]
fn memory_that_is_not_known_is_left_to_the_system() {
    let plan = on_cores(&Topology::builder().cpus((0..4).map(|cpu| Cpu::new(cpu, 0))).build(), 1);
    assert_eq!((cpus(&plan), memory(&plan)), (vec!["1".to_owned()], vec![None]));
    says(&plan.rings()[0].why, &["no node's memory is known"]);
}

#[test]
fn exports_of_hwloc_say_what_the_machine_is() {
    let cpus = (0..16).map(|cpu| {
        let (core, node) = (cpu % 8, cpu % 8 / 4);
        Cpu { core, package: node, cache: Some(node), ..Cpu::new(cpu, node) }
    });
    let expected = Topology::builder()
        .nodes([NumaNode::new(0, 64 * GIB), NumaNode::new(1, 64 * GIB)])
        .cpus(cpus);
    let pairs = [(0, 0, 10), (0, 1, 21), (1, 0, 21), (1, 1, 10)];
    let tell = |builder: sluicegate::placement::TopologyBuilder, (from, to, far)| {
        builder.distance(from, to, far)
    };
    assert_eq!(export("two-sockets"), pairs.into_iter().fold(expected, tell).build());

    let kinds: Vec<u32> = export("hybrid").cpus().iter().map(|cpu| cpu.performance).collect();
    assert_eq!(kinds, [1, 1, 1, 1, 0, 0, 0, 0]);
    let confined = export("confined");
    assert_eq!(confined.cpus().iter().filter(|cpu| cpu.allowed).count(), 4);
    let allowed: Vec<bool> = confined.nodes().iter().map(|node| node.memory_allowed).collect();
    assert_eq!(allowed, [false, true]);
}
