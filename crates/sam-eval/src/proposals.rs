//! Object proposals: automatic masks of a fine grid, none of them filtered by a score, in an order.
//!
//! Source: SAM paper, appendix D.3: 64 x 64 points, box NMS at 0.9; the best 1000 by the mean of predicted IoU and stability. Its
//! ablation with a single mask per point: 128 x 128 points, box NMS at 0.95, in random order, as the scores of single masks do not
//! rank them.

use std::ops::ControlFlow;

use sam_data::random::RandomStream;
use sam_image::RgbImage;
use sam_infer::Predictor;
use sam_infer::automatic::{AutomaticMask, Candidates, Floors, MasksPerPoint, Options, Thresholds};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::proposal_recall::Proposal;

/// What ranks the proposals of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// The mean of predicted IoU and stability.
    #[default]
    Mean,
    /// The predicted IoU alone.
    PredictedIou,
    /// The stability alone.
    Stability,
    /// Chance, the same for an image of the same name.
    Random,
}

/// How proposals are made.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposalOptions {
    /// Points along each side of the image.
    pub points_per_side: usize,
    /// Points in one call of the decoder; affects memory, not results.
    pub points_per_batch: usize,
    /// Masks per point.
    pub masks_per_point: MasksPerPoint,
    /// Of two masks whose boxes have a higher IoU, the one with the lower predicted IoU is a duplicate.
    pub box_nms: f64,
    /// Their order.
    pub ranking: Ranking,
}

impl Default for ProposalOptions {
    /// Those of the paper.
    fn default() -> Self {
        let (masks_per_point, ranking) = (MasksPerPoint::Three, Ranking::Mean);
        Self { points_per_side: 64, points_per_batch: 64, masks_per_point, box_nms: 0.9, ranking }
    }
}

/// The proposals of an image, in no order but with their scores; `name` is for errors and for chance.
///
/// # Errors
///
/// When an option is out of range, or the model fails.
pub fn propose(
    predictor: &Predictor,
    name: &str,
    image: &RgbImage,
    options: &ProposalOptions,
) -> Result<Vec<Proposal>, EvalError> {
    let failed = |source| EvalError::Segmenter { image: name.to_owned(), source: Box::new(source) };
    let asked = Options {
        points_per_side: options.points_per_side,
        points_per_batch: options.points_per_batch,
        masks_per_point: options.masks_per_point,
        floors: Floors { predicted_iou: 0.0, stability: 0.0 },
        ..Options::default()
    };
    let found = Candidates::find(predictor, image, &asked, &mut |_| ControlFlow::Continue(())).map_err(failed)?;
    let ControlFlow::Continue(candidates) = found else { return Ok(Vec::new()) };
    let thresholds =
        Thresholds { predicted_iou: 0.0, stability: 0.0, box_nms: options.box_nms, ..Thresholds::default() };
    let masks = candidates.generate(&thresholds).map_err(failed)?.masks;
    let mut random = RandomStream::named(0, &[b"proposals", name.as_bytes()]);
    let mut chance = || random.index(1 << 24) as f64;
    let proposal = |mask: AutomaticMask| {
        let score = match options.ranking {
            Ranking::Random => chance(),
            ranking => score(ranking, mask.predicted_iou, mask.stability),
        };
        Proposal { mask: mask.rle, score }
    };
    Ok(masks.into_iter().map(proposal).collect())
}

/// The stability of a mask without possible pixels is 0 / 0, which ranks last here.
fn score(ranking: Ranking, predicted_iou: f32, stability: f32) -> f64 {
    let stability = if stability.is_nan() { 0.0 } else { f64::from(stability) };
    match ranking {
        Ranking::PredictedIou => f64::from(predicted_iou),
        Ranking::Stability => stability,
        Ranking::Mean | Ranking::Random => (f64::from(predicted_iou) + stability) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_both_scores_ranks() {
        assert_eq!(score(Ranking::Mean, 0.75, 0.25), 0.5);
        assert_eq!(score(Ranking::PredictedIou, 0.75, 0.25), 0.75);
        assert_eq!(score(Ranking::Stability, 0.75, 0.25), 0.25);
        assert_eq!(score(Ranking::Mean, 0.5, f32::NAN), 0.25);
    }
}
