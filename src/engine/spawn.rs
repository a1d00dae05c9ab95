//! Starts an engine: its parts, and its threads.

use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use super::threads::Start;
use super::{Batcher, Builder, Pump, owned};
use crate::clock::{Clock, TestClock};
use crate::collect::{Former, Triggers};
use crate::config::{Config, ConfigError, Home, Overflow};
use crate::error::SpawnError;
#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
use crate::flush::AsyncFlusherThread;
use crate::flush::{
    Admission, Bounds, Common, DeadLetters, Expiry, FlusherThread, Gate, Lease, Ledger, Opened,
    Policy, Retries, Seat, Shard, Shared,
};
use crate::mode::Mode;
use crate::placement::{
    Machine, Pin, Placed, Placement, Shards, Topology, apart, bind_memory, bind_thread,
};
use crate::ring::{CapacityError, CloseInChild, Got, InPages, Pages, Ring, enlist};
#[cfg(feature = "tokio")]
#[cfg(not(any(loom, shuttle)))]
use crate::sink::AsyncSinkFactory;
use crate::sink::{Flusher, Sink, SinkFactory, SinkLimits};
use crate::sync::{MutexGuard, lock};
use crate::telemetry::Counter;
use crate::wait::Budget;

impl<T: Send + 'static, M: Mode<T>> Builder<T, M> {
    /// Starts the engine: opens a sink on the thread of each flusher, and returns when all are
    /// open.
    ///
    /// ```
    /// use sluicegate::{Batcher, SpawnError, WriteError, sink::NullSink};
    ///
    /// let refused = Batcher::<u64>::builder()
    ///     .queue_depth(1000)
    ///     .spawn(|_| Ok::<_, WriteError>(NullSink));
    /// let Err(SpawnError::Config(error)) = refused else { panic!() };
    /// assert_eq!(error.key(), "queue_depth");
    /// ```
    ///
    /// # Errors
    /// [`SpawnError`]; whatever was started is stopped again.
    pub fn spawn<F: SinkFactory<T>>(self, factory: F) -> Result<Batcher<T, M>, SpawnError> {
        let Config { write_timeout, leave_behind_after, concurrency, .. } = self.config;
        if concurrency > 1 {
            return Err(ConfigError::ConcurrencyWithSyncSink { concurrency }.into());
        }
        let start = |shared: &Arc<Shared<T, M>>, factory: Arc<F>, seat, opened| {
            let thread = FlusherThread { shared: Arc::clone(shared), factory, seat, opened };
            thread::Builder::new().name(name_of(seat)).spawn(move || thread.run())
        };
        let factory = Arc::new(factory);
        let mut batcher = self.start(|shared, seat, opened| {
            start(shared, Arc::clone(&factory), seat, Some(opened))
        })?;
        if let Some(grace) = leave_behind_after {
            let limit = write_timeout.saturating_add(grace);
            let shared = Arc::clone(&batcher.shared);
            // Whoever hangs has it still; but for that, the last flusher is to drop it.
            let factory = Arc::downgrade(&factory);
            let ready = Box::new(move || -> Option<Rc<Start>> {
                let (shared, factory) = (Arc::clone(&shared), factory.upgrade()?);
                Some(Rc::new(move |seat| start(&shared, Arc::clone(&factory), seat, None)))
            });
            batcher.watch(limit, ready).map_err(SpawnError::Thread)?;
        }
        Ok(batcher)
    }

    /// As [`spawn`](Self::spawn), for an async sink: each flusher has a current-thread runtime of
    /// its own, and up to [`concurrency`](Self::concurrency) writes in flight on it. The caller may
    /// be in a runtime or not: nothing of the engine runs there. Needs the feature `tokio`.
    ///
    /// The runtime has timers, and sockets if the program turns tokio's feature `net` on. Its
    /// timers count in milliseconds, so a batch may be closed up to one later than due.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sluicegate::{AsyncContext, AsyncSink, Batch, Batcher, Flusher, WriteError};
    ///
    /// struct Client;
    /// impl Client {
    ///     async fn connect(_url: &str) -> Result<Self, std::io::Error> {
    ///         Ok(Self) // and tokio::spawn what drives the connection
    ///     }
    /// }
    /// impl AsyncSink<u64> for Client {
    ///     async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
    ///         tokio::time::sleep(Duration::from_millis(1)).await; // the round trip
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let url = "host=/run/db".to_owned();
    /// let batcher = Batcher::builder()
    ///     .concurrency(4)
    ///     .write_timeout(Duration::from_secs(3))
    ///     .spawn_async(async move |_: Flusher| Client::connect(&url).await)?;
    /// (0..10_000).for_each(|item| batcher.producer().add(item).unwrap());
    /// assert_eq!(batcher.shutdown(Duration::from_secs(5)).tally.flushed_ok, 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SpawnError`]; whatever was started is stopped again.
    #[cfg(feature = "tokio")]
    #[cfg(not(any(loom, shuttle)))]
    pub fn spawn_async<F: AsyncSinkFactory<T>>(
        self,
        factory: F,
    ) -> Result<Batcher<T, M>, SpawnError> {
        let Config { write_timeout, concurrency, .. } = self.config;
        let factory = Arc::new(factory);
        self.start(|shared, seat, opened| {
            let (shared, factory) = (Arc::clone(shared), Arc::clone(&factory));
            let flusher = seat.flusher();
            let thread =
                AsyncFlusherThread { shared, factory, flusher, opened, write_timeout, concurrency };
            thread::Builder::new().name(name_of(seat)).spawn(move || thread.run())
        })
    }

    /// Starts a thread for each flusher, and waits until their sinks are open.
    fn start(
        self,
        thread: impl Fn(&Arc<Shared<T, M>>, Seat, Sender<Opened>) -> io::Result<JoinHandle<()>>,
    ) -> Result<Batcher<T, M>, SpawnError> {
        let shared = Arc::new(self.shared(Clock::default(), Machine::detect)?);
        let weak: Weak<dyn CloseInChild> = Arc::downgrade(&shared) as _;
        enlist(weak);
        let flushers = shared.shards.len() * shared.flushers_each;
        let mut batcher = Batcher::new(Arc::clone(&shared), flushers);
        // Until every sink is open and has told its limits, nobody collects.
        let mut leases: Vec<_> = shared.shards.iter().map(|shard| lock(&shard.lease)).collect();
        let (sender, opened) = channel();
        let mut failure = None;
        for index in 0..flushers {
            let seat = shared.ledger.seat(Flusher { index });
            match thread(&shared, seat, sender.clone()) {
                Ok(handle) => batcher.threads.add(seat, handle),
                Err(error) => {
                    failure = Some(SpawnError::Thread(error));
                    break;
                }
            }
        }
        drop(sender);
        let failure = failure.or(limit(&mut leases, &opened).err());
        if failure.is_some() {
            shared.stop();
        }
        drop(leases);
        shared.shards.iter().for_each(|shard| shard.lease_is_free());
        match failure {
            None => {
                batcher.finished = false;
                warn_of_refused(&shared.placed.report());
                Ok(batcher)
            }
            Some(error) => {
                for (_, thread) in batcher.threads.take() {
                    let _ = thread.join();
                }
                if let Some(dead) = &shared.dead {
                    // One that got no thread has not closed it.
                    let _ = dead.close(shared.asking(Flusher { index: 0 }));
                }
                Err(error)
            }
        }
    }

    /// Makes an engine without threads, driven by the caller, with a clock of the caller's; see
    /// [`Pump`].
    ///
    /// # Errors
    /// [`ConfigError`] as for [`spawn`](Self::spawn). `flushers`, `shards` and `concurrency` are read
    /// as 1, and nothing is placed.
    pub fn pump<S: Sink<T>>(
        mut self,
        sink: S,
        clock: TestClock,
    ) -> Result<Pump<T, S, M>, ConfigError> {
        (self.config.flushers, self.config.concurrency) = (1, 1);
        (self.config.shards, self.config.pin, self.topology) = (Shards::Total(1), Pin::None, None);
        let unknown = || Machine::of("none", Topology::default());
        let shared = self.shared(Clock::Test(clock.clone()), unknown)?;
        let limits = sink.limits();
        let shard = shared.any();
        lock(&shard.lease).former.limit(limits.max_batch_size, limits.max_batch_bytes);
        Ok(Pump::new(shared, sink, clock))
    }

    fn shared(
        self,
        clock: Clock,
        machine: impl FnOnce() -> Machine,
    ) -> Result<Shared<T, M>, ConfigError> {
        /// Numbers the engines of this process.
        static ENGINES: Counter = Counter::new(1);
        let Self { config, weight, added, on_failed, on_dropped, key, dead, topology, mode: _ } =
            self;
        let dead = dead.map(DeadLetters::new);
        config.check(weight.is_some(), key.is_some())?;
        let machine = match topology {
            Some(topology) => Machine::of("caller", topology),
            None => machine(),
        };
        let placed = Placed::new(machine, &config.placement());
        let (shards, flushers) = (placed.plan().rings().len(), placed.plan().flushers().len());
        config.check_shards(shards, key.is_some())?;
        let triggers = Triggers {
            max_batch_size: config.max_batch_size.unwrap_or(config.queue_depth),
            max_batch_bytes: config.max_batch_bytes,
            max_batch_delay: config.max_batch_delay,
            flush_when: config.flush_when,
        };
        let expiry = config.max_age.map(|max_age| Expiry { max_age, added });
        let admission = Admission {
            when_full: config.when_full,
            budget: config.max_queue_bytes.map(Budget::new),
            weight: weight.clone(),
            stamped: expiry.as_ref().is_some_and(|expiry| expiry.added.is_none()),
            rooms: Vec::new(),
        };
        let overflows = config.overflow == Overflow::Nearest && shards > 1;
        let common = Common::new(ENGINES.count(), admission, clock.clone(), shards, overflows);
        let ledger = Ledger::new(
            flushers,
            config.queue_depth,
            config.failed_kept,
            retries(&config, shards),
            Gate::new(&config.permits, config.retry.as_ref(), clock.now()),
            clock.clone(),
        )
        .with_writes(config.concurrency)
        .with_shards(shards);
        let mut policy = Policy::new(config.seed);
        policy.retry = config.retry;
        policy.bisect = config.bisect;
        policy.on_failure = config.on_failure;
        policy.key = key;
        policy.weight = weight.clone();
        let make = &|index| {
            let former = Former::new(triggers.clone(), weight.clone(), clock.now());
            let former = match placed.memory_of(index) {
                Some(_) => former.with_room(apart::<T>()),
                None => former,
            };
            let ring = ring(&config, &placed, index)
                .map_err(|_| ConfigError::QueueDepth { got: config.queue_depth })?;
            let owned = owned::rings(config.owned_depth, config.queue_depth, clock.clone());
            let shard = Shard::new(index, &common, ring, former.of_shard(index, shards));
            Ok(Arc::new(shard.with_owned(owned)))
        };
        let shards = (0..shards).map(|index| near_memory(&placed, index, &|| make(index)));
        Ok(Shared {
            shards: shards.collect::<Result<_, _>>()?,
            flushers_each: config.flushers,
            follows: config.home == Home::FollowCpu,
            overflows,
            steals: config.steal,
            placed,
            ledger,
            on_failed,
            on_dropped,
            expiry,
            policy,
            dead,
            write_timeout: config.write_timeout,
        })
    }
}

