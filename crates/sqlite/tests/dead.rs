//! Promise: a dead letter is in the store with all that is known of it, and replaying writes it
//! once, whatever refuses or crashes meanwhile.
#![allow(clippy::unwrap_used)] // a test may fail

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use sluicegate::{
    Applied, BatchId, Batcher, BoxError, Class, Dead, Flusher, Shutdown, Sink, WriteError,
};
use sluicegate_sqlite::{
    Affinity, Column, DeadCondition, DeadLetter, DeadLetterSink, DeadLetterStore, DeadStoreError,
    OpenError, Replayed, Replayer, Row, SqliteOptions,
};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn store(&self) -> DeadLetterStore {
        DeadLetterStore::open(self.path("dead.db")).unwrap()
    }
    fn connect(&self, name: &str) -> Connection {
        Connection::open(self.path(name)).unwrap()
    }
    fn letters(&self) -> Vec<DeadLetter> {
        self.store().list(&[], 0, 1_000).unwrap()
    }
    fn items(&self, name: &str) -> Vec<i64> {
        let db = self.connect(name);
        let mut statement = db.prepare("SELECT n FROM items ORDER BY n").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
}

fn encode(item: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.extend_from_slice(item);
    if item == b"unencodable" { Err("does not encode".into()) } else { Ok(()) }
}

/// All letters in one batch.
fn write(place: &Place, letters: Vec<Dead<Vec<u8>>>) -> Shutdown<Dead<Vec<u8>>> {
    let options = SqliteOptions::new(place.path("dead.db"));
    let batcher = Batcher::builder()
        .retry(None)
        .bisect(false)
        .breaker(None)
        .max_batch_size(1_000)
        .max_batch_delay(Duration::from_secs(50))
        .spawn(move |_: Flusher| DeadLetterSink::open(&options, encode))
        .unwrap();
    let producer = batcher.producer();
    for letter in letters {
        producer.add(letter).unwrap();
    }
    batcher.shutdown(LONG)
}

fn dead(item: &[u8], error: WriteError, last_ms: u64) -> Dead<Vec<u8>> {
    let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
    Dead::new(item.to_vec(), error, BatchId::new(17).with_part(3))
        .attempts(3)
        .failed_at(at(1_000), at(last_ms))
}

fn numbers(place: &Place, numbers: std::ops::Range<u32>) {
    let letter = |n: u32| dead(n.to_string().as_bytes(), WriteError::permanent("refused"), 2_000);
    assert!(write(place, numbers.map(letter).collect()).is_clean());
}

/// Binds a number; `777` does not go.
fn bind(item: &i64, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
    if *item == 777 { Err("unlucky".into()) } else { row.integer(*item) }
}

type Bind = fn(&i64, &mut Row<'_, '_>) -> Result<(), BoxError>;

fn replayer(place: &Place, name: &str) -> Replayer<i64, Bind> {
    let columns = [Column::new("n").affinity(Affinity::Integer)];
    let options = SqliteOptions::new(place.path(name)).columns(columns);
    Replayer::open(&options, "a test", bind as Bind).unwrap().store_is_target(name == "dead.db")
}

/// How many letters were replayed now, before, and not.
fn replay(replayer: &mut Replayer<i64, Bind>, letters: &[DeadLetter]) -> [usize; 3] {
    let number = |letter: &DeadLetter| String::from_utf8_lossy(&letter.item).parse().unwrap();
    let letters: Vec<_> = letters.iter().map(|l| (l.id.as_str(), number(l))).collect();
    let fates = replayer.replay(&letters).unwrap();
    assert_eq!(fates.len(), letters.len());
    let count = |is: fn(&Replayed) -> bool| fates.iter().filter(|fate| is(fate)).count();
    [
        count(|fate| matches!(fate, Replayed::Now)),
        count(|fate| matches!(fate, Replayed::Already)),
        count(|fate| matches!(fate, Replayed::Failed(_))),
    ]
}

#[test]
fn the_sink_may_go_to_another_thread() {
    fn is_one<S: Sink<Dead<Vec<u8>>> + Send>(_: S) {}
    let place = Place::new();
    is_one(DeadLetterSink::open(&SqliteOptions::new(place.path("dead.db")), encode).unwrap());
}

