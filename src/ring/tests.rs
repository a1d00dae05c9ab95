//! The ring against a `VecDeque`, at every small capacity, also where words wrap; and each way an
//! item can be dropped.

#[cfg(all(unix, not(miri)))]
mod pages;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem::{self, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::seeded::runner;

/// Twice this is 0: words wrap here.
const WRAP: u64 = 1 << 63;

fn rings<T>(capacity: usize) -> impl Iterator<Item = Ring<T>> {
    let before_wrap = (0..=capacity as u64 + 1).map(|k| WRAP.wrapping_sub(k));
    [0, 1, 7, u64::MAX >> 2]
        .into_iter()
        .chain(before_wrap)
        .map(move |position| Ring::starting_at(capacity, position).unwrap())
}

#[derive(Clone, Debug)]
enum Op {
    Push,
    PushRun(usize),
    Pop(usize),
    Close,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => Just(Op::Push),
        6 => (0_usize..80).prop_map(Op::PushRun),
        8 => (0_usize..80).prop_map(Op::Pop),
        1 => Just(Op::Close),
    ];
    prop::collection::vec(op, 0..200)
}

/// What the ring must do, one call at a time.
struct Model {
    queue: VecDeque<u64>,
    capacity: usize,
    pushed: u64,
    popped: u64,
    closed: bool,
}

fn agree<T>(
    ring: &Ring<T>,
    ops: &[Op],
    make: impl Fn(u64) -> T,
    number: impl Fn(&T) -> u64,
) -> Result<(), TestCaseError> {
    let capacity = ring.capacity();
    let mut model = Model { queue: VecDeque::new(), capacity, pushed: 0, popped: 0, closed: false };
    for op in ops {
        match *op {
            Op::Push => push_agrees(ring, &mut model, &make, &number)?,
            Op::PushRun(count) => push_run_agrees(ring, &mut model, count, &make, &number)?,
            Op::Pop(max) => pop_agrees(ring, &mut model, max, &number)?,
            Op::Close => {
                prop_assert_eq!(ring.close(), model.pushed);
                model.closed = true;
            }
        }
        prop_assert_eq!(ring.len(), model.queue.len());
        prop_assert_eq!(ring.is_empty(), model.queue.is_empty());
        prop_assert_eq!(ring.is_closed(), model.closed);
        prop_assert_eq!((ring.pushed(), ring.popped()), (model.pushed, model.popped));
        prop_assert_eq!(ring.tail().position, model.pushed);
        prop_assert_eq!(ring.rendezvous(), ring.tail());
    }
    Ok(())
}

fn push_agrees<T>(
    ring: &Ring<T>,
    model: &mut Model,
    make: impl Fn(u64) -> T,
    number: impl Fn(&T) -> u64,
) -> Result<(), TestCaseError> {
    match ring.try_push(make(model.pushed)) {
        Ok(()) => {
            prop_assert!(!model.closed && model.queue.len() < model.capacity);
            model.queue.push_back(model.pushed);
            model.pushed += 1;
        }
        Err(PushError::Closed(item)) => {
            prop_assert!(model.closed);
            prop_assert_eq!(number(&item), model.pushed);
        }
        Err(PushError::Full(item)) => {
            prop_assert!(!model.closed && model.queue.len() == model.capacity);
            prop_assert_eq!(number(&item), model.pushed);
        }
        Err(PushError::Busy(_)) => prop_assert!(false, "nobody else is there"),
    }
    Ok(())
}

