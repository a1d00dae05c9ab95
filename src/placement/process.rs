//! What this process may use, as Linux says at this moment; elsewhere nothing is known here.

use std::collections::BTreeSet;
use std::fs;

/// Threads that are asked at most.
const THREADS_MAX: usize = 4096;

/// Numbers above this are a mistake of whoever wrote them.
const NUMBER_MAX: u32 = 1 << 20;

/// What this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// CPUs; some may be offline, or not there at all.
    pub cpus: BTreeSet<u32>,
    /// NUMA nodes whose memory it may have, where the system has a say in that.
    pub nodes: Option<BTreeSet<u32>>,
}

/// What the threads of this process may use, taken together: the one that asks may have been pinned
/// by the program. `None` where it cannot be read. Stops as soon as all of `cpus` are among them,
/// which for a process that is not confined is after the first thread.
pub fn allowed(cpus: &BTreeSet<u32>) -> Option<Allowed> {
    let mut together: Option<Allowed> = None;
    for task in fs::read_dir("/proc/self/task").ok()?.take(THREADS_MAX).flatten() {
        // A thread may have ended since.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
        let Some(one) = of_thread(&status) else { continue };
        let all = match &mut together {
            None => together.insert(one),
            Some(all) => {
                all.cpus.extend(one.cpus);
                all.nodes.get_or_insert_default().extend(one.nodes.into_iter().flatten());
                all
            }
        };
        if !cpus.is_empty() && cpus.is_subset(&all.cpus) {
            break;
        }
    }
    together
}

/// From a thread's `status`.
fn of_thread(status: &str) -> Option<Allowed> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(list);
    Some(Allowed {
        cpus: field("Cpus_allowed_list:").flatten()?,
        nodes: field("Mems_allowed_list:").flatten(),
    })
}

/// The CPUs that run; `None` where that cannot be read. /sys is hidden in some containers.
pub fn online() -> Option<BTreeSet<u32>> {
    match fs::read_to_string("/sys/devices/system/cpu/online") {
        Ok(text) => list(&text),
        Err(_) => of_stat(&fs::read_to_string("/proc/stat").ok()?),
    }
}

/// From `/proc/stat`: each CPU that runs has a line.
fn of_stat(stat: &str) -> Option<BTreeSet<u32>> {
    let names = stat.lines().filter_map(|line| line.strip_prefix("cpu")?.split(' ').next());
    let cpus: BTreeSet<u32> = names.filter_map(|name| name.parse().ok()).collect();
    (!cpus.is_empty()).then_some(cpus)
}

/// The NUMA nodes of the machine; `None` where that cannot be read.
pub fn nodes() -> Option<BTreeSet<u32>> {
    list(&fs::read_to_string("/sys/devices/system/node/online").ok()?)
}

/// Numbers as Linux writes them: `0-3,8`.
fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last > NUMBER_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_linux_writes_them() {
        let numbers = |text| list(text).map(|set| set.into_iter().collect::<Vec<u32>>());
        assert_eq!(numbers("0\n"), Some(vec![0]));
        assert_eq!(numbers("\t0-2,8,1030-1031\n"), Some(vec![0, 1, 2, 8, 1030, 1031]));
        assert_eq!(numbers("\n"), Some(vec![]), "a machine without NUMA nodes");
        for odd in ["a", "1-", "-1", "3-b", "1;2", "0-4294967295", "99999999999"] {
            assert_eq!(numbers(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_thread_tells_its_cpus_and_its_nodes_where_it_knows_them() {
        let cpus = BTreeSet::from([1, 2, 9]);
        let status = "Name:\tx\nCpus_allowed:\t206\nCpus_allowed_list:\t1-2,9\n";
        assert_eq!(of_thread(status), Some(Allowed { cpus: cpus.clone(), nodes: None }));
        let nodes = Some(BTreeSet::from([1]));
        let status = format!("{status}Mems_allowed:\t2\nMems_allowed_list:\t1\n");
        assert_eq!(of_thread(&status), Some(Allowed { cpus, nodes }));
        assert_eq!(of_thread("Name:\tx\n"), None);
    }

    #[test]
    fn each_cpu_that_runs_has_a_line() {
        let stat = "cpu  9 0 9\ncpu0 4 0 4\ncpu11 5 0 5\nintr 7 0\ncpu_x 1\n";
        assert_eq!(of_stat(stat), Some(BTreeSet::from([0, 11])));
        assert_eq!(of_stat("intr 7 0\n"), None);
    }
}
