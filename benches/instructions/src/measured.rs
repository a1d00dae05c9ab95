//! What valgrind is to look at: [`measured`] calls an operation so that both tools know it.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Part of the name, as valgrind knows it, of the function whose instructions are counted.
pub const COUNTED: &str = "measured::counted";

/// Written before and after each operation, for the trace of memory.
pub static MARK: AtomicU64 = AtomicU64::new(0);

/// A regression made on purpose: each operation costs a few instructions more.
pub static PLANTED: AtomicBool = AtomicBool::new(false);

/// Calls an operation; nothing but that is counted.
#[inline(always)]
pub fn measured<R>(operation: impl FnOnce() -> R) -> R {
    MARK.fetch_add(1, Ordering::Relaxed);
    let done = counted(operation);
    if PLANTED.load(Ordering::Relaxed) {
        counted(|| black_box(0_u64));
    }
    MARK.fetch_add(1, Ordering::Relaxed);
    done
}

#[inline(never)]
fn counted<R>(operation: impl FnOnce() -> R) -> R {
    operation()
}