fn push_run_agrees<T>(
    ring: &Ring<T>,
    model: &mut Model,
    count: usize,
    make: impl Fn(u64) -> T,
    number: impl Fn(&T) -> u64,
) -> Result<(), TestCaseError> {
    let end = model.pushed + count as u64;
    let mut items: Vec<T> = (model.pushed..end).map(make).collect();
    let room = model.capacity - model.queue.len();
    match ring.try_push_run(&mut items) {
        Ok(taken) => {
            prop_assert!(!model.closed || count == 0);
            prop_assert_eq!(taken, count.min(room), "as many as fit");
            let first_left = model.pushed + taken as u64;
            model.queue.extend(model.pushed..first_left);
            model.pushed = first_left;
        }
        Err(RunError::Closed) => prop_assert!(model.closed && count > 0),
        Err(RunError::Full) => prop_assert!(!model.closed && room == 0 && count > 0),
        Err(RunError::Busy) => prop_assert!(false, "nobody else is there"),
    }
    let left: Vec<u64> = items.iter().map(number).collect();
    prop_assert_eq!(left, (model.pushed..end).collect::<Vec<_>>(), "the others stay, in order");
    Ok(())
}

fn pop_agrees<T>(
    ring: &Ring<T>,
    model: &mut Model,
    max: usize,
    number: impl Fn(&T) -> u64,
) -> Result<(), TestCaseError> {
    let mut out = Vec::new();
    let got = ring.try_pop_run(&mut out, max);
    let expected: Vec<u64> = model.queue.drain(..max.min(model.queue.len())).collect();
    model.popped += expected.len() as u64;
    prop_assert_eq!(out.iter().map(number).collect::<Vec<_>>(), &*expected);
    match got {
        Ok(count) => prop_assert!(count == expected.len() && (count > 0 || max == 0)),
        Err(PopError::Closed) => prop_assert!(expected.is_empty() && max > 0 && model.closed),
        Err(PopError::Empty) => prop_assert!(expected.is_empty() && max > 0 && !model.closed),
        Err(PopError::Busy) => prop_assert!(false, "nobody else is there"),
    }
    Ok(())
}

fn capacity() -> impl Strategy<Value = usize> {
    (1_u32..=6).prop_map(|exponent| 1 << exponent)
}

fn position() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0_u64..200, (0_u64..200).prop_map(|k| WRAP.wrapping_sub(k)), any::<u64>()]
}

#[test]
fn the_ring_does_what_a_bounded_deque_does() {
    let run = |(capacity, position, ops): (usize, u64, Vec<Op>)| {
        let ring = Ring::starting_at(capacity, position).unwrap();
        agree(&ring, &ops, |n| n, |n| *n)?;
        let ring = Ring::starting_at(capacity, position).unwrap();
        agree(&ring, &ops, Box::new, |n| **n)
    };
    runner(400).run(&(capacity(), position(), ops()), run).unwrap();
}

#[test]
fn items_of_every_shape_come_out_as_they_went_in() {
    #[derive(Debug, PartialEq)]
    #[repr(align(64))]
    struct Aligned(u64);
    fn aligned(item: &Aligned) -> u64 {
        assert_eq!(std::ptr::from_ref(item) as usize % 64, 0, "moved to an unaligned place");
        item.0
    }
    let words: Vec<String> = (0..20_000).map(|n: u64| n.to_string()).collect();
    let run = |(capacity, position, ops): (usize, u64, Vec<Op>)| {
        let text = |n: u64| words[usize::try_from(n).unwrap()].as_str();
        agree::<&str>(&Ring::starting_at(capacity, position).unwrap(), &ops, text, |t| {
            t.parse().unwrap()
        })?;
        agree(&Ring::starting_at(capacity, position).unwrap(), &ops, Aligned, aligned)?;
        agree(&Ring::starting_at(capacity, position).unwrap(), &ops, |n| [n; 20], |item| item[19])
    };
    runner(100).run(&(capacity(), position(), ops()), run).unwrap();
}

#[test]
fn items_without_a_size_are_counted_right() {
    for ring in rings::<()>(4) {
        for lap in 0..5 {
            let mut items = vec![(); 6];
            assert_eq!(ring.try_push_run(&mut items), Ok(4), "lap {lap}");
            assert_eq!(items.len(), 2);
            assert_eq!(ring.try_push(()), Err(PushError::Full(())));
            let mut out = Vec::new();
            assert_eq!(ring.try_pop_run(&mut out, 3), Ok(3));
            assert_eq!(ring.try_pop_run(&mut out, 3), Ok(1));
            assert_eq!(out.len(), 4);
        }
        assert_eq!(ring.close(), 20);
    }
}

