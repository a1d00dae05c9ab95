//! What comes of a write: which items are in, which have failed for good, and which go on, whole,
//! in part, or in halves.
//!
//! **Bisection.** A batch that the sink refuses for good, with nothing applied, is halved until the
//! bad items stand alone. Each bad item among n costs at most 2·⌈log2 n⌉ writes besides the first:
//! one of each pair of halves fails on every level. (Group testing by binary splitting;
//! Hwang, "A Method for Detecting All Defective Members in a Population by Group Testing", 1972.)

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::FailedItem;
use super::gate::Said;
use super::policy::Policy;
use super::retries::Kind;
use super::work::{Failure, Moment, Past, Work};
use crate::batch::{Batch, BatchId};
use crate::collect::Weight;
use crate::config::OnFailure;
use crate::guard::{drop_each, guarded};
use crate::mode::Mode;
use crate::sink::{Applied, Class, WriteError};

/// What the sink said.
pub struct Answer {
    pub result: Result<(), WriteError>,
    pub started: Instant,
    pub took: Duration,
    pub panicked: bool,
    /// The sink was called.
    pub wrote: bool,
    /// There is no use in trying again.
    pub last: bool,
}

impl Answer {
    /// The sink was not asked.
    pub fn unasked(result: Result<(), WriteError>, now: Instant) -> Self {
        let (started, took) = (now, Duration::ZERO);
        Self { result, started, took, panicked: false, wrote: false, last: false }
    }

    /// When it came.
    fn at(&self) -> Instant {
        self.started + self.took
    }
}

/// What came of a write.
pub struct Verdict<T> {
    /// Items that have failed for good: the spoiled ones first, then in the order of the batch.
    pub lost: Vec<Lost<T>>,
    /// What goes on.
    pub again: Vec<Again<T>>,
    /// Errors that belong to no item. They are the caller's, so they are dropped with care, later.
    pub surplus: Vec<Arc<WriteError>>,
    /// Writes of these items so far.
    pub attempts: u32,
    /// When they first failed, if they have, and the time of this answer.
    pub first: Moment,
    pub last: Moment,
    pub started: Instant,
    pub took: Duration,
    pub panicked: bool,
    pub wrote: bool,
    /// What the sink said of the batch as a whole.
    pub whole: Option<Arc<WriteError>>,
    /// Failed items for which the report has no room.
    pub kept_out: Vec<FailedItem<T>>,
}

/// An item that has failed for good.
pub struct Lost<T> {
    /// Its place in the batch that was written; `None` for a spoiled one.
    pub at: Option<usize>,
    pub failed: FailedItem<T>,
}

/// Items that go on.
pub struct Again<T> {
    pub kind: Kind,
    /// They are all of what was written, so the batch keeps its name.
    pub whole: bool,
    /// Their places in the batch that was written.
    pub at: Vec<usize>,
    pub items: Vec<T>,
    pub bytes: u64,
    pub failure: Failure,
    /// One of them may have taken effect.
    pub unknown: bool,
    pub keys: Vec<u64>,
}

/// Moves the items that failed out of a work's batch, each with its error.
pub fn classify<T, M: Mode<T>>(
    work: &mut Work<T, M>,
    spoiled: Vec<T>,
    answer: Answer,
    marked: &mut Vec<(usize, WriteError)>,
    policy: &Policy<T>,
) -> Verdict<T> {
    let Work { batch, past, .. } = work;
    let failed = answer.result.is_err() || !marked.is_empty();
    let now = Moment::of(answer.at(), failed || !spoiled.is_empty());
    let whole = answer.result.err().map(Arc::new);
    let first = past.failure.as_ref().map_or(now, |failure| failure.first);
    let mut verdict = Verdict {
        lost: Vec::new(),
        again: Vec::new(),
        surplus: Vec::new(),
        attempts: past.attempts,
        first,
        last: now,
        started: answer.started,
        took: answer.took,
        panicked: answer.panicked,
        wrote: answer.wrote,
        whole: whole.clone(),
        kept_out: Vec::new(),
    };
    for item in spoiled {
        let error = WriteError::permanent("the weight function panicked on this item");
        verdict.lose(batch.id, None, item, Arc::new(error));
    }
    if failed {
        let all = batch.items.len();
        let (alone, together) = sort(batch, whole, marked, &mut verdict.surplus);
        let judge = Judge { policy, past, now, last: answer.last };
        judge.alone(batch.id, alone, all, &mut verdict);
        judge.together(batch.id, together, all, &mut verdict);
        if policy.on_failure != OnFailure::Skip {
            verdict.join();
        }
        verdict.lost.sort_by_key(|lost| lost.at); // stable: spoiled ones come first
    }
    verdict
}

/// Items that failed as one, with their places.
type Group<T> = (Vec<(usize, T)>, Arc<WriteError>);

