//! Reads what hwloc's `lstopo --of xml` writes (version 2) into a `Topology`.

use std::collections::BTreeSet;

use roxmltree::{Document, Node, ParsingOptions};
use sluicegate::placement::{Cpu, NumaNode, Topology, TopologyBuilder};

pub fn topology(xml: &str) -> Topology {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).unwrap();
    let machine = document.descendants().find(|node| is(node, "Machine")).unwrap();
    let memory_allowed = set(&machine, "allowed_nodeset");
    let nodes = machine.descendants().filter(|node| is(node, "NUMANode"));
    let nodes = nodes.map(|node| NumaNode {
        memory_allowed: memory_allowed.contains(&number(&node, "os_index")),
        ..NumaNode::new(number(&node, "os_index"), memory(&node))
    });
    let builder = Topology::builder().nodes(nodes).cpus(cpus(&document, &machine));
    // Offline CPUs are in this set, and nowhere else.
    let builder = builder.offline(set(&machine, "complete_cpuset"));
    distances(&document, builder).build()
}

fn cpus(document: &Document<'_>, machine: &Node<'_, '_>) -> Vec<Cpu> {
    let allowed = set(machine, "allowed_cpuset");
    // The slowest kind comes first.
    let kinds: Vec<BTreeSet<u32>> = document
        .descendants()
        .filter(|node| node.has_tag_name("cpukind"))
        .map(|node| set(&node, "cpuset"))
        .collect();
    let above = |cpu: &Node<'_, '_>, kind: &str| {
        cpu.ancestors().find(|node| is(node, kind)).map(|node| node.id().get())
    };
    let cpu = |cpu: Node<'_, '_>| {
        let os_index = number(&cpu, "os_index");
        let kind = kinds.iter().position(|kind| kind.contains(&os_index)).unwrap_or(0);
        Cpu {
            // What is one of a kind in the document is one of a kind in the machine.
            core: rank(machine, above(&cpu, "Core"), "Core"),
            package: rank(machine, above(&cpu, "Package"), "Package"),
            cache: above(&cpu, "L3Cache").map(|id| rank(machine, Some(id), "L3Cache")),
            performance: u32::try_from(kind).unwrap(),
            allowed: allowed.contains(&os_index),
            ..Cpu::new(os_index, home(machine, os_index))
        }
    };
    machine.descendants().filter(|node| is(node, "PU")).map(cpu).collect()
}

/// The node of a CPU. hwloc gives a node without CPUs those of its neighbours: the first in the
/// document is the real one.
fn home(machine: &Node<'_, '_>, cpu: u32) -> u32 {
    let nodes = machine.descendants().filter(|node| is(node, "NUMANode"));
    let near = nodes.filter(|node| set(node, "cpuset").contains(&cpu));
    let node = near.min_by_key(|node| (set(node, "cpuset").len(), number(node, "os_index")));
    number(&node.unwrap(), "os_index")
}

fn distances(document: &Document<'_>, mut builder: TopologyBuilder) -> TopologyBuilder {
    let is_latency = |node: &Node<'_, '_>| {
        node.has_tag_name("distances2") && node.attribute("name") == Some("NUMALatency")
    };
    let Some(matrix) = document.descendants().find(is_latency) else { return builder };
    let numbers = |tag: &str| -> Vec<u32> {
        let parts = matrix.children().filter(|node| node.has_tag_name(tag));
        let texts = parts.filter_map(|node| node.text());
        texts.flat_map(|text| text.split_whitespace().map(|n| n.parse().unwrap())).collect()
    };
    let (nodes, values) = (numbers("indexes"), numbers("u64values"));
    assert_eq!(values.len(), nodes.len() * nodes.len(), "a square");
    for (&from, row) in nodes.iter().zip(values.chunks(nodes.len())) {
        for (&to, &distance) in nodes.iter().zip(row) {
            builder = builder.distance(from, to, distance);
        }
    }
    builder
}

fn is(node: &Node<'_, '_>, kind: &str) -> bool {
    node.has_tag_name("object") && node.attribute("type") == Some(kind)
}

fn number(node: &Node<'_, '_>, name: &str) -> u32 {
    node.attribute(name).unwrap().parse().unwrap()
}

fn memory(node: &Node<'_, '_>) -> Option<u64> {
    node.attribute("local_memory").map(|bytes| bytes.parse().unwrap())
}

/// How many objects of this kind come before that one.
fn rank(machine: &Node<'_, '_>, id: Option<u32>, kind: &str) -> u32 {
    let objects = machine.descendants().filter(|node| is(node, kind));
    let before = objects.take_while(|node| Some(node.id().get()) != id).count();
    u32::try_from(before).unwrap()
}

/// A set as hwloc writes it: words of 32 bits, the highest first.
fn set(node: &Node<'_, '_>, name: &str) -> BTreeSet<u32> {
    let Some(text) = node.attribute(name) else { return BTreeSet::new() };
    let words = text.split(',').rev().map(|word| match word.trim_start_matches("0x") {
        "" => 0,
        digits => u32::from_str_radix(digits, 16).unwrap(),
    });
    let bits = words.zip(0_u32..).flat_map(|(word, index)| {
        (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 32 + bit)
    });
    bits.collect()
}
