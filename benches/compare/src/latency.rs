//! The part of the page that is on latency: a table of all, and what is aimed at.

use std::fmt::Write;

use crate::contestant::{Contestant, Kind};
use crate::field::{FIELD, name};
use crate::figures::Spread;
use crate::paced::{Latency, SHAPE};
use crate::record::{Latencies, Row};
use crate::report::labels;

/// Microseconds that all but one in a hundred of our items are to stay under.
const TARGET_US: f64 = 100.0;
/// Cores are as many up to this ratio.
const AS_MANY: f64 = 1.02;

/// Nothing, if nobody's latency was measured.
pub fn section(record: &Latencies) -> String {
    if record.rows.is_empty() {
        return String::new();
    }
    format!(
        "\n## Latency at 1 M items/s\n\n\
         One producer adds an item each microsecond, on a schedule that waits for nobody; an item's \
         latency runs from when it was due to when the consumer has it in hand, or the engine's \
         sink, with `FlushWhen::Idle`. Cores are CPU time of the whole process by time: 1.00 is the \
         producer, which spins. The first tenth of the items is not counted. Turns count by the \
         same rule as those for the rates; one in which the process had less than a core, or \
         the host took a CPU away for ten milliseconds or more, is taken again, ten times at most, \
         and does not count.\n\n{}\n\n{}\n\
         A peer is lower if its p99 is, and it uses as many cores or less (up to {:.0} % more), \
         each by the median ratio within rounds.\n\n{}",
        labels(record),
        targets(record),
        (AS_MANY - 1.0) * 100.0,
        table(record),
    )
}

/// One of the numbers, of turns that came to an end.
fn figure(of: fn(&Latency) -> f64) -> impl Fn(&Row<Latency>) -> Option<f64> {
    move |row| row.measured.as_ref().ok().map(of)
}

fn p99(record: &Latencies, name: &str) -> Option<Spread> {
    record.spread(SHAPE, name, figure(|turn| turn.p99))
}

fn targets(record: &Latencies) -> String {
    let mut text = String::from(
        "| | p99, µs (quartiles) | rounds | CPUs | target | | peers that are lower: p99 of ours by \
         theirs (quartiles) | |\n|---|---|---|---|---|---|---|---|\n",
    );
    for ours in [name::ADD, name::OWNED].into_iter().filter(|ours| record.took_part(ours)) {
        let _ = writeln!(text, "| {ours} |{}", line(record, ours));
    }
    text
}

fn line(record: &Latencies, ours: &str) -> String {
    let Some(p99) = p99(record, ours) else {
        return format!(" - | 0 | - | {TARGET_US:.0} | no turn that counts | - | |");
    };
    let verdict = |met| if met { "met" } else { "**missed**" };
    let peers = peers(record, ours);
    let lower: Vec<String> = peers.iter().flatten().cloned().collect();
    let (lower, none_lower) = match (peers.len(), lower.len()) {
        (0, _) => ("-".into(), "no round with a peer"),
        (all, 0) => (format!("none of {all}"), verdict(true)),
        _ => (lower.join("; "), verdict(false)),
    };
    format!(
        " {} | {} | {} | {TARGET_US:.0} | {} | {lower} | {none_lower} |",
        words(p99),
        p99.count,
        record.basis(SHAPE).name(),
        verdict(p99.median < TARGET_US),
    )
}

/// One for each peer that had a round with ours: its name and how much lower its p99 is, if that is
/// so at no more CPU.
fn peers(record: &Latencies, ours: &str) -> Vec<Option<String>> {
    let peers = in_order(record).into_iter().filter(|who| who.kind() == Kind::Queue);
    let compared = peers.filter_map(|who| {
        let pair = [ours, who.name()];
        let p99 = record.ratio(SHAPE, pair, figure(|turn| turn.p99))?;
        let cores = record.ratio(SHAPE, pair, figure(|turn| turn.cores))?;
        let is_lower = p99.median > 1.0 && 1.0 / cores.median <= AS_MANY;
        Some(is_lower.then(|| format!("{} {}", who.name(), words(p99))))
    });
    compared.collect()
}

/// A line for each contestant, the lowest p99 first.
fn table(record: &Latencies) -> String {
    let mut text = format!(
        "µs, CPUs {}: median (quartiles).\n\n\
         | contestant | p50 | p99 | p99.9 | cores | rounds |\n|---|---|---|---|---|---|\n",
        record.basis(SHAPE).name()
    );
    let columns: [fn(&Latency) -> f64; 4] =
        [|turn| turn.p50, |turn| turn.p99, |turn| turn.p999, |turn| turn.cores];
    for who in in_order(record) {
        let _ = write!(text, "| {} |", who.name());
        for of in columns {
            let spread = record.spread(SHAPE, who.name(), figure(of));
            let _ = write!(text, " {} |", spread.map_or("-".into(), words));
        }
        let rounds = p99(record, who.name()).map_or(0, |spread| spread.count);
        let _ = writeln!(text, " {rounds} |");
    }
    text
}

fn in_order(record: &Latencies) -> Vec<&'static dyn Contestant> {
    let p99 = |who: &&'static dyn Contestant| Some((p99(record, who.name())?.median, *who));
    let mut order: Vec<_> = FIELD.iter().filter_map(p99).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order.into_iter().map(|(_, who)| who).collect()
}

fn words(spread: Spread) -> String {
    let [median, low, high] = [spread.median, spread.quartiles[0], spread.quartiles[1]].map(|n| {
        let places = if n < 10.0 { 2 } else { 0 };
        format!("{n:.places$}")
    });
    format!("{median} ({low}–{high})")
}
