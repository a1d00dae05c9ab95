//! What a caller may set, checked once.

use std::fmt;
use std::time::Duration;

use crate::flush::{Adaptive, Breaker, Permits, Retry, Throttle};
use crate::placement::{Options, Pin, Shards};
use crate::ring::{CAPACITY_MAX, CAPACITY_MIN};

/// Longest `max_batch_delay` without `allow_long_delay`: what waits that long in memory is lost
/// with the process.
pub const LONG_DELAY: Duration = Duration::from_secs(60);

/// The most flushers that an engine may have.
pub const FLUSHERS_MAX: usize = 1024;

/// The most writes that a flusher may have in flight.
pub const CONCURRENCY_MAX: usize = 1024;

/// When a batch that is not full is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlushWhen {
    /// When a trigger says so: size, bytes, time, a flush, or shutdown. Fewest calls.
    #[default]
    Due,
    /// As soon as a flusher is free: a busy sink makes the batches grow by itself. Lowest latency.
    Idle,
}

/// What becomes of an item for which the queue has no room, once its caller has waited as long as
/// it would: `try_add` not at all, `add_timeout` and `add_deadline` for the time they name, `add`
/// and `add_async` for ever under `Block` and not at all under the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The caller waits; nothing is lost. Who would not wait gets the item back.
    #[default]
    Block,
    /// The caller gets the item back. Counted as `rejected`.
    Reject,
    /// The item is let go, and the add is a success: it counts as enqueued and as dropped.
    DropNewest,
    /// The oldest item in the ring is let go in its place and counts as dropped.
    DropOldest,
}

/// Why the engine let an item go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// [`WhenFull::DropNewest`].
    Newest,
    /// [`WhenFull::DropOldest`].
    Oldest,
    /// It was older than `max_age`.
    Expired,
}

impl DropReason {
    /// Every reason, in one fixed order.
    pub const ALL: [Self; 3] = [Self::Newest, Self::Oldest, Self::Expired];

    /// The name used in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Expired => "expired",
        }
    }
}

/// What happens to what comes behind a failed item: whether order is kept, and at what price.
///
/// While a batch or a part of it waits to be tried again, the others
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// go on. Failed items are written later than those added after them.
    #[default]
    Skip,
    /// go on, but for items of the same [`key`](crate::Builder::key): they wait behind the failed
    /// one, and go on when it is written or has failed for good. With one key for all items nothing
    /// ever passes a failed item. Needs `flushers(1)`.
    ParkKey,
    /// wait. Once an item has failed for good the engine halts: it closes, and what was not written
    /// is handed back by [`shutdown`](crate::Batcher::shutdown). So with `flushers(1)` the sink has
    /// seen everything up to the failed item, in order, and nothing after it; with several shards,
    /// of the failed item's shard.
    Halt,
}

/// Which ring a producer's items go to, where there are several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Home {
    /// One of the node that the producer's thread runs on when it is made or cloned, until
    /// [`rehome`](crate::Producer::rehome).
    #[default]
    Sticky,
    /// As `Sticky`, but every 64 adds the producer looks where its thread runs by now, and moves
    /// there as soon as that costs no order: with the first item for which everything that it has
    /// added before has met its fate. Each add takes a lock of the producer's own, some 10 ns, so
    /// give every thread its own producer.
    FollowCpu,
}

/// What becomes of an item for which its home ring has no room, before
/// [`when_full`](crate::Builder::when_full) is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Nothing: the items of a producer stay on one ring, in order.
    #[default]
    Stay,
    /// It goes to the nearest ring with room, and counts as
    /// [`overflowed`](crate::Stats::overflowed). Items of a producer may overtake one another then.
    Nearest,
}