/// Items with an error of their own, and those that share one.
type Sorted<T> = (Vec<(usize, T, Arc<WriteError>)>, Option<Group<T>>);

/// Takes the failed items out of the batch.
fn sort<T>(
    batch: &mut Batch<T>,
    whole: Option<Arc<WriteError>>,
    marked: &mut Vec<(usize, WriteError)>,
    surplus: &mut Vec<Arc<WriteError>>,
) -> Sorted<T> {
    // Stable: the first error given for an item stays first.
    marked.sort_by_key(|(index, _)| *index);
    let mut marked = marked.drain(..).peekable();
    let (mut good, mut alone, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    if whole.is_none() {
        good.reserve(batch.items.capacity());
    }
    for (index, item) in batch.items.drain(..).enumerate() {
        let error = marked.next_if(|(at, _)| *at == index).map(|(_, error)| Arc::new(error));
        while let Some((_, again)) = marked.next_if(|(at, _)| *at == index) {
            surplus.push(Arc::new(again));
        }
        match (error, &whole) {
            (Some(error), _) => alone.push((index, item, error)),
            (None, Some(_)) => rest.push((index, item)),
            (None, None) => good.push(item),
        }
    }
    surplus.extend(marked.map(|(_, error)| Arc::new(error)));
    batch.items = good;
    let together = match whole {
        Some(error) if rest.is_empty() => {
            surplus.push(error);
            None
        }
        Some(error) => Some((rest, error)),
        None => None,
    };
    (alone, together)
}

/// Decides what becomes of failed items.
struct Judge<'a, T> {
    policy: &'a Policy<T>,
    past: &'a Past,
    now: Moment,
    last: bool,
}

impl<T> Judge<'_, T> {
    /// Items that the sink has marked: those that may be tried again go on together.
    fn alone(
        &self,
        id: BatchId,
        items: Vec<(usize, T, Arc<WriteError>)>,
        all: usize,
        verdict: &mut Verdict<T>,
    ) {
        let (mut retry, mut last, mut why, mut unknown) = (Vec::new(), None, None, false);
        let delay = self.policy.delay(self.past.retries); // one for all
        for (at, item, error) in items {
            match self.due(&error, delay) {
                Some(due) => {
                    last = last.max(Some(due));
                    unknown |= may_be_in(&error);
                    why.get_or_insert(error);
                    retry.push((at, item));
                }
                None => self.lose(id, at, item, error, verdict),
            }
        }
        if let (Some(due), Some(error)) = (last, why) {
            let again = self.again(Kind::Retry, retry, all, error, due);
            verdict.again.push(Again { unknown, ..again });
        }
    }

    /// Items that failed as one.
    fn together(&self, id: BatchId, group: Option<Group<T>>, all: usize, verdict: &mut Verdict<T>) {
        let Some((mut items, error)) = group else { return };
        if let Some(due) = self.due(&error, self.policy.delay(self.past.retries)) {
            verdict.again.push(self.again(Kind::Retry, items, all, error, due));
        } else if self.may_split(&error, items.len()) {
            // Both are due when the whole was, so that what comes first is written first.
            let due = self.past.failure.as_ref().map_or(self.now.at, |failure| failure.due);
            let right = items.split_off(self.middle(&items, error.class()));
            for half in [items, right] {
                let again = self.again(Kind::Part, half, all, Arc::clone(&error), due);
                verdict.again.push(again);
            }
        } else {
            for (at, item) in items {
                self.lose(id, at, item, Arc::clone(&error), verdict);
            }
        }
    }

    /// The item has failed for good. What an earlier write may have done is not forgotten.
    fn lose(
        &self,
        id: BatchId,
        at: usize,
        item: T,
        error: Arc<WriteError>,
        verdict: &mut Verdict<T>,
    ) {
        verdict.lose(id, Some(at), item, last_word(error, self.past.unknown));
    }

    /// When to try again, if there is hope.
    fn due(&self, error: &WriteError, delay: Duration) -> Option<Instant> {
        let retry = self.policy.retry.as_ref().filter(|_| !self.last)?;
        let passing =
            matches!(error.class(), Class::Transient | Class::Throttled | Class::Disconnected);
        let sure = error.what_applied() == Applied::Nothing || retry.unknown;
        let tries = self.past.retries.saturating_add(1);
        if !passing || !sure || retry.max_attempts.is_some_and(|max| tries >= max) {
            return None;
        }
        let due = self.now.at.checked_add(delay.max(error.retry_after().unwrap_or_default()))?;
        let first = self.past.failure.as_ref().map_or(self.now.at, |failure| failure.first.at);
        let hopeless = |limit| first.checked_add(limit).is_some_and(|end| due >= end);
        (!retry.give_up_after.is_some_and(hopeless)).then_some(due)
    }

    fn may_split(&self, error: &WriteError, items: usize) -> bool {
        let class = matches!(error.class(), Class::Permanent | Class::TooLarge);
        let sure = error.what_applied() == Applied::Nothing;
        class && sure && items > 1 && self.policy.bisect && !self.last
    }

    /// Where to split: in the middle, of the bytes if it is too many of them.
    fn middle(&self, items: &[(usize, T)], class: Class) -> usize {
        let Some(weight) = self.policy.weight.as_ref().filter(|_| class == Class::TooLarge) else {
            return items.len() / 2;
        };
        let all = bytes_of(weight, items);
        let mut left = 0_u64;
        let over = items.iter().position(|(_, item)| {
            left = left.saturating_add(weigh(weight, item));
            left > all / 2
        });
        over.unwrap_or(items.len() / 2).clamp(1, items.len() - 1)
    }

    fn again(
        &self,
        kind: Kind,
        items: Vec<(usize, T)>,
        all: usize,
        error: Arc<WriteError>,
        due: Instant,
    ) -> Again<T> {
        let first = self.past.failure.as_ref().map_or(self.now, |failure| failure.first);
        let bytes = self.policy.weight.as_ref().map_or(0, |weight| bytes_of(weight, &items));
        let keys = self.policy.keys_of(items.iter().map(|(_, item)| item));
        let whole = kind == Kind::Retry && items.len() == all;
        let (at, items) = items.into_iter().unzip();
        let failure = Failure { error, first, last: self.now, due };
        let unknown = may_be_in(&failure.error);
        Again { kind, whole, at, items, bytes, failure, unknown, keys }
    }
}