/// The ring of a shard: where nothing was asked for, on the heap.
fn ring<E>(config: &Config, placed: &Placed, index: usize) -> Result<Ring<E>, CapacityError> {
    let (huge, node) = (config.huge_pages, placed.memory_of(index));
    if !huge && node.is_none() {
        return Ring::new(config.queue_depth);
    }
    let bind = |memory: &[MaybeUninit<u8>]| node.map(|node| bind_memory(memory, node));
    let (ring, InPages { bound, got }) = Ring::in_pages(config.queue_depth, Pages { huge }, bind)?;
    let in_huge = match got {
        Got::HugePages => Ok(()),
        Got::Refused(why) => Err(why),
        Got::Pages => Err("the system gave none".to_owned()),
    };
    placed.lies(index, bound.flatten(), huge.then_some(in_huge));
    Ok(ring)
}

/// Does this on a thread that runs on the node where the memory of a ring is to lie, so that what it
/// touches first lies there; without such a thread, here.
fn near_memory<R: Send>(placed: &Placed, ring: usize, work: &(impl Fn() -> R + Sync)) -> R {
    let Some(cpus) = placed.cpus_near(ring) else { return work() };
    let pinned = move || {
        let _ = bind_thread(cpus); // refused: the flushers' pins say so
        work()
    };
    let done = thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, pinned);
        thread.ok().map(|thread| thread.join())
    });
    match done {
        Some(Ok(done)) => done,
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => work(),
    }
}

