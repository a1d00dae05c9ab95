//! Where threads run and memory lies: asks the system for it.

use std::mem::MaybeUninit;

use super::cpuset::CpuSet;

/// Pins the calling thread to these CPUs; an error says why the system would not.
#[allow(dead_code)] // until the engine follows the plan
pub fn bind_thread(cpus: &CpuSet) -> Result<(), String> {
    Err(format!("not pinned to CPU {cpus}: not known how"))
}

/// Has memory that was not touched yet lie on the NUMA node of that number; an error says why the
/// system would not.
#[allow(dead_code)]
pub fn bind_memory(_: &[MaybeUninit<u8>], node: u32) -> Result<(), String> {
    Err(format!("not bound to node {node}: not known how"))
}

/// The CPU that the calling thread runs on, at this moment.
#[allow(dead_code)]
pub fn current_cpu() -> Option<u32> {
    None
}
