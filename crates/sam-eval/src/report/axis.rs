//! Chart axes: range, scale and tick labels.

/// Approximate number of grid lines.
const N_ROWS: usize = 5;
/// A vertical axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    range: [f64; 2],
    scale: Scale,
}

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences have equal lengths.
    Linear,
    /// Equal factors have equal lengths; for values that span orders of magnitude.
    Logarithmic,
}

impl Axis {
    /// From 0 to 1.
    pub const FRACTION: Self = Self { range: [0.0, 1.0], scale: Scale::Linear };

    /// A linear axis with this range.
    pub(crate) fn linear(range: [f64; 2]) -> Self {
        Self { range, scale: Scale::Linear }
    }

    /// An axis that covers all values, between two round numbers. Non-finite values are ignored, and so are values of zero
    /// or below on a logarithmic scale.
    #[must_use]
    pub fn around(values: impl Iterator<Item = f64>, scale: Scale) -> Self {
        let has_place = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let [low, high] = values
            .filter(has_place)
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)]);
        let range = match scale {
            _ if low > high => [0.0, 1.0],
            Scale::Linear => {
                // A constant line lies in the middle of an axis of non-zero width.
                let half = if high > low { 0.0 } else { 0.5 * low.abs().max(1e-12) };
                let step = round_step(high - low + 2.0 * half, N_ROWS);
                [((low - half) / step).floor() * step, ((high + half) / step).ceil() * step]
            }
            Scale::Logarithmic => {
                let wide = if high > low { 1.0 } else { 1.5 };
                [below_in_125(low / wide), above_in_125(high * wide)]
            }
        };
        match scale {
            Scale::Logarithmic if low > high => Self::FRACTION,
            _ => Self { range, scale },
        }
    }

    /// The position of a value, from 0 at the bottom to 1 at the top; values outside the range are clamped.
    pub(crate) fn fraction(&self, value: f64) -> f64 {
        let [low, high] = self.range;
        let fraction = match self.scale {
            Scale::Linear => (value - low) / (high - low),
            Scale::Logarithmic => (value.max(low) / low).ln() / (high / low).ln(),
        };
        fraction.clamp(0.0, 1.0)
    }

    /// Values with a tick label.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.range;
        match self.scale {
            Scale::Linear => ticks([low, high], N_ROWS),
            Scale::Logarithmic => {
                let mut all = vec![low];
                while let Some(next) =
                    all.last().map(|&last| above_in_125(last * 1.01)).filter(|&next| next < high * 1.01)
                {
                    all.push(next);
                }
                // Every third of 1, 2, 5 is a decade, once there are several of these.
                let every = if all.len() > 2 * N_ROWS { 3 } else { 1 };
                let decade = |tick: &f64| every == 1 || (tick.log10() - tick.log10().round()).abs() < 1e-6;
                all.retain(decade);
                all
            }
        }
    }
}

/// About `about` round numbers within a range.
#[must_use]
pub fn ticks([low, high]: [f64; 2], about: usize) -> Vec<f64> {
    let step = round_step(high - low, about);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|at| at as f64 * step).collect()
}

/// The step, 1, 2 or 5 times a power of ten, with which about `about` steps fill the width.
fn round_step(width: f64, about: usize) -> f64 {
    above_in_125((width / about.max(1) as f64).max(f64::MIN_POSITIVE) * 0.999_999)
}

/// Rounds up to 1, 2 or 5 times a power of ten.
fn above_in_125(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|&round| round >= value * (1.0 - 1e-9))
        .unwrap_or(value)
}

/// Rounds down to 1, 2 or 5 times a power of ten.
fn below_in_125(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|&round| round <= value * (1.0 + 1e-9))
        .unwrap_or(value)
}

