//! The former against its promises, and where no bytes count, against a naive model that must agree
//! batch by batch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::batch::FlushReason;
use crate::config::FlushWhen;
use crate::ring::Run;
use crate::seeded::runner;

/// On an item of this weight the weight function panics.
const BOMB: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    id: u64,
    weight: usize,
    added: Instant,
}

#[derive(Clone, Debug)]
enum Op {
    /// Adds items of these weights, while the flusher does not look.
    Add(Vec<usize>),
    /// The flusher looks until there is nothing to do.
    Look,
    /// Time passes, and the flusher looks whenever it asked to be woken.
    Advance(Duration),
    /// Time passes, and the flusher is busy elsewhere.
    Busy(Duration),
    Flush,
    Close,
}

#[derive(Clone, Debug)]
struct Setup {
    size: usize,
    bytes: Option<u64>,
    delay: Option<Duration>,
    idle: bool,
    weigh: bool,
    limits: (Option<usize>, Option<u64>),
}

impl Setup {
    fn triggers(&self) -> Triggers {
        Triggers {
            max_batch_size: self.size,
            max_batch_bytes: self.bytes.filter(|_| self.weigh),
            max_batch_delay: self.delay,
            flush_when: if self.idle { FlushWhen::Idle } else { FlushWhen::Due },
        }
    }

    fn max_size(&self) -> usize {
        self.limits.0.map_or(self.size, |limit| self.size.min(limit.max(1)))
    }

    fn max_bytes(&self) -> u64 {
        let limit = self.limits.1.unwrap_or(u64::MAX).max(1);
        if self.weigh { self.bytes.unwrap_or(u64::MAX).min(limit) } else { u64::MAX }
    }
}

/// A ring, a clock and a flusher, played.
struct Sim {
    setup: Setup,
    former: Former<Item>,
    ring: VecDeque<Item>,
    all: Vec<Item>,
    view: View,
    batched: usize,
    ids: u64,
    /// How many items each drain gets, in turn; 0: the next one is not published.
    drains: Vec<usize>,
    turns: usize,
    log: Vec<(u64, u64, FlushReason, Instant)>,
}

impl Sim {
    fn new(setup: &Setup, drains: &[usize], start: Instant) -> Self {
        let weight: Option<Weight<Item>> = setup.weigh.then(|| -> Weight<Item> {
            std::sync::Arc::new(|item: &Item| {
                if item.weight == BOMB {
                    std::panic::resume_unwind(Box::new("as planned")); // a panic without a message
                }
                item.weight
            })
        });
        let mut former = Former::new(setup.triggers(), weight, start);
        former.limit(setup.limits.0, setup.limits.1);
        Self {
            setup: setup.clone(),
            former,
            ring: VecDeque::new(),
            all: Vec::new(),
            view: View { now: start, tail: 0, closed: false, flush_to: 0, press_to: 0 },
            batched: 0,
            ids: 0,
            drains: drains.to_vec(),
            turns: 0,
            log: Vec::new(),
        }
    }

    fn add(&mut self, weight: usize) {
        if !self.view.closed {
            let item = Item { id: self.view.tail, weight, added: self.view.now };
            self.ring.push_back(item);
            self.all.push(item);
            self.view.tail += 1;
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Add(weights) => weights.iter().for_each(|weight| self.add(*weight)),
            Op::Look => drop(self.settle()?),
            Op::Advance(time) => self.advance(*time)?,
            Op::Busy(time) => self.view.now += *time,
            Op::Flush => self.view.flush_to = self.view.tail,
            Op::Close => (self.view.closed, self.view.flush_to) = (true, u64::MAX),
        }
        Ok(())
    }

    fn advance(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.view.now + time;
        while let Some(until) = self.settle()?.filter(|until| *until <= end) {
            prop_assert!(until > self.view.now, "asked to be woken in the past");
            self.view.now = until;
        }
        self.view.now = end;
        self.settle().map(drop)
    }

