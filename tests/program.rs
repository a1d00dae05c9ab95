//! Promise: whatever is called in whatever order, the producers' side does what a plain sequential
//! model of it does: same results call by call, same fates, same tally at every step, each ack
//! once.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use common::{Rng, Wakes, no_second_try};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluicegate::{
    Ack, AckReason, AddReason, Applied, Batch, Batcher, DropReason, FlushReason, PumpStep, Tally,
    TestClock, WhenFull, WriteContext, WriteError, sink,
};

#[derive(Clone, Debug)]
struct Setup {
    policy: WhenFull,
    depth: usize,
    size: usize,
    budget: Option<u64>,
    age: Option<u64>,
    delay: Option<u64>,
    /// What the sink says, call by call, over and over.
    script: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Ok,
    Fail,
    Unknown,
    /// Items with an even number fail.
    Even,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    TryAdd,
    Add,
    AddWithAck,
    AddMany(usize),
    Begin,
    Poll(usize),
    Cancel(usize),
    DropAck(usize),
    Step,
    Flush,
    Advance(u64),
    Close,
}

fn setup() -> impl Strategy<Value = Setup> {
    let policy = prop_oneof![
        4 => Just(WhenFull::Block),
        1 => Just(WhenFull::Reject),
        2 => Just(WhenFull::DropNewest),
        2 => Just(WhenFull::DropOldest),
    ];
    let answer = prop_oneof![
        4 => Just(Answer::Ok),
        1 => Just(Answer::Fail),
        1 => Just(Answer::Unknown),
        1 => Just(Answer::Even),
    ];
    let depth = prop_oneof![Just(2_usize), Just(4), Just(8)];
    let rest = (
        any::<prop::sample::Index>(),
        prop::option::of(prop_oneof![Just(4_u64), Just(9), Just(30)]),
        prop::option::of(0..20_u64),
        prop::option::of(1..20_u64),
        prop::collection::vec(answer, 1..6),
    );
    (policy, depth, rest).prop_map(|(policy, depth, (size, budget, age, delay, script))| Setup {
        policy,
        depth,
        size: 1 + size.index(depth),
        budget,
        age: age.map(|age| age + 1),
        delay,
        script,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::TryAdd),
        3 => Just(Op::Add),
        8 => Just(Op::AddWithAck),
        4 => (0..12_usize).prop_map(Op::AddMany),
        8 => Just(Op::Begin),
        12 => any::<usize>().prop_map(Op::Poll),
        3 => any::<usize>().prop_map(Op::Cancel),
        3 => any::<usize>().prop_map(Op::DropAck),
        10 => Just(Op::Step),
        2 => Just(Op::Flush),
        6 => (0..15_u64).prop_map(Op::Advance),
        1 => Just(Op::Close),
    ]
}

/// What an item weighs.
fn bytes_of(number: u64) -> u64 {
    1 + number % 5
}

/// What became of an item: `None` while nothing has.
type Fate = Option<Result<(), AckReason>>;

struct Queued {
    number: u64,
    added: u64,
}

/// The engine, as plainly as can be.
struct Model {
    setup: Setup,
    now: u64,
    closed: bool,
    queue: VecDeque<Queued>,
    /// Items that ever went into the ring.
    pushed: u64,
    flush_to: u64,
    press_to: u64,
    /// Whether somebody sleeps in the line.
    line: bool,
    calls: usize,
    /// By number.
    fates: Vec<Fate>,
    tally: Tally,
    drops: [u64; 3],
    /// Numbers that sinks have taken.
    written: Vec<u64>,
}

impl Model {
    fn used(&self) -> u64 {
        self.queue.iter().map(|item| bytes_of(item.number)).sum()
    }

    fn fate(&mut self, number: u64, fate: Result<(), AckReason>) {
        let count = match fate {
            Ok(()) => &mut self.tally.flushed_ok,
            Err(AckReason::Failed) => &mut self.tally.flushed_fail,
            Err(AckReason::Unknown) => &mut self.tally.unknown,
            Err(_) => &mut self.tally.dropped,
        };
        *count += 1;
        let slot = &mut self.fates[usize::try_from(number).unwrap()];
        assert!(slot.is_none(), "two fates");
        *slot = Some(fate);
    }

    fn drop(&mut self, number: u64, reason: DropReason) {
        self.drops[reason as usize] += 1;
        self.fate(
            number,
            Err(match reason {
                DropReason::Newest => AckReason::Newest,
                DropReason::Oldest => AckReason::Evicted,
                DropReason::Expired => AckReason::Expired,
            }),
        );
    }

