//! What the machine can do at most: words from one core to another through a shared buffer, handed
//! over 4 KiB at a time. No queue for single items does as well; near it is near what there is.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::name;
use crate::contestant::{Item, Kind, Outcome, Peer, Work};
use crate::race::{race, wait_until};

/// A word is 8 bytes: 256 KiB, which an L2 cache holds.
const WORDS: usize = 32 * 1024;
const HAND_OVER: u64 = 512;

/// One producer, no slots, no sequence numbers.
pub struct Stream;

impl Peer for Stream {
    const NAME: &'static str = name::STREAM;
    const PACKAGE: Option<&'static str> = None;
    const KIND: Kind = Kind::Limit;
    const SHARED: bool = false;
    const USAGE: &'static str = "words through 256 KiB, 4 KiB at a time; at most one producer";

    fn takes(work: &Work) -> bool {
        work.shape.producers == 1
    }

    fn run<T: Item>(work: &Work) -> Outcome {
        let buffer: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let [written, read] = [(); 2].map(|()| CachePadded::new(AtomicU64::new(0)));
        let (items, step) = (work.items, HAND_OVER / T::WORDS as u64);
        let slots = (WORDS / T::WORDS) as u64;
        // The cells of these items, which lie within one hand-over.
        let cells = |from: u64, to: u64| {
            let [from, count] = [from % slots, to - from].map(|n| usize::try_from(n).unwrap_or(0));
            &buffer[from * T::WORDS..(from + count) * T::WORDS]
        };
        let next = |from: u64, end: u64| end.min(from - from % step + step);
        // S1 pairs with S2: what is written is seen. S3 pairs with S4: what is read may be
        // overwritten.
        let adder = |share: Range<u64>| {
            let mut from = share.start;
            while from < share.end {
                let to = next(from, share.end);
                wait_until(|| to - read.load(Ordering::Acquire) <= slots); // S4
                for (number, cells) in (from..to).zip(cells(from, to).chunks_exact(T::WORDS)) {
                    let item = T::of(number);
                    for (word, cell) in cells.iter().enumerate() {
                        cell.store(item.word(word), Ordering::Relaxed);
                    }
                }
                written.store(to, Ordering::Release); // S1
                from = to;
            }
        };
        let (mut count, mut sum) = (0, 0_u64);
        let outcome = race::<T, _>(work, vec![adder], |_| {
            while count < items {
                wait_until(|| written.load(Ordering::Acquire) > count); // S2
                let to = next(count, items);
                for cell in cells(count, to) {
                    sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
                }
                count = to;
                read.store(count, Ordering::Release); // S3
            }
        });
        Outcome { count, sum: Some(sum), ..outcome }
    }
}
