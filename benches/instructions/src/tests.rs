//! The arithmetic of the comparison, and what is read of valgrind's.

use std::fs;
use std::path::Path;

use crate::counts::{Comparison, Counts, Row};
use crate::valgrind::{total, written};

const FILE: &str = "# rustc: 1.95.0\n# target: x86_64\ncase\tinstructions\tlines\n\
                    add\t100.000\t2.000\nturn\t29.858\t0.452\n";

fn counts(rows: &[(&str, f64, f64)]) -> Counts {
    let row = |&(case, instructions, lines): &(&str, f64, f64)| {
        let case = case.to_owned();
        Row { case, instructions, lines }
    };
    let facts = vec![("rustc".to_owned(), "1.95.0".to_owned())];
    Counts { facts, rows: rows.iter().map(row).collect() }
}

/// Notes and failures when `add` had 100 instructions and 2 lines, and now has these.
fn compared(instructions: f64, lines: f64) -> [Vec<String>; 2] {
    let baseline = counts(&[("add", 100.0, 2.0), ("turn", 30.0, 0.5)]);
    let now = counts(&[("add", instructions, lines), ("turn", 30.0, 0.5)]);
    let Comparison { notes, failures, .. } = Comparison::of(&baseline, &now);
    [notes, failures]
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let counts = Counts::parse(FILE).expect("a file of ours");
    assert_eq!(counts.rows[1], Row { case: "turn".into(), instructions: 29.858, lines: 0.452 });
    assert_eq!(counts.facts[1], ("target".to_owned(), "x86_64".to_owned()));
    assert_eq!(counts.to_string(), FILE);
}

#[test]
fn what_is_no_count_is_refused_with_its_line() {
    for line in ["add\t1.0", "add\t0\t1", "add\t-1\t1", "add\tNaN\t1", "add\tx\t1", "", "# rustc"] {
        let refused = Counts::parse(&format!("{FILE}{line}\n")).expect_err("it is none");
        assert!(refused.starts_with("not a ") && refused.ends_with(line), "{refused}");
    }
}

#[test]
fn only_more_than_the_bound_fails() {
    let none: [Vec<String>; 2] = Default::default();
    assert_eq!(compared(100.0, 2.0), none);
    assert_eq!(compared(102.99, 2.0), none);
    let more = "more than 3 % more instructions: add".to_owned();
    assert_eq!(compared(103.01, 2.0), [vec![], vec![more]]);
    assert_eq!(compared(97.01, 2.0), none);
    let fewer = "Renew the baseline, more than 3 % fewer instructions: add".to_owned();
    assert_eq!(compared(96.99, 2.0), [vec![fewer], vec![]]);
}

#[test]
fn another_number_of_lines_is_told() {
    for lines in [1.0, 3.0] {
        let told = "Not as many cache lines written as before: add".to_owned();
        assert_eq!(compared(100.0, lines), [vec![told], vec![]]);
    }
}

#[test]
fn cases_on_one_side_only_fail() {
    let baseline = counts(&[("add", 100.0, 2.0), ("turn", 30.0, 0.5)]);
    let now = counts(&[("add", 100.0, 2.0), ("idle", 400.0, 7.0)]);
    let Comparison { table, notes, failures } = Comparison::of(&baseline, &now);
    assert_eq!(failures, ["not in the baseline: idle", "in the baseline, but not counted: turn"]);
    assert_eq!(notes, [""; 0]);
    let words = table.lines().last().expect("a line").split_whitespace();
    assert_eq!(words.collect::<Vec<_>>(), ["idle", "-", "400.00", "new", "-", "7.00"]);
}

#[test]
fn another_toolchain_is_told_and_compared_all_the_same() {
    let (mut old, now) = (counts(&[("add", 100.0, 2.0)]), counts(&[("add", 110.0, 2.0)]));
    old.facts[0].1 = "1.94.0".into();
    let Comparison { table, notes, failures } = Comparison::of(&old, &now);
    let told = "The baseline is of rustc 1.94.0, and this is 1.95.0: counts may differ by that.";
    assert_eq!(notes, [told]);
    assert_eq!(failures, ["more than 3 % more instructions: add"]);
    assert!(table.contains("+10.00 %"), "{table}");
}

#[test]
fn a_profile_without_a_count_is_of_no_use() {
    assert_eq!(total("events: Ir\nfn=(1)\n5 7\ntotals: 3080192\n"), Some(3_080_192));
    assert_eq!(total("events: Ir\ntotals: 0\n"), None);
    assert_eq!(total("events: Ir\n"), None);
}

/// With the mark at 0x4000 and the stack from 0x200000 downwards.
fn trace(accesses: &[&str]) -> Option<u64> {
    let places = ["==1== a banner", " S 00005000,8", "places 16384 2097152"];
    let entries = places.iter().chain(accesses);
    written(entries.map(|entry| (*entry).to_owned()))
}

#[test]
fn lines_are_counted_once_for_each_operation() {
    const MARK: &str = " M 00004000,8";
    let once = ["I  0010,4", " S 00006000,8", " S 00006038,8", " L 00007000,8", " M 00006100,8"];
    let outside = " S 00009000,8";
    let operation = [&[MARK], &once[..], &[MARK, outside]].concat();
    assert_eq!(trace(&operation), Some(2));
    assert_eq!(trace(&[&operation[..], &operation].concat()), Some(4));
    assert_eq!(trace(&[MARK, " S 0000603c,8", MARK]), Some(2), "across two lines");
    assert_eq!(trace(&[MARK, " S 001ffff8,8", MARK]), Some(0), "the stack");
}

#[test]
fn half_a_trace_is_of_no_use() {
    assert_eq!(trace(&[]), None);
    assert_eq!(trace(&[" M 00004000,8", " S 00006000,8"]), None);
}

#[test]
fn the_profile_is_the_librarys() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [ours, theirs] = ["Cargo.toml", "../../Cargo.toml"].map(|manifest| {
        let text = fs::read_to_string(here.join(manifest)).expect("a manifest");
        let (_, profile) = text.split_once("[profile.release]\n").expect("a profile");
        let lines = profile.lines().take_while(|line| line.contains('='));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    assert!(!ours.is_empty());
    assert_eq!(ours, theirs);
}