#[test]
fn a_slot_is_its_item_and_eight_bytes() {
    assert_eq!(size_of::<Slot<u64>>(), 16);
    assert_eq!(size_of::<Slot<()>>(), 8);
    assert_eq!(size_of::<Slot<Box<u8>>>(), 16);
}

/// Promise: what one side writes all the time lies on lines (in pairs, as they are fetched) that hold
/// nothing else.
#[test]
fn hot_words_share_their_lines_with_nothing() {
    const LINES: usize = 128;
    type Shared = Ring<u64>;
    let hot =
        [offset_of!(Shared, tail), offset_of!(Shared, head)].map(|at| (at / LINES, at % LINES));
    let cold = [offset_of!(Shared, slots), offset_of!(Shared, mask), offset_of!(Shared, start)];
    assert!(hot[0].0 != hot[1].0 && hot.iter().all(|(_, within)| *within == 0));
    assert!(cold.iter().all(|at| hot.iter().all(|(lines, _)| at / LINES != *lines)));
    let (size, align) = (size_of::<Shared>(), align_of::<Shared>());
    assert_eq!((size % LINES, align % LINES), (0, 0), "its neighbours, whatever they are, too");
}

#[test]
fn a_capacity_that_cannot_be_is_refused_with_the_rule() {
    for capacity in [0, 1, 3, 6, 1000, CAPACITY_MAX + 1, CAPACITY_MAX << 1, usize::MAX] {
        let error = Ring::<u64>::new(capacity).unwrap_err();
        assert!(error.to_string().contains(&capacity.to_string()), "{error}");
        assert!(error.to_string().contains("power of two"), "{error}");
    }
    // A power of two in range for which there is no address space.
    let error = Ring::<[u8; 1 << 18]>::new(CAPACITY_MAX).unwrap_err();
    assert!(error.to_string().contains("no memory"), "{error}");
    assert_eq!(Ring::<u64>::new(CAPACITY_MIN).unwrap().capacity(), 2);
}

#[test]
fn claimed_and_not_published_is_busy_not_empty() {
    for ring in rings::<u64>(4) {
        ring.try_push(1).unwrap();
        let claim = ring.claim(1).unwrap();
        ring.try_push(3).unwrap(); // behind the stopped producer
        let mut out = Vec::new();
        assert_eq!(ring.try_pop_run(&mut out, 4), Ok(1), "what is before it comes out");
        assert_eq!(ring.try_pop_run(&mut out, 4), Err(PopError::Busy));
        assert_eq!(ring.close(), 3, "it counts as pushed");
        assert_eq!(ring.try_pop_run(&mut out, 4), Err(PopError::Busy), "closed is not drained");
        assert_eq!(ring.len(), 2);
        claim.publish(2);
        assert_eq!(ring.try_pop_run(&mut out, 4), Ok(2));
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(ring.try_pop_run(&mut out, 4), Err(PopError::Closed));
    }
}

#[test]
fn an_item_on_its_way_out_is_busy_not_full() {
    for ring in rings::<u64>(4) {
        assert_eq!(ring.try_push_run(&mut vec![1, 2, 3, 4]), Ok(4));
        assert_eq!(ring.try_push(5), Err(PushError::Full(5)));
        // A consumer stops between C2 and R2.
        let head = ring.head.load(Ordering::Relaxed);
        ring.head.store(head.wrapping_add(2 * STEP), Ordering::Relaxed);
        assert_eq!(ring.try_push(5), Err(PushError::Busy(5)));
        assert_eq!(ring.try_push_run(&mut vec![5]), Err(RunError::Busy));
        assert_eq!(ring.len(), 2);
        let mut out = Vec::with_capacity(2);
        ring.move_out(head, 2, &mut out);
        assert_eq!(out, [1, 2]);
        assert_eq!(ring.try_push_run(&mut vec![5, 6, 7]), Ok(2));
    }
}

