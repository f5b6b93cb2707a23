//! The chart: how many times less ours takes than Go's, and the curves.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::figure::{Curve, Measured};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1000;
const BAR: u32 = 16;
/// The space left of the bars, which has their names.
const NAMES: i32 = 330;
/// Above and below the bars.
const FRAME: u32 = 90;
const PANEL: u32 = 300;
const CPU: RGBColor = RGBColor(31, 119, 180);
const WALL: RGBColor = RGBColor(148, 190, 220);
const OURS: RGBColor = RGBColor(31, 119, 180);
const GO: RGBColor = RGBColor(214, 110, 30);

/// Drawing into memory does not fail.
const DRAWN: &str = "the chart can be drawn";

/// How many times less ours takes.
struct Bar {
    name: String,
    times: f64,
    is_cpu: bool,
}

/// Draws `chart.svg`.
pub fn draw(measured: &[Measured], directory: &Path) {
    let bars = bars(measured);
    let panels = panels(measured);
    let rows = u32::try_from(panels.len().div_ceil(2)).expect("there are few curves");
    let head = FRAME + BAR * u32::try_from(bars.len()).expect("there are few rows");
    let path = directory.join("chart.svg");
    let root = SVGBackend::new(&path, (WIDTH, head + rows * PANEL)).into_drawing_area();
    root.fill(&WHITE).expect(DRAWN);
    let (above, below) = root.split_vertically(head);
    draw_bars(&above, &bars);
    let cells = below.split_evenly((usize::try_from(rows).unwrap_or(1).max(1), 2));
    for (cell, curves) in cells.iter().zip(&panels) {
        draw_panel(cell, curves);
    }
    root.present()
        .unwrap_or_else(|cause| panic!("cannot write {path:?}: {cause}"));
}

/// A bar for every time that is compared with Go's.
fn bars(measured: &[Measured]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for row in measured {
        for figure in row.report.figures.iter().filter(|f| f.unit == "ms") {
            let is_go = figure
                .other
                .as_ref()
                .is_some_and(|other| other.name == "Go");
            if let Some(ratio) = figure.ratio().filter(|ratio| is_go && *ratio > 0.0) {
                bars.push(Bar {
                    name: format!("{}: {}", row.row, figure.what),
                    times: ratio.recip(),
                    is_cpu: figure.what.contains("CPU"),
                });
            }
        }
    }
    bars
}

fn draw_bars(area: &Area<'_>, bars: &[Bar]) {
    if bars.is_empty() {
        return;
    }
    let title = "How many times less than Go's plugins: CPU time (dark), wall time (light)";
    let inner = area.titled(title, ("sans-serif", 18)).expect(DRAWN);
    let most = bars.iter().map(|bar| bar.times).fold(10.0, f64::max) * 2.0;
    let count = i32::try_from(bars.len()).expect("there are few rows");
    let mut chart = ChartBuilder::on(&inner)
        .margin_right(20)
        .set_label_area_size(LabelAreaPosition::Left, NAMES)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .build_cartesian_2d((0.5..most).log_scale(), 0..count.max(1))
        .expect(DRAWN);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_max_light_lines(0)
        .x_label_style(("sans-serif", 12))
        .x_label_formatter(&|times| format!("{times} x"))
        .draw()
        .expect(DRAWN);
    let places = || bars.iter().zip((0..count).rev());
    let rectangles = places().map(|(bar, place)| {
        let color = if bar.is_cpu { CPU } else { WALL };
        let mut shape = Rectangle::new([(1.0, place), (bar.times, place + 1)], color.filled());
        shape.set_margin(2, 2, 0, 0);
        shape
    });
    chart.draw_series(rectangles).expect(DRAWN);
    for (bar, place) in places() {
        let (right, top) = chart.backend_coord(&(bar.times.max(1.0), place + 1));
        write(area, &format!("{:.1}", bar.times), (right + 4, top + 2));
        write(area, &bar.name, (8, top + 2));
    }
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32)) {
    area.draw(&Text::new(text, at, ("sans-serif", 12)))
        .expect(DRAWN);
}

/// The curves of each panel: one figure of one row, of both parties.
fn panels(measured: &[Measured]) -> Vec<(String, Vec<&Curve>)> {
    let mut panels: Vec<(String, Vec<&Curve>)> = Vec::new();
    for row in measured {
        for curve in &row.report.curves {
            let title = format!("{}: {}, {}", row.row, curve.what, curve.unit);
            match panels.iter_mut().find(|(name, _)| *name == title) {
                Some((_, curves)) => curves.push(curve),
                None => panels.push((title, vec![curve])),
            }
        }
    }
    panels
}

fn draw_panel(area: &Area<'_>, (title, curves): &(String, Vec<&Curve>)) {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let [right, top] =
        [|p: &(f64, f64)| p.0, |p: &(f64, f64)| p.1].map(|of| points().map(of).fold(1.0, f64::max));
    let low = points().map(|p| p.1).fold(top, f64::min) / 2.0;
    let of = curves.first().map_or("", |curve| curve.of.as_str());
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(15)
        .set_label_area_size(LabelAreaPosition::Left, 50)
        .set_label_area_size(LabelAreaPosition::Bottom, 35)
        .build_cartesian_2d(0.0..right, (low..top * 2.0).log_scale())
        .expect(DRAWN);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(6)
        .y_max_light_lines(0)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc(of)
        .draw()
        .expect(DRAWN);
    for curve in curves {
        let color = if curve.party == "Go" { GO } else { OURS };
        let line = LineSeries::new(curve.points.iter().copied(), color.stroke_width(2));
        let drawn = chart.draw_series(line).expect(DRAWN);
        drawn
            .label(curve.party.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .position(SeriesLabelPosition::UpperLeft)
        .draw()
        .expect(DRAWN);
}
