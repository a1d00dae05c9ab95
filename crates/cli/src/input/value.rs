//! Values as their column's type has them, the same for every destination.
//!
//! A value becomes what the column holds only where nothing is lost; otherwise there is a reason.

use sluicegate_sqlite::Affinity;

use crate::item::{Cell, Span};

/// The value of a field that is text: of CSV, of a line, or a string of JSON at `span`.
pub(crate) fn from_text(text: &str, span: Span, affinity: Affinity) -> Result<Cell, String> {
    match affinity {
        Affinity::Integer => integer(text.trim_ascii()).map(Cell::Integer),
        Affinity::Real => real(text.trim_ascii()).map(Cell::Real),
        Affinity::Any | Affinity::Text | Affinity::Blob => Ok(Cell::Text(span)),
    }
}

/// As [`from_text`]; a field without anything is no number, but says that there is none.
pub(crate) fn from_field(text: &str, span: Span, affinity: Affinity) -> Result<Cell, String> {
    let is_number = matches!(affinity, Affinity::Integer | Affinity::Real);
    if is_number && text.trim_ascii().is_empty() {
        return Ok(Cell::Null);
    }
    from_text(text, span, affinity)
}

/// The value of a number of JSON.
pub(crate) fn from_number(raw: &str, span: Span, affinity: Affinity) -> Result<Cell, String> {
    match affinity {
        Affinity::Integer | Affinity::Real => from_text(raw, span, affinity),
        Affinity::Text | Affinity::Blob => Ok(Cell::Text(span)),
        // Integers that fit are integers. Others, and what no floating-point number comes near,
        // stay text, so that no digit is lost.
        Affinity::Any => Ok(match raw.parse() {
            Ok(value) => Cell::Integer(value),
            Err(_) if is_integer(raw) => Cell::Text(span),
            Err(_) => real(raw).map_or(Cell::Text(span), Cell::Real),
        }),
    }
}

/// `true` or `false`.
pub(crate) fn from_bool(value: bool, span: Span, affinity: Affinity) -> Cell {
    match affinity {
        Affinity::Integer => Cell::Integer(value.into()),
        Affinity::Real => Cell::Real(value.into()),
        Affinity::Text | Affinity::Blob => Cell::Text(span),
        Affinity::Any => Cell::Bool(value),
    }
}

/// An array or object of JSON.
pub(crate) fn from_json(span: Span, affinity: Affinity) -> Result<Cell, String> {
    match affinity {
        Affinity::Integer | Affinity::Real => Err("an array or object is no number".to_owned()),
        Affinity::Text | Affinity::Blob => Ok(Cell::Text(span)),
        Affinity::Any => Ok(Cell::Json(span)),
    }
}

/// Why a value is rejected, with the column that it was for.
pub(crate) fn in_column(name: &str, why: &str) -> String {
    format!("column {name:?}: {why}")
}

/// Sign and digits, nothing else.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A decimal number that is an integer of 64 bits, however it is written: `7`, `007`, `7.0`, `7e0`.
fn integer(text: &str) -> Result<i64, String> {
    if is_integer(text) {
        let what = || format!("{} does not fit 64 bits", shown(text));
        return text.parse().map_err(|_| what());
    }
    if !is_number(text) {
        return Err(format!("{} is no integer", shown(text)));
    }
    exact(text).ok_or_else(|| format!("{} is no integer of 64 bits", shown(text)))
}

/// The integer that a decimal number is, digit by digit: floating point would round.
fn exact(number: &str) -> Option<i64> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let sign = if whole.starts_with('-') { "-" } else { "" };
    let digits = format!("{}{fraction}", whole.trim_start_matches(['+', '-']));
    let kept = digits.trim_end_matches('0');
    if kept.is_empty() {
        return Some(0);
    }
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let fraction = i64::try_from(fraction.len()).ok()?;
    let zeros = exponent.parse::<i64>().ok()?.checked_add(dropped)?.checked_sub(fraction)?;
    let zeros = usize::try_from(zeros).ok().filter(|zeros| *zeros < 20)?;
    format!("{sign}{kept}{}", "0".repeat(zeros)).parse().ok()
}

/// The nearest floating-point number; of an integer only itself.
fn real(text: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|_| is_number(text));
    let value = parsed.ok_or_else(|| format!("{} is no number", shown(text)))?;
    let vanished = value == 0.0 && has_digits(text);
    if !value.is_finite() || vanished {
        return Err(format!("{} is beyond the range of floating point", shown(text)));
    }
    if is_integer(text) && !is_same(value, text) {
        return Err(format!("{} is not exact in floating point", shown(text)));
    }
    Ok(value)
}

/// Whether the value is this integer.
fn is_same(value: f64, integer: &str) -> bool {
    let digits = integer.trim_start_matches(['+', '-']).trim_start_matches('0');
    let exact = format!("{:.0}", value.abs());
    exact.trim_start_matches('0') == digits
}

/// Digits, a point, an exponent: `inf` and `nan` are not for a table.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
        && text.parse::<f64>().is_ok()
}

/// Whether a digit before the exponent is not 0.
fn has_digits(number: &str) -> bool {
    let mantissa = number.split(['e', 'E']).next().unwrap_or(number);
    mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
}

/// The value for a message: its text is beside it anyway.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_taken_in_any_writing_and_never_rounded() {
        let good = [
            ("7", 7),
            ("007", 7),
            ("+7", 7),
            ("-0", 0),
            ("7.0", 7),
            ("-1.5e1", -15),
            ("120e-1", 12),
            ("9223372036854775807.0", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("0e999999999", 0),
            ("0.00", 0),
        ];
        for (text, value) in good {
            assert_eq!(integer(text), Ok(value), "{text}");
        }
        let bad = [
            "",
            "x",
            "1.5",
            "9223372036854775808",
            "9223372036854775808.0",
            "1e19",
            "1e-1",
            "0x10",
            "inf",
            "nan",
            "1 2",
            "-",
            "1e99999999999999999999",
            "0.99999999999999999999",
        ];
        for text in bad {
            assert!(integer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reals_are_near_integers_in_them_exact() {
        let good = [
            ("1", 1.0),
            ("0.1", 0.1),
            (".5", 0.5),
            ("1e3", 1e3),
            ("-0.0", -0.0),
            ("9007199254740992", 9_007_199_254_740_992.0),
            ("100000000000000000000", 1e20),
            ("00", 0.0),
        ];
        for (text, value) in good {
            assert_eq!(real(text), Ok(value), "{text}");
        }
        let bad = ["", "x", "1e999", "-1e999", "1e-999", "inf", "NaN", "9007199254740993", "1_000"];
        for text in bad {
            assert!(real(text).is_err(), "{text}");
        }
    }
}
