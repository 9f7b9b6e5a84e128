//! Where a simulated annotator clicks next.
//!
//! Source: `Clicker._get_next_click` of RITM (`isegm/inference/clicker.py`; SimpleClick has the same), to the letter: the
//! missed pixels and the spilled ones, each padded by one pixel of background, each measured by the distance to its edge;
//! the deeper of the two says the sign, and a tie says negative; the click is the first pixel in reading order at the
//! greatest depth. A pixel already clicked is never chosen again, an ignored one belongs to neither error. SAM's centre
//! rule (Appendix D) is the same on an empty prediction, and SAM 2's `sample_one_point_from_error_center` is the same
//! without ignored and already-clicked pixels.
//!
//! Kept on purpose: when no error is left to click on, the rule gives a *negative* click at the upper left pixel, as both
//! references do. Differs: distances are exactly Euclidean ([`DistanceMap`]), where OpenCV's are to the last float.

use sam_data::random::RandomStream;
use sam_image::distance::{Border, DistanceMap};
use sam_image::{Mask, Rle};
use serde::{Deserialize, Serialize};

/// One click, in pixels of the original image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Click {
    /// x
    pub column: u32,
    /// y
    pub row: u32,
    /// On the object, or on what is not it.
    pub is_positive: bool,
}

impl Click {
    /// `[x, y]`, as the models take it.
    #[must_use]
    pub fn xy_px(self) -> [f32; 2] {
        [self.column as f32, self.row as f32]
    }
}

/// The annotator of one object: knows the truth and what has been clicked.
#[derive(Clone, Debug)]
pub struct Clicker {
    truth: Mask,
    ignore: Option<Mask>,
    clicked: Vec<[usize; 2]>,
}

impl Clicker {
    /// An annotator who has not clicked yet.
    ///
    /// # Panics
    ///
    /// When the sizes differ.
    #[must_use]
    pub fn new(truth: Mask, ignore: Option<Mask>) -> Self {
        if let Some(ignore) = &ignore {
            assert_eq!(truth.size_hw(), ignore.size_hw(), "truth and ignored pixels must be of one size");
        }
        Self { truth, ignore, clicked: Vec::new() }
    }

    /// What is to be found.
    #[must_use]
    pub fn truth(&self) -> &Mask {
        &self.truth
    }

    /// Pixels that do not count.
    #[must_use]
    pub fn ignore(&self) -> Option<&Mask> {
        self.ignore.as_ref()
    }

    /// The next click by the rule above, and never again there.
    ///
    /// # Panics
    ///
    /// When the prediction's size differs, or the image has no pixel.
    pub fn next_click(&mut self, prediction: &Mask) -> Click {
        assert_eq!(prediction.size_hw(), self.truth.size_hw(), "a prediction must be of the truth's size");
        let missed = self.depth(prediction, &self.truth, |truth, prediction| truth & !prediction);
        let spilled = self.depth(prediction, prediction, |truth, prediction| !truth & prediction);
        let is_positive = missed.1 > spilled.1;
        let place = if is_positive { missed.0 } else { spilled.0 };
        self.remember(place, is_positive)
    }

    /// A first click anywhere on the object, each of its pixels with the same chance; the variant "random point" of SAM's
    /// Appendix D. A pure function of the seed and the name. `None` when no pixel counts.
    pub fn random_click(&mut self, seed: u64, name: &[&[u8]]) -> Option<Click> {
        let bounds @ [x0, y0, x1, _] = self.truth.bounds_xyxy_px()?;
        let counts = self.error(&self.truth, bounds, |truth, _| truth);
        let n_pixels = counts.area_px();
        if n_pixels == 0 {
            return None;
        }
        let wanted = RandomStream::named(seed, name).index(n_pixels);
        let mut set = counts.pixels().iter().enumerate().filter(|(_, set)| **set);
        let (at, _) = set.nth(wanted)?;
        Some(self.remember([y0 + at / (x1 - x0), x0 + at % (x1 - x0)], true))
    }

    /// IoU of a prediction, over the pixels that count; 0 when neither has any.
    ///
    /// # Panics
    ///
    /// When the prediction's size differs.
    #[must_use]
    pub fn iou(&self, prediction: &Mask) -> f64 {
        ratio(&self.truth, prediction, self.ignore.as_ref())
    }

