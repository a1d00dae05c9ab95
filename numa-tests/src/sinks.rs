//! What the sinks of an engine see: who wrote what, from where, out of which memory, and in which
//! order.
//!
//! All flushers write under one lock, so what they have seen has one order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use sluicegate::{Batch, Flusher, Producer, Sink, WriteContext, WriteError};

use crate::machine::Set;
use crate::proof::Sightings;
use crate::sys::{self, Pages};

/// Generous: emulation is slow, and the machine below it may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The upper bits of each item, by which one is known wherever it lies in memory.
const MARK: u64 = 0xA51C << 48;
const MAKER_SHIFT: u32 = 32;

/// The item of that number of a producer.
pub fn item(maker: usize, number: u64) -> u64 {
    MARK | (maker as u64) << MAKER_SHIFT | number
}

/// Whose item it is, and its number there; `None` for what is no item.
pub fn maker(item: u64) -> Option<(usize, u64)> {
    let maker = usize::try_from((item ^ MARK) >> MAKER_SHIFT).ok()?;
    (maker <= usize::from(u16::MAX)).then_some((maker, item & u64::from(u32::MAX)))
}

/// Adds these numbers of a producer; an error says how far it came.
pub fn add(producer: &Producer<u64>, maker: usize, numbers: Range<u64>) -> Result<(), String> {
    for number in numbers {
        let added = producer.add_timeout(item(maker, number), LIMIT);
        added.map_err(|error| format!("item {number} of producer {maker}: {error}"))?;
    }
    Ok(())
}

/// What one flusher has done.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Where it was when it opened its sink, and at the begin and the end of each write.
    pub places: Sightings,
    pub shards: Set,
    /// Pages of the batches' items.
    pub pages: Pages,
    pub batches: u64,
}

/// What has come of one producer's items.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// A bit for each number.
    bits: Vec<u64>,
    seen: u64,
    last: Option<u64>,
    pub twice: u64,
    /// Items that came behind one that was added later.
    pub overtaken: u64,
    /// How many came from each shard.
    pub by_shard: BTreeMap<usize, u64>,
    /// How many each flusher has written.
    pub by_flusher: BTreeMap<usize, u64>,
}

#[derive(Debug, Default)]
struct State {
    flushers: BTreeMap<usize, Written>,
    producers: Vec<Arrived>,
    /// Items that sinks were given, and those of writes that have ended.
    items: u64,
    written: u64,
    /// Who is told once so many items are written.
    awaited: Option<(u64, mpsc::Sender<()>)>,
    /// Flushers whose writes do not return.
    held: Set,
    /// Of these, who is in its sink.
    waiting: Set,
}

/// The sinks of one engine, together.
#[derive(Clone, Debug, Default)]
pub struct Sinks(Arc<(Mutex<State>, Condvar)>);

/// One of them.
pub struct OneSink(Sinks);