fn may_be_in(error: &WriteError) -> bool {
    error.what_applied() == Applied::Unknown
}

/// The error of an item that has failed for good, of which an earlier write may have taken effect.
pub fn last_word(error: Arc<WriteError>, unknown: bool) -> Arc<WriteError> {
    if may_be_in(&error) || !unknown {
        return error;
    }
    let error = error.again("an earlier write may have taken effect; last: ");
    Arc::new(error.applied(Applied::Unknown))
}

fn bytes_of<T>(weight: &Weight<T>, items: &[(usize, T)]) -> u64 {
    items.iter().map(|(_, item)| weigh(weight, item)).fold(0, u64::saturating_add)
}

/// A panic counts as nothing here: the item was weighed before.
fn weigh<T>(weight: &Weight<T>, item: &T) -> u64 {
    guarded(|| weight(item)).unwrap_or(0) as u64
}

impl<T> Lost<T> {
    /// Whether it may have taken effect all the same.
    pub fn is_unknown(&self) -> bool {
        may_be_in(&self.failed.error)
    }
}

impl<T> Verdict<T> {
    /// Whether every item is in, and nothing was said.
    fn is_clean(&self) -> bool {
        let Self { lost, again, surplus, whole, kept_out, .. } = self;
        whole.is_none()
            && lost.is_empty()
            && again.is_empty()
            && surplus.is_empty()
            && kept_out.is_empty()
    }

    /// What it says of the sink.
    pub fn said(&self) -> Said {
        Said::new(self.whole.as_deref(), self.panicked, self.took)
    }

    /// All that goes on goes on together, in the order in which it was added.
    fn join(&mut self) {
        if self.again.len() < 2 || self.again.iter().all(|again| again.kind == Kind::Part) {
            return; // halves keep their order by themselves
        }
        let mut parts = mem::take(&mut self.again).into_iter();
        let Some(mut all) = parts.next() else { return };
        let mut items: Vec<_> = mem::take(&mut all.at).into_iter().zip(all.items).collect();
        for Again { at, items: more, bytes, failure, unknown, keys, .. } in parts {
            items.extend(at.into_iter().zip(more));
            all.bytes = all.bytes.saturating_add(bytes);
            all.failure.due = all.failure.due.max(failure.due);
            all.unknown |= unknown;
            all.keys.extend(keys);
            self.surplus.push(failure.error);
        }
        items.sort_by_key(|(at, _)| *at);
        all.keys.sort_unstable();
        all.keys.dedup();
        (all.at, all.items) = items.into_iter().unzip();
        (all.kind, all.whole) = (Kind::Retry, false);
        self.again.push(all);
    }

    /// Drops what is left in it; returns how many of the drops panicked.
    pub fn discard(&mut self) -> u64 {
        if self.is_clean() {
            return 0;
        }
        self.surplus.extend(self.whole.take());
        let mut lost: Vec<_> = self.lost.drain(..).map(|lost| lost.failed).collect();
        let mut again: Vec<_> = self.again.drain(..).flat_map(|again| again.items).collect();
        drop_each(&mut lost)
            + drop_each(&mut again)
            + drop_each(&mut self.kept_out)
            + drop_each(&mut self.surplus)
    }

    /// Writes down an item that has failed for good.
    pub fn lose(&mut self, batch: BatchId, at: Option<usize>, item: T, error: Arc<WriteError>) {
        self.lost.push(Lost { at, failed: FailedItem { item, error, batch } });
    }
}
