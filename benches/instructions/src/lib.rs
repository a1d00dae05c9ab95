//! Counting under valgrind, and comparing counts. What is counted is in the program, `main.rs`.

pub mod counts;
pub mod measured;
#[cfg(test)]
mod tests;
pub mod valgrind;
