//! Line charts and histograms as inline SVG, without scripts or fonts; colours come from the page's style sheet.

use maud::{Markup, html};

use crate::report::axis::labels;
pub use crate::report::axis::{Axis, Scale, ticks};

/// A line, or the bars of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Line style; ignored for bars.
    pub mark: Mark,
    /// `(x, y)` in order of x.
    pub points: Vec<(f64, f64)>,
}

/// A line style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line with a dot and a tooltip at each point.
    Dots,
    /// A line without dots, for many points.
    Line,
    /// A thin grey line behind another one; takes no colour of the palette.
    Faint,
}

/// Title and axes of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Title.
    pub title: &'a str,
    /// Label of the horizontal axis.
    pub x_label: &'a str,
    /// Label of the vertical axis.
    pub y_label: &'a str,
    /// Range of the horizontal axis.
    pub x_range: [f64; 2],
    /// Ticks of the horizontal axis.
    pub x_ticks: &'a [f64],
    /// The vertical axis; ignored for histograms.
    pub y: Axis,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 44.0;
/// Colours of the style sheet: `--series-0` and so on.
pub(crate) const N_COLOURS: usize = 6;

/// A line chart. Later series are drawn on top of earlier ones.
#[must_use]
pub fn lines(frame: &Frame<'_>, series: &[Series]) -> String {
    let lines = series.iter().zip(looks(series)).map(|(line, look)| line_svg(frame, line, &look));
    figure(frame, &frame.y, series, lines)
}

fn line_svg(frame: &Frame<'_>, line: &Series, look: &Look) -> Markup {
    let points: Vec<&(f64, f64)> = line.points.iter().filter(|(_, y)| y.is_finite()).collect();
    let place = |&&(x, y): &&(f64, f64)| (x_of(frame, x), y_of(&frame.y, y));
    let path: Vec<String> = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    // Series beyond the palette are distinguished by dashes.
    let dash = look.is_dashed.then_some("6 4");
    html! {
        polyline class={ "line " (look.class) } stroke-dasharray=[dash] points=(path.join(" ")) {}
        @if line.mark == Mark::Dots {
            @for (point, (x, y)) in points.iter().map(|point| (point, place(point))) {
                circle class={ "dot " (look.class) } cx=(px(x)) cy=(px(y)) r="3" {
                    title { (line.name) ": " (number(point.1)) " at " (number(point.0)) }
                }
            }
        }
    }
}

/// A histogram with grouped bars: `points` are the left edges of bins of equal width and the fractions in them.
#[must_use]
pub fn histogram(frame: &Frame<'_>, bin_width: f64, series: &[Series]) -> String {
    let highest = series.iter().flat_map(|bars| &bars.points).map(|point| point.1).fold(0.0, f64::max);
    // A round number above the highest bar.
    let top = (highest * 10.0).ceil().clamp(1.0, 10.0) / 10.0;
    let y_axis = Axis::linear([0.0, top]);
    let full = x_of(frame, frame.x_range[0] + bin_width) - x_of(frame, frame.x_range[0]);
    let width = (full - 4.0) / series.len().max(1) as f64;
    let bars = series.iter().zip(looks(series)).enumerate().map(|(at, (bars, look))| {
        html! {
            @for &(x, fraction) in &bars.points {
                @let y = y_of(&y_axis, fraction);
                rect class={ "bar " (look.class) } x=(px(x_of(frame, x) + 2.0 + width * at as f64)) y=(px(y))
                    width=(px(width)) height=(px(HEIGHT - BOTTOM - y)) {
                    title { (bars.name) ": " (number(fraction)) " of objects from " (number(x)) }
                }
            }
        }
    });
    figure(frame, &y_axis, series, bars)
}

/// The style-sheet classes of a series.
struct Look {
    class: String,
    is_dashed: bool,
}

