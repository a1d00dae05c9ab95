//! `dlq ls` and `dlq show`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sluicegate::BatchId;
use sluicegate_sqlite::{DeadGroup, DeadLetter};

use super::args::{LsArgs, ShowArgs};
use super::{PAGE, Pages, Source, tell_bad};
use crate::run::Failure;
use crate::units::grouped;

/// How much of an error or an item people are shown.
const SHOWN_CHARS: usize = 200;

#[derive(Serialize)]
struct Listing<'a> {
    letters: u64,
    /// Lines that are no letters.
    bad: u64,
    groups: Vec<Group<'a>>,
}

#[derive(Serialize)]
struct Group<'a> {
    class: &'a str,
    error: &'a str,
    count: u64,
    /// None where that is not known: an NDJSON file has no marks.
    replayed: Option<u64>,
    first_ms: i64,
    last_ms: i64,
    last_minute: u64,
    last_hour: u64,
}

impl<'a> Group<'a> {
    fn new(group: &'a DeadGroup, has_marks: bool) -> Self {
        Self {
            class: &group.class,
            error: &group.error,
            count: group.count,
            replayed: has_marks.then_some(group.replayed),
            first_ms: group.first_ms,
            last_ms: group.last_ms,
            last_minute: group.last_minute,
            last_hour: group.last_hour,
        }
    }
}

#[derive(Serialize)]
struct Letter<'a> {
    row: i64,
    id: &'a str,
    batch: u64,
    part: u32,
    class: &'a str,
    applied: &'a str,
    error: &'a str,
    attempts: u32,
    first_ms: i64,
    last_ms: i64,
    tenant: Option<&'a str>,
    replayed_ms: Option<i64>,
    item: &'a str,
    /// Whether `item` has lost bytes that are no UTF-8.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lossy: bool,
}

/// Lists the groups.
pub(crate) fn ls(args: &LsArgs) -> Result<u8, Failure> {
    let source = Source::open(&args.which.file)?;
    let now = SystemTime::now();
    let (groups, bad) = match &source {
        Source::Sqlite(store) => {
            (store.groups(&args.which.conditions, now).map_err(io::Error::other)?, 0)
        }
        Source::Ndjson(_) => {
            let mut pages = Pages::new(&source, &args.which.conditions);
            (group(&source, &mut pages, now)?, pages.bad)
        }
    };
    let has_marks = matches!(source, Source::Sqlite(_));
    let letters = groups.iter().map(|group| group.count).sum();
    let groups: Vec<_> = groups.iter().map(|group| Group::new(group, has_marks)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &Listing { letters, bad, groups })
            .map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        table(&groups, letters, &mut out)?;
        tell_count(bad)?;
    }
    Ok(u8::from(bad > 0))
}

/// As `DeadLetterStore::groups` does, in memory: one entry for each different error.
fn group(source: &Source, pages: &mut Pages, now: SystemTime) -> Result<Vec<DeadGroup>, Failure> {
    let mut groups: HashMap<(String, String), DeadGroup> = HashMap::new();
    loop {
        let letters = pages.next(source, PAGE, tell_bad)?;
        if letters.is_empty() {
            break;
        }
        for letter in &letters {
            let key = (letter.class.clone(), letter.error.clone());
            groups.entry(key).or_insert_with(|| DeadGroup::of(letter)).add(letter, now);
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by(|a, b| (b.count, b.last_ms, &a.error).cmp(&(a.count, a.last_ms, &b.error)));
    Ok(groups)
}

fn table(groups: &[Group<'_>], letters: u64, out: &mut impl Write) -> io::Result<()> {
    let head = ["count", "replayed", "in 1 min", "in 1 h"];
    let [count, replayed, minute, hour] = head;
    writeln!(
        out,
        "{count:>10} {replayed:>10} {minute:>9} {hour:>9}  {:20}  {:20}  {:12}  error",
        "first", "last", "class"
    )?;
    for group in groups {
        writeln!(
            out,
            "{:>10} {:>10} {:>9} {:>9}  {:20}  {:20}  {:12}  {}",
            grouped(group.count),
            group.replayed.map_or("?".to_owned(), grouped),
            grouped(group.last_minute),
            grouped(group.last_hour),
            time(group.first_ms),
            time(group.last_ms),
            group.class,
            brief(group.error)
        )?;
    }
    writeln!(out, "{} letters, {} errors", grouped(letters), grouped(groups.len() as u64))
}

/// Shows letters.
pub(crate) fn show(args: &ShowArgs) -> Result<u8, Failure> {
    let source = Source::open(&args.which.file)?;
    let mut pages = Pages::new(&source, &args.which.conditions);
    let mut left = args.limit;
    let mut out = io::stdout().lock();
    while left > 0 {
        let letters = pages.next(&source, left.min(PAGE), tell_bad)?;
        if letters.is_empty() {
            break;
        }
        left -= letters.len();
        for letter in &letters {
            if args.json { as_json(letter, &mut out)? } else { as_text(letter, &mut out)? }
        }
    }
    tell_count(pages.bad)?;
    Ok(u8::from(pages.bad > 0))
}

fn as_json(letter: &DeadLetter, out: &mut impl Write) -> io::Result<()> {
    let item = String::from_utf8_lossy(&letter.item);
    let shown = Letter {
        row: letter.row,
        id: &letter.id,
        batch: letter.batch,
        part: letter.part,
        class: &letter.class,
        applied: &letter.applied,
        error: &letter.error,
        attempts: letter.attempts,
        first_ms: letter.first_ms,
        last_ms: letter.last_ms,
        tenant: letter.tenant.as_deref(),
        replayed_ms: letter.replayed_ms,
        item: &item,
        lossy: std::str::from_utf8(&letter.item).is_err(),
    };
    serde_json::to_writer(&mut *out, &shown)?;
    writeln!(out)
}

fn as_text(letter: &DeadLetter, out: &mut impl Write) -> io::Result<()> {
    let DeadLetter { row, id, class, applied, attempts, .. } = letter;
    let batch = BatchId::new(letter.batch).with_part(letter.part);
    writeln!(out, "{row} ({id}): {class}, applied {applied}, batch {batch}, attempts {attempts}")?;
    write!(out, "  failed {} to {}", time(letter.first_ms), time(letter.last_ms))?;
    match letter.replayed_ms {
        Some(replayed) => writeln!(out, ", replayed {}", time(replayed))?,
        None => writeln!(out)?,
    }
    if let Some(tenant) = &letter.tenant {
        writeln!(out, "  tenant {}", brief(tenant))?;
    }
    writeln!(out, "  error: {}", brief(&letter.error))?;
    writeln!(out, "  item:  {}", brief(&String::from_utf8_lossy(&letter.item)))
}

fn tell_count(bad: u64) -> io::Result<()> {
    match bad {
        0 => Ok(()),
        _ => writeln!(io::stderr(), "{} lines are no dead letters", grouped(bad)),
    }
}

/// The beginning, on one line: what comes from outside must not steer a terminal.
pub(super) fn brief(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn time(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    match UNIX_EPOCH.checked_add(since) {
        // The calendar ends there.
        Some(time) if ms < 253_402_300_800_000 => {
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => format!("{ms} ms"),
    }
}
