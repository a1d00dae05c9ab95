//! Waiting without burning a core and without losing a wake-up.
//!
//! Three things wait in this engine: a flusher for a batch ([`Wake`]), a producer for room in a
//! full ring ([`WaitList`]), and both do it on a `Parker`. Callers of `flush` and `shutdown` wait
//! on the ledger's own condition variable (`engine::ledger`).

mod list;
mod parker;
mod wake;

pub use list::WaitList;
pub use wake::Wake;
