//! Rings in pages of their own: that they do what rings on the heap do, and where they lie.

use std::cell::Cell;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::panic::UnwindSafe;
use std::ptr;

use super::super::region::{Region, page_size};
use super::super::{Got, InPages, Pages, huge};
use super::*;

const USUAL: Pages = Pages { huge: false };
const HUGE: Pages = Pages { huge: true };

#[derive(Debug, PartialEq)]
#[repr(align(64))]
struct Line(u64);

#[repr(align(16384))]
struct Wider(u8);

fn page() -> usize {
    page_size().unwrap()
}

fn in_pages<T>(capacity: usize) -> Ring<T> {
    in_pages_starting_at(capacity, 0)
}

fn in_pages_starting_at<T>(capacity: usize, position: u64) -> Ring<T> {
    let (ring, placed) =
        Ring::in_pages_starting_at(capacity, position, USUAL, |bytes| bytes.len()).unwrap();
    assert_eq!(placed.got, Got::Pages);
    assert!(placed.bound.unwrap() >= size_of_val(&*ring.slots));
    ring
}

/// Which of the region's pages are in memory; `None` if it is not mapped.
fn present(start: *const u8, len: usize) -> Option<Vec<bool>> {
    let mut present = vec![0_u8; len.div_ceil(page())];
    // SAFETY: the kernel writes a byte for each page to the vector, which has as many, and touches
    // none of the pages it looks at.
    let refused = unsafe { libc::mincore(start.cast_mut().cast(), len, present.as_mut_ptr()) };
    (refused == 0).then(|| present.iter().map(|byte| byte & 1 == 1).collect())
}

#[test]
fn it_does_what_a_bounded_deque_does() {
    let run = |(capacity, position, ops): (usize, u64, Vec<Op>)| {
        agree(&in_pages_starting_at(capacity, position), &ops, |n| n, |n| *n)?;
        agree(&in_pages_starting_at(capacity, position), &ops, Box::new, |n| **n)?;
        agree(&in_pages_starting_at(capacity, position), &ops, Line, |item| {
            assert_eq!(ptr::from_ref(item) as usize % 64, 0, "moved to an unaligned place");
            item.0
        })?;
        agree(&in_pages_starting_at(capacity, position), &ops, |n| [n; 600], |item| item[599])
    };
    runner(100).run(&(capacity(), position(), ops()), run).unwrap();
}

#[test]
fn every_call_returns_what_it_returns_on_the_heap() {
    let run = |(capacity, position, ops): (usize, u64, Vec<Op>)| {
        let heap = Ring::starting_at(capacity, position).unwrap();
        let pages = in_pages_starting_at(capacity, position);
        let mut number = 0_u64;
        for op in ops {
            number += 100;
            let play = |ring: &Ring<u64>| {
                let mut items = (number..number + 80).collect();
                match op {
                    Op::Push => format!("{:?}", ring.try_push(number)),
                    Op::PushRun(count) => {
                        Vec::truncate(&mut items, count);
                        format!("{:?} {items:?}", ring.try_push_run(&mut items))
                    }
                    Op::Pop(max) => format!("{:?} {items:?}", ring.try_pop_run(&mut items, max)),
                    Op::Close => ring.close().to_string(),
                }
            };
            prop_assert_eq!(play(&heap), play(&pages));
            prop_assert_eq!(format!("{:?}", &heap), format!("{:?}", &pages));
        }
        Ok(())
    };
    runner(200).run(&(capacity(), position(), ops()), run).unwrap();
}

/// Makes rings of all capacities up to `max` and looks where they lie, before and after.
fn lies_well<T>(max: usize, pages: Pages) {
    let unit = if pages.huge { huge::SIZE.max(page()) } else { page() };
    let mut capacity = CAPACITY_MIN;
    while capacity <= max {
        let bind = |bytes: &[MaybeUninit<u8>]| {
            let start = bytes.as_ptr().cast::<u8>();
            let before = present(start, bytes.len()).expect("it is mapped");
            assert!(!before.contains(&true), "touched before it was bound");
            (start, bytes.len())
        };
        let (ring, placed) = Ring::<T>::in_pages(capacity, pages, bind).unwrap();
        let (start, len) = placed.bound.unwrap();
        let used = size_of_val(&*ring.slots);
        assert_eq!(ring.capacity(), capacity);
        assert_eq!(start, ring.slots.as_ptr().cast(), "the region begins with the slots");
        assert_eq!(len, used.next_multiple_of(unit), "and holds nothing else");
        assert_eq!(start as usize % unit.max(align_of::<T>()), 0);
        let after = present(start, used).unwrap();
        assert!(!after.contains(&false), "a slot's page is left to whoever touches it");
        match placed.got {
            Got::Pages => assert!(!pages.huge),
            Got::HugePages => assert!(pages.huge),
            Got::Refused(why) => assert!(pages.huge && why.contains("huge pages"), "{why}"),
        }
        capacity *= 2;
    }
}

