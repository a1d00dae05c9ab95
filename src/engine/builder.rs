//! What an engine is to be.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collect::Weight;
use crate::config::{Config, FlushWhen, Home, OnFailure, Overflow, WhenFull};
use crate::flush::{
    Adaptive, Added, Breaker, DeadLetterSink, DroppedItem, FailedItem, Key, OnDropped, OnFailed,
    Retry, Throttle,
};
use crate::mode::{Mode, Plain, Tracked};
use crate::placement::{Pin, Shards, Topology};
use crate::sink::{Dead, Sink};

/// Collects what an engine is to be; [`spawn`](Self::spawn) checks it and starts it.
///
/// | setting | default | |
/// |---|---|---|
/// | `max_batch_size` | 512 | items |
/// | `max_batch_bytes` | none | needs `weight` |
/// | `max_batch_delay` | 100 ms | age of a batch's first item |
/// | `queue_depth` | 8192 | items; a power of two |
/// | `owned_depth` | none | slots of each owned ring; a power of two |
/// | `flushers` | 1 | threads, each with its own sink |
/// | `flush_when` | `Due` | or `Idle` |
/// | `when_full` | `Block` | or `Reject`, `DropNewest`, `DropOldest` |
/// | `max_queue_bytes` | none | needs `weight` |
/// | `max_age` | none | age at which an item is let go |
/// | `write_timeout` | 10 s | for each call of a sink |
/// | `leave_behind_after` | 50 s | later: a flusher whose sink has not returned is replaced |
/// | `concurrency` | 1 | writes in flight per flusher of an async sink |
/// | `shards` | one on each node | rings, each with its own flushers |
/// | `pin` | `Node` | where flushers run; or `None`, `Core` |
/// | `home` | `Sticky` | or `FollowCpu` |
/// | `overflow` | `Stay` | or `Nearest` |
/// | `steal` | no | idle flushers help other shards |
/// | `huge_pages` | no | for the rings |
///
/// `queue_depth`, `flushers` and `concurrency` are those of each shard; its owned rings have
/// `queue_depth` slots together, besides. Where the machine has one
/// NUMA node, or the feature `numa` is off, there is one shard unless `shards` asks for more.
pub struct Builder<T, M = Plain> {
    pub(super) config: Config,
    pub(super) weight: Option<Weight<T>>,
    pub(super) added: Option<Added<T>>,
    pub(super) on_failed: Option<OnFailed<T>>,
    pub(super) on_dropped: Option<OnDropped<T>>,
    pub(super) key: Option<Key<T>>,
    pub(super) dead: Option<DeadLetterSink<T>>,
    pub(super) topology: Option<Topology>,
    pub(super) mode: PhantomData<M>,
}

impl<T: Send + 'static> Builder<T> {
    pub(super) fn new() -> Self {
        Self {
            config: Config::default(),
            weight: None,
            added: None,
            on_failed: None,
            on_dropped: None,
            key: None,
            dead: None,
            topology: None,
            mode: PhantomData,
        }
    }
}

