//! Suppression of edge pixels that are no maximum across the edge ("edge NMS"), by two rules.
//!
//! The paper cites Canny and gives no details; numbers of the two rules differ, so reports name the rule.

use serde::{Deserialize, Serialize};

/// The rule by which edge pixels are suppressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeSuppression {
    /// As Canny (1986): a pixel goes when it is weaker than one of its two neighbours along the gradient of the mask that gave
    /// it its strength.
    #[default]
    Gradient,
    /// As structured edge detection and the networks after it: the direction comes from second derivatives of the smoothed map,
    /// a pixel must be 1 % stronger than its neighbours are, and the outer 5 px fade.
    Ridge,
    /// None.
    Nothing,
}

/// A map to suppress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ridges<'a> {
    pub(crate) size_hw: [usize; 2],
    /// From 0 to 1, row-major.
    pub(crate) strength: &'a [f32],
    /// `[across, down]`, of any length.
    pub(crate) gradient: &'a [[f32; 2]],
}

/// Radius of the triangle filter, in pixels.
const SMOOTHING_RADIUS: usize = 4;
/// What a pixel's strength is multiplied with before it is compared.
const RIDGE_FACTOR: f32 = 1.01;
/// Width of the fade at the border, in pixels.
const FADE_PX: usize = 5;

impl EdgeSuppression {
    /// All rules.
    pub const ALL: [Self; 3] = [Self::Gradient, Self::Ridge, Self::Nothing];

    /// The name used in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gradient => "gradient",
            Self::Ridge => "ridge",
            Self::Nothing => "nothing",
        }
    }

    /// The strengths after suppression.
    pub(crate) fn apply(self, ridges: &Ridges<'_>) -> Vec<f32> {
        match self {
            Self::Gradient => {
                let direction = |at: usize| {
                    let [across, down] = ridges.gradient[at];
                    let length = across.hypot(down);
                    if length > 0.0 { [across / length, down / length] } else { [0.0; 2] }
                };
                suppressed(ridges, 1.0, direction)
            }
            Self::Ridge => {
                let angles = ridge_angles(ridges);
                let direction = |at: usize| {
                    let (down, across) = angles[at].sin_cos();
                    [across, down]
                };
                faded(ridges.size_hw, suppressed(ridges, RIDGE_FACTOR, direction))
            }
            Self::Nothing => ridges.strength.to_vec(),
        }
    }
}

/// Keeps the pixels whose strength times `factor` is at least that of both neighbours along the direction `[across, down]`.
fn suppressed(ridges: &Ridges<'_>, factor: f32, direction: impl Fn(usize) -> [f32; 2]) -> Vec<f32> {
    let [_, width] = ridges.size_hw;
    let keep = |(at, &strength): (usize, &f32)| {
        if strength == 0.0 {
            return 0.0;
        }
        let [across, down] = direction(at);
        let [row, column] = [(at / width) as f32, (at % width) as f32];
        let neighbour = |side: f32| between(ridges, row + side * down, column + side * across);
        let is_highest = [1.0, -1.0].into_iter().all(|side| factor * strength >= neighbour(side));
        if is_highest { strength } else { 0.0 }
    };
    ridges.strength.iter().enumerate().map(keep).collect()
}

/// The strength between pixels; outside the image that of the border.
fn between(ridges: &Ridges<'_>, row: f32, column: f32) -> f32 {
    let [height, width] = ridges.size_hw;
    let inside = |place: f32, side: usize| {
        let place = place.clamp(0.0, (side - 1) as f32);
        let below = place.floor() as usize;
        (below, (below + 1).min(side - 1), place.fract())
    };
    let ((top, bottom, down), (left, right, across)) = (inside(row, height), inside(column, width));
    let on_row = |row: usize| {
        let row = &ridges.strength[row * width..][..width];
        row[left] + (row[right] - row[left]) * across
    };
    on_row(top) + (on_row(bottom) - on_row(top)) * down
}

