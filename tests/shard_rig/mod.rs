//! Engines of several shards: two nodes that are not at hand, and sinks that write down which shard a
//! batch is of.

#![allow(dead_code, clippy::unwrap_used)] // each file of tests uses its part

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sluicegate::placement::{Cpu, NumaNode, Topology};
use sluicegate::{
    Batch, Batcher, Builder, Flusher, Mode, Pin, SinkFactory, WriteContext, WriteError, sink,
};

use crate::common::Gate;

/// So many nodes of two CPUs each, of which only the first has memory: nothing is bound.
pub fn nodes(number: u32) -> Topology {
    Topology::builder()
        .nodes((0..number).map(|node| NumaNode::new(node, (node == 0).then_some(1 << 30))))
        .cpus((0..2 * number).map(|cpu| Cpu::new(cpu, cpu / 2)))
        .build()
}

/// One shard on each of two nodes that both have memory, and nothing is pinned. The second is not at
/// hand, so what is to lie there is refused.
pub fn two_memories() -> Builder<u64> {
    let nodes = [0, 1_000].map(|node| NumaNode::new(node, 1 << 30));
    let cpus = (0..4).map(|cpu| Cpu::new(cpu, if cpu < 2 { 0 } else { 1_000 }));
    let topology = Topology::builder().nodes(nodes).cpus(cpus).build();
    Batcher::builder().topology(topology).pin(Pin::None)
}

/// One shard on each of two nodes, and nothing is pinned.
pub fn two_nodes() -> Builder<u64> {
    Batcher::builder().topology(nodes(2)).pin(Pin::None)
}

/// A batch as a sink saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub shard: usize,
    pub flusher: usize,
    pub id: u64,
    pub items: Vec<u64>,
}

/// The batches that sinks saw, in the order of their calls.
#[derive(Clone, Default)]
pub struct Books(Arc<Mutex<Vec<Written>>>);

impl Books {
    pub fn record(&self, batch: &Batch<u64>, flusher: usize) {
        assert!(!batch.is_empty(), "an empty batch was written");
        let (shard, id, items) = (batch.shard(), batch.id().get(), batch.to_vec());
        self.0.lock().unwrap().push(Written { shard, flusher, id, items });
    }

    pub fn batches(&self) -> Vec<Written> {
        self.0.lock().unwrap().clone()
    }

    pub fn items(&self) -> Vec<u64> {
        self.batches().into_iter().flat_map(|batch| batch.items).collect()
    }

    /// Those of one shard.
    pub fn of(&self, shard: usize) -> Vec<u64> {
        let batches = self.batches().into_iter().filter(|batch| batch.shard == shard);
        batches.flat_map(|batch| batch.items).collect()
    }

    /// In which shard each item was.
    pub fn shards(&self) -> HashMap<u64, usize> {
        let batches = self.batches().into_iter();
        batches
            .flat_map(|batch| batch.items.into_iter().map(move |item| (item, batch.shard)))
            .collect()
    }

    /// Sinks that write down everything; each then comes to the gate of its flusher, if there is one.
    pub fn gated(&self, gates: &[Gate]) -> impl SinkFactory<u64> + use<> {
        let (books, gates) = (self.clone(), gates.to_vec());
        move |flusher: Flusher| {
            let (books, gate) = (books.clone(), gates.get(flusher.index).cloned());
            let each = move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
                books.record(batch, cx.flusher().index);
                gate.iter().for_each(Gate::pass);
                Ok::<_, WriteError>(())
            };
            Ok::<_, WriteError>(sink::from_fn(each))
        }
    }
}

/// Gates of so many flushers.
pub fn gates(number: usize) -> Vec<Gate> {
    (0..number).map(|_| Gate::new()).collect()
}

/// A producer of each shard of an engine whose nodes have one each.
#[track_caller]
pub fn homes<M: Mode<u64>>(batcher: &Batcher<u64, M>) -> [sluicegate::Producer<u64, M>; 2] {
    [0, 1].map(|node| batcher.producer_on(node).unwrap())
}
