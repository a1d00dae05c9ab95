//! The progress bar: on a terminal only.

use std::io::{self, IsTerminal as _};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluicegate::Stats;

use crate::report::Intake;
use crate::units::{grouped, rounded};

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
        let oldest = stats.oldest_age.map_or(0.0, |age| age.as_secs_f64() * 1e3);
        let mut message = format!(
            "{} items  {}/s  {} batches of {:.0}  queue {}/{}  oldest {oldest:.0} ms",
            grouped(stored),
            rounded(self.rate),
            grouped(stats.batches),
            stats.batch_size.mean,
            grouped(stats.queue_depth),
            grouped(stats.queue_capacity),
        );
        let lost = intake.rejected + stats.tally.flushed_fail + stats.tally.unknown;
        if lost > 0 {
            message.push_str(&format!("  rejected {}", grouped(lost)));
        }
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
