//! Where dead letters of the command's items are kept, told by the name of the file.

use std::path::Path;

use sluicegate::sink::DeadLetterFile;
use sluicegate::{BoxError, Dead, Sink};
use sluicegate_sqlite::{DeadLetterSink, SqliteOptions};

use crate::args::{Format, RunArgs};
use crate::input::Columns;
use crate::item::Item;
use crate::output;
use crate::run::Failure;

/// What a file of dead letters is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Ndjson,
}

impl Kind {
    /// By the end of the file's name.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "db" | "sqlite" | "sqlite3" => Some(Self::Sqlite),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            _ => None,
        }
    }
}

/// Takes the dead letters of a run.
pub(crate) type DeadSink = Box<dyn Sink<Dead<Item>> + Send>;

/// Opens the file for a run's dead letters, as the option `--dead-letters` names it.
pub(crate) fn open(path: &Path, args: &RunArgs) -> Result<DeadSink, Failure> {
    let refuse = |what: String| Failure::usage("--dead-letters", what);
    let at = |error: BoxError| refuse(format!("cannot write {}: {error}", path.display()));
    let (format, columns): (_, Columns) = (args.format, args.rows.columns.clone().into());
    let encode = move |item: &Item, out: &mut Vec<u8>| encode(item, format, &columns, out);
    match Kind::of(path) {
        Some(Kind::Sqlite) => {
            let sink = DeadLetterSink::open(&SqliteOptions::new(path), encode);
            Ok(Box::new(sink.map_err(|e| at(e.into()))?))
        }
        Some(Kind::Ndjson) => {
            let sink = DeadLetterFile::open(path, encode).map_err(|e| at(e.into()))?;
            Ok(Box::new(if format == Format::Lines { sink } else { sink.json() }))
        }
        None => Err(refuse("expected a file that ends in .ndjson, .jsonl, .db or .sqlite".into())),
    }
}

/// The item so that a replay can read it again: as it was read, and a record of CSV, which is
/// nothing without its header, as an object.
fn encode(
    item: &Item,
    format: Format,
    columns: &Columns,
    out: &mut Vec<u8>,
) -> Result<(), BoxError> {
    if format == Format::Csv {
        return output::encode(item, columns, out);
    }
    out.extend_from_slice(item.source().as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use sluicegate::{BatchId, Batcher, Flusher, WriteError};

    use super::*;
    use crate::args::Target;
    use crate::dlq::Source;
    use crate::input;
    use crate::item::{Cell, Payload, Span};

    /// Writes the items as dead letters and gives the items of the letters that are then there.
    fn kept(name: &str, format: Format, columns: &str, items: Vec<Item>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let mut args = RunArgs::writing_to(Target::Null).unwrap();
        args.format = format;
        args.rows.columns =
            columns.split(',').filter(|c| !c.is_empty()).map(|c| c.parse().unwrap()).collect();
        let sink = Mutex::new(Some(open(&path, &args).unwrap()));
        let batcher = Batcher::builder()
            .spawn(move |_: Flusher| sink.lock().unwrap().take().ok_or("opened twice"))
            .unwrap();
        for item in items {
            let error = WriteError::permanent("refused");
            batcher.producer().add(Dead::new(item, error, BatchId::new(1))).unwrap();
        }
        assert!(batcher.shutdown(Duration::from_secs(60)).is_clean());
        let source = Source::open(&path).unwrap();
        let letters = source.all().unwrap();
        letters.into_iter().map(|l| String::from_utf8(l.item).unwrap()).collect()
    }

    fn item(format: Format, text: &str) -> Item {
        input::parse_one(1, text.as_bytes(), format, &Columns::default()).unwrap()
    }

    #[test]
    fn items_are_kept_as_they_were_read() {
        for name in ["dead.ndjson", "dead.jsonl", "dead.db", "dead.sqlite", "dead.SQLITE3"] {
            let json = [" {\"a\": [1, \"é\"]}", "12"];
            let items = json.map(|text| item(Format::Ndjson, text)).into();
            let seen = kept(name, Format::Ndjson, "", items);
            assert_eq!(seen.iter().map(|s| s.trim()).collect::<Vec<_>>(), json.map(str::trim));
            let lines = ["no \"JSON\"", "12"];
            let items = lines.map(|text| item(Format::Lines, text)).into();
            assert_eq!(kept(name, Format::Lines, "", items), lines, "{name}");
        }
    }

    #[test]
    fn a_record_of_csv_is_kept_as_an_object() {
        let text = String::from("x,1");
        let cells = [Span::new(0, 1), Span::new(2, 3)].map(Cell::Text);
        let record = Item::new(1, text, 3, Payload::Cells(cells.into()));
        let seen = kept("dead.ndjson", Format::Csv, "a,b", vec![record]);
        assert_eq!(seen, [r#"{"a":"x","b":"1"}"#]);
    }

    #[test]
    fn other_names_are_refused() {
        let args = RunArgs::writing_to(Target::Null).unwrap();
        for name in ["dead", "dead.json", "dead.csv"] {
            let error = open(Path::new(name), &args).err().unwrap().to_string();
            assert!(error.starts_with("--dead-letters: expected"), "{error}");
        }
        let error = open(Path::new("/nonexistent/x.db"), &args).err().unwrap().to_string();
        assert!(error.starts_with("--dead-letters: cannot write /nonexistent"), "{error}");
    }
}
