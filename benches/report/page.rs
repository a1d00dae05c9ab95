//! The page: what was measured, as Markdown.

use std::fmt::Write;

use crate::common::{Basis, Label, Record, short, table};

/// What each bench measures, in the order of the page.
const BENCHES: [(&str, &str); 8] = [
    ("ring", "The ring alone, on one thread, with items of 8 and of 64 bytes."),
    ("engine", "From `add` to the sink, P producers, batches of 512; throughput of all together."),
    ("acks", "What acks cost: one producer, one flusher."),
    ("shards", "Several shards, and what producers and flushers do across them."),
    (
        "latency",
        "From the moment at which an item was due to the start of its write, in an open loop; \
         `FlushWhen::Idle`. *Behind*: how late the sender added.",
    ),
    ("wake", "From `add` to the sink, beside a bare `unpark`, in turns."),
    ("idle", "CPU time while everybody waits."),
    ("sqlite", "Rows into SQLite through the engine, and by the same transactions without it."),
];

/// A figure that has to stay below something.
struct Target {
    bench: &'static str,
    case: &'static str,
    measure: &'static str,
    most: f64,
}

const fn target(
    bench: &'static str,
    case: &'static str,
    measure: &'static str,
    most: f64,
) -> Target {
    Target { bench, case, measure, most }
}

const TARGETS: [Target; 7] = [
    target("wake", "handover every ms", "p50 / bare", 1.15),
    target("wake", "idle every ms", "p50 / bare", 1.15),
    target("idle", "idle 1 flusher", "% of a core", 0.1),
    target("idle", "idle 4 flushers", "% of a core", 0.1),
    target("idle", "blocked 1 thread", "% of a core", 0.1),
    target("idle", "blocked 64 threads", "% of a core", 0.1),
    target("idle", "blocked 64 tasks", "% of a core", 0.1),
];

/// The whole page.
pub fn markdown(record: &Record) -> String {
    let mut text = String::from("# Our own benches\n\n");
    text.push_str("Made by `make bench` from `bench.csv`; changes by hand are lost.\n\n");
    for (name, value) in &record.facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let _ = writeln!(
        text,
        "\nThe turns of a bench come one after the other, round after round; each figure is the \
         median over rounds, with the quartiles. A turn is near or far by a ping-pong of two \
         threads before and after it: under 100 ns for a round trip, or above; a turn during which \
         another program had a CPU is busy. Where a third of a bench's turns are near, only those \
         count; else the far ones, if they are half; else all (mixed) but the busy ones.\n\n{}\n",
        labels(record)
    );
    let targets = targets(record);
    if !targets.is_empty() {
        let _ = writeln!(text, "## Targets\n\n{targets}");
    }
    for bench in record.benches() {
        let known = BENCHES.iter().find(|known| known.0 == bench);
        let about = known.map_or(String::new(), |known| format!("{}\n\n", known.1));
        let _ = writeln!(text, "## {bench}\n\n{about}{}{}", chart(bench), table(record, bench));
    }
    let end = text.trim_end().len();
    text.truncate(end);
    text + "\n"
}

fn chart(bench: &str) -> String {
    if crate::chart::CHARTED.contains(&bench) {
        format!("![{bench}]({bench}.svg)\n\n")
    } else {
        String::new()
    }
}

/// A line for each target that something was measured for.
pub fn targets(record: &Record) -> String {
    let mut text = String::new();
    for Target { bench, case, measure, most } in TARGETS {
        let basis = Basis::of(record, bench);
        let Some(middle) = basis.middle(record, bench, case, measure) else { continue };
        if text.is_empty() {
            text.push_str("| bench | case | measure | at most | median | CPUs | |\n");
            text.push_str("|---|---|---|---|---|---|---|\n");
        }
        let (median, cpus) = (middle.spread.median, middle.basis.name());
        let met = match middle.basis {
            Basis::Only(Label::Busy) => "not known: measure again",
            _ if median <= most => "met",
            _ => "missed",
        };
        let median = short(median);
        let _ =
            writeln!(text, "| {bench} | {case} | {measure} | {most} | {median} | {cpus} | {met} |");
    }
    text
}

fn labels(record: &Record) -> String {
    let mut turns: Vec<_> = record.rows.iter().filter(|row| row.label != Label::Alone).collect();
    turns.dedup_by_key(|row| (&row.bench, row.round, row.probes.map(f64::to_bits)));
    let of = |label| turns.iter().filter(|row| row.label == label).count();
    let mut probes: Vec<f64> = turns.iter().map(|row| row.probes[1]).collect();
    probes.sort_by(f64::total_cmp);
    let at = |part: usize| probes.get((probes.len().max(1) - 1) * part / 2).copied().unwrap_or(0.0);
    format!(
        "Turns: {} near, {} far, {} during which the CPUs moved, {} busy. Probes: median {:.0} ns, \
         from {:.0} to {:.0}.",
        of(Label::Near),
        of(Label::Far),
        of(Label::Moved),
        of(Label::Busy),
        at(1),
        at(0),
        at(2)
    )
}