/// Assigns the next colour to each series that is not faint.
fn looks(series: &[Series]) -> Vec<Look> {
    let mut n_coloured = 0;
    let look = |series: &Series| match series.mark {
        Mark::Faint => Look { class: "faint".to_owned(), is_dashed: false },
        Mark::Dots | Mark::Line => {
            let at = n_coloured;
            n_coloured += 1;
            Look { class: format!("s{}", at % N_COLOURS), is_dashed: at >= N_COLOURS }
        }
    };
    series.iter().map(look).collect()
}

/// Axes, grid, labels, marks, and the legend as HTML text, so that long names wrap.
fn figure(frame: &Frame<'_>, y_axis: &Axis, series: &[Series], marks: impl Iterator<Item = Markup>) -> String {
    let y_ticks = y_axis.ticks();
    let figure = html! {
        figure {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(frame.title) {
                text.head x=(LEFT) y="16" { (frame.title) }
                @for (&value, label) in y_ticks.iter().zip(labels(&y_ticks)) {
                    @let y = y_of(y_axis, value);
                    line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(px(y)) y2=(px(y)) {}
                    text.tick x=(LEFT - 6.0) y=(px(y + 4.0)) text-anchor="end" { (label) }
                }
                @for &tick in frame.x_ticks {
                    text.tick x=(px(x_of(frame, tick))) y=(HEIGHT - BOTTOM + 16.0) text-anchor="middle" { (number(tick)) }
                }
                text.tick x=(px((LEFT + WIDTH - RIGHT) / 2.0)) y=(HEIGHT - 8.0) text-anchor="middle" { (frame.x_label) }
                text.tick x="8" y=(TOP - 10.0) { (frame.y_label) }
                @for mark in marks { (mark) }
            }
            figcaption.legend {
                @for (series, look) in series.iter().zip(looks(series)) {
                    span { i class={ "key " (look.class) } {} (series.name) } " "
                }
            }
        }
    };
    figure.into_string()
}

/// A coordinate with one decimal.
fn px(value: f64) -> String {
    format!("{value:.1}")
}

fn x_of(frame: &Frame<'_>, x: f64) -> f64 {
    let [low, high] = frame.x_range;
    let fraction = if high > low { (x - low) / (high - low) } else { 0.5 };
    LEFT + fraction * (WIDTH - LEFT - RIGHT)
}

fn y_of(axis: &Axis, y: f64) -> f64 {
    HEIGHT - BOTTOM - axis.fraction(y) * (HEIGHT - TOP - BOTTOM)
}

/// At most three decimals without trailing zeros, or scientific notation where three decimals would lose digits.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let shown: f64 = text.parse().unwrap_or(value);
    const MAX_ERROR: f64 = 0.02;
    if (shown - value).abs() > MAX_ERROR * value.abs() {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_owned(),
        short => short.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_but_precise() {
        let cases = [(0.5, "0.5"), (600.0, "600"), (1_600_000.0, "1600000"), (0.0, "0"), (-0.0, "0"), (0.002, "0.002")];
        for (value, text) in cases.into_iter().chain([(5e-4, "5e-4"), (1.5e-3, "1.5e-3"), (0.123_45, "0.123")]) {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn faint_lines_take_no_colour_and_have_no_dots() {
        let series =
            |name: &str, mark| Series { name: name.to_owned(), mark, points: vec![(0.0, 0.5), (1.0, f64::NAN)] };
        let frame =
            Frame { title: "t", x_label: "x", y_label: "y", x_range: [0.0, 1.0], x_ticks: &[0.0], y: Axis::FRACTION };
        let svg = lines(&frame, &[series("steps", Mark::Faint), series("mean", Mark::Line), series("val", Mark::Dots)]);
        assert!(svg.contains("class=\"line faint\"") && svg.contains("class=\"line s0\""), "{svg}");
        assert!(svg.contains("class=\"line s1\"") && !svg.contains("class=\"line s2\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1, "non-finite values are skipped: {svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