    fn remember(&mut self, [row, column]: [usize; 2], is_positive: bool) -> Click {
        self.clicked.push([row, column]);
        Click { column: column as u32, row: row as u32, is_positive }
    }

    /// The pixels of an error, within a box outside which there is none.
    fn error(&self, prediction: &Mask, [x0, y0, x1, y1]: [usize; 4], rule: impl Fn(bool, bool) -> bool) -> Mask {
        let mut error = Mask::empty([y1 - y0, x1 - x0]);
        for (row, error) in (y0..y1).zip(error.pixels_mut().chunks_exact_mut(x1 - x0)) {
            let pixels = self.truth.row(row)[x0..x1].iter().zip(&prediction.row(row)[x0..x1]);
            for (error, (&truth, &prediction)) in error.iter_mut().zip(pixels) {
                *error = rule(truth, prediction);
            }
            if let Some(ignore) = &self.ignore {
                for (error, &ignore) in error.iter_mut().zip(&ignore.row(row)[x0..x1]) {
                    *error &= !ignore;
                }
            }
        }
        error
    }

    /// Row and column of the deepest pixel of an error that is not yet clicked, with its depth; the first pixel and 0 when
    /// there is none. All the error lies in `whole`, so the map beyond its box is background, and need not be looked at.
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
    match ignore {
        None => {
            for (&a, &b) in a.pixels().iter().zip(b.pixels()) {
                intersection += usize::from(a & b);
                union += usize::from(a | b);
            }
        }
        Some(ignore) => {
            for ((&a, &b), &ignore) in a.pixels().iter().zip(b.pixels()).zip(ignore.pixels()) {
                intersection += usize::from(a & b & !ignore);
                union += usize::from((a | b) & !ignore);
            }
        }
    }
    if intersection == 0 { 0.0 } else { intersection as f64 / union as f64 }
}

/// The tight box of a mask as a prompt: the outer edges of its outermost pixels, as COCO's `[x, y, x + w, y + h]`.
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
        // The deepest pixel is taken; next comes the first of those at depth 3.
        assert_eq!(clicker.next_click(&empty), Click { column: 4, row: 3, is_positive: true });
    }

    #[test]
    fn a_tie_is_negative() {
        let mut clicker = Clicker::new(block([5, 11], [1, 1, 4, 4]), None);
        let spilled = block([5, 11], [6, 1, 9, 4]);
        assert_eq!(clicker.next_click(&spilled), Click { column: 7, row: 2, is_positive: false });
    }

    #[test]
    fn nothing_left_gives_a_negative_click_at_the_corner() {
        let truth = block([5, 5], [0, 0, 3, 3]);
        let mut clicker = Clicker::new(truth.clone(), None);
        for _ in 0..2 {
            assert_eq!(clicker.next_click(&truth), Click { column: 0, row: 0, is_positive: false });
        }
    }

    #[test]
    fn ignored_pixels_are_no_error_and_count_for_nothing() {
        let truth = block([6, 12], [0, 0, 6, 6]);
        let mut clicker = Clicker::new(truth, Some(block([6, 12], [0, 0, 5, 6])));
        let prediction = block([6, 12], [5, 0, 7, 6]);
        // Column 5 is hit, column 6 is spilled.
        assert_eq!(clicker.iou(&prediction), 0.5);
        assert_eq!(clicker.next_click(&prediction), Click { column: 6, row: 0, is_positive: false });
    }

    #[test]
    fn random_clicks_lie_on_the_object_and_do_not_change() {
        let truth = block([8, 8], [1, 1, 3, 3]);
        let mut counts = [0; 4];
        for id in 0..4000u64 {
            let click = Clicker::new(truth.clone(), None).random_click(5, &[b"a.jpg", &id.to_le_bytes()]).expect("set");
            assert!(click.is_positive && truth.get(click.row as usize, click.column as usize));
            counts[(click.row as usize - 1) * 2 + click.column as usize - 1] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let all_ignored = Mask::from_fn([8, 8], |_, _| true);
        assert_eq!(Clicker::new(truth, Some(all_ignored)).random_click(5, &[b"a"]), None);
    }
}
