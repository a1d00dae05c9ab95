//! The plan: which call meets which fault.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rng::Rng;
use super::{FaultLog, FaultSink, Gate};
use crate::sink::{Applied, Class};

type Predicate<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
type OnDelay = Arc<dyn Fn(Duration) + Send + Sync>;

/// What becomes of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing bad: the inner sink is called.
    Ok,
    /// [`Class::Transient`]; the inner sink is not called, [`Applied::Nothing`].
    Transient,
    /// [`Class::Permanent`], likewise.
    Permanent,
    /// [`Class::TooLarge`], likewise.
    TooLarge,
    /// [`Class::Throttled`], likewise; asks to be left alone for so long.
    Throttled(Duration),
    /// [`Class::Disconnected`], likewise. The next call may be well.
    Disconnected,
    /// [`Class::Disconnected`], likewise, and so is every later call of this sink: until it is
    /// opened again, or [`reconnect_after`](Faults::reconnect_after).
    ConnectionLost,
    /// An error of this class with [`Applied::Unknown`]. Whether the inner sink is called, and with
    /// it whether the batch is in, is up to the seed.
    Unknown(Class),
    /// The items at these places of the batch are marked as failed, the inner sink is called with
    /// the others.
    Items {
        /// Places, from 0. Those outside the batch mean nothing.
        at: Vec<usize>,
        /// Of the error.
        class: Class,
        /// With `Unknown` the seed decides for each whether the inner sink is given it too.
        applied: Applied,
    },
    /// As `Items`, but each item of the batch fails once in so many times.
    EachItem {
        /// In how many times once; 1 for always, 0 for never.
        one_in: u64,
        /// Of the errors.
        class: Class,
        /// As in `Items`.
        applied: Applied,
    },
    /// The inner sink is called after so long; see [`on_delay`](Faults::on_delay).
    Delay(Duration),
    /// The call waits until the test opens [`gate`](Faults::gate), then calls the inner sink; see
    /// [`polite`](Faults::polite).
    Hang,
    /// A panic; the inner sink was not called.
    Panic,
    /// A panic after the inner sink has written the batch.
    PanicAfter,
}

/// A plan of faults. The same seed and the same calls give the same faults.
///
/// Clones share the count of calls, the log and the gate; what is set on one of them is its own.
/// Every [`FaultSink`] made by [`wrap`](Self::wrap) counts its calls there too, so that a script
/// goes on where a sink is opened again. With several flushers the count follows the order in which
/// their calls begin.
///
/// For each call, the first that applies: the connection is lost; an
/// [outage](Self::down_between); a [limit](Self::max_items) on its size; its entry in the
/// [script](Self::script); the settings of [`one_in`](Self::one_in), in their order. Where a call
/// then comes to the inner sink, [poison](Self::poison) is looked for.
///
/// ```
/// use sluicegate::testing::{Fault, Faults, Recorder};
/// use sluicegate::{Batcher, TestClock};
///
/// let store = Recorder::new();
/// let faults = Faults::script([Fault::Transient, Fault::Ok]);
/// let sink = faults.wrap(store.clone());
/// # let b = Batcher::builder().max_batch_size(1);
/// let mut pump = b.pump(sink, TestClock::new())?;
/// pump.producer().add_many(&mut vec![1, 2]).unwrap();
/// pump.run();
/// assert_eq!((faults.log().len(), store.items()), (2, vec![2]));
/// # Ok::<(), sluicegate::ConfigError>(())
/// ```
#[must_use]
pub struct Faults<T> {
    seed: u64,
    script: Vec<Fault>,
    odds: Vec<(u64, Fault)>,
    down: Vec<(Instant, Instant)>,
    max_items: usize,
    max_bytes: u64,
    pub(super) poison: Option<Predicate<T>>,
    pub(super) poison_items: Option<Predicate<T>>,
    pub(super) reconnect_after: Option<u64>,
    pub(super) polite: bool,
    pub(super) on_delay: Option<OnDelay>,
    pub(super) gate: Gate,
    pub(super) log: FaultLog,
}