#[test]
fn the_region_is_bound_whole_and_untouched_and_touched_when_the_ring_is_there() {
    lies_well::<()>(1 << 14, USUAL);
    lies_well::<u8>(1 << 12, USUAL);
    lies_well::<u64>(1 << 16, USUAL);
    lies_well::<Line>(1 << 10, USUAL);
    lies_well::<Wider>(16, USUAL);
    lies_well::<[u8; 10_000]>(64, USUAL);
}

#[test]
fn huge_pages_are_whole_ones_and_had_or_refused_with_a_reason() {
    lies_well::<()>(4, HUGE);
    lies_well::<Wider>(2, HUGE);
    lies_well::<[u8; 3 << 16]>(16, HUGE);
    let capacity = 1 << 18; // 4 MiB
    let (ring, placed) = Ring::in_pages(capacity, HUGE, |bytes| bytes.len()).unwrap();
    assert_eq!(placed.bound, Some(4 << 20));
    assert_ne!(placed.got, Got::Pages);
    assert_eq!(ring.try_push_run(&mut (0..=capacity).collect()), Ok(capacity));
    let mut out = Vec::new();
    assert_eq!(ring.try_pop_run(&mut out, capacity), Ok(capacity));
    assert!(out.into_iter().eq(0..capacity));
}

/// What the system says of the map that is the region and nothing else.
#[cfg(target_os = "linux")]
fn flags(bytes: &[MaybeUninit<u8>]) -> Option<String> {
    let bytes = bytes.as_ptr_range();
    let region = bytes.start as usize..bytes.end as usize;
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines();
    lines.find(|line| huge::map_of(line).as_ref() == Some(&region))?;
    lines.find_map(|line| line.strip_prefix("VmFlags:")).map(str::to_owned)
}

#[test]
#[cfg(target_os = "linux")]
fn huge_pages_are_asked_for_before_the_binding_and_for_the_region_alone() {
    let known = std::path::Path::new(huge::SETTINGS).exists() && huge::fits().is_ok();
    for (pages, advised) in [(USUAL, false), (HUGE, known), (HUGE, known)] {
        let (_ring, placed) = Ring::<u64>::in_pages(1 << 12, pages, flags).unwrap();
        let flags = placed.bound.flatten().expect("a map of its own");
        assert_eq!(flags.split_whitespace().any(|flag| flag == "hg"), advised, "{flags}");
    }
}

#[test]
fn items_wider_than_a_page_lie_where_they_must() {
    let ring = in_pages::<Wider>(4);
    assert_eq!(ring.slots.as_ptr() as usize % align_of::<Wider>(), 0);
    let mut out = Vec::new();
    for lap in 0..9 {
        ring.try_push(Wider(lap)).ok().unwrap();
        assert_eq!(ring.try_pop_run(&mut out, 1), Ok(1));
    }
    assert!(out.iter().map(|item| item.0).eq(0..9));
}

#[test]
fn items_without_a_size_are_counted_right_in_pages() {
    let ring = in_pages(4);
    assert_eq!(ring.try_push_run(&mut vec![(); 6]), Ok(4));
    assert_eq!(ring.try_push(()), Err(PushError::Full(())));
    assert_eq!(ring.try_pop_run(&mut Vec::new(), 6), Ok(4));
    assert_eq!(ring.close(), 4);
}

#[test]
fn items_left_in_pages_are_dropped_once_with_them() {
    for pages in [USUAL, HUGE] {
        for left in 0..=8 {
            for bomb in [None, Some(5)] {
                let (ring, _) = Ring::in_pages(8, pages, |_| ()).unwrap();
                let log = Log::default();
                for number in 0..3 {
                    ring.try_push(log.item(number)).ok().unwrap();
                    ring.try_pop_run(&mut Vec::new(), 1).unwrap();
                }
                for number in 3..3 + left {
                    let item = log.bomb_if(number, bomb == Some(number));
                    ring.try_push(item).ok().unwrap();
                }
                log.assert_each_dropped_once(3);
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(ring)));
                assert_eq!(dropped.is_err(), bomb.is_some_and(|bomb| bomb < 3 + left));
                log.assert_each_dropped_once(3 + left);
            }
        }
    }
}

/// Another test may map the same addresses at once, though not each time.
#[track_caller]
fn is_unmapped_in_the_end(attempt: impl Fn() -> (*const u8, usize)) {
    let unmapped = (0..1000).any(|_| {
        let (start, len) = attempt();
        present(start, len).is_none()
    });
    assert!(unmapped, "the pages are still there");
}

#[test]
fn pages_are_given_back() {
    let region = |bytes: &[MaybeUninit<u8>]| (bytes.as_ptr().cast::<u8>(), bytes.len());
    is_unmapped_in_the_end(|| {
        let (ring, placed) = Ring::<u64>::in_pages(1 << 12, USUAL, region).unwrap();
        drop(ring);
        placed.bound.unwrap()
    });
    is_unmapped_in_the_end(|| {
        let seen = Cell::new((ptr::null(), 0));
        let bind = |bytes: &[MaybeUninit<u8>]| {
            seen.set(region(bytes));
            std::panic::resume_unwind(Box::new("a binding that panics"));
        };
        let run = || Ring::<u64>::in_pages(1 << 12, HUGE, bind).map(|_: (_, InPages<()>)| ());
        catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        seen.get()
    });
}

