//! What holds on every machine, and the parts alone.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::seeded::runner;

/// A machine told in some order: its nodes, its CPUs and its distances.
#[derive(Clone, Debug)]
struct Told {
    nodes: Vec<NumaNode>,
    cpus: Vec<Cpu>,
    offline: Vec<u32>,
    distances: Vec<(u32, u32, u32)>,
}

impl Told {
    fn topology(self) -> Topology {
        let Self { nodes, cpus, offline, distances } = self;
        let builder = Topology::builder().nodes(nodes).cpus(cpus).offline(offline);
        let tell = |builder: TopologyBuilder, (from, to, far)| builder.distance(from, to, far);
        distances.into_iter().fold(builder, tell).build()
    }

    fn backwards(mut self) -> Self {
        self.nodes.reverse();
        self.cpus.reverse();
        self.offline.reverse();
        self.distances.reverse();
        self
    }
}

/// A node: gap in the numbers before it, memory, whether that is allowed, its CPUs.
type Drawn = (u32, Option<u64>, bool, Vec<DrawnCpu>);

/// A CPU: gap in the numbers before it, online, allowed, performance.
type DrawnCpu = (u32, bool, bool, u32);

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let often = || prop::bool::weighted(0.8);
    let gap = || prop_oneof![4 => Just(0_u32), 1 => 1..40_u32];
    let cpus = prop::collection::vec((gap(), often(), often(), 0..2_u32), 0..12);
    let memory = prop::option::weighted(0.7, prop_oneof![1 => Just(0), 6 => 1..(64_u64 << 30)]);
    prop::collection::vec((gap(), memory, often(), cpus), 0..9)
}

fn told() -> impl Strategy<Value = Told> {
    // Threads of a core, cores of a cache, nodes of a package.
    let shape = (1..4_u32, 1..5_u32, 1..3_u32);
    let distances = prop::collection::vec((0..9_usize, 0..9_usize, 10..40_u32), 0..60);
    let offline = prop::collection::vec(0..500_u32, 0..3);
    (drawn(), shape, distances, offline).prop_map(|(drawn, shape, distances, offline)| {
        let (nodes, cpus) = lay_out(drawn, shape);
        let number = |index: usize| nodes.get(index).map(|node: &NumaNode| node.os_index);
        let pairs: BTreeMap<(u32, u32), u32> = distances
            .into_iter()
            .filter_map(|(from, to, far)| Some(((number(from)?, number(to)?), far)))
            .collect();
        let distances = pairs.into_iter().map(|((from, to), far)| (from, to, far)).collect();
        Told { nodes, cpus, offline, distances }
    })
}

fn lay_out(drawn: Vec<Drawn>, shape: (u32, u32, u32)) -> (Vec<NumaNode>, Vec<Cpu>) {
    let (threads, cores, packages) = shape;
    let (mut nodes, mut told, mut node, mut next) = (Vec::new(), Vec::new(), 0, 0);
    for (gap, memory, memory_allowed, cpus) in drawn {
        node += gap + 1;
        nodes.push(NumaNode { memory_allowed, ..NumaNode::new(node, memory) });
        for (index, (gap, online, allowed, performance)) in (0_u32..).zip(cpus) {
            next += gap + 1;
            let core = index / threads;
            told.push(Cpu {
                core: node * 100 + core,
                package: node / packages,
                cache: (cores < 4).then_some(node * 100 + core / cores),
                performance,
                online,
                allowed,
                ..Cpu::new(next, node)
            });
        }
    }
    (nodes, told)
}

fn options() -> impl Strategy<Value = Options> {
    let pin = prop::sample::select(Pin::ALL.to_vec());
    let shards =
        prop_oneof![(0..5_usize).prop_map(Shards::PerNode), (0..20_usize).prop_map(Shards::Total),];
    (0..4_usize, shards, pin).prop_map(|(flushers, shards, pin)| {
        Options::default().flushers(flushers).shards(shards).pin(pin)
    })
}

/// Runs a check on many machines and options.
fn on_every_machine(check: impl Fn(&Topology, &Options, &Plan)) {
    let run = |(told, options): (Told, Options)| {
        let topology = told.topology();
        check(&topology, &options, &plan(&topology, &options));
        Ok(())
    };
    runner(500).run(&(told(), options()), run).unwrap();
}

