//! The binding file: the one call of the system that no dependency makes safe.

/// The CPU that the calling thread runs on, at this moment.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn current_cpu() -> Option<u32> {
    // SAFETY: it takes nothing, touches no memory of ours, and may be called from any thread at any
    // time; where it is not known it says -1.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu).ok()
}

#[cfg(not(target_os = "linux"))]
pub fn current_cpu() -> Option<u32> {
    None
}
