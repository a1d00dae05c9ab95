//! The figures of a bench as a table of Markdown: a line for each case, a column for each measure.

use super::{Basis, Label, Middle, Record, Spread};

/// The table, in columns that are straight on a terminal, too, and which turns count.
pub fn table(record: &Record, bench: &str) -> String {
    let basis = Basis::of(record, bench);
    let measures = record.measures(bench);
    let mut lines = vec![vec![bench.to_owned()]];
    lines[0].extend(measures.iter().map(|measure| (*measure).to_owned()));
    for case in record.cases(bench) {
        let cell = |measure: &&str| cell(basis, basis.middle(record, bench, case, measure));
        let cells = measures.iter().map(cell);
        lines.push([case.to_owned()].into_iter().chain(cells).collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
    let mut text: Vec<String> = lines.iter().map(|line| padded(line, &widths)).collect();
    let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    text.insert(1, format!("|-{}-|", dashes.join("-|-")));
    format!("{}\n\n{}\n", text.join("\n"), said(record, bench, basis))
}

fn padded(line: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> =
        line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    format!("| {} |", cells.join(" | "))
}

fn cell(wanted: Basis, middle: Option<Middle>) -> String {
    let Some(Middle { spread, basis }) = middle else { return "-".into() };
    let Spread { median, quartiles: [low, high], .. } = spread;
    let mark = if basis == wanted { "" } else { " *" };
    format!("{} ({}–{}){mark}", short(median), short(low), short(high))
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    let places = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.places$}")
}

fn said(record: &Record, bench: &str, basis: Basis) -> String {
    let counted = record.of(bench).filter(|row| basis.takes(row.label)).count();
    let all = record.of(bench).count();
    if basis == Basis::Only(Label::Alone) {
        return format!("One thread, {all} samples.");
    }
    let name = basis.name();
    format!("CPUs: {name}, {counted} of {all} figures. Where there is none, others stand with a *.")
}
