//! A sink that is driven: in a pump, behind a probe that sees what it answers.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::{Fate, compare};
use super::{Item, Kit};
use crate::batch::Batch;
use crate::clock::TestClock;
use crate::config::ConfigError;
use crate::engine::{Batcher, Pump};
use crate::guard::guarded;
use crate::sink::{Applied, Class, Sink, SinkLimits, WriteContext, WriteError};
use crate::sync::{Mutex, lock};

/// How far in the past a deadline lies that has passed.
const LATE: Duration = Duration::from_secs(1);

/// What the probe does with the calls of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Manner {
    /// It passes them on.
    #[default]
    Plain,
    /// It sets a deadline that has passed.
    Late,
    /// It calls the sink twice, as the engine may after an error that leaves it open.
    Twice,
    /// It panics instead of calling the sink.
    PanicBefore,
    /// It panics when the sink has answered.
    PanicAfter,
}

/// What the sink answered to one call.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub fates: Vec<Fate>,
    /// Its class and text, if the batch failed as a whole.
    pub error: Option<(Class, String)>,
    /// How many items it marked.
    pub marks: usize,
    /// What is wrong with the marks.
    pub odd_mark: Option<String>,
    pub panic: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    manner: Manner,
    answers: Vec<Answer>,
    closes: u64,
}

/// Stands before the sink.
struct Probe<S> {
    inner: S,
    seen: Arc<Mutex<Seen>>,
}

impl<S> Probe<S> {
    fn ask<T>(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError>
    where
        S: Sink<T>,
    {
        let mut marks = Vec::new();
        let late = Instant::checked_sub(&cx.now(), LATE).unwrap_or_else(|| cx.now());
        let manner = lock(&self.seen).manner;
        let mut inner = cx.part(&mut marks);
        if manner == Manner::Late {
            inner = inner.until(late);
        }
        let result = guarded(|| self.inner.write(batch, &mut inner));
        lock(&self.seen).answers.push(answer(batch.len(), &result, &marks));
        match result {
            Ok(result) => {
                marks.into_iter().for_each(|(index, error)| cx.fail(index, error));
                result
            }
            Err(panic) => resume_unwind(Box::new(panic)),
        }
    }
}

fn answer(
    items: usize,
    result: &Result<Result<(), WriteError>, String>,
    marks: &[(usize, WriteError)],
) -> Answer {
    let error = match result {
        Ok(result) => result.as_ref().err(),
        Err(panic) => {
            let why = format!("the sink panicked: {panic}");
            let fates = vec![Fate::Unknown(why); items];
            return Answer { fates, panic: Some(panic.clone()), ..Answer::default() };
        }
    };
    let fate = |error: &WriteError| match error.what_applied() {
        Applied::Nothing => Fate::Refused(error.to_string()),
        Applied::Unknown => Fate::Unknown(error.to_string()),
    };
    let mut odd_mark = None;
    let mut fates = vec![None; items];
    for (index, error) in marks {
        match fates.get_mut(*index) {
            None => odd_mark = Some(format!("item {index} of a batch of {items} was marked")),
            Some(Some(_)) => odd_mark = Some(format!("item {index} was marked twice")),
            Some(unmarked) => *unmarked = Some(fate(error)),
        }
    }
    let rest = error.map_or(Fate::In, fate);
    Answer {
        fates: fates.into_iter().map(|fate| fate.unwrap_or_else(|| rest.clone())).collect(),
        error: error.map(|error| (error.class(), error.to_string())),
        marks: marks.len(),
        odd_mark,
        panic: None,
    }
}

impl<T, S: Sink<T>> Sink<T> for Probe<S> {
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let manner = lock(&self.seen).manner;
        match manner {
            Manner::Plain | Manner::Late => self.ask(batch, cx),
            Manner::Twice => {
                self.ask(batch, &mut cx.part(&mut Vec::new())).and_then(|()| self.ask(batch, cx))
            }
            Manner::PanicBefore => {
                let fates = vec![Fate::Unknown("a panic of the kit".to_owned()); batch.len()];
                lock(&self.seen).answers.push(Answer { fates, ..Answer::default() });
                resume_unwind(Box::new("a panic of the kit, before the sink was called"))
            }
            Manner::PanicAfter => {
                let _ = self.ask(batch, cx);
                resume_unwind(Box::new("a panic of the kit, after the sink was called"))
            }
        }
    }

    fn limits(&self) -> SinkLimits {
        self.inner.limits()
    }

    fn close(&mut self, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        lock(&self.seen).closes += 1;
        self.inner.close(cx)
    }
}

/// A sink that is open, in its pump.
pub(super) struct Session<T: Send + 'static, S: Sink<T>> {
    pump: Pump<T, Probe<S>>,
    seen: Arc<Mutex<Seen>>,
}

/// The engine that drives the sink: a failed batch has failed, nothing is tried again.
fn pump<T: Send + 'static, D, S: Sink<T>>(
    kit: &Kit<T, D, S>,
    probe: Probe<S>,
    batch_size: usize,
) -> Result<Pump<T, Probe<S>>, ConfigError> {
    let queue_depth = batch_size.saturating_mul(4).max(2).next_power_of_two();
    let mut builder = Batcher::builder()
        .max_batch_size(batch_size)
        .queue_depth(queue_depth)
        .failed_kept(0)
        .retry(None)
        .bisect(false)
        .breaker(None);
    if let Some(weight) = kit.weight.clone() {
        builder = builder.weight(move |item| weight(item));
    }
    builder.pump(probe, TestClock::new())
}