/// The values that a builder collects.
#[derive(Clone, Debug)]
pub struct Config {
    pub max_batch_size: Option<usize>,
    pub max_batch_bytes: Option<u64>,
    pub max_batch_delay: Option<Duration>,
    pub queue_depth: usize,
    pub flushers: usize,
    pub flush_when: FlushWhen,
    pub allow_long_delay: bool,
    pub failed_kept: usize,
    pub when_full: WhenFull,
    pub max_queue_bytes: Option<u64>,
    pub max_age: Option<Duration>,
    pub retry: Option<Retry>,
    pub permits: Permits,
    pub bisect: bool,
    pub on_failure: OnFailure,
    pub seed: Option<u64>,
    pub write_timeout: Duration,
    pub leave_behind_after: Option<Duration>,
    pub concurrency: usize,
    pub shards: Shards,
    pub pin: Pin,
    pub home: Home,
    pub overflow: Overflow,
    pub steal: bool,
    pub huge_pages: bool,
    pub owned_depth: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_batch_size: Some(512),
            max_batch_bytes: None,
            max_batch_delay: Some(Duration::from_millis(100)),
            queue_depth: 8192,
            flushers: 1,
            flush_when: FlushWhen::Due,
            allow_long_delay: false,
            failed_kept: 65_536,
            when_full: WhenFull::Block,
            max_queue_bytes: None,
            max_age: None,
            retry: Some(Retry::default()),
            permits: Permits { breaker: Some(Breaker::default()), ..Permits::default() },
            bisect: true,
            on_failure: OnFailure::Skip,
            seed: None,
            write_timeout: Duration::from_secs(10),
            leave_behind_after: Some(Duration::from_secs(50)),
            concurrency: 1,
            shards: Shards::default(),
            pin: Pin::default(),
            home: Home::Sticky,
            overflow: Overflow::Stay,
            steal: false,
            huge_pages: false,
            owned_depth: None,
        }
    }
}

impl Config {
    /// What the planner is to know.
    pub fn placement(&self) -> Options {
        Options::default().flushers(self.flushers).shards(self.shards).pin(self.pin)
    }

    /// Refuses what does not go with so many shards, which the plan has shown.
    pub fn check_shards(&self, shards: usize, has_key: bool) -> Result<(), ConfigError> {
        if shards.saturating_mul(self.flushers) > FLUSHERS_MAX {
            return Err(ConfigError::ShardsTimesFlushers { shards, flushers: self.flushers });
        }
        match (self.flushers, self.concurrency) {
            (2.., _) if has_key && shards > 1 => Err(ConfigError::OrderWith { key: "flushers" }),
            (_, 2..) if has_key && shards > 1 => Err(ConfigError::OrderWith { key: "concurrency" }),
            _ => Ok(()),
        }
    }

    /// Refuses what would break the order of a key.
    fn check_key(&self) -> Result<(), ConfigError> {
        let keys = [
            ("home", self.home != Home::Sticky),
            ("overflow", self.overflow != Overflow::Stay),
            ("steal", self.steal),
        ];
        match keys.iter().find(|(_, breaks)| *breaks) {
            Some((key, _)) => Err(ConfigError::OrderWith { key }),
            None => Ok(()),
        }
    }

