//! The checks, a module for each subject.

pub mod busy;
pub mod control;
pub mod cpuset;
pub mod engine;
pub mod homes;
pub mod machine;
pub mod offline;
pub mod placed;
