//! The checks of a sink that has, or gets, a reason to fail.

use super::account::Fate;
use super::checks::passed;
use super::session::{Answer, Bench, Manner, Session};
use super::{Item, Kit, Outcome, Verdict};
use crate::sink::Sink;

const NO_BAD_ITEM: &str = "the kit has no `bad_item`";
const NO_TROUBLE: &str = "the kit has neither a `bad_item` nor `stalled_by`";

/// Writes good items with a bad one among them; `None` if the kit has no such item.
fn write_bad<T: Item, D, S: Sink<T>>(
    bench: &mut Bench<'_, T, D, S>,
    session: &mut Session<T, S>,
    (before, after): (usize, usize),
) -> Result<Option<Vec<Answer>>, String> {
    let Some(bad) = &bench.kit.bad_item else { return Ok(None) };
    let mut items = bench.items(before);
    items.push(bad(bench.number()));
    items.extend(bench.items(after));
    let answers = bench.write(session, &items)?;
    if let Some(what) = answers.iter().find_map(|answer| answer.odd_mark.as_ref()) {
        return Err(format!("{what}, and the engine can do nothing with that"));
    }
    let bad_is_in = answers.iter().flat_map(|answer| &answer.fates).nth(before) == Some(&Fate::In);
    if bad_is_in {
        return Err("the sink said that the bad item was written".to_owned());
    }
    Ok(Some(answers))
}

/// Writes good items, too late and to a store that does not answer; `None` if the kit has no way to
/// stop it.
fn write_stalled<T: Item, D, S: Sink<T>>(
    bench: &mut Bench<'_, T, D, S>,
    session: &mut Session<T, S>,
) -> Result<Option<Vec<Answer>>, String> {
    let Some(stall) = &bench.kit.stall else { return Ok(None) };
    let size = bench.full(session).min(2);
    let items = bench.items(size);
    let stalled = stall(&bench.store);
    session.manner(Manner::Late);
    let answers = bench.write(session, &items);
    session.manner(Manner::Plain);
    drop(stalled);
    answers.map(Some)
}

pub(super) fn bad_item<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let (mut bench, mut session) = Bench::at_work(kit)?;
    let Some(answers) = write_bad(&mut bench, &mut session, (2, 2))? else {
        return Ok(Verdict::NotApplicable(NO_BAD_ITEM.to_owned()));
    };
    bench.check_store("after a batch of 5 with a bad item in the middle")?;
    let whole = answers.iter().find_map(|answer| answer.error.as_ref());
    let unknown = answers.iter().flat_map(|answer| &answer.fates).any(is_unknown);
    Ok(Verdict::Passed(
        match whole {
            None if unknown => "the bad item fails alone, and it cannot be known whether it is in",
            None => "the bad item fails alone",
            Some(_) if unknown => "the batch fails, and it cannot be known what of it is in",
            Some(_) => "the batch fails as a whole, and nothing of it is in",
        }
        .to_owned(),
    ))
}

/// Of a check for which the sink must have had a reason to fail.
fn troubled(was: bool) -> Outcome {
    if was { passed() } else { Ok(Verdict::NotApplicable(NO_TROUBLE.to_owned())) }
}

fn is_unknown(fate: &Fate) -> bool {
    matches!(fate, Fate::Unknown(_))
}

fn all_refused(answer: &Answer) -> bool {
    answer.fates.iter().all(|fate| matches!(fate, Fate::Refused(_)))
}

pub(super) fn nothing_applied<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let (mut bench, mut session) = Bench::at_work(kit)?;
    let mut refused = 0;
    for (before, after, what) in [(0, 2, "first"), (2, 0, "last"), (0, 0, "alone")] {
        let answers = write_bad(&mut bench, &mut session, (before, after))?.unwrap_or_default();
        refused += answers.iter().filter(|answer| all_refused(answer)).count();
        bench.check_store(&format!("after a batch in which the bad item was {what}"))?;
    }
    let answers = write_stalled(&mut bench, &mut session)?.unwrap_or_default();
    refused += answers.iter().filter(|answer| all_refused(answer)).count();
    bench.check_store("after a write while the store did not answer")?;
    Ok(match (refused, &kit.bad_item, &kit.stall) {
        (0, None, None) => Verdict::NotApplicable(NO_TROUBLE.to_owned()),
        (0, ..) => Verdict::NotApplicable("no batch failed with nothing applied".to_owned()),
        _ => Verdict::Passed(format!("{refused} batches")),
    })
}

