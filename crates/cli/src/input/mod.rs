//! From bytes to items: where bytes come from ([`source`]), where lines end ([`lines`]), and what
//! is in them.
//!
//! Whatever comes in, memory stays bounded: a line is held up to `--max-line-bytes`, the rest of a
//! longer one is skipped unread. The treatment of each kind of bad input is listed in
//! `docs/command.md`, each with its test.

mod csv;
mod json;
mod lines;
mod ndjson;
pub(crate) mod source;
mod value;

use std::io;
use std::sync::Arc;

use crate::args::{ColumnArg, Format, RunArgs};
use crate::item::Item;
pub(crate) use csv::HeaderError;
use lines::Lines;
use source::Fill;

/// Why the input is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    /// Intake was stopped; so many bytes of an unfinished line were in hand and are not an item.
    Stopped {
        partial: u64,
    },
}

/// A line that is not an item, and why.
#[derive(Debug)]
pub(crate) struct Reject {
    pub(crate) line: u64,
    pub(crate) reason: String,
    /// The line, or its beginning.
    pub(crate) text: Vec<u8>,
    /// Whether `text` is only the beginning.
    pub(crate) cut: bool,
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Next {
    Item(Item),
    Reject(Reject),
    End(End),
}

/// Reads one item after the other.
pub(crate) trait Records {
    /// Reads what comes before the first item, if the format has such.
    fn begin(&mut self) -> Result<(), HeaderError> {
        Ok(())
    }

    /// The next item. Blank lines are skipped.
    fn next(&mut self) -> io::Result<Next>;
}

/// The columns asked for, shared by parser and sinks.
pub(crate) type Columns = Arc<[ColumnArg]>;

/// The reader for the format. Reads nothing yet.
pub(crate) fn open<S: Fill + Send + 'static>(source: S, args: &RunArgs) -> Box<dyn Records + Send> {
    let columns: Columns = args.rows.columns.clone().into();
    let max = args.max_line_bytes;
    match args.format {
        Format::Lines => Box::new(Lines::new(source, max, columns, lines::parse)),
        Format::Ndjson => Box::new(Lines::new(source, max, columns, ndjson::parse)),
        Format::Csv => Box::new(csv::Csv::new(source, max, columns)),
    }
}

/// An item of its own, where no input has to be taken apart; CSV has none, without its header.
pub(crate) fn parse_one(
    number: u64,
    text: &[u8],
    format: Format,
    columns: &Columns,
) -> Result<Item, String> {
    match format {
        Format::Lines => lines::parse(number, text, columns),
        Format::Ndjson => ndjson::parse(number, text, columns),
        Format::Csv => Err("a record of CSV is nothing without its header".to_owned()),
    }
}

/// Why bytes are not text.
fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("invalid UTF-8 after {} bytes", error.valid_up_to())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Input in memory that comes in pieces, and ends or is stopped after the last one.
    pub(crate) struct Pieces {
        pieces: std::collections::VecDeque<Vec<u8>>,
        stopped: bool,
    }

    impl Pieces {
        /// All of it, `step` bytes at a time.
        pub(crate) fn of(text: &[u8], step: usize) -> Self {
            Self { pieces: text.chunks(step).map(<[u8]>::to_vec).collect(), stopped: false }
        }
        pub(crate) fn then_stopped(mut self) -> Self {
            self.stopped = true;
            self
        }
    }

    impl Fill for Pieces {
        fn fill(&mut self, buffer: &mut [u8]) -> io::Result<source::Filled> {
            let Some(piece) = self.pieces.front_mut() else {
                return Ok(if self.stopped {
                    source::Filled::Stopped
                } else {
                    source::Filled::Eof
                });
            };
            let taken = piece.len().min(buffer.len());
            buffer[..taken].copy_from_slice(&piece[..taken]);
            piece.drain(..taken);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            Ok(source::Filled::Bytes(taken))
        }
    }

    /// Everything up to the end: `line:text` for items and `line!reason` for rejects.
    pub(crate) fn all(mut records: impl Records) -> (Vec<String>, End) {
        records.begin().unwrap();
        let mut seen = Vec::new();
        loop {
            match records.next().unwrap() {
                Next::Item(item) => seen.push(format!("{}:{}", item.line, show(&item))),
                Next::Reject(reject) => seen.push(format!("{}!{}", reject.line, reject.reason)),
                Next::End(end) => return (seen, end),
            }
        }
    }

    fn show(item: &Item) -> String {
        use crate::item::{Cell, Payload};
        match &item.payload {
            Payload::Whole(span) => item.text(*span).to_owned(),
            Payload::Cells(cells) => {
                let show = |cell: &Cell| match cell {
                    Cell::Null => "-".to_owned(),
                    Cell::Bool(value) => value.to_string(),
                    Cell::Integer(value) => value.to_string(),
                    Cell::Real(value) => format!("{value:?}"),
                    Cell::Text(span) => format!("{:?}", item.text(*span)),
                    Cell::Json(span) => format!("j{}", item.text(*span)),
                };
                cells.iter().map(show).collect::<Vec<_>>().join(" ")
            }
        }
    }
}
