//! Where dead letters go: one sink for the whole engine, asked by one flusher at a time.

use std::time::Instant;

use crate::batch::{Batch, BatchId};
use crate::clock::{Clock, Due};
use crate::guard::{drop_each, guarded};
use crate::sink::{Dead, Flusher, Sink, WriteContext, WriteError};
use crate::sync::{Mutex, lock, try_lock};

/// A sink that any flusher may ask.
pub type DeadLetterSink<T> = Box<dyn Sink<Dead<T>> + Send>;

/// The engine's dead-letter sink.
pub struct DeadLetters<T> {
    state: Mutex<State<T>>,
    /// The most it takes in one call.
    most: usize,
}

struct State<T> {
    /// `None` after a panic, and once closed.
    sink: Option<DeadLetterSink<T>>,
    marked: Vec<(usize, WriteError)>,
    last_id: u64,
}

/// On whose behalf the sink is asked.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub flusher: Flusher,
    pub clock: &'a Clock,
    pub deadline: Option<Instant>,
    pub shutdown: &'a Due,
}

impl<'a> Asking<'a> {
    pub fn context(self, marked: &'a mut Vec<(usize, WriteError)>) -> WriteContext<'a> {
        let Self { flusher, clock, deadline, shutdown } = self;
        WriteContext::new(flusher, clock, deadline, marked).heeding(shutdown)
    }
}

impl<T> DeadLetters<T> {
    pub fn new(sink: DeadLetterSink<T>) -> Self {
        let limit = guarded(|| sink.limits()).ok().and_then(|limits| limits.max_batch_size);
        let state = State { sink: Some(sink), marked: Vec::new(), last_id: 0 };
        Self { state: Mutex::new(state), most: limit.unwrap_or(usize::MAX).max(1) }
    }

    /// Gives letters of one batch to the sink. `refused` says of each in turn whether it was not
    /// taken.
    pub fn write(&self, like: &Batch<T>, letters: Vec<Dead<T>>, asking: Asking<'_>) -> Buried<T> {
        let mut buried = Buried { letters: Vec::new(), refused: Vec::new() };
        let mut state = lock(&self.state);
        let mut letters = letters.into_iter().peekable();
        while letters.peek().is_some() {
            state.last_id += 1;
            let items: Vec<_> = letters.by_ref().take(self.most).collect();
            let batch = Batch {
                id: BatchId::new(state.last_id),
                shard: 0,
                reason: like.reason,
                bytes: 0,
                items,
                position: like.position,
                opened: like.opened,
                late: None,
            };
            state.write(&batch, asking, &mut buried.refused);
            buried.letters.extend(batch.items);
        }
        buried
    }

    /// Whether it is open, or somebody is just asking it.
    pub fn is_open(&self) -> bool {
        try_lock(&self.state).is_none_or(|state| state.sink.is_some())
    }

    /// Closes the sink, if it is open: nobody asks any more. Not if one that was left behind has it in
    /// its hands.
    pub fn close(&self, asking: Asking<'_>) -> Option<WriteError> {
        let mut state = try_lock(&self.state)?;
        let mut sink = state.sink.take()?;
        let State { marked, .. } = &mut *state;
        let mut cx = asking.context(marked);
        let closed = guarded(|| sink.close(&mut cx));
        drop_each(marked);
        let dropped = guarded(|| drop(sink));
        let panicked =
            |message| WriteError::permanent(format!("the dead-letter sink panicked: {message}"));
        closed
            .unwrap_or_else(|message| Err(panicked(message)))
            .err()
            .or(dropped.err().map(panicked))
    }
}

impl<T> State<T> {
    fn write(&mut self, batch: &Batch<Dead<T>>, asking: Asking<'_>, refused: &mut Vec<bool>) {
        let Self { sink, marked, .. } = self;
        let start = refused.len();
        refused.resize(start + batch.len(), false);
        marked.clear();
        let result = match sink {
            Some(open) => {
                let mut cx = asking.context(marked);
                guarded(|| open.write(batch, &mut cx)).unwrap_or_else(|message| {
                    let broken = sink.take();
                    let _ = guarded(|| drop(broken));
                    Err(WriteError::permanent(format!("it panicked: {message}")))
                })
            }
            None => Err(WriteError::permanent("it panicked before, or was closed")),
        };
        if result.is_err() {
            refused[start..].fill(true);
        }
        for (index, _) in marked.iter() {
            if let Some(refused) = refused.get_mut(start + index) {
                *refused = true;
            }
        }
        let items = refused[start..].iter().filter(|refused| **refused).count();
        if items > 0 {
            let why = result.err().or_else(|| marked.pop().map(|(_, error)| error));
            let why = why.map(|error| guarded(|| error.to_string()).unwrap_or_default());
            tracing::error!(items, error = why, "the dead-letter sink has not taken items");
        }
        drop_each(marked);
    }
}

/// What the sink was given, and what of it was not taken.
pub struct Buried<T> {
    pub letters: Vec<Dead<T>>,
    pub refused: Vec<bool>,
}
