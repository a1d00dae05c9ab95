//! Promise: a batch of dead letters that a full disk cuts off is not in the file at all, and the
//! next one goes on cleanly.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a test may fail

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sluicegate::sink::DeadLetterFile;
use sluicegate::{Applied, BatchId, Batcher, BoxError, Class, Dead, Flusher, WriteError};

const LONG: Duration = Duration::from_secs(60);
const CHILD: &str = "SLUICEGATE_TEST_DEAD_LETTERS";

fn encode(item: &u64, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.extend_from_slice(item.to_string().as_bytes());
    Ok(())
}

/// Writes batches of these sizes, of which the second does not fit.
fn write(path: PathBuf, sizes: [usize; 3]) {
    let batcher = Batcher::builder()
        .retry(None)
        .bisect(false)
        .breaker(None)
        .max_batch_size(1_024)
        .max_batch_delay(Duration::from_secs(50))
        .spawn(move |_: Flusher| DeadLetterFile::open(&path, encode).map(DeadLetterFile::json))
        .unwrap();
    let mut next = 0;
    for size in sizes {
        for _ in 0..size {
            let error = WriteError::permanent("refused");
            batcher.producer().add(Dead::new(next, error, BatchId::new(1))).unwrap();
            next += 1;
        }
        batcher.flush(LONG).unwrap();
    }
    let shutdown = batcher.shutdown(LONG);
    let tally = shutdown.tally;
    let (ok, fail) = (sizes[0] + sizes[2], sizes[1]);
    assert_eq!((tally.flushed_ok, tally.flushed_fail), (ok as u64, fail as u64));
    let error = &shutdown.failed[0].error;
    assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
}

/// The items in the file, each in a line that is whole.
fn items(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with("}\n"));
    let item = |line: &str| {
        assert!(line.starts_with("{\"version\":1,\"id\":\""), "{line}");
        line.strip_suffix('}').unwrap().rsplit_once("\"item\":").unwrap().1.parse().unwrap()
    };
    text.lines().map(item).collect()
}

#[test]
fn a_batch_that_a_full_disk_cuts_off_is_cut_back() {
    let sizes = [3, 500, 3];
    if let Ok(path) = std::env::var(CHILD) {
        write(path.into(), sizes);
        return;
    }
    let name = format!("sluicegate-{}-full.ndjson", std::process::id());
    let path = std::env::temp_dir().join(name);
    // A process that may write files of a few KiB only: the write that goes over is cut short.
    let done = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact \"$1\" --test-threads 1"])
        .arg(std::env::current_exe().unwrap())
        .arg("a_batch_that_a_full_disk_cuts_off_is_cut_back")
        .env(CHILD, &path)
        .output()
        .unwrap();
    let seen = items(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    assert_eq!(seen, [0, 1, 2, 503, 504, 505]);
}
