//! `--format csv`: RFC 4180, with a header row.
//!
//! Records are taken apart by `csv_core` as the bytes come, into buffers that stay bounded: what is
//! beyond the bound is parsed on and forgotten, so that the next record starts where this one truly
//! ends, never inside its quotes.

use std::fmt;
use std::io;

use csv_core::{ReadRecordResult, Reader};

use super::lines::{BOM, CHUNK, HEAD};
use super::source::{Fill, Filled};
use super::value::{from_field, in_column};
use super::{Columns, End, Next, Records, Reject, not_utf8};
use crate::args::ColumnArg;
use crate::item::{Cell, Item, Payload, Span};

/// More fields than any table has columns; a record with more is rejected.
const FIELDS_MAX: usize = 4_096;

/// Items from records of CSV.
pub(crate) struct Csv<S> {
    scanner: Scanner<S>,
    columns: Columns,
    header: Option<Header>,
    /// What came instead of the header: the end of the input, or an error.
    instead: Option<io::Result<End>>,
}

struct Header {
    names: Vec<String>,
    /// For each column, its field.
    fields: Vec<usize>,
}

/// The header will not do: a mistake in the call, not in a line.
#[derive(Debug)]
pub(crate) struct HeaderError {
    /// The option at fault.
    pub(crate) option: &'static str,
    what: String,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CSV header: {}", self.what)
    }
}

impl std::error::Error for HeaderError {}

impl<S: Fill> Csv<S> {
    pub(crate) fn new(source: S, max: usize, columns: Columns) -> Self {
        Self { scanner: Scanner::new(source, max), columns, header: None, instead: None }
    }

    fn item(&self, header: &Header, line: u64) -> Result<Item, String> {
        let scanner = &self.scanner;
        if scanner.open_quote {
            return Err("the input ends inside a quoted field (cut short?)".to_owned());
        }
        let source = std::str::from_utf8(&scanner.raw).map_err(not_utf8)?;
        let fields = scanner.fields()?;
        if fields.len() != header.names.len() {
            let (got, want) = (fields.len(), header.names.len());
            return Err(format!("{got} fields, the header has {want}"));
        }
        let source = source.trim_end_matches(['\r', '\n']);
        let mut text = String::with_capacity(source.len() + scanner.out.len() + 16);
        text.push_str(source);
        let payload = if self.columns.is_empty() {
            as_object(&header.names, &fields, &mut text)?;
            Payload::Whole(Span::new(source.len(), text.len()))
        } else {
            Payload::Cells(self.cells(header, &fields, &mut text)?)
        };
        Ok(Item::new(line, text, source.len(), payload))
    }

    fn cells(
        &self,
        header: &Header,
        fields: &[&str],
        text: &mut String,
    ) -> Result<Box<[Cell]>, String> {
        let cell = |(column, field): (usize, &usize)| {
            let value = fields[*field];
            let ColumnArg { name, affinity } = &self.columns[column];
            let span = Span::new(text.len(), text.len() + value.len());
            let cell = from_field(value, span, *affinity).map_err(|why| in_column(name, &why))?;
            if matches!(cell, Cell::Text(_)) {
                text.push_str(value);
            }
            Ok(cell)
        };
        header.fields.iter().enumerate().map(cell).collect()
    }

    fn read_header(&self, outcome: Scan) -> Result<Header, HeaderError> {
        let scanner = &self.scanner;
        let bad = |what: String| HeaderError { option: "--from", what };
        if matches!(outcome, Scan::TooLong) || scanner.open_quote {
            return Err(bad("longer than --max-line-bytes, or a quote is not closed".to_owned()));
        }
        let names: Vec<String> =
            scanner.fields().map_err(bad)?.into_iter().map(str::to_owned).collect();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(bad(format!("the name {name:?} comes twice")));
            }
        }
        let mut fields = Vec::with_capacity(self.columns.len());
        for column in self.columns.iter() {
            match names.iter().position(|name| *name == column.name) {
                Some(field) => fields.push(field),
                None => {
                    let what = format!("no column {:?}; it has {names:?}", column.name);
                    return Err(HeaderError { option: "--columns", what });
                }
            }
        }
        Ok(Header { names, fields })
    }
}

