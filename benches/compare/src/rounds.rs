//! Everybody's turns, round after round.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use crate::args::Options;
use crate::contestant::{BATCH, Contestant, Shape, Work};
use crate::field::FIELD;
use crate::paced::Latency;
use crate::probe::{Label, probe};
use crate::record::{Latencies, Rates, Record, Row};
use crate::turn::{Measure, Seconds, measure};
use crate::{machine, paced};

/// What a turn should take.
const SECONDS: f64 = 0.2;
/// What a turn of a slow one may take for the sake of more items.
const SLOW_SECONDS: f64 = 0.5;
/// So many items are wanted.
const ITEMS_MIN: f64 = 200_000.0;

/// Who does how much in each shape; nobody twice.
type Plan = HashMap<(Shape, &'static str), Result<u64, String>>;

/// Measures, and writes row by row. Rounds are the outer loop, so that the rounds of a shape lie
/// far apart in time, and a bad minute spoils one of them.
pub fn run(options: &Options, rates: &mut Rates, latencies: &mut Latencies) -> io::Result<()> {
    let begin = Instant::now();
    let (mut rate_plan, mut latency_plan) = (Plan::new(), Plan::new());
    for round in 1..=options.rounds {
        for shape in options.shapes() {
            let turns = in_turn(options, round, |who| takes_part(options, who, shape));
            for who in &turns {
                let items = || items(options, *who, shape);
                rate_plan.entry((shape, who.name())).or_insert_with(items);
            }
            turns_of(round, shape, &turns, &mut rate_plan, rates)?;
            said::<Seconds>(options, round, shape, turns.len(), begin);
        }
        let turns =
            in_turn(options, round, |who| options.names(who.name()) && paced::takes_part(who));
        for who in &turns {
            latency_plan.entry((paced::SHAPE, who.name())).or_insert(Ok(paced::ITEMS));
        }
        turns_of(round, paced::SHAPE, &turns, &mut latency_plan, latencies)?;
        said::<Latency>(options, round, paced::SHAPE, turns.len(), begin);
    }
    Ok(())
}

/// Those who take part, and who comes first in this round is another than in the round before.
fn in_turn(
    options: &Options,
    round: usize,
    takes_part: impl Fn(&dyn Contestant) -> bool,
) -> Vec<&'static dyn Contestant> {
    let mut turns: Vec<_> = FIELD.iter().copied().filter(|who| takes_part(*who)).collect();
    let first = (round - 1) * turns.len() / options.rounds;
    turns.rotate_left(first);
    turns
}

fn takes_part(options: &Options, who: &dyn Contestant, shape: Shape) -> bool {
    options.wants(who.name(), who.kind(), shape) && who.takes(&Work { shape, items: 1 })
}

fn said<M: Measure>(options: &Options, round: usize, shape: Shape, turns: usize, begin: Instant) {
    let Shape { producers, bytes, depth } = shape;
    eprintln!(
        "round {round} of {}: {}, {producers} × {bytes} bytes, {depth} deep, {turns} turns, {:.0} s",
        options.rounds,
        M::WORD,
        begin.elapsed().as_secs_f64()
    );
}

/// One turn for each; who fails is left out of this shape from then on.
fn turns_of<M: Measure>(
    round: usize,
    shape: Shape,
    turns: &[&dyn Contestant],
    plan: &mut Plan,
    record: &mut Record<M>,
) -> io::Result<()> {
    if turns.is_empty() {
        return Ok(());
    }
    let mut before = probe();
    for who in turns {
        let key = (shape, who.name());
        let Some(Ok(items)) = plan.get(&key).cloned() else {
            continue;
        };
        let (mut measured, mut disturbed) = (Err(String::new()), true);
        for _ in 0..M::ATTEMPTS {
            measured = measure::<M>(*who, &Work { shape, items }, items / 10);
            disturbed = measured.as_ref().is_ok_and(Measure::disturbed);
            if !disturbed {
                break;
            }
            before = probe();
        }
        let after = probe();
        let label = if disturbed { Label::Busy } else { Label::of(before, after) };
        if let Err(why) = &measured {
            let Shape { producers, bytes, .. } = shape;
            eprintln!("{}: {}, {producers} × {bytes} bytes: {why}", who.name(), M::WORD);
            plan.insert(key, Err(why.clone()));
        }
        record.add(&Row {
            round,
            label,
            contestant: who.name().to_owned(),
            version: machine::version(who.package()),
            shape,
            items,
            measured,
            probes: [before, after],
        })?;
        before = after;
    }
    Ok(())
}

/// So many that a turn takes [`SECONDS`], found out by two short ones. Where those fail, the turn
/// will, too, and leave a note.
fn items(options: &Options, who: &dyn Contestant, shape: Shape) -> Result<u64, String> {
    if let Some(items) = options.items {
        return Ok(items);
    }
    let mut items = whole(20_000.0, shape);
    for seconds in [SECONDS / 5.0, SECONDS] {
        let work = Work { shape, items };
        let Ok(Seconds(took)) = measure(who, &work, items / 10) else { break };
        let rate = items as f64 / took.max(1e-6);
        items = whole((rate * seconds).max(ITEMS_MIN.min(rate * SLOW_SECONDS)), shape);
    }
    Ok(items)
}

/// So many that every batch is full, with each producer's share alike: nobody waits for a timer.
#[allow(clippy::cast_possible_truncation)] // a number of items, and the cast saturates
fn whole(items: f64, shape: Shape) -> u64 {
    let step = (BATCH * shape.producers) as u64;
    (items as u64).div_ceil(step).max(1) * step
}