#[test]
fn slots_freed_out_of_order_are_not_claimed_over_unread_items() {
    for ring in rings::<u64>(4) {
        assert_eq!(ring.try_push_run(&mut vec![1, 2, 3, 4]), Ok(4));
        let head = ring.head.load(Ordering::Relaxed);
        let second = head.wrapping_add(2 * STEP);
        ring.head.store(head.wrapping_add(4 * STEP), Ordering::Relaxed); // two consumers, two each
        let mut late = Vec::with_capacity(2);
        ring.move_out(second, 2, &mut late); // the second is done first
        let mut more = vec![5, 6, 7, 8];
        assert_eq!(ring.try_push_run(&mut more), Err(RunError::Busy));
        assert_eq!(more.len(), 4);
        let mut early = Vec::with_capacity(2);
        ring.move_out(head, 2, &mut early);
        assert_eq!((early, late), (vec![1, 2], vec![3, 4]));
        assert_eq!(ring.try_push_run(&mut more), Ok(4));
    }
}

#[test]
fn a_looked_for_position_counts_as_published_from_then_on() {
    for ring in rings::<u64>(4) {
        for lap in 0..10 {
            assert!(!ring.published_before(lap + 1));
            ring.try_push(lap).unwrap();
            assert!(ring.published_before(lap + 1));
            ring.try_pop_run(&mut Vec::new(), 1).unwrap();
            assert!(ring.published_before(lap + 1), "gone already is published too");
        }
    }
}

#[test]
fn free_slots_are_as_many_as_were_popped() {
    for ring in rings::<u64>(4) {
        for lap in 0..3 {
            assert!(ring.has_free(4), "lap {lap}: it is empty");
            assert_eq!(ring.try_push_run(&mut vec![1, 2, 3, 4]), Ok(4));
            assert!(!ring.has_free(1), "lap {lap}: it is full");
            ring.try_pop_run(&mut Vec::new(), 2).unwrap();
            assert!(ring.has_free(2) && !ring.has_free(3), "lap {lap}: two are out");
            ring.try_pop_run(&mut Vec::new(), 2).unwrap();
        }
        ring.close();
        assert!(ring.has_free(4), "closed, and empty all the same");
    }
}

/// The numbers of the items that were dropped, and those whose `Drop` panics.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<u64>>>);

struct Item {
    number: u64,
    log: Log,
    bomb: bool,
}

impl Drop for Item {
    fn drop(&mut self) {
        self.log.0.borrow_mut().push(self.number);
        assert!(!self.bomb, "a bomb went off, as planned");
    }
}

impl Log {
    fn item(&self, number: u64) -> Item {
        self.bomb_if(number, false)
    }

    fn bomb_if(&self, number: u64, bomb: bool) -> Item {
        Item { number, log: self.clone(), bomb }
    }

