//! A placement that is measured, and how it is told to the engine.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum as _;
use serde_json::{Value, json};
use sluicegate::placement::{Options, Shards};
use sluicegate::{Builder, Overflow, Pin};

use crate::placement::{HomeArg, PinArg, THREADS_MAX};

/// What a placement may be said with.
const WORDS: &str = "none, node, core, shards=N, shards-per-node=N, home=sticky, home=follow-cpu, \
                     overflow, steal or huge-pages";

/// Where rings and flushers are to be. `Display` writes it as `--compare` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) pin: PinArg,
    pub(crate) shards: Shards,
    pub(crate) home: HomeArg,
    pub(crate) overflow: bool,
    pub(crate) steal: bool,
    pub(crate) huge_pages: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            pin: PinArg::Node,
            shards: Shards::PerNode(1),
            home: HomeArg::Sticky,
            overflow: false,
            steal: false,
            huge_pages: false,
        }
    }
}

impl FromStr for Setting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut setting = Self::default();
        let mut kinds = Vec::new();
        for word in text.split('+') {
            let kind = setting.take(word.trim())?;
            if kinds.contains(&kind) {
                return Err(format!("{kind} is said twice"));
            }
            kinds.push(kind);
        }
        Ok(setting)
    }
}

impl Setting {
    /// Takes a word, and says what it was about.
    fn take(&mut self, word: &str) -> Result<&'static str, String> {
        let (name, value) = word.split_once('=').unzip();
        match (name.unwrap_or(word), value) {
            ("shards", Some(rings)) => self.shards = Shards::Total(number(rings)?),
            ("shards-per-node", Some(rings)) => self.shards = Shards::PerNode(number(rings)?),
            ("home", Some(home)) => self.home = HomeArg::from_str(home, false)?,
            ("overflow", None) => self.overflow = true,
            ("steal", None) => self.steal = true,
            ("huge-pages", None) => self.huge_pages = true,
            (pin, None) if let Ok(pin) = PinArg::from_str(pin, false) => self.pin = pin,
            _ => return Err(format!("unknown word {word:?}; use {WORDS}")),
        }
        Ok(match name.unwrap_or(word) {
            "shards" | "shards-per-node" => "shards",
            "home" => "home",
            "overflow" => "overflow",
            "steal" => "steal",
            "huge-pages" => "huge-pages",
            _ => "the pin",
        })
    }

    /// What the planner is asked for.
    pub(crate) fn options(&self, flushers: usize) -> Options {
        Options::default().pin(self.pin.into()).shards(self.shards).flushers(flushers)
    }

    /// Tells the engine.
    pub(crate) fn apply<T: Send + 'static>(
        &self,
        builder: Builder<T>,
        flushers: usize,
    ) -> Builder<T> {
        let Self { pin, shards, home, overflow, steal, huge_pages } = *self;
        builder
            .flushers(flushers)
            .pin(pin.into())
            .shards(shards)
            .home(home.into())
            .overflow(if overflow { Overflow::Nearest } else { Overflow::Stay })
            .steal(steal)
            .huge_pages(huge_pages)
    }

    pub(crate) fn to_json(self) -> Value {
        let Self { pin, shards, home, overflow, steal, huge_pages } = self;
        let (total, per_node) = match shards {
            Shards::Total(rings) => (Some(rings), None),
            Shards::PerNode(rings) => (None, Some(rings)),
        };
        json!({
            "name": self.to_string(),
            "pin": Pin::from(pin).name(),
            "shards": total,
            "shards_per_node": per_node,
            "home": home.name(),
            "overflow": overflow,
            "steal": steal,
            "huge_pages": huge_pages,
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Pin::from(self.pin).name())?;
        match self.shards {
            Shards::PerNode(1) => {}
            Shards::PerNode(rings) => write!(f, "+shards-per-node={rings}")?,
            Shards::Total(rings) => write!(f, "+shards={rings}")?,
        }
        if self.home != HomeArg::Sticky {
            write!(f, "+home={}", self.home.name())?;
        }
        f.write_str(if self.overflow { "+overflow" } else { "" })?;
        f.write_str(if self.steal { "+steal" } else { "" })?;
        f.write_str(if self.huge_pages { "+huge-pages" } else { "" })
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse::<u64>() {
        Ok(number @ 1..=THREADS_MAX) => usize::try_from(number).map_err(|e| e.to_string()),
        _ => Err(format!("{text:?} is no number of rings from 1 to {THREADS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let names =
            ["none+shards=1", "node", "core+shards-per-node=2", "core+home=follow-cpu+steal"];
        for name in names {
            assert_eq!(name.parse::<Setting>().unwrap().to_string(), name);
        }
        let all: Setting =
            "huge-pages + steal+overflow+home=follow-cpu+shards=8+core".parse().unwrap();
        let expected = Setting {
            pin: PinArg::Core,
            shards: Shards::Total(8),
            home: HomeArg::FollowCpu,
            overflow: true,
            steal: true,
            huge_pages: true,
        };
        assert_eq!(all, expected);
        assert_eq!(all.to_string(), "core+shards=8+home=follow-cpu+overflow+steal+huge-pages");
        assert_eq!("shards-per-node=1+home=sticky".parse(), Ok(Setting::default()));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let bad = ["", "cores", "core+", "core+none", "shards=0", "shards=1025", "shards=x"];
        for bad in bad.into_iter().chain([
            "home=far",
            "steal=1",
            "steal+steal",
            "shards=1+shards-per-node=1",
        ]) {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }
}