impl<T: Clone + Send + 'static, S: Sink<T>> Session<T, S> {
    /// Opens the sink on the store. `batch_size` is what the engine is set to; the sink's limits
    /// come on top.
    pub fn open<D>(kit: &Kit<T, D, S>, store: &D, batch_size: usize) -> Result<Self, String> {
        let inner = (kit.open)(store).map_err(|error| format!("the sink did not open: {error}"))?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let probe = Probe { inner, seen: Arc::clone(&seen) };
        let pump = pump(kit, probe, batch_size).map_err(|error| error.to_string())?;
        Ok(Self { pump, seen })
    }

    pub fn limits(&mut self) -> Option<SinkLimits> {
        self.pump.sink().map(|probe| probe.limits())
    }

    pub fn manner(&self, manner: Manner) {
        lock(&self.seen).manner = manner;
    }

    /// Writes the items, in as many batches as it takes; returns what the sink answered to each.
    pub fn write(&mut self, items: &[T]) -> Result<Vec<Answer>, String> {
        let mut items = items.to_vec();
        let added = self.pump.producer().add_many(&mut items);
        added.map_err(|error| format!("the kit's queue did not take the items: {error}"))?;
        self.pump.flush();
        Ok(std::mem::take(&mut lock(&self.seen).answers))
    }

    /// Closes the sink; an error is what it said.
    pub fn close(self) -> Result<(), String> {
        let Self { pump, seen } = self;
        let report = pump.shutdown();
        if let Some((_, error)) = report.close_errors.first() {
            return Err(format!("`close` failed: {error}"));
        }
        match lock(&seen).closes {
            1 => Ok(()),
            closes => Err(format!("`close` was called {closes} times")),
        }
    }
}

/// A store, and what a check has written to it.
pub(super) struct Bench<'k, T, D, S> {
    pub kit: &'k Kit<T, D, S>,
    pub store: D,
    written: Vec<(T, Fate)>,
    next: u64,
}

impl<'k, T: Item, D, S: Sink<T>> Bench<'k, T, D, S> {
    pub fn new(kit: &'k Kit<T, D, S>) -> Self {
        Self { kit, store: (kit.store)(), written: Vec::new(), next: 0 }
    }

    /// A store, and a sink that works: it has taken a good item.
    pub fn at_work(kit: &'k Kit<T, D, S>) -> Result<(Self, Session<T, S>), String> {
        let mut bench = Self::new(kit);
        let mut session = bench.open()?;
        bench.write_good(&mut session, 1)?;
        Ok((bench, session))
    }

    pub fn open(&self) -> Result<Session<T, S>, String> {
        Session::open(self.kit, &self.store, self.kit.batch_size)
    }

    /// Good items that were not there before.
    pub fn items(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| (self.kit.item)(self.number())).collect()
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The items of the largest batch that this sink takes, as far as the kit goes.
    pub fn full(&self, session: &mut Session<T, S>) -> usize {
        let limit = session.limits().and_then(|limits| limits.max_batch_size);
        limit.unwrap_or(usize::MAX).clamp(1, self.kit.batch_size)
    }

    /// Writes the items and remembers what the sink said of each. Of a panic it is remembered that
    /// they may be in.
    pub fn try_write(
        &mut self,
        session: &mut Session<T, S>,
        items: &[T],
    ) -> Result<Vec<Answer>, String> {
        let answers = session.write(items)?;
        let fates = answers.iter().flat_map(|answer| answer.fates.iter().cloned());
        // None is left for what the sink has not seen: it had panicked before.
        let unseen = || Fate::Refused("the sink was gone".to_owned());
        let fates = fates.chain(std::iter::repeat_with(unseen));
        self.written.extend(items.iter().cloned().zip(fates));
        Ok(answers)
    }

    /// As [`try_write`](Self::try_write); a panic of the sink is an error.
    pub fn write(
        &mut self,
        session: &mut Session<T, S>,
        items: &[T],
    ) -> Result<Vec<Answer>, String> {
        let answers = self.try_write(session, items)?;
        match answers.iter().find_map(|answer| answer.panic.as_ref()) {
            Some(panic) => Err(format!("the sink panicked: {panic}")),
            None => Ok(answers),
        }
    }

    /// Writes so many good items. Whatever the sink does not take is an error.
    pub fn write_good(
        &mut self,
        session: &mut Session<T, S>,
        count: usize,
    ) -> Result<Vec<Answer>, String> {
        let items = self.items(count);
        let answers = self.write(session, &items)?;
        for answer in &answers {
            let items = answer.fates.len();
            if let Some((class, text)) = &answer.error {
                let class = class.name();
                return Err(format!("a batch of {items} good items failed ({class}): {text}"));
            }
            if let Some(place) = answer.fates.iter().position(|fate| *fate != Fate::In) {
                let fate = &answer.fates[place];
                return Err(format!("good item {place} of a batch of {items} failed: {fate:?}"));
            }
        }
        Ok(answers)
    }

    /// What is in the store.
    pub fn read(&self) -> Result<Vec<T>, String> {
        (self.kit.read)(&self.store).map_err(|error| format!("`read` failed: {error}"))
    }

    /// Compares the store with what the sink has said.
    pub fn check_store(&self, when: &str) -> Result<(), String> {
        compare(&self.written, &self.read()?).map_err(|what| format!("{when}: {what}"))
    }
}
