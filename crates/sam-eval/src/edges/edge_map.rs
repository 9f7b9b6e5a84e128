//! An edge map as it is stored and evaluated: 8 bits for each pixel.

use sam_image::Mask;

/// How strongly each pixel is an edge, from 0 to 255. What is evaluated is what a PNG of it holds, so that another program finds
/// the same numbers in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeMap {
    size_hw: [usize; 2],
    strength: Vec<u8>,
}

impl EdgeMap {
    /// A map from its strengths, row-major.
    ///
    /// # Panics
    ///
    /// When the number of strengths is not height x width.
    #[must_use]
    pub fn new(size_hw: [usize; 2], strength: Vec<u8>) -> Self {
        assert_eq!(strength.len(), size_hw[0] * size_hw[1], "an edge map has one strength for each pixel");
        Self { size_hw, strength }
    }

    /// A map from strengths from 0 to 1.
    pub(crate) fn from_fractions(size_hw: [usize; 2], fractions: &[f32]) -> Self {
        Self::new(size_hw, fractions.iter().map(|&fraction| (fraction.clamp(0.0, 1.0) * 255.0).round() as u8).collect())
    }

    /// `[height, width]`.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        self.size_hw
    }

    /// The strengths, row-major.
    #[must_use]
    pub fn strength(&self) -> &[u8] {
        &self.strength
    }

    /// The pixels of at least this strength.
    pub(crate) fn at_least(&self, strength: u8) -> Mask {
        let [_, width] = self.size_hw;
        Mask::from_fn(self.size_hw, |row, column| self.strength[row * width + column] >= strength)
    }
}