fn usable(topology: &Topology, node: u32) -> BTreeSet<u32> {
    let cpus = topology.cpus().iter().filter(|cpu| cpu.node == node);
    cpus.filter(|cpu| cpu.online && cpu.allowed).map(|cpu| cpu.os_index).collect()
}

/// The nodes with CPUs that can be used, in the order of the plan.
fn with_cpus(topology: &Topology) -> Vec<u32> {
    let nodes = topology.nodes().iter().map(|node| node.os_index);
    nodes.filter(|&node| !usable(topology, node).is_empty()).collect()
}

#[test]
fn every_node_with_usable_cpus_has_rings_and_flushers_and_no_other_has() {
    on_every_machine(|topology, options, plan| {
        let mut expected = with_cpus(topology);
        if let Shards::Total(shards) = options.shards {
            expected.truncate(shards.max(1));
        }
        if expected.is_empty() {
            let [node] = plan.nodes() else { panic!("one node for the whole machine") };
            assert_eq!(node.os_index, None);
            assert!(plan.flushers().iter().all(|flusher| flusher.cpus.is_none()));
            assert!(plan.rings().iter().all(|ring| ring.memory.is_none()));
        } else {
            let planned: Vec<u32> = plan.nodes().iter().filter_map(|node| node.os_index).collect();
            assert_eq!(planned, expected);
        }
        for node in plan.nodes() {
            if let Shards::PerNode(shards) = options.shards {
                assert_eq!(node.rings.len(), shards.max(1));
            }
            assert_eq!(node.flushers.len(), node.rings.len() * options.flushers);
            assert!(!node.rings.is_empty() && !node.flushers.is_empty());
        }
        if let Shards::Total(shards) = options.shards {
            assert_eq!(plan.rings().len(), shards.max(1));
            let each = plan.nodes().iter().map(|node| node.rings.len());
            let (least, most) = (each.clone().min().unwrap(), each.max().unwrap());
            assert!(most - least <= 1, "dealt out evenly");
        }
        let left_out: Vec<u32> = plan.left_out().iter().map(|node| node.os_index).collect();
        let others = topology.nodes().iter().map(|node| node.os_index);
        let others: Vec<u32> = others.filter(|node| !expected.contains(node)).collect();
        assert_eq!(left_out, others);
    });
}

#[test]
fn no_cpu_that_is_offline_or_forbidden_is_ever_used() {
    on_every_machine(|topology, options, plan| {
        for node in plan.nodes() {
            let may = node.os_index.map_or(BTreeSet::new(), |node| usable(topology, node));
            assert_eq!(node.cpus.iter().collect::<BTreeSet<u32>>(), may);
            for flusher in &plan.flushers()[node.flushers.clone()] {
                let pinned = node.os_index.is_some()
                    && match options.pin {
                        Pin::None => false,
                        Pin::Node => with_cpus(topology).len() > 1,
                        Pin::Core => true,
                    };
                assert_eq!(flusher.cpus.is_some(), pinned);
                let Some(cpus) = &flusher.cpus else { continue };
                assert!(cpus.iter().all(|cpu| may.contains(&cpu)), "{cpus} of {may:?}");
                assert_eq!(cpus.len(), if options.pin == Pin::Core { 1 } else { may.len() });
            }
        }
    });
}

