//! The `sluicegate` command.
#![forbid(unsafe_code)]

fn main() {}
