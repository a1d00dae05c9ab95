//! The memory budget: bytes that the items in the engine may hold together.
//!
//! Bytes are charged before an item is pushed and released when it has met its fate. A [`Charge`]
//! gives back what was not kept, so a refused, cancelled or panicking add leaks nothing. The sum
//! never exceeds the budget, not even for a moment: charging is one compare-and-swap.
//!
//! **No lost wake-up.** Whoever gives bytes back does what a flusher does after freeing slots (N1
//! to N4 of the wait list): it lowers `used`, then announces. That holds for a charge that was taken
//! back as well: another producer may have been refused because of it, and sleeps.
//!
//! **Nobody keeps others awake.** A charge that is taken back wakes. So the ring is looked at before
//! bytes are charged (`Shard::charge_run`), or those who wait for a slot would wake each other.
//!
//! **Somebody writes.** Who is short presses for the items in the ring (`Wake::press`); who pushes
//! items that were charged before presses for them if somebody waits (`Shard::pushed_charged`).
//!
//! `used` orders nothing but itself: Relaxed. What a waiter sees of it is ordered by the fences of
//! the wait list.
//!
//! **Checked by** `loom-tests/tests/loom.rs`, module `budget`.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::list::WaitList;
use crate::sync::{AtomicU64, Ordering, mutated};

/// A number of bytes, and how many of them are in use.
pub struct Budget {
    max: u64,
    used: CachePadded<AtomicU64>,
}

/// Bytes taken from a budget; given back when dropped, unless kept.
#[must_use = "bytes that are not kept are given back at once"]
pub struct Charge<'b> {
    budget: &'b Budget,
    rooms: &'b [Arc<WaitList>],
    bytes: u64,
}

impl Budget {
    pub fn new(max: u64) -> Self {
        Self { max, used: CachePadded::new(AtomicU64::new(0)) }
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// Bytes in use a moment ago.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Charges the longest run from the front of `items` (bytes each) that fits; `None` if not even
    /// the first does. Who waits for the rest sleeps in one of `rooms`.
    pub fn charge_run<'b>(
        &'b self,
        rooms: &'b [Arc<WaitList>],
        items: &[u64],
    ) -> Option<(usize, Charge<'b>)> {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let free = self.max.saturating_sub(used);
            let (mut count, mut bytes) = (0, 0_u64);
            for item in items {
                match bytes.checked_add(*item) {
                    Some(sum) if sum <= free => (count, bytes) = (count + 1, sum),
                    _ => break,
                }
            }
            if count == 0 {
                return None;
            }
            let (next, order) = (used + bytes, Ordering::Relaxed);
            match self.used.compare_exchange_weak(used, next, order, order) {
                Ok(_) => return Some((count, Charge { budget: self, rooms, bytes })),
                Err(now) => used = now,
            }
        }
    }

    /// Gives bytes back that were kept, and tells who waits for them.
    pub fn release(&self, rooms: &[Arc<WaitList>], bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more bytes given back than were charged");
        if !mutated("release_no_notify") {
            rooms.iter().for_each(|room| room.freed(usize::MAX));
        }
    }
}

impl Charge<'_> {
    /// The item is in: its fate will release them.
    pub fn keep(self) {
        let bytes = self.bytes;
        self.keep_part(bytes);
    }

    /// Only so many were needed.
    pub fn keep_part(mut self, bytes: u64) {
        self.bytes -= bytes;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if !mutated("charge_leaks") {
            self.budget.release(self.rooms, self.bytes);
        }
    }
}
