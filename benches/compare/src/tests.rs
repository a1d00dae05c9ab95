//! Every contestant delivers every item once; and the arithmetic of the table.

use std::collections::HashSet;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::contestant::{Contestant, Kind, Outcome, Shape, Work};
use crate::field::FIELD;
use crate::figures::{Basis, Spread};
use crate::paced::{self, Latency};
use crate::probe::Label;
use crate::record::{Latencies, Rates, Record, Row};
use crate::turn::{Measure, Seconds, of_words};
use crate::{latency, report};

/// Only so that one that loses an item fails instead of hanging.
const HANGS: Duration = Duration::from_secs(120);

fn all_deliver(producers: usize, bytes: usize) {
    let shape = Shape { producers, bytes, depth: 4_096 };
    let work = Work { shape, items: 10_000 };
    let taken = all_do(|who| who.takes(&work), move |who| who.run(&work).check(&work));
    assert!(taken >= 24);
}

/// Lets each that takes part have its turn, alone; how many those are.
fn all_do(
    takes_part: impl Fn(&dyn Contestant) -> bool,
    turn: impl Fn(&dyn Contestant) -> Result<(), String> + Copy + Send + 'static,
) -> usize {
    let mut wrong = Vec::new();
    let mut taken = 0;
    for who in FIELD.iter().copied().filter(|who| takes_part(*who)) {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(turn(who)));
        taken += 1;
        let told = receiver.recv_timeout(HANGS).unwrap_or_else(|why| Err(why.to_string()));
        wrong.extend(told.err().map(|why| (who.name(), why)));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    taken
}

