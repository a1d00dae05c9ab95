//! The order of several rings against a list: whatever is added, looked at, drained, evicted, and
//! whoever comes and goes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::clock::TestClock;
use crate::ring::Push;
use crate::seeded::runner;
use crate::wait::{Wake, Want};

const DEPTH: usize = 4;
/// Owned rings there may be at once.
const RINGS: usize = 10;

#[derive(Clone, Copy, Debug)]
enum Op {
    Adopt,
    /// Lets go of that owner.
    Orphan(usize),
    /// Adds to that ring; past the last owner's it is the shared one.
    Push(usize),
    /// A look of the flusher that needs so many items.
    Look(u64),
    /// Somebody's who asks for a flush.
    Tail,
    Pop(usize),
    /// From that ring, and from any if that is empty.
    Evict(usize, bool),
    /// The flusher goes to sleep, wanting so many positions more.
    LieDown(u64),
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Adopt),
        2 => (0..RINGS).prop_map(Op::Orphan),
        24 => (0..=RINGS).prop_map(Op::Push),
        8 => (0..12_u64).prop_map(Op::Look),
        2 => Just(Op::Tail),
        8 => (1..9_usize).prop_map(Op::Pop),
        4 => ((0..=RINGS), any::<bool>()).prop_map(|(from, any)| Op::Evict(from, any)),
        6 => (1..12_u64).prop_map(Op::LieDown),
        // Rarely: what comes after is short.
        1 => (0..40_u32).prop_map(|n| if n == 0 { Op::Close } else { Op::Tail }),
    ]
}

/// A place of the order; evicted, it is empty.
struct Slot {
    /// `None` is the shared ring.
    ring: Option<u64>,
    item: Option<u64>,
}

struct Producing {
    /// Never used twice, unlike the number of a ring.
    id: u64,
    owner: Owner<u64>,
    own: Arc<Own<u64>>,
}

/// The same, as plainly as can be.
#[derive(Default)]
struct Model {
    /// All that was ever put in order.
    order: Vec<Slot>,
    /// What was added since, in each ring; in no order between rings.
    unseen: Vec<(Option<u64>, VecDeque<u64>)>,
    /// Everything before it is drained or evicted.
    head: usize,
    closed: bool,
    live: Vec<u64>,
}

impl Model {
    fn added(&mut self, ring: Option<u64>, item: u64) {
        match self.unseen.iter_mut().find(|unseen| unseen.0 == ring) {
            Some((_, items)) => items.push_back(item),
            None => self.unseen.push((ring, VecDeque::from([item]))),
        }
    }

    fn unseen(&self) -> usize {
        self.unseen.iter().map(|(_, items)| items.len()).sum()
    }

    fn settle(&mut self) {
        while self.order.get(self.head).is_some_and(|slot| slot.item.is_none()) {
            self.head += 1;
        }
    }

    /// Items of a ring, in the order and after.
    fn queued(&self, ring: Option<u64>) -> usize {
        let ordered = self.order.iter().filter(|slot| slot.ring == ring && slot.item.is_some());
        let unseen = self.unseen.iter().filter(|unseen| unseen.0 == ring);
        ordered.count() + unseen.map(|(_, items)| items.len()).sum::<usize>()
    }

    /// Rings that take slots: they have an owner, or items.
    fn rings(&self) -> usize {
        let mut rings = self.live.clone();
        let queued = self.order.iter().filter(|slot| slot.item.is_some()).filter_map(|s| s.ring);
        rings.extend(queued.chain(self.unseen.iter().filter_map(|unseen| unseen.0)));
        rings.sort_unstable();
        rings.dedup();
        rings.len()
    }
}

struct Rig {
    rings: OwnedRings<u64>,
    shared: Ring<u64>,
    room: WaitList,
    owners: Vec<Producing>,
    /// The ids of rings by number.
    names: HashMap<usize, u64>,
    model: Model,
    next: u64,
}

impl Rig {
    fn new() -> Self {
        let clock = Clock::Test(TestClock::new());
        Self {
            rings: OwnedRings::new(DEPTH, DEPTH * RINGS, Barrier::detect(), clock.clone()),
            shared: Ring::new(DEPTH).unwrap(),
            room: WaitList::new(clock),
            owners: Vec::new(),
            names: HashMap::new(),
            model: Model::default(),
            next: 0,
        }
    }

