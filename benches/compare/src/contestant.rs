//! What every contestant is and gets: the trait, the work, the items, and the consumer's half that
//! is the same for all.

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use crate::paced::Paced;

/// Items of a batch.
pub const BATCH: usize = 512;

/// Which comparison a contestant belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sluicegate, or a part of it, with single adds.
    Ours,
    /// A queue or channel, with single adds; the consumer forms the batches.
    Queue,
    /// Something that forms batches itself, by size and time, with single adds.
    Batcher,
    /// Items are added in runs: no rival of single adds.
    InRuns,
    /// What the machine can do at most.
    Limit,
}

impl Kind {
    /// The word in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Queue => "queue",
            Self::Batcher => "batcher",
            Self::InRuns => "in runs",
            Self::Limit => "limit",
        }
    }
}

/// One way from producers to a consumer that folds batches.
pub trait Contestant: Sync {
    /// Its name, in the table and for `--only`.
    fn name(&self) -> &'static str;

    /// The crate that it comes from, as in the lock file.
    fn package(&self) -> Option<&'static str>;

    /// What it is compared with.
    fn kind(&self) -> Kind;

    /// Whether one handle serves any number of threads, as ours does; else producers have lanes.
    fn shared_handle(&self) -> bool;

    /// How it is used, in a few words.
    fn usage(&self) -> &'static str;

    /// Whether it can do this at all.
    fn takes(&self, work: &Work) -> bool {
        let _ = work;
        true
    }

    /// Does the work once.
    fn run(&self, work: &Work) -> Outcome;

    /// Does the work once with [`Paced`] items.
    fn run_paced(&self, work: &Work) -> Outcome;
}

/// What a contestant's file implements: [`Contestant`] with the type of the items open.
pub trait Peer: Sync {
    /// See [`Contestant::name`].
    const NAME: &'static str;
    /// See [`Contestant::package`].
    const PACKAGE: Option<&'static str> = Some(Self::NAME);
    /// See [`Contestant::kind`].
    const KIND: Kind = Kind::Queue;
    /// See [`Contestant::shared_handle`].
    const SHARED: bool = true;
    /// See [`Contestant::usage`].
    const USAGE: &'static str;

    /// See [`Contestant::takes`].
    fn takes(work: &Work) -> bool {
        let _ = work;
        true
    }

    /// Does the work once, with items of this type.
    fn run<T: Item>(work: &Work) -> Outcome;
}

/// A [`Peer`] as an object.
pub struct Of<P>(PhantomData<P>);

impl<P> Of<P> {
    /// The only value.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P: Peer> Contestant for Of<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }
    fn package(&self) -> Option<&'static str> {
        P::PACKAGE
    }
    fn kind(&self) -> Kind {
        P::KIND
    }
    fn shared_handle(&self) -> bool {
        P::SHARED
    }
    fn usage(&self) -> &'static str {
        P::USAGE
    }
    fn takes(&self, work: &Work) -> bool {
        P::takes(work)
    }
    fn run(&self, work: &Work) -> Outcome {
        match work.shape.bytes {
            8 => P::run::<u64>(work),
            64 => P::run::<Wide>(work),
            other => panic!("there are no items of {other} bytes"),
        }
    }
    fn run_paced(&self, work: &Work) -> Outcome {
        P::run::<Paced>(work)
    }
}

/// What is the same for all contestants of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Threads (or tasks) that add.
    pub producers: usize,
    /// Bytes of an item: 8 or 64.
    pub bytes: usize,
    /// Items that fit into the queue, all lanes together.
    pub depth: usize,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// By whom, and with what.
    pub shape: Shape,
    /// How many items, by all producers together.
    pub items: u64,
}

impl Work {
    /// What producer number `p` adds.
    pub fn share(&self, p: usize) -> Range<u64> {
        let (p, all) = (p as u64, self.shape.producers as u64);
        self.items * p / all..self.items * (p + 1) / all
    }

    /// One for each producer.
    pub fn each<R>(&self, make: impl FnMut(usize) -> R) -> Vec<R> {
        (0..self.shape.producers).map(make).collect()
    }