impl<T> Faults<T> {
    /// No faults yet; what later settings leave to chance, this seed decides.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            script: Vec::new(),
            odds: Vec::new(),
            down: Vec::new(),
            max_items: usize::MAX,
            max_bytes: u64::MAX,
            poison: None,
            poison_items: None,
            reconnect_after: None,
            polite: false,
            on_delay: None,
            gate: Gate::new(),
            log: FaultLog::default(),
        }
    }

    /// One entry for each call, from the first. After the last, the other settings decide.
    pub fn script(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { script: faults.into_iter().collect(), ..Self::seeded(0) }
    }

    /// What decides whatever is left to chance; 0 for a script unless told otherwise.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Calls meet this fault once in `times`: 1 for always, 0 for never. Several such settings are
    /// asked in the order in which they were made, and the first that says yes decides; but a
    /// [`Fault::Delay`] takes its time and the next one is asked.
    pub fn one_in(mut self, times: u64, fault: Fault) -> Self {
        self.odds.push((times, fault));
        self
    }

    /// Calls that begin from `from` on and before `until`, by
    /// [`WriteContext::now`](crate::WriteContext::now), fail as [`Fault::Disconnected`]. May be
    /// given several times.
    pub fn down_between(mut self, from: Instant, until: Instant) -> Self {
        self.down.push((from, until));
        self
    }

    /// Batches of more items fail as [`Fault::TooLarge`]. The engine is not told of it: what a sink
    /// says beforehand is in its own [`limits`](crate::Sink::limits).
    pub fn max_items(mut self, items: usize) -> Self {
        self.max_items = items;
        self
    }

    /// Batches of more bytes, as the builder's `weight` counts them, fail as [`Fault::TooLarge`].
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// A batch with an item of which this is true fails as a whole, [`Class::Permanent`] and
    /// [`Applied::Nothing`], as in a database that rolls back.
    pub fn poison(mut self, is_poison: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.poison = Some(Arc::new(is_poison));
        self
    }

    /// Items of which this is true are marked as failed, [`Class::Permanent`]; the others are
    /// written.
    pub fn poison_items(mut self, is_poison: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.poison_items = Some(Arc::new(is_poison));
        self
    }

    /// A lost connection comes back by itself after so many calls that failed for it. Otherwise it
    /// stays lost until the sink is opened again.
    pub fn reconnect_after(mut self, calls: u64) -> Self {
        self.reconnect_after = Some(calls);
        self
    }

    /// Whether a hanging call looks at [`time_left`](crate::WriteContext::time_left) and gives up
    /// when it is used up: [`Class::Transient`], [`Applied::Nothing`]. Off unless asked for. Under a
    /// test clock the time left is a [delay](Self::on_delay), unless the gate is open; a call
    /// without a deadline waits at the gate.
    pub fn polite(mut self, polite: bool) -> Self {
        self.polite = polite;
        self
    }

    /// Takes the time of each delay. A test with a clock of its own advances it here. Without this
    /// a delay under a test clock is none, and otherwise the thread sleeps.
    pub fn on_delay(mut self, take: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.on_delay = Some(Arc::new(take));
        self
    }

    /// Where calls hang.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// What was asked and answered.
    #[must_use]
    pub fn log(&self) -> FaultLog {
        self.log.clone()
    }

    /// Puts this plan before a sink. In a factory: `move |_| Ok::<_, E>(faults.wrap(open()?))`.
    #[must_use]
    pub fn wrap<S>(&self, inner: S) -> FaultSink<T, S> {
        FaultSink::new(self.clone(), inner)
    }

    pub(super) fn rng(&self, call: usize) -> Rng {
        Rng::of_call(self.seed, call as u64)
    }

    /// What the plan has for a call. The delays before it are added to `delay`.
    pub(super) fn choose(
        &self,
        (call, now): (usize, Instant),
        (items, bytes): (usize, u64),
        rng: &mut Rng,
        delay: &mut Duration,
    ) -> Fault {
        if self.down.iter().any(|(from, until)| (*from..*until).contains(&now)) {
            return Fault::Disconnected;
        }
        if items > self.max_items || bytes > self.max_bytes {
            return Fault::TooLarge;
        }
        let chosen = self.script.get(call).cloned().or_else(|| {
            self.odds.iter().find_map(|(times, fault)| match fault {
                _ if !rng.one_in(*times) => None,
                Fault::Delay(time) => {
                    *delay = delay.saturating_add(*time);
                    None
                }
                fault => Some(fault.clone()),
            })
        });
        match chosen {
            None if *delay > Duration::ZERO => Fault::Delay(*delay),
            None => Fault::Ok,
            Some(Fault::Delay(time)) => {
                *delay = time;
                Fault::Delay(time)
            }
            Some(fault) => fault,
        }
    }
}

impl<T> Clone for Faults<T> {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            odds: self.odds.clone(),
            down: self.down.clone(),
            poison: self.poison.clone(),
            poison_items: self.poison_items.clone(),
            on_delay: self.on_delay.clone(),
            gate: self.gate.clone(),
            log: self.log.clone(),
            ..*self
        }
    }
}

impl<T> fmt::Debug for Faults<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("seed", &self.seed)
            .field("script", &self.script)
            .field("one_in", &self.odds)
            .field("calls", &self.log.len())
            .finish_non_exhaustive()
    }
}
