//! Where lines go that were not stored: all of them to `--rejects`, or the first few on screen.
//!
//! The file may be one that blocks (a pipe that nobody empties, a mount that hangs), so only the
//! reader, the flushers and a thread of its own ever wait for it, never the main thread.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::Serialize;
use sluicegate::{Applied, Class, FailedItem};

use crate::input::Reject;
use crate::input::source::{FileId, file_id};
use crate::item::Item;
use crate::run::Failure;

/// How many are shown where there is no file for them.
const SHOWN: u64 = 10;
/// How much of each is shown.
const SHOWN_CHARS: usize = 120;
/// How long a reject may wait in the buffer while an endless input goes on.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Files that belong to a database.
const DATABASE_SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// One line of the rejects file.
#[derive(Serialize)]
struct Entry<'a> {
    line: u64,
    /// `parse`, `store` or `drain`.
    stage: &'static str,
    reason: &'a str,
    /// Whether it may be stored all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unknown: bool,
    text: &'a str,
    /// Whether `text` is only the beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// The file for them, opened and not yet touched.
#[derive(Debug)]
pub(crate) struct RejectsFile {
    file: File,
    path: PathBuf,
    /// Whether it was not there before.
    fresh: bool,
}

impl RejectsFile {
    /// Opens the file, and makes it where there is none, but leaves what is in it.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let at = |e: io::Error| {
            Failure::usage("--rejects", format!("cannot write {}: {e}", path.display()))
        };
        let mut options = OpenOptions::new();
        // Without O_NONBLOCK opening a pipe would wait for someone to read it.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        options.write(true).custom_flags(nonblock);
        let (file, fresh) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.create(true).truncate(false).open(path).map_err(at)?, false)
            }
            other => (other.map_err(at)?, true),
        };
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| at(e.into()))?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|e| at(e.into()))?;
        Ok(Self { file, path: path.to_owned(), fresh })
    }

    /// Refuses to be the input, the destination, or a file that belongs to it, under whatever name.
    pub(crate) fn check_apart(
        &self,
        source: Option<FileId>,
        target: Option<&Path>,
    ) -> Result<(), Failure> {
        let Some(own) = file_id(self.file.metadata()) else { return Ok(()) };
        if source == Some(own) {
            return Err(Failure::usage("--rejects", "is the file given with --from"));
        }
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        if stdout.ok().and_then(|file| file_id(file.metadata())) == Some(own) {
            return Err(Failure::usage("--rejects", "is the file that standard output goes to"));
        }
        let Some(target) = target else { return Ok(()) };
        // SQLite puts its files beside the true one.
        let real = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        for path in [target, &real] {
            for suffix in DATABASE_SUFFIXES {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                if file_id(std::fs::metadata(&name)) == Some(own) {
                    return Err(Failure::usage("--rejects", "is the file given with --to"));
                }
            }
        }
        Ok(())
    }

    /// Leaves everything as it was.
    pub(crate) fn give_back(self) {
        if self.fresh {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes rejects from the reader and from the flushers.
#[derive(Debug, Default)]
pub(crate) struct Rejects {
    out: Mutex<Out>,
    /// Grows with each reject: whoever waits sees whether it goes on.
    taken: AtomicU64,
}

#[derive(Debug, Default)]
struct Out {
    file: Option<BufWriter<File>>,
    buffer: Vec<u8>,
    shown: u64,
    /// Whether it was said that the destination is gone.
    gone: bool,
    error: Option<io::Error>,
}

impl Rejects {
    /// From now on rejects go to this file, which is emptied.
    pub(crate) fn start(&self, file: RejectsFile) -> Result<(), Failure> {
        let RejectsFile { file, path, .. } = file;
        let kind = file.metadata().map_err(Failure::Io)?.file_type();
        if !kind.is_fifo() && !kind.is_char_device() {
            file.set_len(0).map_err(|e| {
                Failure::usage("--rejects", format!("cannot empty {}: {e}", path.display()))
            })?;
        }
        self.lock().file = Some(BufWriter::new(file));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that is not an item.
    pub(crate) fn parse(&self, reject: &Reject) {
        self.write(&Entry {
            line: reject.line,
            stage: "parse",
            reason: &reject.reason,
            unknown: false,
            text: &String::from_utf8_lossy(&reject.text),
            cut: reject.cut,
        });
    }

    /// An item that the sink did not take.
    pub(crate) fn store(&self, failed: &FailedItem<Item>) {
        let reason = failed.error.to_string();
        if failed.error.class() == Class::Disconnected && self.is_said(&reason) {
            return;
        }
        self.write(&Entry {
            line: failed.item.line,
            stage: "store",
            reason: &reason,
            unknown: failed.error.what_applied() == Applied::Unknown,
            text: failed.item.source(),
            cut: false,
        });
    }

    /// An item that no sink has seen.
    pub(crate) fn drain(&self, item: &Item) {
        self.write(&Entry {
            line: item.line,
            stage: "drain",
            reason: "not written before the end of the drain",
            unknown: false,
            text: item.source(),
            cut: false,
        });
    }

    /// On screen a destination that is gone is worth one line, not one per item.
    fn is_said(&self, reason: &str) -> bool {
        let mut out = self.lock();
        if out.file.is_some() {
            return false;
        }
        if !std::mem::replace(&mut out.gone, true) {
            let _ = writeln!(io::stderr(), "the destination is gone: {reason}");
        }
        true
    }

    fn write(&self, entry: &Entry<'_>) {
        let mut out = self.lock();
        let out = &mut *out;
        if let Some(file) = &mut out.file {
            out.buffer.clear();
            let encoded = serde_json::to_writer(&mut out.buffer, entry).map_err(io::Error::from);
            out.buffer.push(b'\n');
            if let Err(error) = encoded.and_then(|()| file.write_all(&out.buffer)) {
                out.error.get_or_insert(error);
            }
        } else {
            out.shown += 1;
            if out.shown <= SHOWN {
                show(entry);
            }
        }
        self.taken.fetch_add(1, Relaxed);
    }

    /// How many were taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Brings the file up to date now and then, until items are left over or there will be none;
    /// takes them, and returns the first error there was.
    pub(crate) fn keep(&self, left_over: &Receiver<Vec<Item>>) -> Option<String> {
        loop {
            match left_over.recv_timeout(FLUSH_EVERY) {
                Err(RecvTimeoutError::Timeout) => drop(self.flush()),
                Ok(items) => {
                    items.iter().for_each(|item| self.drain(item));
                    return self.flush();
                }
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn flush(&self) -> Option<String> {
        let mut out = self.lock();
        let flushed = out.file.as_mut().map_or(Ok(()), BufWriter::flush);
        if let Err(error) = flushed {
            out.error.get_or_insert(error);
        }
        out.error.as_ref().map(ToString::to_string)
    }
}

fn show(entry: &Entry<'_>) {
    let start: String = entry.text.chars().take(SHOWN_CHARS).collect();
    let _ = writeln!(io::stderr(), "line {}: {}: {start:?}", entry.line, entry.reason);
}