    /// Turns until there is nothing to do, and says until when.
    fn settle(&mut self) -> Result<Option<Instant>, TestCaseError> {
        for _ in 0..20 * self.all.len() + 20 {
            if let Some(idle) = self.turn()? {
                return Ok(idle);
            }
        }
        prop_assert!(false, "the former goes round in circles");
        Ok(None)
    }

    /// What `Shard::turn` does, with a check of each answer. `Some` when there is nothing to do
    /// until then.
    fn turn(&mut self) -> Result<Option<Option<Instant>>, TestCaseError> {
        let view = self.view;
        self.former.mark(view.tail, view.now);
        match self.former.step(&view) {
            Step::Wait { position, until } => {
                self.check_wait(position, until)?;
                return Ok(Some(until));
            }
            Step::Done => {
                prop_assert!(view.closed && self.batched == self.all.len(), "done too early");
                return Ok(Some(None));
            }
            Step::Close(reason) => self.close(reason)?,
            Step::Drain { up_to } => {
                prop_assert!(up_to <= view.tail && up_to > self.former.drained(), "{up_to}");
                let want = usize::try_from(up_to - self.former.drained()).unwrap();
                let pattern = self.drains.get(self.turns % self.drains.len().max(1)).copied();
                let count = pattern.unwrap_or(usize::MAX).min(want);
                self.turns += 1;
                if count == 0 {
                    let pending = self.former.pending(&view);
                    if let Some(reason) = self.former.overdue(&view, pending)
                        && self.former.has_items()
                    {
                        self.close(reason)?;
                    }
                    return Ok(None);
                }
                let (ring, position) = (&mut self.ring, self.former.drained());
                let filled = self.former.fill(|items| {
                    items.extend(ring.drain(..count));
                    Ok::<_, ()>(Run { position, count })
                });
                prop_assert_eq!(filled, Ok(count));
            }
        }
        Ok(None)
    }

    fn check_wait(&mut self, position: u64, until: Option<Instant>) -> Result<(), TestCaseError> {
        let View { now, tail, closed, flush_to, .. } = self.view;
        let first = self.former.first();
        prop_assert!(position > tail, "waits for what is there");
        prop_assert!(position - first <= self.setup.max_size() as u64);
        prop_assert!(!closed && flush_to <= first || tail == first, "sleeps over a demand");
        if let Some(oldest) = self.all.get(self.batched) {
            prop_assert!(!self.setup.idle, "sleeps over items");
            let due = self.setup.delay.and_then(|delay| oldest.added.checked_add(delay));
            prop_assert!(due.is_none_or(|due| due > now), "overslept the first item");
            prop_assert!(due.is_none() || until.is_some_and(|until| Some(until) <= due));
        }
        Ok(())
    }

