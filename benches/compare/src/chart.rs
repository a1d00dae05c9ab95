//! The chart: bars of items/s, a panel for each of three numbers of producers, the fastest on top.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::args::DEPTH;
use crate::contestant::{Contestant, Kind, Shape};
use crate::field::FIELD;
use crate::record::Rates;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

const PANEL: u32 = 400;
const TOP: u32 = 64;
const LINE: i32 = 17;
const NAMES: i32 = 190;
const VALUES: i32 = 40;

const LEGEND: [(&str, RGBColor); 5] = [
    ("sluicegate", RGBColor(20, 90, 160)),
    ("queue", RGBColor(150, 150, 150)),
    ("batcher", RGBColor(205, 120, 40)),
    ("in runs", RGBColor(120, 180, 225)),
    ("limit of the machine", RGBColor(215, 215, 215)),
];

/// Draws `u64` items through the deep queue.
pub fn draw(svg: &Path, record: &Rates) -> Drawn {
    let shape = |producers| Shape { producers, bytes: 8, depth: DEPTH };
    let mut panels = [1, 4, 16].map(shape).to_vec();
    panels.retain(|panel| record.shapes().contains(panel));
    if panels.is_empty() {
        panels = record.shapes().into_iter().take(3).collect();
    }
    let bars: Vec<_> = panels.iter().map(|panel| bars(record, *panel)).collect();
    let lines = bars.iter().map(Vec::len).max().unwrap_or(0);
    let height = TOP + 20 + u32::try_from(lines)? * LINE.unsigned_abs();
    let width = PANEL * u32::try_from(panels.len())?.max(1);
    let root = SVGBackend::new(svg, (width, height)).into_drawing_area();
    root.fill(&WHITE)?;
    head(&root, record)?;
    let (_, body) = root.split_vertically(TOP);
    for (area, (panel, bars)) in
        body.split_evenly((1, panels.len().max(1))).iter().zip(panels.iter().zip(&bars))
    {
        draw_panel(area, record, *panel, bars)?;
    }
    root.present()?;
    Ok(())
}

fn head(area: &Area<'_>, record: &Rates) -> Drawn {
    let title = "Million items a second through one consumer that forms batches of 512";
    area.draw_text(title, &("sans-serif", 20).into_text_style(area), (10, 8))?;
    let about = format!("{}, {}", record.fact("machine"), record.fact("date"));
    area.draw_text(&about, &("sans-serif", 14).into_text_style(area), (10, 28))?;
    let mut x = 10;
    for (name, colour) in LEGEND {
        area.draw(&Rectangle::new([(x, 46), (x + 10, 56)], colour.filled()))?;
        area.draw_text(name, &("sans-serif", 14).into_text_style(area), (x + 14, 45))?;
        x += 30 + 7 * i32::try_from(name.len())?;
    }
    Ok(())
}

fn bars(record: &Rates, shape: Shape) -> Vec<(&'static dyn Contestant, f64)> {
    let rate = |who: &&'static dyn Contestant| Some((*who, record.rate(shape, who.name())?.median));
    let mut bars: Vec<_> = FIELD.iter().filter_map(rate).collect();
    bars.sort_by(|a, b| b.1.total_cmp(&a.1));
    bars
}

fn draw_panel(
    area: &Area<'_>,
    record: &Rates,
    shape: Shape,
    bars: &[(&'static dyn Contestant, f64)],
) -> Drawn {
    let style = |size: i32| ("sans-serif", size).into_text_style(area);
    let s = if shape.producers == 1 { "" } else { "s" };
    let (bytes, basis) = (shape.bytes, record.basis(shape).name());
    let title = format!("{} producer{s}, {bytes} bytes, CPUs {basis}", shape.producers);
    area.draw_text(&title, &style(16), (NAMES - 60, 2))?;
    let most = bars.first().map_or(1.0, |bar| bar.1);
    let room = f64::from(i32::try_from(PANEL)? - NAMES - VALUES);
    let left = style(14).pos(Pos::new(HPos::Right, VPos::Center));
    let right = style(14).pos(Pos::new(HPos::Left, VPos::Center));
    for (line, (who, rate)) in (0..).zip(bars) {
        let y = 20 + line * LINE;
        #[allow(clippy::cast_possible_truncation)] // at most `room`
        let end = NAMES + 1 + (room * rate / most) as i32;
        area.draw(&Rectangle::new([(NAMES, y), (end, y + LINE - 4)], colour(*who).filled()))?;
        area.draw_text(who.name(), &left, (NAMES - 4, y + LINE / 2 - 2))?;
        let million = rate / 1e6;
        let places = usize::from(million < 10.0);
        area.draw_text(&format!("{million:.places$}"), &right, (end + 4, y + LINE / 2 - 2))?;
    }
    Ok(())
}

fn colour(who: &dyn Contestant) -> RGBColor {
    let kinds = [Kind::Ours, Kind::Queue, Kind::Batcher, Kind::InRuns, Kind::Limit];
    let place = kinds.iter().position(|kind| *kind == who.kind()).unwrap_or(0);
    LEGEND[place].1
}