#[test]
fn cores_are_shared_only_when_all_are_taken_and_the_first_is_taken_last() {
    on_every_machine(|topology, _, plan| {
        let core: BTreeMap<u32, u32> =
            topology.cpus().iter().map(|cpu| (cpu.os_index, cpu.core)).collect();
        let pinned = plan.options.pin == Pin::Core;
        for node in plan.nodes().iter().filter(|node| pinned && node.os_index.is_some()) {
            let mut on_cpu: BTreeMap<u32, usize> = node.cpus.iter().map(|cpu| (cpu, 0)).collect();
            let mut on_core: BTreeMap<u32, usize> =
                node.cpus.iter().map(|c| (core[&c], 0)).collect();
            for flusher in &plan.flushers()[node.flushers.clone()] {
                let cpu = flusher.cpus.as_ref().unwrap().iter().next().unwrap();
                *on_cpu.get_mut(&cpu).unwrap() += 1;
                *on_core.get_mut(&core[&cpu]).unwrap() += 1;
            }
            let (least, most) = (on_cpu.values().min(), on_cpu.values().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{on_cpu:?}");
            if on_core.values().any(|flushers| *flushers == 0) {
                assert!(on_core.values().all(|flushers| *flushers <= 1), "{on_core:?}");
                let all = topology.cpus().iter().find(|cpu| Some(cpu.node) == node.os_index);
                let first = all.unwrap().core;
                assert!(on_core.get(&first).is_none_or(|flushers| *flushers == 0), "{on_core:?}");
            }
        }
    });
}

#[test]
fn the_same_machine_has_the_same_plan_in_whatever_order_it_is_told() {
    let run = |(told, options): (Told, Options)| {
        let (one, other) = (told.clone().topology(), told.backwards().topology());
        assert_eq!(one, other);
        let (one, other) = (plan(&one, &options), plan(&other, &options));
        assert_eq!(one, other);
        assert_eq!((one.to_string(), one.to_json()), (other.to_string(), other.to_json()));
        Ok(())
    };
    runner(500).run(&(told(), options()), run).unwrap();
}

#[test]
fn every_cpu_has_a_home_and_it_is_the_nearest_ring() {
    on_every_machine(|topology, _, plan| {
        let with: Vec<u32> = plan.nodes().iter().filter_map(|node| node.os_index).collect();
        for cpu in topology.cpus() {
            let home = plan.home(cpu.os_index);
            assert!(home < plan.nodes().len());
            let far = |node: u32| topology.distance(cpu.node, node);
            match plan.nodes()[home].os_index {
                _ if with.contains(&cpu.node) => assert_eq!(with[home], cpu.node),
                Some(node) => assert!(with.iter().all(|&other| far(node) <= far(other))),
                None => assert_eq!(home, 0),
            }
        }
        assert_eq!(plan.home(u32::MAX), 0, "no topology knows it");
    });
}

#[test]
fn the_neighbours_of_a_node_are_all_the_others_by_distance() {
    on_every_machine(|topology, _, plan| {
        let with: Vec<u32> = plan.nodes().iter().filter_map(|node| node.os_index).collect();
        for index in 0..plan.nodes().len() {
            let near = plan.nearest(index);
            let seen: BTreeSet<usize> = near.iter().copied().chain([index]).collect();
            assert_eq!(seen, (0..plan.nodes().len()).collect());
            assert_eq!(near.len() + 1, plan.nodes().len(), "each once");
            let far = |other: usize| topology.distance(with[index], with[other]);
            assert!(near.is_sorted_by_key(|&other| far(other)));
        }
        assert!(plan.nearest(plan.nodes().len()).is_empty());
    });
}

#[test]
fn rings_lie_on_their_node_or_on_the_nearest_that_gives_memory() {
    on_every_machine(|topology, _, plan| {
        let gives = |node: &&NumaNode| node.memory_allowed && node.memory.unwrap_or(0) > 0;
        let giving: BTreeSet<u32> =
            topology.nodes().iter().filter(gives).map(|node| node.os_index).collect();
        for ring in plan.rings() {
            let Some(node) = plan.nodes()[ring.node].os_index else { continue };
            let Some(memory) = ring.memory else {
                assert!(giving.is_empty(), "{giving:?} have memory");
                continue;
            };
            assert!(giving.contains(&memory));
            assert!(memory == node || !giving.contains(&node), "its own comes first");
            let far = |other: u32| topology.distance(node, other);
            assert!(memory == node || giving.iter().all(|&other| far(memory) <= far(other)));
        }
    });
}

#[test]
fn rings_and_flushers_of_a_node_know_each_other() {
    on_every_machine(|_, _, plan| {
        for (index, node) in plan.nodes().iter().enumerate() {
            assert!(plan.rings()[node.rings.clone()].iter().all(|ring| ring.node == index));
            let flushers = &plan.flushers()[node.flushers.clone()];
            assert!(flushers.iter().all(|flusher| flusher.node == index));
        }
        let pairs = |lists: Vec<&Vec<usize>>| -> BTreeSet<(usize, usize)> {
            assert!(lists.iter().all(|list| !list.is_empty()), "{lists:?}");
            let pairs = lists.iter().enumerate();
            pairs.flat_map(|(a, list)| list.iter().map(move |&b| (a, b))).collect()
        };
        let from_rings = pairs(plan.rings().iter().map(|ring| &ring.flushers).collect());
        let served: Vec<Vec<usize>> =
            plan.flushers().iter().map(|flusher| vec![flusher.ring]).collect();
        let from_flushers = pairs(served.iter().collect());
        let turned: BTreeSet<_> = from_flushers.into_iter().map(|(a, b)| (b, a)).collect();
        assert_eq!(from_rings, turned);
        for (ring, flusher) in from_rings {
            assert_eq!(plan.rings()[ring].node, plan.flushers()[flusher].node);
        }
    });
}

#[test]
fn every_choice_has_a_reason_and_the_drawing_fits_and_shows_everything() {
    on_every_machine(|topology, _, plan| {
        let reasons = plan.nodes().iter().map(|node| &node.why);
        let reasons = reasons.chain(plan.rings().iter().map(|ring| &ring.why));
        let reasons = reasons.chain(plan.flushers().iter().map(|flusher| &flusher.why));
        let mut reasons = reasons.chain(plan.left_out().iter().map(|node| &node.why));
        assert!(reasons.all(|why| why.len() > 10));
        let drawing = plan.to_string();
        for line in drawing.lines() {
            assert!(line.chars().count() <= 100, "{line}");
            assert_eq!(line, line.trim_end());
        }
        for node in topology.nodes() {
            let title = format!("node {} · ", node.os_index);
            assert_eq!(drawing.lines().filter(|line| line.starts_with(&title)).count(), 1);
        }
        let boxes = drawing.matches('[').count() - usize::from(drawing.contains("[ ]"));
        let cores: BTreeSet<u32> = topology.cpus().iter().map(|cpu| cpu.core).collect();
        assert_eq!(boxes, cores.len(), "{drawing}");
    });
}

#[test]
fn sets_of_cpus_read_as_linux_writes_them() {
    let set = |cpus: &[u32]| cpus.iter().copied().collect::<CpuSet>();
    assert_eq!(set(&[]).to_string(), "");
    assert_eq!(set(&[7, 7]).to_string(), "7");
    assert_eq!(set(&[10, 0, 3, 2, 1, 8, 9, 12]).to_string(), "0-3,8-10,12");
    assert_eq!(set(&[u32::MAX, u32::MAX - 1]).to_string(), "4294967294-4294967295");
    let set = set(&[5, 1]);
    assert!(set.contains(5) && !set.contains(2));
    assert_eq!((set.len(), set.is_empty(), set.iter().last()), (2, false, Some(5)));
}

#[test]
fn what_does_not_fit_together_is_put_right() {
    let topology = Topology::builder()
        .nodes([NumaNode::new(0, 1 << 30), NumaNode::new(0, 2 << 30)])
        .cpus([Cpu { core: 1, ..Cpu::new(0, 0) }, Cpu::new(0, 3)])
        .offline([0, 9])
        .build();
    assert_eq!(topology.nodes(), [NumaNode::new(0, 2 << 30), NumaNode::new(3, None)]);
    assert_eq!(topology.cpus(), [Cpu::new(0, 3)], "told twice: the last counts");
    assert_eq!(topology.offline().to_string(), "9", "CPU 0 is known");
    assert_eq!((topology.distance(0, 0), topology.distance(0, 3)), (10, 20), "as Linux says");
}

#[test]
fn numbers_out_of_range_are_read_as_the_nearest() {
    let counts = |number| {
        let counted = |options: Options| {
            let plan = plan(&Topology::default(), &options);
            (plan.flushers().len(), plan.rings().len())
        };
        let options = Options::default().flushers(number);
        [
            counted(options),
            counted(options.shards(number)),
            counted(options.shards(Shards::PerNode(number))),
        ]
    };
    assert_eq!(counts(0), [(1, 1); 3]);
    assert_eq!(counts(usize::MAX), [(1024, 1), (1024, 1024), (1024, 1024)]);
}