/// Says once what the system has refused.
fn warn_of_refused(placement: &Placement) {
    let refused = placement.refused().count();
    if let Some(first) = placement.refused().next() {
        tracing::warn!(refused, first, "not everything is where it was planned; see placement()");
    }
}

/// Of a flusher's thread, for debuggers and profilers.
fn name_of(seat: Seat) -> String {
    format!("sluicegate-{}", seat.flusher().index)
}

/// Where works wait: as many items as the queue has and as may be in flight at once, unless told
/// otherwise.
fn retries<T, M: Mode<T>>(config: &Config, shards: usize) -> Retries<T, M> {
    let retry = config.retry.unwrap_or_default();
    let batch = config.max_batch_size.unwrap_or(config.queue_depth) as u64;
    let writes = config.flushers.saturating_mul(config.concurrency) as u64;
    let in_flight = batch.saturating_mul(writes);
    let most = (config.queue_depth as u64).saturating_add(in_flight).saturating_mul(shards as u64);
    let items = retry.max_items.map_or(most, |items| items as u64);
    let bounds = Bounds { items, bytes: retry.max_bytes, batch };
    Retries::new(config.on_failure, bounds, retry.give_up_after).together(config.steal)
}

/// Waits until each sink is open and narrows the triggers to what they all take.
fn limit<T, M: Mode<T>>(
    leases: &mut [MutexGuard<'_, Lease<T, M>>],
    opened: &Receiver<Opened>,
) -> Result<(), SpawnError> {
    let mut failure = Ok(());
    for Opened { flusher, limits } in opened {
        match limits {
            Ok(SinkLimits { max_batch_size, max_batch_bytes }) => {
                for lease in &mut *leases {
                    lease.former.limit(max_batch_size, max_batch_bytes);
                }
            }
            Err(source) => failure = failure.and(Err(SpawnError::Open { flusher, source })),
        }
    }
    failure
}
