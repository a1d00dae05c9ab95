//! The machine that this process runs on.
//!
//! Two can tell. **hwloc**, with the feature `numa`: nodes, cores, caches, distances, kinds of CPUs.
//! It looks once in the life of the process, since that takes milliseconds, and again when a CPU has
//! gone on or off since then. **core_affinity** otherwise, or where hwloc fails: one node with the
//! CPUs, and nothing about them.
//!
//! What this process *may* use is read at each look, because cgroups and masks change: the CPUs of
//! all its threads taken together, since the thread that asks may be one that the program has pinned.

use super::topology::Topology;

/// The machine that this process runs on, as far as it can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Machine {
    /// Its nodes and CPUs.
    pub topology: Topology,
    /// Who has told: `hwloc` with its version, or `core_affinity`.
    pub backend: String,
    /// What the caller should know and might not expect.
    pub notes: Vec<String>,
}

impl Machine {
    /// A machine of which somebody has told.
    pub(crate) fn of(backend: &str, topology: Topology) -> Self {
        Self { topology, backend: backend.to_owned(), notes: Vec::new() }
    }

    /// Looks at the machine.
    ///
    /// ```
    /// use sluicegate::placement::{Machine, Options, plan};
    ///
    /// let machine = Machine::detect();
    /// println!("{}", plan(&machine.topology, &Options::default()));
    /// ```
    #[must_use]
    #[cfg(not(any(loom, shuttle)))]
    pub fn detect() -> Self {
        #[cfg(feature = "numa")]
        match super::hwloc::machine() {
            Ok(machine) => machine,
            Err(why) => {
                let mut machine = super::affinity::machine();
                machine.notes.insert(0, why);
                machine
            }
        }
        #[cfg(not(feature = "numa"))]
        super::affinity::machine()
    }

    /// A model has no machine.
    #[must_use]
    #[cfg(any(loom, shuttle))]
    pub fn detect() -> Self {
        Self { topology: Topology::default(), backend: "none".to_owned(), notes: Vec::new() }
    }
}

/// In place of what all threads may use.
#[cfg(not(any(loom, shuttle)))]
pub const CALLER_ONLY: &str = "/proc or /sys cannot be read: taken for usable are the CPUs that the \
    thread may use that looked at the machine";