    /// The depth of a producer's lane, where it has one of its own.
    pub fn lane(&self) -> usize {
        (self.shape.depth / self.shape.producers).max(1)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// From the first add to the end of the last fold.
    pub seconds: f64,
    /// Items that arrived.
    pub count: u64,
    /// What they add up to; `None` where nobody looks at them.
    pub sum: Option<u64>,
}

impl Outcome {
    /// Whether each item arrived once.
    pub fn check(&self, work: &Work) -> Result<(), String> {
        if self.count != work.items {
            return Err(format!("{} of {} items arrived", self.count, work.items));
        }
        let words = work.shape.bytes as u64 / 8;
        let sum = u128::from(work.items) * u128::from(work.items.saturating_sub(1)) / 2;
        let low = u64::try_from(sum & u128::from(u64::MAX)).unwrap_or(0);
        let expected = low.wrapping_mul(words);
        match self.sum {
            Some(sum) if sum != expected => Err(format!("the sum is {sum}, not {expected}")),
            _ => Ok(()),
        }
    }
}

/// What is moved.
pub trait Item: Copy + Default + Send + Sync + Unpin + std::fmt::Debug + 'static {
    /// Whether it comes at a pace, and somebody waits for it.
    const PACED: bool = false;
    /// Words of 8 bytes.
    const WORDS: usize;
    /// Item number `number`.
    fn of(number: u64) -> Self;
    /// Word number `word`.
    fn word(&self, word: usize) -> u64;
    /// What it adds to the sum: all of its words.
    fn value(&self) -> u64;
    /// The consumer has it in hand; it is told so once.
    #[inline]
    fn arrived(&self) {}
}

impl Item for u64 {
    const WORDS: usize = 1;
    fn of(number: u64) -> Self {
        number
    }
    fn word(&self, _: usize) -> u64 {
        *self
    }
    fn value(&self) -> u64 {
        *self
    }
}

/// An item as long as a cache line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wide([u64; 8]);

impl Item for Wide {
    const WORDS: usize = 8;
    fn of(number: u64) -> Self {
        Self([number; 8])
    }
    fn word(&self, word: usize) -> u64 {
        self.0[word]
    }
    fn value(&self) -> u64 {
        self.0.iter().fold(0, |sum, word| sum.wrapping_add(*word))
    }
}

/// Folds one batch.
pub fn fold<T: Item>(batch: &[T]) -> u64 {
    black_box(batch.iter().fold(0, |sum, item| sum.wrapping_add(item.value())))
}

/// The consumer's half: forms batches of [`BATCH`] items and folds them.
pub struct Batches<T> {
    batch: Vec<T>,
    expected: u64,
    folded: u64,
    sum: u64,
}

impl<T: Item> Batches<T> {
    /// For the items of this work.
    pub fn new(work: &Work) -> Self {
        Self { batch: Vec::with_capacity(BATCH), expected: work.items, folded: 0, sum: 0 }
    }

    /// Adds one item to the open batch.
    #[inline]
    pub fn push(&mut self, item: T) {
        item.arrived();
        self.batch.push(item);
        if self.batch.len() == BATCH {
            self.close();
        }
    }

    /// Items that the open batch has room for: at least one.
    #[inline]
    pub fn room(&self) -> usize {
        BATCH - self.batch.len()
    }

    /// Lets `receive` append up to [`room`](Self::room) items to the open batch.
    #[inline]
    pub fn append<R>(&mut self, receive: impl FnOnce(&mut Vec<T>, usize) -> R) -> R {
        let (open, room) = (self.batch.len(), self.room());
        let result = receive(&mut self.batch, room);
        self.batch.iter().skip(open).for_each(T::arrived);
        if self.batch.len() >= BATCH {
            self.close();
        }
        result
    }

    /// Folds what was formed elsewhere, at most [`BATCH`] items at a time.
    pub fn take(&mut self, items: &[T]) {
        items.iter().for_each(T::arrived);
        for batch in items.chunks(BATCH) {
            self.sum = self.sum.wrapping_add(fold(batch));
        }
        self.folded += items.len() as u64;
    }

    /// Whether every item is there. More than that is an error that the check finds.
    #[inline]
    pub fn complete(&self) -> bool {
        self.folded + self.batch.len() as u64 >= self.expected
    }

    fn close(&mut self) {
        self.sum = self.sum.wrapping_add(fold(&self.batch));
        self.folded += self.batch.len() as u64;
        self.batch.clear();
    }

    /// Folds what is left: count and sum.
    pub fn finish(&mut self) -> (u64, u64) {
        self.close();
        (self.folded, self.sum)
    }
}
