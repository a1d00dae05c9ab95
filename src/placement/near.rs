//! The memory of batches: brought to the node of the flusher that writes them.
//!
//! A batch's buffer is memory of the heap, and the allocator gives out pages that threads of other
//! nodes have touched. So a flusher moves the pages of a buffer when it first has items in them in
//! hand. They go round between the flushers of one node and stay there: a batch that is taken from
//! another node leaves its buffer behind.
//!
//! Buffers have a page to spare at their end ([`apart`]), so no two of them have items in the same
//! page, which could lie on one node only. What else is in the pages at the ends comes along.

use super::Placed;
use super::bind::{move_memory, page_size};

/// Buffers that are kept in mind, at least and at most.
const SEEN_MIN: usize = 16;
const SEEN_MAX: usize = 4096;
/// Times on end that pages may stay where they are before it is called a refusal: one that somebody
/// else holds at that moment can be moved a batch later.
const PATIENCE: u32 = 3;

/// A buffer that was seen, by its address and size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    start: usize,
    bytes: usize,
    /// What lies before this address is in pages that were moved.
    moved_to: usize,
}

/// What a flusher knows of the buffers that come to it.
pub struct Near {
    flusher: usize,
    node: u32,
    /// `SEEN_MAX` at most, by when they were first seen, going round.
    seen: Vec<Seen>,
    /// Of the oldest.
    oldest: usize,
    /// Times on end that pages stayed.
    stayed: u32,
    refused: bool,
}

impl Near {
    /// For a flusher whose batches are to lie on that node, in so many buffers.
    pub fn new(flusher: usize, node: u32, buffers: usize) -> Self {
        let seen = Vec::with_capacity(buffers.clamp(SEEN_MIN, SEEN_MAX));
        Self { flusher, node, seen, oldest: 0, stayed: 0, refused: false }
    }

    /// Has these items lie on the node: the first time that they are in this buffer, and when they
    /// reach further into it than before. What the system refuses is told to `placed`, and not tried
    /// again.
    pub fn bring<T>(&mut self, items: &Vec<T>, placed: &Placed) {
        if self.refused {
            return;
        }
        let start = items.as_ptr().addr();
        let bytes = items.capacity().saturating_mul(size_of::<T>());
        let end = start + size_of_val(items.as_slice());
        if let Err(why) = self.bring_area(start, bytes, end, move_memory) {
            self.refused = true;
            placed.not_brought(self.flusher, &why);
        }
    }

    /// The same for the part of a buffer before `end`; `to_node` moves.
    fn bring_area(
        &mut self,
        start: usize,
        bytes: usize,
        end: usize,
        to_node: impl FnOnce(usize, usize, u32) -> Result<usize, String>,
    ) -> Result<(), String> {
        let (node, index) = (self.node, self.place_of(start, bytes));
        let from = self.seen[index].moved_to;
        if end <= from {
            return Ok(());
        }
        match to_node(from, end - from, node)? {
            0 => {
                self.seen[index].moved_to = end.next_multiple_of(page_size());
                self.stayed = 0;
            }
            _ if self.stayed < PATIENCE => self.stayed += 1,
            stayed => return Err(format!("{stayed} pages of batches stay off node {node}")),
        }
        Ok(())
    }

    /// Where in the list a buffer is, by now.
    fn place_of(&mut self, start: usize, bytes: usize) -> usize {
        let is_it = |seen: &Seen| (seen.start, seen.bytes) == (start, bytes);
        if let Some(index) = self.seen.iter().position(is_it) {
            return index;
        }
        let new = Seen { start, bytes, moved_to: start };
        // Where another has been that is gone.
        if let Some(index) = self.seen.iter().position(|seen| seen.start == start) {
            self.seen[index] = new;
            return index;
        }
        if self.seen.len() < self.seen.capacity() {
            self.seen.push(new);
            return self.seen.len() - 1;
        }
        let index = self.oldest;
        self.seen[index] = new;
        self.oldest = (index + 1) % self.seen.len();
        index
    }
}

/// Items that a buffer is to have room for behind those of its batch, so that these share no page
/// with the items of another buffer.
pub fn apart<T>() -> usize {
    page_size().checked_div(size_of::<T>()).map_or(0, |items| items + 1)
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;

    /// What was asked for: from where, and how many bytes.
    fn asked(near: &mut Near, start: usize, bytes: usize, len: usize) -> Option<(usize, usize)> {
        let mut asked = None;
        let brought = near.bring_area(start, bytes, start + len, |from, bytes, node| {
            assert_eq!(node, 7);
            asked = Some((from, bytes));
            Ok(0)
        });
        assert_eq!(brought, Ok(()));
        asked
    }

    #[test]
    fn a_buffer_is_moved_once_and_again_where_it_has_grown_or_changed() {
        let (mut near, page) = (Near::new(0, 7, 1), page_size());
        let start = 5 * page + 16;
        assert_eq!(asked(&mut near, start, 4 * page, 0), None, "no items, no pages");
        assert_eq!(asked(&mut near, start, 4 * page, 100), Some((start, 100)));
        assert_eq!(asked(&mut near, start, 4 * page, 100), None, "seen");
        assert_eq!(asked(&mut near, start, 4 * page, page - 16), None, "within the same page");
        let rest = asked(&mut near, start, 4 * page, 2 * page);
        assert_eq!(rest, Some((6 * page, page + 16)), "pages that had no items yet");
        assert_eq!(asked(&mut near, start, 4 * page, 2 * page), None);
        assert_eq!(asked(&mut near, start, 8 * page, 100), Some((start, 100)), "it has grown");
        assert_eq!(asked(&mut near, start, 8 * page, 100), None);
        assert_eq!(near.seen.len(), 1, "in the place of what was there");
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_the_list_never_grows() {
        let mut near = Near::new(0, 7, usize::MAX);
        let (room, far) = (near.seen.capacity(), 1 << 20);
        assert!((SEEN_MAX..2 * SEEN_MAX).contains(&room), "{room}");
        for buffer in 1..=room + 2 {
            assert!(asked(&mut near, buffer * far, far, 8).is_some());
        }
        assert_eq!((near.seen.len(), near.seen.capacity()), (room, room));
        assert_eq!(asked(&mut near, 3 * far, far, 8), None, "the third is the oldest now");
        assert!(asked(&mut near, far, far, 8).is_some(), "the first was forgotten");
        assert!(asked(&mut near, 3 * far, far, 8).is_some(), "and has taken its place");
        assert_eq!(asked(&mut near, (room + 2) * far, far, 8), None);
    }

    #[test]
    fn pages_that_stay_are_tried_again_but_not_for_ever() {
        let mut near = Near::new(0, 7, 1);
        let mut stay = |stayed| near.bring_area(4096, 4096, 4104, |_, _, _| stayed);
        for _ in 0..PATIENCE {
            assert_eq!(stay(Ok(2)), Ok(()));
        }
        let why = stay(Ok(2)).unwrap_err();
        assert!(why.starts_with("2 pages ") && why.contains("node 7"), "{why}");
        assert_eq!(stay(Err("refused".to_owned())), Err("refused".to_owned()));
        assert_eq!(stay(Ok(0)), Ok(()), "nothing was held against it");
    }

    #[test]
    fn there_is_a_page_to_spare_behind_the_items() {
        assert!(apart::<u64>() * 8 >= page_size());
        assert!(apart::<[u8; 60]>() * 60 >= page_size());
        assert_eq!((apart::<[u8; 1 << 20]>(), apart::<()>()), (1, 0));
    }
}
