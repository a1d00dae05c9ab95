//! The writes that a flusher has in flight.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::call::{Cut, Watch};
use crate::flush::Asking;
use crate::flush::classify::Answer;
use crate::flush::work::Work;
use crate::guard::{drop_each, guarded};
use crate::mode::Mode;
use crate::sink::{AsyncContext, AsyncSink, WriteError};

/// An open sink. It lives as long as a write needs it.
pub struct Open<S> {
    pub sink: S,
    /// It has panicked: nobody may call it any more.
    pub broken: Cell<bool>,
}

/// A write that has begun, and what it needs.
pub struct Writing<T, M: Mode<T>> {
    /// Which of the flusher's places it has.
    pub place: usize,
    pub work: Work<T, M>,
    pub spoiled: Vec<T>,
    pub started: Instant,
}

/// A write that has ended.
pub struct Landed<T, M: Mode<T>> {
    pub writing: Writing<T, M>,
    pub answer: Answer,
    /// Items that the sink has marked.
    pub marked: Vec<(usize, WriteError)>,
}

/// Has the sink write. Never panics: whatever happens to the sink, the items come back.
pub async fn write<T, M: Mode<T>, S: AsyncSink<T>>(
    open: Rc<Open<S>>,
    writing: Writing<T, M>,
    asking: Asking<'_>,
    watch: &Watch,
) -> Landed<T, M> {
    let mut marked = Vec::new();
    let batch = &writing.work.batch;
    let mut cx = AsyncContext::new(asking.context(&mut marked));
    let ended = watch.call(&open.broken, || open.sink.write(batch, &mut cx)).await;
    let mut answer = Answer {
        result: Ok(()),
        started: writing.started,
        took: asking.clock.now().saturating_duration_since(writing.started),
        panicked: matches!(ended, Err(Cut::Panicked(_))),
        wrote: !matches!(ended, Err(Cut::NotBegun)),
        last: matches!(ended, Err(Cut::GivenUp)), // nobody would write it again
    };
    answer.result = match ended {
        Ok(result) => result,
        Err(cut) => {
            if let Cut::Panicked(message) = &cut {
                tracing::error!(
                    flusher = asking.flusher.index,
                    batch = %batch.id(),
                    message,
                    "the sink panicked; its writes have failed, it is opened anew"
                );
                open.broken.set(true);
            }
            drop_each(&mut marked); // a list cut short says nothing about the others
            Err(cut.error("write"))
        }
    };
    let _ = guarded(|| drop(open)); // the last write of a broken sink drops it
    Landed { writing, answer, marked }
}

type Write<'a, T, M> = Pin<Box<dyn Future<Output = Landed<T, M>> + 'a>>;

/// Writes in flight, each in its place.
///
/// Whatever wakes the flusher, all of them are polled: they are few, and a future may be polled in
/// vain.
pub struct Flight<'a, T, M: Mode<T>> {
    places: Vec<Option<Write<'a, T, M>>>,
    flying: usize,
    restless: bool,
}

impl<'a, T, M: Mode<T>> Flight<'a, T, M> {
    pub fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| None).collect(), flying: 0, restless: false }
    }

    pub fn is_empty(&self) -> bool {
        self.flying == 0
    }

    /// A place for one more.
    pub fn room(&self) -> Option<usize> {
        self.places.iter().position(Option::is_none)
    }

    pub fn take_off(&mut self, place: usize, write: impl Future<Output = Landed<T, M>> + 'a) {
        self.places[place] = Some(Box::pin(write));
        self.flying += 1;
    }

    /// Polls the writes until one has ended. If one of them has forked, the child polls no other:
    /// they are the parent's.
    pub fn poll(&mut self, forked: impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<Landed<T, M>> {
        for place in &mut self.places {
            let Some(write) = place else { continue };
            match write.as_mut().poll(cx) {
                Poll::Ready(landed) => {
                    *place = None;
                    self.flying -= 1;
                    return Poll::Ready(landed);
                }
                Poll::Pending if forked() => break,
                Poll::Pending => self.restless = true,
            }
        }
        Poll::Pending
    }

    /// The runtime may have put off a wake-up of a write, until the task is pending.
    pub fn is_restless(&self) -> bool {
        self.restless
    }

    /// The task was pending.
    pub fn rested(&mut self) {
        self.restless = false;
    }
}
