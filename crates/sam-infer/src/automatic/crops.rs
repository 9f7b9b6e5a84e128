//! Crops of an image and the grids of points on them (`segment_anything/utils/amg.py`).
//!
//! Different from the reference: where crops are so small that they would turn inside out, their layer and all further ones
//! are left out, and the number of layers says so; the reference fails there.

use super::options::Options;

/// Distance within which a box touches the edge of a crop.
const EDGE_TOLERANCE_PX: usize = 20;

/// The crops of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CropBoxes {
    /// `[x0, y0, x1, y1]` with exclusive ends, and the layer; the first is the image.
    pub(super) boxes: Vec<([usize; 4], usize)>,
    /// Layers beside the image; fewer than asked for when the image is too small for more.
    pub(super) n_layers: usize,
}

impl CropBoxes {
    pub(super) fn new(image_hw: [usize; 2], options: &Options) -> Self {
        let [height, width] = image_hw;
        let mut all = Self { boxes: vec![([0, 0, width, height], 0)], n_layers: 0 };
        for layer in 1..=options.crop_layers {
            let Some(boxes) = layer_boxes(image_hw, layer, options.crop_overlap) else { break };
            all.boxes.extend(boxes.into_iter().map(|crop| (crop, layer)));
            all.n_layers = layer;
        }
        all
    }
}

/// `None` when a crop has no pixel.
fn layer_boxes([height, width]: [usize; 2], layer: usize, overlap_ratio: f64) -> Option<Vec<[usize; 4]>> {
    let per_side = 1usize << layer;
    // The order of the reference's products, which decides the rounding.
    let overlap = (overlap_ratio * height.min(width) as f64 * (2.0 / per_side as f64)) as usize;
    let length = |size: usize| (((overlap * (per_side - 1) + size) as f64) / per_side as f64).ceil() as usize;
    let span = |index: usize, size: usize| {
        let start = index * length(size).checked_sub(overlap)?;
        let end = (start + length(size)).min(size);
        (start < end).then_some([start, end])
    };
    let mut boxes = Vec::with_capacity(per_side * per_side);
    for column in 0..per_side {
        for row in 0..per_side {
            let ([x0, x1], [y0, y1]) = (span(column, width)?, span(row, height)?);
            boxes.push([x0, y0, x1, y1]);
        }
    }
    Some(boxes)
}

/// The points of a crop in pixels of the crop, x fastest: the centres of `per_side` x `per_side` cells.
pub(super) fn grid_points(crop_hw: [usize; 2], per_side: usize) -> Vec<[f64; 2]> {
    let [height, width] = crop_hw.map(|size| size as f64);
    let places = unit_places(per_side);
    places.iter().flat_map(|v| places.iter().map(move |u| [u * width, v * height])).collect()
}

/// `numpy.linspace(1 / 2n, 1 - 1 / 2n, n)`, in its order of operations.
fn unit_places(n: usize) -> Vec<f64> {
    let offset = 1.0 / (2 * n) as f64;
    let (start, stop) = (offset, 1.0 - offset);
    let step = (stop - start) / (n.max(2) - 1) as f64;
    let place = |index: usize| if index + 1 == n && n > 1 { stop } else { index as f64 * step + start };
    (0..n).map(place).collect()
}

