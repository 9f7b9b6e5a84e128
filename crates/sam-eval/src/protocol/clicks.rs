//! The simulated annotator's choice of the next click.
//!
//! Source: `Clicker._get_next_click` of RITM (`isegm/inference/clicker.py`; SimpleClick has the same). The false negatives
//! and the false positives are each padded by one pixel of background, and the distance transform of both is taken. The
//! larger maximum decides the sign of the click (a tie is negative); the click is the first pixel in reading order at that
//! maximum. A clicked pixel is never chosen again; an ignored pixel belongs to neither error. SAM's centre rule
//! (Appendix D) is the same on an empty prediction, and SAM 2's `sample_one_point_from_error_center` is the same without
//! ignored and already-clicked pixels.
//!
//! Kept on purpose: without any remaining error, the rule gives a *negative* click at the upper left pixel, as both
//! references do. Differs: distances are exactly Euclidean ([`DistanceMap`]); OpenCV's are rounded floats.

use sam_data::random::RandomStream;
use sam_image::{Border, DistanceMap, Mask, Rle};
use serde::{Deserialize, Serialize};

/// One click, in pixels of the original image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Click {
    /// x
    pub column: u32,
    /// y
    pub row: u32,
    /// Positive (on the object) or negative.
    pub is_positive: bool,
}

impl Click {
    /// `[x, y]`.
    #[must_use]
    pub fn xy_px(self) -> [f32; 2] {
        [self.column as f32, self.row as f32]
    }
}

/// The annotator of one object, with its ground-truth mask and previous clicks.
#[derive(Clone, Debug)]
pub struct Clicker {
    target: Mask,
    ignore: Option<Mask>,
    clicked: Vec<[usize; 2]>,
}

impl Clicker {
    /// An annotator without clicks.
    ///
    /// # Panics
    ///
    /// When the sizes differ.
    #[must_use]
    pub fn new(target: Mask, ignore: Option<Mask>) -> Self {
        if let Some(ignore) = &ignore {
            assert_eq!(target.size_hw(), ignore.size_hw(), "target and ignored pixels must have the same size");
        }
        Self { target, ignore, clicked: Vec::new() }
    }

    /// The ground-truth mask.
    #[must_use]
    pub fn target(&self) -> &Mask {
        &self.target
    }

    /// Pixels excluded from evaluation.
    #[must_use]
    pub fn ignore(&self) -> Option<&Mask> {
        self.ignore.as_ref()
    }

    /// The next click by the rule above.
    ///
    /// # Panics
    ///
    /// When the prediction's size differs, or the image is empty.
    pub fn next_click(&mut self, prediction: &Mask) -> Click {
        assert_eq!(prediction.size_hw(), self.target.size_hw(), "a prediction must have the target's size");
        let false_negative = self.depth(prediction, &self.target, |target, prediction| target & !prediction);
        let false_positive = self.depth(prediction, prediction, |target, prediction| !target & prediction);
        let is_positive = false_negative.1 > false_positive.1;
        let place = if is_positive { false_negative.0 } else { false_positive.0 };
        self.remember(place, is_positive)
    }

    /// A first click on a uniformly random pixel of the object: the variant "random point" of SAM's Appendix D. A pure
    /// function of the seed and the name. `None` when all pixels are ignored.
    pub fn random_click(&mut self, seed: u64, name: &[&[u8]]) -> Option<Click> {
        let bounds @ [x0, y0, x1, _] = self.target.bounds_xyxy_px()?;
        let valid = self.error(&self.target, bounds, |target, _| target);
        let n_pixels = valid.area_px();
        if n_pixels == 0 {
            return None;
        }
        let chosen = RandomStream::named(seed, name).index(n_pixels);
        let (at, _) = valid.pixels().iter().enumerate().filter(|(_, set)| **set).nth(chosen)?;
        Some(self.remember([y0 + at / (x1 - x0), x0 + at % (x1 - x0)], true))
    }

    /// IoU of a prediction over the pixels that are not ignored; 0 when both masks are empty there.
    ///
    /// # Panics
    ///
    /// When the prediction's size differs.
    #[must_use]
    pub fn iou(&self, prediction: &Mask) -> f64 {
        ratio(&self.target, prediction, self.ignore.as_ref())
    }

    fn remember(&mut self, [row, column]: [usize; 2], is_positive: bool) -> Click {
        self.clicked.push([row, column]);
        Click { column: column as u32, row: row as u32, is_positive }
    }

    /// The pixels of an error within a box that contains them all.
    fn error(&self, prediction: &Mask, [x0, y0, x1, y1]: [usize; 4], rule: impl Fn(bool, bool) -> bool) -> Mask {
        let mut error = Mask::empty([y1 - y0, x1 - x0]);
        for (row, error) in (y0..y1).zip(error.pixels_mut().chunks_exact_mut(x1 - x0)) {
            let pixels = self.target.row(row)[x0..x1].iter().zip(&prediction.row(row)[x0..x1]);
            for (error, (&target, &prediction)) in error.iter_mut().zip(pixels) {
                *error = rule(target, prediction);
            }
            if let Some(ignore) = &self.ignore {
                for (error, &ignore) in error.iter_mut().zip(&ignore.row(row)[x0..x1]) {
                    *error &= !ignore;
                }
            }
        }
        error
    }

