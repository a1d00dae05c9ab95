//! The caller's code may panic anywhere it is called, in a `Drop` too; here it does no harm.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls the caller's code; a panic becomes its message.
pub fn guarded<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        // Dropping what was thrown may panic again: then it is left where it is.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            mem::forget(again);
        }
        text.unwrap_or_else(|| "of no known type".to_owned())
    })
}

/// Drops the caller's values, first to last; returns how many of them panicked. Left to themselves,
/// the second panic while the first unwinds would abort the process.
pub fn drop_each<V>(values: &mut Vec<V>) -> u64 {
    let mut panics = 0;
    if mem::needs_drop::<V>() {
        values.reverse();
        while !values.is_empty() {
            let dropped = guarded(|| {
                while let Some(value) = values.pop() {
                    drop(value);
                }
            });
            panics += u64::from(dropped.is_err());
        }
    }
    values.clear();
    panics
}
