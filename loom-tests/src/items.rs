//! Items that must each be dropped exactly once.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    /// Drops of each item made. loom and shuttle run all threads of a model on one thread of the
    /// OS, so this sees them all, and it takes no part in the model.
    static DROPS: RefCell<BTreeMap<u32, u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// Items of one producer: its number, then theirs.
const PER_PRODUCER: u32 = 1000;

/// A plain number, so that a model of a broken ring may read it from memory that was never written,
/// and be told so.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item(u32);

impl Item {
    /// The `number`-th item of a producer; to be made once.
    pub fn new(producer: u32, number: u32) -> Self {
        let id = producer * PER_PRODUCER + number;
        let before = DROPS.with_borrow_mut(|drops| drops.insert(id, 0));
        assert_eq!(before, None, "item {id} was made twice");
        Self(id)
    }

    pub fn producer(&self) -> u32 {
        self.0 / PER_PRODUCER
    }

    pub fn number(&self) -> u32 {
        self.0 % PER_PRODUCER
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        let drops = DROPS.with_borrow_mut(|drops| {
            let drops = drops.get_mut(&self.0)?;
            *drops += 1;
            Some(*drops)
        });
        if !std::thread::panicking() {
            assert_eq!(drops, Some(1), "drops of item {} (None: it was never made)", self.0);
        }
    }
}

/// Before a run of a model.
pub fn forget_items() {
    DROPS.with_borrow_mut(BTreeMap::clear);
}

/// After a run of a model, when nothing should be left.
pub fn every_item_dropped_once() {
    DROPS.with_borrow(|drops| {
        for (id, drops) in drops {
            assert_eq!(*drops, 1, "drops of item {id}");
        }
    });
}
