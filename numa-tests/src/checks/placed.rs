//! Where the engine's flushers run, and where its rings and batches lie.

use sluicegate::placement::{Pin, Placement, RingPlacement, Shards};
use sluicegate::{Batcher, Builder};

use super::engine::{builder, spawn};
use crate::expect::{self, Usable, same, usize_of};
use crate::machine::{Machine, Set, write};
use crate::report::Found;
use crate::rings::{self, Found as Ring};
use crate::sinks::{LIMIT, Sinks, add};
use crate::sys;

const ROUND: u64 = 2_048;
/// Of a batch. `malloc` takes so much from the system, untouched: see `sys::map_from`.
const LARGE: usize = 256 << 10;
/// A batch is as large as its ring: 512 KiB of slots.
const DEPTH: u64 = 32_768;
/// 2 MiB of slots.
const HUGE_DEPTH: u64 = 131_072;
/// Rounds of batches until every flusher has surely written.
const ROUNDS: u64 = 200;

/// Every flusher, two for each ring, pinned to its node or to a core of it, was seen there only.
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
        let far = small_batches_elsewhere(&placement, &sinks);
        said.push(format!("pin {}: {batches} batches{far}", pin.name()));
    }
    Ok(format!("two for each node, where they are to be; {}", said.join("; ")))
}

/// No check, only told: small batches lie in pages that the allocator has, and another thread may
/// have touched those.
fn small_batches_elsewhere(placement: &Placement, sinks: &Sinks) -> String {
    let plan = &placement.plan;
    let (mut all, mut far) = (0, 0);
    for (flusher, written) in sinks.flushers() {
        let own = plan.nodes()[plan.flushers()[flusher].node].os_index.map(usize_of);
        for (&node, pages) in &written.pages.on {
            all += pages;
            far += if Some(node) == own { 0 } else { *pages };
        }
    }
    format!(", {far} of {all} pages of small batches elsewhere")
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
