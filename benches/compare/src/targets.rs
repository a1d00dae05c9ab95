//! What is aimed at, as ratios within a round.

use std::fmt::Write;

use crate::args::DEPTH;
use crate::contestant::{Contestant, Kind, Shape};
use crate::field::name;
use crate::record::{Rates, Row};

/// Whom a target is measured against.
#[derive(Clone, Copy)]
enum Against {
    FastestPeer,
    FastestShared,
    FastestBatcher,
    The(&'static str),
}

/// One line of the list: at so many producers, at least so many times as fast.
struct Target {
    what: &'static str,
    ours: &'static str,
    against: Against,
    bytes: usize,
    depth: usize,
    bounds: &'static [(usize, f64)],
}

const EACH_1_2: &[(usize, f64)] = &[(1, 1.2), (2, 1.2), (4, 1.2), (8, 1.2), (16, 1.2)];

#[rustfmt::skip] // a table
const TARGETS: &[Target] = &[
    Target { what: "owned producers, `u64`", ours: name::OWNED, against: Against::FastestPeer,
        bytes: 8, depth: DEPTH, bounds: &[(1, 2.5), (2, 2.5), (4, 2.0), (8, 1.3), (16, 1.3)] },
    Target { what: "shared ring, `u64`", ours: name::ADD, against: Against::FastestPeer,
        bytes: 8, depth: DEPTH, bounds: &[(1, 1.3), (2, 1.3)] },
    Target { what: "shared ring, `u64`", ours: name::ADD, against: Against::FastestShared,
        bytes: 8, depth: DEPTH, bounds: &[(4, 1.2), (8, 1.2), (16, 1.2)] },
    Target { what: "shared ring, 64 bytes, 65,536 deep", ours: name::ADD,
        against: Against::FastestShared, bytes: 64, depth: DEPTH, bounds: EACH_1_2 },
    Target { what: "shared ring, 64 bytes, 4,096 deep", ours: name::ADD,
        against: Against::FastestShared, bytes: 64, depth: 4_096, bounds: EACH_1_2 },
    Target { what: "64 bytes, 65,536 deep, of the stream", ours: name::ADD,
        against: Against::The(name::STREAM), bytes: 64, depth: DEPTH, bounds: &[(1, 0.8)] },
    Target { what: "64 bytes, 4,096 deep, of the stream", ours: name::ADD,
        against: Against::The(name::STREAM), bytes: 64, depth: 4_096, bounds: &[(1, 0.8)] },
    Target { what: "`add_many(64)`", ours: name::ADD_MANY, against: Against::The(name::ADD),
        bytes: 8, depth: DEPTH, bounds: &[(1, 2.0), (2, 2.0), (4, 2.0), (8, 2.0), (16, 2.0)] },
    Target { what: "whole engine, null sink", ours: name::NULL, against: Against::The(name::RING),
        bytes: 8, depth: DEPTH, bounds: &[(1, 0.9), (2, 0.9), (4, 0.9), (8, 0.9), (16, 0.9)] },
    Target { what: "against the batchers", ours: name::ADD, against: Against::FastestBatcher,
        bytes: 8, depth: DEPTH, bounds: &[(1, 3.0), (4, 3.0), (16, 3.0)] },
];

impl Against {
    fn words(self) -> &'static str {
        match self {
            Self::FastestPeer => "fastest peer",
            Self::FastestShared => "fastest peer with a shared handle",
            Self::FastestBatcher => "fastest batcher",
            Self::The(name) => name,
        }
    }

    fn includes(self, who: &dyn Contestant) -> bool {
        match self {
            Self::FastestPeer => who.kind() == Kind::Queue,
            Self::FastestShared => who.kind() == Kind::Queue && who.shared_handle(),
            Self::FastestBatcher => who.kind() == Kind::Batcher,
            Self::The(name) => who.name() == name,
        }
    }
}

/// The table of targets.
pub fn table(record: &Rates) -> String {
    let mut text = String::from(
        "| work | P | against | M items/s | ratio (quartiles) | rounds | CPUs | target | |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for target in TARGETS {
        for &(producers, bound) in target.bounds {
            let shape = Shape { producers, bytes: target.bytes, depth: target.depth };
            if !record.shapes().contains(&shape) {
                continue;
            }
            let _ = writeln!(
                text,
                "| {} | {producers} |{}",
                target.what,
                line(record, target, shape, bound)
            );
        }
    }
    text
}

fn line(record: &Rates, target: &Target, shape: Shape, bound: f64) -> String {
    let words = target.against.words();
    let peer = record.fastest(shape, |who| target.against.includes(who));
    let (Some(rate), Some((peer, theirs))) = (record.rate(shape, target.ours), peer) else {
        return format!(" {words} | - | - | - | - | {bound:.1} | {} |", missing(record, target));
    };
    let Some(ratio) = record.ratio(shape, [target.ours, peer], Row::rate) else {
        return format!(" {words} | - | - | 0 | - | {bound:.1} | no round with both |");
    };
    let against = if words == peer { peer.into() } else { format!("{words}: {peer}") };
    let verdict = if ratio.median >= bound {
        "met".into()
    } else {
        format!("**missed** by {:.0} %", (1.0 - ratio.median / bound) * 100.0)
    };
    format!(
        " {against} | {:.1} / {:.1} | {:.2} ({:.2} … {:.2}) | {} | {} | {bound:.1} | {verdict} |",
        rate.median / 1e6,
        theirs.median / 1e6,
        ratio.median,
        ratio.quartiles[0],
        ratio.quartiles[1],
        ratio.count,
        record.basis(shape).name(),
    )
}

fn missing(record: &Rates, target: &Target) -> &'static str {
    if target.ours == name::OWNED && !record.took_part(name::OWNED) {
        "`owned_producer` is not there yet"
    } else {
        "no turn that counts"
    }
}
