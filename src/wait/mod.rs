//! Waiting without burning a core and without losing a wake-up.
//!
//! Three things wait in this engine: a flusher for a batch ([`Wake`]), a producer for room in a
//! full ring, or for bytes of the memory budget ([`WaitList`], [`Budget`]); all do it on a
//! `Parker`. Callers of `flush` and `shutdown` wait on the ledger's own condition variable
//! (`flush::ledger`).

mod budget;
mod line;
mod list;
mod parker;
mod wake;

pub use budget::{Budget, Charge};
pub use line::Waiter;
pub use list::WaitList;
pub use wake::Wake;
