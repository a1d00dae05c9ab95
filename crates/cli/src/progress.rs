//! The progress bar: on a terminal only.

use std::io::{self, IsTerminal as _};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluicegate::Stats;

use crate::report::Intake;
use crate::units::rounded;

/// Drawn on standard error; not at all where that is no terminal.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: (Instant, u64),
    rate: f64,
}

/// How much of the newest figure goes into the shown rate.
const SMOOTHING: f64 = 0.3;

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: (Instant::now(), 0), rate: 0.0 }
    }

    pub(crate) fn update(&mut self, intake: Intake, stats: &Stats) {
        let Some(bar) = &self.bar else { return };
        let (then, before) = self.last;
        let stored = stats.tally.flushed_ok;
        let passed = then.elapsed().as_secs_f64();
        if passed > 0.0 {
            let rate = stored.saturating_sub(before) as f64 / passed;
            let first = self.rate == 0.0;
            self.rate = if first { rate } else { self.rate + SMOOTHING * (rate - self.rate) };
            self.last = (Instant::now(), stored);
        }
        let message = line(intake, stats, self.rate);
        bar.tick();
        bar.set_message(message);
    }

    /// Removes the bar, so that the report starts on a clean line.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// At most 70 characters, so that with the time before it the line fits a terminal of 80.
fn line(intake: Intake, stats: &Stats, rate: f64) -> String {
    let queue = 100 * stats.queue_depth / stats.queue_capacity.max(1);
    let mut line = format!(
        "{} stored  {}/s  {:.0} a batch  queue {queue}%",
        short(stats.tally.flushed_ok as f64),
        short(rate),
        stats.batch_size.mean,
    );
    if let Some(age) = stats.oldest_age {
        line.push_str(&format!("  oldest {:.1} s", age.as_secs_f64()));
    }
    let lost = intake.rejected + stats.tally.flushed_fail + stats.tally.unknown;
    if lost > 0 {
        line.push_str(&format!("  rejected {}", short(lost as f64)));
    }
    line
}

/// Up to 9,999 as it is, beyond that in thousands, millions and so on.
fn short(number: f64) -> String {
    if number < 9_999.5 {
        return rounded(number);
    }
    let units = [(1e3, "k"), (1e6, "M"), (1e9, "G")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| number < unit * 999.95).unwrap_or((1e12, "T"));
    format!("{:.1}{name}", number / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        let shown = [0.0, 9_999.0, 10_000.0, 999_960.0, 12_345_678.0, 5e12].map(short);
        assert_eq!(shown, ["0", "9,999", "10.0k", "1.0M", "12.3M", "5.0T"]);
    }
}
