//! Non-maximum suppression of boxes (`torchvision.ops.nms` on the CPU).
//!
//! Numbers as there: boxes are f32, the IoU is an f32 that is compared with an f64 threshold, a box goes when its IoU is
//! *above* it, and ties of scores keep their order. A box without area has an IoU of 0/0 with itself and is never suppressed.

/// Indices of the boxes that stay, best score first. Boxes have inclusive ends, `[x0, y0, x1, y1]`.
pub(super) fn suppress(boxes_xyxy_px: &[[usize; 4]], scores: &[f32], iou_max: f64) -> Vec<usize> {
    assert_eq!(boxes_xyxy_px.len(), scores.len(), "one score per box");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let boxes: Vec<Area> = order.iter().map(|&index| Area::new(boxes_xyxy_px[index])).collect();
    let mut is_suppressed = vec![false; boxes.len()];
    let mut kept = Vec::new();
    for (at, best) in boxes.iter().enumerate() {
        if is_suppressed[at] {
            continue;
        }
        kept.push(order[at]);
        for (other, is_suppressed) in boxes[at + 1..].iter().zip(&mut is_suppressed[at + 1..]) {
            *is_suppressed |= f64::from(best.iou(other)) > iou_max;
        }
    }
    kept
}

/// A box with its area.
struct Area {
    xyxy: [f32; 4],
    area: f32,
}

impl Area {
    fn new(box_xyxy_px: [usize; 4]) -> Self {
        let xyxy @ [x0, y0, x1, y1] = box_xyxy_px.map(|edge| edge as f32);
        Self { xyxy, area: (x1 - x0) * (y1 - y0) }
    }

    fn iou(&self, other: &Self) -> f32 {
        let ([ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]) = (self.xyxy, other.xyxy);
        let width = (ax1.min(bx1) - ax0.max(bx0)).max(0.0);
        let height = (ay1.min(by1) - ay0.max(by0)).max(0.0);
        let intersection = width * height;
        intersection / (self.area + other.area - intersection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_at_the_threshold_are_those_of_torchvision() {
        let whole = [0, 0, 10, 10];
        let kept = |other: [usize; 4], iou_max: f64| suppress(&[whole, other], &[0.9, 0.8], iou_max).len();
        // f32(0.7) is below 0.7, f32(0.8) above 0.8, f32(0.9) below 0.9.
        assert_eq!([kept([0, 0, 10, 7], 0.7), kept([0, 0, 10, 8], 0.7)], [2, 1]);
        assert_eq!([kept([0, 0, 10, 8], 0.8), kept([0, 0, 10, 9], 0.9)], [1, 2]);
    }

    #[test]
    fn the_best_come_first_and_boxes_without_area_stay() {
        let line = [3, 3, 3, 9];
        assert_eq!(suppress(&[line, line, line], &[0.1, 0.3, 0.3], 0.7), [1, 2, 0]);
        let boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]];
        assert_eq!(suppress(&boxes, &[0.5, 0.5, 0.9], 0.7), [2, 1]);
        assert!(suppress(&[], &[], 0.7).is_empty());
    }
}
