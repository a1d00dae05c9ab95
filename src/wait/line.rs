//! The order in which sleepers stand in line: a doubly linked list in a vector, so that anyone
//! leaves it from the middle in constant time, and its places, with their parkers, are used again.

use std::sync::Arc;

use super::parker::Parker;

/// No place.
const NONE: usize = usize::MAX;
/// Places kept when nobody stands in line any more.
const KEPT: usize = 64;

/// The line.
pub struct Line {
    places: Vec<Place>,
    /// Places that nobody has.
    free: Vec<usize>,
    first: usize,
    last: usize,
    len: usize,
}

struct Place {
    parker: Arc<Parker>,
    listed: bool,
    before: usize,
    after: usize,
}

/// A sleeper's place; its own until it is given back with [`Line::vacate`].
pub struct Waiter {
    pub parker: Arc<Parker>,
    index: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), first: NONE, last: NONE, len: 0 }
    }
}

impl Line {
    /// How many stand in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Enters at the back, or at the front.
    pub fn enter(&mut self, front: bool) -> Waiter {
        let index = self.free.pop().unwrap_or_else(|| {
            let parker = Arc::default();
            self.places.push(Place { parker, listed: false, before: NONE, after: NONE });
            self.places.len() - 1
        });
        let (before, after) = if front { (NONE, self.first) } else { (self.last, NONE) };
        self.link(before, index);
        self.link(index, after);
        self.places[index].listed = true;
        self.len += 1;
        Waiter { parker: Arc::clone(&self.places[index].parker), index }
    }

    /// Takes the first one out of it.
    pub fn pop(&mut self) -> Option<Arc<Parker>> {
        let index = self.first;
        let parker = Arc::clone(&self.places.get(index)?.parker);
        self.unlist(index);
        Some(parker)
    }

    /// Takes a waiter out of it; false if it was out already.
    pub fn leave(&mut self, waiter: &Waiter) -> bool {
        let listed = self.places[waiter.index].listed;
        if listed {
            self.unlist(waiter.index);
        }
        listed
    }

    /// Gives a place back. Nobody may wake its parker any more but by mistake.
    pub fn vacate(&mut self, waiter: &Waiter) {
        self.free.push(waiter.index);
        if self.free.len() == self.places.len() && self.places.len() > KEPT {
            // As many as ever waited at once: not to be kept for ever.
            *self = Self::default();
        }
    }

    fn unlist(&mut self, index: usize) {
        let (before, after) = (self.places[index].before, self.places[index].after);
        self.link(before, after);
        self.places[index].listed = false;
        self.len -= 1;
    }

    fn link(&mut self, before: usize, after: usize) {
        match self.places.get_mut(before) {
            Some(place) => place.after = after,
            None => self.first = after,
        }
        match self.places.get_mut(after) {
            Some(place) => place.before = before,
            None => self.last = before,
        }
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::seeded::runner;

    #[derive(Clone, Debug)]
    enum Op {
        Enter(bool),
        Pop,
        /// The n-th of those who have a place.
        Leave(usize),
        Vacate(usize),
    }

    /// Against a deque that is searched.
    #[test]
    fn it_is_a_deque_that_anyone_can_leave() {
        let op = prop_oneof![
            4 => any::<bool>().prop_map(Op::Enter),
            2 => Just(Op::Pop),
            2 => any::<usize>().prop_map(Op::Leave),
            2 => any::<usize>().prop_map(Op::Vacate),
        ];
        let run = |ops: Vec<Op>| {
            let (mut line, mut model) = (Line::default(), VecDeque::new());
            let mut waiters: Vec<Waiter> = Vec::new();
            for op in ops {
                match op {
                    Op::Enter(front) => {
                        let waiter = line.enter(front);
                        let parker = Arc::as_ptr(&waiter.parker);
                        if front {
                            model.push_front(parker)
                        } else {
                            model.push_back(parker)
                        }
                        waiters.push(waiter);
                    }
                    Op::Pop => {
                        let popped = line.pop().map(|parker| Arc::as_ptr(&parker));
                        prop_assert_eq!(popped, model.pop_front());
                    }
                    Op::Leave(n) if !waiters.is_empty() => {
                        let waiter = &waiters[n % waiters.len()];
                        let parker = Arc::as_ptr(&waiter.parker);
                        let at = model.iter().position(|other| *other == parker);
                        at.map(|at| model.remove(at));
                        prop_assert_eq!(line.leave(waiter), at.is_some());
                    }
                    Op::Vacate(n) if !waiters.is_empty() => {
                        let waiter = waiters.swap_remove(n % waiters.len());
                        line.leave(&waiter);
                        let parker = Arc::as_ptr(&waiter.parker);
                        model.retain(|other| *other != parker);
                        line.vacate(&waiter);
                    }
                    Op::Leave(_) | Op::Vacate(_) => {}
                }
                prop_assert_eq!(line.len(), model.len());
            }
            Ok(())
        };
        runner(500).run(&prop::collection::vec(op, 0..200), run).unwrap();
    }
}
