//! What each flusher's thread is at, and what becomes of one that does not come back.

use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Ledger, State};
use crate::batch::{BatchId, FlushReason};
use crate::config::OnFailure;
use crate::flush::gate::Permit;
use crate::flush::permit::BreakerState;
use crate::mode::{Mode, Tag};
use crate::sink::{Flusher, WriteError};
use crate::sync::{lock, mutated, wait_timeout};

/// Threads of one engine that may be out at a time: left behind by the watchdog, and not back yet.
const HUNG_MAX: usize = 16;
/// The watchdog's longest sleep while somebody is in the caller's code. One that takes much longer
/// shows that the process was stopped, or the machine, and then nobody is to blame for that time.
const TICK: Duration = Duration::from_secs(1);
/// Shorter sleeps would be busy waiting.
const LOOK_MIN: Duration = Duration::from_millis(1);
/// Longer than any engine lives.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A place for one write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    index: usize,
    flusher: Flusher,
}

impl Slot {
    /// Whose it is.
    pub fn flusher(self) -> Flusher {
        self.flusher
    }
}

/// The slots of one flusher's thread: one, or more if its sink is async.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    flusher: Flusher,
    first: usize,
    width: usize,
}

impl Seat {
    /// Where a flusher's first thread sits, if each has so many slots.
    pub fn first(flusher: Flusher, width: usize) -> Self {
        Self { flusher, first: flusher.index * width, width }
    }

    /// Whose it is.
    pub fn flusher(self) -> Flusher {
        self.flusher
    }

    /// One of its slots.
    pub fn slot(self, write: usize) -> Slot {
        debug_assert!(write < self.width, "no such slot");
        Slot { index: self.first + write, flusher: self.flusher }
    }

    fn range(self) -> Range<usize> {
        self.first..self.first + self.width
    }
}

/// What is at a slot.
pub struct SlotState<T, M: Mode<T>> {
    pub flusher: Flusher,
    pub at: Activity,
    /// Since when it writes or reports, if it does.
    pub since: Instant,
    /// Its thread did not come back in time: whatever that still does counts for nothing.
    pub left: bool,
    /// Tags of the batch that is written, and of its spoiled items: whoever settles the batch takes
    /// them.
    pub tags: M::Tags,
    pub spoiled: Vec<Tag<T>>,
}

impl<T, M: Mode<T>> SlotState<T, M> {
    pub fn new(flusher: Flusher, now: Instant) -> Self {
        Self {
            flusher,
            at: Activity::Collecting,
            since: now,
            left: false,
            tags: M::Tags::default(),
            spoiled: Vec::new(),
        }
    }

    /// The write under way here, unless its fates are counted already.
    pub fn writing(&self) -> Option<&Writing> {
        match &self.at {
            Activity::Writing(writing) if !self.left => Some(writing),
            _ => None,
        }
    }

    /// Whether it is in the caller's code, and may hang there.
    fn is_busy(&self) -> bool {
        matches!(self.at, Activity::Writing(_) | Activity::Reporting(_)) && !self.left
    }

    /// Whether nothing more is to be expected of it.
    pub fn is_gone(&self) -> bool {
        self.left || matches!(self.at, Activity::Ended)
    }

    /// Whether its thread was left behind, and is not back.
    fn is_out(&self) -> bool {
        self.left && !matches!(self.at, Activity::Ended)
    }
}

/// What a flusher is at.
#[derive(Clone, Copy, Debug)]
pub enum Activity {
    /// It opens its sink, in the place of another.
    Opening,
    /// It waits for items, or for the lease.
    Collecting,
    /// It is inside the sink with this batch.
    Writing(Writing),
    /// The batch's fate is settled; it tells whoever is to know.
    Reporting(Writing),
    /// It closes its sink.
    Closing,
    /// Its thread is through.
    Ended,
}

/// A write under way.
#[derive(Clone, Copy, Debug)]
pub struct Writing {
    pub batch: BatchId,
    pub items: u64,
    pub shard: usize,
    pub position: u64,
    pub end: u64,
    pub opened: Instant,
    pub permit: Permit,
    /// What closed the batch, if it was not written before.
    pub fresh: Option<FlushReason>,
}

/// A write that was left behind: its items count as unknown, and these are their tags.
pub struct Left<T, M: Mode<T>> {
    pub batch: BatchId,
    pub tags: M::Tags,
    pub spoiled: Vec<Tag<T>>,
}

