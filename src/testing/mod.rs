//! For tests of sinks, and of programs that must live with sinks that fail. Feature `testing`.
//!
//! | you have | you want |
//! |---|---|
//! | a sink of your own | [`conformance`]: does it keep to what the engine relies on? |
//! | a program with an engine in it | [`Faults`]: errors, hangs and panics, planned, and the same for the same seed |
//! | a test that looks at what was written | [`Recorder`] |
//! | a test in which a sink must wait | [`Gate`] |
//! | a test of placement, on a machine that is not at hand | [`seem_on_cpu`] |
//!
//! Not for production: what is here may panic, which is what a test wants of it.

pub mod conformance;
mod fault_sink;
mod faults;
mod gate;
mod log;
mod recorder;
mod rng;
#[cfg(test)]
mod tests;

pub use fault_sink::FaultSink;
pub use faults::{Fault, Faults};
pub use gate::Gate;
pub use log::{Call, FaultLog, Outcome};
pub use recorder::Recorder;

pub use crate::placement::seem_on_cpu;