impl<T: Send + 'static, M: Mode<T>> Builder<T, M> {
    fn tracked(self) -> Builder<T, Tracked> {
        let Self { config, weight, added, on_failed, on_dropped, key, dead, topology, mode: _ } =
            self;
        let mode = PhantomData;
        Builder { config, weight, added, on_failed, on_dropped, key, dead, topology, mode }
    }

    /// Makes an engine whose producers can ask what became of an item:
    /// [`add_with_ack`](crate::Producer::add_with_ack). Plain adds go on beside it, for 32 bytes
    /// more in each slot.
    #[must_use]
    pub fn with_acks(self) -> Builder<T, Tracked> {
        self.tracked()
    }

    /// Bounds the bytes, as [`weight`](Self::weight) counts them, of all items in flight: queued,
    /// forming, and being written. An item takes its bytes when it is added and gives them back
    /// when it has met its fate. Without room for it the queue is full, and what is queued is
    /// written at once, with reason `bytes`; for the rest [`when_full`](Self::when_full) decides.
    /// `DropOldest` can give back bytes of queued items only: while the sink holds too many, an add
    /// lets go of the queued ones and may still find the queue full.
    ///
    /// An item larger than all of it is refused with its size. The weight is asked once more, on
    /// the thread that adds; a panic of it there is the caller's own.
    #[must_use]
    pub fn max_queue_bytes(mut self, bytes: u64) -> Builder<T, Tracked> {
        self.config.max_queue_bytes = Some(bytes);
        self.tracked()
    }

    /// Lets an item go, as expired, that is older than this when it is about to be written. Its age
    /// counts from its add, for which every add reads the clock. Choose it well above
    /// [`max_batch_delay`](Self::max_batch_delay): so long an item may wait for its batch.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Builder<T, Tracked> {
        self.config.max_age = Some(age);
        self.added = None;
        self.tracked()
    }

    /// As [`max_age`](Self::max_age), but the item itself says since when: no clock is read on
    /// adding, and no slot grows. An item on which the function panics is not too old.
    #[must_use]
    pub fn max_age_since(
        mut self,
        age: Duration,
        added: impl Fn(&T) -> Instant + Send + Sync + 'static,
    ) -> Self {
        self.config.max_age = Some(age);
        self.added = Some(Arc::new(added));
        self
    }

    /// What becomes of an item for which the queue has no room.
    #[must_use]
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.config.when_full = policy;
        self
    }

    /// Takes each item that was let go on purpose: `DropNewest` and `DropOldest` call it on the
    /// thread that adds, `max_age` on the flusher's. From inside it, adding to a full queue and
    /// flushing are errors. A panic of it is caught and counted; the item is gone then. Without it
    /// such an item goes to its ack, or is dropped.
    #[must_use]
    pub fn on_dropped(mut self, take: impl Fn(DroppedItem<T>) + Send + Sync + 'static) -> Self {
        self.on_dropped = Some(Arc::new(take));
        self
    }

    /// Closes a batch at this many items; `None` for no such trigger. At most `queue_depth`.
    #[must_use]
    pub fn max_batch_size(mut self, items: impl Into<Option<usize>>) -> Self {
        self.config.max_batch_size = items.into();
        self
    }

    /// Closes a batch before it exceeds this many bytes, as [`weight`](Self::weight) counts them.
    /// An item that is larger by itself travels alone. How many items to wait for is a guess from
    /// the items before; heavier ones are noticed when the batch has twice as many items as when it
    /// was last looked at, or when it is due.
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.config.max_batch_bytes = Some(bytes);
        self
    }

    /// Closes a batch when its first item is this old; `None` for no such trigger. Later items
    /// never reset it. A batch is never closed later than this, but for the time that every flusher
    /// is busy in its sink and the wake-up latency of a thread; it may be closed somewhat earlier
    /// after a busy time.
    #[must_use]
    pub fn max_batch_delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.config.max_batch_delay = delay.into();
        self
    }

    /// Slots of the ring: so many items wait at most before `add` waits. A power of two, at least
    /// 2. Each shard has a ring of so many.
    #[must_use]
    pub fn queue_depth(mut self, items: usize) -> Self {
        self.config.queue_depth = items;
        self
    }

    /// Lets producers own rings, of so many slots each: a power of two, up to `queue_depth`. See
    /// [`Batcher::owned_producer`](crate::Batcher::owned_producer). `None`: no rings of their own.
    ///
    /// The owned rings of a shard have at most `queue_depth` slots together, besides those of the ring
    /// that its other producers share: with `queue_depth` 65,536 and `owned_depth` 1,024 there may be
    /// 64 owned producers a shard. A ring much smaller than a batch is drained more often; one that fits
    /// the CPU's second-level cache is fastest, which 4,096 slots of 16 bytes do.
    #[must_use]
    pub fn owned_depth(mut self, slots: impl Into<Option<usize>>) -> Self {
        self.config.owned_depth = slots.into();
        self
    }

    /// Threads that write, each with a sink of its own; of each shard so many. With more than one,
    /// batches of a shard may be written out of order.
    #[must_use]
    pub fn flushers(mut self, threads: usize) -> Self {
        self.config.flushers = threads;
        self
    }

    /// When a batch that is not full is written.
    #[must_use]
    pub fn flush_when(mut self, when: FlushWhen) -> Self {
        self.config.flush_when = when;
        self
    }

    /// Allows a `max_batch_delay` over a minute. What waits in memory is lost with the process.
    #[must_use]
    pub fn allow_long_delay(mut self, allow: bool) -> Self {
        self.config.allow_long_delay = allow;
        self
    }

    /// Says how many bytes an item has. Called once or twice per item, on a flusher's thread; an
    /// item on which it panics fails alone.
    #[must_use]
    pub fn weight(mut self, weight: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        self.weight = Some(Arc::new(weight));
        self
    }

    /// Takes each failed item, on the thread of its flusher, instead of the shutdown report. A
    /// flush barrier waits for it. A panic of it is caught and counted; the item is gone then. It
    /// lives as long as the engine: should it hold a [`Producer`](crate::Producer) of the same
    /// engine, the engine's memory is never freed.
    #[must_use]
    pub fn on_failed(mut self, take: impl Fn(FailedItem<T>) + Send + Sync + 'static) -> Self {
        self.on_failed = Some(Arc::new(take));
        self
    }

    /// How many failed items are kept for [`Shutdown::failed`](crate::Shutdown::failed) when nobody
    /// takes them: 65,536 unless told otherwise. Further ones are dropped, counted and warned of.
    #[must_use]
    pub fn failed_kept(mut self, items: usize) -> Self {
        self.config.failed_kept = items;
        self
    }

    /// Whether and how failed items are tried again; `None` for never. Without a word:
    /// [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: impl Into<Option<Retry>>) -> Self {
        self.config.retry = retry.into();
        self
    }

    /// Whether a batch that the sink refuses for good is halved until the bad items stand alone, so
    /// that the good ones are written: on, unless told otherwise. Each bad item among n costs at
    /// most 2·log2(n) more writes, the logarithm rounded up.
    #[must_use]
    pub fn bisect(mut self, bisect: bool) -> Self {
        self.config.bisect = bisect;
        self
    }

    /// When to stop writing to a sink that keeps failing; `None` for never. Without a word:
    /// [`Breaker::default`].
    #[must_use]
    pub fn breaker(mut self, breaker: impl Into<Option<Breaker>>) -> Self {
        self.config.permits.breaker = breaker.into();
        self
    }

    /// How much the sink is to be given at most; no limit without it. It delays the closing of
    /// batches, which go on growing meanwhile.
    #[must_use]
    pub fn throttle(mut self, throttle: impl Into<Option<Throttle>>) -> Self {
        self.config.permits.throttle = throttle.into();
        self
    }

    /// Lets the number of writes in flight follow the sink's latency; all flushers may write at
    /// once without it.
    #[must_use]
    pub fn adaptive(mut self, adaptive: impl Into<Option<Adaptive>>) -> Self {
        self.config.permits.adaptive = adaptive.into();
        self
    }

    /// What happens to what comes behind a failed item.
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.config.on_failure = policy;
        self
    }

    /// Says which key an item has, by a hash of it, say. Items on which it panics share one key.
    ///
    /// [`OnFailure::ParkKey`] keeps the order of each key when an item fails. Where there are several
    /// [`shards`](Self::shards), each item goes to the shard of its key, whatever the node: same key,
    /// same ring, and with one flusher and one write at a time same order at the sink. It is called
    /// once more then, on the thread that adds.
    #[must_use]
    pub fn key(mut self, key: impl Fn(&T) -> u64 + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(key));
        self
    }

    /// Where items go that the sink will never take, each with its error: any sink of [`Dead`], one
    /// for all flushers. What it does not take goes on to [`on_failed`](Self::on_failed), to the
    /// item's ack, or into the shutdown report, with an error event; so it does after the
    /// dead-letter sink has panicked, for it is not opened anew.
    ///
    /// A flush barrier waits for it. It is closed by the last flusher that ends.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sluicegate::{Batch, Batcher, Dead, WriteContext, WriteError, sink};
    ///
    /// let dead = sink::from_fn(|batch: &Batch<Dead<u64>>, _: &mut WriteContext<'_>| {
    ///     assert!(batch.iter().all(|letter| letter.item == 13));
    ///     Ok(())
    /// });
    /// let batcher = Batcher::builder().dead_letters(dead).spawn(|_| {
    ///     Ok::<_, WriteError>(sink::from_fn(|batch: &Batch<u64>, _: &mut WriteContext<'_>| {
    ///         if batch.contains(&13) { Err(WriteError::permanent("unlucky")) } else { Ok(()) }
    ///     }))
    /// })?;
    /// (0..100).try_for_each(|item| batcher.producer().add(item))?;
    /// let report = batcher.shutdown(Duration::from_secs(5));
    /// assert_eq!((report.tally.flushed_ok, report.stats.dead_lettered), (99, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn dead_letters(mut self, sink: impl Sink<Dead<T>> + Send + 'static) -> Self {
        self.dead = Some(Box::new(sink));
        self
    }

    /// How long one call of a sink may take: 10 s unless told otherwise.
    ///
    /// A sink that blocks is told by [`WriteContext::deadline`](crate::WriteContext::deadline) and
    /// [`is_cancelled`](crate::WriteContext::is_cancelled), and gives up by itself; for one that
    /// does not there is [`leave_behind_after`](Self::leave_behind_after). A write of an async sink
    /// that takes longer is dropped, and its items count as `unknown`: they may have arrived. They
    /// fail as [`Class::Transient`](crate::Class::Transient). For async sinks opening and closing
    /// are bounded, too.
    #[must_use]
    pub fn write_timeout(mut self, limit: Duration) -> Self {
        self.config.write_timeout = limit;
        self
    }

    /// How long after [`write_timeout`](Self::write_timeout) a sink that blocks may still return: 50 s
    /// unless told otherwise, `None` for ever.
    ///
    /// Then its flusher is left behind: the items of the batch count as `unknown`, a new thread with
    /// a new sink takes its place, and [`Stats::hung`](crate::Stats::hung) and an event tell of it.
    /// The old thread cannot be ended; what it still does counts for nothing, and if its write ends
    /// after all, so does it. The same goes for a dead-letter sink, `on_failed` or a waker that does not
    /// return. At most 16 threads of an engine are left behind at a time; with more, the engine waits
    /// for them. With [`OnFailure::Halt`](crate::OnFailure::Halt) the engine halts instead.
    ///
    /// An async sink is dropped at its time-out; one that blocks its thread is left behind at
    /// shutdown only.
    #[must_use]
    pub fn leave_behind_after(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.config.leave_behind_after = grace.into();
        self
    }

    /// How many writes each flusher of an async sink may have in flight: 1 unless told otherwise,
    /// at most 1024. With more than one, batches may be written out of order, so an
    /// [`on_failure`](Self::on_failure) that keeps order is refused; and so is
    /// [`spawn`](Self::spawn), for a sink that is not async writes one at a time.
    #[must_use]
    pub fn concurrency(mut self, writes: usize) -> Self {
        self.config.concurrency = writes;
        self
    }

    /// How many shards there are: rings, each with its own flushers and sinks. One on each NUMA node
    /// unless told otherwise; a number alone is how many in all.
    ///
    /// Batches of one shard are formed in the order of its ring; between shards there is no order.
    /// A producer has one of them as its home. With a [`key`](Self::key) each item goes to the shard
    /// of its key instead.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sluicegate::{Batcher, WriteError, sink::NullSink};
    ///
    /// // Four connections, and the rows of one customer in order.
    /// let batcher = Batcher::builder()
    ///     .shards(4)
    ///     .key(|(customer, _row): &(u64, &str)| *customer)
    ///     .spawn(|_| Ok::<_, WriteError>(NullSink))?;
    /// let producer = batcher.producer();
    /// for row in 0..1_000 {
    ///     producer.add((row % 10, "a row"))?;
    /// }
    /// assert_eq!(batcher.shutdown(Duration::from_secs(5)).tally.flushed_ok, 1_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn shards(mut self, shards: impl Into<Shards>) -> Self {
        self.config.shards = shards.into();
        self
    }

    /// Where flushers may run. What the system refuses is told by
    /// [`Batcher::placement`](crate::Batcher::placement), and once as a warning.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.config.pin = pin;
        self
    }

    /// Which ring a producer's items go to.
    #[must_use]
    pub fn home(mut self, home: Home) -> Self {
        self.config.home = home;
        self
    }

    /// What becomes of an item for which its home ring has no room, before
    /// [`when_full`](Self::when_full) is asked.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.config.overflow = overflow;
        self
    }

    /// Whether a flusher with nothing to do takes batches of other shards whose flushers are all
    /// busy in their sinks, the nearest first. Batches of one shard may be written out of order
    /// then. They count as [`stolen`](crate::Stats::stolen).
    #[must_use]
    pub fn steal(mut self, steal: bool) -> Self {
        self.config.steal = steal;
        self
    }

    /// Whether rings lie in huge pages, where the system has some. Each ring then takes a multiple
    /// of a huge page, 2 MiB on x86-64.
    #[must_use]
    pub fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.config.huge_pages = huge_pages;
        self
    }

    /// Plans for this machine instead of the one that the engine finds: where it cannot see its
    /// machine, say, or in tests. CPUs and nodes that are not there are refused by the system, and
    /// that is told.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Makes the jitter of retries the same in each run.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = Some(seed);
        self
    }
}

impl<T, M> fmt::Debug for Builder<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}
