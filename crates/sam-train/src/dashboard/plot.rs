//! One chart of the dashboard.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, BorderType, Chart, Dataset, GraphType};

use super::curve::{Curve, range};
use super::draw::Palette;

/// Below, a chart has no room for its curve.
const MIN_HEIGHT: u16 = 6;

/// Dashes of the baseline across a chart.
const DASHES: usize = 24;

/// A chart of curves over steps.
pub(super) struct Plot<'a> {
    pub(super) title: Line<'a>,
    /// The first is in the accent colour.
    pub(super) curves: Vec<&'a Curve>,
    /// A value that is drawn as a dashed line across the chart.
    pub(super) baseline: Option<f64>,
    /// Shown while there is nothing to draw.
    pub(super) empty: &'static str,
}

impl Plot<'_> {
    pub(super) fn draw(self, frame: &mut Frame<'_>, area: Rect, palette: Palette) {
        let block = Block::bordered().border_type(BorderType::Rounded).border_style(palette.faint()).title(self.title);
        let values = self.curves.iter().flat_map(|curve| curve.points()).map(|point| point.1);
        let always = Vec::from_iter(self.baseline);
        let steps = || self.curves.iter().flat_map(|curve| curve.points()).map(|point| point.0);
        let [first, last] = [steps().fold(f64::INFINITY, f64::min), steps().fold(0.0, f64::max)];
        let bounds = range(values, &always).filter(|_| first.is_finite());
        let Some(y) = bounds.filter(|_| area.height >= MIN_HEIGHT) else {
            let empty = if area.height >= 3 { self.empty } else { "" };
            frame.render_widget(
                ratatui::widgets::Paragraph::new(Span::styled(empty, palette.faint())).block(block),
                area,
            );
            return;
        };
        let x = [first, if last > first { last } else { first + 1.0 }];
        // The values of the steps are behind the smoothed curves; without colours the two would look alike.
        let has_noise = self.curves.len() == 1 && palette.has_colour && self.curves[0].is_long();
        let noise = if has_noise { self.curves[0].clamped(y) } else { Vec::new() };
        let smooth: Vec<Vec<(f64, f64)>> = self.curves.iter().map(|curve| curve.smoothed(y)).collect();
        let dash = |level: f64| {
            (0..=DASHES).map(move |at| (x[0] + (x[1] - x[0]) * at as f64 / DASHES as f64, level)).collect()
        };
        let dashes: Vec<(f64, f64)> = self.baseline.map(dash).unwrap_or_default();
        let scatter = |points| Dataset::default().marker(Marker::Braille).graph_type(GraphType::Scatter).data(points);
        let mut sets = vec![scatter(&noise).style(palette.faint()), scatter(&dashes).style(palette.baseline())];
        for (points, at) in smooth.iter().zip(0..) {
            // A single point makes no line.
            let graph = if points.len() > 1 { GraphType::Line } else { GraphType::Scatter };
            let marker = if points.len() > 1 { Marker::Braille } else { Marker::Dot };
            sets.push(Dataset::default().marker(marker).graph_type(graph).data(points).style(palette.curve(at)));
        }
        let labels = |[low, high]: [f64; 2], is_step: bool| {
            let text = |value: f64| if is_step { format!("{value:.0}") } else { axis_label(value, high - low) };
            [text(low), text(high)].map(Line::from)
        };
        let chart = Chart::new(sets)
            .block(block)
            .legend_position(None)
            .x_axis(Axis::default().bounds(x).labels(labels(x, true)).style(palette.faint()))
            .y_axis(Axis::default().bounds(y).labels(labels(y, false)).style(palette.faint()));
        frame.render_widget(chart, area);
    }
}

/// As many digits as tell the ends of the axis apart.
fn axis_label(value: f64, span: f64) -> String {
    let digits = (1.0 - span.max(1e-12).log10().floor()).clamp(0.0, 8.0) as usize;
    if value != 0.0 && value.abs() < 1e-3 && span < 1e-2 { format!("{value:.1e}") } else { format!("{value:.digits$}") }
}

#[cfg(test)]
mod tests {
    use super::axis_label;

    #[test]
    fn labels_tell_the_ends_apart() {
        assert_eq!([axis_label(0.0, 1.0), axis_label(1.0, 1.0)], ["0.0", "1.0"]);
        assert_eq!([axis_label(0.671, 0.02), axis_label(0.691, 0.02)], ["0.671", "0.691"]);
        assert_eq!([axis_label(12.0, 300.0), axis_label(1e-4, 9e-5)], ["12", "1.0e-4"]);
    }
}
