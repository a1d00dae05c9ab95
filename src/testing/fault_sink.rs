//! The sink that does what the plan says.

use std::fmt;
use std::panic::resume_unwind;
use std::time::Duration;

use super::log::Entry;
use super::rng::Rng;
use super::{Fault, Faults};
use crate::batch::Batch;
use crate::sink::{Applied, Class, Sink, SinkLimits, WriteContext, WriteError};
use crate::sync::sleep;

const INJECTED: &str = "injected fault";

/// A sink with faults in front of another; made by [`Faults::wrap`].
///
/// Where only a part of a batch reaches the inner sink, it is given clones of those items, in a
/// batch of the same name; its [`bytes`](Batch::bytes) stay those of the whole.
pub struct FaultSink<T, S> {
    faults: Faults<T>,
    inner: S,
    /// How many calls have failed since the connection was lost, if it is.
    lost: Option<u64>,
}

/// What is done with an item before the inner sink sees it.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Nothing.
    Well,
    /// It fails and is not handed on.
    Nothing,
    /// It fails, and is handed on or not.
    Unknown { handed_on: bool },
}

impl<T, S> FaultSink<T, S> {
    pub(super) fn new(faults: Faults<T>, inner: S) -> Self {
        Self { faults, inner, lost: None }
    }

    /// The sink behind the faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The sink behind the faults.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The sink behind the faults, and no more faults.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Whether this call fails because the connection is lost.
    fn is_lost(&mut self) -> bool {
        match (self.lost, self.faults.reconnect_after) {
            (None, _) => false,
            (Some(failed), Some(calls)) if failed >= calls => {
                self.lost = None;
                false
            }
            (Some(failed), _) => {
                self.lost = Some(failed + 1);
                true
            }
        }
    }

    fn delay(&self, time: Duration, cx: &WriteContext<'_>) {
        match &self.faults.on_delay {
            Some(take) => take(time),
            None if cx.has_test_clock() => {}
            None => sleep(time),
        }
    }

    /// Waits at the gate; false if the time that the engine gives was used up.
    fn hang(&self, cx: &WriteContext<'_>) -> bool {
        let gate = &self.faults.gate;
        match cx.time_left().filter(|_| self.faults.polite) {
            None => {
                gate.pass();
                true
            }
            Some(left) if cx.has_test_clock() => {
                let open = gate.pass_within(Duration::ZERO);
                if !open {
                    self.delay(left, cx);
                }
                open
            }
            Some(left) => gate.pass_within(left),
        }
    }
}

impl<T: Clone, S: Sink<T>> FaultSink<T, S> {
    fn act(
        &mut self,
        fault: &Fault,
        (batch, entry): (&Batch<T>, &Entry),
        cx: &mut WriteContext<'_>,
        rng: &mut Rng,
    ) -> Result<(), WriteError> {
        match fault {
            Fault::Ok | Fault::Delay(_) => self.hand_on(batch, entry, cx),
            Fault::Transient => Err(WriteError::transient(INJECTED)),
            Fault::Permanent => Err(WriteError::permanent(INJECTED)),
            Fault::TooLarge => Err(WriteError::too_large(INJECTED)),
            Fault::Throttled(time) => Err(WriteError::throttled(INJECTED, Some(*time))),
            Fault::Disconnected => Err(WriteError::disconnected(INJECTED)),
            Fault::ConnectionLost => {
                self.lost = self.lost.or(Some(0));
                Err(WriteError::disconnected("injected fault: the connection is lost"))
            }
            Fault::Unknown(class) => {
                if rng.coin() {
                    // Whatever it answers: the answer is what got lost.
                    let mut unheard = Vec::new();
                    let _ = self.hand_on(batch, entry, &mut cx.part(&mut unheard));
                }
                Err(WriteError::new(*class, INJECTED).applied(Applied::Unknown))
            }
            Fault::Items { at, class, applied } => {
                let fates = fates(batch.len(), *applied, rng, |index, _| at.contains(&index));
                self.some(batch, entry, cx, *class, fates)
            }
            Fault::EachItem { one_in, class, applied } => {
                let fates = fates(batch.len(), *applied, rng, |_, rng| rng.one_in(*one_in));
                self.some(batch, entry, cx, *class, fates)
            }
            Fault::Hang => {
                if !self.hang(cx) {
                    return Err(WriteError::transient("injected fault: hung until the deadline"));
                }
                self.hand_on(batch, entry, cx)
            }
            Fault::Panic => resume_unwind(Box::new(INJECTED)),
            Fault::PanicAfter => {
                let _ = self.hand_on(batch, entry, cx);
                resume_unwind(Box::new("injected fault, after the inner sink was called"))
            }
        }
    }

