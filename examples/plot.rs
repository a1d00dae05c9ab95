//! Draws tables of measurements: each CSV file of a folder becomes an SVG of the same name. The
//! first column is what runs to the right; each other column has a panel of its own, since their
//! scales differ.
//!
//! `cargo run --example plot [FROM [TO]]`: from `docs/failure` to `target/plots`. `ci/plots.sh`
//! makes the files anew and draws them in place.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

type Outcome<T> = Result<T, Box<dyn Error>>;

const WIDTH: u32 = 900;
const PANEL: u32 = 170;
const TITLE: u32 = 40;
const LINE: RGBColor = RGBColor(20, 90, 160);

fn main() -> Outcome<()> {
    let mut folders = std::env::args_os().skip(1).map(PathBuf::from);
    let from = folders.next().unwrap_or_else(|| "docs/failure".into());
    let to = folders.next().unwrap_or_else(|| "target/plots".into());
    fs::create_dir_all(&to)?;
    let mut files: Vec<PathBuf> = fs::read_dir(&from)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension() == Some(OsStr::new("csv")));
    files.sort();
    for file in &files {
        let name = file.file_stem().and_then(OsStr::to_str).ok_or("a name that is not UTF-8")?;
        let table = Table::parse(&fs::read_to_string(file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let svg = to.join(name).with_extension("svg");
        draw(&svg, name, &table)?;
        let lines = fs::read_to_string(&svg)?.matches("<polyline").count();
        assert!(lines >= table.columns.len(), "each column has its line");
        println!("{}: {} rows, {} panels", svg.display(), table.x.len(), table.columns.len());
    }
    assert!(!files.is_empty(), "no CSV file in {}", from.display());
    Ok(())
}

/// Columns of numbers.
struct Table {
    x_name: String,
    x: Vec<f64>,
    columns: Vec<(String, Vec<f64>)>,
}

impl Table {
    fn parse(text: &str) -> Outcome<Self> {
        let mut lines = text.lines();
        let mut names = lines.next().ok_or("no header")?.split(',').map(str::to_owned);
        let x_name = names.next().ok_or("no column")?;
        let mut columns: Vec<(String, Vec<f64>)> = names.map(|name| (name, Vec::new())).collect();
        let mut x = Vec::new();
        for line in lines {
            let row: Vec<f64> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let (first, others) = row.split_first().ok_or("an empty row")?;
            if others.len() != columns.len() {
                return Err(format!("{line:?} has not the columns of the header").into());
            }
            x.push(*first);
            columns.iter_mut().zip(others).for_each(|((_, values), value)| values.push(*value));
        }
        if x.len() < 2 || columns.is_empty() {
            return Err("a line needs two rows and two columns".into());
        }
        Ok(Self { x_name, x, columns })
    }
}

fn draw(svg: &Path, title: &str, table: &Table) -> Outcome<()> {
    let panels = table.columns.len();
    let height = TITLE + PANEL * u32::try_from(panels)?;
    let root = SVGBackend::new(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let body = root.titled(title, ("sans-serif", 22))?;
    let right = span(&table.x, false);
    for (index, area) in body.split_evenly((panels, 1)).iter().enumerate() {
        let (name, values) = &table.columns[index];
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(20)
            .caption(name, ("sans-serif", 14))
            .x_label_area_size(if index + 1 == panels { 36 } else { 18 })
            .y_label_area_size(60)
            .build_cartesian_2d(right.clone(), span(values, true))?;
        let mut mesh = chart.configure_mesh();
        mesh.y_labels(5).light_line_style(TRANSPARENT).label_style(("sans-serif", 12));
        if index + 1 == panels {
            mesh.x_desc(&table.x_name);
        }
        mesh.draw()?;
        let points = table.x.iter().copied().zip(values.iter().copied());
        chart.draw_series(LineSeries::new(points, LINE.stroke_width(2)))?;
    }
    root.present()?;
    Ok(())
}

/// From the least to the most, or from 0, with some room above.
fn span(values: &[f64], from_zero: bool) -> Range<f64> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !from_zero {
        return least..most.max(least + f64::MIN_POSITIVE);
    }
    let least = least.min(0.0);
    let room = if most > least { 0.08 * (most - least) } else { 1.0 };
    least..most + room
}
