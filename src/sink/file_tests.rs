use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::batch::{BatchId, FlushReason};
use crate::clock::Clock;
use crate::sink::Flusher;

fn batch(items: &[&'static str]) -> Batch<&'static str> {
    let now = Instant::now();
    Batch {
        id: BatchId::new(1),
        shard: 0,
        reason: FlushReason::Size,
        bytes: 0,
        items: items.to_vec(),
        position: 0,
        opened: now,
        late: None,
    }
}

type Outcome = (Result<(), WriteError>, Vec<(usize, WriteError)>);

fn write<S: Sink<&'static str>>(sink: &mut S, items: &[&'static str]) -> Outcome {
    let mut failed = Vec::new();
    let clock = Clock::default();
    let mut cx = WriteContext::new(Flusher { index: 0 }, &clock, None, &mut failed);
    let result = sink.write(&batch(items), &mut cx);
    (result, failed)
}

fn encode(item: &&'static str, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.extend_from_slice(item.as_bytes());
    if *item == "bad" { Err("bad item".into()) } else { Ok(()) }
}

/// A path in the target's temporary folder that goes away with the test.
struct TempPath(PathBuf);

impl TempPath {
    fn new(name: &str) -> Self {
        let name = format!("sluicegate-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
    fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file in memory with room for `room` bytes, which takes at most `step` of them in one call.
struct Disk {
    data: Vec<u8>,
    room: usize,
    step: usize,
    truncates: bool,
    interrupts: usize,
    error: ErrorKind,
}

impl Disk {
    fn with_room(room: usize) -> Self {
        let error = ErrorKind::StorageFull;
        Self { data: Vec::new(), room, step: usize::MAX, truncates: true, interrupts: 0, error }
    }
    fn into_destination(self) -> Destination<Self> {
        Destination { writer: self, can_truncate: true, torn: false }
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupts > 0 {
            self.interrupts -= 1;
            return Err(ErrorKind::Interrupted.into());
        }
        let taken = bytes.len().min(self.step).min(self.room - self.data.len());
        if taken == 0 {
            return Err(self.error.into());
        }
        self.data.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Truncate for Disk {
    fn length(&self) -> io::Result<u64> {
        Ok(self.data.len() as u64)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if !self.truncates {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.data.truncate(usize::try_from(length).unwrap());
        Ok(())
    }
}

#[test]
fn writes_a_line_per_item_and_appends() {
    let path = TempPath::new("appends");
    for _ in 0..2 {
        let mut sink = FileSink::open(&path.0, encode).unwrap().fsync(true);
        assert!(write(&mut sink, &["a", "b"]).0.is_ok());
    }
    assert_eq!(path.read(), "a\nb\na\nb\n");
}

#[test]
fn an_item_that_does_not_encode_fails_alone_and_leaves_no_bytes() {
    let path = TempPath::new("bad-item");
    let mut sink = FileSink::open(&path.0, encode).unwrap();
    let (result, failed) = write(&mut sink, &["a", "bad", "c"]);
    assert!(result.is_ok());
    assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
    assert_eq!(path.read(), "a\nc\n");
}

#[test]
fn a_torn_last_line_is_ended_on_open() {
    let path = TempPath::new("torn-open");
    std::fs::write(&path.0, "whole\nto").unwrap();
    let mut sink = FileSink::open(&path.0, encode).unwrap();
    write(&mut sink, &["next"]).0.unwrap();
    assert_eq!(path.read(), "whole\nto\nnext\n");
}

#[test]
fn a_second_owner_is_refused_and_clones_share() {
    let path = TempPath::new("owner");
    let mut first = FileSink::open(&path.0, encode).unwrap();
    let refused = FileSink::open(&path.0, encode).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    let mut second = first.clone();
    write(&mut second, &["a"]).0.unwrap();
    write(&mut first, &["b"]).0.unwrap();
    assert_eq!(path.read(), "a\nb\n");
}

#[test]
fn clones_on_several_threads_never_mix_lines() {
    let path = TempPath::new("threads");
    let sink = FileSink::open(&path.0, encode).unwrap();
    std::thread::scope(|scope| {
        for word in ["aaaaaaaa", "bbbbbbbb"] {
            let mut sink = sink.clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    write(&mut sink, &[word; 16]).0.unwrap();
                }
            });
        }
    });
    let text = path.read();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2 * 200 * 16);
    assert!(lines.chunks(16).all(|batch| batch.iter().all(|line| *line == batch[0])));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_transient_and_nothing_was_applied() {
    let mut sink = FileSink::open("/dev/full", encode).unwrap();
    let error = write(&mut sink, &["a"]).0.unwrap_err();
    assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
}

#[test]
fn short_writes_and_interruptions_are_carried_on() {
    let mut disk = Disk::with_room(100);
    disk.step = 1;
    disk.interrupts = 2;
    let mut destination = disk.into_destination();
    destination.append(b"abc\ndef\n").unwrap();
    assert_eq!(destination.writer.data, b"abc\ndef\n");
}

#[test]
fn a_torn_write_is_cut_back() {
    let mut destination = Disk::with_room(6).into_destination();
    destination.append(b"abc\n").unwrap();
    let error = destination.append(b"def\n").unwrap_err();
    assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
    assert_eq!(destination.writer.data, b"abc\n");
    destination.append(b"x\n").unwrap();
    assert_eq!(destination.writer.data, b"abc\nx\n");
}

#[test]
fn where_cutting_back_fails_the_outcome_is_unknown_and_the_fragment_stands_alone() {
    let mut disk = Disk::with_room(6);
    disk.truncates = false;
    let mut destination = disk.into_destination();
    destination.append(b"abc\n").unwrap();
    let error = destination.append(b"def\n").unwrap_err();
    assert_eq!(error.what_applied(), Applied::Unknown);
    destination.writer.room = 100;
    destination.append(b"ghi\n").unwrap();
    assert_eq!(destination.writer.data, b"abc\nde\nghi\n");
}

#[test]
fn a_writer_cannot_be_cut_back_and_a_closed_pipe_is_disconnected() {
    let mut disk = Disk::with_room(4);
    disk.error = ErrorKind::BrokenPipe;
    let mut sink = WriterSink::new(disk, encode);
    write(&mut sink, &["a"]).0.unwrap();
    let torn = write(&mut sink, &["bcd"]).0.unwrap_err();
    assert_eq!((torn.class(), torn.what_applied()), (Class::Disconnected, Applied::Unknown));
    let closed = write(&mut sink, &["e"]).0.unwrap_err();
    assert_eq!((closed.class(), closed.what_applied()), (Class::Disconnected, Applied::Nothing));
}

#[test]
fn the_buffer_is_reused() {
    let mut sink = WriterSink::new(io::sink(), encode);
    write(&mut sink, &["abcdefgh"; 64]).0.unwrap();
    let (pointer, capacity) = (sink.lines.buffer.0.as_ptr(), sink.lines.buffer.0.capacity());
    for _ in 0..10 {
        write(&mut sink, &["abcdefgh"; 64]).0.unwrap();
    }
    assert_eq!((sink.lines.buffer.0.as_ptr(), sink.lines.buffer.0.capacity()), (pointer, capacity));
}
