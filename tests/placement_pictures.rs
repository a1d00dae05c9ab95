//! Promise: the pictures in `docs/placement.md` are what the code draws, and the JSON of a plan says
//! the same as its getters.

#![allow(clippy::unwrap_used)]

mod machines;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sluicegate::placement::{CpuSet, Options, Pin, Plan, Shards, plan};

/// The picture that the page has under this name; under no name, none.
fn pictures() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/placement.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("<!-- picture: ").skip(1).map(|block| {
        let (name, rest) = block.split_once(" -->\n```text\n").unwrap();
        (name.to_owned(), rest.split_once("\n```").unwrap().0.to_owned())
    });
    blocks.collect()
}

#[test]
fn the_pictures_of_the_page_are_what_the_code_draws() {
    let mut pictures = pictures();
    let drawn = |machine: &str, options: Options| {
        let plan = plan(&machines::export(machine), &options);
        (machine.to_owned(), plan.to_string())
    };
    let cores = Options::default().pin(Pin::Core);
    let expected = [
        drawn("two-sockets", cores),
        drawn("sparse", Options::default()),
        drawn("confined", cores.flushers(3)),
    ];
    for (name, drawing) in expected {
        let picture = pictures.remove(&name).unwrap_or_default();
        assert_eq!(
            picture,
            drawing.trim_end(),
            "docs/placement.md has for {name}; now:\n{drawing}"
        );
    }
    assert!(pictures.is_empty(), "who draws these? {pictures:?}");
}

#[test]
fn every_machine_has_a_picture_of_100_columns() {
    for (name, topology) in machines::all() {
        for pin in Pin::ALL {
            let options = Options::default().flushers(4).shards(Shards::PerNode(2)).pin(pin);
            let drawing = plan(&topology, &options).to_string();
            let widest = drawing.lines().map(|line| line.chars().count()).max().unwrap();
            assert!((40..=100).contains(&widest), "{name}:\n{drawing}");
        }
    }
}

fn list(cpus: &CpuSet) -> Vec<u32> {
    cpus.iter().collect()
}

/// What the JSON of a plan must hold, but for its machine.
fn expected(plan: &Plan, pin: Pin) -> Value {
    let nodes = plan.nodes().iter().enumerate().map(|(index, node)| {
        json!({
            "os_index": node.os_index, "cpus": list(&node.cpus), "nearest": plan.nearest(index),
            "rings": node.rings.clone().collect::<Vec<_>>(),
            "flushers": node.flushers.clone().collect::<Vec<_>>(), "why": node.why,
        })
    });
    let rings = plan.rings().iter().map(|ring| {
        let flushers = &ring.flushers;
        json!({"node": ring.node, "memory": ring.memory, "flushers": flushers, "why": ring.why})
    });
    let flushers = plan.flushers().iter().map(|flusher| {
        let cpus = flusher.cpus.as_ref().map(list);
        json!({"node": flusher.node, "ring": flusher.ring, "cpus": cpus, "why": flusher.why})
    });
    let left_out = plan
        .left_out()
        .iter()
        .map(|node| json!({"os_index": node.os_index, "home": node.home, "why": node.why}));
    json!({
        "version": 1, "pin": pin.name(), "nodes": nodes.collect::<Vec<_>>(),
        "rings": rings.collect::<Vec<_>>(), "flushers": flushers.collect::<Vec<_>>(),
        "left_out": left_out.collect::<Vec<_>>(), "notes": plan.notes(), "topology": machine(plan),
    })
}

fn machine(plan: &Plan) -> Value {
    let topology = plan.topology();
    let nodes = topology.nodes().iter().map(|node| {
        let others = topology.nodes().iter();
        let far = others.map(|other| topology.distance(node.os_index, other.os_index));
        json!({
            "os_index": node.os_index, "memory": node.memory,
            "memory_allowed": node.memory_allowed, "distances": far.collect::<Vec<_>>(),
        })
    });
    let cpus = topology.cpus().iter().map(|cpu| {
        json!({
            "os_index": cpu.os_index, "node": cpu.node, "core": cpu.core, "package": cpu.package,
            "cache": cpu.cache, "performance": cpu.performance, "online": cpu.online,
            "allowed": cpu.allowed,
        })
    });
    json!({
        "nodes": nodes.collect::<Vec<_>>(), "cpus": cpus.collect::<Vec<_>>(),
        "offline": list(topology.offline()),
    })
}

#[test]
fn the_json_of_a_plan_says_what_its_getters_say() {
    for (name, topology) in machines::all() {
        for pin in Pin::ALL {
            let options = Options::default().flushers(3).shards(Shards::PerNode(2)).pin(pin);
            let plan = plan(&topology, &options);
            let json = plan.to_json();
            assert!(!json.contains('\n'), "one line");
            let value: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value, expected(&plan, pin), "{name}");
        }
    }
}
