//! Curves of the dashboard: bounded in memory, smoothed, and with a range that a few outliers do not stretch.

/// Points of a curve, at most. More than the dots of a screen.
const MOST_POINTS: usize = 2048;

/// Curves with fewer points are drawn as they are.
const SMOOTH_FROM: usize = 60;

/// A smoothed curve has a window of one in so many points.
const WINDOWS: usize = 30;

/// Of so many points, one is an outlier at each end.
const ONE_OUTLIER_IN: usize = 50;

/// Without its outliers a curve has a height; what is further away than this many of it is cut off.
const STRETCHED: f64 = 2.0;

/// Values over steps. A long run has more steps than points: each point is then the mean of several.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    points: Vec<(f64, f64)>,
    per_point: usize,
    /// Sums of the point that is not complete, and its number of values.
    open: (f64, f64, usize),
}

impl Default for Curve {
    fn default() -> Self {
        Self { points: Vec::new(), per_point: 1, open: (0.0, 0.0, 0) }
    }
}

impl Curve {
    /// Adds a value; what is not finite cannot be drawn.
    pub(super) fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        let (x, y, n) = self.open;
        self.open = (x + step as f64, y + value, n + 1);
        if self.open.2 < self.per_point {
            return;
        }
        let (x, y, n) = std::mem::take(&mut self.open);
        self.points.push((x / n as f64, y / n as f64));
        if self.points.len() >= MOST_POINTS {
            let mean = |pair: &[(f64, f64)]| {
                let n = pair.len() as f64;
                (pair.iter().map(|point| point.0).sum::<f64>() / n, pair.iter().map(|point| point.1).sum::<f64>() / n)
            };
            self.points = self.points.chunks(2).map(mean).collect();
            self.per_point *= 2;
        }
    }

    pub(super) fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// Whether the points are noise around a smooth curve, rather than the curve itself.
    pub(super) fn is_long(&self) -> bool {
        self.points.len() >= SMOOTH_FROM
    }

    /// The points within a range; those outside are at its edge.
    pub(super) fn clamped(&self, [low, high]: [f64; 2]) -> Vec<(f64, f64)> {
        self.points.iter().map(|&(at, value)| (at, value.clamp(low, high))).collect()
    }

    /// The centred moving mean of a long curve, a short one as it is; both within a range, so that an outlier is not smeared
    /// over its neighbours.
    pub(super) fn smoothed(&self, within: [f64; 2]) -> Vec<(f64, f64)> {
        let points = self.clamped(within);
        if !self.is_long() {
            return points;
        }
        let half = points.len() / WINDOWS / 2;
        let mean_at = |at: usize| {
            // As far to the left as to the right, so that a falling curve is not shifted at its ends.
            let reach = half.min(at).min(points.len() - 1 - at);
            let window = &points[at - reach..=at + reach];
            window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64
        };
        points.iter().enumerate().map(|(at, point)| (point.0, mean_at(at))).collect()
    }
}

/// The range that shows values best, without outliers; `None` without finite values. `always` are inside in any case.
pub(super) fn range(values: impl Iterator<Item = f64>, always: &[f64]) -> Option<[f64; 2]> {
    let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let outliers = sorted.len().div_ceil(ONE_OUTLIER_IN);
    let whole = [*sorted.first()?, *sorted.last()?];
    let [mut low, mut high] = match sorted.len() > 2 * outliers + 1 {
        true => {
            let [low, high] = [sorted[outliers], sorted[sorted.len() - 1 - outliers]];
            let beyond = STRETCHED * (high - low).max(f64::MIN_POSITIVE);
            let mut near = sorted.iter().copied().filter(|value| (low - beyond..=high + beyond).contains(value));
            let first = near.next().unwrap_or(low);
            [first, near.next_back().unwrap_or(first)]
        }
        false => whole,
    };
    for &value in always.iter().filter(|value| value.is_finite()) {
        (low, high) = (low.min(value), high.max(value));
    }
    if high <= low {
        let margin = (low.abs() * 0.1).max(1e-6);
        return Some([low - margin, high + margin]);
    }
    Some([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl Iterator<Item = f64>) -> Curve {
        let mut curve = Curve::default();
        values.zip(1..).for_each(|(value, step)| curve.push(step, value));
        curve
    }

    fn range_of(curve: &Curve, always: &[f64]) -> [f64; 2] {
        range(curve.points().iter().map(|point| point.1), always).expect("values")
    }

    #[test]
    fn one_outlier_does_not_flatten_a_curve() {
        for n in [10_u32, 100, 1000] {
            let falling = |at: u32| 1.0 - f64::from(at) / f64::from(n);
            let calm = of((0..n).map(falling));
            let spoilt = of((0..n).map(|at| if at == n / 2 { 500.0 } else { falling(at) }));
            let [low, high] = range_of(&spoilt, &[]);
            let [calm_low, calm_high] = range_of(&calm, &[]);
            assert!(high <= calm_high && low <= calm_low + 0.1, "{n}: {low} to {high}");
            assert!(calm_high > 0.98 && high > 0.8, "{n}: {high}");
        }
    }

    #[test]
    fn the_range_of_calm_values_has_them_all_and_what_must_be_seen() {
        let curve = of([0.5, 0.6, 0.7, 0.8].into_iter());
        assert_eq!(range_of(&curve, &[]), [0.5, 0.8]);
        assert_eq!(range_of(&curve, &[0.1, f64::NAN]), [0.1, 0.8]);
        let [low, high] = range_of(&of([0.5, 0.5].into_iter()), &[]);
        assert!(low < 0.5 && high > 0.5);
        assert!(range([f64::NAN].into_iter(), &[]).is_none());
    }

    #[test]
    fn a_long_run_keeps_a_bounded_number_of_means() {
        let curve = of((0..1_000_000_u32).map(f64::from));
        assert!(curve.points().len() <= MOST_POINTS);
        let [first, last] = [curve.points()[0], *curve.points().last().expect("some")];
        assert!((first.0 - first.1 - 1.0).abs() < 1e-6 && (last.0 - last.1 - 1.0).abs() < 1e-6, "{first:?} {last:?}");
        assert!(last.1 > 998_000.0, "{last:?}");
        let smooth = curve.smoothed([0.0, 1e6]);
        assert_eq!(smooth.len(), curve.points().len());
        // A straight line stays one, at its ends, too.
        assert!(smooth.iter().zip(curve.points()).all(|(a, b)| (a.1 - b.1).abs() < 1e-3));
    }

    #[test]
    fn noise_is_smoothed() {
        let noisy = of((0..600_u32).map(|at| if at % 2 == 0 { 1.0 } else { 0.0 }));
        let middle = noisy.smoothed([0.0, 1.0])[300].1;
        assert!((middle - 0.5).abs() < 0.06, "{middle}");
        assert_eq!(of([3.0, f64::NAN, 1.0].into_iter()).smoothed([0.0, 9.0]), [(1.0, 3.0), (3.0, 1.0)]);
    }
}