/// A flusher whose thread was left behind, so that another may take its place.
pub struct Hung<T, M: Mode<T>> {
    pub flusher: Flusher,
    /// Where.
    pub at: Activity,
    /// What it was writing.
    pub left: Option<Left<T, M>>,
    /// The breaker has come into this state.
    pub breaker: Option<BreakerState>,
    /// For the thread that takes its place; `None` where order forbids to go on.
    pub seat: Option<Seat>,
}

impl<T, M: Mode<T>> Ledger<T, M> {
    /// Where a flusher's first thread sits.
    pub fn seat(&self, flusher: Flusher) -> Seat {
        Seat::first(flusher, self.width)
    }

    /// A flusher is about to close its sink. Whether no other writes or reports any more.
    pub fn closing(&self, seat: Seat) -> bool {
        let mut state = lock(&self.state);
        state.move_on(seat, Activity::Closing);
        let quiet = |at: &Activity| matches!(at, Activity::Closing | Activity::Ended);
        state.slots.iter().all(|slot| slot.left || quiet(&slot.at))
    }

    /// What a thread without a batch turns to.
    pub fn turn_to(&self, seat: Seat, to: Activity) {
        lock(&self.state).move_on(seat, to);
    }

    /// A flusher's thread is through. With a batch in hand it has died, by a defect: then it is
    /// left behind.
    pub fn ended(&self, seat: Seat, close_errors: Vec<WriteError>) {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let mut lost = Vec::new();
        for index in seat.range() {
            if state.slots[index].writing().is_some() {
                lost.extend(state.leave(index, now).0);
            }
        }
        let errors = close_errors.into_iter().map(|error| (seat.flusher, error));
        state.close_errors.extend(errors);
        state.move_on(seat, Activity::Ended);
        self.changed(state);
        drop(lost);
    }

    /// Whether a thread has ended in order.
    pub fn has_ended(&self, seat: Seat) -> bool {
        let state = lock(&self.state);
        state.slots[seat.range()].iter().all(|slot| matches!(slot.at, Activity::Ended))
    }

    /// Whether the write in this slot was left behind.
    pub fn is_left_behind(&self, slot: Slot) -> bool {
        lock(&self.state).slots[slot.index].left
    }

    /// Waits until every flusher has ended, but for the one in `except`; false if the time came
    /// first.
    pub fn wait_ended(&self, until: Option<Instant>, except: Option<Seat>) -> bool {
        let excepted = |index| except.is_some_and(|seat: Seat| seat.range().contains(&index));
        self.wait_for(until, |state| {
            let mut slots = state.slots.iter().enumerate();
            slots.all(|(index, slot)| slot.is_gone() || excepted(index)).then_some(())
        })
        .is_some()
    }

    /// Gives up on all flushers, or on the one in that seat; the items of a write under way become
    /// `unknown`.
    pub fn leave_behind(&self, which: Option<Seat>) -> Vec<Left<T, M>> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let range = which.map_or(0..state.slots.len(), Seat::range);
        let left = range.filter_map(|index| state.leave(index, now).0).collect();
        self.changed(state);
        left
    }

    /// Who was left behind and is not back, and where: one entry for each write, or for each that
    /// has none.
    pub fn left(&self) -> Vec<(Flusher, Activity)> {
        let state = lock(&self.state);
        let out = state.slots.iter().filter(|slot| slot.is_out());
        let mut left: Vec<_> = out.map(|slot| (slot.flusher, slot.at)).collect();
        drop(state);
        if self.width > 1 {
            once_each(&mut left);
        }
        left
    }

    /// As [`wait_hung`](Self::wait_hung), without waiting.
    #[cfg(any(loom, shuttle))]
    pub fn take_hung(&self, limit: Duration) -> Vec<Hung<T, M>> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let hung = state.take_hung(now, limit);
        self.changed(state);
        hung
    }

    /// Waits until calls of the caller's code have taken longer than `limit`, and leaves their
    /// flushers behind. `None` once [`unwatch`](Self::unwatch) was called.
    ///
    /// `ready` is called before any of them can go on. Who waits for their items is to be told with
    /// [`tell_changed`](Self::tell_changed). Looks at least once, and no longer than until `until`.
    pub fn wait_hung<R>(
        &self,
        limit: Duration,
        until: Option<Instant>,
        ready: impl Fn() -> R,
    ) -> Option<(Vec<Hung<T, M>>, R)> {
        let tick = TICK.min(limit / 8);
        let mut state = lock(&self.state);
        while !state.unwatched {
            let now = self.clock.now();
            let hung = state.take_hung(now, limit);
            if !hung.is_empty() || until.is_some_and(|until| until <= now) {
                return Some((hung, ready()));
            }
            // A call that begins meanwhile is not over before the next look, so nobody need tell. Half
            // the limit, so that a process that is stopped is late for that look before the call is.
            let busy = state.slots.iter().any(SlotState::is_busy);
            let pause = if busy { tick } else { limit / 2 }.max(LOOK_MIN).min(FAR);
            let pause = until.map_or(pause, |until| pause.min(until - now));
            state = wait_timeout(&self.watch, state, pause);
            let late = self.clock.now().saturating_duration_since(now).saturating_sub(pause);
            if late > tick {
                state.excuse(late, self.clock.now());
            }
        }
        None
    }

    /// The caller's code is called once more: its time begins.
    pub fn touch(&self, slot: Slot) {
        let now = self.clock.now();
        lock(&self.state).slot(slot).since = now;
    }

    /// Wakes whoever waits for a change.
    pub fn tell_changed(&self) {
        self.changed(lock(&self.state));
    }

    /// Nobody is to be left behind any more, but at the end.
    pub fn unwatch(&self) {
        lock(&self.state).unwatched = true;
        self.watch.notify_all();
    }
}

