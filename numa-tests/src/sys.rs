//! The system calls of the proofs, as safe functions: where a thread runs, where pages lie, which
//! policy holds for them, and how either is asked for. All of this package's `unsafe`.

use std::arch::asm;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, Result};
use std::ptr;

use libc::{c_int, c_long, c_ulong, c_void};

/// Bits of a node mask; as many as the kernel can be built for.
const MASK_BITS: usize = 1024;
const WORD_BITS: usize = c_ulong::BITS as usize;
/// The kernel counts one bit less than it is told.
const MAX_NODE: c_ulong = MASK_BITS as c_ulong + 1;
/// `MPOL_F_ADDR` of `linux/mempolicy.h`: the policy of an address, not of the thread.
const POLICY_OF_ADDRESS: c_ulong = 1 << 1;
/// Where `-device isa-debug-exit,iobase=0x501` of qemu listens.
const EXIT_PORT: u16 = 0x501;

type NodeMask = [c_ulong; MASK_BITS / WORD_BITS];

/// Where a thread was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub cpu: usize,
    pub node: usize,
}

/// The place of the calling thread, as the kernel has it (`getcpu`).
pub fn here() -> Result<Place> {
    let (mut cpu, mut node): (u32, u32) = (0, 0);
    let unused = ptr::null_mut::<c_void>();
    // SAFETY: the kernel writes one `unsigned` to each of the first two, which are ours and live
    // until the call returns; it ignores the third.
    done(unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, unused) })?;
    Ok(Place { cpu: cpu as usize, node: node as usize })
}

/// Lets the calling thread run on these CPUs only. Fails when the system allows none of them.
pub fn set_affinity(cpus: &BTreeSet<usize>) -> Result<()> {
    // SAFETY: a `cpu_set_t` is an array of integers, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: `cpu` is a bit of the set, by the line above.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the kernel reads the set, of the size that it is told, and keeps no pointer to it.
    done(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
}

/// The CPUs that the calling thread may run on.
pub fn affinity() -> Result<BTreeSet<usize>> {
    // SAFETY: as in `set_affinity`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the size that it is told, into a set that is ours.
    done(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    let cpus = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: the range ends with the set.
    Ok(cpus.filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Bytes of a page.
pub fn page_size() -> usize {
    // SAFETY: takes no pointer and changes nothing.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("a page has a size")
}

/// On which nodes the pages of an area lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages on each node.
    pub on: BTreeMap<usize, usize>,
    /// Pages that are not in memory, because nobody has touched them yet.
    pub absent: usize,
}

/// Asks where the pages of `len` bytes from `start` lie (`move_pages` without a destination). The
/// memory itself is not read, so any address will do.
pub fn node_of_pages(start: *const u8, len: usize) -> Result<Pages> {
    let size = page_size();
    let first = start.addr() / size * size;
    let last = start.addr().saturating_add(len);
    let pages: Vec<*const c_void> =
        (first..last).step_by(size).map(ptr::without_provenance).collect();
    let mut status = vec![c_int::MIN; pages.len()];
    let (count, nowhere) = (pages.len() as c_ulong, ptr::null::<c_int>());
    // SAFETY: both arrays have `count` entries and outlive the call. The kernel reads addresses
    // from the first, looks them up without touching what is there, and writes the second. Without
    // nodes to move to it moves nothing.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0 as c_long,
            count,
            pages.as_ptr(),
            nowhere,
            status.as_mut_ptr(),
            0 as c_long,
        )
    })?;
    let mut answer = Pages::default();
    for status in status {
        match usize::try_from(status) {
            Ok(node) => *answer.on.entry(node).or_default() += 1,
            Err(_) if status == -libc::ENOENT || status == -libc::EFAULT => answer.absent += 1,
            Err(_) => return Err(Error::from_raw_os_error(status.saturating_neg())),
        }
    }
    Ok(answer)
}

/// Which nodes memory may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// One of `libc::MPOL_…`.
    pub mode: c_int,
    pub nodes: BTreeSet<usize>,
}

