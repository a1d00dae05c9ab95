//! The little JSON that the library writes.

use std::fmt::{self, Write as _};

/// Text as a string of JSON.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut rest = self.0;
        while let Some(at) = rest.find(|c| matches!(c, '"' | '\\' | '\0'..' ')) {
            let (plain, from) = rest.split_at(at);
            f.write_str(plain)?;
            let mut chars = from.chars();
            match chars.next() {
                Some('\n') => f.write_str("\\n")?,
                Some(c @ ('"' | '\\')) => write!(f, "\\{c}")?,
                Some(c) => write!(f, "\\u{:04x}", u32::from(c))?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)?;
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    #[test]
    fn what_json_does_not_allow_in_strings_is_escaped() {
        let cases = [
            ("", r#""""#),
            ("plain é \u{7f}", "\"plain é \u{7f}\""),
            (r#"say "hi" \ twice"#, r#""say \"hi\" \\ twice""#),
            ("\n two\nlines\n", r#""\n two\nlines\n""#),
            ("\0\t\u{1f}\r\n", r#""\u0000\u0009\u001f\u000d\n""#),
        ];
        for (text, expected) in cases {
            assert_eq!(Quoted(text).to_string(), expected);
        }
    }
}
