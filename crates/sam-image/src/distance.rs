//! The exact Euclidean distance from each set pixel to the nearest unset one.
//!
//! Source: Meijster, Roerdink and Hesselink, "A general algorithm for computing distance transforms in linear time"
//! (2000), the integer form of Felzenszwalb and Huttenlocher's lower envelope. Squared distances are integers until the
//! final square root, so equal distances compare equal and "the farthest pixel" does not depend on rounding. Equivalent
//! to `scipy.ndimage.distance_transform_edt` and, without its approximation, `cv2.distanceTransform(DIST_L2)`.
//!
//! Only the bounding box of the set pixels is visited, and within a row only its runs of set pixels: sites beyond the unset
//! pixel next to a run are never nearer than that pixel.

use crate::mask::{Mask, row_runs};

/// The treatment of the image border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Border {
    /// Pixels outside the image are unset, as for click simulation (RITM pads the mask before the transform).
    Background,
    /// Only unset pixels inside the image count. The distances of a full mask are infinite.
    Ignored,
}

/// The distance of each pixel to the nearest unset pixel; 0 for unset pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceMap {
    size_hw: [usize; 2],
    distances_px: Vec<f32>,
}

/// "No unset pixel in this column": larger than any distance, without overflow when one is added.
const NONE_PX: u32 = 1 << 30;

impl DistanceMap {
    /// Computes the distance transform of a mask.
    #[must_use]
    pub fn new(mask: &Mask, border: Border) -> Self {
        let mut distances_px = vec![0.0; mask.pixels().len()];
        if let Some(bounds_xyxy_px) = mask.bounds_xyxy_px() {
            measure(mask, border, bounds_xyxy_px, &mut distances_px);
        }
        Self { size_hw: mask.size_hw(), distances_px }
    }

    /// `[height, width]`.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        self.size_hw
    }

    /// The distances, row-major.
    #[must_use]
    pub fn distances_px(&self) -> &[f32] {
        &self.distances_px
    }

    /// Row, column and distance of the pixel farthest from the boundary, the first of equals in reading order; `None` when no
    /// pixel is set.
    #[must_use]
    pub fn farthest(&self) -> Option<(usize, usize, f32)> {
        let farthest_px = self.distances_px.iter().copied().fold(0.0, f32::max);
        if farthest_px == 0.0 {
            return None;
        }
        let at = self.distances_px.iter().position(|&distance| distance == farthest_px)?;
        Some((at / self.size_hw[1], at % self.size_hw[1], farthest_px))
    }
}

fn measure(mask: &Mask, border: Border, bounds_xyxy_px: [usize; 4], distances_px: &mut [f32]) {
    let [height, width] = mask.size_hw();
    let [x0, y0, x1, y1] = bounds_xyxy_px;
    // Just outside the box lie unset pixels, unless the image ends there and the border is ignored.
    let is_edge = |ends_image: bool| !(ends_image && border == Border::Ignored);
    let (left, right) = (is_edge(x0 == 0), is_edge(x1 == width));
    let vertical_px = vertical_distances(mask, bounds_xyxy_px, is_edge(y0 == 0), is_edge(y1 == height));

    let mut envelope = Envelope::default();
    for (vertical_px, row) in vertical_px.chunks_exact(x1 - x0).zip(y0..y1) {
        let distances_px = &mut distances_px[row * width + x0..row * width + x1];
        for (start, end) in row_runs(&mask.row(row)[x0..x1], true) {
            envelope.clear();
            if start > 0 || left {
                envelope.add(-1, 0);
            }
            for (x, &vertical_px) in vertical_px[start..end].iter().enumerate().filter(|(_, px)| **px < NONE_PX) {
                envelope.add(x as i64, i64::from(vertical_px));
            }
            if end < x1 - x0 || right {
                envelope.add((end - start) as i64, 0);
            }
            envelope.write(&mut distances_px[start..end]);
        }
    }
}

/// The distance of each pixel in the box to the nearest unset pixel of its column.
fn vertical_distances(mask: &Mask, [x0, y0, x1, y1]: [usize; 4], top: bool, bottom: bool) -> Vec<u32> {
    let width = x1 - x0;
    let beyond = |is_edge: bool| if is_edge { 0 } else { NONE_PX };
    let mut distances_px = vec![0; width * (y1 - y0)];
    let mut above = vec![beyond(top); width];
    for (distances, row) in distances_px.chunks_exact_mut(width).zip(y0..y1) {
        let pixels = &mask.row(row)[x0..x1];
        for ((distance, above), &is_set) in distances.iter_mut().zip(&mut above).zip(pixels) {
            *above = if is_set { *above + 1 } else { 0 };
            *distance = *above;
        }
    }
    let mut below = vec![beyond(bottom); width];
    for distances in distances_px.chunks_exact_mut(width).rev() {
        for (distance, below) in distances.iter_mut().zip(&mut below) {
            *distance = (*distance).min(*below + 1);
            *below = *distance;
        }
    }
    distances_px
}

