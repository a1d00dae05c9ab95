//! `--where`: one condition, which names no column and is no SQL.

use std::time::{SystemTime, UNIX_EPOCH};

use sluicegate::{Applied, Class};
use sluicegate_sqlite::DeadCondition;

const EXPECTED: &str =
    "expected class=NAME, applied=nothing|unknown, error~TEXT, batch=NUMBER or since=DURATION";

/// Parses a condition; an error names the text at fault.
pub(crate) fn parse_condition(text: &str) -> Result<DeadCondition, String> {
    let at = text.find(['=', '~']).ok_or_else(|| EXPECTED.to_owned())?;
    let (key, value) = (text[..at].trim(), &text[at + 1..]);
    match (key, text.as_bytes()[at]) {
        ("class", b'=') => class(value.trim()),
        ("applied", b'=') => applied(value.trim()),
        ("error", b'~') if value.is_empty() => Err("error~ needs a text".to_owned()),
        ("error", b'~') => Ok(DeadCondition::ErrorContains(value.to_owned())),
        ("batch", b'=') => match value.trim().parse() {
            Ok(batch) => Ok(DeadCondition::Batch(batch)),
            Err(_) => Err(format!("{value:?} is no number of a batch")),
        },
        ("since", b'=') => since(value.trim()),
        ("class" | "applied" | "batch" | "since", _) => Err(format!("{key} takes =, not ~")),
        ("error", _) => Err("error takes ~ (contains), not =".to_owned()),
        _ => Err(format!("unknown condition {key:?}; {EXPECTED}")),
    }
}

fn class(name: &str) -> Result<DeadCondition, String> {
    match Class::ALL.into_iter().find(|class| class.name() == name) {
        Some(class) => Ok(DeadCondition::Class(class)),
        None => {
            let names = Class::ALL.map(Class::name).join(", ");
            Err(format!("unknown class {name:?}; use one of {names}"))
        }
    }
}

fn applied(name: &str) -> Result<DeadCondition, String> {
    match name {
        "nothing" => Ok(DeadCondition::Applied(Applied::Nothing)),
        "unknown" => Ok(DeadCondition::Applied(Applied::Unknown)),
        _ => Err(format!("unknown {name:?}; use nothing or unknown")),
    }
}

/// From so long ago until now.
fn since(text: &str) -> Result<DeadCondition, String> {
    let ago = humantime::parse_duration(text)
        .map_err(|e| format!("{text:?}: {e}; expected such as 30s, 1h or 2days"))?;
    let since = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(DeadCondition::SinceMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones() {
        let permanent = DeadCondition::Class(Class::Permanent);
        assert_eq!(parse_condition("class=permanent"), Ok(permanent.clone()));
        assert_eq!(parse_condition(" class = permanent "), Ok(permanent));
        let text = DeadCondition::ErrorContains(" a=b, ~c'".to_owned());
        assert_eq!(parse_condition("error~ a=b, ~c'"), Ok(text));
        assert_eq!(parse_condition("batch=17"), Ok(DeadCondition::Batch(17)));
        let unknown = DeadCondition::Applied(Applied::Unknown);
        assert_eq!(parse_condition("applied=unknown"), Ok(unknown));
        assert!(matches!(parse_condition("since=1h"), Ok(DeadCondition::SinceMs(ms)) if ms > 0));
        let long = parse_condition("since=1000years");
        assert_eq!(long, Ok(DeadCondition::SinceMs(0)));
    }

    #[test]
    fn bad_ones_name_the_text_at_fault() {
        for (text, fault) in [
            ("", "expected class="),
            ("permanent", "expected class="),
            ("class=bad", "\"bad\""),
            ("class~permanent", "class takes ="),
            ("error=x", "error takes ~"),
            ("error~", "needs a text"),
            ("batch=-1", "\"-1\""),
            ("since=soon", "\"soon\""),
            ("applied=maybe", "\"maybe\""),
            ("1=1 OR class=x", "\"1\""),
        ] {
            let error = parse_condition(text).unwrap_err();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }
}