/// Formats all tick labels alike: with as many decimals as they need, or in scientific notation.
pub(crate) fn labels(ticks: &[f64]) -> Vec<String> {
    const MAX_DECIMALS: usize = 4;
    let plain = |decimals: usize| ticks.iter().map(move |tick| format!("{tick:.decimals$}"));
    let is_exact = |decimals: &usize| {
        plain(*decimals).zip(ticks).all(|(text, tick)| {
            text.parse::<f64>().is_ok_and(|shown| (shown - tick).abs() <= 1e-6 * tick.abs().max(f64::MIN_POSITIVE))
        })
    };
    match (0..=MAX_DECIMALS).find(is_exact) {
        Some(decimals) => {
            let short = |text: String| match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            };
            plain(decimals).map(short).collect()
        }
        None => {
            let with_power =
                |tick: &f64| if *tick == 0.0 { "0".to_owned() } else { format!("{tick:.1e}").replace(".0e", "e") };
            ticks.iter().map(with_power).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: &[f64], expected: &[f64]) {
        let is_near = |(got, expected): (&f64, &f64)| (got - expected).abs() <= 1e-9 * expected.abs().max(1e-300);
        assert!(got.len() == expected.len() && got.iter().zip(expected).all(is_near), "{got:?} {expected:?}");
    }

    #[test]
    fn ranges_end_at_round_numbers() {
        let linear = |values: &[f64]| Axis::around(values.iter().copied(), Scale::Linear);
        near(&linear(&[0.38, 0.97]).range, &[0.2, 1.0]);
        near(&linear(&[0.38, 0.97]).ticks(), &[0.2, 0.4, 0.6, 0.8, 1.0]);
        near(&Axis::FRACTION.ticks(), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        near(&linear(&[0.0, 2e-3]).ticks(), &[0.0, 5e-4, 1e-3, 1.5e-3, 2e-3]);
        near(&linear(&[3.0, f64::NAN, 3.0]).range, &[1.0, 5.0]);
        assert_eq!(linear(&[]).range, [0.0, 1.0]);
        let logarithmic = |values: &[f64]| Axis::around(values.iter().copied(), Scale::Logarithmic);
        near(&logarithmic(&[0.03, 0.7, 0.0, -1.0]).range, &[0.02, 1.0]);
        near(&logarithmic(&[0.03, 0.7]).ticks(), &[0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
        near(&logarithmic(&[1e-5, 100.0]).ticks(), &[1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]);
        assert_eq!(logarithmic(&[0.0]), Axis::FRACTION);
        near(&ticks([0.0, 2400.0], 6), &[0.0, 500.0, 1000.0, 1500.0, 2000.0]);
    }

    #[test]
    fn values_are_placed_by_the_scale() {
        let logarithmic = Axis { range: [0.01, 1.0], scale: Scale::Logarithmic };
        for (value, fraction) in [(0.01, 0.0), (0.1, 0.5), (1.0, 1.0), (7.0, 1.0), (0.0, 0.0)] {
            assert!((logarithmic.fraction(value) - fraction).abs() < 1e-12, "{value}");
        }
        let linear = Axis { range: [2.0, 4.0], scale: Scale::Linear };
        assert_eq!([1.0, 2.5, 9.0].map(|value| linear.fraction(value)), [0.0, 0.25, 1.0]);
    }

    #[test]
    fn labels_of_an_axis_have_one_format() {
        assert_eq!(labels(&[0.0, 0.2, 0.4, 1.0]), ["0", "0.2", "0.4", "1"]);
        assert_eq!(labels(&[0.0, 5e-4, 1e-3, 1.5e-3]), ["0", "0.0005", "0.001", "0.0015"]);
        assert_eq!(labels(&[0.0, 5e-5, 1e-4]), ["0", "5e-5", "1e-4"]);
        assert_eq!(labels(&[0.02, 0.1, 1.0, 10.0]), ["0.02", "0.1", "1", "10"]);
        assert_eq!(labels(&[0.0, 500.0, 1000.0]), ["0", "500", "1000"]);
    }
}