    /// The order has grown up to there: by everything there was, each ring in one piece. Which items
    /// have come where is told when they are drained.
    fn looked(&mut self, tail: u64) -> Result<(), TestCaseError> {
        let model = &mut self.model;
        prop_assert_eq!(tail, (model.order.len() + model.unseen()) as u64);
        // The one thing the rings say and the model does not: in which turn rings are looked at.
        let order = lock(&self.rings.order);
        let turn = order.active.iter().map(|number| Some(self.names[number]));
        let turns: Vec<_> = std::iter::once(None).chain(turn).collect();
        model.unseen.sort_by_key(|(ring, _)| turns.iter().position(|turn| turn == ring));
        for (ring, items) in model.unseen.drain(..) {
            model.order.extend(items.into_iter().map(|item| Slot { ring, item: Some(item) }));
        }
        model.settle();
        Ok(())
    }

    fn push(&mut self, ring: usize) -> Result<(), TestCaseError> {
        let item = self.next;
        self.next += 1;
        let (id, pushed) = match self.owners.get(ring) {
            None => (None, self.shared.push(item).map(drop)),
            Some(Producing { id, owner, own }) => {
                let pushed = owner.push(item).map(|end| {
                    if owner.is_to_tell(end) {
                        self.rings.told(own);
                    }
                });
                (Some(*id), pushed)
            }
        };
        let room = self.model.queued(id) < DEPTH && !self.model.closed;
        prop_assert_eq!(pushed.is_ok(), room);
        if room {
            self.model.added(id, item);
        }
        Ok(())
    }

    fn pop(&mut self, max: usize) -> Result<(), TestCaseError> {
        let mut out = Vec::new();
        let popped = self.rings.pop_run(&self.shared, &self.room, &mut out, max);
        let model = &mut self.model;
        let Ok(run) = popped else {
            prop_assert_eq!(popped, Err(PopError::Empty));
            prop_assert_eq!(model.head, model.order.len());
            return Ok(());
        };
        prop_assert_eq!(run.position, model.head as u64);
        prop_assert_eq!(run.count, out.len());
        prop_assert!((1..=max).contains(&run.count));
        let ring = model.order[model.head].ring;
        for (slot, item) in model.order[model.head..].iter_mut().zip(out) {
            prop_assert_eq!((slot.ring, slot.item.take()), (ring, Some(item)));
        }
        model.settle();
        Ok(())
    }

    fn evict(&mut self, from: usize, any: bool) -> Result<(), TestCaseError> {
        let mut out = Vec::new();
        let own = self.owners.get(from).map(|owner| &*owner.own);
        let id = self.owners.get(from).map(|owner| owner.id);
        let evicted = self.rings.evict(&self.shared, own, any, &mut out);
        let tail = lock(&self.rings.order).tail;
        self.looked(tail)?;
        let model = &mut self.model;
        let of_ring = |slot: &Slot| slot.ring == id && slot.item.is_some();
        let at = model.order.iter().position(of_ring);
        let at = at.or((any && model.head < model.order.len()).then_some(model.head));
        let Some(at) = at else {
            prop_assert_eq!(evicted, Err(PopError::Empty));
            return Ok(());
        };
        prop_assert_eq!(evicted, Ok(Run { position: at as u64, count: 1 }));
        prop_assert_eq!(model.order[at].item.take(), out.pop());
        model.settle();
        Ok(())
    }

    fn lie_down(&mut self, more: u64) -> Result<(), TestCaseError> {
        let position = self.model.order.len() as u64 + more;
        let Self { rings, shared, .. } = self;
        let down = rings.lie_down(position, &mut |at| shared.pushed() >= at);
        if down {
            let model = &self.model;
            prop_assert!((model.unseen() as u64) < more, "it sleeps, and the batch is full");
            for owner in &self.owners {
                let queued = model.queued(Some(owner.id));
                prop_assert!(queued < DEPTH / 2, "it sleeps, and an owner is about to wait");
            }
        }
        Ok(())
    }

