//! Medians and quartiles.

use serde::Serialize;

/// The middle of some figures, and the range of their middle half.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quartiles {
    pub(crate) q1: f64,
    pub(crate) median: f64,
    pub(crate) q3: f64,
}

impl Quartiles {
    /// Those of no figures are 0.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let [q1, median, q3] = [1, 2, 3].map(|quarters| quantile(&sorted, quarters));
        Self { q1, median, q3 }
    }
}

/// The figure that has so many quarters of the others below it; between two it is interpolated.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let (index, part) = (last * quarters / 4, (last * quarters % 4) as f64 / 4.0);
    match sorted.get(index..) {
        Some([low, high, ..]) => low + part * (high - low),
        Some([low]) => *low,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quartiles(figures: &[f64]) -> [f64; 3] {
        let Quartiles { q1, median, q3 } = Quartiles::of(figures.iter().copied());
        [q1, median, q3]
    }

    #[test]
    fn they_are_found_whatever_the_order() {
        assert_eq!(quartiles(&[]), [0.0; 3]);
        assert_eq!(quartiles(&[7.0]), [7.0; 3]);
        assert_eq!(quartiles(&[2.0, 1.0]), [1.25, 1.5, 1.75]);
        assert_eq!(quartiles(&[30.0, 10.0, 20.0]), [15.0, 20.0, 25.0]);
        assert_eq!(quartiles(&[4.0, 1.0, 3.0, 2.0]), [1.75, 2.5, 3.25]);
        assert_eq!(quartiles(&[5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
    }

    #[test]
    fn one_wild_figure_does_not_move_the_middle() {
        assert_eq!(quartiles(&[1.0, 1.0, 1.0, 1.0, 1e9])[1], 1.0);
    }
}
