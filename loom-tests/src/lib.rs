//! What the models of loom and of shuttle share: items whose every drop is counted, an engine's
//! parts without its threads, and tasks.

#![cfg_attr(any(loom, shuttle), allow(missing_docs))]

#[cfg(any(loom, shuttle))]
mod items;
#[cfg(any(loom, shuttle))]
mod parts;
#[cfg(any(loom, shuttle))]
mod task;

#[cfg(any(loom, shuttle))]
pub use items::{Item, every_item_dropped_once, forget_items};
#[cfg(any(loom, shuttle))]
pub use parts::{
    Failing, Parts, add, add_async, collect, failing, make, next, parts, parts_with, serve, write,
};
#[cfg(any(loom, shuttle))]
pub use task::{block_on, poll_once};