#[test]
fn nobody_can_touch_the_pages_beside_a_region() {
    let (mut read, write) = io::pipe().unwrap();
    // SAFETY: the kernel reads one byte at the address, or says that it cannot.
    let readable = |at: *const u8| unsafe { libc::write(write.as_raw_fd(), at.cast(), 1) == 1 };
    for (used, align, huge) in [(1, 1, false), (5 << 12, 1 << 16, false), (1, 1, true)] {
        let region = Region::new(used, align, huge).unwrap();
        let bytes = region.untouched().as_ptr_range();
        let (start, end) = (bytes.start.cast::<u8>(), bytes.end.cast::<u8>());
        for at in [start.wrapping_sub(page()), start.wrapping_sub(1), end] {
            assert!(!readable(at));
        }
        assert!(readable(start) && readable(end.wrapping_sub(1)));
        assert_eq!(read.read(&mut [1; 2]).unwrap(), 2);
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_bound() {
    let bind = |_: &[MaybeUninit<u8>]| panic!("there is nothing to bind");
    for capacity in [0, 1, 3, CAPACITY_MAX << 1] {
        let error = Ring::<u64>::in_pages(capacity, USUAL, bind).unwrap_err();
        assert!(error.to_string().contains("power of two"), "{error}");
    }
    for pages in [USUAL, HUGE] {
        let error = Ring::<[u8; 1 << 18]>::in_pages(CAPACITY_MAX, pages, bind).unwrap_err();
        assert_eq!(error, CapacityError { got: CAPACITY_MAX, memory: true });
    }
    for used in [usize::MAX, usize::MAX - 3 * page() + 1, isize::MAX as usize] {
        assert!(Region::new(used, 1, false).is_none());
        assert!(Region::new(used, 1, true).is_none());
    }
}

#[test]
fn slots_that_do_not_fit_their_region_are_not_made() {
    let mut region = Region::new(page(), 1, false).unwrap();
    let make = |index| Slot::<u64>::free_for(index as u64);
    assert!(region.fill(page() / 16, make).is_some());
    assert!(region.fill(page() / 16 + 1, make).is_none());
    assert!(region.fill(usize::MAX / 8, make).is_none());
}

#[test]
fn a_forked_child_has_a_copy() {
    let ring = in_pages::<u64>(8);
    assert_eq!(ring.try_push_run(&mut vec![1, 2, 3]), Ok(3));
    let mut out = Vec::with_capacity(8);
    // SAFETY: the child calls nothing but the ring, which does not allocate here, and `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let popped = ring.try_pop_run(&mut out, 8) == Ok(3) && out == [1, 2, 3];
        let pushed = (0..8).all(|n| ring.try_push(n).is_ok());
        // SAFETY: ends the process, without a destructor of the parent's.
        unsafe { libc::_exit(if popped && pushed { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above and writes to `status` alone.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status));
    assert_eq!(libc::WEXITSTATUS(status), 7);
    assert_eq!(ring.len(), 3, "what the child does is the child's");
}

#[test]
fn a_ring_crosses_threads_and_panics_as_before() {
    fn all<T: Send + Sync + Unpin + UnwindSafe>() {}
    all::<Ring<u64>>();
    all::<Ring<std::marker::PhantomPinned>>();
    let ring = in_pages(2);
    std::thread::scope(|scope| scope.spawn(|| ring.try_push(1)).join().unwrap()).unwrap();
    std::thread::spawn(move || assert_eq!(ring.len(), 1)).join().unwrap();
}

#[test]
fn huge_pages_are_counted_in_the_maps_of_the_region_alone() {
    let maps = "\
        7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n\
        Size:               2048 kB\nAnonHugePages:      2048 kB\nVmFlags: rd wr hg \n\
        7f0000200000-7f0000400000 rw-p 00000000 00:00 0                  [anon: a-b c]\n\
        AnonHugePages:      2048 kB\nShmemPmdMapped:      100 kB\n\
        7f0000400000-7f0000600000 rw-p 00000000 00:00 0 \nAnonHugePages:      0 kB\n\
        7f0000600000-7f0000800000 ---p 00000000 00:00 0 \nAnonHugePages:      4096 kB\n";
    let count = |start, end| huge::bytes_in(maps.as_bytes(), &(start..end)).unwrap();
    let base = 0x7f00_0000_0000;
    let at = |mib: usize| base + (mib << 20);
    assert_eq!(count(at(0), at(2)), 2 << 20);
    assert_eq!(count(at(2), at(6)), 2 << 20);
    assert_eq!(count(at(0), at(6)), 4 << 20);
    assert_eq!(count(at(4), at(6)), 0);
    assert_eq!(count(at(1), at(2)), 0, "a map that reaches beyond says nothing of the region");
    assert_eq!(count(at(8), at(9)), 0);
    assert_eq!(huge::bytes_in(&b""[..], &(0..1)).unwrap(), 0);
}