    /// Refuses what cannot work.
    pub fn check(&self, weighs: bool, has_key: bool) -> Result<(), ConfigError> {
        // By name, so that a new value cannot be forgotten here.
        let Self {
            max_batch_size,
            max_batch_bytes,
            max_batch_delay,
            queue_depth,
            flushers,
            flush_when: _,
            allow_long_delay,
            failed_kept: _,
            when_full: _,
            max_queue_bytes,
            max_age,
            ref retry,
            permits: Permits { ref breaker, ref throttle, ref adaptive },
            bisect: _,
            on_failure,
            seed: _,
            write_timeout,
            leave_behind_after: _,
            concurrency,
            shards,
            pin: _,
            home: _,
            overflow,
            steal,
            huge_pages: _,
            owned_depth,
        } = *self;
        if !queue_depth.is_power_of_two() || !(CAPACITY_MIN..=CAPACITY_MAX).contains(&queue_depth) {
            return Err(ConfigError::QueueDepth { got: queue_depth });
        }
        if let Some(got) = owned_depth
            && (!got.is_power_of_two() || !(CAPACITY_MIN..=queue_depth).contains(&got))
        {
            return Err(ConfigError::OwnedDepth { got, queue_depth });
        }
        if max_batch_size.is_none() && max_batch_delay.is_none() {
            return Err(ConfigError::Unbounded);
        }
        match max_batch_size {
            Some(0) => return Err(ConfigError::Zero { key: "max_batch_size" }),
            Some(size) if size > queue_depth => {
                return Err(ConfigError::BatchOverQueueDepth { max_batch_size: size, queue_depth });
            }
            _ => {}
        }
        match max_batch_bytes {
            Some(0) => return Err(ConfigError::Zero { key: "max_batch_bytes" }),
            Some(_) if !weighs => return Err(ConfigError::BytesWithoutWeight),
            _ => {}
        }
        match max_batch_delay {
            Some(delay) if delay > LONG_DELAY && !allow_long_delay => {
                return Err(ConfigError::LongDelay { got: delay });
            }
            _ => {}
        }
        match max_queue_bytes {
            Some(0) => return Err(ConfigError::Zero { key: "max_queue_bytes" }),
            Some(_) if !weighs => return Err(ConfigError::QueueBytesWithoutWeight),
            Some(queue) if max_batch_bytes.is_some_and(|batch| batch > queue) => {
                return Err(ConfigError::BatchOverQueueBytes {
                    max_batch_bytes: max_batch_bytes.unwrap_or(u64::MAX),
                    max_queue_bytes: queue,
                });
            }
            _ => {}
        }
        if max_age == Some(Duration::ZERO) {
            return Err(ConfigError::Zero { key: "max_age" });
        }
        if !(1..=FLUSHERS_MAX).contains(&flushers) {
            return Err(ConfigError::Flushers { got: flushers });
        }
        if on_failure == OnFailure::ParkKey && !has_key {
            return Err(ConfigError::ParkWithoutKey);
        }
        if on_failure == OnFailure::ParkKey && flushers > 1 {
            return Err(ConfigError::ParkWithFlushers { flushers });
        }
        if write_timeout == Duration::ZERO {
            return Err(ConfigError::Zero { key: "write_timeout" });
        }
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            return Err(ConfigError::Concurrency { got: concurrency });
        }
        if on_failure != OnFailure::Skip && concurrency > 1 {
            return Err(ConfigError::OrderWithConcurrency { concurrency });
        }
        let (Shards::PerNode(number) | Shards::Total(number)) = shards;
        if !(1..=FLUSHERS_MAX).contains(&number) {
            return Err(ConfigError::Shards { got: number });
        }
        if has_key {
            self.check_key()?;
        }
        if on_failure != OnFailure::Skip && steal {
            return Err(ConfigError::OrderWith { key: "steal" });
        }
        if on_failure != OnFailure::Skip && overflow != Overflow::Stay {
            return Err(ConfigError::OrderWith { key: "overflow" });
        }
        retry.as_ref().map_or(Ok(()), Retry::check)?;
        breaker.as_ref().map_or(Ok(()), Breaker::check)?;
        throttle.as_ref().map_or(Ok(()), Throttle::check)?;
        adaptive.as_ref().map_or(Ok(()), Adaptive::check)
    }
}

/// Why a configuration was refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `queue_depth` is not a power of two in range, or its memory cannot be had.
    QueueDepth {
        /// What was asked for.
        got: usize,
    },
    /// `owned_depth` is not a power of two, or more than `queue_depth`.
    OwnedDepth {
        /// What was asked for.
        got: usize,
        /// The most that it can be.
        queue_depth: usize,
    },
    /// A batch of `max_batch_size` could never fill.
    BatchOverQueueDepth {
        /// What was asked for.
        max_batch_size: usize,
        /// What was asked for.
        queue_depth: usize,
    },
    /// Neither size nor delay is bounded: nothing would ever be written.
    Unbounded,
    /// A bound of nothing.
    Zero {
        /// The setting.
        key: &'static str,
    },
    /// `max_batch_bytes` needs a function that says how many bytes an item has.
    BytesWithoutWeight,
    /// `max_queue_bytes` needs a function that says how many bytes an item has.
    QueueBytesWithoutWeight,
    /// A batch of `max_batch_bytes` could never fill.
    BatchOverQueueBytes {
        /// What was asked for.
        max_batch_bytes: u64,
        /// What was asked for.
        max_queue_bytes: u64,
    },
    /// `max_batch_delay` is long, and what waits in memory is lost with the process.
    LongDelay {
        /// What was asked for.
        got: Duration,
    },
    /// `OnFailure::ParkKey` needs a function that says which key an item has.
    ParkWithoutKey,
    /// `OnFailure::ParkKey` keeps order within a key only where one flusher writes.
    ParkWithFlushers {
        /// What was asked for.
        flushers: usize,
    },
    /// No flusher, or too many.
    Flushers {
        /// What was asked for.
        got: usize,
    },
    /// No write in flight, or too many.
    Concurrency {
        /// What was asked for.
        got: usize,
    },
    /// A sink that is not async has one write in flight per flusher.
    ConcurrencyWithSyncSink {
        /// What was asked for.
        concurrency: usize,
    },
    /// `OnFailure::ParkKey` and `OnFailure::Halt` keep order, and several writes in flight do not.
    OrderWithConcurrency {
        /// What was asked for.
        concurrency: usize,
    },
    /// No shard, or too many.
    Shards {
        /// What was asked for.
        got: usize,
    },
    /// More flushers in all than an engine may have.
    ShardsTimesFlushers {
        /// Shards, of this machine.
        shards: usize,
        /// What was asked for, of each.
        flushers: usize,
    },
    /// A setting that breaks the order which a key, or an `on_failure` other than `Skip`, keeps.
    OrderWith {
        /// The setting.
        key: &'static str,
    },
    /// A value that cannot be worked with.
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// What was asked for.
        got: String,
        /// What can be.
        allowed: &'static str,
    },
}

