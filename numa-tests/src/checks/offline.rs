//! A CPU goes away while threads are at work on it, and comes back.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::engine;
use crate::expect;
use crate::machine::{self, Machine, Set};
use crate::proof::Sightings;
use crate::report::Found;
use crate::sys;

const LIMIT: Duration = Duration::from_secs(60);
const ITEMS: u64 = 200_000;

/// A thread that is pinned to the CPU goes on elsewhere: the kernel drops its affinity.
pub fn pinned_thread(machine: &Machine) -> Found {
    let cpu = last_cpu(machine)?;
    let (look, looks) = mpsc::channel::<()>();
    let (saw, sightings) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let pinned = sys::set_affinity(&Set::from([cpu])).map_err(|error| error.to_string());
            let _ = saw.send(pinned.and_then(|()| Sightings::of_this_thread()));
            while looks.recv().is_ok() {
                let _ = saw.send(Sightings::of_this_thread());
            }
        });
        let next = || sightings.recv_timeout(LIMIT).map_err(|error| error.to_string())?;
        let look = look; // dropped at the end, which ends the thread
        let before = next()?;
        without(cpu, || {
            look.send(()).map_err(|error| error.to_string())?;
            let after = next()?;
            if before.cpus != Set::from([cpu]) || after.cpus.contains(&cpu) {
                return Err(format!(
                    "on {:?}, then on {:?} without CPU {cpu}",
                    before.cpus, after.cpus
                ));
            }
            Ok(format!("without CPU {cpu} it goes on"))
        })
    })
}

/// The engine goes on where it was, and nothing is lost. One that is started then does without the
/// CPU, and has it again once it is back.
pub fn engine(machine: &Machine) -> Found {
    let cpu = last_cpu(machine)?;
    let gone = || {
        machine::set_online(cpu, false)?;
        if machine::online()?.contains(&cpu) {
            Err(format!("CPU {cpu} is still there"))
        } else {
            Ok(())
        }
    };
    let all = machine.cpus();
    let rest = all.iter().copied().filter(|&other| other != cpu).collect();
    let run = |cpus: &Set, midway: &dyn Fn() -> Result<(), String>| {
        engine::run(ITEMS, &expect::usable(machine, cpus), midway)
    };
    let during = run(&all, &gone);
    let without = run(&rest, &|| Ok(()));
    machine::set_online(cpu, true)?;
    let during = during.map_err(|why| format!("CPU {cpu} went: {why}"))?;
    without.map_err(|why| format!("started without CPU {cpu}: {why}"))?;
    let again = run(&all, &|| Ok(()));
    again.map_err(|why| format!("started with CPU {cpu} back: {why}"))?;
    Ok(format!("CPU {cpu} went midway; {during}; two more do without it and with it"))
}

/// Takes the CPU away for as long as `f` runs.
fn without(cpu: usize, f: impl FnOnce() -> Found) -> Found {
    machine::set_online(cpu, false)?;
    let gone = machine::online();
    let found = if gone?.contains(&cpu) { Err(format!("CPU {cpu} is still there")) } else { f() };
    machine::set_online(cpu, true)?;
    found
}

/// CPU 0 can't go.
fn last_cpu(machine: &Machine) -> Result<usize, String> {
    machine.cpus().last().copied().ok_or_else(|| "no CPU".to_owned())
}
