//! What `sluicegate bench` takes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::setting::Setting;
use crate::args::QUEUE_DEPTH_MAX;
use crate::placement::{count_parser, too_many};
use crate::run::Failure;

/// The longest that a run may take, in seconds.
const SECONDS_MAX: f64 = 3_600.0;

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// How many threads add; each number is measured by itself.
    #[arg(long, value_name = "THREADS,…", value_delimiter = ',', default_value = "1,2,4")]
    #[arg(value_parser = count_parser())]
    pub(crate) producers: Vec<usize>,
    /// Flushers of each ring.
    #[arg(long, value_name = "THREADS", default_value_t = 1, value_parser = count_parser())]
    pub(crate) flushers: usize,
    /// The placements to compare, the first with each of the others. One is a list of words joined
    /// by `+`: none, node or core (what flushers are pinned to; default: node), shards=RINGS in all
    /// or shards-per-node=RINGS (default: 1), home=follow-cpu, overflow, steal, huge-pages.
    #[arg(long, value_name = "PLACEMENT,…", value_delimiter = ',')]
    #[arg(default_value = "none+shards=1,none,node,core")]
    pub(crate) compare: Vec<Setting>,
    /// How often each is measured. They take turns.
    #[arg(long, value_name = "ROUNDS", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,
    /// How long producers add in each run.
    #[arg(long, default_value = "0.3", value_parser = parse_seconds, conflicts_with = "items")]
    pub(crate) seconds: Duration,
    /// How many items producers add in each run, instead of a time.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(crate) items: Option<u64>,
    /// `single` adds item by item, `many` in runs of 64.
    #[arg(long, value_enum, default_value_t = AddArg::Single)]
    pub(crate) add: AddArg,
    /// Size of an item.
    #[arg(long, value_enum, value_name = "BYTES", default_value_t = ItemBytes::Eight)]
    pub(crate) item_bytes: ItemBytes,
    /// The most items in a batch.
    #[arg(long, visible_alias = "batch", value_name = "ITEMS", default_value_t = 512)]
    pub(crate) max_batch_size: usize,
    /// The most items in each ring: a power of two, at most 4194304.
    #[arg(long, value_name = "ITEMS", default_value_t = 8_192)]
    pub(crate) queue_depth: usize,
    /// One JSON object, with every run, instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AddArg {
    Single,
    Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ItemBytes {
    #[value(name = "8")]
    Eight,
    #[value(name = "64")]
    SixtyFour,
}

impl ItemBytes {
    pub(crate) fn count(self) -> u64 {
        match self {
            Self::Eight => 8,
            Self::SixtyFour => 64,
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && seconds <= SECONDS_MAX => Ok(time),
        _ => Err(format!("more than 0 and at most {SECONDS_MAX} seconds")),
    }
}

impl BenchArgs {
    /// Refuses combinations that clap can't know, with the option at fault.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.queue_depth > QUEUE_DEPTH_MAX {
            return Err(Failure::usage("--queue-depth", "at most 4194304 (2^22) items"));
        }
        if let Some(setting) = self.compare.iter().find(|s| too_many(s.shards, self.flushers)) {
            let what = format!("with {setting} these are over 1024 threads");
            return Err(Failure::usage("--flushers", what));
        }
        for (index, setting) in self.compare.iter().enumerate() {
            if self.compare[..index].contains(setting) {
                return Err(Failure::usage("--compare", format!("{setting} is named twice")));
            }
        }
        for (index, producers) in self.producers.iter().enumerate() {
            if self.producers[..index].contains(producers) {
                return Err(Failure::usage("--producers", format!("{producers} is named twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["", "0", "-1", "1e9", "inf", "NaN", "1s"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
