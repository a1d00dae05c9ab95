//! The table: created where it is missing, checked where it is there.

use std::fmt::Write as _;

use rusqlite::{Connection, OptionalExtension};

use crate::OpenError;
use crate::options::{Column, SqliteOptions};

/// SQLite's limit, unless it was built with another.
const COLUMNS_MAX: usize = 2_000;

/// Quotes a name for use in SQL: `"` is doubled, so that no name can end the quotes.
///
/// # Errors
/// [`OpenError::Name`] for an empty name and for one with a NUL, where SQLite's text would end.
///
/// ```
/// assert_eq!(sluicegate_sqlite::quote(r#"a "b""#).unwrap(), r#""a ""b""""#);
/// assert!(sluicegate_sqlite::quote("a\0b").is_err());
/// ```
pub fn quote(name: &str) -> Result<String, OpenError> {
    let refuse = |reason| Err(OpenError::Name { name: name.to_owned(), reason });
    if name.is_empty() {
        return refuse("is empty");
    }
    if name.contains('\0') {
        return refuse("contains a NUL");
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// Creates or checks the table and returns the insert for it.
pub(crate) fn prepare(db: &Connection, options: &SqliteOptions) -> Result<String, OpenError> {
    check_columns(&options.columns)?;
    let insert = insert_sql(options)?;
    if options.create && find_table(db, &options.table)?.is_none() {
        db.execute_batch(&create_sql(options)?)?;
    }
    match find_table(db, &options.table)?.as_deref() {
        Some("table") => check_table(db, options)?,
        Some(kind) => return Err(mismatch(options, &format!("is a {kind}, not a table"))),
        None => return Err(mismatch(options, "does not exist")),
    }
    Ok(insert)
}

fn mismatch(options: &SqliteOptions, what: &str) -> OpenError {
    OpenError::Schema(format!("table {:?} {what}", options.table))
}

fn check_columns(columns: &[Column]) -> Result<(), OpenError> {
    if columns.is_empty() {
        return Err(OpenError::Columns("no columns were given".to_owned()));
    }
    if columns.len() > COLUMNS_MAX {
        let what = format!("{} columns, SQLite takes at most {COLUMNS_MAX}", columns.len());
        return Err(OpenError::Columns(what));
    }
    for (index, column) in columns.iter().enumerate() {
        let same = |other: &Column| other.name.eq_ignore_ascii_case(&column.name);
        if columns[..index].iter().any(same) {
            return Err(OpenError::Columns(format!("column {:?} is named twice", column.name)));
        }
    }
    Ok(())
}

fn insert_sql(options: &SqliteOptions) -> Result<String, OpenError> {
    let mut names = String::new();
    let mut places = String::new();
    for (index, column) in options.columns.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(names, "{comma}{}", quote(&column.name)?);
        let _ = write!(places, "{comma}?{}", index + 1);
    }
    Ok(format!("INSERT INTO {} ({names}) VALUES ({places})", quote(&options.table)?))
}

fn create_sql(options: &SqliteOptions) -> Result<String, OpenError> {
    let own = options.table.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
    if own {
        let reason = "is not free: SQLite keeps names in sqlite_ for itself";
        return Err(OpenError::Name { name: options.table.clone(), reason });
    }
    let mut columns = String::new();
    for (index, column) in options.columns.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(columns, "{comma}{} {}", quote(&column.name)?, column.affinity.name());
    }
    Ok(format!("CREATE TABLE IF NOT EXISTS {} ({columns}) STRICT", quote(&options.table)?))
}

/// `table`, `view`, `virtual` or `shadow`; none where there is nothing of this name.
fn find_table(db: &Connection, name: &str) -> Result<Option<String>, OpenError> {
    let sql =
        "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    Ok(db.query_row(sql, [name], |row| row.get(0)).optional()?)
}

struct Existing {
    name: String,
    required: bool,
    generated: bool,
}

fn check_table(db: &Connection, options: &SqliteOptions) -> Result<(), OpenError> {
    // SQLite itself finds a value for a lone INTEGER PRIMARY KEY, the row's number, and no other.
    let sql = "SELECT name, \"notnull\" AND dflt_value IS NULL \
               AND NOT (pk AND upper(type) = 'INTEGER' \
                 AND (SELECT count(*) FROM pragma_table_info(?1) WHERE pk) = 1 \
                 AND NOT (SELECT wr FROM pragma_table_list WHERE schema = 'main' \
                   AND name = ?1 COLLATE NOCASE)), \
               hidden FROM pragma_table_xinfo(?1)";
    let mut statement = db.prepare(sql)?;
    let there = statement
        .query_map([&options.table], |row| {
            let hidden: i64 = row.get(2)?;
            Ok(Existing { name: row.get(0)?, required: row.get(1)?, generated: hidden != 0 })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<_> = options
        .columns
        .iter()
        .filter(|column| !there.iter().any(|e| e.name.eq_ignore_ascii_case(&column.name)))
        .map(|column| &column.name)
        .collect();
    if !missing.is_empty() {
        let names: Vec<_> = there.iter().map(|existing| &existing.name).collect();
        return Err(mismatch(options, &format!("has no column {missing:?}; it has {names:?}")));
    }
    for existing in &there {
        let written = options.columns.iter().any(|c| existing.name.eq_ignore_ascii_case(&c.name));
        if written && existing.generated {
            let what = format!("computes its column {:?} itself", existing.name);
            return Err(mismatch(options, &what));
        }
        if !written && existing.required && !existing.generated {
            let what = format!("needs a value for its column {:?} (NOT NULL)", existing.name);
            return Err(mismatch(options, &what));
        }
    }
    Ok(())
}