#[test]
fn a_letter_keeps_all_that_is_known() {
    let place = Place::new();
    let unknown = WriteError::disconnected("reset").applied(Applied::Unknown);
    let letters = vec![
        dead("é\0\n".as_bytes(), WriteError::permanent("no 'such' column"), 4_000),
        dead(&[0xFF, 0], unknown, 5_000).tenant("acme"),
        dead(b"unencodable", WriteError::permanent("x"), 1_000),
    ];
    let shutdown = write(&place, letters);
    assert_eq!((shutdown.tally.flushed_ok, shutdown.tally.flushed_fail), (2, 1));
    let store = place.store();
    let first = store.get(1).unwrap().unwrap();
    let expected = DeadLetter {
        row: 1,
        id: first.id.clone(),
        item: "é\0\n".into(),
        class: "permanent".to_owned(),
        applied: "nothing".to_owned(),
        error: "no 'such' column".to_owned(),
        attempts: 3,
        first_ms: 1_000,
        last_ms: 4_000,
        batch: 17,
        part: 3,
        tenant: None,
        version: 1,
        replayed_ms: None,
    };
    assert_eq!(first, expected);
    let second = &store.list(&[], 1, 10).unwrap()[0];
    assert_eq!(second.item, [0xFF, 0]);
    assert_eq!((second.class.as_str(), second.applied.as_str()), ("disconnected", "unknown"));
    assert_eq!(second.tenant.as_deref(), Some("acme"));
    assert_ne!(first.id, second.id);
    assert!(store.get(3).unwrap().is_none());
}

