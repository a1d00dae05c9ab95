//! Lines into a file ([`FileSink`]) or into any other writer ([`WriterSink`]).
//!
//! Both take an *encoder*, `Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>`, which appends one item
//! without a newline; the sink adds the newline. An item whose encoder fails, fails alone. A batch
//! is encoded into one reused buffer and handed over in one write, so that the steady state
//! allocates nothing.
//!
//! **Several flushers, one destination.** Clones of a sink share the destination behind a mutex and
//! have buffers of their own: batches are encoded in parallel, written one after the other, and
//! their lines never mix. The order of batches of different flushers is not kept.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use super::{Applied, BoxError, Class, Sink, WriteContext, WriteError};
use crate::batch::Batch;
use crate::sync::{Mutex, lock};

/// A buffer that a huge batch has blown up is given back when it is larger than this and mostly
/// unused.
const BUFFER_KEPT: usize = 4 << 20;

/// Appends a line per item to a file.
///
/// A batch is in the file as a whole or not at all: when a write fails half-way (disk full), the
/// file is cut back to its length before the batch and the batch fails with [`Applied::Nothing`].
/// Where cutting back is impossible or fails too, the error says [`Applied::Unknown`].
///
/// ```
/// use sluicegate::sink::FileSink;
/// # let dir = std::env::temp_dir().join(format!("sluicegate-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join("events.ndjson");
///
/// let sink = FileSink::open(&path, |event: &String, out: &mut Vec<u8>| {
///     out.extend_from_slice(event.as_bytes());
///     Ok(())
/// })?
/// .fsync(true);
/// // Batcher::builder().spawn(move |_| Ok::<_, std::io::Error>(sink.clone()))
/// # drop(sink);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct FileSink<T, F> {
    shared: Arc<Mutex<Destination<File>>>,
    lines: Lines<T, F>,
    fsync: bool,
}

impl<T, F> FileSink<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    /// Opens the file for appending, and creates it where there is none. `encode` appends one item.
    ///
    /// A last line without its newline, as a crash of the writer leaves it, is ended with one: what
    /// is in the file stays, and the next line starts on its own. The file is locked for as long as
    /// a clone of the sink lives (an advisory lock: programs that don't ask for it can still write
    /// to it).
    ///
    /// # Errors
    /// Whatever opening, locking or ending the last line failed with; [`ErrorKind::WouldBlock`]
    /// when another sink or process holds the file.
    pub fn open(path: impl AsRef<Path>, encode: F) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path.as_ref())?;
        Ok(Self {
            shared: Arc::new(Mutex::new(Destination::of(file, path.as_ref())?)),
            lines: Lines::new(encode),
            fsync: false,
        })
    }

    /// Whether each batch is forced to the disk (`fdatasync`) before it counts as written; off
    /// unless asked for.
    ///
    /// Without it a batch survives the end of the process, but not a power cut.
    #[must_use]
    pub fn fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }
}

impl<T, F> Sink<T> for FileSink<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let lines = self.lines.encode(batch, cx);
        if lines.is_empty() {
            return Ok(());
        }
        let mut destination = lock(&self.shared);
        destination.append(lines)?;
        if self.fsync {
            // The kernel may have dropped what it could not write, or written it: nobody can tell.
            destination.writer.sync_data().map_err(|e| classify(e).applied(Applied::Unknown))?;
        }
        Ok(())
    }
}

/// Writes a line per item to a writer that can't be cut back: standard output, a pipe, a socket.
///
/// A batch that fails before its first byte is out fails with [`Applied::Nothing`], a later failure
/// with [`Applied::Unknown`]. A closed pipe is [`Class::Disconnected`].
pub struct WriterSink<T, W, F> {
    shared: Arc<Mutex<Destination<W>>>,
    lines: Lines<T, F>,
}

impl<T, W, F> WriterSink<T, W, F>
where
    W: Write,
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    /// Takes over the writer; it is flushed after each batch, so it needs no buffer of its own.
    pub fn new(writer: W, encode: F) -> Self {
        let destination = Destination { writer, can_truncate: false, torn: false };
        Self { shared: Arc::new(Mutex::new(destination)), lines: Lines::new(encode) }
    }
}

impl<T, F> WriterSink<T, io::Stdout, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    /// Writes to the standard output of this process.
    pub fn stdout(encode: F) -> Self {
        Self::new(io::stdout(), encode)
    }
}

impl<T, W, F> Sink<T> for WriterSink<T, W, F>
where
    W: Write,
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let lines = self.lines.encode(batch, cx);
        if lines.is_empty() {
            return Ok(());
        }
        let mut destination = lock(&self.shared);
        destination
            .write_lines(lines)
            .map_err(|(error, written)| applied_if(error, written > 0))?;
        destination.writer.flush().map_err(|e| classify(e).applied(Applied::Unknown))
    }
}

