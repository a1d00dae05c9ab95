//! The samples that criterion has kept, as rows: each sample is a round.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Figure, Label, Row};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// All samples of the last runs below this folder, in the order in which they were taken.
pub fn rows(folder: &Path) -> Outcome<Vec<Row>> {
    let mut runs = Vec::new();
    find(folder, &mut runs)?;
    runs.sort_by_key(|run| run.0);
    Ok(runs.into_iter().flat_map(|run| run.1).collect())
}

type Run = (std::time::SystemTime, Vec<Row>);

fn find(folder: &Path, runs: &mut Vec<Run>) -> Outcome<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) }; // nothing was measured
    for entry in entries {
        let path = entry?.path();
        let samples = path.join("sample.json");
        if path.ends_with("new") && samples.exists() {
            let rows = run(&path).map_err(|why| format!("{}: {why}", path.display()))?;
            runs.push((samples.metadata()?.modified()?, rows));
        } else if path.is_dir() {
            find(&path, runs)?;
        }
    }
    Ok(())
}

/// The rows of one benchmark, an iteration of which is an item.
fn run(folder: &Path) -> Outcome<Vec<Row>> {
    let about = read(&folder.join("benchmark.json"))?;
    let name = |field: &str| about[field].as_str().ok_or(format!("no {field}")).map(str::to_owned);
    let (bench, case) = (name("group_id")?, name("function_id")?);
    let measure = format!("{}: ns per item", name("value_str")?);
    let samples = read(&folder.join("sample.json"))?;
    let numbers = |field: &str| -> Outcome<Vec<f64>> {
        let all = samples[field].as_array().ok_or(format!("no {field}"))?;
        Ok(all.iter().filter_map(Value::as_f64).collect())
    };
    let rows = (1..).zip(numbers("times")?.into_iter().zip(numbers("iters")?));
    let row = |(round, (time, items)): (usize, (f64, f64))| Row {
        bench: bench.clone(),
        round,
        label: Label::Alone,
        probes: [0.0; 2],
        figure: Figure::new(&case, &measure, time / items),
    };
    Ok(rows.map(row).collect())
}

fn read(file: &Path) -> Outcome<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}
