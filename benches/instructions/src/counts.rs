//! The file of counts, and two of them compared.

use std::fmt;
use std::fs;

const HEADER: &str = "case\tinstructions\tlines";

/// The largest growth of instructions that passes.
pub const BOUND: f64 = 0.03;

/// A case: instructions, and cache lines written, for each item (or step).
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub case: String,
    /// Instructions.
    pub instructions: f64,
    /// Cache lines written.
    pub lines: f64,
}

/// What was counted, and with what.
#[derive(Debug, PartialEq)]
pub struct Counts {
    /// Names and values of what the counts depend on besides the code.
    pub facts: Vec<(String, String)>,
    /// The cases.
    pub rows: Vec<Row>,
}

impl Counts {
    /// What a file holds.
    pub fn read(file: &str) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|why| format!("{file}: {why}"))?;
        Self::parse(&text).map_err(|why| format!("{file}: {why}"))
    }

    /// The reverse of `to_string`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut facts, mut rows) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| *line != HEADER) {
            if let Some(fact) = line.strip_prefix("# ") {
                let (name, value) = fact.split_once(": ").ok_or(format!("not a fact: {line}"))?;
                facts.push((name.to_owned(), value.to_owned()));
            } else {
                rows.push(row(line).ok_or(format!("not a case: {line}"))?);
            }
        }
        Ok(Self { facts, rows })
    }

    fn row(&self, case: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.case == case)
    }
}

fn row(line: &str) -> Option<Row> {
    let count = |text: &str| text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
    let [case, instructions, lines] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    let instructions = count(instructions).filter(|n| *n > 0.0)?;
    Some(Row { case: case.to_owned(), instructions, lines: count(lines)? })
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.iter().try_for_each(|(name, value)| writeln!(f, "# {name}: {value}"))?;
        writeln!(f, "{HEADER}")?;
        for Row { case, instructions, lines } in &self.rows {
            writeln!(f, "{case}\t{instructions:.3}\t{lines:.3}")?;
        }
        Ok(())
    }
}

/// What came of comparing.
#[derive(Debug)]
pub struct Comparison {
    /// A line for each case.
    pub table: String,
    /// What is to be known.
    pub notes: Vec<String>,
    /// What must not be.
    pub failures: Vec<String>,
}

impl Comparison {
    /// Of these counts with those of before.
    pub fn of(baseline: &Counts, now: &Counts) -> Self {
        let change = |row: &Row| {
            baseline.row(&row.case).map(|old| row.instructions / old.instructions - 1.0)
        };
        let grown = |row: &Row| change(row).is_some_and(|change| change > BOUND);
        let shrunk = |row: &Row| change(row).is_some_and(|change| change < -BOUND);
        let new = |row: &Row| change(row).is_none();
        let lost = |row: &Row| now.row(&row.case).is_none();
        let lines = |row: &Row| {
            let old = baseline.row(&row.case);
            old.is_some_and(|old| (row.lines - old.lines).abs() > BOUND * old.lines)
        };
        let bound = 100.0 * BOUND;
        let failures = [
            those(&format!("more than {bound} % more instructions"), &now.rows, grown),
            those("not in the baseline", &now.rows, new),
            those("in the baseline, but not counted", &baseline.rows, lost),
        ];
        let mut notes = other_facts(baseline, now);
        let renew = format!("Renew the baseline, more than {bound} % fewer instructions");
        notes.extend(those(&renew, &now.rows, shrunk));
        notes.extend(those("Not as many cache lines written as before", &now.rows, lines));
        Self {
            table: table(baseline, now),
            notes,
            failures: failures.into_iter().flatten().collect(),
        }
    }
}

fn other_facts(baseline: &Counts, now: &Counts) -> Vec<String> {
    let other = baseline.facts.iter().filter(|fact| !now.facts.contains(fact));
    let note = |(name, value): &(String, String)| {
        let ours = now.facts.iter().find(|fact| fact.0 == *name).map_or("?", |fact| &fact.1);
        format!("The baseline is of {name} {value}, and this is {ours}: counts may differ by that.")
    };
    other.map(note).collect()
}

/// A sentence with the names of the rows that are so.
fn those(what: &str, rows: &[Row], so: impl Fn(&Row) -> bool) -> Option<String> {
    let cases: Vec<&str> = rows.iter().filter(|row| so(row)).map(|row| row.case.as_str()).collect();
    (!cases.is_empty()).then(|| format!("{what}: {}", cases.join(", ")))
}

fn table(baseline: &Counts, now: &Counts) -> String {
    let mut table = format!(
        "{:<18}{:>12}{:>12}{:>10}{:>14}{:>10}\n",
        "for each item", "baseline", "now", "change", "lines before", "now"
    );
    for Row { case, instructions, lines } in &now.rows {
        let [old, change, before] = match baseline.row(case) {
            Some(old) => [
                format!("{:.2}", old.instructions),
                format!("{:+.2} %", 100.0 * (instructions / old.instructions - 1.0)),
                format!("{:.2}", old.lines),
            ],
            None => ["-", "new", "-"].map(str::to_owned),
        };
        table += &format!(
            "{case:<18}{old:>12}{instructions:>12.2}{change:>10}{before:>14}{lines:>10.2}\n"
        );
    }
    table
}
