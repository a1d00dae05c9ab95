//! Where lines end, with a bound on their length.

use std::io;

use super::source::{Fill, Filled};
use super::value::{from_text, in_column};
use super::{Columns, End, Next, Records, Reject, not_utf8};
use crate::item::{Item, Payload, Span};

/// What is asked of the source at a time.
pub(crate) const CHUNK: usize = 256 << 10;
/// How much of an over-long line is kept to recognise it by.
pub(crate) const HEAD: usize = 256;
pub(crate) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A line without its end: `\n` or `\r\n`. The last line may lack it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) bytes: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextLine<'a> {
    Line(Line<'a>),
    /// Longer than the bound: so many bytes, of which the first few are kept.
    TooLong {
        number: u64,
        bytes: u64,
        head: &'a [u8],
    },
    End(End),
}

/// Splits a source into lines. A byte order mark at the very start is dropped.
#[derive(Debug)]
pub(crate) struct LineReader<S> {
    source: S,
    max: usize,
    /// Bytes read and not yet handed out: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    number: u64,
    head: Vec<u8>,
    eof: bool,
}

enum Found {
    /// `buffer[from..to]`, without the newline.
    Line(usize, usize),
    TooLong(u64),
    End(End),
}

impl<S: Fill> LineReader<S> {
    pub(crate) fn new(source: S, max: usize) -> Self {
        let buffer = vec![0; CHUNK];
        Self { source, max, buffer, start: 0, end: 0, number: 0, head: Vec::new(), eof: false }
    }

    /// The next line. Lines that are already in the buffer come out even after a stop: they have
    /// left the pipe and would be lost otherwise.
    pub(crate) fn next(&mut self) -> io::Result<NextLine<'_>> {
        Ok(match self.find()? {
            Found::End(end) => NextLine::End(end),
            Found::TooLong(bytes) => {
                self.number += 1;
                NextLine::TooLong { number: self.number, bytes, head: &self.head }
            }
            Found::Line(from, to) => {
                self.number += 1;
                let mut bytes = &self.buffer[from..to];
                if self.number == 1 {
                    bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
                }
                bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
                if bytes.len() > self.max {
                    self.head.clear();
                    self.head.extend_from_slice(&bytes[..HEAD.min(bytes.len())]);
                    let bytes = bytes.len() as u64;
                    return Ok(NextLine::TooLong { number: self.number, bytes, head: &self.head });
                }
                NextLine::Line(Line { number: self.number, bytes })
            }
        })
    }

    fn find(&mut self) -> io::Result<Found> {
        let mut scanned = self.start;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[scanned..self.end]) {
                let (from, to) = (self.start, scanned + at);
                self.start = to + 1;
                return Ok(Found::Line(from, to));
            }
            let held = self.end - self.start;
            if held > self.max + BOM.len() + 1 {
                return self.skip();
            }
            match self.fill()? {
                Filled::Bytes(_) => scanned = self.start + held,
                Filled::Eof if held == 0 => return Ok(Found::End(End::Eof)),
                Filled::Eof => {
                    let (from, to) = (self.start, self.end);
                    self.start = self.end;
                    return Ok(Found::Line(from, to));
                }
                Filled::Stopped => {
                    self.start = self.end;
                    return Ok(Found::End(End::Stopped { partial: held as u64 }));
                }
            }
        }
    }

    /// Passes over the rest of a line that is too long, keeping nothing but its head.
    fn skip(&mut self) -> io::Result<Found> {
        let held = &self.buffer[self.start..self.end];
        self.head.clear();
        self.head.extend_from_slice(&held[..HEAD.min(held.len())]);
        let mut bytes = held.len() as u64;
        loop {
            self.start = self.end;
            match self.fill()? {
                Filled::Bytes(_) => {}
                Filled::Eof => return Ok(Found::TooLong(bytes)),
                Filled::Stopped => return Ok(Found::End(End::Stopped { partial: bytes })),
            }
            let fresh = &self.buffer[self.start..self.end];
            if let Some(at) = memchr::memchr(b'\n', fresh) {
                self.start += at + 1;
                return Ok(Found::TooLong(bytes + at as u64));
            }
            bytes += fresh.len() as u64;
        }
    }

    /// Reads more behind what is held; moves that to the front first, and makes room where a line
    /// needs it.
    fn fill(&mut self) -> io::Result<Filled> {
        if self.eof {
            return Ok(Filled::Eof);
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let most = self.max + CHUNK;
            self.buffer.resize((self.buffer.len() * 2).min(most), 0);
        }
        let filled = self.source.fill(&mut self.buffer[self.end..])?;
        match filled {
            Filled::Bytes(taken) => self.end += taken,
            Filled::Eof => self.eof = true,
            Filled::Stopped => {}
        }
        Ok(filled)
    }
}

pub(crate) fn too_long(number: u64, bytes: u64, head: &[u8], max: usize) -> Next {
    Next::Reject(Reject {
        line: number,
        reason: format!("too long: {bytes} bytes, --max-line-bytes is {max}"),
        text: head.to_vec(),
        cut: true,
    })
}

