//! Promise: `bench` measures each placement as often as asked, and checks count and sum each time.
//! What the figures are is not looked at.
#![allow(clippy::unwrap_used)] // a test may fail

mod common;

use common::{Done, sluicegate};
use serde_json::Value;

fn bench(options: &str) -> Done {
    Done::of(sluicegate(["bench"]).args(options.split_whitespace()).output().unwrap())
}

fn json(options: &str) -> Value {
    let done = bench(&format!("{options} --json"));
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{options}: {}", done.stdout);
    serde_json::from_str(&done.stdout).unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}"))
}

/// Each case must have this many rounds, in which all that was added has been written.
fn checked(report: &Value, rounds: usize) -> Vec<&Value> {
    let cases = array(&report["results"]);
    let runs: Vec<&Value> = cases.iter().flat_map(|case| array(&case["rounds"])).collect();
    assert_eq!(runs.len(), cases.len() * rounds, "{report}");
    for case in cases {
        assert_eq!(array(&case["rounds"]).len(), rounds, "{case}");
        for figure in ["items_per_second", "add_ns", "ratio"] {
            let [q1, median, q3] =
                ["q1", "median", "q3"].map(|at| case[figure][at].as_f64().unwrap());
            assert!(0.0 < q1 && q1 <= median && median <= q3, "{case}");
        }
    }
    for run in &runs {
        assert!(run["items"].as_u64() >= Some(1), "{run}");
        assert!(run["added"].as_u64() >= run["items"].as_u64(), "{run}");
        assert_eq!(run["added"], run["written"], "{run}");
    }
    // One before each round, one after the last.
    assert_eq!(array(&report["probe_ns"]["all"]).len(), rounds + 1);
    runs
}

#[test]
fn each_placement_is_measured_in_each_round_with_each_number_of_producers() {
    let names = ["none+shards=1", "node", "core+home=follow-cpu+overflow+steal+huge-pages"];
    let compare = names.join(",");
    let report = json(&format!("--items 1000 --rounds 3 --producers 1,3 --compare {compare}"));
    for run in checked(&report, 3) {
        assert_eq!(run["items"], 1000);
        assert_eq!(run["added"], 1100, "a tenth is added before it");
    }
    let cases: Vec<_> = array(&report["results"])
        .iter()
        .map(|case| (case["producers"].as_u64().unwrap(), case["placement"].as_str().unwrap()))
        .collect();
    let expected: Vec<_> = [1, 3].iter().flat_map(|&n| names.map(|name| (n, name))).collect();
    assert_eq!(cases, expected);
    for first in array(&report["results"]).iter().step_by(names.len()) {
        assert_eq!(first["ratio"]["median"], 1.0);
    }
    assert!(report["machine"]["cpus"].as_u64() >= Some(1));
    assert!(report["machine"]["backend"].is_string());
    let last = &array(&report["placements"])[2];
    assert_eq!((&last["pin"], &last["home"]), (&"core".into(), &"follow-cpu".into()));
    for word in ["overflow", "steal", "huge_pages"] {
        assert_eq!(last[word], true, "{last}");
    }
}

#[test]
fn every_way_of_adding_is_checked() {
    let one = "--rounds 1 --producers 2 --compare core";
    for options in [
        "--items 5001 --add many",
        "--items 5001 --add many --item-bytes 64 --max-batch-size 7 --queue-depth 8",
        "--items 5001 --item-bytes 64 --flushers 3",
        "--items 1 --batch 1 --queue-depth 2",
        "--seconds 0.001 --add many",
        "--seconds 0.001",
    ] {
        checked(&json(&format!("{one} {options}")), 1);
    }
}

#[test]
fn the_table_names_what_was_measured_and_says_that_it_was_checked() {
    let done = bench("--items 1000 --rounds 2 --producers 1,2");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for name in ["none+shards=1", "none", "node", "core"] {
        let lines = done.stdout.lines();
        let rows = lines.filter(|line| line.split_whitespace().nth(1) == Some(name)).count();
        assert_eq!(rows, 2, "{name}: {}", done.stdout);
    }
    // Eight cases of 1,100 items, twice.
    let check = "check: 17,600 items written, every count and sum as added\n";
    for expected in [check, "\nprobe: ", " CPUs, ", "(backend: ", "2 rounds of 1,000 items"] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
}

#[test]
fn more_threads_than_cpus_are_told() {
    let cpus = std::thread::available_parallelism().unwrap();
    let call = format!("--items 100 --rounds 1 --compare none+shards=1 --producers {cpus}");
    let told = format!("{} threads (producers and flushers) for {cpus} CPUs", cpus.get() + 1);
    let notes = json(&call)["notes"].to_string();
    assert!(notes.contains(&told), "{notes}");
}

#[test]
fn what_cannot_be_measured_is_refused_and_named() {
    let refused = [
        ("--producers 0", "--producers"),
        ("--producers 1,,2", "--producers"),
        ("--producers 2,2", "--producers"),
        ("--flushers 0", "--flushers"),
        ("--flushers 600 --compare shards=2", "--flushers"),
        ("--rounds 0", "--rounds"),
        ("--seconds 0", "--seconds"),
        ("--seconds 1s", "--seconds"),
        ("--items 0", "--items"),
        ("--items 10 --seconds 1", "--seconds"),
        ("--add some", "--add"),
        ("--item-bytes 9", "--item-bytes"),
        ("--compare sockets", "--compare"),
        ("--compare none,core,none", "--compare"),
        ("--compare core+shards=0", "--compare"),
        ("--queue-depth 1000", "--queue-depth"),
        ("--queue-depth 8388608", "--queue-depth"),
        ("--max-batch-size 0", "--max-batch-size"),
        ("--batch 64 --queue-depth 32", "--max-batch-size"),
    ];
    for (options, named) in refused {
        let done = bench(options);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{options}: {}", done.stderr);
        assert!(done.stderr.contains(named), "{options}: {}", done.stderr);
    }
}