    /// One attempt; `Err(Full)` with whether it was for want of bytes.
    fn attempt(&mut self, number: u64) -> Result<(), (AddReason, bool)> {
        let bytes = bytes_of(number);
        if self.closed {
            return Err((AddReason::Closed, false));
        }
        if let Some(max_queue_bytes) = self.setup.budget.filter(|max| bytes > *max) {
            return Err((AddReason::TooLarge { bytes, max_queue_bytes }, false));
        }
        if self.queue.len() == self.setup.depth {
            return Err((AddReason::Full, false));
        }
        if self.setup.budget.is_some_and(|max| self.used() + bytes > max) {
            return Err((AddReason::Full, true));
        }
        self.queue.push_back(Queued { number, added: self.now });
        self.pushed += 1;
        self.tally.enqueued += 1;
        // Who sleeps may be short of the bytes that this item holds.
        if self.setup.budget.is_some() && self.line {
            self.press_to = self.pushed;
        }
        Ok(())
    }

    /// Of one item. Where bytes are short, what holds them is to be written.
    fn add(&mut self, number: u64) -> Result<(), AddReason> {
        loop {
            let (reason, short) = match self.attempt(number) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            if reason != AddReason::Full {
                return Err(reason);
            }
            if short {
                self.press_to = self.press_to.max(self.pushed);
            }
            match self.setup.policy {
                WhenFull::Block | WhenFull::Reject => return Err(reason),
                WhenFull::DropNewest => {
                    self.tally.enqueued += 1;
                    self.drop(number, DropReason::Newest);
                    return Ok(());
                }
                WhenFull::DropOldest => {
                    let oldest = self.queue.pop_front().unwrap();
                    self.drop(oldest.number, DropReason::Oldest);
                }
            }
        }
    }

    fn add_many(&mut self, numbers: &[u64]) -> (usize, Option<AddReason>) {
        for (added, number) in numbers.iter().enumerate() {
            if let Err(reason) = self.add(*number) {
                return (added, Some(reason));
            }
        }
        (numbers.len(), None)
    }

    fn step(&mut self) -> Option<(FlushReason, usize)> {
        let (pending, first) = (self.queue.len(), self.pushed - self.queue.len() as u64);
        let due = self.setup.delay.zip(self.queue.front()).map(|(delay, item)| item.added + delay);
        let reason = if pending >= self.setup.size {
            FlushReason::Size
        } else if pending == 0 {
            return None;
        } else if self.closed {
            FlushReason::Shutdown
        } else if self.flush_to > first {
            FlushReason::Flush
        } else if self.press_to > first {
            FlushReason::Bytes
        } else if due.is_some_and(|due| due <= self.now) {
            FlushReason::Time
        } else {
            return None;
        };
        let count = pending.min(self.setup.size);
        let batch: Vec<_> = self.queue.drain(..count).collect();
        let age = self.setup.age.unwrap_or(u64::MAX);
        let (old, young): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|item| self.now - item.added > age);
        old.iter().for_each(|item| self.drop(item.number, DropReason::Expired));
        if !young.is_empty() {
            let answer = self.setup.script[self.calls % self.setup.script.len()];
            self.calls += 1;
            for Queued { number, .. } in young {
                self.written.push(number);
                self.fate(
                    number,
                    match answer {
                        Answer::Fail => Err(AckReason::Failed),
                        Answer::Even if number.is_multiple_of(2) => Err(AckReason::Failed),
                        Answer::Unknown => Err(AckReason::Unknown),
                        Answer::Ok | Answer::Even => Ok(()),
                    },
                );
            }
        }
        Some((reason, count))
    }

    fn run(&mut self) -> usize {
        std::iter::from_fn(|| self.step()).count()
    }

    fn advance(&mut self, millis: u64) -> usize {
        let end = self.now + millis;
        let mut batches = self.run();
        while let (Some(delay), Some(first)) = (self.setup.delay, self.queue.front()) {
            let due = first.added + delay;
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            batches += self.run();
        }
        self.now = end;
        batches + self.run()
    }
}

