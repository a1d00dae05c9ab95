//! Forming batches: when to close one, and with which items. Pure: no thread, no clock, no lock.
//!
//! The [`Former`] is shown a [`View`] of the ring and says the next [`Step`]. While a batch is
//! forming its items *stay in the ring*, so that a flusher keeps off the producers' cache lines
//! until the batch is full or due. Only where bytes count are items taken out earlier, to be
//! weighed.
//!
//! **Age without time stamps.** `max_batch_delay` is the age of the first item, and items carry no
//! time. `Marks` keep pairs (position, moment) that mean *no add at this position or later had
//! returned before this moment*. The newest mark at or before the first item's position bounds its
//! age from above: a batch may be written earlier than needed, never later.

mod former;
mod marks;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;

pub use former::{Buffer, Formed, Former, Step, Triggers, View, Weight};
