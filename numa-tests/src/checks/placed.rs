//! Where the engine's flushers run, and where its rings and batches lie.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluicegate::placement::{Pin, Placement, RingPlacement, Shards};
use sluicegate::{Batch, Batcher, Builder, Flusher, Sink, WriteContext, WriteError};

use super::engine::{builder, spawn};
use crate::expect::{self, Usable, same, usize_of};
use crate::machine::{Machine, Set, write};
use crate::report::Found;
use crate::rings::{self, Found as Ring};
use crate::sinks::{LIMIT, Sinks, add};
use crate::sys::{self, Pages};

const ROUND: u64 = 2_048;
/// Of a batch. `malloc` takes so much from the system, untouched: see `sys::map_from`.
const LARGE: usize = 256 << 10;
/// A batch is as large as its ring: 512 KiB of slots.
const DEPTH: u64 = 32_768;
/// 2 MiB of slots.
const HUGE_DEPTH: u64 = 131_072;
/// Items of a cache line for each node, and room for them.
const WIDE: u64 = 16_000;
const DEPTH_WIDE: usize = 2_048;
/// Rounds of batches until every flusher has surely written.
const ROUNDS: u64 = 200;

/// Every flusher, two for each ring, pinned to its node or to a core of it, was seen there only, and
/// so were the pages of its batches, small as they are.
pub fn flushers(machine: &Machine) -> Found {
    let usable = expect::usable(machine, &machine.cpus());
    let mut said = Vec::new();
    for pin in [Pin::Node, Pin::Core] {
        let sinks = Sinks::default();
        let batcher = spawn(&sinks, builder().flushers(2).pin(pin))?;
        let placement = batcher.placement();
        expect::placement(&placement, &usable)?;
        let items = until_all_write(&batcher, &placement, &sinks)?;
        expect::all_written(&batcher.shutdown(LIMIT), items)?;
        expect::flushers(&placement, &sinks, true)?;
        expect::own_shards(&placement, &sinks)?;
        let batches: u64 = sinks.flushers().values().map(|written| written.batches).sum();
        let pages = batches_lie(&placement, &sinks, &|node| node)?;
        said.push(format!("pin {}: {batches} batches in {pages} pages", pin.name()));
    }
    Ok(format!("two for each node, where they are to be; {}", said.join("; ")))
}

/// Items of a cache line, in batches smaller than a page, of a page, and of several, in the memory
/// that the allocator has at hand: all lie near their flushers. When one node has all the work and
/// the others steal, too.
pub fn batches(machine: &Machine) -> Found {
    let usable = expect::usable(machine, &machine.cpus());
    let mut said = Vec::new();
    for batch in [8, 64, 500] {
        for steal in [false, true] {
            let (pages, stolen) = wide(&usable, batch, steal)
                .map_err(|why| format!("batches of {batch}, steal {steal}: {why}"))?;
            said.push(format!("of {batch}: {pages} pages, {stolen} stolen"));
        }
    }
    Ok(said.join("; "))
}

/// Returns how many pages such batches had, and how many batches were stolen.
fn wide(usable: &Usable, batch: usize, steal: bool) -> Result<(usize, u64), String> {
    let sinks = WideSinks::default();
    let opened = sinks.clone();
    let builder = Batcher::<Wide>::builder().flushers(2).max_batch_size(batch).steal(steal);
    let builder = builder.max_batch_delay(Duration::from_millis(5)).queue_depth(DEPTH_WIDE);
    let spawned = builder.spawn(move |_: Flusher| Ok::<_, String>(opened.clone()));
    let batcher = spawned.map_err(|error| format!("no engine: {error}"))?;
    expect::placement(&batcher.placement(), usable)?;
    let nodes = if steal { 1 } else { usable.len() };
    let producers: Vec<_> = (0..nodes).filter_map(|node| batcher.producer_on(node)).collect();
    for number in 0..WIDE {
        for producer in &producers {
            let added = producer.add_timeout([number; 8], LIMIT);
            added.map_err(|error| format!("item {number}: {error}"))?;
        }
    }
    let (placement, report) = (batcher.placement(), batcher.shutdown(LIMIT));
    same("clean", report.is_clean() && report.tally.flushed_ok == WIDE * nodes as u64, true)?;
    same("refused", placement.refused().collect::<Vec<_>>(), Vec::new())?;
    let mut all = 0;
    for (flusher, pages) in sinks.pages() {
        let node = node_of(&placement, placement.plan.flushers()[flusher].ring)?;
        pages.prove_node(node).map_err(|why| format!("flusher {flusher}: {why}"))?;
        all += pages.on.values().sum::<usize>();
    }
    Ok((all, report.stats.stolen))
}

/// An item of a cache line.
type Wide = [u64; 8];

/// Sinks that look where their batches lie.
#[derive(Clone, Default)]
struct WideSinks(Arc<Mutex<BTreeMap<usize, Pages>>>);

