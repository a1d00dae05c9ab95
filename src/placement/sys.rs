//! The binding file: the calls of the system that no dependency makes safe.

/// Pages that one call is asked to move, at most: the lists of them lie on the stack.
#[cfg(all(target_os = "linux", feature = "numa"))]
const AT_ONCE: usize = 128;

/// `MPOL_MF_MOVE` of `linux/mempolicy.h`: move pages that this process alone has.
#[cfg(all(target_os = "linux", feature = "numa"))]
const MOVE: libc::c_long = 1 << 1;

/// The CPU that the calling thread runs on, at this moment.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn current_cpu() -> Option<u32> {
    // SAFETY: it takes nothing, touches no memory of ours, and may be called from any thread at any
    // time; where it is not known it says -1.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu).ok()
}

#[cfg(not(target_os = "linux"))]
pub fn current_cpu() -> Option<u32> {
    None
}

/// Bytes of a page; where the system does not say, the most that is usual.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn page_size() -> usize {
    // SAFETY: it takes a number, and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(1 << 16)
}

#[cfg(not(unix))]
pub fn page_size() -> usize {
    1 << 16
}

/// Moves the pages that these bytes lie in to a NUMA node, those at the ends too. Returns how many
/// are in memory and may not lie there; one that nobody has touched yet is none of them. Allocates
/// nothing.
#[cfg(all(target_os = "linux", feature = "numa"))]
pub fn move_pages(start: usize, bytes: usize, node: u32) -> std::io::Result<usize> {
    let size = page_size();
    let (mut page, end) = (start / size * size, start.saturating_add(bytes));
    let mut stayed = 0;
    while page < end {
        let count = (end - page).div_ceil(size).min(AT_ONCE);
        stayed += move_some(page, size, count, node)?;
        page += count * size;
    }
    Ok(stayed)
}

#[cfg(all(target_os = "linux", feature = "numa"))]
#[allow(unsafe_code)]
fn move_some(first: usize, size: usize, count: usize, node: u32) -> std::io::Result<usize> {
    use libc::{c_int, c_long, c_ulong, c_void};
    use std::io::{Error, ErrorKind};
    let node = c_int::try_from(node).map_err(|_| ErrorKind::InvalidInput)?;
    let count = count.min(AT_ONCE);
    let mut pages = [std::ptr::null::<c_void>(); AT_ONCE];
    for (index, page) in pages[..count].iter_mut().enumerate() {
        *page = std::ptr::without_provenance(first + index * size);
    }
    let (nodes, mut status) = ([node; AT_ONCE], [c_int::MIN; AT_ONCE]);
    // SAFETY: the three lists have `count` entries or more, are ours, and outlive the call; the
    // kernel reads the first two and writes the third. The addresses may be any: the kernel looks
    // them up in the tables of this process (0) and passes over what is not mapped. A page that it
    // moves keeps its address and its bytes, and who touches it meanwhile waits, so no reference,
    // of whichever thread, notices. With this flag it leaves pages alone that another process has
    // too.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0 as c_long,
            count as c_ulong,
            pages.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MOVE,
        )
    };
    if returned < 0 {
        let error = Error::last_os_error();
        // Old kernels say so if no page had to be moved.
        return if error.raw_os_error() == Some(libc::ENOENT) { Ok(0) } else { Err(error) };
    }
    // What it did not come to keeps the number that is no status.
    let stays = |status: &&c_int| ![node, -libc::ENOENT, -libc::EFAULT].contains(*status);
    Ok(status[..count].iter().filter(stays).count())
}

#[cfg(all(not(target_os = "linux"), feature = "numa"))]
pub fn move_pages(_: usize, _: usize, _: u32) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}
