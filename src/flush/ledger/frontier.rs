//! Up to where every item has met its fate.

use crate::sync::mutated;

/// Positions whose items have met their fate, though batches end out of order.
#[derive(Default)]
pub struct Frontier {
    /// Every item before this position has met its fate.
    pub resolved: u64,
    /// Ranges beyond it, ascending and apart. Few: one between any two batches under way.
    early: Vec<(u64, u64)>,
}

impl Frontier {
    pub fn with_capacity(ranges: usize) -> Self {
        Self { resolved: 0, early: Vec::with_capacity(ranges) }
    }

    /// A range may be told twice: a batch covers positions that were evicted from its middle.
    pub fn resolve(&mut self, start: u64, end: u64) {
        if mutated("any_is_resolved") {
            self.resolved = self.resolved.max(end);
            return;
        }
        if start > self.resolved {
            // Joined with every range that it touches.
            let from = self.early.partition_point(|range| range.1 < start);
            let to = self.early.partition_point(|range| range.0 <= end);
            let (mut start, mut end) = (start, end);
            if let [first, .., last] | [first @ last] = &self.early[from..to] {
                (start, end) = (start.min(first.0), end.max(last.1));
            }
            self.early.splice(from..to, [(start, end)]);
            return;
        }
        self.resolved = self.resolved.max(end);
        let reached = self.early.partition_point(|range| range.0 <= self.resolved);
        for (_, end) in self.early.drain(..reached) {
            self.resolved = self.resolved.max(end);
        }
    }
}