impl WideSinks {
    fn pages(&self) -> BTreeMap<usize, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink<Wide> for WideSinks {
    fn write(&mut self, batch: &Batch<Wide>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let items = batch.items();
        let pages = sys::node_of_pages(items.as_ptr().cast(), size_of_val(items));
        let pages = pages.map_err(|error| WriteError::permanent(format!("move_pages: {error}")))?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(cx.flusher().index).or_default().merge(&pages);
        Ok(())
    }
}

/// Gives each node items, again and again, until each of its flushers has had a batch. The first
/// producers are those of the nodes. Returns how many items it were.
fn until_all_write(
    batcher: &Batcher<u64>,
    placement: &Placement,
    sinks: &Sinks,
) -> Result<u64, String> {
    let nodes = placement.plan.nodes().len();
    let producers: Vec<_> = (0..nodes).filter_map(|node| batcher.producer_on(node)).collect();
    for round in 0..ROUNDS {
        for (node, producer) in producers.iter().enumerate() {
            add(producer, node, round * ROUND..(round + 1) * ROUND)?;
        }
        if sinks.flushers().values().all(|written| written.batches > 0) {
            return Ok((round + 1) * ROUND * nodes as u64);
        }
    }
    Err(format!("after {ROUNDS} rounds some flusher has not written"))
}

/// Every page of each ring lies where it is to lie, and of each large batch on the node of its
/// flusher. Two rings for each node, so that a node's producers take turns.
pub fn pages(machine: &Machine) -> Found {
    let usable = expect::usable(machine, &machine.cpus());
    lie(builder().shards(Shards::PerNode(2)), DEPTH, &usable, &|node| node)
}

/// The same in huge pages. A kernel with so little memory has to be told to give them.
pub fn huge_pages(machine: &Machine) -> Found {
    write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")?;
    let usable = expect::usable(machine, &machine.cpus());
    lie(builder().huge_pages(true), HUGE_DEPTH, &usable, &|node| node)
}

/// In a process that may use a part of the machine: `near` says where what belongs to a node lies.
pub fn near_memory(usable: &Usable, near: &dyn Fn(usize) -> usize) -> Found {
    lie(builder(), DEPTH, usable, near)
}

/// Fills each ring twice, then looks for it in memory. `memory` says for each node where what
/// belongs to it lies.
fn lie(
    builder: Builder<u64>,
    depth: u64,
    usable: &Usable,
    memory: &dyn Fn(usize) -> usize,
) -> Found {
    sys::map_from(LARGE / 2).map_err(|error| format!("mallopt: {error}"))?;
    let sinks = Sinks::default();
    let batch = LARGE / size_of::<u64>();
    let builder = builder.queue_depth(as_usize(depth)?).max_batch_size(batch).max_batch_delay(None);
    let batcher = spawn(&sinks, builder)?;
    let placement = batcher.placement();
    expect::placement(&placement, usable)?;
    let is_as_asked = |ring: &RingPlacement| ring.huge_pages == (depth == HUGE_DEPTH);
    same("huge pages as asked", placement.rings.iter().all(is_as_asked), true)?;
    for (maker, ring) in placement.plan.rings().iter().enumerate() {
        let producer = batcher.producer_on(ring.node).ok_or("no producer for a node")?;
        add(&producer, maker, 0..depth * 2)?;
    }
    batcher.flush(LIMIT).map_err(|error| format!("flush: {error}"))?;
    let found = rings::find(as_usize(depth)?)?;
    let rings = placement.rings.len();
    expect::all_written(&batcher.shutdown(LIMIT), rings as u64 * depth * 2)?;
    expect::flushers(&placement, &sinks, true)?;
    let ring_pages = rings_lie(&found, &placement, &sinks, memory)?;
    let batch_pages = batches_lie(&placement, &sinks, memory)?;
    Ok(format!("{ring_pages} pages of {rings} rings, {batch_pages} of batches"))
}

/// Each ring was found, and lies where the report says; returns how many pages they have.
fn rings_lie(
    found: &[Ring],
    placement: &Placement,
    sinks: &Sinks,
    memory: &dyn Fn(usize) -> usize,
) -> Result<usize, String> {
    same("rings found", found.len(), placement.rings.len())?;
    let mut shards = Set::new();
    for ring in found {
        let shard = shard_of(ring, sinks)?;
        shards.insert(shard);
        let node = memory(node_of(placement, shard)?);
        let of = |why| format!("ring {shard} ({}): {why}", placement.rings[shard].why);
        same("got", placement.rings[shard].got.map(usize_of), Some(node)).map_err(of)?;
        ring.pages.prove_node(node).map_err(of)?;
        same("policy of nodes", &ring.policy.nodes, &Set::from([node])).map_err(of)?;
    }
    same("rings told apart", shards.len(), found.len())?;
    Ok(found.iter().flat_map(|ring| ring.pages.on.values()).sum())
}

/// The batches of each flusher lie near it; returns how many pages they had.
fn batches_lie(
    placement: &Placement,
    sinks: &Sinks,
    memory: &dyn Fn(usize) -> usize,
) -> Result<usize, String> {
    let mut all = 0;
    for (flusher, written) in sinks.flushers() {
        let node = memory(node_of(placement, placement.plan.flushers()[flusher].ring)?);
        let proved = written.pages.prove_node(node);
        proved.map_err(|why| format!("batches of flusher {flusher}: {why}"))?;
        all += written.pages.on.values().sum::<usize>();
    }
    Ok(all)
}

/// The number of the node of a ring.
fn node_of(placement: &Placement, ring: usize) -> Result<usize, String> {
    let node = placement.plan.nodes()[placement.plan.rings()[ring].node].os_index;
    node.map(usize_of).ok_or_else(|| format!("ring {ring} is of no node"))
}

/// Whose ring it is: all its items came from one shard.
fn shard_of(ring: &Ring, sinks: &Sinks) -> Result<usize, String> {
    let shards = ring.makers.iter().flat_map(|&maker| sinks.arrived(maker).by_shard.into_keys());
    let shards: Set = shards.collect();
    match shards.first() {
        Some(&shard) if shards.len() == 1 => Ok(shard),
        _ => Err(format!("items of shards {shards:?} in one ring")),
    }
}

fn as_usize(number: u64) -> Result<usize, String> {
    number.try_into().map_err(|_| format!("{number} is too large"))
}
