//! Promise: whatever is called in whatever order, two owned producers and a shared one beside them do
//! what a plain sequential model does: same results call by call, same batches, same fates, same
//! tally at every step.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Rng, assert_balances, no_second_try};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sluicegate::{
    AddReason, Batch, Batcher, DropReason, DroppedItem, FlushReason, OwnedError, OwnedProducer,
    Producer, Pump, PumpStep, Sink, Tally, TestClock, WhenFull, WriteContext, WriteError, sink,
};

/// The shared ring's number.
const SHARED: usize = 0;
/// How many owned producers there may be at once.
const OWNERS: usize = 2;

#[derive(Clone, Debug)]
struct Setup {
    policy: WhenFull,
    /// Slots of an owned ring; the shared one has twice as many.
    depth: usize,
    size: usize,
    delay: Option<u64>,
    /// Every so manieth call of the sink fails; 0: none.
    fails: usize,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    TryAdd(usize),
    Add(usize),
    AddMany(usize, usize),
    TryAddMany(usize, usize),
    Step,
    Flush,
    Advance(u64),
    /// Lets go of that owned producer.
    Drop(usize),
    /// Asks for one.
    Make,
    Close,
}

fn setup() -> impl Strategy<Value = Setup> {
    let policy = prop_oneof![
        3 => Just(WhenFull::Block),
        1 => Just(WhenFull::Reject),
        2 => Just(WhenFull::DropNewest),
        4 => Just(WhenFull::DropOldest),
    ];
    let depth = prop_oneof![Just(2_usize), Just(4), Just(8)];
    let rest = (any::<prop::sample::Index>(), prop::option::of(0..20_u64), 0..4_usize);
    (policy, depth, rest).prop_map(|(policy, depth, (size, delay, fails))| Setup {
        policy,
        depth,
        size: 1 + size.index(2 * depth),
        delay,
        fails,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..=OWNERS;
    prop_oneof![
        16 => who.clone().prop_map(Op::TryAdd),
        6 => who.clone().prop_map(Op::Add),
        4 => (who.clone(), 0..12_usize).prop_map(|(who, many)| Op::AddMany(who, many)),
        3 => (who, 0..12_usize).prop_map(|(who, many)| Op::TryAddMany(who, many)),
        8 => Just(Op::Step),
        2 => Just(Op::Flush),
        5 => (0..15_u64).prop_map(Op::Advance),
        2 => (1..=OWNERS).prop_map(Op::Drop),
        3 => Just(Op::Make),
        1 => (0..8_u32).prop_map(|n| if n == 0 { Op::Close } else { Op::Step }),
    ]
}

#[derive(Clone, Copy)]
struct Item {
    number: u64,
    added: u64,
}

/// A ring, and what was added since somebody looked.
#[derive(Default)]
struct Lane {
    slots: usize,
    unseen: VecDeque<Item>,
    /// Items in the order that are not drained.
    ordered: usize,
    /// Whether it was ever looked at: from its first item on.
    active: bool,
    orphan: bool,
}

impl Lane {
    fn len(&self) -> usize {
        self.unseen.len() + self.ordered
    }
}

/// The engine, as plainly as can be.
struct Model {
    setup: Setup,
    now: u64,
    closed: bool,
    /// By number, 0 is the shared one; `None` is gone.
    lanes: Vec<Option<Lane>>,
    /// In which turn they are looked at.
    active: Vec<usize>,
    /// What was seen and not drained, with the ring; evicted, it leaves a hole.
    order: VecDeque<(usize, Option<Item>)>,
    /// Position of the order's first.
    next: u64,
    /// What the flusher has drained, with positions.
    forming: Vec<(u64, Item)>,
    flush_to: u64,
    calls: usize,
    tally: Tally,
    written: Vec<u64>,
    dropped: Vec<(u64, DropReason)>,
}

impl Model {
    fn new(setup: &Setup) -> Self {
        let shared = Lane { slots: 2 * setup.depth, active: true, ..Lane::default() };
        Self {
            setup: setup.clone(),
            now: 0,
            closed: false,
            lanes: vec![Some(shared)],
            active: vec![SHARED],
            order: VecDeque::new(),
            next: 0,
            forming: Vec::new(),
            flush_to: 0,
            calls: 0,
            tally: Tally::default(),
            written: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn lane(&mut self, ring: usize) -> &mut Lane {
        self.lanes[ring].as_mut().unwrap()
    }

    fn activate(&mut self, ring: usize) {
        if !std::mem::replace(&mut self.lane(ring).active, true) {
            self.active.push(ring);
        }
    }

    fn make(&mut self) -> Option<usize> {
        self.bury();
        let room = self.lanes.iter().skip(1).flatten().count() < OWNERS;
        room.then(|| {
            self.lanes.push(Some(Lane { slots: self.setup.depth, ..Lane::default() }));
            self.lanes.len() - 1
        })
    }

    fn orphan(&mut self, ring: usize) {
        self.lane(ring).orphan = true;
        self.activate(ring);
        self.bury();
    }

    /// Rings without owner and items are gone.
    fn bury(&mut self) {
        for lane in &mut self.lanes {
            lane.take_if(|lane| lane.orphan && lane.len() == 0);
        }
        let lanes = &self.lanes;
        self.active.retain(|&ring| lanes[ring].is_some());
    }

    /// Puts in order what was added.
    fn look(&mut self) {
        for &ring in &self.active {
            let lane = self.lanes[ring].as_mut().unwrap();
            lane.ordered += lane.unseen.len();
            self.order.extend(lane.unseen.drain(..).map(|item| (ring, Some(item))));
        }
    }

    fn skip_holes(&mut self) {
        while self.order.front().is_some_and(|(_, item)| item.is_none()) {
            self.order.pop_front();
            self.next += 1;
        }
    }

    fn attempt(&mut self, ring: usize, number: u64) -> Result<(), AddReason> {
        let (now, closed) = (self.now, self.closed);
        let lane = self.lane(ring);
        if closed {
            return Err(AddReason::Closed);
        }
        if lane.len() == lane.slots {
            return Err(AddReason::Full);
        }
        lane.unseen.push_back(Item { number, added: now });
        self.activate(ring);
        self.tally.enqueued += 1;
        Ok(())
    }

    fn drop(&mut self, number: u64, reason: DropReason) {
        self.tally.dropped += 1;
        self.dropped.push((number, reason));
    }

    fn add(&mut self, ring: usize, number: u64) -> Result<(), AddReason> {
        match (self.attempt(ring, number), self.setup.policy) {
            (Err(AddReason::Full), WhenFull::DropNewest) => {
                self.tally.enqueued += 1;
                self.drop(number, DropReason::Newest);
                Ok(())
            }
            (Err(AddReason::Full), WhenFull::DropOldest) => {
                self.look();
                let oldest = self.order.iter_mut().find(|(of, item)| *of == ring && item.is_some());
                let oldest = oldest.and_then(|(_, item)| item.take()).unwrap();
                self.lane(ring).ordered -= 1;
                self.drop(oldest.number, DropReason::Oldest);
                self.attempt(ring, number)
            }
            (done, _) => done,
        }
    }

    fn add_many(&mut self, ring: usize, numbers: &[u64]) -> (usize, Option<AddReason>) {
        for (added, number) in numbers.iter().enumerate() {
            if let Err(reason) = self.add(ring, *number) {
                return (added, Some(reason));
            }
        }
        (numbers.len(), None)
    }

    /// Takes so many items out of the order; returns how many there were.
    fn drain(&mut self, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            self.skip_holes();
            let Some((ring, item)) = self.order.pop_front() else { break };
            self.lane(ring).ordered -= 1;
            self.forming.push((self.next, item.unwrap()));
            self.next += 1;
            count += 1;
        }
        count
    }

    fn due(&self) -> Option<u64> {
        let first = self.forming.first().map(|(_, item)| item);
        let queued = self.order.iter().find_map(|(_, item)| item.as_ref());
        first.or(queued).zip(self.setup.delay).map(|(item, delay)| item.added + delay)
    }

    /// Why what is there is to be written.
    fn reason(&self, pending: usize) -> Option<FlushReason> {
        let first = self.forming.first().map_or(self.next, |(position, _)| *position);
        if pending >= self.setup.size {
            Some(FlushReason::Size)
        } else if pending == 0 {
            None
        } else if self.closed {
            Some(FlushReason::Shutdown)
        } else if self.flush_to > first {
            Some(FlushReason::Flush)
        } else {
            self.due().filter(|due| *due <= self.now).map(|_| FlushReason::Time)
        }
    }

    fn step(&mut self) -> Option<(FlushReason, usize)> {
        let size = self.setup.size;
        let mut cut = None;
        loop {
            let all = self.closed || self.order.len() < size - self.forming.len();
            let mut crowded = false;
            if all {
                self.look();
                let mut owned = self.lanes.iter().skip(1).flatten();
                crowded = owned.any(|lane| lane.active && lane.len() >= lane.slots / 2);
                self.bury();
            }
            self.skip_holes();
            // Holes count as items until they are come to.
            let pending = self.forming.len() + self.order.len();
            if cut.is_none() {
                cut = self.reason(pending).map(|reason| (reason, pending.min(size)));
            }
            match cut {
                Some((reason, count)) if self.forming.len() >= count => {
                    return Some((reason, self.write()));
                }
                Some((reason, count)) => match self.drain(count - self.forming.len()) {
                    0 => cut = None, // there are fewer than it seemed
                    _ if self.forming.len() >= count => return Some((reason, self.write())),
                    _ => {}
                },
                // An owner is about to wait for room.
                None if crowded && !self.order.is_empty() => _ = self.drain(self.order.len()),
                None => return None,
            }
        }
    }

    fn write(&mut self) -> usize {
        let batch = std::mem::take(&mut self.forming);
        self.calls += 1;
        let fails = self.setup.fails != 0 && self.calls.is_multiple_of(self.setup.fails);
        let count = batch.len() as u64;
        *(if fails { &mut self.tally.flushed_fail } else { &mut self.tally.flushed_ok }) += count;
        self.written.extend(batch.iter().map(|(_, item)| item.number));
        batch.len()
    }

    fn run(&mut self) -> usize {
        std::iter::from_fn(|| self.step()).count()
    }

    fn advance(&mut self, millis: u64) -> usize {
        let end = self.now + millis;
        let mut batches = self.run();
        while let Some(due) = self.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            batches += self.run();
        }
        self.now = end;
        batches + self.run()
    }

    fn flush(&mut self) {
        self.look();
        self.flush_to = self.next + self.order.len() as u64;
        self.run();
    }

    fn queued(&self) -> usize {
        self.lanes.iter().flatten().map(Lane::len).sum()
    }

    fn tally(&self) -> Tally {
        let in_flight = (self.queued() + self.forming.len()) as u64;
        Tally { in_flight, ..self.tally }
    }
}

/// A producer of either kind.
enum Adder {
    Shared(Producer<u64>),
    Owned(OwnedProducer<u64>),
}

macro_rules! either {
    ($adder:expr, $producer:ident => $call:expr) => {
        match $adder {
            Adder::Shared($producer) => $call,
            Adder::Owned($producer) => $call,
        }
    };
}

/// The engine and the model of it.
struct Rig<S> {
    pump: Pump<u64, S>,
    model: Model,
    /// With the model's number of their ring.
    adders: Vec<(usize, Adder)>,
    written: Arc<Mutex<Vec<u64>>>,
    dropped: Arc<Mutex<Vec<(u64, DropReason)>>>,
    next: u64,
}

fn rig(setup: &Setup) -> Rig<impl Sink<u64> + use<>> {
    let (written, dropped) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Mutex<Vec<_>>>::default());
    let (record, told) = (Arc::clone(&written), Arc::clone(&dropped));
    let (fails, mut calls) = (setup.fails, 0_usize);
    let write = move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        record.lock().unwrap().extend(batch.iter());
        calls += 1;
        match fails != 0 && calls.is_multiple_of(fails) {
            true => Err(WriteError::permanent("no")),
            false => Ok(()),
        }
    };
    let pump = no_second_try(Batcher::builder())
        .queue_depth(2 * setup.depth)
        .owned_depth(setup.depth)
        .max_batch_size(setup.size)
        .max_batch_delay(setup.delay.map(Duration::from_millis))
        .when_full(setup.policy)
        .on_dropped(move |DroppedItem { item, reason, .. }| {
            told.lock().unwrap().push((item, reason));
        })
        .pump(sink::from_fn(write), TestClock::new())
        .unwrap();
    let adders = vec![(SHARED, Adder::Shared(pump.producer()))];
    Rig { model: Model::new(setup), pump, adders, written, dropped, next: 0 }
}