/// The policy that holds at this address (`get_mempolicy`).
pub fn policy_of(address: *const u8) -> Result<Policy> {
    let mut mode: c_int = -1;
    let mut mask: NodeMask = [0; _];
    // SAFETY: the kernel writes an `int` and a mask of as many bits as it is told, both ours; of
    // the address it wants to know the mapping and does not touch the memory.
    done(unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            MAX_NODE,
            address,
            POLICY_OF_ADDRESS,
        )
    })?;
    let nodes =
        (0..MASK_BITS).filter(|&node| mask[node / WORD_BITS] >> (node % WORD_BITS) & 1 == 1);
    Ok(Policy { mode, nodes: nodes.collect() })
}

/// Fresh memory from the system, of which no page is anywhere until it is touched.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: a mapping belongs to the process, and this value alone owns it; its pages may be touched
// by whichever thread holds the value.
unsafe impl Send for Mapping {}

impl Mapping {
    /// So many pages.
    pub fn pages(count: usize) -> Result<Self> {
        let len = count * page_size();
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the system chooses the place, so no mapping of anybody else is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            Err(Error::last_os_error())
        } else {
            Ok(Self { start: start.cast(), len })
        }
    }

    pub fn start(&self) -> *const u8 {
        self.start
    }

    /// Writes to each page, so that the system has to find memory for it, now.
    pub fn touch(&mut self) {
        for offset in (0..self.len).step_by(page_size()) {
            // SAFETY: the offset is within the mapping, which is writable, and `&mut self` says
            // that nobody else is at it. Volatile, since nobody will ever read what was written.
            unsafe { self.start.add(offset).write_volatile(1) };
        }
    }

    /// Pages that are touched from now on come from this node, and from no other (`mbind`).
    pub fn bind(&mut self, node: usize) -> Result<()> {
        let mut mask: NodeMask = [0; _];
        let Some(word) = mask.get_mut(node / WORD_BITS) else {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        };
        *word = 1 << (node % WORD_BITS);
        // SAFETY: the mapping is ours, and a policy does not change what is in it; the kernel reads
        // the mask, of as many bits as it is told, and keeps no pointer to it.
        done(unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start,
                self.len as c_ulong,
                c_long::from(libc::MPOL_BIND),
                mask.as_ptr(),
                MAX_NODE,
                0 as c_long,
            )
        })
    }

    /// Where its pages lie.
    pub fn nodes(&self) -> Result<Pages> {
        node_of_pages(self.start, self.len)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length; nothing borrowed from it outlives `self`. There
        // is nobody to tell that it failed, and the process ends soon.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// From now on `malloc` takes each piece of so many bytes or more from the system, as fresh pages;
/// else it learns to keep pages that others have touched.
pub fn map_from(bytes: usize) -> Result<()> {
    let bytes = c_int::try_from(bytes).map_err(Error::other)?;
    // SAFETY: takes no pointer; it locks what it changes.
    let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, bytes) };
    if done == 1 { Ok(()) } else { Err(Error::other("mallopt refuses")) }
}

/// Ends the emulator, with exit code 1 if `passed`, else 3. Returns only when that fails.
///
/// 1 is the least that the device can say, and an emulator that does not start says the same:
/// `ci/numa.sh` looks for the verdict in the log as well.
pub fn leave(passed: bool) -> Error {
    // SAFETY: waits until the console has sent what was written; takes no pointer.
    unsafe { libc::tcdrain(libc::STDOUT_FILENO) };
    // SAFETY: asks for the right to use one port, and takes no pointer.
    if unsafe { libc::ioperm(EXIT_PORT.into(), 1, 1) } != 0 {
        return Error::last_os_error();
    }
    // SAFETY: the line above allows this port, and writing it touches no memory of this process.
    // The one device there ends the emulator; without it nobody listens.
    unsafe {
        asm!("out dx, al", in("dx") EXIT_PORT, in("al") u8::from(!passed), options(nostack, nomem));
    }
    Error::other("nobody listens at the exit port")
}

/// What a system call returned: the error, if it is one.
fn done(returned: impl Into<c_long>) -> Result<()> {
    if returned.into() < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
