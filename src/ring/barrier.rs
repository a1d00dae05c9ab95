//! An asymmetric barrier: the side that acts a million times a second pays next to nothing, the one
//! that rarely acts pays for both.
//!
//! Two threads that each write one word and then read the other's must not both miss what the other
//! has written. A full fence between write and read on both sides prevents that, and costs the fast
//! side more than the rest of what it does. Linux does it from one side: `membarrier` interrupts
//! every CPU on which a thread of this process runs, so that each of them has either done its write
//! before, visibly, or does its read after.
//!
//! ```text
//!   fast side                       rare side
//!   write x                         write y
//!   light: the compiler's order     heavy: membarrier(PRIVATE_EXPEDITED)
//!   read y                          read x             one of the two sees what the other wrote
//! ```
//!
//! Where the system has no `membarrier`, or a container's filter refuses it, both sides fence.
//! [`Barrier::detect`] asks once for the process. In the models both sides are fences, but where
//! items are only handed over they do nothing: that must not lean on them.
//!
//! **Source**: membarrier(2); Dice, Huang and Yang, "Asymmetric Dekker Synchronization", 2001.

use std::fmt;

use crate::sync::{Ordering, fence};

/// How the two sides are kept in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// By `membarrier`, on the rare side.
    Asymmetric,
    /// By a fence on both sides: the system did not take `membarrier`.
    Fences,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asymmetric => "membarrier",
            Self::Fences => "fences, as the system refuses membarrier",
        })
    }
}

impl Barrier {
    /// What this system offers. Registers the process with the first call.
    pub fn detect() -> Self {
        imp::detect()
    }

    /// The fast side, between its write and its read.
    #[inline(always)]
    pub fn light(self) {
        match self {
            Self::Asymmetric => imp::compiler_fence(Ordering::SeqCst),
            Self::Fences => fence(Ordering::SeqCst),
        }
    }

    /// The rare side, between its write and its read.
    pub fn heavy(self) {
        fence(Ordering::SeqCst);
        if self == Self::Asymmetric {
            imp::membarrier();
        }
    }
}

#[cfg(all(target_os = "linux", not(any(loom, shuttle, miri))))]
mod imp {
    use std::sync::OnceLock;

    use super::Barrier;
    pub use crate::sync::compiler_fence;

    /// Commands of membarrier(2), from linux/membarrier.h.
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    pub fn detect() -> Barrier {
        static DETECTED: OnceLock<Barrier> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            match call(REGISTER_PRIVATE_EXPEDITED) && call(PRIVATE_EXPEDITED) {
                true => Barrier::Asymmetric,
                false => Barrier::Fences,
            }
        })
    }

    pub fn membarrier() {
        let done = call(PRIVATE_EXPEDITED);
        // Documented: once it has worked for a process, it works.
        debug_assert!(done, "membarrier was there a moment ago");
    }

    fn call(command: libc::c_int) -> bool {
        // SAFETY: a system call that takes three integers, and touches no memory of ours.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
        done == 0
    }
}

#[cfg(not(all(target_os = "linux", not(any(loom, shuttle, miri)))))]
mod imp {
    use super::Barrier;
    use crate::sync::Ordering;

    pub fn detect() -> Barrier {
        Barrier::Fences
    }

    pub fn membarrier() {}

    pub fn compiler_fence(_: Ordering) {}
}