impl<S: Fill> Records for Csv<S> {
    fn begin(&mut self) -> Result<(), HeaderError> {
        match self.scanner.next() {
            Ok(Scan::End(end)) => self.instead = Some(Ok(end)),
            Err(error) => self.instead = Some(Err(error)),
            Ok(outcome) => self.header = Some(self.read_header(outcome)?),
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<Next> {
        if let Some(instead) = self.instead.take() {
            return instead.map(Next::End);
        }
        let scan = self.scanner.next()?;
        let line = self.scanner.first_line;
        let reason = match scan {
            Scan::End(end) => return Ok(Next::End(end)),
            Scan::TooLong => {
                let (bytes, max) = (self.scanner.bytes, self.scanner.max);
                format!("too long: {bytes} bytes, --max-line-bytes is {max}")
            }
            // `begin` has read the header.
            Scan::Record => match self.header.as_ref().map(|header| self.item(header, line)) {
                Some(Ok(item)) => return Ok(Next::Item(item)),
                Some(Err(reason)) => reason,
                None => "no header".to_owned(),
            },
        };
        let cut = matches!(scan, Scan::TooLong);
        let text = self.scanner.raw.trim_ascii_end();
        let text = if cut { &text[..HEAD.min(text.len())] } else { text }.to_vec();
        Ok(Next::Reject(Reject { line, reason, text, cut }))
    }
}

/// A JSON object of names and fields, all of them strings, as CSV has no other type.
fn as_object(names: &[String], fields: &[&str], text: &mut String) -> Result<(), String> {
    let mut json = std::mem::take(text).into_bytes();
    for (index, (name, field)) in names.iter().zip(fields).enumerate() {
        json.push(if index == 0 { b'{' } else { b',' });
        serde_json::to_writer(&mut json, name).map_err(|e| e.to_string())?;
        json.push(b':');
        serde_json::to_writer(&mut json, field).map_err(|e| e.to_string())?;
    }
    json.push(b'}');
    *text = String::from_utf8(json).map_err(|e| e.to_string())?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    Record,
    TooLong,
    End(End),
}

/// Finds records and their fields.
struct Scanner<S> {
    source: S,
    max: usize,
    core: Reader,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    eof: bool,
    at_start: bool,
    /// The line that the parser is on, and the one that the record began on.
    line: u64,
    first_line: u64,
    /// The record as read, up to the bound.
    raw: Vec<u8>,
    /// How long it is.
    bytes: u64,
    /// Its fields, decoded, one after the other; and where each ends.
    out: Vec<u8>,
    ends: Vec<usize>,
    out_len: usize,
    fields_len: usize,
    quotes: u64,
    /// The input ended inside quotes.
    open_quote: bool,
}

impl<S: Fill> Scanner<S> {
    fn new(source: S, max: usize) -> Self {
        Self {
            source,
            max,
            core: Reader::new(),
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            eof: false,
            at_start: true,
            line: 1,
            first_line: 1,
            raw: Vec::new(),
            bytes: 0,
            out: vec![0; 4096],
            ends: vec![0; 64],
            out_len: 0,
            fields_len: 0,
            quotes: 0,
            open_quote: false,
        }
    }

    /// The fields of the record just read.
    fn fields(&self) -> Result<Vec<&str>, String> {
        let text = std::str::from_utf8(&self.out[..self.out_len]).map_err(not_utf8)?;
        let mut start = 0;
        let mut fields = Vec::with_capacity(self.fields_len);
        for end in &self.ends[..self.fields_len] {
            // A field may not end inside a character where the whole is UTF-8 by chance.
            let field = text.get(start..*end).ok_or("invalid UTF-8 between two fields")?;
            fields.push(field);
            start = *end;
        }
        Ok(fields)
    }

    fn next(&mut self) -> io::Result<Scan> {
        loop {
            let scan = self.scan()?;
            // csv_core gives a record for a line of blanks; elsewhere such lines are skipped, so
            // here too.
            if scan != Scan::Record || !self.raw.trim_ascii().is_empty() {
                return Ok(scan);
            }
        }
    }

    fn scan(&mut self) -> io::Result<Scan> {
        self.raw.clear();
        (self.bytes, self.out_len, self.fields_len, self.quotes) = (0, 0, 0, 0);
        let mut too_long = false;
        loop {
            while self.start == self.end && !self.eof {
                if !self.refill()? {
                    return Ok(Scan::End(End::Stopped { partial: self.bytes }));
                }
            }
            let input = &self.buffer[self.start..self.end];
            let (result, taken, written, ended) = self.core.read_record(
                input,
                &mut self.out[self.out_len..],
                &mut self.ends[self.fields_len..],
            );
            self.out_len += written;
            self.fields_len += ended;
            self.take(taken);
            too_long |= self.bytes > self.max as u64 + 2;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.out.len() <= self.max && !too_long => {
                    self.out.resize(self.out.len() * 2, 0);
                }
                ReadRecordResult::OutputEndsFull if self.ends.len() < FIELDS_MAX => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                // What is beyond the bounds is overwritten again and again.
                ReadRecordResult::OutputFull => (self.out_len, too_long) = (0, true),
                ReadRecordResult::OutputEndsFull => (self.fields_len, too_long) = (0, true),
                ReadRecordResult::Record => {
                    too_long |= self.raw.trim_ascii_end().len() > self.max;
                    self.open_quote = self.eof && self.start == self.end && self.quotes % 2 == 1;
                    return Ok(if too_long { Scan::TooLong } else { Scan::Record });
                }
                ReadRecordResult::End => return Ok(Scan::End(End::Eof)),
            }
        }
    }

    /// Notes what the parser has taken.
    fn take(&mut self, taken: usize) {
        let mut bytes = &self.buffer[self.start..self.start + taken];
        self.start += taken;
        if self.bytes == 0 {
            // Line ends before the record: the rest of the last CRLF, and blank lines, which the
            // parser passes over.
            let skipped = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.line += memchr::memchr_iter(b'\n', &bytes[..skipped]).count() as u64;
            self.first_line = self.line;
            bytes = &bytes[skipped..];
        }
        self.line += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.quotes += memchr::memchr_iter(b'"', bytes).count() as u64;
        self.bytes += bytes.len() as u64;
        let room = (self.max + 3).saturating_sub(self.raw.len());
        self.raw.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    /// Reads on; false when intake was stopped.
    fn refill(&mut self) -> io::Result<bool> {
        (self.start, self.end) = (0, 0);
        loop {
            match self.source.fill(&mut self.buffer[self.end..])? {
                Filled::Bytes(taken) => self.end += taken,
                Filled::Eof => self.eof = true,
                Filled::Stopped => return Ok(false),
            }
            if !self.at_start {
                return Ok(true);
            }
            // A byte order mark may come in pieces.
            let held = &self.buffer[..self.end];
            if self.eof || held.len() >= BOM.len() || !BOM.starts_with(held) {
                self.at_start = false;
                self.start = if held.starts_with(BOM) { BOM.len() } else { 0 };
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::testing::{Pieces, all};

    fn read(text: &str, columns: &str) -> Vec<String> {
        read_with(text.as_bytes(), columns, 4096)
    }

    fn read_with(text: &[u8], columns: &str, max: usize) -> Vec<String> {
        let columns: Columns =
            columns.split(',').filter(|c| !c.is_empty()).map(|c| c.parse().unwrap()).collect();
        let whole = all(Csv::new(Pieces::of(text, usize::MAX), max, columns.clone()));
        for step in [1, 2, 7] {
            let pieces = Pieces::of(text, step);
            assert_eq!(all(Csv::new(pieces, max, columns.clone())), whole, "step {step}");
        }
        assert_eq!(whole.1, End::Eof);
        whole.0
    }

    #[test]
    fn columns_are_matched_to_the_header() {
        assert_eq!(read("b,a,c\n1,x,\n,y,2", "a,b:integer"), ["2:\"x\" 1", "3:\"y\" -"]);
    }

    #[test]
    fn without_columns_a_record_is_an_object() {
        assert_eq!(read("a,b\n1,\"q\"\"\n\"\n", ""), [r#"2:{"a":"1","b":"q\"\n"}"#]);
    }

    #[test]
    fn line_numbers_count_lines_in_quotes_and_blank_ones() {
        let text = "\u{feff}a,b\r\n\r\n1,\"x\r\ny\"\r\n \r\n2,z\r\n\r\n\r\n";
        assert_eq!(read(text, "a"), ["3:\"1\"", "6:\"2\""]);
    }

    #[test]
    fn a_wrong_number_of_fields_is_rejected() {
        assert_eq!(read("a,b\n1\n1,2\n", "a"), ["2!1 fields, the header has 2", "3:\"1\""]);
    }

    #[test]
    fn a_record_cut_short_inside_quotes_is_rejected() {
        let cut = "2!the input ends inside a quoted field (cut short?)";
        assert_eq!(read("a,b\n1,\"x\n", "a"), [cut]);
        assert_eq!(read("a,b\n1,\"x\"", "b"), ["2:\"x\""]);
        assert_eq!(read("a,b\n1,\"x\"\"", "b"), [cut]);
    }

    #[test]
    fn fields_are_converted_by_their_columns_type() {
        let seen = read("i,r,t\n 007 ,1,007\n, ,\n1.5,1,x\n1,nan,x\n", "i:integer,r:real,t:text");
        let integer = "4!column \"i\": \"1.5\" is no integer of 64 bits";
        let real = "5!column \"r\": \"nan\" is no number";
        assert_eq!(seen, ["2:7 1.0 \"007\"", "3:- - \"\"", integer, real]);
    }

    #[test]
    fn a_long_record_is_passed_over_to_its_true_end() {
        let text = format!("a,b\n1,\"{}\n9,9\n\"\n2,z\n", "x".repeat(20_000));
        let long = "2!too long: 20010 bytes, --max-line-bytes is 100";
        assert_eq!(read_with(text.as_bytes(), "a", 100), [long, "5:\"2\""]);
        let exact = format!("a\n{}\n{}\n", "x".repeat(100), "x".repeat(101));
        let seen = read_with(exact.as_bytes(), "a", 100);
        assert!(seen[0].starts_with("2:") && seen[1].starts_with("3!too long"), "{seen:?}");
    }

    #[test]
    fn nul_stays_and_bad_utf8_is_rejected() {
        let seen = read_with(b"a\nx\0y\n\xff\nz\n", "a", 100);
        assert_eq!(seen, ["2:\"x\\0y\"", "3!invalid UTF-8 after 0 bytes", "4:\"z\""]);
    }

    #[test]
    fn a_header_that_lacks_a_column_says_so() {
        let columns: Columns = ["a", "x"].map(|c| c.parse().unwrap()).into();
        let error = Csv::new(Pieces::of(b"a,b\n", 9), 100, columns).begin().unwrap_err();
        assert_eq!(error.to_string(), r#"CSV header: no column "x"; it has ["a", "b"]"#);
    }

    #[test]
    fn empty_input_has_no_items() {
        assert_eq!(read("", "a"), [] as [&str; 0]);
        assert_eq!(read("a,b\n", "a"), [] as [&str; 0]);
    }
}