impl<T, M: Mode<T>> State<T, M> {
    pub fn slot(&mut self, slot: Slot) -> &mut SlotState<T, M> {
        &mut self.slots[slot.index]
    }

    fn move_on(&mut self, seat: Seat, to: Activity) {
        self.slots[seat.range()].iter_mut().for_each(|slot| slot.at = to);
    }

    pub fn all_gone(&self) -> bool {
        self.slots.iter().all(SlotState::is_gone)
    }

    /// Gives up on the thread of a slot, if it has not ended. Returns its write, and the state that
    /// the breaker has come into.
    fn leave(&mut self, index: usize, now: Instant) -> (Option<Left<T, M>>, Option<BreakerState>) {
        if self.slots[index].is_gone() {
            return (None, None);
        }
        let slot = &mut self.slots[index];
        slot.left = !mutated("left_is_still_writing");
        match slot.at {
            Activity::Writing(writing) => {
                let (tags, spoiled) = (mem::take(&mut slot.tags), mem::take(&mut slot.spoiled));
                self.unknown += writing.items;
                self.counts.left(&writing, now.saturating_duration_since(slot.since), now);
                let breaker = self.gate.answered(now, writing.permit, None);
                self.finish(&writing);
                (Some(Left { batch: writing.batch, tags, spoiled }), breaker)
            }
            Activity::Reporting(writing) => {
                self.counts.hung += 1;
                self.finish(&writing);
                (None, None)
            }
            _ => (None, None),
        }
    }

    /// Nobody is to blame for so much of the time until now.
    fn excuse(&mut self, stopped: Duration, now: Instant) {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_busy()) {
            slot.since = slot.since.checked_add(stopped).map_or(now, |since| since.min(now));
        }
    }

    /// Leaves behind who has been in the caller's code for so long, and seats others.
    fn take_hung(&mut self, now: Instant, limit: Duration) -> Vec<Hung<T, M>> {
        let mut hung = Vec::new();
        while self.slots.iter().filter(|slot| slot.is_out()).count() < HUNG_MAX {
            let over = |slot: &SlotState<T, M>| {
                slot.is_busy() && now.saturating_duration_since(slot.since) >= limit
            };
            let Some(index) = self.slots.iter().position(over) else { break };
            let SlotState { flusher, at, .. } = self.slots[index];
            let (left, breaker) = self.leave(index, now);
            let halt = self.order == OnFailure::Halt && left.is_some();
            self.stopping |= halt;
            let seat = (!halt).then(|| self.seat_another(flusher, now));
            hung.push(Hung { flusher, at, left, breaker, seat });
        }
        hung
    }

    fn seat_another(&mut self, flusher: Flusher, now: Instant) -> Seat {
        let slot = SlotState::new(flusher, now);
        let free = |slot: &SlotState<T, M>| slot.left && !slot.is_out();
        let first = self.slots.iter().position(free).unwrap_or(self.slots.len());
        if first == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[first] = slot;
        }
        Seat { flusher, first, width: 1 }
    }
}

/// Of a flusher with several places leaves the writes, or if it has none, one entry.
fn once_each(left: &mut Vec<(Flusher, Activity)>) {
    let writes = |at: &Activity| matches!(at, Activity::Writing(_) | Activity::Reporting(_));
    let writing: Vec<Flusher> =
        left.iter().filter(|(_, at)| writes(at)).map(|(flusher, _)| *flusher).collect();
    left.retain(|(flusher, at)| writes(at) || !writing.contains(flusher));
    left.dedup_by(|one, other| one.0 == other.0 && !writes(&one.1));
}
