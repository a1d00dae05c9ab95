//! A file or standard input, read in a way that a stop can interrupt.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::run::Failure;

/// What a call of [`Fill::fill`] brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes, at least one.
    Bytes(usize),
    Eof,
    /// Intake was stopped.
    Stopped,
}

/// Where bytes come from.
pub(crate) trait Fill {
    /// Waits for bytes, the end, or a stop. A stop comes before bytes that are ready too.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Filled>;
}

/// A file descriptor that is polled together with the stop's pipe, so that a read that would wait
/// for ever (a pipe nobody closes, a terminal) does not keep a signal from being obeyed.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    stop: PipeReader,
}

impl Source {
    pub(crate) fn open(from: &Path, stop: PipeReader) -> Result<Self, Failure> {
        let at = |error: io::Error| {
            Failure::usage("--from", format!("cannot read {}: {error}", from.display()))
        };
        let file = if from == Path::new("-") {
            File::from(io::stdin().as_fd().try_clone_to_owned().map_err(at)?)
        } else {
            File::open(from).map_err(at)?
        };
        if file.metadata().map_err(at)?.is_dir() {
            return Err(at(ErrorKind::IsADirectory.into()));
        }
        Ok(Self { file, stop })
    }

    /// What tells it from others; none if it is no regular file.
    pub(crate) fn id(&self) -> Option<FileId> {
        file_id(self.file.metadata())
    }

    /// Whether this is the regular file at `path`.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        self.id().is_some() && self.id() == file_id(std::fs::metadata(path))
    }
}

/// Device and number: the same for every name that a file goes by.
pub(crate) type FileId = (u64, u64);

/// What tells a regular file from others.
pub(crate) fn file_id(metadata: io::Result<Metadata>) -> Option<FileId> {
    metadata.ok().filter(Metadata::is_file).map(|m| (m.dev(), m.ino()))
}

impl Fill for Source {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Filled> {
        loop {
            let mut ready =
                [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if !ready[0].revents().is_empty() {
                return Ok(Filled::Stopped);
            }
            match self.file.read(buffer) {
                Ok(0) => return Ok(Filled::Eof),
                Ok(taken) => return Ok(Filled::Bytes(taken)),
                // The descriptor may be non-blocking, and shared: someone else took the bytes.
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
