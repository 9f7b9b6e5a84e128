//! Polygon rasterisation by COCO's rule.
//!
//! `rleFrPoly` of `maskApi.c`, bit for bit. Coordinates are multiplied by five and rounded, the outline is traced on that
//! finer grid, and the mask changes wherever the outline crosses the centre line of a pixel column; so filling is even-odd,
//! and a pixel is set when its centre is roughly inside. Different from the reference: the trace jumps from column to column
//! instead of storing every step, so the cost of a polygon is bounded by the columns of the image. The inverse is
//! [`crate::outlines`].

use crate::error::ImageError;
use crate::mask::checked_area;
use crate::rle::Rle;

/// Steps per pixel of the trace (`scale` in `rleFrPoly`).
const STEPS_PER_PX: i64 = 5;
/// The step before the centre line of a column, and the step after it.
const STEP_BEFORE_CENTRE: i64 = 2;
/// More crossings are reduced to distinct ones now and then: an outline of a megabyte that runs to and fro over a wide image has
/// more of them than fit into memory.
const FEW_CROSSINGS: usize = 1 << 22;
/// The largest supported coordinate, twice the side length of any image. (The reference overflows at 4.3e8.)
pub(crate) const MAX_COORDINATE_PX: f64 = 1e9;

/// The mask of one polygon, flat as in COCO files: x1, y1, x2, y2, and so on. The last vertex joins the first.
///
/// Fewer than three vertices give an empty mask. Self-intersecting polygons are filled even-odd.
///
/// # Errors
///
/// When the length is odd, a coordinate is not finite or above 1e9, or the size is too large.
pub fn polygon_to_rle(size_hw: [usize; 2], flat_xy_px: &[f64]) -> Result<Rle, ImageError> {
    rings_to_rle(size_hw, [flat_xy_px])
}

/// The mask of several rings filled even-odd together, so that a ring inside another one is a hole.
///
/// COCO files cannot represent this (their lists are unions); other formats can.
///
/// # Errors
///
/// As [`polygon_to_rle`].
pub(crate) fn rings_to_rle<'a>(
    size_hw: [usize; 2],
    rings: impl IntoIterator<Item = &'a [f64]>,
) -> Result<Rle, ImageError> {
    let n_pixels = checked_area(size_hw)?;
    let (mut crossings, mut full) = (Vec::new(), FEW_CROSSINGS);
    for flat_xy_px in rings {
        let points = fine_points(flat_xy_px)?;
        for (at, &from) in points.iter().enumerate() {
            walk_edge(size_hw, from, points[(at + 1) % points.len()], &mut crossings);
            if crossings.len() > full {
                crossings.sort_unstable();
                crossings = odd_ones(&crossings, n_pixels as u32);
                full = FEW_CROSSINGS.max(2 * crossings.len());
            }
        }
    }
    crossings.sort_unstable();
    Ok(Rle::from_transitions(size_hw, n_pixels, &odd_ones(&crossings, n_pixels as u32)))
}

/// The mask of an object with several parts: the union of its polygons, as in COCO files.
///
/// # Errors
///
/// As [`polygon_to_rle`], and when there is no polygon.
pub fn polygons_to_rle(size_hw: [usize; 2], parts: &[Vec<f64>]) -> Result<Rle, ImageError> {
    let masks = parts.iter().map(|part| polygon_to_rle(size_hw, part)).collect::<Result<Vec<_>, _>>()?;
    Rle::union(&masks)
}

/// The mask of a box `[x, y, width, height]`, as COCO's `rleFrBbox`: the box as a polygon.
///
/// # Errors
///
/// As [`polygon_to_rle`].
pub fn bbox_to_rle(size_hw: [usize; 2], box_xywh_px: [f64; 4]) -> Result<Rle, ImageError> {
    let [x, y, width, height] = box_xywh_px;
    polygon_to_rle(size_hw, &[x, y, x, y + height, x + width, y + height, x + width, y])
}

