//! Bugs that can be planted, to see the checks fail: `SLUICEGATE_MUTANT` names one. `mutants.txt`
//! says which checks must find it.

use std::env;

/// Whether this bug is to be planted.
pub fn planted(mutant: &str) -> bool {
    env::var("SLUICEGATE_MUTANT").is_ok_and(|planted| planted == mutant)
}
