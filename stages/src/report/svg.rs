//! Draws charts as SVG. Colours stand in the style sheet, so that they fit light and dark pages.

use std::fmt::Write;

use maud::{Markup, html};

use super::{
    chart::{Chart, Series, range, ticks},
    number,
};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// Lines beyond this number of points bear no markers.
const MARKED_POINTS: usize = 24;

/// Colours in the style sheet (`.s0` and so on); later lines use them again with other dashes.
pub(super) const COLORS: usize = 7;
const DASHES: [&str; 4] = ["", "7 3", "2 3", "9 3 2 3"];

/// From numbers to places on the sheet.
struct Scale {
    x: [f64; 2],
    y: [f64; 2],
}

impl Scale {
    fn x(&self, number: f64) -> f64 {
        LEFT + (number - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, number: f64) -> f64 {
        HEIGHT - BOTTOM - (number - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
    }
}

/// The chart with its title and legend.
pub(super) fn figure(chart: &Chart) -> Markup {
    html! {
        figure {
            figcaption { (chart.title) }
            (drawing(chart))
            ul.legend {
                @for series in &chart.series {
                    li { (sample(series.style)) (series.label) }
                }
                @if chart.chance_diagonal {
                    li { svg width="28" height="12" aria-hidden="true" { line.chance x1="0" y1="6" x2="28" y2="6" {} } "chance" }
                }
            }
        }
    }
}

/// The short line of a style that stands in legends and tables.
pub(super) fn sample(style: usize) -> Markup {
    html! {
        svg width="28" height="12" aria-hidden="true" {
            g class=(class(style)) {
                line.line x1="0" y1="6" x2="28" y2="6" stroke-dasharray=[dashes(style)] {}
                (marker(style, 14.0, 6.0))
            }
        }
    }
}

fn class(style: usize) -> String {
    format!("s{}", style % COLORS)
}

fn dashes(style: usize) -> Option<&'static str> {
    let dashes = DASHES[(style + style / COLORS) % DASHES.len()];
    (!dashes.is_empty()).then_some(dashes)
}

fn drawing(chart: &Chart) -> Markup {
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let scale = Scale {
        x: range(&chart.x, points().map(|point| point[0])),
        y: range(&chart.y, points().map(|point| point[1])),
    };
    let (across, up) = (ticks(scale.x, 6), ticks(scale.y, 6));
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(chart.title) {
            @for &at in &up.at {
                @let y = place(scale.y(at));
                line.grid x1=(LEFT) x2=(right) y1=(y) y2=(y) {}
                text.tick x=(LEFT - 7.0) y=(y) dy="0.35em" text-anchor="end" { (number::tick(at, up.digits)) }
            }
            @for &at in &across.at {
                @let x = place(scale.x(at));
                line.grid x1=(x) x2=(x) y1=(TOP) y2=(bottom) {}
                text.tick x=(x) y=(bottom + 18.0) text-anchor="middle" { (number::tick(at, across.digits)) }
            }
            line.axis x1=(LEFT) x2=(right) y1=(bottom) y2=(bottom) {}
            line.axis x1=(LEFT) x2=(LEFT) y1=(TOP) y2=(bottom) {}
            text.label x=(place(f64::midpoint(LEFT, right))) y=(HEIGHT - 8.0) text-anchor="middle" { (chart.x.label) }
            text.label text-anchor="middle" transform=(format!("translate(13 {}) rotate(-90)", place(f64::midpoint(TOP, bottom)))) {
                (chart.y.label)
            }
            @if chart.chance_diagonal {
                line.chance x1=(place(scale.x(0.0))) y1=(place(scale.y(0.0))) x2=(place(scale.x(1.0))) y2=(place(scale.y(1.0))) {}
            }
            @for series in &chart.series { (line(series, &scale)) }
        }
    }
}

fn line(series: &Series, scale: &Scale) -> Markup {
    let mut path = String::new();
    for (index, &[x, y]) in series.points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        // Writing into a string cannot fail.
        let _ = write!(path, "{command}{} {}", place(scale.x(x)), place(scale.y(y)));
    }
    html! {
        g class=(class(series.style)) {
            title { (series.label) }
            path.line d=(path) stroke-dasharray=[dashes(series.style)] {}
            @if series.points.len() <= MARKED_POINTS {
                @for &[x, y] in &series.points { (marker(series.style, scale.x(x), scale.y(y))) }
            }
        }
    }
}

/// A small shape, another for each of the first four lines, so that colour is never all that tells them apart.
fn marker(style: usize, x: f64, y: f64) -> Markup {
    let corners: &[[f64; 2]] = match style % 4 {
        0 => return html! { circle.mark cx=(place(x)) cy=(place(y)) r="3.4" {} },
        1 => &[[-3.2, -3.2], [3.2, -3.2], [3.2, 3.2], [-3.2, 3.2]],
        2 => &[[0.0, -4.2], [4.0, 3.0], [-4.0, 3.0]],
        _ => &[[0.0, -4.4], [4.4, 0.0], [0.0, 4.4], [-4.4, 0.0]],
    };
    let corners: Vec<String> = corners.iter().map(|[dx, dy]| format!("{},{}", place(x + dx), place(y + dy))).collect();
    html! { polygon.mark points=(corners.join(" ")) {} }
}

/// A place on the sheet, to a tenth of a unit.
fn place(at: f64) -> String {
    format!("{at:.1}")
}