    #[track_caller]
    fn assert_each_dropped_once(&self, count: u64) {
        let mut dropped = self.0.borrow().clone();
        dropped.sort_unstable();
        assert_eq!(dropped, (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn items_left_in_a_ring_are_dropped_once_with_it() {
    for capacity in [2, 4, 8] {
        for left in 0..=capacity as u64 {
            for ring in rings(capacity) {
                let log = Log::default();
                let popped = 3; // so that what is left lies across the end of the slots
                for number in 0..popped {
                    ring.try_push(log.item(number)).ok().unwrap();
                    ring.try_pop_run(&mut Vec::new(), 1).unwrap();
                }
                let mut items: Vec<Item> = (popped..popped + left).map(|n| log.item(n)).collect();
                if left > 0 {
                    assert_eq!(ring.try_push_run(&mut items), Ok(items.capacity()));
                }
                log.assert_each_dropped_once(popped);
                drop(ring);
                log.assert_each_dropped_once(popped + left);
            }
        }
    }
}

#[test]
fn a_refused_item_comes_back_and_is_dropped_once() {
    for ring in rings(2) {
        let log = Log::default();
        ring.try_push_run(&mut vec![log.item(0), log.item(1)]).unwrap();
        drop(ring.try_push(log.item(2)));
        log_is(&log, &[2]);
        ring.close();
        drop(ring.try_push(log.item(3)));
        log_is(&log, &[2, 3]);
        assert_eq!(ring.try_push_run(&mut vec![log.item(4), log.item(5)]), Err(RunError::Closed));
        log_is(&log, &[2, 3, 4, 5]);
        drop(ring);
        log.assert_each_dropped_once(6);
    }
}

#[track_caller]
fn log_is(log: &Log, expected: &[u64]) {
    assert_eq!(&log.0.borrow()[..], expected);
}

#[test]
fn one_panicking_drop_at_any_index_leaks_no_other_item() {
    for bomb in 0..8 {
        for ring in rings(8) {
            let log = Log::default();
            for number in 0..8 {
                ring.try_push(log.bomb_if(number, number == bomb)).ok().unwrap();
            }
            catch_unwind(AssertUnwindSafe(|| drop(ring))).unwrap_err();
            log.assert_each_dropped_once(8);
        }
    }
}

#[test]
fn a_claim_whose_producer_died_holds_nothing_to_drop() {
    for ring in rings(4) {
        let log = Log::default();
        ring.try_push(log.item(0)).ok().unwrap();
        let _ = ring.claim(1).ok().unwrap(); // never published
        ring.try_push(log.item(1)).ok().unwrap();
        drop(ring);
        log.assert_each_dropped_once(2);
    }
}

#[test]
fn a_front_dropped_midway_leaves_the_rest_in_order() {
    for taken in 0..=5 {
        let log = Log::default();
        let mut items: Vec<Item> = (0..5).map(|n| log.item(n)).collect();
        let mut front = Front::new(&mut items);
        for number in 0..taken {
            // SAFETY: at most five of five are taken.
            let item = unsafe { front.take(1) }.next().unwrap();
            assert_eq!(item.number, number);
        }
        assert_eq!((front.taken() as u64, front.len() as u64), (taken, 5 - taken));
        assert_eq!(front.is_empty(), taken == 5);
        drop(front);
        assert_eq!(
            items.iter().map(|i| i.number).collect::<Vec<_>>(),
            (taken..5).collect::<Vec<_>>()
        );
        log.assert_each_dropped_once(taken);
        drop(items);
        log.assert_each_dropped_once(5);
    }
}

#[test]
fn a_forgotten_front_leaks_and_never_doubles() {
    let log = Log::default();
    let mut items: Vec<Item> = (0..3).map(|n| log.item(n)).collect();
    let mut front = Front::new(&mut items);
    // SAFETY: there are three.
    drop(unsafe { front.take(1) }.next());
    mem::forget(front);
    assert!(items.is_empty(), "the vector must not show items that were taken");
    log.assert_each_dropped_once(1);
}

#[test]
fn errors_and_debug_show_no_item() {
    struct Secret;
    let ring = Ring::new(2).unwrap();
    ring.try_push_run(&mut vec![Secret, Secret]).unwrap();
    let full = ring.try_push(Secret).unwrap_err();
    assert_eq!(format!("{full:?}"), "Full(..)");
    assert_eq!(full.to_string(), "the ring is full");
    let Secret = full.into_inner();
    ring.close();
    let closed = ring.try_push(Secret).unwrap_err();
    assert_eq!(format!("{closed:?}"), "Closed(..)");
    assert_eq!(format!("{ring:?}"), "Ring { capacity: 2, len: 2, closed: true }");
}

impl<T> Ring<T> {
    /// A producer that the system stops between claiming and publishing; it goes on when the result
    /// is called.
    pub(crate) fn stopped_push(&self) -> impl FnOnce(T) + '_ {
        let claim = self.claim(1).ok().unwrap();
        move |item| {
            claim.publish(item);
        }
    }
}
