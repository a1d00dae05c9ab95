//! Where the slots of a ring lie: on the heap, or in whole pages of their own.
//!
//! **Why pages.** The system places memory by the page, on the node of the thread that first
//! touches it or where it was told before that. A ring on the heap shares its pages with anything,
//! and they may have been touched long ago. In pages of its own a ring can be bound to a NUMA
//! node, and lie in huge pages, so that a walk around it costs few entries of the TLB.
//!
//! ```text
//!  map, nobody may touch it   region: readable and writable,   bind     touch each page,      ask what
//!  (one page more than the →  aligned to its pages; huge    →  (the  →  then write the     →  was had
//!  region at either end)      pages are asked for              caller)  sequence numbers
//! ```
//!
//! **Promised.** The caller binds before any page exists, and sees the region in whole: the slots,
//! rounded up to pages. Every page that holds a slot exists when the ring does, touched by the
//! calling thread, so what no binding decides is decided by where that thread ran. The page at
//! either end belongs to the region alone and can never be touched, so a policy or an advice for
//! one region is never another's. Access costs what it costs on the heap. A forked child has a copy
//! of it, as of everything. No refusal is a failure but one: that there is no memory.
//!
//! **Not promised.** That pages stay: the system may move them between nodes (`numa_balancing`),
//! swap them out, and split huge ones or join small ones later. That they are absent for `bind` in
//! a process that locks all memory as it is mapped (`mlockall(MCL_FUTURE)`): its pages exist by
//! then, and only moving them helps. That a leak checker finds what lies in a ring: it looks for
//! pointers on the heap. Off Unix, in the models and under Miri there is the heap alone; `bind` is
//! not called then.
//!
//! **Alignment.** Items that want more than a page have it in both places. A ring in huge pages is
//! rounded up to 2 MiB, however small: it was asked for, and it is one entry of the TLB. If they
//! are refused the part that was rounded up is never touched, so it costs no memory.
//!
//! **Checked by** `tests/pages.rs`, which sees a page touched too late in optimised builds only: an
//! unoptimised one writes all of a slot, also what is not initialised.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::panic::UnwindSafe;
use std::ptr::NonNull;

use super::region::{self, Region};
use super::slot::Slot;
use super::{CapacityError, Ring, first_lap};

/// What kind of pages to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Huge pages of 2 MiB; the ring is rounded up to whole ones.
    pub huge: bool,
}

/// What kind of memory a ring was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(any(not(unix), loom, shuttle, miri), allow(dead_code))]
pub enum Got {
    /// Pages of its own, of the usual size, as asked.
    Pages,
    /// Huge pages, all of it, as asked.
    HugePages,
    /// Less than was asked for, and why. Usual pages, or some huge ones; the heap where there is
    /// nothing else.
    Refused(String),
}

/// How a ring came to lie in its pages.
#[derive(Debug)]
pub struct InPages<R> {
    /// What the caller's binding returned; `None` on the heap, where there is nothing to bind.
    pub bound: Option<R>,
    /// What it lies in.
    pub got: Got,
}

/// Owns the slots of a ring.
pub(super) struct Slots<T> {
    slots: NonNull<[Slot<T>]>,
    /// Where they lie; `None` is the heap.
    region: Option<Region>,
    _owns: PhantomData<Box<[Slot<T>]>>,
}

// As of a box: whoever sees these slots after a panic owns them.
impl<T: UnwindSafe> UnwindSafe for Slots<T> {}

impl<T> Slots<T> {
    /// `capacity` slots on the heap, each made from its index; `None` if there is no memory.
    pub(super) fn on_heap(capacity: usize, make: impl Fn(usize) -> Slot<T>) -> Option<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity).ok()?;
        slots.extend((0..capacity).map(make));
        let slots = NonNull::from(Box::leak(slots.into_boxed_slice()));
        Some(Self { slots, region: None, _owns: PhantomData })
    }

    /// As [`on_heap`](Self::on_heap), in pages of their own, which are shown to `bind` before they
    /// are touched.
    pub(super) fn in_pages<R>(
        capacity: usize,
        pages: Pages,
        bind: impl FnOnce(&[MaybeUninit<u8>]) -> R,
        make: impl Fn(usize) -> Slot<T>,
    ) -> Option<(Self, InPages<R>)> {
        if !region::KNOWN {
            let got = Got::Refused("on the heap: no pages of one's own are known here".into());
            return Some((Self::on_heap(capacity, make)?, InPages { bound: None, got }));
        }
        let used = capacity.checked_mul(size_of::<Slot<T>>())?;
        let mut region = Region::new(used, align_of::<Slot<T>>(), pages.huge)?;
        let asked = if pages.huge { region.ask_for_huge_pages() } else { Ok(()) };
        let bound = Some(bind(region.untouched()));
        let slots = region.fill(capacity, make)?;
        let got = match asked {
            Ok(()) if pages.huge => region.huge_pages(),
            Ok(()) => Got::Pages,
            Err(refused) => Got::Refused(refused),
        };
        let slots = Self { slots, region: Some(region), _owns: PhantomData };
        Some((slots, InPages { bound, got }))
    }
}

impl<T> Deref for Slots<T> {
    type Target = [Slot<T>];

    #[inline(always)]
    fn deref(&self) -> &[Slot<T>] {
        // SAFETY: both constructors made the slots, all of them, in memory that is theirs until
        // `drop`; nobody has `&mut` to them before that, as this is the only way to them.
        unsafe { self.slots.as_ref() }
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        if self.region.is_none() {
            // SAFETY: `on_heap` leaked this box, nothing else has it, and it is not used again.
            drop(unsafe { Box::from_raw(self.slots.as_ptr()) });
        }
        // A region goes with the field. Slots there have nothing to drop: see `slot`.
    }
}

impl<T> Ring<T> {
    /// A ring of `capacity` slots in pages of its own; see the module documentation. `bind` is
    /// shown them before they are touched: this thread touches them once it returns.
    ///
    /// # Errors
    /// As [`new`](Self::new). Huge pages that cannot be had are no error.
    pub(crate) fn in_pages<R>(
        capacity: usize,
        pages: Pages,
        bind: impl FnOnce(&[MaybeUninit<u8>]) -> R,
    ) -> Result<(Self, InPages<R>), CapacityError> {
        Self::in_pages_starting_at(capacity, 0, pages, bind)
    }

    pub(super) fn in_pages_starting_at<R>(
        capacity: usize,
        position: u64,
        pages: Pages,
        bind: impl FnOnce(&[MaybeUninit<u8>]) -> R,
    ) -> Result<(Self, InPages<R>), CapacityError> {
        let first_lap = first_lap(capacity, position)?;
        let (slots, placed) = Slots::in_pages(capacity, pages, bind, first_lap)
            .ok_or(CapacityError { got: capacity, memory: true })?;
        Ok((Self::over(slots, position), placed))
    }
}
