//! Medians, quartiles and ratios of a record.

use crate::contestant::{Contestant, Shape};
use crate::field::FIELD;
use crate::probe::Label;
use crate::record::{Rates, Record, Row};
use crate::turn::Measure;

#[path = "../../common/spread.rs"]
mod spread;
pub use spread::Spread;

/// Turns of one contestant from which a median can be taken.
const ENOUGH: usize = 3;

/// Which turns of a shape count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Those while the CPUs were at this distance.
    Only(Label),
    /// All but those while another program had a CPU: too few were alike.
    All,
}

impl Basis {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Only(Label::Near) => "near",
            Self::Only(Label::Far) => "far",
            Self::Only(_) | Self::All => "mixed",
        }
    }
}

impl<M: Measure> Record<M> {
    /// Without the turns during which another program had a CPU.
    fn of_shape(&self, shape: Shape) -> impl Iterator<Item = &Row<M>> {
        self.rows.iter().filter(move |row| row.shape == shape && row.label != Label::Busy)
    }

    /// Turns with CPUs near each other, if every contestant has enough of those; else those with CPUs
    /// far, if so; else all. Of no turns it is all.
    pub fn basis(&self, shape: Shape) -> Basis {
        let labels = [Label::Near, Label::Far];
        let enough = labels.into_iter().find(|label| self.has_enough(shape, *label));
        enough.map_or(Basis::All, Basis::Only)
    }

    /// Whether every contestant of that shape had [`ENOUGH`] turns with that label, or all of its own.
    fn has_enough(&self, shape: Shape, label: Label) -> bool {
        let turns = |name: &str, counts: &dyn Fn(Label) -> bool| {
            let ended = self.of_shape(shape).filter(|row| row.measured.is_ok());
            ended.filter(|row| row.contestant == name && counts(row.label)).count()
        };
        let mut rows = self.of_shape(shape).peekable();
        rows.peek().is_some()
            && rows.all(|row| {
                let name = &row.contestant;
                turns(name, &|of| of == label) >= turns(name, &|_| true).min(ENOUGH)
            })
    }

    /// Round and figure of the turns that count.
    fn turns(
        &self,
        shape: Shape,
        name: &str,
        figure: impl Fn(&Row<M>) -> Option<f64>,
    ) -> Vec<(usize, f64)> {
        let basis = self.basis(shape);
        self.of_shape(shape)
            .filter(|row| row.contestant == name)
            .filter(|row| basis == Basis::All || basis == Basis::Only(row.label))
            .filter_map(|row| Some((row.round, figure(row)?)))
            .collect()
    }

    /// A contestant's figure.
    pub fn spread(
        &self,
        shape: Shape,
        name: &str,
        figure: impl Fn(&Row<M>) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(self.turns(shape, name, figure).into_iter().map(|turn| turn.1).collect())
    }

    /// How many times the second's figure the first's is, within each round.
    pub fn ratio(
        &self,
        shape: Shape,
        [ours, theirs]: [&str; 2],
        figure: impl Fn(&Row<M>) -> Option<f64>,
    ) -> Option<Spread> {
        let theirs = self.turns(shape, theirs, &figure);
        let pair = |(round, ours): (usize, f64)| {
            let (_, theirs) = theirs.iter().find(|turn| turn.0 == round)?;
            Some(ours / theirs)
        };
        Spread::of(self.turns(shape, ours, figure).into_iter().filter_map(pair).collect())
    }

    /// Whether the contestant had a turn at all.
    pub fn took_part(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.contestant == name)
    }

    /// Every shape that was measured, in the order of the file.
    pub fn shapes(&self) -> Vec<Shape> {
        let mut shapes: Vec<Shape> = Vec::new();
        for row in &self.rows {
            if !shapes.contains(&row.shape) {
                shapes.push(row.shape);
            }
        }
        shapes
    }
}

impl Rates {
    /// Items/s.
    pub fn rate(&self, shape: Shape, name: &str) -> Option<Spread> {
        self.spread(shape, name, Row::rate)
    }

    /// The one with the highest median.
    pub fn fastest(
        &self,
        shape: Shape,
        among: impl Fn(&dyn Contestant) -> bool,
    ) -> Option<(&'static str, Spread)> {
        let rate = |who: &&dyn Contestant| Some((who.name(), self.rate(shape, who.name())?));
        let rates = FIELD.iter().filter(|who| among(**who)).filter_map(rate);
        rates.max_by(|a, b| a.1.median.total_cmp(&b.1.median))
    }
}
