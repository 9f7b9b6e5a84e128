//! The edge map of an image from a model alone: automatic masks of a coarse grid, none of them filtered by a score.
//!
//! Source: SAM paper, appendix D.2: 16 x 16 points, 768 masks, duplicates removed by their boxes.

use std::ops::ControlFlow;

use sam_image::{RgbImage, upscale_logits};
use sam_infer::Predictor;
use sam_infer::automatic::{Candidates, Floors, Options, Thresholds, Watch};

use crate::edges::edge_map::EdgeMap;
use crate::edges::probabilities::{MaskEdge, MaskEdges};
use crate::edges::suppression::EdgeSuppression;
use crate::error::EvalError;

/// How edges are made.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeOptions {
    /// Points along each side of the image.
    pub points_per_side: usize,
    /// Points in one call of the decoder; affects memory, not results.
    pub points_per_batch: usize,
    /// Of two masks whose boxes have a higher IoU, one is a duplicate.
    pub box_nms: f64,
    /// The rule by which edge pixels are suppressed.
    pub suppression: EdgeSuppression,
}

impl Default for EdgeOptions {
    /// Those of the paper, as far as it names them.
    fn default() -> Self {
        let suppression = EdgeSuppression::default();
        Self { points_per_side: 16, points_per_batch: 64, box_nms: 0.7, suppression }
    }
}

/// The edge map of an image; `name` is for errors.
///
/// # Errors
///
/// When an option is out of range, or the model fails.
pub fn edge_map(
    predictor: &Predictor,
    name: &str,
    image: &RgbImage,
    options: &EdgeOptions,
) -> Result<EdgeMap, EvalError> {
    let failed = |source| EvalError::Segmenter { image: name.to_owned(), source: Box::new(source) };
    let size_hw = [image.height() as usize, image.width() as usize];
    let everything = Floors { predicted_iou: 0.0, stability: 0.0 };
    let asked = Options {
        points_per_side: options.points_per_side,
        points_per_batch: options.points_per_batch,
        floors: everything,
        ..Options::default()
    };
    let mut edge_of: Vec<MaskEdge> = Vec::new();
    let found = Candidates::find_watched(
        predictor,
        image,
        &asked,
        Watch {
            on_points: &mut |_| ControlFlow::Continue(()),
            on_candidate: &mut |candidate| {
                let logits = candidate.low_res_logits;
                let logits = upscale_logits(logits, logits.len().isqrt(), candidate.frame);
                edge_of.push(MaskEdge::of_logits(size_hw, &logits));
            },
        },
    );
    let mut edges = MaskEdges::new(size_hw);
    if let ControlFlow::Continue(candidates) = found.map_err(failed)? {
        let thresholds =
            Thresholds { predicted_iou: 0.0, stability: 0.0, box_nms: options.box_nms, ..Thresholds::default() };
        for mask in candidates.generate(&thresholds).map_err(failed)?.masks {
            edges.add(&edge_of[mask.candidate]);
        }
    }
    Ok(edges.finish(options.suppression))
}
