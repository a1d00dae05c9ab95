//! What the stress tests share: how long they go on, and sinks that fail at random and write down how.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluicegate::{Applied, Batch, WriteContext, WriteError};

use super::{Rng, Tracked, assert_in_order};

/// Makes one run after the other for as long as `SLUICEGATE_STRESS` says, or else for so many seconds.
/// Each says how many items it had.
#[track_caller]
pub fn keep_on(default_seconds: u64, mut run: impl FnMut(&mut Rng) -> u64) {
    let seconds = std::env::var("SLUICEGATE_STRESS").ok();
    let seconds = seconds.map_or(default_seconds, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rng = Rng::seeded();
    let (mut runs, mut items) = (0, 0);
    while Instant::now() < end {
        items += run(&mut rng);
        runs += 1;
    }
    assert!(items > 0 || seconds == 0, "{runs} runs without an item");
}

/// What a weight may be: from 0 to 22 bytes.
pub fn weight(item: &Tracked) -> usize {
    usize::try_from(item.number % 23).unwrap()
}

/// What was said of the items, in the order of the calls.
#[derive(Default)]
pub struct Record {
    /// Written.
    pub ok: Vec<u64>,
    /// Refused by a sink, or perhaps written.
    pub bad: Vec<u64>,
    /// What a callback was told of.
    pub told: Vec<u64>,
}

pub type Shared = Arc<Mutex<Record>>;

/// How a sink fails.
#[derive(Clone, Copy, Debug)]
pub struct Fails {
    /// One call in so many; 0: none.
    pub one_in: u64,
    /// By a panic, too.
    pub panics: bool,
}

impl Fails {
    /// A random answer, written down before it is given.
    pub fn answer(
        self,
        batch: &Batch<Tracked>,
        cx: &mut WriteContext<'_>,
        record: &Shared,
        rng: &mut Rng,
    ) -> Result<(), WriteError> {
        let mut record = record.lock().unwrap();
        let numbers: Vec<_> = batch.iter().map(|item| item.number).collect();
        assert_in_order(&numbers); // under the lock: who looks at the record then fails, too
        if self.one_in == 0 || !rng.one_in(self.one_in) {
            record.ok.extend(numbers);
            return Ok(());
        }
        let kind = rng.below(if self.panics { 4 } else { 3 });
        if kind > 0 {
            record.bad.extend(&numbers);
        }
        match kind {
            0 => {
                for (index, number) in numbers.into_iter().enumerate() {
                    if rng.one_in(2) {
                        cx.fail(index, WriteError::permanent("bad"));
                        record.bad.push(number);
                    } else {
                        record.ok.push(number);
                    }
                }
                Ok(())
            }
            1 => Err(WriteError::transient("no")),
            2 => Err(WriteError::disconnected("?").applied(Applied::Unknown)),
            _ => {
                drop(record);
                resume_unwind(Box::new("as planned"))
            }
        }
    }
}