impl Sinks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the sink of a flusher, on its thread.
    pub fn open(&self, flusher: Flusher) -> Result<OneSink, String> {
        self.state().flushers.entry(flusher.index).or_default().places.look()?;
        Ok(OneSink(self.clone()))
    }

    /// Tells once so many items are written.
    pub fn once_written(&self, items: u64) -> mpsc::Receiver<()> {
        let (tell, told) = mpsc::channel();
        self.state().awaited = Some((items, tell));
        told
    }

    /// What each flusher has done.
    pub fn flushers(&self) -> BTreeMap<usize, Written> {
        self.state().flushers.clone()
    }

    /// What has come of a producer's items.
    pub fn arrived(&self, maker: usize) -> Arrived {
        self.state().producers.get(maker).cloned().unwrap_or_default()
    }

    /// Writes of this flusher do not return, until `release`.
    pub fn hold(&self, flusher: usize) {
        self.state().held.insert(flusher);
    }

    pub fn release(&self) {
        self.state().held.clear();
        self.0.1.notify_all();
    }

    /// Until the flusher that is held is in its sink; false if all of so many items went elsewhere.
    pub fn wait_for_held(&self, flusher: usize, items: u64) -> Result<bool, String> {
        self.wait(|state| state.waiting.contains(&flusher) || state.written >= items)
            .map_err(|()| format!("flusher {flusher} is not in its sink"))?;
        Ok(self.state().waiting.contains(&flusher))
    }

    /// Until this holds.
    fn wait(&self, is_so: impl Fn(&State) -> bool) -> Result<(), ()> {
        let waited = self.0.1.wait_timeout_while(self.state(), LIMIT, |state| !is_so(state));
        let (_state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() { Err(()) } else { Ok(()) }
    }

    fn write(&self, batch: &Batch<u64>, flusher: usize) -> Result<(), String> {
        let mut places = Sightings::default();
        places.look()?;
        let items = batch.items();
        let pages = sys::node_of_pages(items.as_ptr().cast(), size_of_val(items));
        let pages = pages.map_err(|error| format!("move_pages: {error}"))?;
        thread::yield_now(); // who is not pinned may be moved
        let mut state = self.state();
        state.note(batch, flusher)?;
        if state.held.contains(&flusher) {
            state.waiting.insert(flusher);
            self.0.1.notify_all();
            drop(state);
            let released = self.wait(|state| !state.held.contains(&flusher));
            state = self.state();
            state.waiting.remove(&flusher);
            released.map_err(|()| "it was not released".to_owned())?;
        }
        places.look()?;
        let written = state.flushers.entry(flusher).or_default();
        written.places.merge(&places);
        written.pages.merge(&pages);
        written.shards.insert(batch.shard());
        written.batches += 1;
        state.written += items.len() as u64;
        self.0.1.notify_all();
        Ok(())
    }
}

impl Sink<u64> for OneSink {
    fn write(&mut self, batch: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.0.write(batch, cx.flusher().index).map_err(WriteError::permanent)
    }
}

impl State {
    /// Takes note of the items of a batch.
    fn note(&mut self, batch: &Batch<u64>, flusher: usize) -> Result<(), String> {
        for item in batch {
            let (maker, number) = maker(*item).ok_or("an item that nobody made")?;
            if self.producers.len() <= maker {
                self.producers.resize_with(maker + 1, Arrived::default);
            }
            let producer = &mut self.producers[maker];
            producer.note(number)?;
            *producer.by_shard.entry(batch.shard()).or_default() += 1;
            *producer.by_flusher.entry(flusher).or_default() += 1;
        }
        self.items += batch.len() as u64;
        if self.awaited.as_ref().is_some_and(|(items, _)| *items <= self.items)
            && let Some((_, tell)) = self.awaited.take()
        {
            let _ = tell.send(()); // nobody listens any more if the run was given up
        }
        Ok(())
    }
}

impl Arrived {
    fn note(&mut self, number: u64) -> Result<(), String> {
        let word = usize::try_from(number / 64).map_err(|error| error.to_string())?;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        self.twice += u64::from(self.bits[word] & bit != 0);
        self.seen += u64::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
        self.overtaken += u64::from(self.last > Some(number));
        self.last = self.last.max(Some(number));
        Ok(())
    }

    /// All numbers below this were seen, each once, and no other.
    pub fn expect_each_once(&self, items: u64) -> Result<(), String> {
        let Self { seen, last, .. } = *self;
        if seen == items && last == items.checked_sub(1) && self.twice == 0 {
            return Ok(());
        }
        Err(format!(
            "of {items} items {seen} were seen, {} twice, the last is {last:?}",
            self.twice
        ))
    }

    /// And in the order in which they were added.
    pub fn expect_in_order(&self, items: u64) -> Result<(), String> {
        self.expect_each_once(items)?;
        match self.overtaken {
            0 => Ok(()),
            overtaken => Err(format!("{overtaken} of {items} items were overtaken")),
        }
    }
}