/// The lower envelope of parabolas `(x - site)^2 + height^2` along a row; sites are added from left to right.
#[derive(Default)]
struct Envelope {
    /// Site, squared height, and the first x at which the parabola is the lowest.
    parabolas: Vec<(i64, i64, i64)>,
}

impl Envelope {
    fn clear(&mut self) {
        self.parabolas.clear();
    }

    fn add(&mut self, site: i64, height: i64) {
        let height_2 = height * height;
        let value = |(site, height_2, _): (i64, i64, i64), x: i64| (x - site) * (x - site) + height_2;
        let new = (site, height_2, 0);
        while self.parabolas.last().is_some_and(|&last| value(last, last.2) > value(new, last.2)) {
            self.parabolas.pop();
        }
        let from = match self.parabolas.last() {
            None => 0,
            // The last x at which the earlier parabola is not above the new one, plus one.
            Some(&(earlier, earlier_2, _)) => {
                let rise = site * site - earlier * earlier + height_2 - earlier_2;
                rise.div_euclid(2 * (site - earlier)) + 1
            }
        };
        self.parabolas.push((site, height_2, from));
    }

    fn write(&self, distances_px: &mut [f32]) {
        let n = distances_px.len() as i64;
        if self.parabolas.is_empty() {
            distances_px.fill(f32::INFINITY);
        }
        for (at, &(site, height_2, from)) in self.parabolas.iter().enumerate() {
            let end = self.parabolas.get(at + 1).map_or(n, |next| next.2.min(n));
            let from = from.max(0);
            for x in from..end {
                distances_px[x as usize] = (((x - site) * (x - site) + height_2) as f64).sqrt() as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::random_below;

    /// Compares every set pixel with every unset one.
    fn by_force(mask: &Mask, border: Border) -> Vec<f32> {
        let [height, width] = mask.size_hw().map(|size| size as i64);
        let margin = if border == Border::Background { 1 } else { 0 };
        let is_set = |row: i64, column: i64| row >= 0 && column >= 0 && mask.get(row as usize, column as usize);
        let mut distances_px = Vec::new();
        for row in 0..height {
            for column in 0..width {
                let mut nearest_2 = i64::MAX;
                for y in -margin..height + margin {
                    for x in -margin..width + margin {
                        if !is_set(y, x) {
                            nearest_2 = nearest_2.min((y - row).pow(2) + (x - column).pow(2));
                        }
                    }
                }
                let is_reached = nearest_2 < i64::MAX;
                distances_px.push(if is_reached { (nearest_2 as f64).sqrt() as f32 } else { f32::INFINITY });
            }
        }
        distances_px
    }

    #[test]
    fn equal_to_brute_force() {
        let mut random = random_below(1);
        for round in 0..400 {
            let size_hw = [1 + random(14) as usize, 1 + random(17) as usize];
            let one_in = [2, 5, 30, 1000][round % 4];
            let mask = Mask::from_fn(size_hw, |_, _| random(one_in) != 0);
            for border in [Border::Background, Border::Ignored] {
                let map = DistanceMap::new(&mask, border);
                assert_eq!(map.distances_px(), by_force(&mask, border), "{border:?} {mask:?}");
            }
        }
    }

    #[test]
    fn the_farthest_is_the_first_of_equals() {
        let mask = Mask::from_fn([7, 12], |row, column| row > 0 && row < 6 && column > 0 && column < 11);
        let map = DistanceMap::new(&mask, Border::Background);
        assert_eq!(map.farthest(), Some((3, 3, 3.0)));
        assert_eq!(DistanceMap::new(&Mask::empty([4, 4]), Border::Background).farthest(), None);
        let full = Mask::from_fn([4, 4], |_, _| true);
        assert_eq!(DistanceMap::new(&full, Border::Ignored).farthest(), Some((0, 0, f32::INFINITY)));
        assert_eq!(DistanceMap::new(&Mask::empty([0, 4]), Border::Ignored).farthest(), None);
    }
}