    fn close(&mut self, reason: FlushReason) -> Result<(), TestCaseError> {
        let View { now, closed, flush_to, .. } = self.view;
        let first = self.former.first();
        let mut formed = self.former.close(reason, now, &mut Buffer::default());
        if self.former.closed().is_multiple_of(2) {
            // Somebody takes it who may not have its memory. No item may be lost on the way.
            let items = &mut formed.batch.items;
            let was = items.as_ptr();
            self.former.keep_buffer(items);
            prop_assert!(items.is_empty() || items.as_ptr() != was);
        }
        let Formed { batch, spoiled, end, .. } = formed;
        let count = batch.len() + spoiled.len();
        prop_assert_eq!(end, first + count as u64);
        prop_assert!(count > 0, "an empty batch");
        prop_assert!(count <= self.setup.max_size(), "too many items");
        self.ids += 1;
        prop_assert_eq!((batch.id().get(), batch.position), (self.ids, first));

        let expected = &self.all[self.batched..self.batched + count];
        let spoils = |item: &Item| self.setup.weigh && item.weight == BOMB;
        let good: Vec<Item> = expected.iter().filter(|item| !spoils(item)).copied().collect();
        let bad: Vec<Item> = expected.iter().filter(|item| spoils(item)).copied().collect();
        prop_assert_eq!(batch.items(), &good[..], "order, and nothing lost");
        let spoiled: Vec<Item> = spoiled.into_iter().map(|(item, _)| item).collect();
        prop_assert_eq!(spoiled, bad);

        let max = self.setup.max_bytes();
        let sum =
            |items: &[Item]| items.iter().fold(0, |s: u64, i| s.saturating_add(i.weight as u64));
        let bytes = if self.setup.weigh { sum(&good) } else { 0 };
        prop_assert_eq!(batch.bytes(), bytes);
        prop_assert!(bytes <= max || count == 1, "too many bytes");

        prop_assert!(batch.opened <= expected[0].added, "younger than its first item");
        let next = self.all.get(self.batched + count);
        let over = next.is_some_and(|n| !spoils(n) && bytes.saturating_add(n.weight as u64) > max);
        let overdue = self.setup.delay.and_then(|delay| batch.opened.checked_add(delay));
        let right = match reason {
            FlushReason::Size => count == self.setup.max_size(),
            FlushReason::Bytes => bytes >= max || over,
            FlushReason::Time => overdue.is_some_and(|due| due <= now),
            FlushReason::Flush => flush_to > first,
            FlushReason::Shutdown => closed,
            FlushReason::Idle => self.setup.idle,
        };
        prop_assert!(right, "closed for {reason}, which is not so");
        let late = overdue.filter(|_| reason == FlushReason::Time).map(|due| now - due);
        prop_assert_eq!(batch.late, late);
        self.log.push((first, count as u64, reason, now));
        self.batched += count;
        Ok(())
    }
}

fn weight() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0_usize..20, 1 => Just(100), 1 => Just(BOMB), 1 => Just(usize::MAX - 1)]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), Just(1), 0_u64..300].prop_map(Duration::from_nanos)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => prop::collection::vec(weight(), 1..12).prop_map(Op::Add),
        4 => Just(Op::Look),
        6 => time().prop_map(Op::Advance),
        2 => time().prop_map(Op::Busy),
        2 => Just(Op::Flush),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let size = prop_oneof![Just(1), 2_usize..20];
    let bytes =
        prop_oneof![1 => Just(None), 4 => (1_u64..120).prop_map(Some), 1 => Just(Some(u64::MAX))];
    let delay = prop_oneof![
        1 => Just(None),
        1 => Just(Some(Duration::MAX)),
        5 => prop_oneof![Just(0), Just(1), 1_u64..200].prop_map(|ns| Some(Duration::from_nanos(ns))),
    ];
    let limits = (
        prop::option::weighted(0.2, 0_usize..25),
        prop::option::weighted(0.2, prop_oneof![0_u64..150, Just(u64::MAX)]),
    );
    (size, bytes, delay, prop::bool::weighted(0.15), any::<bool>(), limits).prop_map(
        |(size, bytes, delay, idle, weigh, limits)| Setup {
            size,
            bytes,
            delay,
            idle,
            weigh,
            limits,
        },
    )
}

/// No drain is refused for ever: a pattern holds at least one that gets something.
fn drains() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0_usize..5, 0..6).prop_map(|mut drains| {
        drains.push(3);
        drains
    })
}

#[test]
fn every_batch_keeps_every_promise() {
    let ops = prop::collection::vec(op(), 0..60);
    let start = Instant::now();
    let run = |(setup, drains, ops, rest): (Setup, Vec<usize>, Vec<Op>, bool)| {
        let mut sim = Sim::new(&setup, &drains, start);
        for op in &ops {
            sim.apply(op)?;
        }
        if rest {
            // Cut short: what is in no batch comes back, in order but for items that travel apart.
            let mut rest = Vec::new();
            sim.former.take_rest(|item, _| rest.push(item));
            rest.sort_by_key(|item| item.id);
            rest.extend(sim.ring.drain(..));
            prop_assert_eq!(&rest[..], &sim.all[sim.batched..]);
        } else {
            sim.apply(&Op::Close)?;
            sim.settle()?;
            prop_assert_eq!(sim.batched, sim.all.len(), "items lost at the end");
        }
        Ok(())
    };
    runner(2_000).run(&(setup(), drains(), ops, any::<bool>()), run).unwrap();
}

