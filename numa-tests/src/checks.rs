//! The checks, a module for each subject.

pub mod control;
pub mod cpuset;
pub mod engine;
pub mod machine;
pub mod offline;
