//! Charts as inline SVG: lines and histograms, no script, no font, colours from the page's style sheet.

use std::fmt::Write;

use crate::axis::labels;
pub use crate::axis::{Axis, Scale, ticks};

/// A line or a set of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As in the legend.
    pub name: String,
    /// How a line looks; bars are bars.
    pub mark: Mark,
    /// `(x, y)`, by rising x.
    pub points: Vec<(f64, f64)>,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// With a dot at each point, which says its numbers.
    Dots,
    /// A line alone, for many points.
    Line,
    /// Grey and thin: what lies behind another line. It takes no colour.
    Faint,
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
    /// The vertical axis; a histogram has its own.
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

/// Lines, in the order of the list; a later one lies on an earlier one.
#[must_use]
pub fn lines(frame: &Frame<'_>, series: &[Series]) -> String {
    let mut svg = open(frame, &frame.y);
    for (line, look) in series.iter().zip(looks(series)) {
        let place = |&(x, y): &(f64, f64)| (x_of(frame, x), y_of(&frame.y, y));
        let points: Vec<&(f64, f64)> = line.points.iter().filter(|(_, y)| y.is_finite()).collect();
        let places: Vec<(f64, f64)> = points.iter().copied().map(place).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        // Beyond the colours, lines are told apart by their dashes.
        let dash = if look.is_dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let class = look.class;
        let _ = write!(svg, "<polyline class=\"line {class}\"{dash} points=\"{}\"/>", path.join(" "));
        if line.mark != Mark::Dots {
            continue;
        }
        for ((x, y), point) in places.iter().zip(points) {
            let _ = write!(
                svg,
                "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}: {} at {}</title></circle>",
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
    let y_axis = Axis::linear([0.0, top]);
    let mut svg = open(frame, &y_axis);
    let n = series.len().max(1) as f64;
    let full = x_of(frame, frame.x_range[0] + bin_width) - x_of(frame, frame.x_range[0]);
    let width = (full - 4.0) / n;
    for (at, (bars, look)) in series.iter().zip(looks(series)).enumerate() {
        for &(x, share) in &bars.points {
            let (left, y) = (x_of(frame, x) + 2.0 + width * at as f64, y_of(&y_axis, share));
            let height = HEIGHT - BOTTOM - y;
            let _ = write!(
                svg,
                "<rect class=\"bar {}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>{}: {} of objects from {}</title></rect>",
                look.class,
                escape(&bars.name),
                number(share),
                number(x)
            );
        }
    }
    close(svg, series)
}

/// Classes of the style sheet.
struct Look {
    class: String,
    is_dashed: bool,
}

/// Of each series: the next colour, but for faint ones.
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

/// Axes, grid and words.
fn open(frame: &Frame<'_>, y_axis: &Axis) -> String {
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\"><text class=\"head\" x=\"{LEFT}\" y=\"16\">{0}</text>",
        escape(frame.title)
    );
    let y_ticks = y_axis.ticks();
    for (&value, label) in y_ticks.iter().zip(labels(&y_ticks)) {
        let y = y_of(y_axis, value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            label
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
    let entry = |(series, look): (&Series, Look)| {
        format!("<span><i class=\"key {}\"></i>{}</span>", look.class, escape(&series.name))
    };
    let legend: Vec<String> = series.iter().zip(looks(series)).map(entry).collect();
    format!("<figure>{svg}</svg><figcaption class=\"legend\">{}</figcaption></figure>", legend.join(" "))
}

fn x_of(frame: &Frame<'_>, x: f64) -> f64 {
    let [low, high] = frame.x_range;
    let share = if high > low { (x - low) / (high - low) } else { 0.5 };
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn y_of(axis: &Axis, y: f64) -> f64 {
    HEIGHT - BOTTOM - axis.share(y) * (HEIGHT - TOP - BOTTOM)
}

/// At most three decimals, no trailing zeros; where these would say too little, two digits and the power of ten.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_say_enough() {
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
            Frame { title: "t", x_label: "x", y_label: "y", x_range: [0.0, 1.0], x_ticks: &[0.0], y: Axis::SHARE };
        let svg = lines(&frame, &[series("steps", Mark::Faint), series("mean", Mark::Line), series("val", Mark::Dots)]);
        assert!(svg.contains("class=\"line faint\"") && svg.contains("class=\"line s0\""), "{svg}");
        assert!(svg.contains("class=\"line s1\"") && !svg.contains("class=\"line s2\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1, "what is no number is left out: {svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
