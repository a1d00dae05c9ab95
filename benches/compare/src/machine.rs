//! Where and with what it was measured.

#[path = "../../common/here.rs"]
mod here;

use crate::args::Options;

const LOCK: &str = include_str!("../Cargo.lock");

/// Names and values, for the head of the CSV file.
pub fn facts(options: &Options) -> Vec<(String, String)> {
    let command = ("command", format!("make compare ARGS=\"{}\"", options.given));
    let facts = here::facts().into_iter().chain([command]);
    facts.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The version of a package in this program's lock file; of none: the standard library's, or our
/// own few lines.
pub fn version(package: Option<&str>) -> String {
    package.map_or("-", |package| here::version(LOCK, package)).to_owned()
}
