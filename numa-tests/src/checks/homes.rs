//! Producers find their home: the node of the CPU that they are made on.

use std::thread;

use sluicegate::{Batcher, Home, Producer};

use super::engine::{builder, spawn};
use crate::expect::{self, same};
use crate::machine::{Machine, Set};
use crate::proof::pinned;
use crate::report::Found;
use crate::sinks::{Arrived, LIMIT, Sinks, add};
use crate::sys;

const SHARE: u64 = 1_500;
/// More than a producer adds between two looks at its CPU, and less than a batch.
const BURST: u64 = 200;
const BURSTS: u64 = 24;
/// Producers that are moved at the same time.
const MOVED: usize = 3;

/// On each CPU in turn: a producer made there, a clone of it, one for another node with a clone,
/// and one whose thread moves. The items of each are written by its home's flushers, in order.
pub fn homes(machine: &Machine) -> Found {
    let sinks = Sinks::default();
    let batcher = spawn(&sinks, builder())?;
    let placement = batcher.placement();
    expect::placement(&placement, &expect::usable(machine, &machine.cpus()))?;
    let mut makers = 0;
    for cpu in machine.cpus() {
        let node = machine.node_of(cpu).ok_or("a CPU without a node")?;
        let homes = on_cpu(&batcher, machine, (cpu, node), makers)?;
        batcher.flush(LIMIT).map_err(|error| format!("flush: {error}"))?;
        for home in homes {
            let seen = sinks.arrived(makers);
            came_from(&seen, &home, &batcher)
                .map_err(|why| format!("producer {makers} on CPU {cpu}: {why}"))?;
            makers += 1;
        }
    }
    if batcher.producer_on(placement.plan.nodes().len()).is_some() {
        return Err("a producer for a node that is not there".to_owned());
    }
    let cpus = machine.cpus().len();
    let items = cpus as u64 * 6 * SHARE;
    expect::all_written(&batcher.shutdown(LIMIT), items)?;
    expect::flushers(&placement, &sinks, true)?;
    Ok(format!("{makers} producers on {cpus} CPUs, their {items} items written at their homes"))
}

/// The producers of one CPU; returns their homes, one after the other.
fn on_cpu(
    batcher: &Batcher<u64>,
    machine: &Machine,
    (cpu, node): (usize, usize),
    first: usize,
) -> Result<[Vec<usize>; 5], String> {
    let other = machine.other(node);
    let (here, there) = (expect::index(batcher, node)?, expect::index(batcher, other)?);
    let works = || {
        let producer = batcher.producer();
        stays(&producer, here, first)?;
        stays(&producer.clone(), here, first + 1)?;
        let elsewhere = batcher.producer_on(there).ok_or("no producer for a node")?;
        stays(&elsewhere, there, first + 2)?;
        stays(&elsewhere.clone(), there, first + 3)?;
        let mut producer = batcher.producer();
        stays(&producer, here, first + 4)?;
        move_to(&machine.nodes[&other])?;
        same("home before rehome", producer.home(), Some(here))?;
        producer.rehome(LIMIT).map_err(|error| format!("rehome: {error}"))?;
        same("home after rehome", producer.home(), Some(there))?;
        add(&producer, first + 4, SHARE..2 * SHARE)
    };
    pinned(&Set::from([cpu]), works).map_err(|why| format!("on CPU {cpu}: {why}"))?;
    let (here, there) = (vec![here], vec![there]);
    let moved = [here.clone(), there.clone()].concat();
    Ok([here.clone(), here, there.clone(), there, moved])
}

/// It says that its home is that node, before and after it has added its share.
fn stays(producer: &Producer<u64>, home: usize, maker: usize) -> Result<(), String> {
    same("home", producer.home(), Some(home))?;
    add(producer, maker, 0..SHARE)?;
    same("home", producer.home(), Some(home))
}

/// Each of these nodes has written a share, and all came in order.
fn came_from(seen: &Arrived, homes: &[usize], batcher: &Batcher<u64>) -> Result<(), String> {
    seen.expect_in_order(SHARE * homes.len() as u64)?;
    let rings = batcher.placement().plan;
    let by_node = seen.by_shard.iter().map(|(&shard, &items)| (rings.rings()[shard].node, items));
    let mut wanted: Vec<(usize, u64)> = homes.iter().map(|&home| (home, SHARE)).collect();
    wanted.sort_unstable();
    same("items by node", by_node.collect(), wanted)
}

