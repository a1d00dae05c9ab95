//! What the checks have found.

use std::fmt;

/// The checks, and what came of them. Its `Display` is a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub(super) checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// What it is about, as in the table of the [module](super).
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sink does what it must; with a remark, or none.
    Passed(String),
    /// It does not, and this is what it does.
    Failed(String),
    /// Nothing to check, and why.
    NotApplicable(String),
}

impl Report {
    /// Every check.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The verdict of the check of this name.
    #[must_use]
    pub fn verdict(&self, name: &str) -> Option<&Verdict> {
        self.checks.iter().find(|check| check.name == name).map(|check| &check.verdict)
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.verdict, Verdict::Failed(_)))
    }

    /// Whether no check has failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// Fails the test that calls it, with the table, unless every check has passed or was not
    /// applicable.
    ///
    /// # Panics
    /// When a check has failed.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.passed(), "the sink does not conform\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for Check { name, verdict } in &self.checks {
            let (word, remark) = match verdict {
                Verdict::Passed(remark) => ("passed", remark),
                Verdict::Failed(remark) => ("FAILED", remark),
                Verdict::NotApplicable(remark) => ("-", remark),
            };
            let line = format!("{name:width$}  {word:6}  {remark}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