/// In one test, as the process has one schedule.
#[test]
fn paced_items_arrive_and_each_is_seen_once() {
    let work = Work { shape: paced::SHAPE, items: 2_000 };
    let turn = move |who: &dyn Contestant| {
        let Latency { p50, p99, p999, cores, .. } = Latency::take(who, &work, work.items / 10)?;
        let in_order = 0.0 < p50 && p50 <= p99 && p99 <= p999 && 0.0 < cores;
        in_order.then_some(()).ok_or(format!("{p50}, {p99}, {p999}, {cores}"))
    };
    assert!(all_do(paced::takes_part, turn) >= 18);
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

fn turn<M>(round: usize, contestant: &str, label: Label, measured: M) -> Row<M> {
    Row {
        round,
        label,
        contestant: contestant.into(),
        version: "1.0".into(),
        shape: SHAPE,
        items: 1_000_000,
        measured: Ok(measured),
        probes: [60.0, 61.0],
    }
}

/// What is read of a file that has these rows.
fn written<M: Measure>(rows: Vec<Row<M>>) -> Record<M> {
    let path = std::env::temp_dir().join(format!(
        "compare-{}-{}-{:?}",
        M::WORD,
        std::process::id(),
        thread::current().id()
    ));
    let facts = vec![("machine".to_owned(), "a test: of no kind".to_owned())];
    let mut record = Record::create(&path, facts).expect("a file");
    for row in &rows {
        record.add(row).expect("a row");
    }
    let read = Record::read(&path).expect("what was written can be read");
    std::fs::remove_file(&path).expect("the file was there");
    read
}

/// Three near rounds of two contestants, and one of far, in which ratios are others.
fn rates() -> Rates {
    let row = |round, who: &str, label, rate: f64| turn(round, who, label, Seconds(1e6 / rate));
    let mut rows = Vec::new();
    for (round, rate) in [(1, 100e6), (2, 110e6), (3, 300e6)] {
        rows.push(row(round, "sluicegate add", Label::Near, 2.0 * rate));
        rows.push(row(round, "kanal", Label::Near, rate));
        rows.push(row(round, "rtrb", Label::Near, rate / 4.0));
    }
    rows.push(row(4, "sluicegate add", Label::Far, 10e6));
    rows.push(row(4, "kanal", Label::Far, 100e6));
    let hung = Err("no end, it hangs".into());
    rows.push(Row { measured: hung, ..row(4, "flume", Label::Far, 1.0) });
    written(rows)
}

/// Kanal has a lower p99, rtrb, too, but with more cores, and flume has a higher one; of the far
/// turns that is not so.
fn latencies() -> Latencies {
    let row = |round, who: &str, label, p99, cores| {
        turn(round, who, label, Latency { p50: 1.5, p99, p999: 2.0 * p99, cores, stolen: 0.0 })
    };
    let mut rows = Vec::new();
    for (round, p99) in [(1, 60.0), (2, 80.0), (3, 90.0)] {
        rows.push(row(round, "sluicegate add", Label::Near, p99, 1.5));
        rows.push(row(round, "kanal", Label::Near, p99 / 4.0, 1.25));
        rows.push(row(round, "rtrb", Label::Near, p99 / 8.0, 2.0));
        rows.push(row(round, "flume", Label::Near, p99 * 2.0, 1.0));
    }
    rows.push(row(4, "sluicegate add", Label::Far, 900.0, 2.0));
    rows.push(row(4, "flume", Label::Far, 1.0, 1.0));
    let hung = Err("no end, and no item".into());
    rows.push(Row { measured: hung, ..row(4, "gil sharded", Label::Far, 1.0, 1.0) });
    written(rows)
}

#[test]
fn ratios_are_taken_within_near_rounds() {
    let record = rates();
    assert_eq!(record.basis(SHAPE), Basis::Only(Label::Near));
    let ratio = record.ratio(SHAPE, ["sluicegate add", "kanal"], Row::rate).expect("three rounds");
    assert_eq!((ratio.count, (ratio.median * 1e3).round()), (3, 2_000.0));
    let (name, rate) = record.fastest(SHAPE, |who| who.name() != "sluicegate add").expect("two");
    assert_eq!((name, (rate.median / 1e6).round()), ("kanal", 110.0));
}

#[test]
fn near_rounds_alone_do_not_count_where_somebody_had_too_few() {
    let mut record = rates();
    let flume = |(round, label)| turn(round, "flume", label, Seconds(1.0));
    record.rows.extend([(1, Label::Near), (2, Label::Near), (3, Label::Far)].map(flume));
    assert_eq!(record.basis(SHAPE), Basis::All);
    assert_eq!(written::<Seconds>(Vec::new()).basis(SHAPE), Basis::All);
    record.rows.extend([flume((4, Label::Near))]);
    assert_eq!(record.basis(SHAPE), Basis::Only(Label::Near));
}

#[test]
fn the_table_names_targets_peers_and_failures() {
    let page = report::markdown(&rates(), &latencies());
    let line = "| shared ring, `u64` | 1 | fastest peer: kanal | 220.0 / 110.0 | \
                2.00 (2.00 … 2.00) | 3 | near | 1.3 | met |";
    let latency = "| sluicegate add | 80 (70–85) | 3 | near | 100 | met | ";
    let failures = ["no end; it hangs", "gil sharded, latency", "no end; and no item"];
    let not_there = "`owned_producer` is not there yet";
    for part in [line, not_there, "a test: of no kind", latency].into_iter().chain(failures) {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    assert!(report::summary(&page).starts_with("| work |"));
}

#[test]
fn latency_names_peers_that_are_lower_at_no_more_cpu() {
    let section = latency::section(&latencies());
    let target = "| met | kanal 4.00 (4.00–4.00) | **missed** |";
    let row = "| kanal | 1.50 (1.50–1.50) | 20 (18–21) | 40 (35–42) | 1.25 (1.25–1.25) |";
    for part in [target, row, "µs, CPUs near", "12 near, 3 far"] {
        assert!(section.contains(part), "{part} is not in:\n{section}");
    }
    let places = ["| rtrb |", "| kanal |", "| sluicegate add | 1.50", "| flume |"]
        .map(|line| section.find(line).expect("a row"));
    assert!(places.is_sorted(), "the lowest first:\n{section}");
    assert_eq!(latency::section(&written(Vec::new())), "");
    let alone = |label| {
        let row = turn(
            1,
            "sluicegate add",
            label,
            Latency { p50: 1.0, p99: 2.0, p999: 3.0, cores: 1.5, stolen: 0.0 },
        );
        latency::section(&written(vec![row]))
    };
    assert!(alone(Label::Busy).contains("| no turn that counts |"));
    assert!(alone(Label::Near).contains("| met | - | no round with a peer |"));
    let far = latencies().rows.into_iter().filter(|row| row.label == Label::Far).collect();
    let far = latency::section(&written(far));
    assert!(far.contains("| far | 100 | **missed** | flume 900 (900–900) | **missed** |"), "{far}");
}

#[test]
fn a_turns_words_are_its_numbers() {
    let turn = Latency { p50: 0.25, p99: 12.5, p999: 1_000.125, cores: 1.5, stolen: 0.0 };
    let words = turn.words();
    assert_eq!(words.len(), Latency::COLUMNS.len());
    assert_eq!(of_words(words.iter().map(String::as_str)), Some(turn));
    assert_eq!(of_words::<Latency>("1 2 3".split(' ')), None, "one is missing");
    assert_eq!(of_words::<Latency>("9 of 10 arrived".split(' ')), None, "what is wrong, in words");
    assert_eq!(of_words::<Seconds>(["0.5"].into_iter()), Some(Seconds(0.5)));
}

#[test]
fn a_sender_without_its_cpu_was_disturbed() {
    let turn = |cores| Latency { p50: 1.0, p99: 2.0, p999: 3.0, cores, stolen: 0.0 };
    assert!(turn(0.9).disturbed());
    assert!(!turn(1.0).disturbed() && !turn(2.0).disturbed());
    assert!(Latency { stolen: 10.0, ..turn(2.0) }.disturbed(), "the host had a CPU");
}

#[test]
fn latency_is_asked_of_queues_and_of_the_engine_as_it_is_used() {
    let names = |kind| {
        let asked = FIELD.iter().filter(move |who| paced::takes_part(**who) && who.kind() == kind);
        asked.map(|who| who.name()).collect::<Vec<_>>()
    };
    assert_eq!(names(Kind::Ours), ["sluicegate add", "sluicegate owned add"]);
    let queues = FIELD.iter().filter(|who| who.kind() == Kind::Queue).count();
    assert_eq!(names(Kind::Queue).len(), queues);
    assert!(names(Kind::Batcher).is_empty() && names(Kind::InRuns).is_empty());
}
