//! One place of the ring.

use std::mem::MaybeUninit;

use crate::sync::{AtomicU64, UnsafeCell};

/// An item and the sequence number that says whose it is. Nothing else: every byte here is paid for
/// by every item.
pub(super) struct Slot<T> {
    pub(super) seq: AtomicU64,
    pub(super) item: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Slot<T> {
    /// An empty slot whose turn comes at `word`.
    pub(super) fn free_for(word: u64) -> Self {
        Self { seq: AtomicU64::new(word), item: UnsafeCell::new(MaybeUninit::uninit()) }
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Slot<u64>>() == 16, "a slot is its item and eight bytes");
const _: () = assert!(!std::mem::needs_drop::<Slot<String>>(), "what is in a slot is the ring's");
