//! Dead letters in a file, one JSON object a line.
//!
//! ```text
//! {"version":1,"id":"18c…-9f…-0","batch":17,"part":0,"class":"permanent","applied":"nothing",
//!  "error":"no such column","attempts":3,"first_ms":1700000000000,"last_ms":1700000003000,
//!  "tenant":null,"encoding":"text","item":"…"}
//! ```
//!
//! Times are milliseconds since 1970 (UTC). `id` is never the same twice, so that whoever replays a
//! letter can note that it has. `encoding` says what `item` is: with `text` a string that holds the
//! encoded item, with `json` the encoded item itself.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, ErrorKind, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::file::{Destination, LineBuffer, Truncate as _};
use super::{Applied, BoxError, Class, Dead, Sink, WriteContext, WriteError};
use crate::batch::Batch;
use crate::json::Quoted;

const DEFAULT_ROTATE_AT: u64 = 64 << 20;

/// Appends dead letters to a file, a JSON object a line, and starts a new file when it is large.
///
/// A batch is on the disk when its write returns (`fdatasync`), or it is not in the file: a write
/// that fails half-way is cut back, and fails as [`Class::Transient`] whatever the cause, because
/// the items are not at fault. [`Applied::Unknown`] only where cutting back fails too.
///
/// On Unix the file is made readable for its owner alone (mode 0600): what failed may be secret.
/// The file is locked while the sink lives, as [`FileSink`](super::FileSink)'s is. When the file
/// was moved or deleted by others, the next batch makes a new one.
///
/// ```
/// use sluicegate::Dead;
/// use sluicegate::sink::DeadLetterFile;
/// # let dir = std::env::temp_dir().join(format!("sluicegate-dead-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join("dead.ndjson");
///
/// let sink = DeadLetterFile::open(&path, |event: &String, out: &mut Vec<u8>| {
///     out.extend_from_slice(event.as_bytes());
///     Ok(())
/// })?
/// .rotate_at(16 << 20);
/// # drop(sink);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct DeadLetterFile<T, F> {
    encode: F,
    json: bool,
    place: Place,
    ids: Ids,
    lines: LineBuffer,
    /// An item as its encoder gave it, before it goes into the line.
    encoded: Vec<u8>,
    item: PhantomData<fn(&T)>,
}

impl<T, F> DeadLetterFile<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    /// Opens the file for appending, and creates it where there is none. `encode` appends one item
    /// as text (UTF-8); an item whose encoder fails, or appends something else, fails alone.
    ///
    /// # Errors
    /// Whatever opening or locking failed with; [`ErrorKind::WouldBlock`] when another sink or
    /// process holds the file.
    pub fn open(path: impl AsRef<Path>, encode: F) -> io::Result<Self> {
        let (path, rotate_at) = (path.as_ref().to_path_buf(), DEFAULT_ROTATE_AT);
        Ok(Self {
            encode,
            json: false,
            place: Place { file: Some(open_file(&path)?), path, rotate_at, keep: None },
            ids: Ids::new(),
            lines: LineBuffer::default(),
            encoded: Vec::new(),
            item: PhantomData,
        })
    }

    /// Says that `encode` appends one JSON value without a newline, which is then kept as such and
    /// not as a string. That it is valid JSON is the encoder's word; without a newline it can spoil
    /// its own line only.
    #[must_use]
    pub fn json(mut self) -> Self {
        self.json = true;
        self
    }

    /// A file that would grow beyond so many bytes is renamed (`dead.ndjson` to
    /// `dead.1.ndjson`, the next to `dead.2.ndjson`, …) and a new one begun; 64 MiB unless told
    /// otherwise. A batch is never split, so a file may be larger when one batch is.
    #[must_use]
    pub fn rotate_at(mut self, bytes: u64) -> Self {
        self.place.rotate_at = bytes;
        self
    }

    /// Deletes the oldest renamed files beyond so many. Unless told otherwise all are kept: nothing
    /// is lost that nobody has looked at.
    #[must_use]
    pub fn keep(mut self, files: usize) -> Self {
        self.place.keep = Some(files);
        self
    }
}

impl<T, F> Sink<Dead<T>> for DeadLetterFile<T, F>
where
    F: Fn(&T, &mut Vec<u8>) -> Result<(), BoxError>,
{
    fn write(
        &mut self,
        batch: &Batch<Dead<T>>,
        cx: &mut WriteContext<'_>,
    ) -> Result<(), WriteError> {
        let Self { encode, json, place, ids, lines, encoded, .. } = self;
        let lines = lines.fill(batch, cx, |dead, out| {
            encoded.clear();
            encode(&dead.item, encoded)?;
            write_line(dead, encoded, *json, &ids.next(), out)
        });
        if lines.is_empty() { Ok(()) } else { place.append(lines) }
    }
}

/// The file and where it is.
struct Place {
    path: PathBuf,
    rotate_at: u64,
    keep: Option<usize>,
    /// None after a failure to open a new file; the next batch tries again.
    file: Option<Destination<File>>,
}

impl Place {
    fn append(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        let file = self.ready(lines.len() as u64).map_err(WriteError::transient)?;
        let before = file.writer.length().map_err(WriteError::transient)?;
        file.append(lines).map_err(|error| error.with_class(Class::Transient))?;
        let Err(error) = file.writer.sync_data() else { return Ok(()) };
        // The kernel may have dropped what it could not write, or written it. Only when the cut is
        // on the disk is it sure that the lines are not.
        let cut = file.writer.truncate(before).and_then(|()| file.writer.sync_data());
        let applied = if cut.is_ok() { Applied::Nothing } else { Applied::Unknown };
        Err(WriteError::transient(error).applied(applied))
    }

