//! What is in the file is what was written, once, and nobody else may read it.
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::batch::{BatchId, FlushReason};
use crate::clock::Clock;
use crate::sink::Flusher;

type Outcome = (Result<(), WriteError>, Vec<(usize, WriteError)>);

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluicegate-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
    fn path(&self) -> PathBuf {
        self.0.join("dead.ndjson")
    }
    /// Names of the files, the oldest first, with the number of their lines.
    fn files(&self) -> Vec<(String, usize)> {
        let files = dead_letter_files(self.path()).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
        files.iter().map(|path| (name(path), lines(path))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn encode(item: &&'static str, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.extend_from_slice(item.as_bytes());
    match *item {
        "unencodable" => Err("does not encode".into()),
        "bytes" => {
            out.push(0xFF);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn dead(item: &'static str) -> Dead<&'static str> {
    let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
    Dead::new(item, WriteError::permanent("a \"bad\"\nrow"), BatchId::new(17).with_part(3))
        .attempts(3)
        .failed_at(at(1_000), at(4_000))
}

fn write<S: Sink<Dead<&'static str>>>(sink: &mut S, items: &[&'static str]) -> Outcome {
    let batch = Batch {
        id: BatchId::new(1),
        shard: 0,
        reason: FlushReason::Size,
        bytes: 0,
        items: items.iter().map(|item| dead(item)).collect(),
        position: 0,
        opened: Instant::now(),
        late: None,
    };
    let (mut failed, clock) = (Vec::new(), Clock::default());
    let mut cx = WriteContext::new(Flusher { index: 0 }, &clock, None, &mut failed);
    let result = sink.write(&batch, &mut cx);
    (result, failed)
}

/// The line without its id, which is checked to be there.
fn without_id(line: &str) -> String {
    let start = line.find(r#""id":""#).unwrap();
    let length = line[start + 6..].find('"').unwrap();
    assert!(length > 20);
    format!("{}{}", &line[..start], &line[start + 6 + length + 2..])
}

#[test]
fn a_line_says_all_that_is_known() {
    let folder = Folder::new("line");
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap();
    assert!(write(&mut sink, &["say \"é\"\t\n"]).0.is_ok());
    let text = fs::read_to_string(folder.path()).unwrap();
    let expected = [
        r#"{"version":1,"batch":17,"part":3,"class":"permanent","applied":"nothing","#,
        r#""error":"a \"bad\"\nrow","attempts":3,"first_ms":1000,"last_ms":4000,"#,
        r#""tenant":null,"encoding":"text","item":"say \"é\"\u0009\n"}"#,
        "\n",
    ];
    assert_eq!(without_id(&text), expected.concat());
}

#[test]
fn json_is_kept_as_it_is_and_what_is_no_line_fails_alone() {
    let folder = Folder::new("json");
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap().json();
    let items = ["{\"a\": 1}", "", "[1,\n2]", "unencodable", "bytes", "null"];
    let (result, failed) = write(&mut sink, &items);
    assert!(result.is_ok());
    assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let text = fs::read_to_string(folder.path()).unwrap();
    let ends: Vec<_> = text.lines().map(|line| line.rsplit_once("\"json\",").unwrap().1).collect();
    assert_eq!(ends, [r#""item":{"a": 1}}"#, r#""item":null}"#]);
}

#[test]
fn ids_are_never_the_same() {
    let folder = Folder::new("ids");
    for _ in 0..2 {
        let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap();
        assert!(write(&mut sink, &["a", "a"]).0.is_ok());
    }
    let text = fs::read_to_string(folder.path()).unwrap();
    let ids: std::collections::BTreeSet<_> =
        text.lines().map(|line| line.split('"').nth(5).unwrap()).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

#[test]
fn a_full_file_gets_a_number_and_all_are_kept() {
    let folder = Folder::new("rotation");
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap().rotate_at(600);
    // Not ours, whatever they look like.
    for other in ["dead.01.ndjson", "dead.x.ndjson", "dead.7.json"] {
        fs::write(folder.0.join(other), "").unwrap();
    }
    for _ in 0..12 {
        assert!(write(&mut sink, &["a"]).0.is_ok());
    }
    let files = folder.files();
    assert_eq!(files.iter().map(|(_, lines)| lines).sum::<usize>(), 12);
    assert!(files.len() > 2 && files.iter().all(|(_, lines)| (1..=3).contains(lines)), "{files:?}");
    assert_eq!(files[0].0, "dead.1.ndjson");
    assert_eq!(files.last().unwrap().0, "dead.ndjson");
}

#[test]
fn numbers_go_on_and_the_oldest_go_when_asked() {
    let folder = Folder::new("keep");
    fs::write(folder.0.join("dead.9.ndjson"), "x\n").unwrap();
    fs::write(folder.0.join("dead.10.ndjson"), "x\n").unwrap();
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap().rotate_at(1).keep(2);
    assert!(write(&mut sink, &["a", "b", "c"]).0.is_ok());
    assert!(write(&mut sink, &["d"]).0.is_ok());
    let expected = [("dead.10.ndjson", 1), ("dead.11.ndjson", 3), ("dead.ndjson", 1)];
    assert_eq!(folder.files(), expected.map(|(name, lines)| (name.to_owned(), lines)));
}

#[test]
fn a_line_torn_by_a_crash_is_ended() {
    let folder = Folder::new("torn");
    fs::write(folder.path(), "{\"version\":1,\"id").unwrap();
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap();
    assert!(write(&mut sink, &["a"]).0.is_ok());
    let text = fs::read_to_string(folder.path()).unwrap();
    assert!(text.starts_with("{\"version\":1,\"id\n{\"version\":1,\"id\":"), "{text}");
}

#[test]
fn a_file_that_is_taken_away_is_made_anew() {
    let folder = Folder::new("moved");
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap();
    assert!(write(&mut sink, &["a"]).0.is_ok());
    fs::rename(folder.path(), folder.0.join("elsewhere")).unwrap();
    assert!(write(&mut sink, &["b"]).0.is_ok());
    assert_eq!(folder.files(), [("dead.ndjson".to_owned(), 1)]);
}

#[test]
fn a_second_writer_is_refused() {
    let folder = Folder::new("locked");
    let sink = DeadLetterFile::open(folder.path(), encode).unwrap();
    let error = DeadLetterFile::open(folder.path(), encode).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(sink);
    assert!(DeadLetterFile::open(folder.path(), encode).is_ok());
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new("mode");
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap().rotate_at(1);
    assert!(write(&mut sink, &["a"]).0.is_ok());
    assert!(write(&mut sink, &["b"]).0.is_ok());
    for path in dead_letter_files(folder.path()).unwrap() {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_transient_and_nothing_is_written() {
    let mut sink = DeadLetterFile::open("/dev/full", encode).unwrap();
    let error = write(&mut sink, &["a"]).0.unwrap_err();
    assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
}

#[test]
fn whatever_cannot_be_opened_is_transient_and_tried_again() {
    let folder = Folder::new("reopen");
    let mut sink = DeadLetterFile::open(folder.path(), encode).unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    for _ in 0..2 {
        let error = write(&mut sink, &["a"]).0.unwrap_err();
        assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
    }
    fs::create_dir_all(&folder.0).unwrap();
    assert!(write(&mut sink, &["a"]).0.is_ok());
    assert_eq!(folder.files(), [("dead.ndjson".to_owned(), 1)]);
}

#[test]
fn the_letter_shows_all_but_its_item() {
    let shown = format!("{:?}", dead("secret").tenant("acme"));
    assert!(shown.contains("acme") && !shown.contains("secret"), "{shown}");
    let shared = Arc::new(WriteError::transient("x").applied(Applied::Unknown));
    let dead = Dead::new((), Arc::clone(&shared), BatchId::new(1)).attempts(0);
    assert_eq!(
        (dead.attempts, dead.applied(), dead.class()),
        (1, Applied::Unknown, Class::Transient)
    );
}