/// The direction across the ridge at each pixel, as an angle from the columns' direction.
fn ridge_angles(ridges: &Ridges<'_>) -> Vec<f32> {
    let smooth = smoothed(ridges.size_hw, ridges.strength);
    let [across, down] = derivatives(ridges.size_hw, &smooth);
    let [across_twice, mixed] = derivatives(ridges.size_hw, &across);
    let [_, down_twice] = derivatives(ridges.size_hw, &down);
    let angle = |at: usize| {
        // The sign of 0 is 0.
        let sign = if mixed[at] == 0.0 { 0.0 } else { -mixed[at].signum() };
        (down_twice[at] * sign / (across_twice[at] + 1e-5)).atan().rem_euclid(std::f32::consts::PI)
    };
    (0..smooth.len()).map(angle).collect()
}

/// Convolved with a triangle along columns and rows; the image is mirrored at its border.
fn smoothed([height, width]: [usize; 2], values: &[f32]) -> Vec<f32> {
    let radius = SMOOTHING_RADIUS as isize;
    let total = (SMOOTHING_RADIUS + 1).pow(2) as f32;
    let weights: Vec<f32> = (-radius..=radius).map(|at| (radius + 1 - at.abs()) as f32 / total).collect();
    let mirrored = |place: isize, side: usize| {
        let period = 2 * side as isize;
        let place = place.rem_euclid(period);
        if place < side as isize { place as usize } else { (period - 1 - place) as usize }
    };
    let sum = |value: &dyn Fn(isize) -> f32| -> f32 {
        weights.iter().zip(-radius..=radius).map(|(weight, offset)| weight * value(offset)).sum()
    };
    let mut along_rows = Vec::with_capacity(values.len());
    for row in 0..height {
        for column in 0..width {
            along_rows.push(sum(&|offset| values[row * width + mirrored(column as isize + offset, width)]));
        }
    }
    let mut smooth = Vec::with_capacity(values.len());
    for row in 0..height {
        for column in 0..width {
            smooth.push(sum(&|offset| along_rows[mirrored(row as isize + offset, height) * width + column]));
        }
    }
    smooth
}

/// Derivatives along columns and rows: central differences, one-sided at the border.
fn derivatives([height, width]: [usize; 2], values: &[f32]) -> [Vec<f32>; 2] {
    let difference = |at: usize, place: usize, side: usize, step: usize| {
        if side < 2 {
            return 0.0;
        }
        let low = if place == 0 { at } else { at - step };
        let high = if place + 1 == side { at } else { at + step };
        (values[high] - values[low]) / ((high - low) / step) as f32
    };
    let across = (0..height * width).map(|at| difference(at, at % width, width, 1)).collect();
    let down = (0..height * width).map(|at| difference(at, at / width, height, width)).collect();
    [across, down]
}

/// Fades the outer pixels linearly: strengths near the border are unreliable.
fn faded([height, width]: [usize; 2], mut strength: Vec<f32>) -> Vec<f32> {
    let weight = |place: usize, side: usize| {
        let distance = place.min(side - 1 - place);
        if distance < FADE_PX { distance as f32 / FADE_PX as f32 } else { 1.0 }
    };
    for (at, strength) in strength.iter_mut().enumerate() {
        *strength *= weight(at / width, height) * weight(at % width, width);
    }
    strength
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broad_line_becomes_its_middle() {
        // Three columns of strengths 0.5, 1, 0.5 in the middle of an image.
        let (height, width) = (30, 31);
        let strength: Vec<f32> = (0..height * width)
            .map(|at| match usize::abs_diff(at % width, 15) {
                0 => 1.0,
                1 => 0.5,
                _ => 0.0,
            })
            .collect();
        let gradient = vec![[2.0, 0.0]; height * width];
        let ridges = Ridges { size_hw: [height, width], strength: &strength, gradient: &gradient };
        let row_of = |map: &[f32], row: usize| map[row * width..][..width].to_vec();
        let only_middle: Vec<f32> = (0..width).map(|column| if column == 15 { 1.0 } else { 0.0 }).collect();
        let by_gradient = EdgeSuppression::Gradient.apply(&ridges);
        assert!((0..height).all(|row| row_of(&by_gradient, row) == only_middle));
        let by_ridge = EdgeSuppression::Ridge.apply(&ridges);
        assert_eq!(row_of(&by_ridge, 15), only_middle);
        // The outer rows fade.
        assert_eq!((by_ridge[15], by_ridge[width + 15], by_ridge[5 * width + 15]), (0.0, 0.2, 1.0));
        assert_eq!(EdgeSuppression::Nothing.apply(&ridges), strength);
    }
}
