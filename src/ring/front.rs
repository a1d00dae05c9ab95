//! Runs of items: taken from the front of a vector, one after the other, without moving the rest
//! each time; and what was popped in one.

use std::ptr;

/// The items of a vector that were not taken yet. Dropping it leaves just those in the vector, in
/// their order.
pub struct Front<'v, T> {
    items: &'v mut Vec<T>,
    /// Where the vector's items lay; its own length is 0 meanwhile, so that no item can be seen
    /// twice.
    len: usize,
    taken: usize,
}

/// A run that was popped: where it began, and how many items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub position: u64,
    pub count: usize,
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

    /// Those that are left.
    pub fn items(&self) -> &[T] {
        // SAFETY: `taken <= len`, within the buffer.
        let rest = unsafe { self.items.as_ptr().add(self.taken) };
        // SAFETY: from `taken` to `len` the items are initialised, and ours until they are taken,
        // which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(rest, self.len()) }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The next item, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: there is one: the vector is not empty.
        unsafe { self.take(1) }.next()
    }

    /// Puts the item that was taken last back in its place.
    pub fn put_back(&mut self, item: T) {
        if self.taken == 0 {
            return drop(item); // not reached: nothing was taken
        }
        self.taken -= 1;
        // SAFETY: within the buffer, and empty: the item that was here was moved out by `take`.
        let place = unsafe { self.items.as_mut_ptr().add(self.taken) };
        // SAFETY: as above; `taken` has moved back, so it is the vector's again.
        unsafe { ptr::write(place, item) };
    }

    /// The next `count` items. Those that are not asked for are leaked.
    ///
    /// # Safety
    /// There must be so many: `len()` is not less.
    #[inline(always)]
    pub(super) unsafe fn take(&mut self, count: usize) -> impl Iterator<Item = T> {
        debug_assert!(count <= self.len());
        // SAFETY: `taken <= len`, within the buffer.
        let from = unsafe { self.items.as_ptr().add(self.taken) };
        self.taken += count;
        (0..count).map(move |index| {
            // SAFETY: so many are left, says the caller, so it lies within the buffer.
            let item = unsafe { from.add(index) };
            // SAFETY: initialised, and read once: `taken` has moved past all of them, and `drop`
            // keeps only what follows.
            unsafe { ptr::read(item) }
        })
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