impl<S: Sink<u64>> Rig<S> {
    fn numbers(&mut self, count: usize) -> Vec<u64> {
        let start = self.next;
        self.next += count as u64;
        (start..self.next).collect()
    }

    fn add(&mut self, who: usize, wait: bool) -> Result<(), TestCaseError> {
        let number = self.numbers(1)[0];
        let who = who % self.adders.len();
        let (ring, adder) = &mut self.adders[who];
        let done = either!(adder, producer => match wait {
            true => producer.add(number),
            false => producer.try_add(number),
        });
        if let Err(error) = &done {
            prop_assert_eq!(error.into_inner(), number);
        }
        let expected = self.model.add(*ring, number);
        prop_assert_eq!(done.map_err(|error| error.reason()), expected);
        Ok(())
    }

    fn add_many(&mut self, who: usize, many: usize, wait: bool) -> Result<(), TestCaseError> {
        let numbers = self.numbers(many);
        let mut items = numbers.clone();
        let who = who % self.adders.len();
        let (ring, adder) = &mut self.adders[who];
        let done = either!(adder, producer => match wait {
            true => producer.add_many(&mut items),
            false => producer.try_add_many(&mut items),
        });
        let (added, reason) = self.model.add_many(*ring, &numbers);
        prop_assert_eq!(&items, &numbers[added..]);
        match (done, reason) {
            (Ok(count), None) => prop_assert_eq!(count, added),
            (Ok(count), Some(AddReason::Full)) if !wait => prop_assert_eq!(count, added),
            (Err(error), reason) => {
                prop_assert_eq!((error.added, Some(error.reason)), (added, reason))
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), TestCaseError> {
        let step = match self.pump.step() {
            PumpStep::Wrote { reason, items, .. } => Some((reason, items)),
            PumpStep::Idle => {
                prop_assert!(!self.model.closed);
                None
            }
            PumpStep::Done => {
                prop_assert!(self.model.closed);
                None
            }
        };
        prop_assert_eq!(step, self.model.step());
        Ok(())
    }

    fn go(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::TryAdd(who) => self.add(who, false)?,
            Op::Add(who) => self.add(who, true)?,
            Op::AddMany(who, many) => self.add_many(who, many, true)?,
            Op::TryAddMany(who, many) => self.add_many(who, many, false)?,
            Op::Step => self.step()?,
            Op::Flush => {
                self.pump.flush();
                self.model.flush();
            }
            Op::Advance(millis) => {
                let batches = self.pump.advance(Duration::from_millis(millis));
                prop_assert_eq!(batches, self.model.advance(millis));
            }
            Op::Drop(who) if who < self.adders.len() => {
                let (ring, adder) = self.adders.remove(who);
                drop(adder);
                self.model.orphan(ring);
            }
            Op::Drop(_) => {}
            Op::Make => match (self.pump.owned_producer(), self.model.make()) {
                (Ok(owned), Some(ring)) => self.adders.push((ring, Adder::Owned(owned))),
                (Err(error), None) => {
                    let depth = self.model.setup.depth;
                    prop_assert_eq!(error, OwnedError::NoSlots { depth, left: 0 });
                }
                (other, ring) => prop_assert!(false, "{other:?}, {ring:?}"),
            },
            Op::Close => {
                self.pump.close();
                self.model.closed = true;
            }
        }
        let stats = self.pump.stats();
        assert_balances(&stats.tally);
        prop_assert_eq!(stats.tally, self.model.tally());
        prop_assert_eq!(stats.queue_depth, self.model.queued() as u64);
        self.model.bury();
        let slots: usize = self.model.lanes.iter().flatten().map(|lane| lane.slots).sum();
        prop_assert_eq!(stats.queue_capacity, slots as u64);
        prop_assert_eq!(&*self.written.lock().unwrap(), &self.model.written);
        prop_assert_eq!(&*self.dropped.lock().unwrap(), &self.model.dropped);
        Ok(())
    }

    fn end(mut self) -> Result<(), TestCaseError> {
        let report = self.pump.shutdown();
        self.model.closed = true;
        self.model.run();
        prop_assert_eq!(report.tally, self.model.tally());
        prop_assert!(report.unflushed.is_empty() && report.tally.in_flight == 0);
        prop_assert_eq!(&*self.written.lock().unwrap(), &self.model.written);
        Ok(())
    }
}

#[test]
fn every_program_does_what_the_model_does() {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&Rng::seeded().next().to_le_bytes());
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let program = (setup(), prop::collection::vec(op(), 0..120));
    let run = |(setup, ops): (Setup, Vec<Op>)| {
        let mut rig = rig(&setup);
        rig.go(Op::Make)?;
        rig.go(Op::Make)?;
        for op in ops {
            rig.go(op)?;
        }
        rig.end()
    };
    runner.run(&program, run).unwrap();
}