#[test]
fn groups_and_conditions() {
    let place = Place::new();
    let now = SystemTime::now();
    let now_ms = u64::try_from(now.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let letters = vec![
        dead(b"1", WriteError::permanent("50% bad"), now_ms - 7_200_000),
        dead(b"2", WriteError::permanent("50% bad"), now_ms - 1_800_000),
        dead(b"3", WriteError::permanent("50% bad"), now_ms),
        dead(b"4", WriteError::transient("50% bad"), now_ms),
    ];
    assert!(write(&place, letters).is_clean());
    let mut store = place.store();
    store.mark_replayed(&[1, 99]).unwrap();
    let groups = store.groups(&[], now).unwrap();
    let brief = |g: &sluicegate_sqlite::DeadGroup| {
        (g.class.clone(), g.count, g.replayed, g.last_minute, g.last_hour)
    };
    assert_eq!(
        groups.iter().map(brief).collect::<Vec<_>>(),
        [("permanent".to_owned(), 3, 1, 1, 2), ("transient".to_owned(), 1, 0, 1, 1)]
    );
    assert_eq!((groups[0].first_ms, groups[0].last_ms), (1_000, i64::try_from(now_ms).unwrap()));
    let since = DeadCondition::SinceMs(i64::try_from(now_ms - 3_600_000).unwrap());
    for (conditions, expected) in [
        (vec![DeadCondition::Class(Class::Permanent)], vec![1, 2, 3]),
        (vec![DeadCondition::Applied(Applied::Unknown)], vec![]),
        (vec![DeadCondition::ErrorContains("0% b".to_owned())], vec![1, 2, 3, 4]),
        (vec![DeadCondition::ErrorContains("BAD".to_owned())], vec![]),
        (vec![DeadCondition::Batch(18)], vec![]),
        (vec![DeadCondition::Replayed(true)], vec![1]),
        (vec![since, DeadCondition::Class(Class::Permanent)], vec![2, 3]),
    ] {
        let found = store.list(&conditions, 0, 10).unwrap();
        assert_eq!(found.iter().map(|l| l.row).collect::<Vec<_>>(), expected, "{conditions:?}");
        let matching = |l: &&DeadLetter| conditions.iter().all(|condition| condition.matches(l));
        assert_eq!(place.letters().iter().filter(matching).count(), expected.len());
    }
    assert_eq!(store.purge(&[DeadCondition::Replayed(true)]).unwrap(), 1);
    assert_eq!(store.purge(&[]).unwrap(), 3);
    numbers(&place, 0..1);
    assert_eq!(place.letters()[0].row, 5, "a number is never given twice");
}

#[test]
fn a_letter_is_replayed_once_into_the_same_file_or_another() {
    for target in ["dead.db", "other.db"] {
        let place = Place::new();
        numbers(&place, 0..5);
        let letters = place.letters();
        assert_eq!(replay(&mut replayer(&place, target), &letters), [5, 0, 0], "{target}");
        assert_eq!(replay(&mut replayer(&place, target), &letters), [0, 5, 0], "{target}");
        assert_eq!(place.items(target), [0, 1, 2, 3, 4], "{target}");
        let marked = place.letters().iter().filter(|l| l.replayed_ms.is_some()).count();
        assert_eq!(marked, if target == "dead.db" { 5 } else { 0 }, "{target}");
    }
}

#[test]
fn a_letter_that_is_refused_takes_no_other_with_it_and_can_be_tried_again() {
    let unique = "CREATE TABLE items (n INTEGER UNIQUE ON CONFLICT";
    let schemas = [
        ("CREATE TABLE items (n INTEGER CHECK (n <> 2))".to_owned(), "DROP TABLE items"),
        (format!("{unique} ROLLBACK); INSERT INTO items VALUES (2)"), "DROP TABLE items"),
        (format!("{unique} IGNORE); INSERT INTO items VALUES (2)"), "DROP TABLE items"),
        (
            "CREATE TABLE good (n INTEGER PRIMARY KEY); INSERT INTO good VALUES (0), (1), (3);
             CREATE TABLE items (n INTEGER REFERENCES good DEFERRABLE INITIALLY DEFERRED)"
                .to_owned(),
            "DROP TABLE items; DROP TABLE good",
        ),
    ];
    for (schema, undo) in schemas {
        let place = Place::new();
        numbers(&place, 0..4);
        place.connect("other.db").execute_batch(&schema).unwrap();
        let mut first = replayer(&place, "other.db");
        assert_eq!(replay(&mut first, &place.letters()), [3, 0, 1], "{schema}");
        drop(first);
        let mut there = place.items("other.db");
        there.retain(|n| *n != 2);
        assert_eq!(there, [0, 1, 3], "{schema}");
        let db = place.connect("other.db");
        db.execute_batch(&format!("PRAGMA foreign_keys = OFF; {undo}")).unwrap();
        drop(db);
        let mut second = replayer(&place, "other.db");
        assert_eq!(replay(&mut second, &place.letters()), [1, 3, 0], "{schema}");
        assert_eq!(place.items("other.db"), [2], "{schema}");
    }
}

#[test]
fn a_letter_that_cannot_be_bound_fails_alone() {
    let place = Place::new();
    numbers(&place, 776..779);
    assert_eq!(replay(&mut replayer(&place, "dead.db"), &place.letters()), [2, 0, 1]);
    let unmarked: Vec<_> =
        place.letters().into_iter().filter(|l| l.replayed_ms.is_none()).collect();
    assert_eq!(unmarked.len(), 1);
    assert_eq!(unmarked[0].item, b"777");
}

#[test]
fn a_failure_of_the_database_writes_nothing_and_is_made_good() {
    let place = Place::new();
    numbers(&place, 0..3);
    let columns = [Column::new("n").affinity(Affinity::Integer)];
    let options =
        SqliteOptions::new(place.path("other.db")).columns(columns).busy_timeout(Duration::ZERO);
    let mut blocked = Replayer::open(&options, "a test", bind as Bind).unwrap();
    let other = place.connect("other.db");
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let letters = place.letters();
    let error = blocked.replay(&[(letters[0].id.as_str(), 0)]).unwrap_err();
    assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(replay(&mut blocked, &letters), [3, 0, 0]);
    assert_eq!(place.items("other.db"), [0, 1, 2]);
}

#[test]
fn what_is_no_store_is_refused() {
    let place = Place::new();
    let missing = DeadLetterStore::open(place.path("missing.db")).unwrap_err();
    assert!(matches!(missing, DeadStoreError::Sqlite(_)), "{missing}");
    assert!(!place.path("missing.db").exists());
    place.connect("empty.db").execute_batch("CREATE TABLE t (x)").unwrap();
    let empty = DeadLetterStore::open(place.path("empty.db")).unwrap_err();
    assert!(matches!(empty, DeadStoreError::NoLetters), "{empty}");
    numbers(&place, 0..1);
    place.connect("dead.db").execute_batch("UPDATE dead_letters SET version = 2").unwrap();
    let newer = DeadLetterStore::open(place.path("dead.db")).unwrap_err();
    assert!(matches!(newer, DeadStoreError::Version { found: 2 }), "{newer}");
    place.connect("own.db").execute_batch("CREATE TABLE dead_letters (x)").unwrap();
    let own = DeadLetterSink::<Vec<u8>, _>::open(&SqliteOptions::new(place.path("own.db")), encode);
    assert!(matches!(own.unwrap_err(), OpenError::Schema(_)));
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let options = SqliteOptions::new(place.path("dead.db"));
    let sink = DeadLetterSink::<Vec<u8>, _>::open(&options, encode).unwrap();
    for name in ["dead.db", "dead.db-wal", "dead.db-shm"] {
        let mode = std::fs::metadata(place.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(sink);
}