    fn hand_on(
        &mut self,
        batch: &Batch<T>,
        entry: &Entry,
        cx: &mut WriteContext<'_>,
    ) -> Result<(), WriteError> {
        self.some(batch, entry, cx, Class::Permanent, vec![Fate::Well; batch.len()])
    }

    /// Marks the items that fail, with this class, and writes the others.
    fn some(
        &mut self,
        batch: &Batch<T>,
        entry: &Entry,
        cx: &mut WriteContext<'_>,
        class: Class,
        mut fates: Vec<Fate>,
    ) -> Result<(), WriteError> {
        let mut mark = |index, error| {
            entry.update(|call| call.marked.push(index));
            cx.fail(index, error);
        };
        for (index, fate) in fates.iter_mut().enumerate() {
            let poisoned = self.faults.poison_items.as_ref().is_some_and(|is| is(&batch[index]));
            match fate {
                Fate::Nothing => mark(index, WriteError::new(class, INJECTED)),
                _ if poisoned => {
                    *fate = Fate::Nothing;
                    mark(index, WriteError::permanent("injected fault: a poison item"));
                }
                Fate::Well => {}
                Fate::Unknown { .. } => {
                    mark(index, WriteError::new(class, INJECTED).applied(Applied::Unknown));
                }
            }
        }
        let handed_on = |fate: &Fate| match fate {
            Fate::Well => true,
            Fate::Nothing => false,
            Fate::Unknown { handed_on } => *handed_on,
        };
        let places: Vec<usize> = fates
            .iter()
            .enumerate()
            .filter(|(_, fate)| handed_on(fate))
            .map(|(at, _)| at)
            .collect();
        if let Some(is) = &self.faults.poison
            && places.iter().any(|at| is(&batch[*at]))
        {
            return Err(WriteError::permanent("injected fault: a poison item in the batch"));
        }
        self.write_inner(batch, entry, cx, &places)
    }

    /// Gives the items at these places to the inner sink.
    fn write_inner(
        &mut self,
        batch: &Batch<T>,
        entry: &Entry,
        cx: &mut WriteContext<'_>,
        places: &[usize],
    ) -> Result<(), WriteError> {
        if places.is_empty() {
            return Ok(()); // a batch is never empty
        }
        entry.update(|call| call.handed_on = places.len());
        let mut marks = Vec::new();
        let inner = &mut cx.part(&mut marks);
        let result = if places.len() == batch.len() {
            self.inner.write(batch, inner)
        } else {
            let items = places.iter().map(|at| batch[*at].clone()).collect();
            self.inner.write(&batch.part(items), inner)
        };
        for (index, error) in marks {
            // A mark outside the batch stays one, so that the engine gets to see it.
            let index = places.get(index).copied().unwrap_or(usize::MAX);
            entry.update(|call| call.marked.push(index));
            cx.fail(index, error);
        }
        result
    }
}

fn fates(
    items: usize,
    applied: Applied,
    rng: &mut Rng,
    fails: impl Fn(usize, &mut Rng) -> bool,
) -> Vec<Fate> {
    let fate = |index| match (fails(index, rng), applied) {
        (false, _) => Fate::Well,
        (true, Applied::Nothing) => Fate::Nothing,
        (true, Applied::Unknown) => Fate::Unknown { handed_on: rng.coin() },
    };
    (0..items).map(fate).collect()
}

impl<T: Clone, S: Sink<T>> Sink<T> for FaultSink<T, S> {
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        let entry = self.faults.log.begin(batch, cx);
        let mut rng = self.faults.rng(entry.index());
        let mut delay = Duration::ZERO;
        let fault = if self.is_lost() {
            Fault::ConnectionLost
        } else {
            let call = (entry.index(), cx.now());
            self.faults.choose(call, (batch.len(), batch.bytes()), &mut rng, &mut delay)
        };
        entry.update(|call| call.fault = fault.clone());
        if delay > Duration::ZERO {
            self.delay(delay, cx);
        }
        let result = self.act(&fault, (batch, &entry), cx, &mut rng);
        entry.end(&result);
        result
    }

    /// Those of the inner sink.
    fn limits(&self) -> SinkLimits {
        self.inner.limits()
    }

    /// Closes the inner sink.
    fn close(&mut self, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.inner.close(cx)
    }
}

impl<T, S: fmt::Debug> fmt::Debug for FaultSink<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultSink")
            .field("faults", &self.faults)
            .field("inner", &self.inner)
            .field("connection_lost", &self.lost.is_some())
            .finish()
    }
}
