//! Promise: in the steady state nothing is allocated, per item or batch; for an item with an ack
//! its one cell. Counted by the allocator itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{LONG, null_sinks};
use std::time::Duration;

use sluicegate::{Ack, Batcher, Builder, Mode, Tracked, WhenFull};

/// The system's allocator, with a count of calls that give memory.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it is; counting touches no memory that is
// given out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ITEMS: u64 = 100_000;
const RUN: u64 = 64;
const ACKED: u64 = 64 * 100;
/// Buffers grow to their size when chance first asks for it: a batch that met a full queue, a
/// producer that had to wait.
const ROUNDS_MAX: u64 = 100;

/// How items are added.
#[derive(Clone, Copy, Debug)]
enum Way {
    Add,
    AddMany,
    /// Through an owned ring, which is smaller than the queue, so that its owner waits now and then.
    OwnedAdd,
    OwnedAddMany,
}

/// Sends `ITEMS` items through, again and again until the whole process has allocated nothing
/// meanwhile. Returns the allocations of the last round, and its batches. What is allocated per
/// item or batch is allocated in every round.
fn measure<M: Mode<u64>>(builder: Builder<u64, M>, way: Way) -> (u64, u64) {
    let is_owned = matches!(way, Way::OwnedAdd | Way::OwnedAddMany);
    let builder = builder.owned_depth(is_owned.then_some(256));
    let batcher = builder.max_batch_size(128).queue_depth(1024).spawn(null_sinks()).unwrap();
    let producer = batcher.producer();
    let mut owner = batcher.owned_producer().ok();
    assert_eq!(owner.is_some(), is_owned);
    let mut run = Vec::with_capacity(usize::try_from(RUN).unwrap());
    let mut feed = |items: u64| {
        for item in 0..items / RUN {
            let numbers = item * RUN..(item + 1) * RUN;
            // Under `DropOldest` it may be `Full`, while a flusher is stopped freeing slots.
            match (way, &mut owner) {
                (Way::Add, _) => numbers.for_each(|number| _ = producer.add(number)),
                (Way::OwnedAdd, Some(owner)) => numbers.for_each(|number| _ = owner.add(number)),
                (Way::OwnedAddMany, Some(owner)) => {
                    run.extend(numbers);
                    let _ = owner.add_many(&mut run);
                }
                _ => {
                    run.extend(numbers);
                    let _ = producer.add_many(&mut run);
                }
            }
            run.clear();
        }
        batcher.flush(LONG).unwrap();
    };
    let (mut made, mut batches) = (u64::MAX, 0);
    for _ in 0..ROUNDS_MAX {
        let (start, before) = (ALLOCATIONS.load(Ordering::Relaxed), batcher.stats().batches);
        let copies = ALLOCATIONS.load(Ordering::Relaxed) - start; // a snapshot copies histograms
        feed(ITEMS);
        made = ALLOCATIONS.load(Ordering::Relaxed) - start - copies;
        batches = batcher.stats().batches - before;
        if made == 0 {
            break;
        }
    }
    let tally = batcher.shutdown(LONG).tally;
    assert_eq!(tally.flushed_ok + tally.dropped, tally.enqueued);
    (made, batches)
}

/// As [`measure`], with an ack for each item: the fewest allocations of a round.
fn measure_acked(builder: Builder<u64, Tracked>) -> u64 {
    let batcher = builder.max_batch_size(128).queue_depth(1024).spawn(null_sinks()).unwrap();
    let producer = batcher.producer();
    let mut acks: Vec<Ack<u64>> = Vec::with_capacity(usize::try_from(RUN).unwrap());
    let mut least = u64::MAX;
    for _ in 0..ROUNDS_MAX {
        let start = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..ACKED / RUN {
            acks.extend((0..RUN).map(|item| producer.add_with_ack(item).unwrap()));
            batcher.flush(LONG).unwrap();
            assert!(acks.drain(..).all(|ack| ack.wait().is_ok()));
        }
        least = least.min(ALLOCATIONS.load(Ordering::Relaxed) - start);
        if least <= ACKED {
            break;
        }
    }
    assert!(batcher.shutdown(LONG).is_clean());
    least
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn nothing_is_allocated_per_item_or_batch() {
    // Of the test's own: that the counter counts.
    let start = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(Box::new(1_u64)));
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - start, 1);

    let weighed = || Batcher::builder().weight(|_: &u64| 8);
    for flushers in [1, 2] {
        for way in [Way::Add, Way::AddMany, Way::OwnedAdd, Way::OwnedAddMany] {
            for (name, builder) in [
                ("plain", Batcher::builder()),
                ("weight", weighed()),
                ("bytes", weighed().max_batch_bytes(500)),
            ] {
                let (made, batches) = measure(builder.flushers(flushers), way);
                println!(
                    "{made} allocations for {ITEMS} items in {batches} batches: \
                     {way:?}, {name}, flushers {flushers}"
                );
                assert!(batches >= ITEMS / 128);
                assert_eq!(made, 0, "in the steady state");
            }
            for (name, builder) in [
                ("acks", Batcher::builder().with_acks()),
                ("queue bytes", weighed().max_queue_bytes(4_000)),
                ("age", Batcher::builder().max_age(Duration::from_secs(3600))),
                ("oldest", Batcher::builder().when_full(WhenFull::DropOldest).with_acks()),
            ] {
                let (made, _) = measure(builder.flushers(flushers), way);
                println!("{made} allocations: {way:?}, tracked for {name}, flushers {flushers}");
                assert_eq!(made, 0, "in the steady state, plain items with tags for {name}");
            }
        }
        let made = measure_acked(Batcher::builder().with_acks().flushers(flushers));
        println!("{made} allocations for {ACKED} items with acks, flushers {flushers}");
        assert!(made <= ACKED, "{made} allocations: one per item, for its ack");
    }
}
