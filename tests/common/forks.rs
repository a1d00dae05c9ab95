//! Forked children. The forking is done by a process of its own, a test run anew: the harness is not
//! forked.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

/// Seconds after which a child that hangs is ended by its alarm.
const ALARM: u32 = 60;
/// Exit code of a child that has panicked.
pub const PANICKED: i32 = 200;

/// Runs an ignored test of this program in a process of its own, with these in its environment.
#[track_caller]
pub fn run_anew(scene: &str, environment: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", scene, "--ignored", "--nocapture", "--test-threads=1"]);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// A child, as its parent sees it.
#[must_use = "who has a child waits for its end"]
pub struct Child(libc::pid_t);

/// The parent gets the child; the child gets nothing, and an alarm.
pub fn fork() -> Option<Child> {
    // SAFETY: the child calls nothing that another thread of this process would have to answer: that
    // is what is tested.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "no process");
    if pid == 0 {
        // SAFETY: it touches no memory.
        unsafe { libc::alarm(ALARM) };
    }
    (pid > 0).then_some(Child(pid))
}

/// Ends the child, with this exit code.
pub fn exit_with(code: impl FnOnce() -> i32) -> ! {
    let code = catch_unwind(AssertUnwindSafe(code)).unwrap_or(PANICKED);
    // SAFETY: it touches no memory.
    unsafe { libc::_exit(code) }
}

/// Ends the child when this is through, well if nothing has panicked.
pub fn exit_after(checks: impl FnOnce()) -> ! {
    exit_with(|| {
        checks();
        0
    })
}

impl Child {
    /// Waits for its end; the exit code.
    #[track_caller]
    pub fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: it writes one number, to which nothing else points.
        while unsafe { libc::waitpid(self.0, &raw mut status, 0) } != self.0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
        }
        assert!(libc::WIFEXITED(status), "hung, or died: status {status}");
        libc::WEXITSTATUS(status)
    }
}
