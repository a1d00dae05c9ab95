//! Where threads run and memory lies: asks the system for it.
//!
//! Nothing here panics or is silent: what the system would not do is an error with its own words, and
//! with what is known to help.

use std::mem::MaybeUninit;

use super::cpuset::CpuSet;

/// Pins the calling thread to these CPUs; an error says why the system would not.
///
/// Ok means that the system, asked anew, says that the thread runs on these CPUs and on no other. It
/// may have left out some of them: those that are offline, and those that this process may not use.
pub fn bind_thread(cpus: &CpuSet) -> Result<(), String> {
    imp::bind_thread(cpus).map_err(|why| format!("not pinned to CPU {cpus}: {why}"))
}

/// Has memory that was not touched yet lie on the NUMA node of that number; an error says why the
/// system would not.
///
/// It is bound in whole pages, also those at the ends that it shares with other memory. What is
/// there already stays where it is. A node that is full passes on to the next: better far memory
/// than none.
pub fn bind_memory(memory: &[MaybeUninit<u8>], node: u32) -> Result<(), String> {
    imp::bind_memory(memory, node).map_err(|why| format!("not bound to node {node}: {why}"))
}

/// The CPU that the calling thread runs on, at this moment; `None` where the system does not say.
pub fn current_cpu() -> Option<u32> {
    imp::current_cpu()
}

#[cfg(not(any(loom, shuttle)))]
mod imp {
    use super::*;
    use crate::placement::affinity;
    #[cfg(feature = "numa")]
    use crate::placement::hwloc;

    pub use crate::placement::sys::current_cpu;

    pub fn bind_thread(cpus: &CpuSet) -> Result<(), String> {
        if cpus.is_empty() {
            return Err("no CPU was named".to_owned());
        }
        #[cfg(feature = "numa")]
        if let Ok(known) = hwloc::known() {
            return hwloc::bind_thread(known, cpus);
        }
        affinity::bind_thread(cpus)
    }

    #[cfg_attr(not(feature = "numa"), allow(unused_variables))]
    pub fn bind_memory(memory: &[MaybeUninit<u8>], node: u32) -> Result<(), String> {
        #[cfg(feature = "numa")]
        return hwloc::bind_memory(hwloc::known()?, memory, node);
        #[cfg(not(feature = "numa"))]
        Err("built without the feature `numa`".to_owned())
    }
}

#[cfg(any(loom, shuttle))]
mod imp {
    use super::*;

    pub fn bind_thread(_: &CpuSet) -> Result<(), String> {
        Err("a model has no CPUs".to_owned())
    }

    pub fn bind_memory(_: &[MaybeUninit<u8>], _: u32) -> Result<(), String> {
        Err("a model has no memory".to_owned())
    }

    pub fn current_cpu() -> Option<u32> {
        None
    }
}
