//! Settings of an interactive protocol and the sequence of its rounds.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::protocol::segmenter::MaskSelection;

/// The prompts that every object receives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protocol {
    /// The first prompt.
    pub start: Start,
    /// Total number of clicks; may be 0 after a box.
    pub n_clicks: usize,
    /// Position of the first click.
    pub first_click: FirstClick,
    /// The masks requested for the ambiguous first prompt.
    pub first_masks: FirstMasks,
    /// Number of refinements: the first prompt is repeated together with the predicted mask, before any further click.
    /// SAM's instance segmentation has 1.
    pub n_refinements: usize,
    /// Whether a round receives the previous mask as a prompt.
    pub mask_feedback: MaskFeedback,
    /// Stops an object once it reaches this IoU: saves time when only NoC is needed, and rules out mIoU@k.
    pub stop_at_iou: Option<f64>,
    /// Whether boundary IoU is measured.
    pub boundary: Boundary,
    /// Objects per call of the segmenter; affects memory, not results.
    pub objects_per_call: usize,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            start: Start::Click,
            n_clicks: 5,
            first_click: FirstClick::Centre,
            first_masks: FirstMasks::MostConfidentAndOracle,
            n_refinements: 0,
            mask_feedback: MaskFeedback::Logits,
            stop_at_iou: None,
            boundary: Boundary::Skip,
            objects_per_call: 16,
        }
    }
}

/// The first prompt of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A click.
    Click,
    /// The tight box of the ground-truth mask, kept in all rounds.
    Box,
}

/// Position of the first click.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FirstClick {
    /// The pixel farthest from the object's boundary.
    Centre,
    /// A random pixel of the object, determined by the seed and the names of data set, image and object.
    Random {
        /// Random seed.
        seed: u64,
    },
}

/// The masks requested for the first prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstMasks {
    /// One mask, as for an unambiguous prompt.
    Single,
    /// The most confident of three.
    MostConfident,
    /// The most confident of three; the best of the three by IoU is recorded as the oracle.
    MostConfidentAndOracle,
}

/// The mask prompt of later rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskFeedback {
    /// The logits of the previous mask.
    Logits,
    /// None; only the clicks accumulate.
    Nothing,
}

/// Whether boundary IoU is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Not measured.
    Skip,
    /// Measured in every round.
    Measure,
}

/// The new prompt of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Box,
    Click,
    Refinement,
}

impl Protocol {
    /// Rejects settings that are invalid or would have no effect.
    ///
    /// # Errors
    ///
    /// Names the setting, the expectation and the value.
    pub fn check(&self) -> Result<(), EvalError> {
        if self.start == Start::Click && self.n_clicks == 0 {
            return Err(EvalError::option("n_clicks", "at least 1 when start = \"click\"", 0));
        }
        if self.start == Start::Box && self.first_click != FirstClick::Centre {
            let got = "a random one, which would not be used";
            return Err(EvalError::option("first_click", "\"centre\" when start = \"box\"", got));
        }
        if self.objects_per_call == 0 {
            return Err(EvalError::option("objects_per_call", "at least 1", 0));
        }
        if self.n_refinements > 0 && self.mask_feedback == MaskFeedback::Nothing {
            let got = format!("{}: without the mask a refinement repeats the same prompt", self.n_refinements);
            return Err(EvalError::option("n_refinements", "0 when mask_feedback = \"nothing\"", got));
        }
        match self.stop_at_iou {
            Some(iou) if !(iou > 0.0 && iou <= 1.0) => {
                Err(EvalError::option("stop_at_iou", "above 0 and at most 1", iou))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        let (first, n_clicks) = match self.start {
            Start::Click => (Step::Click, self.n_clicks - 1),
            Start::Box => (Step::Box, self.n_clicks),
        };
        let refinements = std::iter::repeat_n(Step::Refinement, self.n_refinements);
        std::iter::once(first).chain(refinements).chain(std::iter::repeat_n(Step::Click, n_clicks)).collect()
    }

    /// The masks requested in a round (from 0).
    pub(crate) fn selection(&self, round: usize) -> MaskSelection {
        match self.first_masks {
            _ if round > 0 => MaskSelection::Single,
            FirstMasks::Single => MaskSelection::Single,
            FirstMasks::MostConfident => MaskSelection::MostConfident,
            FirstMasks::MostConfidentAndOracle => MaskSelection::All,
        }
    }
}
