//! The table: what was measured, as Markdown.

use std::fmt::Write;

use crate::contestant::{BATCH, Contestant, Shape};
use crate::field::FIELD;
use crate::probe::Label;
use crate::record::{Latencies, Rates, Record};
use crate::turn::Measure;
use crate::{latency, machine, targets};

const TARGETS: &str = "\n## Targets\n\n";
const RATES: &str = "\n## Rates\n";

/// The whole page.
pub fn markdown(record: &Rates, latencies: &Latencies) -> String {
    let mut text = String::from("# Against the peers\n\n");
    text.push_str(
        "Made by `make compare` from `compare.csv` and `compare-latency.csv`; changes by hand are \
         lost.\n\n",
    );
    for (name, value) in &record.facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let _ = write!(
        text,
        "\nP producers add single items, one consumer forms batches of {BATCH} and folds them; \
         count and sum are checked in every turn. All contestants take turns within a round, each \
         in a process of its own. M items/s are medians over rounds; ratios are taken within a round, \
         between the contestants with the highest medians, and the median ratio counts. A turn is \
         near or far by a ping-pong of two threads before and after it: under 100 ns for a round \
         trip, or above. Where every contestant had three near turns, only those count; else the far \
         ones, if it had three of them; else all (mixed).\n\n{}\n",
        labels(record)
    );
    let _ = write!(text, "{TARGETS}{}", targets::table(record));
    text.push_str(
        "\nA peer that has a lane for each producer counts as a peer, not as one with a shared \
         handle. The bare ring's consumer folds its batches; the engine's null sink does not.\n",
    );
    text.push_str(&latency::section(latencies));
    text.push_str(RATES);
    for (bytes, depth) in sizes(record) {
        text.push_str(&rates(record, bytes, depth));
    }
    let _ = write!(text, "\n## Who\n\n{}", who(record));
    let failures = failures(record) + &failures(latencies);
    if !failures.is_empty() {
        let _ = write!(text, "\n## What failed\n\n{failures}");
    }
    text
}

/// The part of the page that is for the terminal.
pub fn summary(page: &str) -> &str {
    let from = page.find(TARGETS).map_or(0, |at| at + TARGETS.len());
    let to = page.find(RATES).unwrap_or(page.len());
    page.get(from..to).unwrap_or(page)
}

/// How many turns have each label, and what the probes say.
pub fn labels<M: Measure>(record: &Record<M>) -> String {
    let of = |label| record.rows.iter().filter(|row| row.label == label).count();
    let mut probes: Vec<f64> = record.rows.iter().map(|row| row.probes[1]).collect();
    probes.sort_by(f64::total_cmp);
    let at = |part: usize| probes.get((probes.len().max(1) - 1) * part / 2).copied().unwrap_or(0.0);
    format!(
        "Turns: {} near, {} far, {} during which the CPUs moved, {} while another program had one, \
         which never count. \
         Probes: median {:.0} ns, from {:.0} to {:.0}.",
        of(Label::Near),
        of(Label::Far),
        of(Label::Moved),
        of(Label::Busy),
        at(1),
        at(0),
        at(2)
    )
}

fn sizes(record: &Rates) -> Vec<(usize, usize)> {
    let mut sizes: Vec<_> =
        record.shapes().iter().map(|shape| (shape.bytes, shape.depth)).collect();
    sizes.dedup();
    sizes.sort_by_key(|size| (size.0, std::cmp::Reverse(size.1)));
    sizes.dedup();
    sizes
}

/// A line for each contestant, a column for each number of producers; the fastest single producer
/// first.
fn rates(record: &Rates, bytes: usize, depth: usize) -> String {
    let mut shapes = record.shapes();
    shapes.retain(|shape| shape.bytes == bytes && shape.depth == depth);
    shapes.sort_by_key(|shape| shape.producers);
    let mut text = format!(
        "\n### {bytes} bytes, {depth} deep\n\nM items/s: median (quartiles).\n\n\
         | contestant | kind |"
    );
    for shape in &shapes {
        let _ = write!(text, " P = {}, {} |", shape.producers, record.basis(*shape).name());
    }
    let _ = writeln!(text, "\n|---|---|{}", "---|".repeat(shapes.len()));
    for who in in_order(record, &shapes) {
        let _ = write!(text, "| {} | {} |", who.name(), who.kind().name());
        for shape in &shapes {
            let _ = match record.rate(*shape, who.name()) {
                Some(rate) => write!(
                    text,
                    " {} ({}–{}) |",
                    millions(rate.median),
                    millions(rate.quartiles[0]),
                    millions(rate.quartiles[1])
                ),
                None => write!(text, " - |"),
            };
        }
        text.push('\n');
    }
    text
}

fn in_order(record: &Rates, shapes: &[Shape]) -> Vec<&'static dyn Contestant> {
    let took_part = |who: &&dyn Contestant| {
        shapes.iter().any(|shape| record.rate(*shape, who.name()).is_some())
    };
    let mut order: Vec<&'static dyn Contestant> = FIELD.iter().copied().filter(took_part).collect();
    let speed = |who: &dyn Contestant| {
        let rate = shapes.first().and_then(|shape| record.rate(*shape, who.name()));
        rate.map_or(0.0, |rate| rate.median)
    };
    order.sort_by(|a, b| speed(*b).total_cmp(&speed(*a)));
    order
}

fn millions(rate: f64) -> String {
    let millions = rate / 1e6;
    if millions < 10.0 { format!("{millions:.2}") } else { format!("{millions:.0}") }
}

fn who(record: &Rates) -> String {
    let mut text =
        String::from("| contestant | version | handle | how it is used |\n|---|---|---|---|\n");
    for who in FIELD.iter().filter(|who| record.took_part(who.name())) {
        let measured = record.rows.iter().find(|row| row.contestant == who.name());
        let version =
            measured.map_or_else(|| machine::version(who.package()), |row| row.version.clone());
        let handle = if who.shared_handle() { "shared" } else { "a lane each" };
        let _ = writeln!(text, "| {} | {version} | {handle} | {} |", who.name(), who.usage());
    }
    text
}

fn failures<M: Measure>(record: &Record<M>) -> String {
    let mut text = String::new();
    for row in &record.rows {
        if let Err(why) = &row.measured {
            let Shape { producers, bytes, depth } = row.shape;
            let _ = writeln!(
                text,
                "- {}, {}, {producers} × {bytes} bytes, {depth} deep, round {}: {why}; left out of \
                 this shape from then on",
                row.contestant,
                M::WORD,
                row.round
            );
        }
    }
    text
}
