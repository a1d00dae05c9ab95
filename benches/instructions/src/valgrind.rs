//! This program under valgrind.
//!
//! **Instructions** are callgrind's `Ir` in what [`measured`](crate::measured::measured) calls: the
//! operation, all that it calls, and a call and a return around it.
//!
//! **Cache lines written** come from lackey's trace of every access to memory: how many lines of 64
//! bytes an operation stores to, each once, whether by a plain store or by a read-modify-write.
//! Those of the stack are left out: no other CPU wants them. callgrind's `Dw` would be the number of
//! stores, eight to a line full of `u64`, with those to the stack. How a run of items lies on lines
//! depends on where the heap begins, and so, slightly, on the environment: the third digit.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::measured::{COUNTED, MARK};

/// Before the addresses of mark and stack in the trace.
const PLACES: &str = "places ";
const LINE: u64 = 64;
/// More than the operations use of the stack.
const STACK: u64 = 1 << 20;

/// What this program is to do under valgrind.
pub struct Run<'a> {
    /// The case.
    pub case: &'a str,
    /// How many.
    pub items: usize,
    /// With a regression.
    pub planted: bool,
}

impl Run<'_> {
    fn command(&self, options: &[&str]) -> Result<Command, String> {
        let mut command = Command::new("valgrind");
        command.args(options).arg(env::current_exe().map_err(|why| why.to_string())?);
        command.args(["run", self.case, &self.items.to_string()]);
        command.args(self.planted.then_some("planted"));
        Ok(command)
    }
}

/// Instructions of all operations.
pub fn instructions(run: &Run<'_>) -> Result<u64, String> {
    let case = run.case;
    let profile = env::current_exe().map_err(|why| why.to_string())?;
    let profile = profile.with_file_name(format!("callgrind.{case}.out"));
    let out = format!("--callgrind-out-file={}", profile.display());
    let toggle = format!("--toggle-collect=*{COUNTED}*");
    let mut command = run.command(&["--tool=callgrind", &out, &toggle])?;
    let output = command.output().map_err(|why| format!("valgrind: {why}"))?;
    if !output.status.success() {
        return Err(format!("{case}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text =
        fs::read_to_string(&profile).map_err(|why| format!("{}: {why}", profile.display()))?;
    total(&text).ok_or(format!("{case}: callgrind has not seen {COUNTED}"))
}

/// What a profile says was counted, if anything was.
pub(crate) fn total(profile: &str) -> Option<u64> {
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    total.trim().parse().ok().filter(|total| *total > 0)
}

/// Cache lines that the operations write: the sum over all of them.
pub fn lines(run: &Run<'_>) -> Result<u64, String> {
    let mut command = run.command(&["--tool=lackey", "--trace-mem=yes"])?;
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|why| format!("valgrind: {why}"))?;
    let trace = child.stderr.take().ok_or("valgrind has no standard error")?;
    let lines = written(BufReader::new(trace).lines().map_while(Result::ok));
    let status = child.wait().map_err(|why| why.to_string())?;
    let usable = lines.filter(|_| status.success());
    usable.ok_or(format!("{}: lackey's trace is of no use ({status})", run.case))
}

/// Cache lines written between marks; `None` if the trace is not one of whole operations.
pub(crate) fn written(trace: impl Iterator<Item = String>) -> Option<u64> {
    let (mut mark, mut stack) = (None, 0..0);
    let (mut marks, mut lines, mut touched) = (0_u64, 0, HashSet::new());
    for entry in trace {
        if let Some((at, top)) = entry.strip_prefix(PLACES).and_then(|two| two.split_once(' ')) {
            let top: u64 = top.parse().ok()?;
            (mark, stack) = (Some(at.parse::<u64>().ok()?), top.checked_sub(STACK)?..top);
            continue;
        }
        let Some((at, bytes)) = store(&entry) else { continue };
        if Some(at) == mark {
            marks += 1;
            lines += touched.drain().count() as u64;
        } else if marks % 2 == 1 && !stack.contains(&at) {
            touched.extend(at / LINE..=(at + bytes - 1) / LINE);
        }
    }
    (marks > 0 && marks % 2 == 0).then_some(lines)
}

/// Address and length, of ` S 1ffeff,8` (a store) and ` M 1ffeff,8` (a read-modify-write).
fn store(entry: &str) -> Option<(u64, u64)> {
    let (at, bytes) = entry.strip_prefix(" S ").or(entry.strip_prefix(" M "))?.split_once(',')?;
    let bytes = bytes.parse().ok().filter(|bytes| *bytes > 0)?;
    Some((u64::from_str_radix(at, 16).ok()?, bytes))
}

/// Tells the trace where the mark is, and from where the stack of the operations grows downwards.
/// In one piece: between two, valgrind would write.
pub fn tell_places() {
    let top = 0_u8;
    let places = format!("{PLACES}{} {}\n", (&raw const MARK).addr(), (&raw const top).addr());
    io::stderr().write_all(places.as_bytes()).expect("there is a standard error");
}

/// What counts depend on besides the code.
pub fn facts() -> Result<Vec<(String, String)>, String> {
    let (rustc, valgrind) = (said("rustc", "-vV")?, said("valgrind", "--version")?);
    let [version, host] = ["rustc ", "host: "].map(|name| {
        rustc.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").to_owned()
    });
    let valgrind = valgrind.trim().trim_start_matches("valgrind-").to_owned();
    let facts = [("rustc", version), ("valgrind", valgrind), ("target", host)];
    Ok(facts.map(|(name, value)| (name.to_owned(), value)).into())
}

fn said(program: &str, option: &str) -> Result<String, String> {
    let output = Command::new(program).arg(option).output();
    let output = output.map_err(|why| format!("{program}: {why}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
