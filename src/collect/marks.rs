//! Bounds for the age of items that carry no time.

use std::collections::VecDeque;
use std::time::Instant;

/// Marks kept. More of them only sharpen the bound while many batches are waiting.
const MARKS_MAX: usize = 64;

/// Pairs (position, moment): no add at this position or later had returned before this moment. Both
/// ascend.
pub struct Marks(VecDeque<(u64, Instant)>);

impl Marks {
    pub fn new(start: Instant) -> Self {
        let mut marks = VecDeque::with_capacity(MARKS_MAX);
        marks.push_back((0, start));
        Self(marks)
    }

    /// Adds a mark. One that is older than the last says nothing new.
    pub fn record(&mut self, position: u64, moment: Instant) {
        if self.0.back().is_some_and(|&(_, last)| moment <= last) {
            return;
        }
        // A later moment for a position at or before an older mark's says more than that mark. The
        // first mark stays, so that every position has one at or before it.
        while self.0.len() > 1 && self.0.back().is_some_and(|&(at, _)| at >= position) {
            self.0.pop_back();
        }
        let full = self.0.len() == MARKS_MAX;
        match self.0.back_mut() {
            Some(last) if last.0 >= position => last.1 = moment,
            Some(last) if full => *last = (position, moment),
            _ => self.0.push_back((position, moment)),
        }
    }

    /// The newest moment before which the add at `position` had not returned. Positions only ever
    /// go up, so marks that are of no use for it are forgotten.
    pub fn bound(&mut self, position: u64) -> Instant {
        while self.0.get(1).is_some_and(|&(at, _)| at <= position) {
            self.0.pop_front();
        }
        self.0[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_newest_mark_at_or_before_the_position_counts() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut marks = Marks::new(t);
        marks.record(10, at(1));
        marks.record(20, at(2));
        assert_eq!(marks.bound(5), t);
        assert_eq!(marks.bound(10), at(1));
        assert_eq!(marks.bound(19), at(1));
        marks.record(20, at(3)); // still empty at 20 a little later
        assert_eq!(marks.bound(20), at(3));
        assert_eq!(marks.bound(1_000), at(3));
    }

    #[test]
    fn a_later_mark_for_an_earlier_position_replaces_those_after_it() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut marks = Marks::new(t);
        marks.record(511, at(1));
        marks.record(100, at(2)); // implies: nothing at 511 or later had returned at 2 either
        assert_eq!(marks.bound(99), t);
        assert_eq!(marks.bound(100), at(2));
        assert_eq!(marks.bound(600), at(2));
    }

    #[test]
    fn an_old_stamp_changes_nothing_and_a_full_list_stays_safe() {
        let t = Instant::now();
        let at = |ms: u64| t + Duration::from_millis(ms);
        let mut marks = Marks::new(t);
        marks.record(5, at(9));
        marks.record(7, at(3));
        assert_eq!(marks.bound(8), at(9));
        for k in 10..1_000 {
            marks.record(k, at(k));
        }
        for k in 10..1_000 {
            assert!(marks.bound(k) <= at(k), "a bound may be early, never late");
        }
    }
}
