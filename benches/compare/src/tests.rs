//! Every contestant delivers every item once; and the arithmetic of the table.

use std::collections::HashSet;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::contestant::{Outcome, Shape, Work};
use crate::field::FIELD;
use crate::figures::{Basis, Spread};
use crate::probe::Label;
use crate::record::{Record, Row};
use crate::report;

/// Only so that one that loses an item fails instead of hanging.
const HANGS: Duration = Duration::from_secs(120);

fn all_deliver(producers: usize, bytes: usize) {
    let shape = Shape { producers, bytes, depth: 4_096 };
    let work = Work { shape, items: 10_000 };
    let mut wrong = Vec::new();
    let mut taken = 0;
    for who in FIELD.iter().copied().filter(|who| who.takes(&work)) {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(who.run(&work)));
        taken += 1;
        match receiver.recv_timeout(HANGS) {
            Ok(outcome) => wrong.extend(outcome.check(&work).err().map(|why| (who.name(), why))),
            Err(why) => wrong.push((who.name(), why.to_string())),
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(taken >= 24);
}

#[test]
fn one_producers_items_arrive() {
    all_deliver(1, 8);
}

#[test]
fn three_producers_items_arrive() {
    all_deliver(3, 8);
}

#[test]
fn wide_items_arrive() {
    all_deliver(1, 64);
    all_deliver(3, 64);
}

#[test]
fn a_lost_or_doubled_item_is_found() {
    let work = Work { shape: Shape { producers: 1, bytes: 64, depth: 2 }, items: 3 };
    let outcome = |count, sum| Outcome { seconds: 1.0, count, sum };
    assert_eq!(outcome(3, Some(8 * 3)).check(&work), Ok(()));
    assert_eq!(outcome(3, None).check(&work), Ok(()));
    assert!(outcome(2, Some(8 * 3)).check(&work).is_err());
    assert!(outcome(3, Some(8 * 4)).check(&work).is_err(), "one twice, another never");
}

#[test]
fn shares_cover_the_items_once() {
    let work = Work { shape: Shape { producers: 3, bytes: 8, depth: 2 }, items: 10 };
    let all: Vec<u64> = work.each(|p| work.share(p)).into_iter().flatten().collect();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

#[test]
fn names_are_unique_and_fit_the_file() {
    let names: HashSet<_> = FIELD.iter().map(|who| who.name()).collect();
    assert_eq!(names.len(), FIELD.len());
    assert!(names.iter().all(|name| !name.contains(',')));
    let versions = FIELD.iter().map(|who| crate::machine::version(who.package()));
    assert!(
        versions.into_iter().all(|version| version != "?"),
        "a package that is not in the lock"
    );
}

#[test]
fn quartiles_are_interpolated() {
    let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).expect("four values");
    assert_eq!((spread.median, spread.quartiles, spread.count), (2.5, [1.75, 3.25], 4));
    assert_eq!(Spread::of(Vec::new()), None);
}

#[test]
fn labels_tell_places() {
    assert_eq!(Label::of(60.0, 70.0), Label::Near);
    assert_eq!(Label::of(300.0, 310.0), Label::Far);
    assert_eq!(Label::of(60.0, 310.0), Label::Moved);
    assert_eq!(Label::of(310.0, 60.0), Label::Moved);
    assert_eq!(Label::of(50_000.0, 52_000.0), Label::Busy);
}

const SHAPE: Shape = Shape { producers: 1, bytes: 8, depth: 65_536 };

fn row(round: usize, contestant: &str, label: Label, rate: f64) -> Row {
    Row {
        round,
        label,
        contestant: contestant.into(),
        version: "1.0".into(),
        shape: SHAPE,
        items: 1_000_000,
        seconds: Ok(1e6 / rate),
        probes: [60.0, 61.0],
    }
}

/// Three near rounds of two contestants, and one of far, in which ratios are others.
fn record() -> Record {
    let path = std::env::temp_dir().join(format!(
        "compare-{}-{:?}",
        std::process::id(),
        thread::current().id()
    ));
    let facts = vec![("machine".to_owned(), "a test: of no kind".to_owned())];
    let mut record = Record::create(&path, facts).expect("a file");
    for (round, rate) in [(1, 100e6), (2, 110e6), (3, 300e6)] {
        record.add(&row(round, "sluicegate add", Label::Near, 2.0 * rate)).expect("a row");
        record.add(&row(round, "kanal", Label::Near, rate)).expect("a row");
        record.add(&row(round, "rtrb", Label::Near, rate / 4.0)).expect("a row");
    }
    record.add(&row(4, "sluicegate add", Label::Far, 10e6)).expect("a row");
    record.add(&row(4, "kanal", Label::Far, 100e6)).expect("a row");
    let hung = Row { seconds: Err("no end, it hangs".into()), ..row(4, "flume", Label::Far, 1.0) };
    record.add(&hung).expect("a row");
    let read = Record::read(&path).expect("what was written can be read");
    std::fs::remove_file(&path).expect("the file was there");
    read
}

#[test]
fn ratios_are_taken_within_near_rounds() {
    let record = record();
    assert_eq!(record.basis(SHAPE), Basis::Only(Label::Near));
    let ratio = record.ratio(SHAPE, "sluicegate add", "kanal").expect("three rounds");
    assert_eq!((ratio.count, (ratio.median * 1e3).round()), (3, 2_000.0));
    let (name, rate) = record.fastest(SHAPE, |who| who.name() != "sluicegate add").expect("two");
    assert_eq!((name, (rate.median / 1e6).round()), ("kanal", 110.0));
}

#[test]
fn the_table_names_targets_peers_and_failures() {
    let page = report::markdown(&record());
    let line = "| shared ring, `u64` | 1 | fastest peer: kanal | 220.0 / 110.0 | \
                2.00 (2.00 … 2.00) | 3 | near | 1.3 | met |";
    for part in
        [line, "`owned_producer` is not there yet", "no end; it hangs", "a test: of no kind"]
    {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    assert!(report::summary(&page).starts_with("| work |"));
}
