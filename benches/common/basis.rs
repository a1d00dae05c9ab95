//! Which rounds count, and their middle.

use super::{Label, Record, Spread};

/// The middle of a figure, and the turns that it is from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    /// Over the rounds.
    pub spread: Spread,
    /// Another than the bench's if that has no turn for this figure.
    pub basis: Basis,
}

/// Which turns of a bench count: those while the CPUs were near, if they are a third; else those
/// while they were far, if they are half; else all. Turns while another program had a CPU count
/// only if there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Those with this label.
    Only(Label),
    /// All that were not busy.
    Mixed,
}

impl Basis {
    /// Of a bench.
    pub fn of(record: &Record, bench: &str) -> Self {
        let count = |label| record.of(bench).filter(|row| row.label == label).count();
        let calm = record.of(bench).count() - count(Label::Busy);
        if calm == 0 {
            Self::Only(Label::Busy)
        } else if count(Label::Alone) == calm {
            Self::Only(Label::Alone)
        } else if 3 * count(Label::Near) >= calm {
            Self::Only(Label::Near)
        } else if 2 * count(Label::Far) >= calm {
            Self::Only(Label::Far)
        } else {
            Self::Mixed
        }
    }

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Only(label) => label.name(),
            Self::Mixed => "mixed",
        }
    }

    /// Whether a turn with this label counts.
    pub fn takes(self, label: Label) -> bool {
        match self {
            Self::Only(only) => only == label,
            Self::Mixed => label != Label::Busy,
        }
    }

    /// The middle of a figure over the rounds that count; if there is none, over the others.
    pub fn middle(self, record: &Record, bench: &str, case: &str, measure: &str) -> Option<Middle> {
        let rows = || {
            let rows = record.of(bench);
            rows.filter(|row| row.figure.case == case && row.figure.measure == measure)
        };
        [self, Self::Mixed, Self::Only(Label::Busy)].into_iter().find_map(|basis| {
            let counted = rows().filter(|row| basis.takes(row.label));
            let spread = Spread::of(counted.map(|row| row.figure.value).collect())?;
            Some(Middle { spread, basis })
        })
    }
}