/// Vertices on the fine grid. `as` truncates toward zero, as the C cast does.
fn fine_points(flat_xy_px: &[f64]) -> Result<Vec<[i64; 2]>, ImageError> {
    if !flat_xy_px.len().is_multiple_of(2) {
        return Err(ImageError::PolygonLength { got: flat_xy_px.len() });
    }
    let invalid = |value: &f64| !value.is_finite() || value.abs() > MAX_COORDINATE_PX;
    if let Some(at) = flat_xy_px.iter().position(invalid) {
        return Err(ImageError::PolygonCoordinate { at, got: flat_xy_px[at], limit: MAX_COORDINATE_PX });
    }
    let fine = |value: f64| (STEPS_PER_PX as f64 * value + 0.5) as i64;
    Ok(flat_xy_px.chunks_exact(2).map(|xy| [fine(xy[0]), fine(xy[1])]).collect())
}

/// Adds the column-major position of every column centre that the edge crosses.
fn walk_edge([height, width]: [usize; 2], from: [i64; 2], to: [i64; 2], crossings: &mut Vec<u32>) {
    let (dx, dy) = ((to[0] - from[0]).abs(), (to[1] - from[1]).abs());
    let is_flat = dx >= dy;
    // The reference starts at the lower end of the longer axis, so that both directions round alike.
    let long = if is_flat { 0 } else { 1 };
    let (from, to) = if from[long] > to[long] { (to, from) } else { (from, to) };
    let ([xs, ys], [xe, ye]) = (from, to);

    // Both `before` and the step after it must lie on the edge.
    let first_column = (xs.min(xe) - STEP_BEFORE_CENTRE - 1).div_euclid(STEPS_PER_PX) + 1;
    let end_column = (xs.max(xe) - STEP_BEFORE_CENTRE - 1).div_euclid(STEPS_PER_PX) + 1;
    for column in first_column.max(0)..end_column.min(width as i64) {
        let before = column * STEPS_PER_PX + STEP_BEFORE_CENTRE;
        let fine_y = if is_flat {
            let slope = (ye - ys) as f64 / dx as f64;
            let y_at = |x: i64| (ys as f64 + slope * (x - xs) as f64 + 0.5) as i64;
            y_at(before).min(y_at(before + 1))
        } else {
            ys + steps_before_passing(xs, xe, dy, before)
        };
        // The first pixel centre that is not above the crossing.
        let row = (fine_y + STEP_BEFORE_CENTRE).div_euclid(STEPS_PER_PX).clamp(0, height as i64);
        crossings.push((column * height as i64 + row) as u32);
    }
}

/// On a steep edge of `dy` steps from `xs` to `xe`: the last step before x crosses between `before` and `before + 1`.
fn steps_before_passing(xs: i64, xe: i64, dy: i64, before: i64) -> i64 {
    let slope = (xe - xs) as f64 / dy as f64;
    let x_at = |step: i64| (xs as f64 + slope * step as f64 + 0.5) as i64;
    let has_passed = |step: i64| {
        if slope > 0.0 { x_at(step) > before } else { x_at(step) <= before }
    };
    // Solved for x = before + 1 - 0.5, then corrected by the reference's own rounding: a step or two.
    let mut step = (((before - xs) as f64 + 0.5) / slope).round().clamp(1.0, dy as f64) as i64;
    while step > 1 && has_passed(step - 1) {
        step -= 1;
    }
    while step < dy && !has_passed(step) {
        step += 1;
    }
    step - 1
}

