//! Edges of masks: the Sobel magnitude of each mask's probabilities, kept on its outer boundary; the maximum over masks.
//!
//! Source: SAM paper, appendix D.2. The paper does not say how Sobel treats the image's border (here the border is repeated) nor
//! what "does not intersect with the outer boundary pixels of a mask" excludes in detail: here a pixel counts when it is outside
//! the mask (logit at most 0) and one of its eight neighbours is inside. Only these pixels are computed.

use crate::edges::edge_map::EdgeMap;
use crate::edges::suppression::{EdgeSuppression, Ridges};

/// The edge of one mask: the pixels just outside of it, with the gradient of its probabilities. A thousand times smaller than
/// its logits, so that the edges of all candidates of an image can wait for the choice of masks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MaskEdge {
    /// Row-major positions, each with the gradient `[across, down]`.
    pixels: Vec<(u32, [f32; 2])>,
}

impl MaskEdge {
    /// The edge of a mask by its logits in the image's size, row-major.
    ///
    /// # Panics
    ///
    /// When there is not one logit for each pixel.
    #[must_use]
    pub fn of_logits([height, width]: [usize; 2], logits: &[f32]) -> Self {
        assert_eq!(logits.len(), height * width, "a mask has one logit for each pixel of its image");
        let mut pixels = Vec::new();
        for row in 0..height {
            let rows =
                [row.saturating_sub(1), row, (row + 1).min(height - 1)].map(|row| &logits[row * width..][..width]);
            for column in 0..width {
                if rows[1][column] > 0.0 {
                    continue;
                }
                let columns = [column.saturating_sub(1), column, (column + 1).min(width - 1)];
                let near = rows.map(|row| columns.map(|column| row[column]));
                if near.iter().flatten().any(|&logit| logit > 0.0) {
                    let gradient = sobel(near.map(|row| row.map(sigmoid)));
                    pixels.push(((row * width + column) as u32, gradient.map(|part| part as f32)));
                }
            }
        }
        Self { pixels }
    }
}

/// Collects the edges of the masks of one image.
#[derive(Clone, Debug)]
pub struct MaskEdges {
    size_hw: [usize; 2],
    /// The largest magnitude over the masks so far.
    strength: Vec<f32>,
    /// The gradient `[across, down]` of the mask with that magnitude.
    gradient: Vec<[f32; 2]>,
}

impl MaskEdges {
    /// Without a mask.
    #[must_use]
    pub fn new(size_hw: [usize; 2]) -> Self {
        let n_pixels = size_hw[0] * size_hw[1];
        Self { size_hw, strength: vec![0.0; n_pixels], gradient: vec![[0.0; 2]; n_pixels] }
    }

    /// Adds the edge of a mask. The order of the masks does not matter, except that the first of two with equal magnitude gives
    /// the direction.
    ///
    /// # Panics
    ///
    /// When the edge is of a larger image.
    pub fn add(&mut self, edge: &MaskEdge) {
        for &(at, gradient) in &edge.pixels {
            let (at, magnitude) = (at as usize, gradient[0].hypot(gradient[1]));
            if magnitude > self.strength[at] {
                self.strength[at] = magnitude;
                self.gradient[at] = gradient;
            }
        }
    }

    /// The edge map: scaled linearly to 0 .. 1, then suppressed.
    #[must_use]
    pub fn finish(self, suppression: EdgeSuppression) -> EdgeMap {
        let ridges = Ridges { size_hw: self.size_hw, strength: &self.scaled(), gradient: &self.gradient };
        EdgeMap::from_fractions(self.size_hw, &suppression.apply(&ridges))
    }

    /// From 0 for the smallest to 1 for the largest strength.
    fn scaled(&self) -> Vec<f32> {
        let low = self.strength.iter().copied().fold(f32::INFINITY, f32::min);
        let high = self.strength.iter().copied().fold(0.0, f32::max);
        let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
        self.strength.iter().map(|&strength| (strength - low) * scale).collect()
    }
}

fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// The gradient `[across, down]` in the middle of nine values.
fn sobel([above, middle, below]: [[f64; 3]; 3]) -> [f64; 2] {
    let across = (above[2] - above[0]) + 2.0 * (middle[2] - middle[0]) + (below[2] - below[0]);
    let down = (below[0] - above[0]) + 2.0 * (below[1] - above[1]) + (below[2] - above[2]);
    [across, down]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges::thinning::thin;
    use sam_image::Mask;

    /// A disc and a square on 24 rows x 30 columns.
    fn toy_logits() -> [Vec<f32>; 2] {
        let logits = |of: &dyn Fn(f64, f64) -> f64| {
            (0..24).flat_map(|row| (0..30).map(move |column| of(f64::from(row), f64::from(column)) as f32)).collect()
        };
        let disc = |row: f64, column: f64| 6.0 - (row - 11.0).hypot(column - 12.0);
        let square = |row: f64, column: f64| 4.0 - (row - 8.0).abs().max((column - 22.0).abs());
        [logits(&disc), logits(&square)]
    }

    #[test]
    fn the_chain_has_the_toy_numbers() {
        let close = |got: f64, expected: f64| assert!((got - expected).abs() < 2e-5, "{got} is not {expected}");
        let expected = [(109, 48, 1.836136, (5, 12), 80.222949), (49, 32, 1.848469, (4, 20), 55.268278)];
        let mut all = MaskEdges::new([24, 30]);
        for (logits, (area, outer, largest, at, sum)) in toy_logits().into_iter().zip(expected) {
            assert_eq!(logits.iter().filter(|&&logit| logit > 0.0).count(), area);
            let mut one = MaskEdges::new([24, 30]);
            one.add(&MaskEdge::of_logits([24, 30], &logits));
            assert_eq!(one.strength.iter().filter(|&&strength| strength > 0.0).count(), outer);
            close(one.strength.iter().map(|&strength| f64::from(strength)).sum(), sum);
            let highest = one.strength.iter().copied().fold(0.0, f32::max);
            // Several pixels of a symmetric mask share the largest value.
            close(f64::from(highest), largest);
            close(f64::from(one.strength[at.0 * 30 + at.1]), largest);
            all.add(&MaskEdge::of_logits([24, 30], &logits));
        }
        let scaled = all.scaled();
        close(scaled.iter().map(|&strength| f64::from(strength)).sum(), 68.122333);
        assert_eq!(scaled.iter().filter(|&&strength| strength > 0.0).count(), 74);
        let half = Mask::new([24, 30], scaled.iter().map(|&strength| strength >= 0.5).collect()).expect("sized");
        assert_eq!((half.area_px(), thin(&half).area_px()), (74, 60));
    }

    #[test]
    fn a_mask_that_covers_the_image_or_nothing_has_no_edge() {
        for logit in [-5.0, 5.0] {
            let mut edges = MaskEdges::new([4, 5]);
            edges.add(&MaskEdge::of_logits([4, 5], &[logit; 20]));
            for suppression in EdgeSuppression::ALL {
                assert_eq!(edges.clone().finish(suppression), EdgeMap::new([4, 5], vec![0; 20]));
            }
        }
    }
}