pub(crate) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// What makes an item of a line, or says why it is none.
type Parse = fn(number: u64, line: &[u8], columns: &Columns) -> Result<Item, String>;

/// Items from lines, one from each.
#[derive(Debug)]
pub(crate) struct Lines<S> {
    lines: LineReader<S>,
    columns: Columns,
    parse: Parse,
}

impl<S: Fill> Lines<S> {
    pub(crate) fn new(source: S, max: usize, columns: Columns, parse: Parse) -> Self {
        Self { lines: LineReader::new(source, max), columns, parse }
    }
}

impl<S: Fill> Records for Lines<S> {
    fn next(&mut self) -> io::Result<Next> {
        loop {
            let max = self.lines.max;
            return Ok(match self.lines.next()? {
                NextLine::Line(line) if is_blank(line.bytes) => continue,
                NextLine::Line(line) => {
                    match (self.parse)(line.number, line.bytes, &self.columns) {
                        Ok(item) => Next::Item(item),
                        Err(reason) => Next::Reject(Reject {
                            line: line.number,
                            reason,
                            text: line.bytes.to_vec(),
                            cut: false,
                        }),
                    }
                }
                NextLine::TooLong { number, bytes, head } => too_long(number, bytes, head, max),
                NextLine::End(end) => Next::End(end),
            });
        }
    }
}

/// `--format lines`: each line is an item, whatever is in it, as long as it is UTF-8. There is at
/// most one column.
pub(super) fn parse(number: u64, line: &[u8], columns: &Columns) -> Result<Item, String> {
    let text = std::str::from_utf8(line).map_err(not_utf8)?;
    let span = Span::new(0, text.len());
    let payload = match columns.first() {
        None => Payload::Whole(span),
        Some(column) => {
            let cell = from_text(text, span, column.affinity);
            Payload::Cells([cell.map_err(|why| in_column(&column.name, &why))?].into())
        }
    };
    Ok(Item::new(number, text.to_owned(), text.len(), payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::testing::{Pieces, all};

    fn read(text: &[u8], max: usize) -> Vec<String> {
        let whole = all(Lines::new(Pieces::of(text, usize::MAX), max, Columns::default(), parse));
        for step in [1, 2, 7] {
            assert_eq!(
                all(Lines::new(Pieces::of(text, step), max, Columns::default(), parse)),
                whole,
                "step {step}"
            );
        }
        assert_eq!(whole.1, End::Eof);
        whole.0
    }

    #[test]
    fn a_column_has_its_type() {
        let columns: Columns = ["n:integer"].map(|c| c.parse().unwrap()).into();
        let (seen, _) = all(Lines::new(Pieces::of(b" 07\nx\n", 9), 9, columns, parse));
        assert_eq!(seen, ["1:7", "2!column \"n\": \"x\" is no integer"]);
    }

    #[test]
    fn ends_blanks_and_the_last_line() {
        assert_eq!(read(b"a\r\n\n  \nb\rc\nd", 9), ["1:a", "4:b\rc", "5:d"]);
        assert_eq!(read(b"", 9), [] as [&str; 0]);
        assert_eq!(read(b"\r\n", 9), [] as [&str; 0]);
    }

    #[test]
    fn a_byte_order_mark_is_dropped_at_the_start_only() {
        assert_eq!(read(b"\xEF\xBB\xBFa\n\xEF\xBB\xBFb", 9), ["1:a", "2:\u{feff}b"]);
    }

    #[test]
    fn the_bound_is_exact_and_the_next_line_is_whole() {
        let long = "2!too long: 4 bytes, --max-line-bytes is 3";
        assert_eq!(read(b"abc\r\nabcd\r\nabc\n", 3), ["1:abc", long, "3:abc"]);
        assert_eq!(read(b"\xEF\xBB\xBFabc", 3), ["1:abc"]);
    }

    #[test]
    fn nul_stays_and_bad_utf8_is_rejected() {
        assert_eq!(read(b"a\0b\n\xff\nc", 9), ["1:a\0b", "2!invalid UTF-8 after 0 bytes", "3:c"]);
    }

    #[test]
    fn a_long_line_does_not_grow_the_buffer_beyond_the_bound() {
        let mut text = vec![b'x'; 4 << 20];
        text.extend_from_slice(b"\nok\n");
        let mut lines = LineReader::new(Pieces::of(&text, 1 << 16), 1000);
        let NextLine::TooLong { bytes, head, .. } = lines.next().unwrap() else { panic!() };
        assert_eq!((bytes, head.len()), (4 << 20, HEAD));
        assert_eq!(lines.next().unwrap(), NextLine::Line(Line { number: 2, bytes: b"ok" }));
        assert!(lines.buffer.len() <= 1000 + CHUNK);
    }

    #[test]
    fn a_stop_hands_out_whole_lines_and_tells_of_the_rest() {
        let source = Pieces::of(b"a\nb\ncde", usize::MAX).then_stopped();
        let (seen, end) = all(Lines::new(source, 9, Columns::default(), parse));
        assert_eq!(seen, ["1:a", "2:b"]);
        assert_eq!(end, End::Stopped { partial: 3 });
    }
}
