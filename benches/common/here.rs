//! This machine, this tree and this compiler. `benches/compare` has this file, too
//! (`benches/report`).

use std::fs;
use std::process::Command;
use std::thread;

/// Names and values.
pub fn facts() -> [(&'static str, String); 5] {
    [
        ("date", said_by("date", &["-u", "+%F"])),
        ("machine", machine()),
        ("system", said_by("uname", &["-sr"])),
        ("compiler", said_by("rustc", &["--version"])),
        ("commit", said_by("git", &["describe", "--always", "--dirty", "--exclude=*"])),
    ]
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let kind = if info.contains(" hypervisor") { ", virtual" } else { "" };
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cpus} CPUs{kind}")
}

fn said_by(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output().ok().filter(|out| out.status.success());
    output.map_or("?".into(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The version of a package in a lock file.
pub fn version<'l>(lock: &'l str, package: &str) -> &'l str {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = "));
    version.map_or("?", |version| version.trim_matches('"'))
}
