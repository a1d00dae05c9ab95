//! Finds the rings of an engine in the memory of this process, without asking the engine.
//!
//! A ring lies in a map of its own between two that nobody may touch, and it is as long as its
//! slots are. Items are copied out of a slot and not wiped, so once a ring was filled each slot
//! shows whose items went through it: that is the ring's shard.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr;

use crate::machine::{Set, read};
use crate::sinks::maker;
use crate::sys::{self, Pages, Policy};

/// A slot holds an item and a number of the ring's.
const SLOT: usize = 16;

/// A ring, found.
#[derive(Debug)]
pub struct Found {
    /// The producers whose items went through it.
    pub makers: Set,
    /// Where its pages lie.
    pub pages: Pages,
    /// What is to decide that.
    pub policy: Policy,
}

/// All rings of so many slots, of which every one has had an item.
pub fn find(slots: usize) -> Result<Vec<Found>, String> {
    let memory = File::open("/proc/self/mem").map_err(|error| format!("own memory: {error}"))?;
    let mut found = Vec::new();
    for map in islands(&read("/proc/self/maps")?, slots * SLOT) {
        let mut bytes = vec![0; map.len()];
        let read = memory.read_exact_at(&mut bytes, map.start as u64);
        read.map_err(|error| format!("map {map:x?}: {error}"))?;
        let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
        let makers: Vec<usize> = words.filter_map(maker).map(|(maker, _)| maker).collect();
        if makers.len() != slots {
            continue; // it is something else's
        }
        let start = ptr::without_provenance(map.start);
        let pages = sys::node_of_pages(start, map.len());
        found.push(Found {
            makers: makers.into_iter().collect(),
            pages: pages.map_err(|error| format!("move_pages: {error}"))?,
            policy: sys::policy_of(start).map_err(|error| format!("get_mempolicy: {error}"))?,
        });
    }
    Ok(found)
}

/// Maps of that length, of nobody's file, with maps on either side that nobody may touch.
fn islands(maps: &str, len: usize) -> Vec<Range<usize>> {
    let maps: Vec<(Range<usize>, &str)> = maps.lines().filter_map(map).collect();
    let is_island = |three: &&[(Range<usize>, &str)]| {
        let [(before, closed), (map, open), (behind, closed_too)] = three else { return false };
        let alone = before.end == map.start && map.end == behind.start;
        alone && map.len() == len && (*closed, *open, *closed_too) == ("---p", "rw-p", "---p")
    };
    let found = maps.windows(3).filter(is_island);
    found.map(|three| three[1].0.clone()).collect()
}

/// The addresses of a map, and what may be done there.
fn map(line: &str) -> Option<(Range<usize>, &str)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some((address(start)?..address(end)?, words.next()?))
}
