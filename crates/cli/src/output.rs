//! Where items go, as sinks of the engine.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sluicegate::sink::{FileSink, NullSink, WriterSink};
use sluicegate::{BoxError, Flusher, Sink};
use sluicegate_sqlite::{BindRow, Column, OpenError, Row, SqliteOptions, Synchronous};

use crate::args::{ColumnArg, RunArgs, SynchronousArg, Target};
use crate::input::Columns;
use crate::item::{Cell, Item, Payload};
use crate::run::Failure;

pub(crate) type BoxSink = Box<dyn Sink<Item>>;
/// Opens the sink of one flusher.
pub(crate) type Factory = Box<dyn Fn(Flusher) -> Result<BoxSink, BoxError> + Send + Sync>;

/// What opens the destination for each flusher. Nothing is opened yet; what fails later is a
/// [`Failure`].
pub(crate) fn factory(args: &RunArgs) -> Factory {
    match &args.to {
        Target::Null => Box::new(|_| Ok(Box::new(NullSink) as BoxSink)),
        Target::Stdout => {
            let sink = WriterSink::stdout(encoder(args));
            Box::new(move |_| Ok(Box::new(sink.clone()) as BoxSink))
        }
        Target::File(path) => file(path.clone(), args),
        Target::Sqlite(path) => sqlite(path.clone(), args),
    }
}

fn encoder(
    args: &RunArgs,
) -> impl Fn(&Item, &mut Vec<u8>) -> Result<(), BoxError> + Clone + 'static {
    let columns: Columns = args.rows.columns.clone().into();
    move |item: &Item, out: &mut Vec<u8>| encode(item, &columns, out)
}

/// The flushers share one file, which the first of them opens.
fn file(path: PathBuf, args: &RunArgs) -> Factory {
    let (encode, fsync) = (encoder(args), args.fsync);
    let shared = Mutex::new(None);
    Box::new(move |_| {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() {
            let opened = FileSink::open(&path, encode.clone()).map_err(|e| {
                Failure::usage("--to", format!("cannot write {}: {e}", path.display()))
            })?;
            *shared = Some(opened.fsync(fsync));
        }
        match &*shared {
            Some(sink) => Ok(Box::new(sink.clone()) as BoxSink),
            None => Err("the file is not open".into()),
        }
    })
}

/// The table to write to.
pub(crate) fn sqlite_options(path: &Path, args: &RunArgs) -> SqliteOptions {
    let mut options = SqliteOptions::new(path).synchronous(match args.synchronous {
        None | Some(SynchronousArg::Full) => Synchronous::Full,
        Some(SynchronousArg::Normal) => Synchronous::Normal,
        Some(SynchronousArg::Off) => Synchronous::Off,
    });
    if let Some(table) = &args.rows.table {
        options = options.table(table);
    }
    if !args.rows.columns.is_empty() {
        let column = |c: &ColumnArg| Column::new(&c.name).affinity(c.affinity);
        options = options.columns(args.rows.columns.iter().map(column));
    }
    options
}

fn sqlite(path: PathBuf, args: &RunArgs) -> Factory {
    let options = sqlite_options(&path, args);
    let table = args.rows.table.clone();
    Box::new(move |_| {
        let sink =
            options.open(Cells).map_err(|error| at_fault(&error, &path, table.as_deref()))?;
        Ok(Box::new(sink) as BoxSink)
    })
}

pub(crate) fn at_fault(error: &OpenError, path: &Path, table: Option<&str>) -> Failure {
    match error {
        OpenError::Name { name, .. } if Some(name.as_str()) == table => {
            Failure::usage("--table", error)
        }
        OpenError::Name { .. } => Failure::usage("--columns", error),
        OpenError::Columns(_) => Failure::usage("--columns", error),
        _ if error.is_schema() => Failure::usage("--table and --columns", error),
        _ => Failure::usage("--to", format!("cannot open {}: {error}", path.display())),
    }
}

/// Binds an item's cells.
pub(crate) struct Cells;

impl BindRow<Item> for Cells {
    fn bind(&self, item: &Item, row: &mut Row<'_, '_>) -> Result<(), BoxError> {
        let cells = match &item.payload {
            Payload::Whole(span) => return row.text(item.text(*span)),
            Payload::Cells(cells) => cells,
        };
        cells.iter().try_for_each(|cell| match *cell {
            Cell::Null => row.null(),
            Cell::Bool(value) => row.integer(value.into()),
            Cell::Integer(value) => row.integer(value),
            Cell::Real(value) => row.real(value),
            Cell::Text(span) | Cell::Json(span) => row.text(item.text(span)),
        })
    }
}

/// An item as a line: as it was read, or as a JSON object of its columns.
pub(crate) fn encode(item: &Item, columns: &Columns, out: &mut Vec<u8>) -> Result<(), BoxError> {
    let cells = match &item.payload {
        Payload::Whole(span) if columns.is_empty() => {
            out.extend_from_slice(item.text(*span).as_bytes());
            return Ok(());
        }
        Payload::Whole(span) => &[Cell::Text(*span)][..],
        Payload::Cells(cells) => cells,
    };
    for (index, (column, cell)) in columns.iter().zip(cells).enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        serde_json::to_writer(&mut *out, &column.name)?;
        out.push(b':');
        match *cell {
            Cell::Null => out.extend_from_slice(b"null"),
            Cell::Bool(value) => serde_json::to_writer(&mut *out, &value)?,
            Cell::Integer(value) => serde_json::to_writer(&mut *out, &value)?,
            Cell::Real(value) => serde_json::to_writer(&mut *out, &value)?,
            Cell::Text(span) => serde_json::to_writer(&mut *out, item.text(span))?,
            Cell::Json(span) => out.extend_from_slice(item.text(span).as_bytes()),
        }
    }
    out.push(b'}');
    Ok(())
}