/// `Home::FollowCpu`: a producer whose thread moves follows it with the first item for which all
/// before it are written, and not earlier.
pub fn follow(machine: &Machine) -> Found {
    let sinks = Sinks::default();
    let batcher = spawn(&sinks, builder().home(Home::FollowCpu))?;
    let placement = batcher.placement();
    expect::placement(&placement, &expect::usable(machine, &machine.cpus()))?;
    let nodes: Vec<usize> = machine.nodes_with_cpus().map(|(node, _)| node).collect();
    for (maker, &node) in nodes.iter().enumerate() {
        pinned(&machine.nodes[&node], || held(&batcher, &sinks, machine, node, maker))
            .map_err(|why| format!("from node {node}: {why}"))?;
    }
    thread::scope(|scope| {
        let (batcher, nodes) = (&batcher, &nodes);
        let work =
            |moved: usize| move || moving(batcher, machine, nodes, nodes.len() + moved, moved);
        let threads: Vec<_> = (0..MOVED).map(|moved| scope.spawn(work(moved))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<(), String>>| {
            thread.join().unwrap_or_else(|_| Err("a producer panicked".to_owned()))
        };
        threads.into_iter().try_for_each(join)
    })?;
    let bursts = nodes.len() as u64 * HELD + MOVED as u64 * BURSTS * BURST;
    expect::all_written(&batcher.shutdown(LIMIT), bursts)?;
    expect::flushers(&placement, &sinks, true)?;
    for maker in 0..nodes.len() + MOVED {
        let items = if maker < nodes.len() { HELD } else { BURSTS * BURST };
        let seen = sinks.arrived(maker);
        let in_order = seen.expect_in_order(items);
        in_order.map_err(|why| format!("producer {maker}: {why}"))?;
        same("it wrote from several shards", seen.by_shard.len() > 1, true)?;
    }
    Ok(format!("{bursts} items of {} producers that moved, in order", nodes.len() + MOVED))
}

/// What `held` adds.
const HELD: u64 = 4 * BURST;

/// While the sink of its home does not return, nothing that the producer has added is written, so
/// it has to stay; once it is, the next item takes it along.
fn held(
    batcher: &Batcher<u64>,
    sinks: &Sinks,
    machine: &Machine,
    node: usize,
    maker: usize,
) -> Result<(), String> {
    let other = machine.other(node);
    let (here, there) = (expect::index(batcher, node)?, expect::index(batcher, other)?);
    let flusher = batcher.placement().plan.nodes()[here].flushers.start;
    let producer = batcher.producer();
    same("home", producer.home(), Some(here))?;
    sinks.hold(flusher);
    let stayed = add(&producer, maker, 0..BURST)
        .and_then(|()| sinks.wait_for_held(flusher, u64::MAX).map(drop))
        .and_then(|()| move_to(&machine.nodes[&other]))
        .and_then(|()| add(&producer, maker, BURST..3 * BURST))
        .and_then(|()| same("home while the sink is held", producer.home(), Some(here)));
    sinks.release();
    stayed?;
    batcher.flush(LIMIT).map_err(|error| format!("flush: {error}"))?;
    add(&producer, maker, 3 * BURST..3 * BURST + 1)?;
    same("home after the first item", producer.home(), Some(there))?;
    add(&producer, maker, 3 * BURST + 1..HELD)
}

/// A producer whose thread goes from node to node while others do, too. After every third burst it
/// waits until all is written: then it must follow.
fn moving(
    batcher: &Batcher<u64>,
    machine: &Machine,
    nodes: &[usize],
    maker: usize,
    first: usize,
) -> Result<(), String> {
    let producer = batcher.producer();
    let node = nodes.iter().cycle().skip(first);
    for (burst, &node) in (0..BURSTS).zip(node) {
        move_to(&machine.nodes[&node])?;
        let numbers = burst * BURST..(burst + 1) * BURST;
        let last = numbers.end - 1;
        add(&producer, maker, numbers.start..last)?;
        let waits = burst % 3 == 0; // not always at the same node
        if waits {
            batcher.flush(LIMIT).map_err(|error| format!("flush: {error}"))?;
        }
        add(&producer, maker, last..numbers.end)?;
        if waits {
            same("home", producer.home(), Some(expect::index(batcher, node)?))?;
        }
    }
    Ok(())
}

/// From now on the thread runs there.
fn move_to(cpus: &Set) -> Result<(), String> {
    sys::set_affinity(cpus).map_err(|error| format!("moving to CPUs {cpus:?}: {error}"))
}
