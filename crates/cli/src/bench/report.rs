//! The figures, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};
use sluicegate::placement::Machine;

use super::args::{AddArg, BenchArgs};
use super::figures::Quartiles;
use super::load::Sample;
use super::{Case, cpus};
use crate::units::grouped;

/// What figures depend on.
pub(super) struct Host {
    pub(super) cpus: usize,
    /// None where they are not known.
    pub(super) nodes: Option<usize>,
    pub(super) backend: String,
    /// Whether the system says that it runs on a hypervisor.
    pub(super) is_virtual: bool,
}

impl Host {
    pub(super) fn new(machine: &Machine) -> Self {
        let nodes = machine.topology.nodes().len();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpus: cpus(),
            nodes: (nodes > 0).then_some(nodes),
            backend: machine.backend.clone(),
            is_virtual: cpuinfo.split_whitespace().any(|flag| flag == "hypervisor"),
        }
    }
}

pub(super) struct Report<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) host: Host,
    pub(super) cases: Vec<Case>,
    /// Nanoseconds, one before each round and one after the last.
    pub(super) probes: Vec<f64>,
    pub(super) notes: Vec<String>,
}

/// The figures of a case over all rounds.
struct Figures {
    items_per_second: Quartiles,
    add_ns: Quartiles,
    /// Items per second by those of the first setting, of the same round and number of producers.
    ratio: Quartiles,
}

impl Report<'_> {
    fn figures(&self, case: &Case) -> Figures {
        let is_first = |other: &&Case| other.setting == 0 && other.producers == case.producers;
        let first = self.cases.iter().find(is_first).map_or(&[][..], |first| &first.samples);
        let ratio = |(sample, first): (&Sample, &Sample)| {
            sample.items_per_second() / first.items_per_second()
        };
        Figures {
            items_per_second: Quartiles::of(case.samples.iter().map(Sample::items_per_second)),
            add_ns: Quartiles::of(case.samples.iter().map(Sample::add_ns)),
            ratio: Quartiles::of(case.samples.iter().zip(first).map(ratio)),
        }
    }

    fn name(&self, case: &Case) -> String {
        self.args.compare.get(case.setting).map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_head(out)?;
        let names = self.cases.iter().map(|case| self.name(case).len());
        let width = names.max().unwrap_or(0).max("placement".len());
        writeln!(
            out,
            "\n{:>9}  {:width$}  {:>9}  {:^15}  {:>7}  {:>6}    quartiles",
            "producers", "placement", "M items/s", "quartiles", "add ns", "ratio"
        )?;
        for case in &self.cases {
            let Figures { items_per_second: rate, add_ns, ratio } = self.figures(case);
            let [q1, median, q3] = [rate.q1, rate.median, rate.q3].map(|rate| rate / 1e6);
            writeln!(
                out,
                "{:>9}  {:width$}  {median:>9.2}  {q1:>6.2} – {q3:<6.2}  {:>7.1}  {:>6.3}  \
                 {:.3} – {:.3}",
                case.producers,
                self.name(case),
                add_ns.median,
                ratio.median,
                ratio.q1,
                ratio.q3
            )?;
        }
        self.write_foot(out)
    }

    fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
        let BenchArgs { rounds, flushers, max_batch_size, .. } = *self.args;
        let nodes = match self.host.nodes {
            Some(1) => "1 NUMA node".to_owned(),
            Some(nodes) => format!("{nodes} NUMA nodes"),
            None => "NUMA nodes not known".to_owned(),
        };
        let rounds = if rounds == 1 { "1 round".to_owned() } else { format!("{rounds} rounds") };
        let length = match self.args.items {
            Some(items) => format!("{} items", grouped(items)),
            None => format!("{} s", self.args.seconds.as_secs_f64()),
        };
        let how = match self.args.add {
            AddArg::Single => "one by one",
            AddArg::Many => "in runs of 64",
        };
        let (cpus, backend) = (self.host.cpus, &self.host.backend);
        let (bytes, depth) = (self.args.item_bytes.count(), grouped(self.args.queue_depth as u64));
        writeln!(out, "{cpus} CPUs, {nodes} (backend: {backend})")?;
        writeln!(
            out,
            "{rounds} of {length}; items of {bytes} bytes, added {how}; batches of \
             {max_batch_size}; rings of {depth}, each with its flushers ({flushers})"
        )
    }

    fn write_foot(&self, out: &mut impl Write) -> io::Result<()> {
        let (low, high) = range(&self.probes);
        let samples = self.cases.iter().flat_map(|case| &case.samples);
        let written = grouped(samples.map(|sample| sample.written).sum());
        let first = self.args.compare.first().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "\nratio: items/s by those of {first} in the same round; more is faster")?;
        writeln!(out, "probe: {low:.0} – {high:.0} ns for a cache line to another CPU and back")?;
        writeln!(out, "check: {written} items written, every count and sum as added")?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        out.flush()
    }

    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let (low, high) = range(&self.probes);
        let results: Vec<Value> = self.cases.iter().map(|case| self.case_json(case)).collect();
        let settings: Vec<Value> =
            self.args.compare.iter().map(|setting| setting.to_json()).collect();
        let report = json!({
            "machine": {
                "cpus": self.host.cpus,
                "nodes": self.host.nodes,
                "backend": self.host.backend,
                "virtual": self.host.is_virtual,
            },
            "options": self.options_json(),
            "placements": settings,
            "results": results,
            "probe_ns": { "min": low, "max": high, "all": self.probes },
            "notes": self.notes,
        });
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
        out.flush()
    }

    fn options_json(&self) -> Value {
        let args = self.args;
        json!({
            "producers": args.producers,
            "flushers": args.flushers,
            "rounds": args.rounds,
            "seconds": args.items.is_none().then_some(args.seconds.as_secs_f64()),
            "items": args.items,
            "add": args.add,
            "item_bytes": args.item_bytes.count(),
            "max_batch_size": args.max_batch_size,
            "queue_depth": args.queue_depth,
        })
    }

    fn case_json(&self, case: &Case) -> Value {
        let Figures { items_per_second, add_ns, ratio } = self.figures(case);
        let rounds = case.samples.iter().map(|sample| {
            json!({
                "items": sample.items,
                "seconds": sample.took.as_secs_f64(),
                "items_per_second": sample.items_per_second(),
                "add_ns": sample.add_ns(),
                "added": sample.added,
                "written": sample.written,
                "refused": sample.refused,
            })
        });
        json!({
            "producers": case.producers,
            "placement": self.name(case),
            "items_per_second": items_per_second,
            "add_ns": add_ns,
            "ratio": ratio,
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }
}

/// The least and the most.
pub(super) fn range(figures: &[f64]) -> (f64, f64) {
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    (low, figures.iter().copied().fold(0.0, f64::max))
}
