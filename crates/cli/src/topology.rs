//! `sluicegate topology`: the machine as the engine sees it, and what it would put where.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use sluicegate::placement::{Machine, Options, Plan, Shards, plan};

use crate::placement::{PinArg, count_parser, too_many};
use crate::run::{Failure, or_enough};

#[derive(Clone, Debug, Args)]
pub(crate) struct TopologyArgs {
    /// Where flushers may run.
    #[arg(long, value_enum, default_value_t = PinArg::Node)]
    pub(crate) pin: PinArg,
    /// Flushers of each ring.
    #[arg(long, value_name = "THREADS", default_value_t = 1, value_parser = count_parser())]
    pub(crate) flushers: usize,
    /// Rings in all, dealt out to the nodes; with fewer of them than nodes the last nodes get none.
    #[arg(long, value_name = "RINGS", conflicts_with = "shards_per_node")]
    #[arg(value_parser = count_parser())]
    pub(crate) shards: Option<usize>,
    /// Rings of each node.
    #[arg(long, value_name = "RINGS", default_value_t = 1, value_parser = count_parser())]
    pub(crate) shards_per_node: usize,
    /// One JSON object instead of a drawing.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The fields of the JSON object, in this order.
#[derive(Serialize)]
struct Shown<'a> {
    backend: &'a str,
    notes: &'a [String],
    /// As of `Plan::to_json`, where it is called `topology`.
    machine: Value,
    /// As of `Plan::to_json`, without the machine.
    plan: Map<String, Value>,
}

/// Shows machine and plan; returns the exit status.
pub(crate) fn command(args: &TopologyArgs) -> Result<u8, Failure> {
    let shards = args.shards.map_or(Shards::PerNode(args.shards_per_node), Shards::Total);
    if too_many(shards, args.flushers) {
        return Err(Failure::usage("--flushers", "with so many rings these are over 1024 threads"));
    }
    let machine = Machine::detect();
    let options = Options::default().pin(args.pin.into()).shards(shards).flushers(args.flushers);
    let plan = plan(&machine.topology, &options);
    let mut out = io::stdout().lock();
    let shown = if args.json {
        as_json(&machine, &plan, &mut out)
    } else {
        draw(&machine, &plan, &mut out)
    };
    or_enough(shown.map(|()| 0).map_err(Failure::Io))
}

fn draw(machine: &Machine, plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "backend: {}", machine.backend)?;
    machine.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
    write!(out, "\n{plan}")?;
    out.flush()
}

fn as_json(machine: &Machine, plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let mut plan: Map<String, Value> = serde_json::from_str(&plan.to_json())?;
    let topology = plan.shift_remove("topology").unwrap_or_default();
    let Machine { backend, notes, .. } = machine;
    serde_json::to_writer(&mut *out, &Shown { backend, notes, machine: topology, plan })?;
    writeln!(out)?;
    out.flush()
}