pub(super) fn works_on<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    let mut session = bench.open()?;
    let after = |what| move |why| format!("after {what} the next batch: {why}");
    let bad = write_bad(&mut bench, &mut session, (1, 1))?.is_some();
    let next = bench.full(&mut session).min(3);
    if bad {
        bench.write_good(&mut session, next).map_err(after("a bad item"))?;
        bench.check_store("after a bad item and a good batch")?;
    }
    let stalled = write_stalled(&mut bench, &mut session)?.is_some();
    if stalled {
        bench.write_good(&mut session, next).map_err(after("a store that did not answer"))?;
        bench.check_store("after a store that did not answer and a good batch")?;
    }
    troubled(bad || stalled)
}

pub(super) fn deadline<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    let mut session = bench.open()?;
    session.manner(Manner::Late);
    let items = bench.items(1);
    bench.write(&mut session, &items)?;
    bench.check_store("after a write whose deadline had passed")?;
    let stalled = write_stalled(&mut bench, &mut session)?.is_some();
    bench.check_store("after a write whose deadline had passed, to a store that did not answer")?;
    session.manner(Manner::Plain);
    bench.write_good(&mut session, 1)?;
    bench.check_store("after a write in time")?;
    let remark = if stalled { "" } else { "only tried while the store answers: no `stalled_by`" };
    Ok(Verdict::Passed(remark.to_owned()))
}

pub(super) fn close<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let (mut bench, mut session) = Bench::at_work(kit)?;
    let bad = write_bad(&mut bench, &mut session, (1, 1))?.is_some();
    let stalled = write_stalled(&mut bench, &mut session)?.is_some();
    session.close()?;
    bench.check_store("after `close`")?;
    troubled(bad || stalled)
}

pub(super) fn dropped<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    for round in 1..=2 {
        let mut session = bench.open().map_err(|why| format!("sink {round}: {why}"))?;
        bench.write_good(&mut session, 1)?;
        let full = bench.full(&mut session);
        bench.write_good(&mut session, full)?;
        drop(session);
        bench.check_store(&format!("after sink {round} was dropped without `close`"))?;
    }
    passed()
}

pub(super) fn panic<T: Item, D, S: Sink<T>>(kit: &Kit<T, D, S>) -> Outcome {
    let mut bench = Bench::new(kit);
    let ways = [
        (Manner::PanicBefore, "before a write"),
        (Manner::PanicAfter, "after a write"),
        (Manner::Plain, "on an item"),
    ];
    for (manner, when) in ways {
        let after = |why| format!("a panic {when}, then a sink opened anew: {why}");
        let mut session = bench.open().map_err(after)?;
        bench.write_good(&mut session, 1).map_err(after)?;
        session.manner(manner);
        let mut items = bench.items(1);
        if manner == Manner::Plain {
            let Some(make) = &kit.panicking_item else { continue };
            items.push(make(bench.number()));
        }
        let answers = bench.try_write(&mut session, &items)?;
        let panicked = answers.iter().any(|answer| answer.panic.is_some());
        if manner == Manner::Plain && !panicked {
            return Err("the sink did not panic on the kit's `panicking_item`".to_owned());
        }
        drop(session);
        bench.check_store(&format!("a panic {when}"))?;
        let mut again = bench.open().map_err(after)?;
        bench.write_good(&mut again, 2).map_err(after)?;
        bench.check_store(&format!("a panic {when}, then a sink opened anew"))?;
    }
    passed()
}