/// Positions that occur an odd number of times: crossing twice at one position changes nothing.
fn odd_ones(sorted: &[u32], end: u32) -> Vec<u32> {
    sorted
        .chunk_by(|a, b| a == b)
        .filter(|equal| equal.len() % 2 == 1 && equal[0] < end)
        .map(|equal| equal[0])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden polygons, made by running `maskApi.c`.
    #[test]
    fn golden_vectors() {
        for (size, flat_xy_px, counts) in [
            (6, &[1., 1., 4., 1., 4., 4., 1., 4.][..], &[7, 3, 3, 3, 3, 3, 14][..]),
            (6, &[0., 0., 6., 0., 0., 6.], &[0, 5, 1, 4, 2, 3, 3, 2, 4, 1, 11]),
            (6, &[1.5, 1.5, 4.5, 1.5, 4.5, 4.5, 1.5, 4.5], &[14, 3, 3, 3, 3, 3, 7]),
            (6, &[0.4, 0.4, 5.2, 2.7, 1.1, 5.6], &[0, 1, 6, 4, 2, 4, 3, 2, 4, 1, 9]),
            (6, &[-2., -2., 8., -2., 8., 8., -2., 8.], &[0, 36]),
            (7, &[1., 1., 5., 1., 5., 5., 1., 5., 3., 3., 2., 4.], &[8, 1, 2, 1, 3, 4, 3, 4, 3, 4, 16]),
        ] {
            let rle = polygon_to_rle([size, size], flat_xy_px).expect("valid");
            assert_eq!(rle.counts(), counts, "{flat_xy_px:?}");
        }
        let rectangle = bbox_to_rle([480, 640], [100.0, 50.0, 200.0, 200.0]).expect("valid");
        let text = rectangle.to_coco_string();
        assert!(text.starts_with("bm^1X6h8000") && text.ends_with("0000^Zo4") && text.len() == 409, "{text}");
        assert_eq!(rectangle.counts()[..3], [48050, 200, 280]);
        assert_eq!((rectangle.area_px(), rectangle.bbox_xywh_px()), (40000, [100, 50, 200, 200]));
    }

    #[test]
    fn degenerate_polygons_are_empty() {
        for flat_xy_px in [&[][..], &[3.0, 3.0], &[1.0, 1.0, 5.0, 4.0], &[2.0, 2.0, 2.0, 2.0, 2.0, 2.0]] {
            let rle = polygon_to_rle([6, 6], flat_xy_px).expect("valid");
            assert!(rle.is_empty(), "{flat_xy_px:?} gives {:?}", rle.to_mask());
        }
        assert!(polygon_to_rle([0, 6], &[0.0, 0.0, 6.0, 0.0, 0.0, 6.0]).expect("valid").is_empty());
    }

    #[test]
    fn bad_coordinates_are_errors() {
        for (flat_xy_px, words) in [
            (&[1.0, 2.0, 3.0][..], "even length, got 3"),
            (&[1.0, f64::NAN], "got NaN at position 1"),
            (&[f64::INFINITY, 1.0], "got inf at position 0"),
            (&[1.0, 1e300], "within 1e9 pixels, got 1"),
        ] {
            let message = polygon_to_rle([6, 6], flat_xy_px).expect_err("invalid").to_string();
            assert!(message.contains(words), "{words:?} is missing in: {message}");
        }
        assert!(polygons_to_rle([6, 6], &[]).is_err());
    }

    /// A polygon a million times larger than the image costs no more than the columns of the image.
    #[test]
    fn huge_polygons_are_clipped() {
        let rle = polygon_to_rle([50, 70], &[-9e8, -9e8, 9e8, -9e8, 9e8, 9e8, -9e8, 9e8]).expect("valid");
        assert_eq!(rle.area_px(), 50 * 70);
    }

    /// An outline that runs to and fro crosses every column once for each of its edges.
    #[test]
    fn zigzags_do_not_fill_the_memory() {
        let width = 1 << 12;
        let zigzag = |n_turns: usize| -> Vec<f64> {
            (0..n_turns).flat_map(|turn| [(turn % 2 * width) as f64, (turn % 7) as f64]).collect()
        };
        let reduced = polygon_to_rle([8, width], &zigzag(5001)).expect("valid");
        // Every 14 turns the outline has crossed each position equally often.
        assert_eq!(reduced, polygon_to_rle([8, width], &zigzag(5001 - 14 * 300)).expect("valid"));
    }

    #[test]
    fn a_ring_inside_a_ring_is_a_hole() {
        let (outer, inner) = ([0., 0., 6., 0., 6., 6., 0., 6.], [2., 2., 4., 2., 4., 4., 2., 4.]);
        let rle = rings_to_rle([6, 6], [&outer[..], &inner[..]]).expect("valid");
        assert_eq!(rle.area_px(), 36 - 4);
        assert!(!rle.to_mask().get(3, 3));
    }
}
