//! A node that has too much to do: its items overflow to the nearest ring, or others write its
//! batches. In both cases its one flusher is held in its sink, so nothing is left to chance.

use sluicegate::{Batcher, Builder, Overflow, Producer, Stats};

use super::engine::{builder, spawn};
use crate::expect::{self, same};
use crate::machine::Machine;
use crate::report::Found;
use crate::sinks::{Arrived, LIMIT, Sinks, add};

const BATCH: usize = 256;
const DEPTH: usize = 1_024;
/// What is added when the flusher is held and the ring behind it is full.
const MORE: usize = 512;

/// `Overflow::Nearest`: what finds no room goes to the ring of the nearest node, all of it, and is
/// counted.
pub fn overflow(machine: &Machine) -> Found {
    each_node(
        machine,
        |builder| builder.overflow(Overflow::Nearest),
        |busy, seen, items, stats| {
            same("counted as overflowed", stats.overflowed, MORE as u64)?;
            let near = busy.batcher.placement().plan.nearest(busy.node).first().copied();
            let near = near.ok_or("no node is near")?;
            same("items by shard", seen.by_shard.into_iter().collect(), {
                let mut by_shard = vec![(busy.node, items - MORE as u64), (near, MORE as u64)];
                by_shard.sort_unstable();
                by_shard
            })
        },
    )
}

/// `steal`: while the flusher is held, those of other nodes write what it can not, and that is
/// counted. Without them there would be no room for the last items.
pub fn steal(machine: &Machine) -> Found {
    each_node(
        machine,
        |builder| builder.steal(true),
        |busy, seen, items, stats| {
            let own = seen.by_flusher.get(&busy.node).copied().unwrap_or(0);
            let stolen = items - own;
            same("items by shard", seen.by_shard.into_iter().collect(), vec![(busy.node, items)])?;
            if stolen < MORE as u64 {
                return Err(format!("others wrote {stolen} items, not {MORE}"));
            }
            same("counted as stolen", stats.stolen, stolen / BATCH as u64)
        },
    )
}

/// An engine of which one node is busy. Shards, flushers and nodes have the same numbers.
struct Busy {
    batcher: Batcher<u64>,
    node: usize,
    sinks: Sinks,
    producer: Producer<u64>,
}

/// Each node in turn is the busy one; `check` sees what has come of its items.
fn each_node(
    machine: &Machine,
    configure: impl Fn(Builder<u64>) -> Builder<u64>,
    check: impl Fn(&Busy, Arrived, u64, &Stats) -> Result<(), String>,
) -> Found {
    let usable = expect::usable(machine, &machine.cpus());
    let mut pages = 0;
    for node in 0..usable.len() {
        let sinks = Sinks::default();
        let builder = builder().max_batch_size(BATCH).max_batch_delay(None).queue_depth(DEPTH);
        let batcher = spawn(&sinks, configure(builder))?;
        let placement = batcher.placement();
        expect::placement(&placement, &usable)?;
        let producer = batcher.producer_on(node).ok_or("no producer for a node")?;
        let busy = Busy { batcher, node, sinks, producer };
        let of = |why| format!("node {node} is busy: {why}");
        let filled = busy.fill();
        busy.sinks.release();
        let items = filled.map_err(of)?;
        busy.batcher.flush(LIMIT).map_err(|error| format!("flush: {error}"))?;
        let seen = busy.sinks.arrived(0);
        seen.expect_each_once(items).map_err(of)?;
        check(&busy, seen, items, &busy.batcher.stats()).map_err(of)?;
        expect::all_written(&busy.batcher.shutdown(LIMIT), items)?;
        expect::flushers(&placement, &busy.sinks, false)?;
        pages += expect::batches(&placement, &busy.sinks).map_err(of)?;
    }
    let nodes = usable.len();
    Ok(format!("{MORE} items too many for each of {nodes} nodes in turn; {pages} pages of batches"))
}

impl Busy {
    /// Has the flusher held, fills the ring, and adds more than it has room for. Returns how many
    /// items it were. A batch may be stolen before the flusher has begun to wait for its first.
    fn fill(&self) -> Result<u64, String> {
        let mut items = 0;
        let mut more = |number: usize| {
            let begin = items;
            items += number as u64;
            add(&self.producer, 0, begin..items).map(|()| items)
        };
        self.sinks.hold(self.node);
        while !self.sinks.wait_for_held(self.node, more(BATCH)?)? {}
        more(DEPTH)?;
        more(MORE)
    }
}
