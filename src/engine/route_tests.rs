//! A producer that follows its thread goes with the first item that may go, not earlier.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::placement::{Cpu, NumaNode, Pin, Topology, seem_on_cpu};
use crate::sink::from_fn;
use crate::sync::Mutex;
use crate::{Batch, Home, WriteContext, WriteError};

const LONG: Duration = Duration::from_secs(60);
/// So many adds that a producer has looked at its CPU.
const LOOKED: u64 = 100;

/// What was written, with its shard. Who has the lock keeps the sinks from returning.
type Written = Arc<Mutex<Vec<(usize, u64)>>>;

/// Two nodes, with CPU 0 and CPU 1.
fn engine(written: &Written) -> Batcher<u64> {
    let topology = Topology::builder()
        .nodes([NumaNode::new(0, None), NumaNode::new(1, None)])
        .cpus([Cpu::new(0, 0), Cpu::new(1, 1)])
        .build();
    let written = Arc::clone(written);
    let sink = move |_| {
        let written = Arc::clone(&written);
        Ok::<_, WriteError>(from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
            written.lock().unwrap().extend(batch.iter().map(|item| (batch.shard(), *item)));
            Ok(())
        }))
    };
    let builder = Batcher::builder().topology(topology).pin(Pin::None).home(Home::FollowCpu);
    builder.spawn(sink).unwrap()
}

#[test]
fn a_producer_follows_its_thread_with_the_first_item_that_overtakes_none() {
    let written = Written::default();
    let batcher = engine(&written);
    seem_on_cpu(0);
    let producer = batcher.producer();
    producer.add(0).unwrap();
    batcher.flush(LONG).unwrap();
    seem_on_cpu(1);
    let held = written.lock().unwrap(); // no write returns
    (1..LOOKED).for_each(|item| producer.add(item).unwrap());
    assert_eq!(producer.home(), Some(0), "what it has added is not written");
    drop(held);
    batcher.flush(LONG).unwrap();
    producer.add(LOOKED).unwrap();
    assert_eq!(producer.home(), Some(1), "nothing is in the way");
    seem_on_cpu(None);
    assert!(batcher.shutdown(LONG).is_clean());
    let expected: Vec<(usize, u64)> =
        (0..=LOOKED).map(|item| (usize::from(item == LOOKED), item)).collect();
    assert_eq!(*written.lock().unwrap(), expected);
}
