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

/// Moves the pages that these bytes lie in to the NUMA node of that number, those at the ends too.
/// Returns how many may have stayed elsewhere; an error says why the system would not move any.
///
/// What else lies in the pages at the ends comes along. A page that nobody has touched yet is left
/// to who touches it first.
pub fn move_memory(start: usize, bytes: usize, node: u32) -> Result<usize, String> {
    imp::move_memory(start, bytes, node)
        .map_err(|why| format!("batches not moved to node {node}: {why}"))
}

/// Bytes of a page of memory.
pub fn page_size() -> usize {
    imp::page_size()
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

    pub use crate::placement::sys::{current_cpu, page_size};

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

    #[cfg_attr(not(feature = "numa"), allow(unused_variables))]
    pub fn move_memory(start: usize, bytes: usize, node: u32) -> Result<usize, String> {
        #[cfg(feature = "numa")]
        {
            hwloc::is_ours(hwloc::known()?)?;
            let moved = crate::placement::sys::move_pages(start, bytes, node);
            moved.map_err(|error| match error.kind() {
                std::io::ErrorKind::PermissionDenied => format!("{error}; {MOVE_HINT}"),
                _ => error.to_string(),
            })
        }
        #[cfg(not(feature = "numa"))]
        Err("built without the feature `numa`".to_owned())
    }

    #[cfg(feature = "numa")]
    const MOVE_HINT: &str = "does a seccomp profile forbid move_pages, or cpuset.mems the node?";
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

    pub fn move_memory(_: usize, _: usize, _: u32) -> Result<usize, String> {
        Err("a model has no memory".to_owned())
    }

    pub fn page_size() -> usize {
        4096
    }

    pub fn current_cpu() -> Option<u32> {
        None
    }
}
