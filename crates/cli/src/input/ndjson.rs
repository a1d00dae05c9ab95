//! `--format ndjson`: a JSON value per line.
//!
//! Without columns the value is checked and its text kept as it is. With columns it must be an
//! object, whose keys are matched to the columns by name; each value is kept as the range of the
//! line that it came from, and only strings with escapes are copied.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sluicegate_sqlite::Affinity;

use super::json::{DEPTH_MAX, is_too_deep};
use super::value::{self, in_column};
use super::{Columns, not_utf8};
use crate::args::ColumnArg;
use crate::item::{Cell, Item, Payload, Span};

/// An item from a line of JSON.
pub(super) fn parse(number: u64, line: &[u8], columns: &Columns) -> Result<Item, String> {
    let text = std::str::from_utf8(line).map_err(not_utf8)?;
    if is_too_deep(text) {
        return Err(format!("nested deeper than {DEPTH_MAX} levels"));
    }
    if columns.is_empty() {
        serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
        let value = text.trim_ascii();
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        let payload = Payload::Whole(Span::new(start, start + value.len()));
        return Ok(Item::new(number, text.to_owned(), text.len(), payload));
    }
    let mut row =
        RowParser { line: text, columns, cells: vec![None; columns.len()], decoded: None };
    let mut json = serde_json::Deserializer::from_str(text);
    (&mut row).deserialize(&mut json).map_err(not_json)?;
    json.end().map_err(not_json)?;
    let cells: Box<[Cell]> = row.cells.iter().map(|cell| cell.unwrap_or(Cell::Null)).collect();
    let all = row.decoded.unwrap_or_else(|| text.to_owned());
    Ok(Item::new(number, all, text.len(), Payload::Cells(cells)))
}

/// The line is always line 1 for the parser, which only misleads.
fn not_json(error: serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    match error.classify() {
        // The one type that is asked for.
        serde_json::error::Category::Data if what.starts_with("invalid type") => {
            "not an object, which --columns needs".to_owned()
        }
        serde_json::error::Category::Data => what.to_owned(),
        serde_json::error::Category::Eof => format!("not JSON: {what} (line cut short?)"),
        _ => format!("not JSON: {what} at byte {}", error.column()),
    }
}

/// Takes an object apart into cells.
struct RowParser<'a> {
    line: &'a str,
    columns: &'a Columns,
    /// None: the key has not come yet.
    cells: Vec<Option<Cell>>,
    /// The line and what was decoded from it, once there is something.
    decoded: Option<String>,
}

impl<'a> DeserializeSeed<'a> for &mut RowParser<'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for &mut RowParser<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        use serde::de::Error as _;
        let mut expected = 0;
        while let Some(found) = map.next_key_seed(Key { columns: self.columns, expected })? {
            let Some(index) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&RawValue>()?;
            let ColumnArg { name, affinity } = &self.columns[index];
            if self.cells[index].is_some() {
                return Err(M::Error::custom(format_args!("duplicate key {name:?}")));
            }
            let cell = self.cell(value.get(), *affinity);
            let cell = cell.map_err(|why| M::Error::custom(in_column(name, &why)))?;
            self.cells[index] = Some(cell);
            expected = index + 1;
        }
        Ok(())
    }
}

impl RowParser<'_> {
    fn cell(&mut self, raw: &str, affinity: Affinity) -> Result<Cell, String> {
        let start = raw.as_ptr() as usize - self.line.as_ptr() as usize;
        let whole = Span::new(start, start + raw.len());
        match raw.as_bytes()[0] {
            b'n' => Ok(Cell::Null),
            first @ (b't' | b'f') => Ok(value::from_bool(first == b't', whole, affinity)),
            b'[' | b'{' => value::from_json(whole, affinity),
            b'"' if memchr::memchr(b'\\', raw.as_bytes()).is_none() => {
                let span = Span::new(start + 1, start + raw.len() - 1);
                value::from_text(&raw[1..raw.len() - 1], span, affinity)
            }
            b'"' => self.decode(raw, affinity),
            _ => value::from_number(raw, whole, affinity),
        }
    }

    fn decode(&mut self, raw: &str, affinity: Affinity) -> Result<Cell, String> {
        let text: String = serde_json::from_str(raw).map_err(not_json)?;
        let all = self.decoded.get_or_insert_with(|| self.line.to_owned());
        let start = all.len();
        all.push_str(&text);
        value::from_text(&text, Span::new(start, all.len()), affinity)
    }
}

