//! The machine as hwloc knows it, and binding by hwloc.
//!
//! hwloc's traps, and what is done about them:
//!
//! - `HWLOC_SYNTHETIC`, `HWLOC_XMLFILE` and others make it describe another machine, without a word;
//!   binding then succeeds and does nothing. Such variables get a note, and binding is refused.
//! - It shows all CPUs to a process that may use some. What may be used is asked of the system:
//!   [`process`](super::process).
//! - A node without CPUs has the CPU set of its neighbours, or none: [`Survey::home`].
//! - Without /sys it finds one node, and says so on standard error. It is not asked then.
//! - To learn more about x86 it moves the calling thread to every CPU in turn, those that are to be
//!   left alone too. It is told not to.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::OnceLock;

use hwlocality::Topology as Hwloc;
use hwlocality::bitmap::BitmapIndex;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::cpu::cpuset::CpuSet as HwlocCpus;
use hwlocality::errors::HybridError;
use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::memory::nodeset::NodeSet as HwlocNodes;
use hwlocality::topology::builder::BuildFlags;

use super::cpuset::CpuSet;
use super::machine::{CALLER_ONLY, Machine};
use super::process::{self, Allowed};
use super::survey::{Survey, numbers};
use crate::guard::guarded;

/// Variables that make hwloc describe something else than what it finds.
const VARIABLES: [&str; 6] = [
    "HWLOC_XMLFILE",
    "HWLOC_SYNTHETIC",
    "HWLOC_FSROOT",
    "HWLOC_CPUID_PATH",
    "HWLOC_COMPONENTS",
    "HWLOC_THISSYSTEM",
];

/// What is kept of hwloc's first look.
pub struct Known {
    hwloc: Hwloc,
    /// The CPUs that were running.
    online: Option<BTreeSet<u32>>,
}

/// What hwloc found when this process asked first; an error says why it could not look.
pub fn known() -> Result<&'static Known, String> {
    static KNOWN: OnceLock<Result<Known, String>> = OnceLock::new();
    let look = || Ok(Known { online: process::online(), hwloc: look()? });
    KNOWN.get_or_init(look).as_ref().map_err(Clone::clone)
}

/// Looks at the machine, with what this process may not use as well.
fn look() -> Result<Hwloc, String> {
    let hidden = cfg!(target_os = "linux") && !Path::new("/sys/devices/system/cpu").is_dir();
    if hidden && variables().is_none() {
        return Err("hwloc was not asked: it needs /sys, which is not there".to_owned());
    }
    let flags = BuildFlags::INCLUDE_DISALLOWED | BuildFlags::DONT_CHANGE_BINDING;
    let builder = || Hwloc::builder().with_flags(flags).map_err(|error| error.to_string());
    let look = || builder()?.build().map_err(|error| error.to_string());
    careful(look).map_err(|why| format!("hwloc could not look at the machine: {why}"))
}

/// hwlocality panics over an answer of hwloc that it does not know.
fn careful<R>(call: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    guarded(call).unwrap_or_else(Err)
}

/// The machine now.
pub fn machine() -> Result<Machine, String> {
    let known = known()?;
    let stale = known.hwloc.is_this_system() && process::online() != known.online;
    let fresh = stale.then(look).transpose()?;
    let hwloc = fresh.as_ref().unwrap_or(&known.hwloc);
    careful(|| {
        let mut notes: Vec<String> = variables_note(hwloc).into_iter().collect();
        let allowed = allowed(hwloc, &mut notes);
        let topology = Survey::new(hwloc).topology(&allowed);
        Ok(Machine { topology, backend: version(hwloc), notes })
    })
}

/// What this process may use of it.
fn allowed(hwloc: &Hwloc, notes: &mut Vec<String>) -> Allowed {
    let by_hwloc = || Allowed {
        cpus: numbers(hwloc.allowed_cpuset().weight(), hwloc.allowed_cpuset().iter_set()),
        nodes: None,
    };
    if !hwloc.is_this_system() || !cfg!(target_os = "linux") {
        return by_hwloc();
    }
    let known = numbers(hwloc.cpuset().weight(), hwloc.cpuset().iter_set());
    process::allowed(&known).unwrap_or_else(|| {
        notes.push(CALLER_ONLY.to_owned());
        let own = hwloc.cpu_binding(CpuBindingFlags::THREAD).ok();
        let own = own.map(|own| numbers(own.weight(), own.iter_set()));
        own.map_or_else(by_hwloc, |cpus| Allowed { cpus, nodes: None })
    })
}

