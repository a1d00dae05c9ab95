//! Pages from the system: mapped, then asked to be huge, then touched, in this order.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::memory::Got;
use super::slot::Slot;

#[cfg(test)]
#[cfg(all(unix, not(any(loom, shuttle, miri))))]
pub use imp::page_size;
pub use imp::{KNOWN, Region};

#[cfg(all(unix, not(any(loom, shuttle, miri))))]
mod imp {
    use std::ptr;

    use super::{Got, MaybeUninit, NonNull, Slot};
    use crate::ring::huge;

    /// Whether regions can be had.
    pub const KNOWN: bool = true;

    /// Whole pages that belong to nobody else, zeroed. Given back when dropped.
    ///
    /// They lie inside a map that is larger by a page or more at either end, which nobody can touch.
    pub struct Region {
        map: NonNull<u8>,
        map_len: usize,
        start: NonNull<u8>,
        len: usize,
    }

    impl Region {
        /// At least `used` bytes, rounded up to whole pages and aligned to them and to `align`, a
        /// power of two; `None` if the system has no memory.
        pub fn new(used: usize, align: usize, huge: bool) -> Option<Self> {
            let page = page_size()?;
            let unit = if huge { page.max(huge::SIZE) } else { page };
            let align = align.max(unit);
            let len = used.checked_next_multiple_of(unit)?;
            let map_len = len.checked_add(align)?.checked_add(page)?;
            isize::try_from(map_len).ok()?;
            let (access, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANON);
            // SAFETY: a new map at an address that the system chooses touches no memory in use.
            let map = unsafe { libc::mmap(ptr::null_mut(), map_len, access, flags, -1, 0) };
            if map == libc::MAP_FAILED {
                return None;
            }
            let map = NonNull::new(map.cast::<u8>())?;
            let before = (map.addr().get() + page).next_multiple_of(align) - map.addr().get();
            // SAFETY: the map begins at a page, so `before` is at most `align`, and a page or more
            // is left behind the region: all of it lies within the map.
            let start = unsafe { map.add(before) };
            let region = Self { map, map_len, start, len };
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: these are whole pages of the map made above, which nobody knows of yet.
            let refused = unsafe { libc::mprotect(start.as_ptr().cast(), len, access) };
            (refused == 0).then_some(region)
        }

        /// Asks for huge pages: for what is not touched yet. An error says why there are none.
        #[cfg(target_os = "linux")]
        pub fn ask_for_huge_pages(&self) -> Result<(), String> {
            huge::fits()?;
            let start = self.start.as_ptr().cast();
            // SAFETY: the advice changes how the region's own pages are backed, not what is in them.
            let refused = unsafe { libc::madvise(start, self.len, libc::MADV_HUGEPAGE) };
            if refused == 0 {
                Ok(())
            } else {
                Err(format!("no huge pages: {}", std::io::Error::last_os_error()))
            }
        }

        #[cfg(not(target_os = "linux"))]
        pub fn ask_for_huge_pages(&self) -> Result<(), String> {
            Err("no huge pages: they are asked for on Linux alone".into())
        }

        /// Which pages were had, after huge ones were asked for and touched.
        pub fn huge_pages(&self) -> Got {
            let start = self.start.addr().get();
            match huge::look(start..start + self.len) {
                Ok(()) => Got::HugePages,
                Err(refused) => Got::Refused(refused),
            }
        }

        /// The region in whole, for who binds it.
        pub fn untouched(&self) -> &[MaybeUninit<u8>] {
            let bytes = NonNull::slice_from_raw_parts(self.start.cast(), self.len);
            // SAFETY: `new` made these bytes readable, they stay mapped as long as `self`, and
            // nobody writes them while it is borrowed: `fill` wants it mutably.
            unsafe { bytes.as_ref() }
        }

        /// Touches each page that `count` slots need, then makes them; `None` if they do not fit.
        /// Whoever uses them keeps the region.
        pub fn fill<T>(
            &mut self,
            count: usize,
            make: impl Fn(usize) -> Slot<T>,
        ) -> Option<NonNull<[Slot<T>]>> {
            let slots = self.start.cast::<Slot<T>>();
            let used = count.checked_mul(size_of::<Slot<T>>())?;
            if used > self.len || !slots.is_aligned() {
                return None;
            }
            // A slot may be larger than a page, and of most of it nothing is written below.
            for at in (0..used).step_by(page_size()?) {
                // SAFETY: `at` is below `used`, so within the region, which is writable and, being
                // borrowed mutably, looked at by nobody. Volatile, lest the write be left out.
                unsafe { self.start.add(at).write_volatile(0) };
            }
            for index in 0..count {
                // SAFETY: `count` slots fit, aligned, as was checked. As above for the rest.
                unsafe { slots.add(index).write(make(index)) };
            }
            Some(NonNull::slice_from_raw_parts(slots, count))
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: `new` mapped exactly this and nobody unmapped it. Slots in it are gone: their
            // owner keeps the region and drops it last. A refusal (too many maps to split one more)
            // leaves it mapped, which harms nobody.
            let _ = unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
        }
    }

    /// Bytes of a page.
    pub fn page_size() -> Option<usize> {
        // SAFETY: takes no pointer and changes nothing.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|size| size.is_power_of_two())
    }
}

#[cfg(not(all(unix, not(any(loom, shuttle, miri)))))]
mod imp {
    use super::{Got, MaybeUninit, NonNull, Slot};

    pub const KNOWN: bool = false;

    pub enum Region {}

    impl Region {
        pub fn new(_: usize, _: usize, _: bool) -> Option<Self> {
            None
        }

        pub fn ask_for_huge_pages(&self) -> Result<(), String> {
            match *self {}
        }

        pub fn huge_pages(&self) -> Got {
            match *self {}
        }

        pub fn untouched(&self) -> &[MaybeUninit<u8>] {
            match *self {}
        }

        pub fn fill<T>(
            &mut self,
            _: usize,
            _: impl Fn(usize) -> Slot<T>,
        ) -> Option<NonNull<[Slot<T>]>> {
            match *self {}
        }
    }
}
