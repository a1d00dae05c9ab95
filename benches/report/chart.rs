//! The charts: bars of items/s through the engine, and a line of percentiles for each case of
//! `latency`.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::common::{Basis, Record, short};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// The benches with a chart, an SVG of the same name.
pub const CHARTED: [&str; 2] = ["engine", "latency"];

const COLOURS: [RGBColor; 6] = [
    RGBColor(20, 90, 160),
    RGBColor(120, 180, 225),
    RGBColor(205, 120, 40),
    RGBColor(90, 150, 80),
    RGBColor(150, 90, 160),
    RGBColor(120, 120, 120),
];

const PANEL: u32 = 300;
const TOP: u32 = 44;
const LINE: i32 = 17;
const NAMES: i32 = 170;
const VALUES: i32 = 44;

/// Draws those that something was measured for; returns their names.
pub fn draw_all(out: &Path, record: &Record) -> Result<Vec<String>, Box<dyn Error>> {
    let mut drawn = Vec::new();
    for bench in CHARTED.into_iter().filter(|bench| record.of(bench).next().is_some()) {
        let svg = out.join(format!("{bench}.svg"));
        match bench {
            "engine" => engine(&svg, record)?,
            _ => latency(&svg, record)?,
        }
        drawn.push(svg.display().to_string());
    }
    Ok(drawn)
}

fn median(record: &Record, bench: &str, case: &str, measure: &str) -> Option<f64> {
    let middle = Basis::of(record, bench).middle(record, bench, case, measure)?;
    Some(middle.spread.median)
}

fn head(area: &Area<'_>, record: &Record, bench: &str, title: &str) -> Drawn {
    area.fill(&WHITE)?;
    area.draw_text(title, &("sans-serif", 20).into_text_style(area), (10, 8))?;
    let fact = |name| record.facts.iter().find(|fact| fact.0 == name).map_or("?", |fact| &fact.1);
    let cpus = Basis::of(record, bench).name();
    let about = format!("{}, {}, CPUs {cpus}", fact("machine"), fact("date"));
    area.draw_text(&about, &("sans-serif", 14).into_text_style(area), (10, 28))?;
    Ok(())
}

/// A panel for each number of producers, a bar for each case.
fn engine(svg: &Path, record: &Record) -> Drawn {
    let (panels, cases) = (record.measures("engine"), record.cases("engine"));
    let columns = panels.len().min(3);
    let rows = panels.len().div_ceil(columns);
    let height = 26 + LINE.unsigned_abs() * u32::try_from(cases.len())?;
    let size = (PANEL * u32::try_from(columns)?, TOP + 10 + height * u32::try_from(rows)?);
    let root = SVGBackend::new(svg, size).into_drawing_area();
    head(&root, record, "engine", "Million items a second from add to the sink")?;
    let (_, body) = root.split_vertically(TOP + 6);
    let areas = body.split_evenly((rows, columns));
    for (area, panel) in areas.iter().zip(&panels) {
        bars(area, record, panel, &cases)?;
    }
    root.present()?;
    Ok(())
}

fn bars(area: &Area<'_>, record: &Record, panel: &str, cases: &[&str]) -> Drawn {
    let style = |size: i32| ("sans-serif", size).into_text_style(area);
    let title = panel.split(':').next().unwrap_or(panel);
    area.draw_text(title, &style(16), (NAMES, 2))?;
    let rate = |case: &&str| median(record, "engine", case, panel);
    let most = cases.iter().filter_map(rate).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(i32::try_from(PANEL)? - NAMES - VALUES);
    let left = style(14).pos(Pos::new(HPos::Right, VPos::Center));
    let right = style(14).pos(Pos::new(HPos::Left, VPos::Center));
    for (line, case) in (0..).zip(cases) {
        let Some(rate) = rate(case) else { continue };
        let (y, colour) = (20 + line * LINE, colour(usize::try_from(line)?));
        #[allow(clippy::cast_possible_truncation)] // at most `room`
        let end = NAMES + 1 + (room * rate / most) as i32;
        area.draw(&Rectangle::new([(NAMES, y), (end, y + LINE - 4)], colour.filled()))?;
        area.draw_text(case, &left, (NAMES - 4, y + LINE / 2 - 2))?;
        let places = usize::from(rate < 10.0);
        area.draw_text(&format!("{rate:.places$}"), &right, (end + 4, y + LINE / 2 - 2))?;
    }
    Ok(())
}

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// From the median to the rarest, on a logarithmic scale.
fn latency(svg: &Path, record: &Record) -> Drawn {
    let mut percentiles = record.measures("latency");
    percentiles.retain(|measure| measure.starts_with('p'));
    let cases = record.cases("latency");
    let points = |case: &str| -> Vec<(f64, f64)> {
        let at = |(x, measure): (u32, &&str)| {
            Some((f64::from(x), median(record, "latency", case, measure)?))
        };
        (0..).zip(&percentiles).filter_map(at).collect()
    };
    let values: Vec<f64> =
        cases.iter().flat_map(|case| points(case)).map(|point| point.1).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min).max(0.01) / 1.5;
    let most = values.iter().copied().fold(least, f64::max) * 1.5;
    let root = SVGBackend::new(svg, (900, 440)).into_drawing_area();
    head(&root, record, "latency", "Microseconds from when an item was due to its write")?;
    let (_, body) = root.split_vertically(TOP + 6);
    let last = f64::from(u32::try_from(percentiles.len())?) - 1.0;
    let mut chart = ChartBuilder::on(&body)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.1..last + 0.9, (least..most).log_scale())?;
    // Its own ticks are numbers; the words beside the lines need the room at the right.
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(0).y_label_formatter(&|micros| short(*micros)).light_line_style(TRANSPARENT);
    mesh.label_style(("sans-serif", 14)).draw()?;
    let word = |at, by, text: &str, colour: &RGBColor| {
        let style = ("sans-serif", 14).into_font().color(colour);
        EmptyElement::at(at) + Text::new(text.to_owned(), by, style)
    };
    for (place, case) in cases.iter().enumerate() {
        let (line, colour) = (points(case), colour(place));
        let name = line.last().map(|end| word(*end, (6, -7), case, &colour));
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
        chart.draw_series(name)?;
    }
    let tick = |(x, measure): (u32, &&str)| {
        word((f64::from(x), least), (-10, -16), measure.trim_end_matches(" µs"), &BLACK)
    };
    chart.draw_series((0..).zip(&percentiles).map(tick))?;
    root.present()?;
    Ok(())
}
