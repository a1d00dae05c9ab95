//! The items of a scenario, and what the sink, the callbacks, the acks and the report were really
//! seen to do with each: nothing here is worked out from what the engine says of itself.

use std::time::Instant;

use sluicegate::{Applied, DropReason};

/// Where an item has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The sink has taken it.
    In,
    Failed,
    Unknown,
    Dropped(DropReason),
    HandedBack,
}

/// What an item that was refused goes on as, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// It was not written yet.
    Fresh,
    Again,
    Halved,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub number: u64,
    pub added: Instant,
    pub weight: u64,
    /// Calls of the sink with it, and how many of them tried the same again.
    pub calls: u32,
    pub retries: u32,
    pub last_call: (u64, u32),
    pub going: Going,
    pub first_failed: Option<Instant>,
    /// A write of it may have taken effect.
    pub maybe: bool,
    /// That is so for an item beside which it went on.
    pub beside: bool,
    pub fate: Option<Fate>,
}

/// All that were added.
#[derive(Default)]
pub struct Fates {
    items: Vec<Item>,
    pub taken: u64,
    pub failed: u64,
    pub unknown: u64,
    pub dropped: u64,
    pub handed_back: u64,
    /// Items without a fate that were written, and all without a fate; and their bytes.
    pub waiting: u64,
    pub waiting_bytes: u64,
    pub open: u64,
    pub open_bytes: u64,
    pub wrong: Option<String>,
}

impl Fates {
    pub fn add(&mut self, number: u64, added: Instant, weight: u64) {
        let item = Item {
            number,
            added,
            weight,
            calls: 0,
            retries: 0,
            last_call: (0, 0),
            going: Going::Fresh,
            first_failed: None,
            maybe: false,
            beside: false,
            fate: None,
        };
        self.items.push(item);
        self.open += 1;
        self.open_bytes += weight;
    }

    /// The last one was not added after all.
    pub fn take_back(&mut self) {
        let Some(item) = self.items.pop() else { return };
        self.must(item.fate.is_none() && item.calls == 0, || format!("refused, and {item:?}"));
        self.open -= 1;
        self.open_bytes -= item.weight;
    }

    pub fn added(&self) -> u64 {
        self.items.len() as u64
    }

    /// Items that have failed or were handed back.
    pub fn lost_or_left(&self) -> impl Iterator<Item = u64> + '_ {
        let not_in = [Some(Fate::Failed), Some(Fate::Unknown), Some(Fate::HandedBack)];
        let items = self.items.iter().filter(move |item| not_in.contains(&item.fate));
        items.map(|item| item.number)
    }

    /// By its number, the lower half of which is its place.
    pub fn item(&mut self, number: u64) -> &mut Item {
        let place = usize::try_from(number & 0xFFFF_FFFF).unwrap();
        assert_eq!(self.items[place].number, number);
        &mut self.items[place]
    }

    /// A panic inside a callback would be the engine's to catch, so this is told later.
    pub fn must(&mut self, so: bool, why: impl FnOnce() -> String) {
        if !so && self.wrong.is_none() {
            self.wrong = Some(why());
        }
    }

    /// The sink is called with it.
    pub fn call(&mut self, number: u64, id: (u64, u32)) {
        let item = self.item(number);
        item.calls += 1;
        item.last_call = id;
        let (first, open, weight) = (item.calls == 1, item.fate.is_none(), item.weight);
        if first && open {
            self.waiting += 1;
            self.waiting_bytes += weight;
        }
    }

    /// It has met its fate, the only one.
    pub fn meet(&mut self, number: u64, fate: Fate) {
        let item = self.item(number);
        let (before, called, weight) = (item.fate.replace(fate), item.calls > 0, item.weight);
        self.must(before.is_none(), || format!("{number} is {before:?}, and now {fate:?}"));
        if before.is_some() {
            return;
        }
        self.open -= 1;
        self.open_bytes -= weight;
        if called {
            self.waiting -= 1;
            self.waiting_bytes -= weight;
        }
        *match fate {
            Fate::In => &mut self.taken,
            Fate::Failed => &mut self.failed,
            Fate::Unknown => &mut self.unknown,
            Fate::Dropped(_) => &mut self.dropped,
            Fate::HandedBack => &mut self.handed_back,
        } += 1;
    }

    /// The engine says that it has failed for good, and whether it may be in all the same.
    pub fn lost(&mut self, number: u64, applied: Applied) {
        let item = self.item(number).clone();
        let fate = match applied {
            Applied::Nothing => Fate::Failed,
            Applied::Unknown => Fate::Unknown,
        };
        let right = if fate == Fate::Failed { !item.maybe } else { item.maybe || item.beside };
        self.must(right, || format!("it is not {fate:?}: {item:?}"));
        self.meet(number, fate);
    }
}
