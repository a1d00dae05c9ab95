//! Where lines go that could not be parsed or stored: all of them to `--rejects`, or the first few
//! on screen.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use sluicegate::{Applied, FailedItem};

use crate::input::Reject;
use crate::item::Item;
use crate::run::Failure;

/// How many are shown where there is no file for them.
const SHOWN: u64 = 10;
/// How much of each is shown.
const SHOWN_CHARS: usize = 120;

/// One line of the rejects file.
#[derive(Serialize)]
struct Entry<'a> {
    line: u64,
    /// `parse`, or `store`.
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

/// Takes rejects from the reader and from the flushers.
#[derive(Debug, Default)]
pub(crate) struct Rejects {
    out: Mutex<Out>,
}

#[derive(Debug, Default)]
struct Out {
    file: Option<BufWriter<File>>,
    buffer: Vec<u8>,
    shown: u64,
    error: Option<io::Error>,
}

impl Rejects {
    /// From now on rejects go to this file, which is emptied.
    pub(crate) fn open(&self, path: Option<&Path>) -> Result<(), Failure> {
        let create = |path: &Path| {
            File::create(path).map(BufWriter::new).map_err(|e| {
                Failure::usage("--rejects", format!("cannot write {}: {e}", path.display()))
            })
        };
        self.lock().file = path.map(create).transpose()?;
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
        self.write(&Entry {
            line: failed.item.line,
            stage: "store",
            reason: &failed.error.to_string(),
            unknown: failed.error.what_applied() == Applied::Unknown,
            text: failed.item.source(),
            cut: false,
        });
    }

    fn write(&self, entry: &Entry<'_>) {
        let mut out = self.lock();
        let out = &mut *out;
        if out.file.is_none() {
            out.shown += 1;
            if out.shown <= SHOWN {
                show(entry);
            }
            return;
        }
        out.buffer.clear();
        let encoded = serde_json::to_writer(&mut out.buffer, entry).map_err(io::Error::from);
        out.buffer.push(b'\n');
        let Some(file) = &mut out.file else { return };
        if let Err(error) = encoded.and_then(|()| file.write_all(&out.buffer)) {
            out.error.get_or_insert(error);
        }
    }

    /// Brings everything to the file; the first error there was, if any.
    pub(crate) fn flush(&self) -> Option<String> {
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