    /// The file, with room for so many bytes more.
    fn ready(&mut self, more: u64) -> io::Result<&mut Destination<File>> {
        if let Some(file) = &self.file {
            let length = file.writer.length()?;
            if !is_at(&file.writer, &self.path) {
                self.file = None;
            } else if length > 0 && length.saturating_add(more) > self.rotate_at {
                self.rotate();
            }
        }
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(open_file(&self.path)?)),
        }
    }

    /// Gives the file its number. Where that fails, letters go on into the same file: a large file
    /// is better than a lost letter.
    fn rotate(&mut self) {
        match self.rename() {
            Ok(()) => self.file = None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "dead letters not rotated");
            }
        }
    }

    fn rename(&self) -> io::Result<()> {
        let numbered = numbered_files(&self.path)?;
        let number = numbered.last().map_or(1, |(number, _)| number.saturating_add(1));
        fs::rename(&self.path, numbered_path(&self.path, number))?;
        let too_many = match self.keep {
            Some(keep) => (numbered.len() + 1).saturating_sub(keep),
            None => 0,
        };
        let newest = (number, numbered_path(&self.path, number));
        for (_, path) in numbered.iter().chain([&newest]).take(too_many) {
            fs::remove_file(path)?;
        }
        sync_folder(&self.path)
    }
}

/// The files of a [`DeadLetterFile`] at this path, the oldest first: those that it has renamed,
/// then the one that it writes to, if it is there.
///
/// # Errors
/// Whatever reading the folder failed with.
pub fn dead_letter_files(path: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
    let path = path.as_ref();
    let mut files: Vec<_> = numbered_files(path)?.into_iter().map(|(_, file)| file).collect();
    if path.try_exists()? {
        files.push(path.to_path_buf());
    }
    Ok(files)
}

/// Renamed files by their number.
fn numbered_files(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder(path))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| number_in(name, path));
        if let Some(number) = number {
            files.push((number, path.with_file_name(name)));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn number_in(name: &str, path: &Path) -> Option<u64> {
    let rest = name.strip_prefix(path.file_stem()?.to_str()?)?.strip_prefix('.')?;
    let digits = match path.extension() {
        Some(extension) => rest.strip_suffix(extension.to_str()?)?.strip_suffix('.')?,
        None => rest,
    };
    let number = digits.parse().ok()?;
    // `01` and `+1` are not ours.
    (digits == u64::to_string(&number)).then_some(number)
}

/// `dead.ndjson` with number 7 is `dead.7.ndjson`, so that its kind can still be told by its name.
fn numbered_path(path: &Path, number: u64) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(format!(".{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn open_file(path: &Path) -> io::Result<Destination<File>> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = Destination::of(options.open(path)?, path)?;
    sync_folder(path)?;
    Ok(file)
}

/// Brings the file's name to the disk: a file that was synced is lost all the same when its name
/// is.
fn sync_folder(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder(path))?.sync_all() {
        // Some file systems don't sync folders, or need not.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

/// Whether the path still leads to this file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => id(file) == id(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Names that no other letter has, in this file or in another.
struct Ids {
    prefix: String,
    next: u64,
}

impl Ids {
    fn new() -> Self {
        // The standard library's only source of randomness, and enough beside the time.
        let random = RandomState::new().build_hasher().finish();
        let now = unix_time(SystemTime::now()).as_nanos();
        Self { prefix: format!("{now:x}-{random:016x}"), next: 0 }
    }

    fn next(&mut self) -> String {
        let id = format!("{}-{}", self.prefix, self.next);
        self.next += 1;
        id
    }
}

fn unix_time(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn write_line<T>(
    dead: &Dead<T>,
    item: &[u8],
    json: bool,
    id: &str,
    out: &mut Vec<u8>,
) -> Result<(), BoxError> {
    let item = std::str::from_utf8(item)?;
    if json && (item.is_empty() || item.contains('\n')) {
        return Err("an item of a dead-letter file is one JSON value without a newline".into());
    }
    let (class, applied) = (dead.class().name(), dead.applied().name());
    let (version, batch, part) = (dead.version, dead.batch.get(), dead.batch.part());
    write!(out, r#"{{"version":{version},"id":"{id}","batch":{batch},"part":{part},"#)?;
    write!(out, r#""class":"{class}","#)?;
    write!(out, r#""applied":"{applied}","error":{}"#, Quoted(&dead.error.to_string()))?;
    let (first, last) = (unix_time(dead.first).as_millis(), unix_time(dead.last).as_millis());
    write!(out, r#","attempts":{},"first_ms":{first},"last_ms":{last}"#, dead.attempts)?;
    out.extend_from_slice(br#","tenant":"#);
    match &dead.tenant {
        Some(tenant) => write!(out, "{}", Quoted(tenant))?,
        None => out.extend_from_slice(b"null"),
    }
    if json {
        out.extend_from_slice(br#","encoding":"json","item":"#);
        out.extend_from_slice(item.as_bytes());
    } else {
        write!(out, r#","encoding":"text","item":{}"#, Quoted(item))?;
    }
    out.push(b'}');
    Ok(())
}

impl<T, F> fmt::Debug for DeadLetterFile<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterFile")
            .field("path", &self.place.path)
            .field("json", &self.json)
            .field("rotate_at", &self.place.rotate_at)
            .field("keep", &self.place.keep)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "dead_file_tests.rs"]
mod tests;
