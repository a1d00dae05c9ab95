//! The final report: what became of every item.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use sluicegate::{DurationSummary, Stats};

use crate::units::{grouped, rounded};

/// What is counted on the reader's side; the rest is the engine's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Intake {
    pub(crate) items_read: u64,
    pub(crate) rejected: u64,
    pub(crate) unqueued: u64,
}

/// The report. The fields of the JSON object have these names, in this order.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `items_read == rejected + enqueued + unqueued`
    pub(crate) items_read: u64,
    pub(crate) rejected: u64,
    /// Read, but not taken by the engine before the drain deadline.
    pub(crate) unqueued: u64,
    /// `enqueued == flushed_ok + flushed_fail + dropped + unknown + in_flight`
    pub(crate) enqueued: u64,
    pub(crate) flushed_ok: u64,
    pub(crate) flushed_fail: u64,
    pub(crate) dropped: u64,
    pub(crate) unknown: u64,
    pub(crate) in_flight: u64,
    /// Of the items in `flushed_fail` and `unknown`: kept as dead letters.
    pub(crate) dead_lettered: u64,
    pub(crate) batches: u64,
    /// Calls of the sink.
    pub(crate) writes: u64,
    /// Of these, tries again of items that had failed.
    pub(crate) retries: u64,
    pub(crate) mean_batch: f64,
    pub(crate) flush_reasons: Map<String, Value>,
    pub(crate) durations: Durations,
    /// Items stored per second of the run.
    pub(crate) items_per_second: f64,
    /// Bytes of an unfinished line that was in hand when intake was stopped; not an item.
    pub(crate) partial_line_bytes: u64,
    /// `end of input`, `SIGINT`, `SIGTERM`, `SIGHUP`, `sink gone` or `read error`.
    pub(crate) stopped_by: &'static str,
    /// Whether a second signal cut the drain short.
    pub(crate) aborted: bool,
    pub(crate) errors: Vec<String>,
}

/// In seconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Durations {
    pub(crate) run: f64,
    /// From the end of intake to the end of the last write.
    pub(crate) drain: f64,
    /// A write of the sink.
    pub(crate) flush: Spread,
    /// The oldest item of a batch when the sink had answered.
    pub(crate) batch_age: Spread,
    /// How the time of batches was spent, by phase.
    pub(crate) phases: BTreeMap<&'static str, Spread>,
}

/// How a duration is distributed, in seconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Spread {
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl From<&DurationSummary> for Spread {
    fn from(summary: &DurationSummary) -> Self {
        Self {
            mean: summary.mean.as_secs_f64(),
            p50: summary.p50.as_secs_f64(),
            p99: summary.p99.as_secs_f64(),
            max: summary.max.as_secs_f64(),
        }
    }
}

impl Report {
    pub(crate) fn new(intake: Intake, stats: &Stats, run: Duration, drain: Duration) -> Self {
        let tally = stats.tally;
        let reasons = stats.flush_reasons.iter();
        let seconds = run.as_secs_f64();
        Self {
            items_read: intake.items_read,
            rejected: intake.rejected,
            unqueued: intake.unqueued,
            enqueued: tally.enqueued,
            flushed_ok: tally.flushed_ok,
            flushed_fail: tally.flushed_fail,
            dropped: tally.dropped,
            unknown: tally.unknown,
            in_flight: tally.in_flight,
            dead_lettered: stats.dead_lettered,
            batches: stats.batches,
            writes: stats.writes,
            retries: stats.retries,
            mean_batch: stats.batch_size.mean,
            flush_reasons: reasons
                .map(|(reason, n)| (reason.name().to_owned(), n.into()))
                .collect(),
            durations: Durations {
                run: seconds,
                drain: drain.as_secs_f64(),
                flush: (&stats.flush_duration).into(),
                batch_age: (&stats.batch_age).into(),
                phases: stats.phases.iter().map(|(name, phase)| (name, phase.into())).collect(),
            },
            items_per_second: if seconds > 0.0 { tally.flushed_ok as f64 / seconds } else { 0.0 },
            partial_line_bytes: 0,
            stopped_by: "end of input",
            aborted: false,
            errors: Vec::new(),
        }
    }

    /// Whether both sums come out.
    pub(crate) fn balances(&self) -> bool {
        let fates =
            self.flushed_ok + self.flushed_fail + self.dropped + self.unknown + self.in_flight;
        self.enqueued == fates && self.items_read == self.rejected + self.enqueued + self.unqueued
    }

    /// Whether every item read is stored.
    pub(crate) fn is_clean(&self) -> bool {
        self.balances() && self.items_read == self.flushed_ok && self.errors.is_empty()
    }

    /// One JSON object on a line.
    pub(crate) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// A few lines for people.
    pub(crate) fn write_human(&self, out: &mut impl Write) -> io::Result<()> {
        let n = grouped;
        let rate = rounded(self.items_per_second);
        writeln!(
            out,
            "{} items read, {} stored in {} batches (mean {:.1}) in {:.2} s: {rate} items/s",
            n(self.items_read),
            n(self.flushed_ok),
            n(self.batches),
            self.mean_batch,
            self.durations.run,
        )?;
        writeln!(
            out,
            "  read {} = rejected {} + enqueued {} + unqueued {}",
            n(self.items_read),
            n(self.rejected),
            n(self.enqueued),
            n(self.unqueued),
        )?;
        writeln!(
            out,
            "  enqueued {} = flushed_ok {} + flushed_fail {} + dropped {} + unknown {} \
             + in_flight {}",
            n(self.enqueued),
            n(self.flushed_ok),
            n(self.flushed_fail),
            n(self.dropped),
            n(self.unknown),
            n(self.in_flight),
        )?;
        let reasons: Vec<_> =
            self.flush_reasons.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let flush = &self.durations.flush;
        writeln!(
            out,
            "  batches closed by: {}; a write took {:.2} ms (p99 {:.2} ms)",
            reasons.join(", "),
            flush.mean * 1e3,
            flush.p99 * 1e3,
        )?;
        self.write_remarks(out)?;
        out.flush()
    }

    fn write_remarks(&self, out: &mut impl Write) -> io::Result<()> {
        if self.retries > 0 || self.dead_lettered > 0 {
            let (writes, retries) = (grouped(self.writes), grouped(self.retries));
            let dead = grouped(self.dead_lettered);
            writeln!(out, "  {writes} writes, {retries} of them again; {dead} dead letters")?;
        }
        if self.stopped_by != "end of input" {
            let aborted = if self.aborted { "; the drain was cut short" } else { "" };
            writeln!(out, "  stopped by: {}{aborted}", self.stopped_by)?;
        }
        if self.partial_line_bytes > 0 {
            let bytes = n_bytes(self.partial_line_bytes);
            writeln!(out, "  {bytes} of an unfinished line were in hand and are not an item")?;
        }
        if !self.balances() {
            writeln!(out, "  THE SUMS DO NOT COME OUT: this is a bug in sluicegate")?;
        }
        self.errors.iter().try_for_each(|error| writeln!(out, "  error: {error}"))
    }
}

fn n_bytes(bytes: u64) -> String {
    format!("{} bytes", grouped(bytes))
}
