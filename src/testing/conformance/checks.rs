//! The checks of a sink that is well, and the list of all.

use super::account::{Fate, show};
use super::failing;
use super::session::{Bench, Manner};
use super::{CheckFn, Item, Kit, Outcome, Verdict};
use crate::sink::{Class, Sink};

/// Every check with its name, in the order of the report.
pub(super) fn all<T: Item, D, S: Sink<T>>() -> Vec<(&'static str, CheckFn<T, D, S>)> {
    vec![
        ("items arrive once and in order", order),
        ("no marks after success", no_marks),
        ("limits are kept", limits),
        ("a bad item is told exactly", failing::bad_item),
        ("nothing applied means nothing", failing::nothing_applied),
        ("works on after an error", failing::works_on),
        ("the same batch twice", twice),
        ("a deadline that has passed", failing::deadline),
        ("close after an error", failing::close),
        ("dropped without a close", failing::dropped),
        ("opened again after a panic", failing::panic),
    ]
}

pub(super) fn passed() -> Outcome {
    Ok(Verdict::Passed(String::new()))
}

fn order<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    if let Some(item) = bench.read()?.first() {
        return Err(format!("a fresh store is not empty: it has {}", show(item)));
    }
    let mut session = bench.open()?;
    let full = bench.full(&mut session);
    for size in [1, 2, full, full] {
        bench.write_good(&mut session, size)?;
        bench.check_store(&format!("after a batch of {size}, with the sink still open"))?;
    }
    session.close()?;
    bench.check_store("after `close`")?;
    Ok(Verdict::Passed(format!("batches of 1, 2 and {full}")))
}

fn no_marks<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    let mut session = bench.open()?;
    for size in [1, bench.full(&mut session)] {
        let items = bench.items(size);
        for answer in bench.write(&mut session, &items)? {
            if let Some((class, text)) = answer.error {
                return Err(format!("good items failed ({}): {text}", class.name()));
            }
            if let Some(what) = answer.odd_mark {
                return Err(format!("{what}, and the engine can do nothing with that"));
            }
            if answer.marks > 0 {
                let marks = answer.marks;
                return Err(format!("{marks} of {size} good items were marked as failed"));
            }
        }
    }
    passed()
}

fn limits<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    let mut session = bench.open()?;
    let limits = session.limits().unwrap_or_default();
    let full = bench.full(&mut session);
    if limits.max_batch_size == Some(0) {
        return Err("`limits` says batches of 0 items, which the engine reads as 1".to_owned());
    }
    // More than a batch, so that the engine has to cut where `limits` says.
    let items = bench.items(2 * full + 1);
    for answer in bench.write(&mut session, &items)? {
        let size = answer.fates.len();
        if let Some((class, text)) = answer.error {
            let within = if class == Class::TooLarge { "refused as too large" } else { "failed" };
            return Err(format!("a batch of {size} items, within `limits`, {within}: {text}"));
        }
        if limits.max_batch_size.is_some_and(|max| size > max) {
            return Err(format!("a batch of {size} items was beyond `limits`"));
        }
    }
    let after = session.limits().unwrap_or_default();
    if after != limits {
        return Err(format!("`limits` said {limits:?} first and {after:?} later"));
    }
    bench.check_store("after batches within `limits`")?;
    Ok(match (limits.max_batch_size, limits.max_batch_bytes) {
        (None, None) => Verdict::NotApplicable("the sink has no limits".to_owned()),
        (_, Some(_)) if kit.weight.is_none() => {
            Verdict::Passed("max_batch_bytes was not tried: the kit has no `weight`".to_owned())
        }
        _ => Verdict::Passed(format!("batches of up to {full}")),
    })
}

fn twice<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    let mut session = bench.open()?;
    session.manner(Manner::Twice);
    let size = bench.full(&mut session).min(3);
    let items = bench.items(size);
    let answers = session.write(&items)?;
    let refused = |fates: &[Fate]| fates.iter().find(|fate| **fate != Fate::In).cloned();
    match answers.first().map(|first| refused(&first.fates)) {
        None => return Err("the sink was not called".to_owned()),
        Some(Some(fate)) => return Err(format!("good items failed the first time: {fate:?}")),
        Some(None) => {}
    }
    let second = answers.get(1).and_then(|second| refused(&second.fates));
    let found = bench.read()?;
    let counts: Vec<usize> =
        items.iter().map(|item| found.iter().filter(|there| *there == item).count()).collect();
    if let Some(lost) = counts.iter().position(|count| *count == 0) {
        let lost = show(&items[lost]);
        return Err(format!("after the second time {lost} was no longer in the store"));
    }
    let why = match (counts.iter().max(), second) {
        (Some(1), None) => return Ok(Verdict::Passed("idempotent: yes".to_owned())),
        (Some(1), Some(fate)) => format!("the second time was answered with {fate:?}"),
        (most, _) => format!("items are in up to {} times", most.copied().unwrap_or(0)),
    };
    if kit.idempotent {
        return Err(format!("claimed to be idempotent, but {why}"));
    }
    Ok(Verdict::Passed(format!("idempotent: no; {why}")))
}
