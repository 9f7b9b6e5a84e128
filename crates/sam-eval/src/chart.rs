//! Charts as inline SVG: lines and histograms over shares, no script, no font, colours from the page's style sheet.

use std::fmt::Write;

/// A line or a set of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As in the legend.
    pub name: String,
    /// `(x, y)`, by rising x.
    pub points: Vec<(f64, f64)>,
}

/// What stands around a chart.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the horizontal axis.
    pub x_label: &'a str,
    /// Above the vertical axis.
    pub y_label: &'a str,
    /// Ends of the horizontal axis.
    pub x_range: [f64; 2],
    /// Where the horizontal axis has a number.
    pub x_ticks: &'a [f64],
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 44.0;
/// Colours of the style sheet: `--series-0` and so on.
pub(crate) const N_COLOURS: usize = 6;

/// Lines with a dot at each point; the vertical axis is 0 to 1.
#[must_use]
pub fn lines(frame: &Frame<'_>, series: &[Series]) -> String {
    let mut svg = open(frame, 1.0);
    for (at, line) in series.iter().enumerate() {
        let colour = at % N_COLOURS;
        let place = |&(x, y): &(f64, f64)| (x_of(frame, x), y_of(y.clamp(0.0, 1.0), 1.0));
        let places: Vec<(f64, f64)> = line.points.iter().map(place).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        // Beyond the colours, lines are told apart by their dashes.
        let dash = if at < N_COLOURS { "" } else { " stroke-dasharray=\"6 4\"" };
        let _ = write!(svg, "<polyline class=\"line s{colour}\"{dash} points=\"{}\"/>", path.join(" "));
        for ((x, y), point) in places.iter().zip(&line.points) {
            let _ = write!(
                svg,
                "<circle class=\"dot s{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}: {} at {}</title></circle>",
                escape(&line.name),
                number(point.1),
                number(point.0)
            );
        }
    }
    close(svg, series)
}

/// Bars side by side: `points` are the left ends of bins of equal width and the shares in them.
#[must_use]
pub fn histogram(frame: &Frame<'_>, bin_width: f64, series: &[Series]) -> String {
    let highest = series.iter().flat_map(|bars| &bars.points).map(|point| point.1).fold(0.0, f64::max);
    // A round number above the highest bar.
    let top = (highest * 10.0).ceil().clamp(1.0, 10.0) / 10.0;
    let mut svg = open(frame, top);
    let n = series.len().max(1) as f64;
    let full = x_of(frame, frame.x_range[0] + bin_width) - x_of(frame, frame.x_range[0]);
    let width = (full - 4.0) / n;
    for (at, bars) in series.iter().enumerate() {
        for &(x, share) in &bars.points {
            let (left, y) = (x_of(frame, x) + 2.0 + width * at as f64, y_of(share, top));
            let height = HEIGHT - BOTTOM - y;
            let _ = write!(
                svg,
                "<rect class=\"bar s{}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>{}: {} of objects from {}</title></rect>",
                at % N_COLOURS,
                escape(&bars.name),
                number(share),
                number(x)
            );
        }
    }
    close(svg, series)
}

/// Axes, grid and words.
fn open(frame: &Frame<'_>, y_top: f64) -> String {
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\"><text class=\"head\" x=\"{LEFT}\" y=\"16\">{0}</text>",
        escape(frame.title)
    );
    const N_ROWS: u32 = 5;
    for row in 0..=N_ROWS {
        let value = y_top * f64::from(row) / f64::from(N_ROWS);
        let y = y_of(value, y_top);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(value)
        );
    }
    for &tick in frame.x_ticks {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x_of(frame, tick),
            HEIGHT - BOTTOM + 16.0,
            number(tick)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text><text class=\"tick\" x=\"8\" y=\"{}\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        escape(frame.x_label),
        TOP - 10.0,
        escape(frame.y_label)
    );
    svg
}

/// The legend is text of the page, so that long names wrap.
fn close(svg: String, series: &[Series]) -> String {
    let entry = |(at, series): (usize, &Series)| {
        format!("<span><i class=\"key k{}\"></i>{}</span>", at % N_COLOURS, escape(&series.name))
    };
    let legend: Vec<String> = series.iter().enumerate().map(entry).collect();
    format!("<figure>{svg}</svg><figcaption class=\"legend\">{}</figcaption></figure>", legend.join(" "))
}

fn x_of(frame: &Frame<'_>, x: f64) -> f64 {
    let [low, high] = frame.x_range;
    let share = if high > low { (x - low) / (high - low) } else { 0.5 };
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn y_of(y: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)
}

/// At most three decimals, no trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text for HTML, SVG and XML, in content and in attributes; letters that XML forbids become a question mark.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(' '),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => safe.push('?'),
            other => safe.push(other),
        }
    }
    safe
}
