//! Where and with what it was measured.

#[path = "../common/here.rs"]
mod here;

const LOCK: &str = include_str!("../../Cargo.lock");
/// What the figures depend on, or come from, besides our own code.
const PACKAGES: [&str; 6] =
    ["sluicegate", "mimalloc", "tokio", "rusqlite", "libsqlite3-sys", "criterion"];

/// Names and values, for the head of the CSV file.
pub fn facts(command: &str) -> Vec<(String, String)> {
    let versions = PACKAGES.map(|package| format!("{package} {}", here::version(LOCK, package)));
    let own = [("versions", versions.join(", ")), ("command", command.to_owned())];
    let facts = here::facts().into_iter().chain(own);
    facts.map(|(name, value)| (name.to_owned(), value)).collect()
}