/// The encoder and the buffer it fills, one per flusher.
struct Lines<T, F> {
    encode: F,
    buffer: LineBuffer,
    item: PhantomData<fn(&T)>,
}

impl<T, F> Lines<T, F> {
    fn new(encode: F) -> Self {
        Self { encode, buffer: LineBuffer::default(), item: PhantomData }
    }
}

impl<T, F> Lines<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    fn encode(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> &[u8] {
        self.buffer.fill(batch, cx, &self.encode)
    }
}

/// The lines of a batch, in a buffer that is kept.
#[derive(Default)]
pub(super) struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// A line for each item that `encode` takes; the others have failed, each alone.
    pub(super) fn fill<T>(
        &mut self,
        batch: &Batch<T>,
        cx: &mut WriteContext<'_>,
        mut encode: impl FnMut(&T, &mut Vec<u8>) -> Result<(), BoxError>,
    ) -> &[u8] {
        let lines = &mut self.0;
        if lines.capacity() > BUFFER_KEPT && lines.len() < lines.capacity() / 4 {
            *lines = Vec::new();
        }
        lines.clear();
        for (index, item) in batch.iter().enumerate() {
            let start = lines.len();
            match encode(item, lines) {
                Ok(()) => lines.push(b'\n'),
                Err(error) => {
                    lines.truncate(start);
                    cx.fail(index, WriteError::permanent(error));
                }
            }
        }
        lines
    }
}

/// What all clones of a sink write to.
pub(super) struct Destination<W> {
    pub(super) writer: W,
    can_truncate: bool,
    /// The last write ended inside a line and could not be cut back.
    torn: bool,
}

impl Destination<File> {
    /// Takes over a file opened for appending; a regular one is locked, and its last line ended.
    pub(super) fn of(mut file: File, path: &Path) -> io::Result<Self> {
        let can_truncate = file.metadata()?.is_file();
        if can_truncate {
            lock_file(&file)?;
            end_torn_line(path, &mut file)?;
        }
        Ok(Self { writer: file, can_truncate, torn: false })
    }
}

impl<W: Write> Destination<W> {
    /// Writes all of it; on failure says how many bytes had gone out.
    fn write_lines(&mut self, lines: &[u8]) -> Result<(), (io::Error, usize)> {
        if self.torn {
            write_counted(&mut self.writer, b"\n").map_err(|(error, _)| (error, 0))?;
            self.torn = false;
        }
        let result = write_counted(&mut self.writer, lines);
        if let Err((_, written)) = &result {
            self.torn = *written > 0 && lines[written - 1] != b'\n';
        }
        result
    }
}

impl<W: Write + Truncate> Destination<W> {
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        // Asked each time: whoever rotates logs may have truncated the file since the last batch.
        let before = if self.can_truncate { self.writer.length().map_err(classify)? } else { 0 };
        let Err((error, written)) = self.write_lines(lines) else { return Ok(()) };
        if written == 0 {
            return Err(classify(error));
        }
        if self.can_truncate && self.writer.truncate(before).is_ok() {
            self.torn = false;
            return Err(classify(error));
        }
        Err(classify(error).applied(Applied::Unknown))
    }
}

/// What cutting back needs; a trait so that tests can make it fail.
pub(super) trait Truncate {
    fn length(&self) -> io::Result<u64>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Truncate for File {
    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

fn write_counted<W: Write>(writer: &mut W, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        match writer.write(&bytes[written..]) {
            Ok(0) => return Err((ErrorKind::WriteZero.into(), written)),
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

fn applied_if(error: io::Error, unknown: bool) -> WriteError {
    classify(error).applied(if unknown { Applied::Unknown } else { Applied::Nothing })
}

fn classify(error: io::Error) -> WriteError {
    let class = match error.kind() {
        // Room may be made, a slow reader may catch up.
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::WouldBlock
        | ErrorKind::TimedOut => Class::Transient,
        ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::NotConnected => Class::Disconnected,
        _ => Class::Permanent,
    };
    WriteError::new(class, error)
}

fn lock_file(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(ErrorKind::WouldBlock, "the file is locked by another writer"))
        }
        // Some network file systems know no locks; the file is no worse for it.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn end_torn_line(path: &Path, file: &mut File) -> io::Result<()> {
    if file.length()? == 0 {
        return Ok(());
    }
    let mut reader = File::open(path)?;
    reader.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    reader.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(())
}

impl<T, F: Clone> Clone for FileSink<T, F> {
    fn clone(&self) -> Self {
        let lines = Lines::new(self.lines.encode.clone());
        Self { shared: Arc::clone(&self.shared), lines, fsync: self.fsync }
    }
}

impl<T, W, F: Clone> Clone for WriterSink<T, W, F> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), lines: Lines::new(self.lines.encode.clone()) }
    }
}

impl<T, F> fmt::Debug for FileSink<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("fsync", &self.fsync).finish_non_exhaustive()
    }
}

impl<T, W, F> fmt::Debug for WriterSink<T, W, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterSink").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
