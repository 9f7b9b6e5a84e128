//! Outlines of a mask: one exterior polygon per component and one polygon per hole.
//!
//! Outlines follow the edges between set and unset pixels, so vertices have integer coordinates: pixel (row, column) is the
//! square from (column, row) to (column + 1, row + 1). There are vertices only where the direction changes. On the screen,
//! exteriors are clockwise and holes counter-clockwise.
//!
//! Pixels that touch only diagonally belong to two components (4-connectivity), so outlines never cross; an outline may
//! touch itself at such a vertex. `cv2.findContours` differs: it joins diagonals and runs through pixel centres, which loses
//! half a pixel on all sides when the polygon is filled again. Here the round trip is exact: [`outlines_to_rle`] restores the
//! mask, and so does pycocotools for masks without holes.

use crate::components::{Components, Connectivity};
use crate::error::ImageError;
use crate::mask::{Mask, row_runs};
use crate::polygon::rings_to_rle;
use crate::rle::Rle;

/// One component of a mask as closed polygons; the last vertex joins the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Vertices `[x, y]` of the exterior.
    pub exterior_xy_px: Vec<[u32; 2]>,
    /// Vertices of each hole. COCO files cannot represent holes.
    pub holes_xy_px: Vec<Vec<[u32; 2]>>,
}

impl Outline {
    /// The exterior as a COCO polygon: x1, y1, x2, y2, and so on.
    #[must_use]
    pub fn exterior_flat_px(&self) -> Vec<f64> {
        flat(&self.exterior_xy_px)
    }
}

/// The outlines of all components of a mask, in reading order of their first pixels.
#[must_use]
pub fn outlines(mask: &Mask) -> Vec<Outline> {
    let parts = Components::new(mask, Connectivity::Four);
    let mut outlines = vec![Outline { exterior_xy_px: Vec::new(), holes_xy_px: Vec::new() }; parts.len()];
    // Every outline has an edge with an unset pixel above and a set one below, where it is found once.
    let mut is_traced = vec![false; mask.pixels().len()];
    for row in 0..mask.height() {
        for column in row_runs(mask.row(row), true).flat_map(|(start, end)| start..end) {
            let has_edge_above = row == 0 || !mask.get(row - 1, column);
            if !has_edge_above || is_traced[row * mask.width() + column] {
                continue;
            }
            let line = trace(mask, row, column, &mut is_traced);
            let Some(part) = parts.at(row, column) else { continue };
            // In reading order, the first outline of a component is its exterior.
            let outline = &mut outlines[part];
            if outline.exterior_xy_px.is_empty() {
                outline.exterior_xy_px = line;
            } else {
                outline.holes_xy_px.push(line);
            }
        }
    }
    outlines
}

/// The mask of outlines, with holes: the exact inverse of [`outlines`].
///
/// # Errors
///
/// When the size is above that of the largest image.
pub fn outlines_to_rle(size_hw: [usize; 2], outlines: &[Outline]) -> Result<Rle, ImageError> {
    let lines: Vec<Vec<f64>> = outlines
        .iter()
        .flat_map(|outline| std::iter::once(&outline.exterior_xy_px).chain(&outline.holes_xy_px))
        .map(|line| flat(line))
        .collect();
    rings_to_rle(size_hw, lines.iter().map(Vec::as_slice))
}

fn flat(line_xy_px: &[[u32; 2]]) -> Vec<f64> {
    line_xy_px.iter().flatten().map(|&value| f64::from(value)).collect()
}

/// Direction of travel; set pixels are on the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heading {
    East,
    South,
    West,
    North,
}

impl Heading {
    fn right(self) -> Self {
        match self {
            Self::East => Self::South,
            Self::South => Self::West,
            Self::West => Self::North,
            Self::North => Self::East,
        }
    }

    fn left(self) -> Self {
        self.right().right().right()
    }
}

/// Follows an outline from the top-left corner of a pixel, eastward along its upper edge, back to the start.
fn trace(mask: &Mask, row: usize, column: usize, is_traced: &mut [bool]) -> Vec<[u32; 2]> {
    let start = (column, row);
    let mut corners = vec![[column as u32, row as u32]];
    let (mut x, mut y) = start;
    let mut heading = Heading::East;
    loop {
        match heading {
            Heading::East => {
                is_traced[y * mask.width() + x] = true;
                x += 1;
            }
            Heading::South => y += 1,
            Heading::West => x -= 1,
            Heading::North => y -= 1,
        }
        let turned = turn(mask, x, y, heading);
        if (x, y) == start && turned == Heading::East {
            return corners;
        }
        if turned != heading {
            corners.push([x as u32, y as u32]);
            heading = turned;
        }
    }
}

/// The direction at the corner (x, y): right if the current pixel ends here, even where another one touches diagonally;
/// otherwise straight ahead or left, along the pixels ahead.
fn turn(mask: &Mask, x: usize, y: usize, heading: Heading) -> Heading {
    // The four pixels around the corner; pixels outside the image are unset.
    let north_west = x > 0 && y > 0 && mask.get(y - 1, x - 1);
    let north_east = y > 0 && mask.get(y - 1, x);
    let south_west = x > 0 && mask.get(y, x - 1);
    let south_east = mask.get(y, x);
    let (ahead_right, ahead_left) = match heading {
        Heading::East => (south_east, north_east),
        Heading::South => (south_west, south_east),
        Heading::West => (north_west, south_west),
        Heading::North => (north_east, north_west),
    };
    match (ahead_right, ahead_left) {
        (false, _) => heading.right(),
        (true, false) => heading,
        (true, true) => heading.left(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::random_below;
    use crate::polygon::polygons_to_rle;

    #[test]
    fn a_ring_has_an_exterior_and_a_hole() {
        let ring = Mask::drawn(&["....", ".###", ".#.#", ".###"]);
        let [outline] = &outlines(&ring)[..] else { panic!("one part") };
        assert_eq!(outline.exterior_xy_px, [[1, 1], [4, 1], [4, 4], [1, 4]]);
        assert_eq!(outline.holes_xy_px, [[[2, 3], [3, 3], [3, 2], [2, 2]]]);
        assert_eq!(outline.exterior_flat_px(), [1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 4.0]);
    }

    #[test]
    fn diagonal_pixels_are_two_components() {
        let diagonal = outlines(&Mask::drawn(&["#.", ".#"]));
        assert_eq!(diagonal.len(), 2);
        assert_eq!(diagonal[1].exterior_xy_px, [[1, 1], [2, 1], [2, 2], [1, 2]]);
    }

    #[test]
    fn round_trips_are_exact() {
        let mut random = random_below(7);
        for round in 0..500 {
            let size_hw = [1 + random(20) as usize, 1 + random(20) as usize];
            let one_in = [2, 3, 8, 100][round % 4];
            let mask = Mask::from_fn(size_hw, |_, _| random(one_in) != 0);
            let outlines = outlines(&mask);
            let back = outlines_to_rle(size_hw, &outlines).expect("valid");
            assert_eq!(back.to_mask(), mask);
            // Without holes, COCO's union of polygons is the same.
            if outlines.iter().all(|outline| outline.holes_xy_px.is_empty()) && !outlines.is_empty() {
                let parts: Vec<Vec<f64>> = outlines.iter().map(Outline::exterior_flat_px).collect();
                assert_eq!(polygons_to_rle(size_hw, &parts).expect("valid").to_mask(), mask);
            }
        }
        assert!(outlines(&Mask::empty([3, 0])).is_empty());
    }
}
