//! Takes items from the front of a vector, run by run, without moving the rest each time.

use std::ptr;

/// The items of a vector that were not taken yet. Dropping it leaves just those in the vector, in
/// their order.
pub(crate) struct Front<'v, T> {
    items: &'v mut Vec<T>,
    /// Where the vector's items lay; its own length is 0 meanwhile, so that no item can be seen
    /// twice.
    len: usize,
    taken: usize,
}

impl<'v, T> Front<'v, T> {
    pub fn new(items: &'v mut Vec<T>) -> Self {
        let len = items.len();
        // SAFETY: 0 is within any capacity; the items are ours to take or to give back in `drop`.
        unsafe { items.set_len(0) };
        Self { items, len, taken: 0 }
    }

    /// How many are left.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len - self.taken
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The next item.
    ///
    /// # Safety
    /// There must be one: `len()` is not 0.
    #[inline(always)]
    pub(super) unsafe fn take(&mut self) -> T {
        debug_assert!(self.taken < self.len);
        // SAFETY: `taken < len`, says the caller, so it lies within the vector's buffer.
        let item = unsafe { self.items.as_ptr().add(self.taken) };
        self.taken += 1;
        // SAFETY: initialised, and read once: `taken` has moved past it, and `drop` keeps only what
        // follows.
        unsafe { ptr::read(item) }
    }
}

impl<T> Drop for Front<'_, T> {
    fn drop(&mut self) {
        let left = self.len();
        let base = self.items.as_mut_ptr();
        // SAFETY: `taken <= len`, within the buffer.
        let rest = unsafe { base.add(self.taken) };
        // SAFETY: both ranges lie in the vector's buffer, and `copy` lets them overlap. Afterwards
        // the `left` items at the front are the ones that were not taken.
        unsafe { ptr::copy(rest, base, left) };
        // SAFETY: as just said, the first `left` items are initialised and owned by nobody else.
        unsafe { self.items.set_len(left) };
    }
}
