//! What proves a placement: where a thread was seen, where pages lie. The controls show that each
//! of these proofs fails when the placement is wrong.

use std::thread;

use crate::machine::{Set, list};
use crate::sys::{self, Mapping, Pages};

/// Looks that a thread takes at where it is.
const LOOKS: usize = 200;

/// The places where a thread was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    pub cpus: Set,
    pub nodes: Set,
}

impl Sightings {
    /// Where the calling thread is, at many moments at which it could have been moved.
    pub fn of_this_thread() -> Result<Self, String> {
        let mut sightings = Self::default();
        for _ in 0..LOOKS {
            sightings.look()?;
            thread::yield_now();
        }
        Ok(sightings)
    }

    /// Adds where the calling thread is now.
    pub fn look(&mut self) -> Result<(), String> {
        let place = sys::here().map_err(|error| format!("getcpu: {error}"))?;
        self.cpus.insert(place.cpu);
        self.nodes.insert(place.node);
        Ok(())
    }

    /// Adds what was seen elsewhere in time.
    pub fn merge(&mut self, other: &Self) {
        self.cpus.extend(&other.cpus);
        self.nodes.extend(&other.nodes);
    }

    /// Whether the thread was seen on this node, and nowhere else.
    pub fn prove_node(&self, node: usize) -> Result<(), String> {
        if self.nodes == Set::from([node]) {
            return Ok(());
        }
        let (nodes, cpus) = (list(&self.nodes), list(&self.cpus));
        Err(format!("a thread of node {node} was seen on nodes {nodes}, CPUs {cpus}"))
    }
}

impl Pages {
    /// Adds those of another area.
    pub fn merge(&mut self, other: &Self) {
        for (&node, pages) in &other.on {
            *self.on.entry(node).or_default() += pages;
        }
        self.absent += other.absent;
    }

    /// Whether all pages lie on this node.
    pub fn prove_node(&self, node: usize) -> Result<(), String> {
        let elsewhere = self.on.keys().any(|&on| on != node);
        if self.absent == 0 && self.on.contains_key(&node) && !elsewhere {
            return Ok(());
        }
        Err(format!("pages of node {node}: {self:?}"))
    }
}

/// Runs `f` on a thread that is pinned to these CPUs.
pub fn pinned<R: Send>(
    cpus: &Set,
    f: impl FnOnce() -> Result<R, String> + Send,
) -> Result<R, String> {
    let run = || {
        let pinned = sys::set_affinity(cpus);
        pinned.map_err(|error| format!("pinning to CPUs {}: {error}", list(cpus)))?;
        f()
    };
    thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|_| Err("the pinned thread panicked".to_owned()))
}

/// Fresh memory, touched by the calling thread; `prepare` sees it before that.
pub fn touched(
    pages: usize,
    prepare: impl FnOnce(&mut Mapping) -> std::io::Result<()>,
) -> Result<Mapping, String> {
    let mut memory = Mapping::pages(pages).map_err(|error| format!("mmap: {error}"))?;
    prepare(&mut memory).map_err(|error| format!("mbind: {error}"))?;
    memory.touch();
    Ok(memory)
}

/// Where the pages of a mapping lie.
pub fn nodes_of(memory: &Mapping) -> Result<Pages, String> {
    memory.nodes().map_err(|error| format!("move_pages: {error}"))
}
