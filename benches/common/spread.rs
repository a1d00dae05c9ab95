//! Median and quartiles. `benches/compare` has this file, too.

/// The middle of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half are below.
    pub median: f64,
    /// A quarter is below, and three quarters are.
    pub quartiles: [f64; 2],
    /// How many values.
    pub count: usize,
}

impl Spread {
    /// Of none there is none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |quarters: usize| {
            let (low, part) =
                ((values.len() - 1) * quarters / 4, (values.len() - 1) * quarters % 4);
            let high = (low + 1).min(values.len() - 1);
            values[low] + (values[high] - values[low]) * part as f64 / 4.0
        };
        (!values.is_empty()).then(|| Self {
            median: at(2),
            quartiles: [at(1), at(3)],
            count: values.len(),
        })
    }
}