/// Whether a box (inclusive ends) touches an edge of its crop that is not an edge of the image: the object probably goes on
/// beyond it.
pub(super) fn touches_inner_edge(box_xyxy_px: [usize; 4], crop_xyxy_px: [usize; 4], image_hw: [usize; 2]) -> bool {
    let image_xyxy_px = [0, 0, image_hw[1], image_hw[0]];
    (0..4).any(|edge| {
        let near = |other: [usize; 4]| box_xyxy_px[edge].abs_diff(other[edge]) <= EDGE_TOLERANCE_PX;
        near(crop_xyxy_px) && !near(image_xyxy_px)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crops(image_hw: [usize; 2], crop_layers: usize) -> CropBoxes {
        CropBoxes::new(image_hw, &Options { crop_layers, ..Options::default() })
    }

    fn of_layer(crops: &CropBoxes, layer: usize) -> Vec<[usize; 4]> {
        crops.boxes.iter().filter(|crop| crop.1 == layer).map(|crop| crop.0).collect()
    }

    /// Numbers of `generate_crop_boxes`.
    #[test]
    fn crops_are_those_of_the_reference() {
        let large = crops([1500, 2250], 2);
        assert_eq!((large.boxes.len(), large.n_layers), (21, 2));
        let first = [[0, 0, 1381, 1006], [0, 494, 1381, 1500], [869, 0, 2250, 1006], [869, 494, 2250, 1500]];
        assert_eq!(of_layer(&large, 1), first);
        let second = of_layer(&large, 2);
        assert_eq!((second[0], second[15]), ([0, 0, 755, 567], [1497, 933, 2250, 1500]));
        let starts = |axis: usize| second.iter().map(|crop| crop[axis]).collect::<std::collections::BTreeSet<_>>();
        assert!(starts(0).into_iter().eq([0, 499, 998, 1497]) && starts(1).into_iter().eq([0, 311, 622, 933]));
        let uneven = of_layer(&crops([1500, 1545], 1), 1);
        assert_eq!((uneven[0], uneven[3]), ([0, 0, 1029, 1006], [517, 494, 1545, 1500]));
        let expected = [[0, 0, 402, 322], [0, 159, 402, 480], [239, 0, 640, 322], [239, 159, 640, 480]];
        assert_eq!(of_layer(&crops([480, 640], 1), 1), expected);
    }

    #[test]
    fn layers_end_before_crops_turn_inside_out() {
        // The reference would ask for the crop [6, 6, 5, 7].
        assert_eq!(crops([7, 5], 2).n_layers, 1);
        assert_eq!(crops([1, 1], 3), CropBoxes { boxes: vec![([0, 0, 1, 1], 0)], n_layers: 0 });
        for size_hw in (1..40).flat_map(|height| [1, 2, 3, 5, 9, 17, 300].map(|width| [height, width])) {
            for (crop, _) in crops(size_hw, 4).boxes {
                assert!(crop[0] < crop[2] && crop[1] < crop[3] && crop[2] <= size_hw[1] && crop[3] <= size_hw[0]);
            }
        }
    }

    /// Numbers of `build_point_grid`, and of images of SA-1B.
    #[test]
    fn points_are_those_of_the_reference() {
        let in_image = |[x0, y0, x1, y1]: [usize; 4], per_side| -> Vec<[f64; 2]> {
            let points = grid_points([y1 - y0, x1 - x0], per_side);
            points.into_iter().map(|[x, y]| [x + x0 as f64, y + y0 as f64]).collect()
        };
        let unit = unit_places(32);
        assert_eq!([unit[0], unit[1], unit[31]], [1.0 / 64.0, 3.0 / 64.0, 63.0 / 64.0]);
        let points = grid_points([1500, 2250], 32);
        assert_eq!(points.len(), 1024);
        let expected = [[35.15625, 23.4375], [105.46875, 23.4375], [35.15625, 70.3125], [2214.84375, 1476.5625]];
        assert_eq!([points[0], points[1], points[32], points[1023]], expected);
        let points = in_image([869, 494, 2250, 1500], 16);
        assert_eq!((points[0], points[255]), ([912.15625, 525.4375], [2206.84375, 1468.5625]));
        let cell = |crop, per_side, [column, row]: [usize; 2]| in_image(crop, per_side)[row * per_side + column];
        assert_eq!(cell([517, 0, 517 + 1028, 1006], 16, [3, 12]), [741.875, 785.9375]);
        assert_eq!(cell([996, 311, 996 + 754, 311 + 567], 8, [1, 2]), [1137.375, 488.1875]);
        assert_eq!(cell([0, 0, 2773, 1500], 32, [16, 31]), [1429.828125, 1476.5625]);
        assert_eq!(unit_places(1), [0.5]);
    }

    /// The tolerance is inclusive, and edges of the image do not count.
    #[test]
    fn boxes_at_inner_edges_are_recognised() {
        let touches = |box_xyxy_px, crop| touches_inner_edge(box_xyxy_px, crop, [1500, 2250]);
        let first = [0, 0, 1381, 1006];
        assert!(touches([100, 100, 1361, 300], first) && !touches([100, 100, 1360, 300], first));
        let last = [869, 494, 2250, 1500];
        assert!(touches([869 + 20, 600, 2000, 900], last) && !touches([869 + 21, 600, 2000, 900], last));
        assert!(!touches([1000, 600, 869 + 1380, 900], last), "the image ends there");
        assert!(!touches([0, 0, 2249, 1499], [0, 0, 2250, 1500]));
    }
}
