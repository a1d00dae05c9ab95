//! Waiting without burning a core and without losing a wake-up.
//!
//! Three things wait in this engine: a flusher for a batch ([`Wake`]), a producer for room in a
//! full ring, or for bytes of the memory budget ([`WaitList`], [`Budget`]); all do it on a
//! `Parker`. Flushers that are tasks wait for one another at a `Bell`. Callers of `flush` and
//! `shutdown` wait on the ledger's own condition variable (`flush::ledger`).

#[cfg(any(feature = "tokio", loom, shuttle))]
mod bell;
mod budget;
mod line;
mod list;
mod parker;
#[cfg(all(test, feature = "tokio"))]
#[cfg(not(any(loom, shuttle)))]
mod tests;
mod wake;

#[cfg(any(feature = "tokio", loom, shuttle))]
pub use bell::Bell;
pub use budget::{Budget, Charge};
pub use line::Waiter;
pub use list::WaitList;
#[cfg(any(loom, shuttle))]
pub use wake::Parking;
pub use wake::{Beside, Wake, Want};