    /// Row, column and depth of the deepest pixel of an error that is not yet clicked; the first pixel and 0 when there is
    /// none. The error lies within `whole`, so only its bounding box is searched.
    fn depth(&self, prediction: &Mask, whole: &Mask, rule: impl Fn(bool, bool) -> bool) -> ([usize; 2], f32) {
        let mut deepest = ([0, 0], 0.0);
        let Some(bounds @ [x0, y0, x1, _]) = whole.bounds_xyxy_px() else { return deepest };
        let map = DistanceMap::new(&self.error(prediction, bounds, rule), Border::Background);
        for (row, depths_px) in (y0..).zip(map.distances_px().chunks_exact(x1 - x0)) {
            for (column, &depth_px) in (x0..).zip(depths_px) {
                if depth_px > deepest.1 && !self.clicked.contains(&[row, column]) {
                    deepest = ([row, column], depth_px);
                }
            }
        }
        deepest
    }
}

/// |a and b| / |a or b| over the pixels that are not ignored.
pub(crate) fn ratio(a: &Mask, b: &Mask, ignore: Option<&Mask>) -> f64 {
    assert_eq!(a.size_hw(), b.size_hw(), "masks must be of one size");
    let (mut intersection, mut union) = (0usize, 0usize);
    let mut count = |a: bool, b: bool| {
        intersection += usize::from(a & b);
        union += usize::from(a | b);
    };
    let pairs = a.pixels().iter().zip(b.pixels());
    match ignore {
        None => pairs.for_each(|(&a, &b)| count(a, b)),
        Some(ignore) => {
            pairs.zip(ignore.pixels()).for_each(|((&a, &b), &ignore)| count(a & !ignore, b & !ignore));
        }
    }
    if intersection == 0 { 0.0 } else { intersection as f64 / union as f64 }
}

/// The tight box of a mask as a prompt: COCO's `[x, y, x + w, y + h]`.
#[must_use]
pub fn tight_box_xyxy_px(mask: &Rle) -> Option<[f32; 4]> {
    mask.bounds_xyxy_px().map(|bounds| bounds.map(|edge| edge as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(size_hw: [usize; 2], [x0, y0, x1, y1]: [usize; 4]) -> Mask {
        Mask::from_fn(size_hw, |row, column| (y0..y1).contains(&row) && (x0..x1).contains(&column))
    }

    #[test]
    fn the_first_click_is_the_centre() {
        let mut clicker = Clicker::new(block([9, 12], [2, 1, 9, 8]), None);
        let empty = Mask::empty([9, 12]);
        assert_eq!(clicker.next_click(&empty), Click { column: 5, row: 4, is_positive: true });
        // The deepest pixel is clicked already; the first one at depth 3 follows.
        assert_eq!(clicker.next_click(&empty), Click { column: 4, row: 3, is_positive: true });
    }

    #[test]
    fn a_tie_is_negative() {
        let mut clicker = Clicker::new(block([5, 11], [1, 1, 4, 4]), None);
        let false_positive = block([5, 11], [6, 1, 9, 4]);
        assert_eq!(clicker.next_click(&false_positive), Click { column: 7, row: 2, is_positive: false });
    }

    #[test]
    fn a_perfect_prediction_gets_a_negative_click_at_the_corner() {
        let target = block([5, 5], [0, 0, 3, 3]);
        let mut clicker = Clicker::new(target.clone(), None);
        for _ in 0..2 {
            assert_eq!(clicker.next_click(&target), Click { column: 0, row: 0, is_positive: false });
        }
    }

    #[test]
    fn ignored_pixels_are_excluded_from_errors_and_iou() {
        let target = block([6, 12], [0, 0, 6, 6]);
        let mut clicker = Clicker::new(target, Some(block([6, 12], [0, 0, 5, 6])));
        let prediction = block([6, 12], [5, 0, 7, 6]);
        // Column 5 is a true positive, column 6 a false positive.
        assert_eq!(clicker.iou(&prediction), 0.5);
        assert_eq!(clicker.next_click(&prediction), Click { column: 6, row: 0, is_positive: false });
    }

    #[test]
    fn random_clicks_are_uniform_on_the_object() {
        let target = block([8, 8], [1, 1, 3, 3]);
        let mut counts = [0; 4];
        for id in 0..4000u64 {
            let click =
                Clicker::new(target.clone(), None).random_click(5, &[b"a.jpg", &id.to_le_bytes()]).expect("set");
            assert!(click.is_positive && target.get(click.row as usize, click.column as usize));
            counts[(click.row as usize - 1) * 2 + click.column as usize - 1] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let all_ignored = Mask::from_fn([8, 8], |_, _| true);
        assert_eq!(Clicker::new(target, Some(all_ignored)).random_click(5, &[b"a"]), None);
    }
}
