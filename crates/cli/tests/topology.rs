//! Promise: `topology` shows the plan that the library makes for this machine, whatever is known
//! about it.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use std::process::Stdio;

use common::{Done, sluicegate};
use serde_json::Value;
use sluicegate::Pin;
use sluicegate::placement::{Machine, Options, Plan, Shards, plan};

fn topology(options: &str) -> Done {
    Done::of(sluicegate(["topology"]).args(options.split_whitespace()).output().unwrap())
}

/// Calls with options and the same for the library; the plan must be the same.
fn shows(call: &str, options: Options) -> Plan {
    let machine = Machine::detect();
    let plan = plan(&machine.topology, &options);
    let done = topology(call);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{call}");
    let head = format!("backend: {}\n", machine.backend);
    assert!(done.stdout.starts_with(&head), "{call}: {}", done.stdout);
    assert!(done.stdout.ends_with(&format!("\n\n{plan}")), "{call}: {}", done.stdout);
    for note in &machine.notes {
        assert!(done.stdout.contains(&format!("note: {note}\n")), "{call}: {}", done.stdout);
    }

    let done = topology(&format!("{call} --json"));
    assert_eq!(done.code, Some(0), "{call}: {}", done.stderr);
    let shown: Value = serde_json::from_str(&done.stdout).unwrap();
    let keys: Vec<_> = shown.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["backend", "notes", "machine", "plan"]);
    assert_eq!(shown["backend"], machine.backend);
    assert_eq!(shown["notes"], serde_json::json!(machine.notes));
    let mut expected: Value = serde_json::from_str(&plan.to_json()).unwrap();
    let topology = expected.as_object_mut().unwrap().shift_remove("topology").unwrap();
    assert_eq!((&shown["machine"], &shown["plan"]), (&topology, &expected), "{call}");
    plan
}

#[test]
fn it_shows_what_the_library_plans() {
    let options = Options::default;
    let default = shows("", options());
    assert_eq!(default.rings().len(), default.nodes().len());
    for pin in Pin::ALL {
        shows(&format!("--pin {}", pin.name()), options().pin(pin));
    }
    let total = shows("--shards 3", options().shards(Shards::Total(3)));
    assert_eq!(total.rings().len(), 3);
    let per_node = options().shards(Shards::PerNode(2)).flushers(3).pin(Pin::Core);
    let per_node = shows("--shards-per-node 2 --flushers 3 --pin core", per_node);
    assert!(per_node.rings().iter().all(|ring| ring.flushers.len() == 3));
}

#[test]
fn what_cannot_be_planned_is_refused_and_named() {
    let refused = [
        ("--pin socket", "--pin"),
        ("--flushers 0", "--flushers"),
        ("--flushers many", "--flushers"),
        ("--shards 0", "--shards"),
        ("--shards 1025", "--shards"),
        ("--shards-per-node=-1", "--shards-per-node"),
        ("--shards 2 --shards-per-node 2", "--shards-per-node"),
        ("--shards 2 --flushers 513", "--flushers"),
        ("--shards-per-node 1024 --flushers 1024", "--flushers"),
        ("--nodes 2", "--nodes"),
    ];
    for (options, named) in refused {
        let done = topology(options);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{options}");
        assert!(done.stderr.contains(named), "{options}: {}", done.stderr);
    }
}

#[test]
fn who_closes_the_pipe_has_seen_enough() {
    for options in ["", "--json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = sluicegate(["topology"]);
        command.args(options.split_whitespace()).stdout(Stdio::from(writer));
        let done = Done::of(command.output().unwrap());
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{options}");
    }
}
