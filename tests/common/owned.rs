//! Engines that have owned rings.

use sluicegate::{Batcher, Builder, OwnedProducer};

use super::{Gate, Log};

/// Rings of so many slots, and nothing closes a batch but its size and a flush.
pub fn owned(depth: usize) -> Builder<u64> {
    Batcher::builder().owned_depth(depth).max_batch_delay(None)
}

/// An engine whose sink holds 0, which was added by the producer: nobody takes anything out.
#[track_caller]
pub fn held(builder: Builder<u64>) -> (Batcher<u64>, OwnedProducer<u64>, Gate, Log<u64>) {
    let (gate, log) = (Gate::new(), Log::new());
    let batcher = builder.max_batch_size(1).spawn(log.gated(&gate)).unwrap();
    let mut producer = batcher.owned_producer().unwrap();
    producer.add(0).unwrap();
    gate.wait_for(1);
    (batcher, producer, gate, log)
}
