//! Which core a flusher gets; the order is in the module doc of `placement`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cpuset::CpuSet;
use super::plan::count;
use super::topology::{Cpu, Topology};

/// The usable CPUs of a node, and the flushers that have taken them.
pub struct Seats<'a> {
    cpus: Vec<&'a Cpu>,
    /// The core of the node's lowest CPU, usable or not.
    first_core: Option<u32>,
    /// The CPU of each flusher so far, as an index, and its ring.
    taken: Vec<(usize, usize)>,
    on_cpu: BTreeMap<u32, usize>,
    on_core: BTreeMap<u32, usize>,
    on_cache: BTreeMap<Option<u32>, usize>,
    /// The first flusher of each ring.
    leaders: BTreeMap<usize, usize>,
}

impl<'a> Seats<'a> {
    pub fn new(topology: &'a Topology, node: u32) -> Self {
        Self {
            cpus: topology.cpus_on(node).filter(|cpu| cpu.usable()).collect(),
            first_core: topology.cpus_on(node).map(|cpu| cpu.core).next(),
            taken: Vec::new(),
            on_cpu: BTreeMap::new(),
            on_core: BTreeMap::new(),
            on_cache: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    /// Finds a CPU for the next flusher, which is to collect from this ring.
    pub fn take(&mut self, ring: usize) {
        let leader = self.leaders.get(&ring).and_then(|&leader| self.cpu_of(leader));
        let flushers = |on: &BTreeMap<u32, usize>, key| on.get(&key).copied().unwrap_or(0);
        let price = |cpu: &Cpu| {
            let crowd = self.on_cache.get(&cpu.cache).copied().unwrap_or(0);
            let elsewhere = leader.is_some_and(|leader| leader.cache != cpu.cache);
            (
                flushers(&self.on_cpu, cpu.os_index),
                flushers(&self.on_core, cpu.core),
                Some(cpu.core) == self.first_core,
                Reverse(cpu.performance),
                // Who is where its ring's first flusher is does not mind the others there.
                if leader.is_some() && !elsewhere { 0 } else { crowd + usize::from(elsewhere) },
                cpu.os_index,
            )
        };
        let Some((index, cpu)) = self.cpus.iter().enumerate().min_by_key(|(_, cpu)| price(cpu))
        else {
            return;
        };
        *self.on_cpu.entry(cpu.os_index).or_default() += 1;
        *self.on_core.entry(cpu.core).or_default() += 1;
        *self.on_cache.entry(cpu.cache).or_default() += 1;
        self.leaders.entry(ring).or_insert(self.taken.len());
        self.taken.push((index, ring));
    }

    /// The CPU of each flusher and the reasons, now that all have theirs. The flushers of the node
    /// are numbered from `first`.
    pub fn explain(&self, first: usize) -> impl Iterator<Item = (u32, String)> + '_ {
        let seats = self.taken.iter().enumerate().filter_map(move |(flusher, &(index, ring))| {
            let cpu = self.cpus.get(index)?;
            let leader = self.leaders.get(&ring).copied().filter(|&leader| leader != flusher);
            Some((flusher, *cpu, leader))
        });
        seats.map(move |(_, cpu, leader)| {
            let reasons = [
                Some(self.why_company(cpu)),
                self.why_first(cpu),
                self.why_kind(cpu),
                leader.and_then(|leader| self.why_cache(cpu, leader, first + leader)),
            ];
            let reasons: Vec<String> = reasons.into_iter().flatten().collect();
            (cpu.os_index, reasons.join("; "))
        })
    }

    fn cpu_of(&self, flusher: usize) -> Option<&'a Cpu> {
        self.taken.get(flusher).and_then(|&(index, _)| self.cpus.get(index).copied())
    }

    /// The other usable CPUs of its core.
    fn siblings(&self, cpu: &Cpu) -> CpuSet {
        let others = self.cpus.iter().filter(|other| other.os_index != cpu.os_index);
        others.filter(|other| other.core == cpu.core).map(|other| other.os_index).collect()
    }

    fn cores(&self) -> usize {
        let mut cores: Vec<u32> = self.cpus.iter().map(|cpu| cpu.core).collect();
        cores.sort_unstable();
        cores.dedup();
        cores.len()
    }

    /// Who else is on the core.
    fn why_company(&self, cpu: &Cpu) -> String {
        let flushers = count(self.taken.len(), "flusher");
        let on_cpu = self.on_cpu.get(&cpu.os_index).copied().unwrap_or(0);
        if on_cpu > 1 {
            let cpus = count(self.cpus.len(), "CPU");
            return format!("one of {on_cpu} flushers on the CPU: {flushers} for {cpus}");
        }
        let on_core = self.on_core.get(&cpu.core).copied().unwrap_or(0);
        if on_core > 1 {
            let (cores, siblings) = (count(self.cores(), "core"), self.siblings(cpu));
            let what = format!("one of {on_core} flushers on the core, with CPU {siblings}");
            return format!("{what}: {flushers} for {cores}");
        }
        match self.siblings(cpu) {
            none if none.is_empty() => "a core of its own".to_owned(),
            cpus => format!("a core of its own, SMT sibling CPU {cpus} gets no flusher"),
        }
    }

    /// What the node's first core has to do with it.
    fn why_first(&self, cpu: &Cpu) -> Option<String> {
        if self.cores() == 1 {
            return Some("the only core that can be used".to_owned());
        }
        let first = self.first_core?;
        if cpu.core == first {
            return Some("the node's first core, as the others have flushers".to_owned());
        }
        let free = self.on_core.get(&first).is_none_or(|flushers| *flushers == 0);
        let on_first = self.cpus.iter().filter(|cpu| cpu.core == first);
        let cpus: CpuSet = on_first.map(|cpu| cpu.os_index).collect();
        let why = || format!("the node's first core (CPU {cpus}) is left to the system");
        (free && !cpus.is_empty()).then(why)
    }

    /// Where cores are of several kinds: which kind it is.
    fn why_kind(&self, cpu: &Cpu) -> Option<String> {
        let fastest = self.cpus.iter().map(|cpu| cpu.performance).max()?;
        if self.cpus.iter().all(|cpu| cpu.performance == fastest) {
            return None;
        }
        Some(match cpu.performance == fastest {
            true => "of the fastest kind".to_owned(),
            false => "a slower kind, as no fast core but the first was free".to_owned(),
        })
    }

    /// Where the node has several last-level caches: whether it has that of its ring's first
    /// flusher, whose name is given.
    fn why_cache(&self, cpu: &Cpu, leader: usize, name: usize) -> Option<String> {
        if self.cpus.iter().all(|other| other.cache == cpu.cache) {
            return None;
        }
        Some(match self.cpu_of(leader)?.cache == cpu.cache {
            true => format!("same last-level cache as F{name}"),
            false => format!("not the last-level cache of F{name}, where no core as good was free"),
        })
    }
}