fn runner(cases: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&Rng::seeded().next().to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn any_program_does_what_the_model_does() {
    let programs = (setup(), prop::collection::vec(op(), 0..120));
    runner(200).run(&programs, |(setup, ops)| run(setup, ops)).unwrap();
}

fn run(setup: Setup, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let (record, script) = (Arc::clone(&written), setup.script.clone());
    let mut calls = 0;
    let sink = sink::from_fn(move |batch: &Batch<u64>, cx: &mut WriteContext<'_>| {
        record.lock().unwrap().extend_from_slice(batch);
        calls += 1;
        match script[(calls - 1) % script.len()] {
            Answer::Ok => Ok(()),
            Answer::Fail => Err(WriteError::permanent("no")),
            Answer::Unknown => Err(WriteError::permanent("?").applied(Applied::Unknown)),
            Answer::Even => {
                for (index, _) in batch.iter().enumerate().filter(|(_, n)| n.is_multiple_of(2)) {
                    cx.fail(index, WriteError::permanent("even"));
                }
                Ok(())
            }
        }
    });
    let mut builder = no_second_try(Batcher::builder())
        .with_acks()
        .queue_depth(setup.depth)
        .max_batch_size(setup.size)
        .max_batch_delay(setup.delay.map(Duration::from_millis))
        .when_full(setup.policy);
    if let Some(bytes) = setup.budget {
        let weight = |number: &u64| usize::try_from(bytes_of(*number)).unwrap();
        builder = builder.weight(weight).max_queue_bytes(bytes);
    }
    if let Some(age) = setup.age {
        builder = builder.max_age(Duration::from_millis(age));
    }
    let mut pump = builder.pump(sink, TestClock::new()).unwrap();
    let producer = pump.producer();
    let mut model = Model {
        setup,
        now: 0,
        closed: false,
        queue: VecDeque::new(),
        pushed: 0,
        flush_to: 0,
        press_to: 0,
        line: false,
        calls: 0,
        fates: Vec::new(),
        tally: Tally::default(),
        drops: [0; 3],
        written: Vec::new(),
    };
    let mut acks: Vec<(u64, Ack<u64>)> = Vec::new();
    let mut adds = Vec::new();
    // Who sleeps in the line, in its order; and who was woken and has not looked yet.
    let (mut line, mut awake) = (VecDeque::<u64>::new(), Vec::<u64>::new());
    let mut next = 0;
    for op in ops {
        model.line = !line.is_empty();
        let mut new = || {
            model.fates.push(None);
            next += 1;
            next - 1
        };
        match op {
            Op::TryAdd | Op::Add => {
                let number = new();
                let added = match op {
                    Op::Add => producer.add(number),
                    _ => producer.try_add(number),
                };
                let expected = model.add(number);
                prop_assert_eq!(added.map_err(|error| error.reason()), expected);
            }
            Op::AddWithAck => {
                let number = new();
                let added = producer.add_with_ack(number);
                let expected = model.add(number);
                prop_assert_eq!(added.as_ref().map(drop).map_err(|e| e.reason()), expected);
                acks.extend(added.ok().map(|ack| (number, ack)));
            }
            Op::AddMany(count) => {
                let numbers: Vec<u64> = (0..count).map(|_| new()).collect();
                let mut items = numbers.clone();
                let added = producer.add_many(&mut items);
                let (expected, reason) = model.add_many(&numbers);
                prop_assert_eq!(added.as_ref().err().map(|error| error.reason), reason);
                prop_assert_eq!(added.unwrap_or_else(|error| error.added), expected);
                prop_assert_eq!(&items[..], &numbers[expected..]);
            }
            Op::Begin => {
                let number = new();
                let add = Box::pin(producer.add_with_ack_async(number));
                adds.push((number, add, Wakes::new(), 0));
            }
            Op::Poll(index) if !adds.is_empty() => {
                let index = index % adds.len();
                let (number, add, wakes, seen) = &mut adds[index];
                let number = *number;
                let woken = awake.contains(&number);
                let asleep = line.contains(&number);
                *seen = wakes.count();
                let polled = wakes.poll(add);
                // Who sleeps and was not woken does not try.
                let expected = if asleep { None } else { Some(model.add(number)) };
                let waits = model.setup.policy == WhenFull::Block;
                match (polled, expected) {
                    (Poll::Pending, None) => {}
                    (Poll::Pending, Some(Err(AddReason::Full))) if waits => {
                        if woken {
                            awake.retain(|other| *other != number);
                            line.push_front(number);
                        } else {
                            line.push_back(number);
                        }
                    }
                    (Poll::Ready(done), Some(expected)) => {
                        let refused = done.as_ref().err().map(|error| error.reason());
                        prop_assert_eq!(refused, expected.err());
                        acks.extend(done.ok().map(|ack| (number, ack)));
                        awake.retain(|other| *other != number);
                        drop(adds.swap_remove(index));
                    }
                    (polled, expected) => {
                        let polled = polled.map(|done| done.map(drop).map_err(|e| e.reason()));
                        prop_assert!(false, "{polled:?}, {expected:?}");
                    }
                }
            }
            Op::Cancel(index) if !adds.is_empty() => {
                let (number, ..) = adds.swap_remove(index % adds.len());
                line.retain(|other| *other != number);
                awake.retain(|other| *other != number);
            }
            Op::DropAck(index) if !acks.is_empty() => {
                drop(acks.swap_remove(index % acks.len()));
            }
            Op::Poll(_) | Op::Cancel(_) | Op::DropAck(_) => {}
            Op::Step => {
                let step = match pump.step() {
                    PumpStep::Wrote { reason, items, .. } => Some((reason, items)),
                    PumpStep::Idle => {
                        prop_assert!(!model.closed);
                        None
                    }
                    PumpStep::Done => {
                        prop_assert!(model.closed);
                        None
                    }
                };
                prop_assert_eq!(step, model.step());
            }
            Op::Flush => {
                pump.flush();
                model.flush_to = model.pushed;
                model.run();
            }
            Op::Advance(millis) => {
                let batches = pump.advance(Duration::from_millis(millis));
                prop_assert_eq!(batches, model.advance(millis));
            }
            Op::Close => {
                pump.close();
                model.closed = true;
            }
        }
        model.tally.in_flight = model.queue.len() as u64;
        let stats = pump.stats();
        prop_assert!(stats.tally.balances());
        prop_assert_eq!(stats.tally, model.tally, "after {:?}", op);
        prop_assert_eq!(stats.queue_bytes, model.setup.budget.map_or(0, |_| model.used()));
        for (reason, items) in stats.drops.iter() {
            prop_assert_eq!(items, model.drops[reason as usize]);
        }
        // Those woken were the first in the line.
        let woken = |number: u64| {
            let add = adds.iter().find(|add| add.0 == number);
            add.is_some_and(|(_, _, wakes, seen)| wakes.count() > *seen)
        };
        while line.front().is_some_and(|number| woken(*number)) {
            awake.extend(line.pop_front());
        }
        prop_assert!(!line.iter().any(|number| woken(*number)), "out of order");
        prop_assert_eq!(stats.waiting_producers, line.len());
        // Nobody sleeps beside room.
        if let Some(first) = line.front().filter(|_| awake.is_empty()) {
            let fits = model.setup.budget.is_none_or(|max| model.used() + bytes_of(*first) <= max);
            let room = model.queue.len() < model.setup.depth && fits;
            prop_assert!(!room && !model.closed, "a wake-up is missing after {op:?}");
        }
        // Acks say what the model says, when it says it, and once.
        let mut index = 0;
        while index < acks.len() {
            let (number, ack) = &mut acks[index];
            let fate = model.fates[usize::try_from(*number).unwrap()];
            match ack.try_wait() {
                None => {
                    prop_assert_eq!(fate, None, "item {}", number);
                    index += 1;
                }
                Some(done) => {
                    if let Err(error) = &done {
                        prop_assert_eq!(error.item, Some(*number));
                    }
                    prop_assert_eq!(Some(done.map(drop).map_err(|error| error.reason)), fate);
                    let again = ack.try_wait().and_then(Result::err).map(|error| error.reason);
                    prop_assert_eq!(again, Some(AckReason::Taken));
                    drop(acks.swap_remove(index));
                }
            }
        }
    }
    drop(adds);
    let report = pump.shutdown();
    model.closed = true;
    model.run();
    model.tally.in_flight = 0;
    prop_assert_eq!(report.tally, model.tally);
    prop_assert_eq!(report.stats.queue_bytes, 0);
    prop_assert_eq!(report.stats.waiting_producers, 0);
    prop_assert!(report.unflushed.is_empty());
    prop_assert_eq!(&*written.lock().unwrap(), &model.written);
    for (number, ack) in acks {
        let fate = model.fates[usize::try_from(number).unwrap()];
        prop_assert_eq!(Some(ack.wait().map(drop).map_err(|error| error.reason)), fate);
    }
    Ok(())
}
