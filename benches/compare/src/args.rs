//! What the command line asks for.

use std::path::PathBuf;

use crate::contestant::{Kind, Shape};
use crate::field::FIELD;
use crate::turn::Turn;

/// The depth of the queue.
pub const DEPTH: usize = 65_536;
/// Where the items are long, a smaller one, which the caches hold.
const SHALLOW: usize = 4_096;

const HELP: &str = "usage: compare [OPTION…]
  --rounds N       rounds (7)
  --only NAME      only contestants whose name has this in it; more than once: any of them
  --producers N,…  numbers of producers (1,2,4,8,16); latency is always of one
  --items N        items of a turn for items/s, instead of as many as take 0.2 s
  --out DIR        where compare.csv, .md, .svg and compare-latency.csv go (docs/performance)
  --redraw         measures nothing: makes the tables and the chart of the CSV files anew
  --list           names of the contestants";

/// What to do.
pub enum Asked {
    /// Print this.
    Help(String),
    /// One turn, for the parent process.
    Turn(Turn),
    /// The tables and the chart again.
    Redraw(PathBuf),
    /// Everything.
    Compare(Options),
}

/// How to compare.
pub struct Options {
    /// How often everybody's turn comes.
    pub rounds: usize,
    /// Parts of names; none: everybody.
    pub only: Vec<String>,
    /// Numbers of producers.
    pub producers: Vec<usize>,
    /// Items of a turn for items/s, if they are not to be found out.
    pub items: Option<u64>,
    /// The folder for what comes out.
    pub out: PathBuf,
    /// The arguments, as given.
    pub given: String,
}

impl Asked {
    /// Reads the arguments.
    pub fn read(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let args: Vec<String> = args.collect();
        if args.first().is_some_and(|first| first == "turn") {
            return Turn::read(&args[1..]).map(Self::Turn);
        }
        let mut redraw = false;
        let mut options = Options {
            rounds: 7,
            only: Vec::new(),
            producers: vec![1, 2, 4, 8, 16],
            items: None,
            out: "docs/performance".into(),
            given: args.join(" "),
        };
        let mut rest = args.into_iter();
        while let Some(option) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{option} needs a value"));
            match option.as_str() {
                "--help" | "-h" => return Ok(Self::Help(HELP.into())),
                "--list" => return Ok(Self::Help(names())),
                "--redraw" => redraw = true,
                "--rounds" => options.rounds = number(&option, &value()?)?,
                "--only" => options.only.push(value()?.to_lowercase()),
                "--producers" => {
                    let list = value()?;
                    let each = list.split(',').map(|one| number(&option, one));
                    options.producers = each.collect::<Result<_, _>>()?;
                }
                "--items" => options.items = Some(number(&option, &value()?)? as u64),
                "--out" => options.out = value()?.into(),
                _ => return Err(format!("no option {option}\n{HELP}")),
            }
        }
        Ok(if redraw { Self::Redraw(options.out) } else { Self::Compare(options) })
    }
}

impl Options {
    /// The shapes, in the order in which they are measured.
    pub fn shapes(&self) -> Vec<Shape> {
        let sizes = [(8, DEPTH), (64, DEPTH), (64, SHALLOW)];
        let of = |(bytes, depth)| {
            self.producers.iter().map(move |&producers| Shape { producers, bytes, depth })
        };
        sizes.into_iter().flat_map(of).collect()
    }

    /// Whether `--only` leaves this one in.
    pub fn names(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }

    /// Whether this contestant takes part in this shape. What forms batches by itself is asked for
    /// `u64` alone: there it is not the bytes that it spends its time on.
    pub fn wants(&self, name: &str, kind: Kind, shape: Shape) -> bool {
        self.names(name) && (shape.bytes == 8 || kind != Kind::Batcher)
    }
}

fn number(option: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number @ 1..=10_000_000_000) => Ok(number),
        _ => Err(format!("{option} {value}: not a number from 1 on")),
    }
}

fn names() -> String {
    let line = |contestant: &&dyn crate::contestant::Contestant| {
        format!("{:30} {:8} {}", contestant.name(), contestant.kind().name(), contestant.usage())
    };
    FIELD.iter().map(line).collect::<Vec<_>>().join("\n")
}
