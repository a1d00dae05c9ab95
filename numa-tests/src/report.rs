//! A line for each check, and a verdict at the end, for `ci/numa.sh` to find in the console's log.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a check found: some words on what it saw, or why it failed.
pub type Found = Result<String, String>;

/// The checks so far.
#[derive(Debug, Default)]
pub struct Report {
    checks: usize,
    failed: Vec<&'static str>,
}

impl Report {
    /// Runs a check, and says what came of it. A panic is a failure.
    pub fn check(&mut self, name: &'static str, check: impl FnOnce() -> Found) {
        self.checks += 1;
        let found = catch_unwind(AssertUnwindSafe(check));
        match found.unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic)))) {
            Ok(seen) => println!("ok   {name}: {seen}"),
            Err(why) => {
                self.failed.push(name);
                println!("FAIL {name}: {why}");
            }
        }
    }

    /// Says the verdict; returns whether everything passed. No check at all is a failure.
    pub fn verdict(self, machine: &str) -> bool {
        let passed = self.failed.is_empty() && self.checks > 0;
        if passed {
            println!("verdict: pass, {} checks on {machine}", self.checks);
        } else {
            let failed = self.failed.join(", ");
            println!(
                "verdict: FAIL, {} of {} on {machine}: {failed}",
                self.failed.len(),
                self.checks
            );
        }
        passed
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