    fn adopt(&mut self) -> Result<(), TestCaseError> {
        let room = self.model.rings() < RINGS;
        match self.rings.adopt(Ring::new(DEPTH).unwrap()) {
            Ok((owner, own)) => {
                prop_assert!(room);
                let id = self.next;
                self.next += 1;
                self.model.live.push(id);
                self.names.insert(own.number, id);
                self.owners.push(Producing { id, owner, own });
            }
            Err(left) => prop_assert_eq!((room, left), (false, 0)),
        }
        Ok(())
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Adopt => self.adopt()?,
            Op::Orphan(at) if at < self.owners.len() => {
                let Producing { id, owner, own } = self.owners.remove(at);
                drop(owner);
                self.rings.orphan(&own);
                self.model.live.retain(|live| *live != id);
            }
            Op::Orphan(_) => {}
            Op::Push(ring) => self.push(ring)?,
            Op::Look(enough) => {
                let drained = self.model.head as u64;
                let seen = self.rings.look(&self.shared, drained, enough);
                let pending = self.model.order.len() as u64 - drained;
                prop_assert_eq!(seen.all, self.model.closed || pending < enough);
                prop_assert_eq!((seen.closed, seen.closing), (self.model.closed, false));
                if seen.all {
                    self.looked(seen.tail)?;
                }
                prop_assert_eq!(seen.head, self.model.head as u64);
                prop_assert_eq!(seen.tail, self.model.order.len() as u64);
                let half = |owner: &Producing| self.model.queued(Some(owner.id)) >= DEPTH / 2;
                if seen.all && self.owners.iter().any(half) {
                    prop_assert!(seen.crowded);
                }
            }
            Op::Tail => {
                let tail = self.rings.tail(&self.shared);
                self.looked(tail)?;
            }
            Op::Pop(max) => self.pop(max)?,
            Op::Evict(from, any) => self.evict(from, any)?,
            Op::LieDown(more) => self.lie_down(more)?,
            Op::Close => {
                self.rings.close();
                self.shared.close();
                self.model.closed = true;
            }
        }
        let model = &self.model;
        let added = (model.order.len() + model.unseen()) as u64;
        prop_assert_eq!(self.rings.pushed(&self.shared, false), added);
        prop_assert_eq!(self.rings.popped(), model.head as u64);
        let queued = model.order.iter().filter(|slot| slot.item.is_some()).count();
        prop_assert_eq!(self.rings.len(&self.shared), queued + model.unseen());
        prop_assert_eq!(self.rings.slots(), DEPTH * model.rings());
        Ok(())
    }

    /// At the end each item is there, once.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.step(Op::Close)?;
        let mut out = Vec::new();
        prop_assert!(self.rings.take_all(&self.shared, &mut out));
        let tail = lock(&self.rings.order).tail;
        self.looked(tail)?;
        let left: Vec<_> =
            self.model.order.iter_mut().filter_map(|slot| slot.item.take()).collect();
        prop_assert_eq!(out, left);
        Ok(())
    }
}

#[test]
fn the_order_is_that_of_a_list() {
    let ops = prop::collection::vec(op(), 0..200);
    let run = |ops: Vec<Op>| {
        let mut rig = Rig::new();
        for op in ops {
            rig.step(op)?;
        }
        rig.end()
    };
    runner(400).run(&ops, run).unwrap();
}

#[test]
fn a_ring_with_nothing_to_say_is_looked_at_no_longer() {
    let mut rig = Rig::new();
    (0..RINGS).for_each(|_| rig.adopt().unwrap());
    let active = |rig: &Rig| lock(&rig.rings.order).active.len();
    assert_eq!(active(&rig), 0, "nothing was ever added");
    (0..RINGS).for_each(|ring| rig.push(ring).unwrap());
    assert_eq!(active(&rig), RINGS);
    let rest = |rig: &mut Rig| {
        rig.step(Op::Look(100)).unwrap();
        (0..RINGS).for_each(|_| rig.pop(9).unwrap());
        rig.lie_down(100).unwrap();
    };
    rest(&mut rig);
    assert_eq!(active(&rig), RINGS, "all had an item before that sleep");
    rig.push(3).unwrap();
    rest(&mut rig);
    assert_eq!(active(&rig), 1, "one had an item between two sleeps");
    rest(&mut rig);
    assert_eq!(active(&rig), 0);
    rig.push(7).unwrap();
    assert_eq!(active(&rig), 1, "its owner has told of it");
}