/// hwloc and its version.
fn version(hwloc: &Hwloc) -> String {
    let told = hwloc.root_object().info("hwlocVersion").filter(|_| hwloc.is_this_system());
    told.map_or("hwloc".to_owned(), |version| format!("hwloc {}", version.to_string_lossy()))
}

/// The variables in the environment that hwloc heeds, if there are any.
fn variables() -> Option<String> {
    let set = VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some());
    let set: Vec<&str> = set.collect();
    (!set.is_empty()).then(|| set.join(", "))
}

fn variables_note(hwloc: &Hwloc) -> Option<String> {
    match (hwloc.is_this_system(), variables()) {
        (true, None) => None,
        (true, Some(set)) => Some(format!("hwloc describes the machine as {set} told it to")),
        (false, _) => Some(format!("{}: nothing is bound", elsewhere())),
    }
}

fn elsewhere() -> String {
    let why = variables().map_or(String::new(), |set| format!(" ({set} is set)"));
    format!("hwloc describes another machine than this one{why}")
}

/// hwloc, if it describes the machine that this is.
pub fn is_ours(known: &Known) -> Result<&Hwloc, String> {
    if known.hwloc.is_this_system() { Ok(&known.hwloc) } else { Err(elsewhere()) }
}

/// Pins the calling thread, and sees whether it is so.
pub fn bind_thread(known: &Known, cpus: &CpuSet) -> Result<(), String> {
    let hwloc = is_ours(known)?;
    careful(|| {
        let mut wanted = HwlocCpus::new();
        for cpu in cpus.iter() {
            let index = index(cpu).filter(|index| hwloc.complete_cpuset().is_set(*index));
            wanted.set(index.ok_or_else(|| unknown("CPU", cpu))?);
        }
        let done = hwloc.bind_cpu(&wanted, CpuBindingFlags::THREAD);
        done.map_err(|error| refusal(&error, cpu_hint))?;
        let found = hwloc.cpu_binding(CpuBindingFlags::THREAD);
        let found = found.map_err(|error| format!("it cannot be seen whether it is: {error}"))?;
        if found.is_empty() || !wanted.includes(&found) {
            return Err(format!("the system agreed, but the thread may run on CPU {found}"));
        }
        Ok(())
    })
}

/// Binds memory that was not touched yet. What is there already hwloc would not move, it refuses
/// that for a piece of memory.
pub fn bind_memory(known: &Known, memory: &[MaybeUninit<u8>], node: u32) -> Result<(), String> {
    let hwloc = is_ours(known)?;
    careful(|| {
        let index = index(node).filter(|index| hwloc.complete_nodeset().is_set(*index));
        let mut wanted = HwlocNodes::new();
        wanted.set(index.ok_or_else(|| unknown("node", node))?);
        // Without STRICT it is a preference: a node that is full is no reason to be killed.
        let (policy, flags) = (MemoryBindingPolicy::Bind, MemoryBindingFlags::empty());
        let done = hwloc.bind_memory_area(memory, &wanted, policy, flags);
        done.map_err(|error| refusal(&error, memory_hint))
    })
}

fn index(number: u32) -> Option<BitmapIndex> {
    BitmapIndex::try_from(usize::try_from(number).ok()?).ok()
}

fn unknown(what: &str, number: u32) -> String {
    format!("{what} {number} is not one of those that hwloc found when this process began")
}

/// The system's own words, and a hint.
fn refusal<E: std::error::Error>(
    error: &HybridError<E>,
    hint: fn(io::ErrorKind) -> Option<&'static str>,
) -> String {
    let system = match error {
        HybridError::Hwloc(raw) => raw.errno.map(|errno| io::Error::from_raw_os_error(errno.0)),
        HybridError::Rust(_) => None,
    };
    let words: &dyn Display = system.as_ref().map_or(error as &dyn Display, |system| system);
    match system.as_ref().and_then(|system| hint(system.kind())) {
        Some(hint) => format!("{words}; {hint}"),
        None => words.to_string(),
    }
}

fn cpu_hint(error: io::ErrorKind) -> Option<&'static str> {
    match error {
        io::ErrorKind::InvalidInput => Some("is it offline, or not in this process's cpuset?"),
        io::ErrorKind::PermissionDenied => Some("does a seccomp profile forbid sched_setaffinity?"),
        _ => None,
    }
}

fn memory_hint(error: io::ErrorKind) -> Option<&'static str> {
    match error {
        io::ErrorKind::InvalidInput => {
            Some("is it offline, without memory, or not in this process's cpuset (cpuset.mems)?")
        }
        io::ErrorKind::PermissionDenied => Some(
            "the default seccomp profile of containers forbids mbind: give the container the \
             capability SYS_NICE, or a profile that allows it",
        ),
        _ => None,
    }
}
