//! Intersection over union of masks and boxes, and COCO's IoU matrices with crowd regions.
//!
//! Source: `rleIou` and `bbIou` of `maskApi.c`, same operations in the same order, so equal to the last bit. For a
//! crowd ground-truth mask, the union is replaced by the area of the detection. Two disjoint masks have IoU 0, including
//! two empty ones.
//!
//! Different from the reference: masks of different sizes are an error and not -1.

use crate::error::ImageError;
use crate::mask::{Mask, same_size};
use crate::rle::{Rle, for_each_overlap};

/// Number of pixels that are set in both masks.
///
/// # Errors
///
/// When the sizes differ.
pub fn rle_intersection_px(a: &Rle, b: &Rle) -> Result<usize, ImageError> {
    same_size(a.size_hw(), b.size_hw())?;
    Ok(intersection_px(a, b) as usize)
}

/// IoU of two masks, without decoding.
///
/// # Errors
///
/// When the sizes differ.
pub fn rle_iou(a: &Rle, b: &Rle) -> Result<f64, ImageError> {
    let intersection = rle_intersection_px(a, b)?;
    Ok(ratio(intersection, a.area_px() + b.area_px() - intersection))
}

/// IoU of two bitmaps.
///
/// # Errors
///
/// When the sizes differ.
pub fn mask_iou(a: &Mask, b: &Mask) -> Result<f64, ImageError> {
    same_size(a.size_hw(), b.size_hw())?;
    let intersection: usize = a.pixels().iter().zip(b.pixels()).map(|(&a, &b)| usize::from(a & b)).sum();
    Ok(ratio(intersection, a.area_px() + b.area_px() - intersection))
}

/// IoU of every detection with every ground truth, as `pycocotools.mask.iou(detections, truths, is_crowd)`.
///
/// Row-major: detection `d` and ground truth `t` are at `d * truths.len() + t`.
///
/// # Errors
///
/// When the sizes differ, or there is not one flag per ground truth.
pub fn rle_iou_matrix(detections: &[Rle], truths: &[Rle], is_crowd: &[bool]) -> Result<Vec<f64>, ImageError> {
    one_flag_each(truths.len(), is_crowd)?;
    if let Some(first) = detections.iter().chain(truths).next() {
        for mask in detections.iter().chain(truths) {
            same_size(first.size_hw(), mask.size_hw())?;
        }
    }
    let measured_truths: Vec<_> = truths.iter().map(measure).collect();
    let mut matrix = Vec::with_capacity(detections.len() * truths.len());
    for detection in detections {
        let (bounds, area_px) = measure(detection);
        for ((truth, &(truth_bounds, truth_area_px)), &is_crowd) in truths.iter().zip(&measured_truths).zip(is_crowd) {
            if !boxes_overlap(bounds, truth_bounds) {
                matrix.push(0.0);
                continue;
            }
            let intersection = intersection_px(detection, truth) as usize;
            let union = if is_crowd { area_px } else { area_px + truth_area_px - intersection };
            matrix.push(ratio(intersection, union));
        }
    }
    Ok(matrix)
}

/// IoU of every box with every box, as `pycocotools.mask.iou` on boxes `[x, y, width, height]`; layout as
/// [`rle_iou_matrix`].
///
/// # Errors
///
/// When there is not one flag per ground truth.
pub fn bbox_iou_matrix(
    detections_xywh: &[[f64; 4]],
    truths_xywh: &[[f64; 4]],
    is_crowd: &[bool],
) -> Result<Vec<f64>, ImageError> {
    one_flag_each(truths_xywh.len(), is_crowd)?;
    let mut matrix = Vec::with_capacity(detections_xywh.len() * truths_xywh.len());
    for detection in detections_xywh {
        for (truth, &is_crowd) in truths_xywh.iter().zip(is_crowd) {
            matrix.push(bbox_iou(*detection, *truth, is_crowd));
        }
    }
    Ok(matrix)
}

fn bbox_iou([dx, dy, dw, dh]: [f64; 4], [tx, ty, tw, th]: [f64; 4], is_crowd: bool) -> f64 {
    let width = (dw + dx).min(tw + tx) - dx.max(tx);
    let height = (dh + dy).min(th + ty) - dy.max(ty);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let intersection = width * height;
    let detection_area = dw * dh;
    intersection / if is_crowd { detection_area } else { detection_area + tw * th - intersection }
}

fn one_flag_each(expected: usize, is_crowd: &[bool]) -> Result<(), ImageError> {
    if is_crowd.len() == expected {
        return Ok(());
    }
    Err(ImageError::CrowdFlags { expected, got: is_crowd.len() })
}

fn measure(mask: &Rle) -> (Option<[usize; 4]>, usize) {
    (mask.bounds_xyxy_px(), mask.area_px())
}

fn boxes_overlap(a: Option<[usize; 4]>, b: Option<[usize; 4]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3],
        _ => false,
    }
}

fn intersection_px(a: &Rle, b: &Rle) -> u32 {
    let mut sum = 0;
    for_each_overlap(a, b, |start, end| sum += end - start);
    sum
}

fn ratio(intersection: usize, union: usize) -> f64 {
    if intersection == 0 { 0.0 } else { intersection as f64 / union as f64 }
}