#[test]
fn also_while_the_flusher_never_sleeps() {
    let mut rig = Rig::new();
    (0..RINGS).for_each(|_| rig.adopt().unwrap());
    (0..RINGS).for_each(|ring| rig.push(ring).unwrap());
    for _ in 0..3 * VAIN_MAX / (RINGS - 1) {
        rig.push(0).unwrap();
        rig.step(Op::Look(100)).unwrap();
        while rig.model.head < rig.model.order.len() {
            rig.pop(9).unwrap();
        }
        rig.model.order.iter_mut().for_each(|slot| assert!(slot.item.is_none()));
    }
    assert_eq!(lock(&rig.rings.order).active.len(), 1);
    rig.push(5).unwrap();
    assert_eq!(lock(&rig.rings.order).active.len(), 2);
}

/// Promise: thousands of rings that had an item once cost a flusher which never sleeps a few looks, not
/// a thousand.
#[test]
fn the_more_rings_are_idle_the_sooner_they_are_left_alone() {
    const MANY: usize = 10_000;
    let rings = OwnedRings::new(2, 2 * MANY, Barrier::detect(), Clock::default());
    let (shared, room) = (Ring::new(2).unwrap(), WaitList::new(Clock::default()));
    let owners: Vec<_> = (0..MANY).map(|_| rings.adopt(Ring::new(2).unwrap()).unwrap()).collect();
    for (owner, own) in &owners {
        let end = owner.push(7).unwrap();
        assert!(owner.is_to_tell(end));
        rings.told(own);
    }
    let mut out = Vec::new();
    rings.look(&shared, 0, 1);
    while out.len() < MANY {
        rings.pop_run(&shared, &room, &mut out, 9).unwrap();
    }
    assert_eq!(lock(&rings.order).active.len(), MANY);
    for _ in 0..2 * VAIN_LOOKS + 1 {
        rings.look(&shared, MANY as u64, 1);
    }
    assert_eq!(lock(&rings.order).active.len(), 0);
    let end = owners[5].0.push(8).unwrap();
    assert!(owners[5].0.is_to_tell(end), "it is heard of all the same");
}

/// Promise: with either barrier a flusher that sleeps beside an owned ring is woken by its items.
/// Nothing else wakes it, so a wake-up that is lost hangs here.
#[test]
fn a_sleeper_is_woken_with_either_barrier() {
    for barrier in [Barrier::detect(), Barrier::Fences] {
        let items = hand_over(barrier, 50_000);
        assert_eq!(items, (0..50_000).collect::<Vec<_>>(), "{barrier}");
    }
}

/// Items that a flusher has drained, in its order, asleep whenever there are none.
fn hand_over(barrier: Barrier, count: u64) -> Vec<u64> {
    let rings = OwnedRings::new(DEPTH, DEPTH, barrier, Clock::default());
    let (shared, wake) = (Ring::new(DEPTH).unwrap(), Wake::new(Clock::default()));
    let room = WaitList::new(Clock::default());
    let (owner, own) = rings.adopt(Ring::new(DEPTH).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let (rings, wake) = (&rings, &wake);
        scope.spawn(move || {
            for item in 0..count {
                let end = loop {
                    match owner.push(item) {
                        Ok(end) => break end,
                        Err(_) => std::thread::yield_now(),
                    }
                };
                if owner.is_to_tell(end) {
                    rings.told(&own);
                    wake.wake();
                }
            }
        });
        let mut out = Vec::new();
        while (out.len() as u64) < count {
            let seen = rings.look(&shared, out.len() as u64, 1);
            if rings.pop_run(&shared, &room, &mut out, DEPTH).is_err() && seen.head == seen.tail {
                let want = Want::Items { first: seen.tail, position: seen.tail + 1 };
                wake.park(&shared, Some(rings), want, 0, None);
            }
        }
        out
    })
}
