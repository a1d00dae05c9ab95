//! The machine that this process runs on.

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
    #[must_use]
    pub fn detect() -> Self {
        Self { topology: Topology::default(), backend: "none".to_owned(), notes: Vec::new() }
    }
}
