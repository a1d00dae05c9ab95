//! Where and with what it was measured.

use std::fs;
use std::process::Command;
use std::thread;

const LOCK: &str = include_str!("../../Cargo.lock");
/// What the figures depend on, or come from, besides our own code.
const PACKAGES: [&str; 6] =
    ["sluicegate", "mimalloc", "tokio", "rusqlite", "libsqlite3-sys", "criterion"];

/// Names and values, for the head of the CSV file.
pub fn facts(command: &str) -> Vec<(String, String)> {
    let facts = [
        ("date", said_by("date", &["-u", "+%F"])),
        ("machine", machine()),
        ("system", said_by("uname", &["-sr"])),
        ("compiler", said_by("rustc", &["--version"])),
        ("commit", said_by("git", &["describe", "--always", "--dirty", "--exclude=*"])),
        ("versions", PACKAGES.map(version).join(", ")),
        ("command", command.to_owned()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
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

/// The name and version of a package in the lock file.
fn version(package: &str) -> String {
    let name = format!("name = \"{package}\"");
    let mut lines = LOCK.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = "));
    format!("{package} {}", version.map_or("?", |version| version.trim_matches('"')))
}
