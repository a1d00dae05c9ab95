//! Promise: `docs/guarantees.md` says for each way to add and each policy what a full queue does,
//! and names a test that exists.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names of all functions under `#[test]` in `tests/`.
fn tests() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(str::trim);
        while lines.any(|line| line == "#[test]") {
            let name = lines.find_map(|line| line.strip_prefix("fn ")).unwrap();
            names.insert(name.split('(').next().unwrap().to_owned());
        }
    }
    names
}

/// What stands between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_cell_of_the_table_names_a_test_that_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guarantees.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("On a full queue"));
    let (tests, mut cells) = (tests(), BTreeSet::new());
    for line in section.unwrap().lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [method, policy, wait, lose, says, counted, test] = columns[..] else {
            panic!("seven columns: {line}")
        };
        assert!([wait, lose, says, counted].iter().all(|cell| !cell.is_empty()), "{line}");
        let test = quoted(test).next().unwrap();
        assert!(tests.contains(test), "there is no test {test}: {line}");
        assert!(test.ends_with(quoted(method).next().unwrap()), "{line}");
        assert!(cells.insert((method, policy)), "twice: {line}");
    }
    let methods: BTreeSet<_> = cells.iter().map(|cell| cell.0).collect();
    let policies: BTreeSet<_> = cells.iter().map(|cell| cell.1).collect();
    assert_eq!((methods.len(), policies.len(), cells.len()), (8, 4, 32), "one for each pair");
    // The notes below the table name tests, too: whatever looks like one is one.
    for line in section.unwrap().lines().filter(|line| !line.starts_with('|')) {
        for name in quoted(line).filter(|name| name.matches('_').count() > 3) {
            assert!(tests.contains(name), "there is no test {name}");
        }
    }
}
