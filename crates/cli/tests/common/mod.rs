//! The command as a process, fed and watched.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part; a test may fail

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A folder for a test, and the files in it.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
    /// `sqlite:` and the path of the test's database.
    pub fn db(&self) -> String {
        format!("sqlite:{}", self.path("test.db").display())
    }
    pub fn connect(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path("test.db")).unwrap()
    }
    /// The first column of each row, as SQLite quotes it.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let db = self.connect();
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
    pub fn count(&self) -> u64 {
        let sql = "SELECT count(*) FROM items";
        let count: i64 = self.connect().query_row(sql, [], |row| row.get(0)).unwrap();
        count.try_into().unwrap()
    }
    /// The rejects file, an object per line.
    pub fn rejects(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("rejects")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn sluicegate<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `sluicegate run --report json` with these options, and this input on standard input.
pub fn run(place: &Place, options: &str, input: impl AsRef<[u8]>) -> Done {
    let path = place.write("input", input);
    let mut command = sluicegate(["run", "--report", "json", "--from"]);
    command.arg(path).args(words(place, options));
    Done::of(command.output().unwrap())
}

/// Splits at blanks; `DB` and `REJECTS` stand for the test's own files.
pub fn words(place: &Place, options: &str) -> Vec<String> {
    let word = |word: &str| match word {
        "DB" => place.db(),
        "OUT" => format!("file:{}", place.path("out").display()),
        "REJECTS" => place.path("rejects").display().to_string(),
        _ => word.to_owned(),
    };
    options.split_whitespace().map(word).collect()
}

/// A process that has ended.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        let done = Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        done
    }

    /// The report, whose sums have to come out whatever happened.
    pub fn report(&self) -> Report {
        let text = if self.stdout.ends_with("}\n") { &self.stdout } else { &self.stderr };
        let last = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| {
            panic!("no report: {:?} {} {}", self.code, self.stdout, self.stderr)
        });
        let report = Report(serde_json::from_str(last).unwrap());
        let fates = ["flushed_ok", "flushed_fail", "dropped", "unknown", "in_flight"];
        assert_eq!(
            report.n("enqueued"),
            fates.iter().map(|fate| report.n(fate)).sum::<u64>(),
            "{last}"
        );
        let read = report.n("rejected") + report.n("enqueued") + report.n("unqueued");
        assert_eq!(report.n("items_read"), read, "{last}");
        report
    }
}

pub struct Report(pub Value);

impl Report {
    pub fn n(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }
}

pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Looks until there is something to see. How long that takes does not matter, so there is no limit
/// here.
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Rows in the database, 0 as long as it or its table is not there.
pub fn rows_so_far(path: &Path) -> i64 {
    rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|db| db.query_row("SELECT count(*) FROM items", [], |row| row.get(0)))
        .unwrap_or(0)
}

/// Writes numbered objects until the reader is gone; every tenth line is no JSON. Calls `at` once,
/// after `lines`.
pub fn feed(mut to: impl std::io::Write, lines: u64, at: impl FnOnce()) {
    let mut at = Some(at);
    for id in 1_u64.. {
        let line = match id % 10 {
            0 => format!("not JSON {id}\n"),
            _ => format!("{{\"id\":{id},\"text\":\"some text to carry\"}}\n"),
        };
        if to.write_all(line.as_bytes()).is_err() {
            break;
        }
        if id == lines
            && let Some(at) = at.take()
        {
            at();
        }
    }
}

/// Gives the child this input and leaves its standard input open.
pub fn give(child: &mut Child, input: &[u8]) {
    child.stdin.as_mut().unwrap().write_all(input).unwrap();
}