/// What the former must do where no bytes count and the flusher sees every add at once, written as
/// plainly as can be.
#[derive(Default)]
struct Model {
    pending: VecDeque<Item>,
    log: Vec<(u64, u64, FlushReason, Instant)>,
    flush_to: u64,
    closed: bool,
}

impl Model {
    fn look(&mut self, setup: &Setup, now: Instant) {
        while let Some(first) = self.pending.front().copied() {
            let old = |delay| first.added.checked_add(delay).is_some_and(|due| due <= now);
            let reason = if self.pending.len() >= setup.max_size() {
                FlushReason::Size
            } else if self.closed {
                FlushReason::Shutdown
            } else if self.flush_to > first.id {
                FlushReason::Flush
            } else if setup.idle {
                FlushReason::Idle
            } else if setup.delay.is_some_and(old) {
                FlushReason::Time
            } else {
                return;
            };
            let count = self.pending.len().min(setup.max_size());
            self.pending.drain(..count);
            self.log.push((first.id, count as u64, reason, now));
        }
    }

    fn due(&self, setup: &Setup) -> Option<Instant> {
        self.pending.front()?.added.checked_add(setup.delay?)
    }
}

#[test]
fn without_bytes_it_agrees_with_a_naive_model_to_the_nanosecond() {
    let op = prop_oneof![
        8 => (1_usize..6).prop_map(|count| Op::Add(vec![0; count])),
        6 => time().prop_map(Op::Advance),
        1 => Just(Op::Flush),
    ];
    let start = Instant::now();
    let run = |(mut setup, ops): (Setup, Vec<Op>)| {
        setup.weigh = false;
        let mut sim = Sim::new(&setup, &[], start);
        let mut model = Model::default();
        let mut tail = 0;
        for op in ops.into_iter().chain([Op::Close]) {
            sim.apply(&Op::Look)?;
            let now = sim.view.now;
            match &op {
                Op::Add(weights) => {
                    for _ in weights {
                        model.pending.push_back(Item { id: tail, weight: 0, added: now });
                        tail += 1;
                    }
                }
                Op::Advance(time) => {
                    while let Some(due) = model.due(&setup).filter(|due| *due <= now + *time) {
                        model.look(&setup, due);
                    }
                }
                Op::Flush => model.flush_to = tail,
                _ => model.closed = true,
            }
            sim.apply(&op)?;
            sim.settle()?;
            model.look(&setup, sim.view.now);
            prop_assert_eq!(&sim.log, &model.log);
        }
        prop_assert!(model.pending.is_empty());
        Ok(())
    };
    runner(1_000).run(&(setup(), prop::collection::vec(op, 0..60)), run).unwrap();
}

#[test]
fn the_delay_holds_while_input_never_pauses() {
    const TICK: Duration = Duration::from_nanos(1);
    /// Turns to see that it is due, to take the items, and to close.
    const TURNS: u32 = 3;
    let start = Instant::now();
    let delays = prop_oneof![Just(0), 0_u64..1_000].prop_map(Duration::from_nanos);
    let run = |(mut setup, delay, burst): (Setup, Duration, usize)| {
        // The size is never reached: only time can close a batch.
        (setup.size, setup.limits, setup.idle) = (1 << 20, (None, None), false);
        (setup.delay, setup.bytes) = (Some(delay), Some(u64::MAX));
        let mut sim = Sim::new(&setup, &[], start);
        for _ in 0..3_000 {
            for weight in 0..burst {
                sim.add(weight); // between any two looks there is more
            }
            sim.turn()?;
            sim.view.now += TICK;
            let age = sim.all.get(sim.batched).map(|item| sim.view.now - item.added);
            prop_assert!(age.is_none_or(|age| age <= delay + TICK * TURNS), "{age:?} old");
        }
        prop_assert!(sim.log.iter().all(|batch| batch.2 == FlushReason::Time));
        Ok(())
    };
    runner(30).run(&(setup(), delays, 1_usize..4), run).unwrap();
}
