//! Whether memory lies in huge pages, as Linux tells it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// Bytes of a huge page that are worth rounding up to.
pub const SIZE: usize = 2 << 20;

/// Where Linux keeps what it was told about huge pages.
pub const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Whether this machine's huge pages are no larger than [`SIZE`]. With usual pages of 64 KiB they
/// are 512 MiB, and no ring should be rounded up to that.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub fn fits() -> Result<(), String> {
    match setting("hpage_pmd_size").and_then(|size| size.trim().parse::<usize>().ok()) {
        Some(size) if size > SIZE => {
            let size = size >> 20;
            Err(format!("no huge pages: here they have {size} MiB, which is too much for a ring"))
        }
        _ => Ok(()),
    }
}

/// Whether all of a region that was touched lies in huge pages; an error says why not.
pub fn look(region: Range<usize>) -> Result<(), String> {
    let asked = region.len();
    let had = File::open("/proc/self/smaps")
        .and_then(|smaps| bytes_in(BufReader::new(smaps), &region))
        .map_err(|error| format!("not known whether in huge pages: /proc/self/smaps: {error}"))?;
    if had >= asked {
        return Ok(());
    }
    let (had, asked) = (had >> 10, asked >> 10);
    if setting("enabled").is_some_and(|modes| modes.contains("[never]")) {
        return Err(format!("no huge pages: {SETTINGS}/enabled says never"));
    }
    Err(format!("{had} KiB of {asked} KiB lie in huge pages: no more are free, or allowed"))
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("{SETTINGS}/{name}")).ok()
}

/// Bytes in huge pages among the maps that lie within the region. A map that reaches beyond it
/// would not be the region's, and there is none: a region has a page at either end that can be
/// touched by nobody.
pub fn bytes_in(smaps: impl BufRead, region: &Range<usize>) -> io::Result<usize> {
    let mut within = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        let line = line?;
        if let Some(map) = map_of(&line) {
            if map.start >= region.end {
                break; // they are in ascending order
            }
            within = region.start <= map.start && map.end <= region.end;
        } else if within && let Some(size) = line.strip_prefix("AnonHugePages:") {
            let kib = size.trim().trim_end_matches("kB").trim_end().parse().unwrap_or(0);
            bytes += usize::saturating_mul(kib, 1 << 10);
        }
    }
    Ok(bytes)
}

/// The addresses in the first line of a map.
pub fn map_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some(address(start)?..address(end)?)
}