impl ConfigError {
    /// The setting at fault, under the builder's name for it.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::QueueDepth { .. } => "queue_depth",
            Self::OwnedDepth { .. } => "owned_depth",
            Self::BatchOverQueueDepth { .. } | Self::Unbounded => "max_batch_size",
            Self::Zero { key } | Self::OutOfRange { key, .. } | Self::OrderWith { key } => key,
            Self::Shards { .. } | Self::ShardsTimesFlushers { .. } => "shards",
            Self::BytesWithoutWeight | Self::BatchOverQueueBytes { .. } => "max_batch_bytes",
            Self::QueueBytesWithoutWeight => "max_queue_bytes",
            Self::LongDelay { .. } => "max_batch_delay",
            Self::ParkWithoutKey => "on_failure",
            Self::Flushers { .. } | Self::ParkWithFlushers { .. } => "flushers",
            Self::Concurrency { .. }
            | Self::ConcurrencyWithSyncSink { .. }
            | Self::OrderWithConcurrency { .. } => "concurrency",
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key())?;
        match self {
            Self::QueueDepth { got } => write!(
                f,
                "{got} is not a power of two from {CAPACITY_MIN} to {CAPACITY_MAX} that fits in \
                 memory"
            ),
            Self::OwnedDepth { got, queue_depth } => write!(
                f,
                "{got} is not a power of two from {CAPACITY_MIN} to queue_depth, {queue_depth}"
            ),
            Self::BatchOverQueueDepth { max_batch_size, queue_depth } => write!(
                f,
                "a batch of {max_batch_size} can never fill in a queue_depth of {queue_depth}; \
                 lower the one or raise the other"
            ),
            Self::Unbounded => f.write_str(
                "neither max_batch_size nor max_batch_delay is set, so no batch would ever be \
                 written; set one of them",
            ),
            Self::Zero { .. } => f.write_str("must be more than 0"),
            Self::BatchOverQueueBytes { max_batch_bytes, max_queue_bytes } => write!(
                f,
                "a batch of {max_batch_bytes} bytes can never fill with a max_queue_bytes of \
                 {max_queue_bytes}; lower the one or raise the other"
            ),
            Self::BytesWithoutWeight | Self::QueueBytesWithoutWeight => f.write_str(
                "the engine does not know the bytes of an item; give the builder a weight function",
            ),
            Self::LongDelay { got } => write!(
                f,
                "items would wait {got:?} in memory and be lost with the process; stay within \
                 {LONG_DELAY:?} or set allow_long_delay"
            ),
            Self::ParkWithoutKey => f.write_str(
                "the engine does not know the key of an item; give the builder a key function",
            ),
            Self::ParkWithFlushers { flushers } => write!(
                f,
                "{flushers} flushers write items of one key out of order; set 1, or another \
                 on_failure than ParkKey"
            ),
            Self::Flushers { got } => write!(f, "{got} is not within 1..={FLUSHERS_MAX}"),
            Self::Concurrency { got } => write!(f, "{got} is not within 1..={CONCURRENCY_MAX}"),
            Self::ConcurrencyWithSyncSink { concurrency } => write!(
                f,
                "{concurrency} writes in flight per flusher need an async sink: use spawn_async, or \
                 more flushers"
            ),
            Self::OrderWithConcurrency { concurrency } => write!(
                f,
                "{concurrency} writes in flight end in any order, and this on_failure keeps it; set \
                 1, or on_failure to Skip"
            ),
            Self::Shards { got } => write!(f, "{got} is not within 1..={FLUSHERS_MAX}"),
            Self::ShardsTimesFlushers { shards, flushers } => write!(
                f,
                "{shards} shards on this machine with {flushers} flushers each are more than \
                 {FLUSHERS_MAX} flushers"
            ),
            Self::OrderWith { .. } => f.write_str(
                "it would break the order that a key, or an on_failure other than Skip, keeps; \
                 leave it at its default",
            ),
            Self::OutOfRange { got, allowed, .. } => write!(f, "{got} is not {allowed}"),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> ConfigError {
        let mut config = Config::default();
        change(&mut config);
        config.check(false, false).expect_err("must be refused")
    }

    fn keyed(change: impl FnOnce(&mut Config)) -> ConfigError {
        let mut config = Config::default();
        change(&mut config);
        config.check(false, true).expect_err("must be refused")
    }

    /// With a key, in two shards.
    fn in_shards(change: impl FnOnce(&mut Config)) -> ConfigError {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.check_shards(1, true), Ok(()));
        config.check_shards(2, true).expect_err("must be refused")
    }

    #[test]
    fn the_default_is_accepted() {
        assert_eq!(Config::default().check(false, false), Ok(()));
    }

    #[test]
    fn each_bad_value_is_refused_under_its_own_key() {
        let delay = Duration::from_secs(3600);
        let cases: [(ConfigError, &str); 26] = [
            (refused(|c| c.queue_depth = 0), "queue_depth"),
            (refused(|c| c.queue_depth = 1), "queue_depth"),
            (refused(|c| c.queue_depth = 1000), "queue_depth"),
            (refused(|c| c.queue_depth = usize::MAX), "queue_depth"),
            (refused(|c| c.max_batch_size = Some(8193)), "max_batch_size"),
            (refused(|c| c.max_batch_size = Some(0)), "max_batch_size"),
            (refused(|c| (c.max_batch_size, c.max_batch_delay) = (None, None)), "max_batch_size"),
            (refused(|c| c.max_batch_bytes = Some(10)), "max_batch_bytes"),
            (refused(|c| c.max_batch_delay = Some(delay)), "max_batch_delay"),
            (refused(|c| c.flushers = 0), "flushers"),
            (refused(|c| c.max_queue_bytes = Some(10)), "max_queue_bytes"),
            (refused(|c| c.max_queue_bytes = Some(0)), "max_queue_bytes"),
            (refused(|c| c.max_age = Some(Duration::ZERO)), "max_age"),
            (refused(|c| c.write_timeout = Duration::ZERO), "write_timeout"),
            (refused(|c| c.concurrency = 0), "concurrency"),
            (refused(|c| c.concurrency = 1025), "concurrency"),
            (refused(|c| (c.concurrency, c.on_failure) = (2, OnFailure::Halt)), "concurrency"),
            (refused(|c| c.shards = Shards::Total(0)), "shards"),
            (refused(|c| c.shards = Shards::PerNode(1025)), "shards"),
            (refused(|c| (c.steal, c.on_failure) = (true, OnFailure::Halt)), "steal"),
            (keyed(|c| c.steal = true), "steal"),
            (keyed(|c| c.home = Home::FollowCpu), "home"),
            (keyed(|c| c.overflow = Overflow::Nearest), "overflow"),
            (in_shards(|c| c.flushers = 2), "flushers"),
            (in_shards(|c| c.concurrency = 2), "concurrency"),
            (in_shards(|c| c.flushers = 1024), "shards"),
        ];
        for (error, key) in cases {
            assert_eq!(error.key(), key);
            assert!(error.to_string().starts_with(key), "{error}");
        }
    }

    #[test]
    fn a_batch_must_fit_in_the_memory_budget() {
        let (batch, queue) = (Some(11), Some(10));
        let config = Config { max_batch_bytes: batch, max_queue_bytes: queue, ..Config::default() };
        let error = config.check(true, false).expect_err("must be refused");
        assert_eq!(error.key(), "max_batch_bytes");
        let config = Config { max_batch_bytes: queue, ..config };
        assert_eq!(config.check(true, false), Ok(()));
    }

    #[test]
    fn one_bound_is_enough_and_a_long_delay_can_be_allowed() {
        let size_only = Config { max_batch_delay: None, ..Config::default() };
        let delay_only = Config { max_batch_size: None, ..Config::default() };
        let long = Config {
            max_batch_delay: Some(Duration::from_secs(3600)),
            allow_long_delay: true,
            ..Config::default()
        };
        for config in [size_only, delay_only, long] {
            assert_eq!(config.check(false, false), Ok(()));
        }
    }
}