/// Finds the column of a key without copying the key. Keys mostly come in the order of the columns.
struct Key<'a> {
    columns: &'a Columns,
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Option<usize>, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        match self.columns.get(self.expected) {
            Some(column) if column.name == key => Ok(Some(self.expected)),
            _ => Ok(self.columns.iter().position(|column| column.name == key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::End;
    use crate::input::lines::Lines;
    use crate::input::testing::{Pieces, all};

    fn read(text: &str, columns: &str) -> Vec<String> {
        let columns: Columns =
            columns.split(',').filter(|c| !c.is_empty()).map(|c| c.parse().unwrap()).collect();
        let (seen, end) = all(Lines::new(Pieces::of(text.as_bytes(), 5), 4096, columns, parse));
        assert_eq!(end, End::Eof);
        seen
    }

    #[test]
    fn without_columns_any_value_is_kept_as_it_is() {
        let text = " {\"a\": 1, \"a\": 2} \r\n\"x\"\n12\n";
        assert_eq!(read(text, ""), ["1:{\"a\": 1, \"a\": 2}", "2:\"x\"", "3:12"]);
    }

    #[test]
    fn what_is_not_json_is_rejected_with_the_place() {
        assert_eq!(
            read("{\"a\":1}x\n{\"a\":\n\u{feff}1\n{'a':1}", ""),
            [
                "1!not JSON: trailing characters at byte 8",
                "2!not JSON: EOF while parsing a value (line cut short?)",
                "3:1",
                "4!not JSON: key must be a string at byte 2",
            ]
            .map(|line| line.replace("3:1", "3!not JSON: expected value at byte 1"))
        );
    }

    #[test]
    fn keys_are_matched_in_any_order_and_missing_ones_are_null() {
        let text = r#"{"b":"x","z":[1],"a":1}"#;
        assert_eq!(read(text, "a,b,c"), [r#"1:1 "x" -"#]);
    }

    #[test]
    fn values_keep_their_kind() {
        let text = r#"{"a":true,"b":-1.50,"c":{"d": [1]},"d":null,"e":"q\"\u0000é","f":1e999}"#;
        assert_eq!(read(text, "a,b,c,d,e,f"), [r#"1:true -1.5 j{"d": [1]} - "q\"\0é" "1e999""#]);
        let big = r#"{"a":9223372036854775807,"b":9223372036854775808,"c":-0}"#;
        assert_eq!(read(big, "a,b,c"), [r#"1:9223372036854775807 "9223372036854775808" 0"#]);
    }

    #[test]
    fn values_are_of_their_columns_type_or_rejected() {
        let typed = "i:integer,r:real,t:text";
        let good = r#"{"i":"\u0030\u0037","r":"1","t":1.50}
{"i":1e3,"r":true,"t":[1, 2]}
{"i":true,"r":7,"t":false}
"#;
        let seen = ["1:7 1.0 \"1.50\"", "2:1000 1.0 \"[1, 2]\"", "3:1 7.0 \"false\""];
        assert_eq!(read(good, typed), seen);
        let bad = [
            r#"{"i":1.5}"#,
            r#"{"i":9223372036854775808}"#,
            r#"{"i":"x"}"#,
            r#"{"i":[]}"#,
            r#"{"r":9007199254740993}"#,
            r#"{"r":1e999}"#,
            r#"{"r":"at line 1"}"#,
        ];
        let seen = read(&bad.join("\n"), typed);
        assert!(seen.iter().all(|seen| seen.contains("!column ")), "{seen:?}");
        assert_eq!(seen[2], "3!column \"i\": \"x\" is no integer");
        assert_eq!(seen[6], "7!column \"r\": \"at line 1\" is no number");
    }

    #[test]
    fn duplicate_keys_of_columns_are_rejected_others_ignored() {
        assert_eq!(read(r#"{"a":1,"z":1,"z":2}"#, "a"), ["1:1"]);
        assert_eq!(read(r#"{"a":1,"\u0061":2}"#, "a"), ["1!duplicate key \"a\""]);
    }

    #[test]
    fn with_columns_only_objects_will_do() {
        let not_object = "1!not an object, which --columns needs";
        assert_eq!(read("[1]\n", "a"), [not_object]);
        assert_eq!(read("{\"a\":1} 2\n", "a"), ["1!not JSON: trailing characters at byte 9"]);
    }

    #[test]
    fn deep_nesting_is_rejected_not_followed() {
        let deep = format!("{{\"a\":{}{}}}\n", "[".repeat(200), "]".repeat(200));
        assert_eq!(read(&deep, "a"), ["1!nested deeper than 128 levels"]);
        assert_eq!(read(&deep, ""), ["1!nested deeper than 128 levels"]);
    }
}
