//! Bounds the bytes between the reader and the sink.
//!
//! The queue counts items, and an item may be as long as `--max-line-bytes`: 8,192 items of 1 MiB
//! would be 8 GiB. So long items are paid for out of a budget, and dropping one, wherever that
//! happens, pays it back. Short ones are bounded well enough by their number, and pay nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// For the long items in hand; the short ones, all together, get as much again.
const BUDGET: u64 = 48 << 20;

#[derive(Debug)]
pub(crate) struct Gate {
    budget: u64,
    /// The longest item that travels free.
    free: u64,
    in_hand: AtomicU64,
    waiting: Mutex<bool>,
    room: Condvar,
}

/// An item's share of the budget, until dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    gate: Arc<Gate>,
    bytes: u64,
}

impl Gate {
    /// `items` is the most that can be in hand at a time. The budget takes at least the batches
    /// that may be in hand, so that waiting for room always ends: a batch is closed by its bytes
    /// before the gate is.
    pub(crate) fn new(items: usize, batches: usize, max_batch_bytes: u64) -> Self {
        Self {
            budget: max_batch_bytes.saturating_mul(batches as u64).max(BUDGET),
            free: BUDGET / (items as u64).max(1),
            in_hand: AtomicU64::new(0),
            waiting: Mutex::new(false),
            room: Condvar::new(),
        }
    }

    /// Whether an item of this size has to pay.
    pub(crate) fn charges(&self, bytes: usize) -> bool {
        bytes as u64 > self.free
    }

    /// Pays for an item; none if there was no room within `patience`. One thread pays at a time.
    pub(crate) fn pay(self: &Arc<Self>, bytes: usize, patience: Duration) -> Option<Box<Charge>> {
        let bytes = bytes as u64;
        let full = || self.in_hand.load(Relaxed) >= self.budget;
        if full() {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            *waiting = true;
            let (mut waiting, timeout) = self
                .room
                .wait_timeout_while(waiting, patience, |_| full())
                .unwrap_or_else(PoisonError::into_inner);
            *waiting = false;
            if timeout.timed_out() {
                return None;
            }
        }
        self.in_hand.fetch_add(bytes, Relaxed);
        Some(Box::new(Charge { gate: Arc::clone(self), bytes }))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gate.in_hand.fetch_sub(self.bytes, Relaxed);
        // Only long items come here, so a lock for each is cheap beside their bytes.
        if *self.gate.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            self.gate.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_items_are_free_and_long_ones_wait_for_room() {
        let gate = Arc::new(Gate::new(8_192, 3, 1 << 20));
        assert!(!gate.charges(1_000));
        assert!(gate.charges(1 << 20));
        let paid: Vec<_> = std::iter::from_fn(|| gate.pay(1 << 20, Duration::ZERO)).collect();
        assert_eq!(paid.len() as u64, BUDGET >> 20);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| gate.pay(1 << 20, Duration::from_secs(600)));
            drop(paid);
            assert!(waiter.join().unwrap().is_some());
        });
        assert_eq!(gate.in_hand.load(Relaxed), 0);
    }
}
