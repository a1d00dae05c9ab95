//! What travels through the engine: one line or record, parsed.

use crate::gate::Charge;

/// A range of an item's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Lines are bounded (`args::MAX_LINE_BYTES_MAX`) so that what is made of one stays far below 4
    /// GiB.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(end) }
    }
}

/// The value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(Span),
    /// An array or object, as JSON text.
    Json(Span),
}

/// What is stored of an item.
#[derive(Debug)]
pub(crate) enum Payload {
    /// One value: the item as text.
    Whole(Span),
    /// A value per column.
    Cells(Box<[Cell]>),
}

/// An item. Two allocations at most, so that ten million of them are cheap to make and to drop.
#[derive(Debug)]
pub(crate) struct Item {
    /// The line it began on, counted from 1.
    pub(crate) line: u64,
    /// The source as read, then what had to be decoded (escapes).
    text: Box<str>,
    source: Span,
    pub(crate) payload: Payload,
    /// Its share of the memory budget, where it is long enough to need one.
    pub(crate) charge: Option<Box<Charge>>,
}

impl Item {
    pub(crate) fn new(line: u64, text: String, source_len: usize, payload: Payload) -> Self {
        Self {
            line,
            text: text.into_boxed_str(),
            source: Span::new(0, source_len),
            payload,
            charge: None,
        }
    }

    /// The line or record as it was read.
    pub(crate) fn source(&self) -> &str {
        self.text(self.source)
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// What it counts for in a batch: the bytes of its text.
    pub(crate) fn weight(&self) -> usize {
        self.text.len()
    }
}
