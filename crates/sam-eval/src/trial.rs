//! One object under a protocol: which prompts it gets, round by round, and how each answer scores.
//!
//! Sources: RITM's `evaluate_sample` for the loop, SAM's Appendix D for its first round (three masks, the most confident or
//! the best) and `SamPredictor`'s notebook for the later ones (one mask, prompted with all clicks and the logits of the mask
//! before). No crop around the prediction and no flip: RITM's published numbers have both (`with_flip`, zoom-in).

use sam_image::boundary::DILATION_RATIO;
use sam_image::{Mask, boundary_thickness_px, mask_boundary};
use serde::{Deserialize, Serialize};

use crate::clicks::{Click, Clicker, ratio, tight_box_xyxy_px};
use crate::error::EvalError;
use crate::interactive::{ImageTask, Target};
use crate::object_record::{ObjectRecord, Round, RoundPrompt, SizeBucket};
use crate::segmenter::{Candidate, MaskSelection, Prompt};

/// What every object is prompted with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protocol {
    /// How an object is first pointed at.
    pub start: Start,
    /// How many clicks are given in all; after a box it may be 0.
    pub n_clicks: usize,
    /// Where the first click lands when nothing is predicted yet.
    pub first_click: FirstClick,
    /// What is asked of the ambiguous first prompt.
    pub first_masks: FirstMasks,
    /// How often the first prompt is repeated with the mask it gave, before any further click. SAM's instance
    /// segmentation has 1.
    pub n_refinements: usize,
    /// Whether a round sees the mask of the round before.
    pub mask_feedback: MaskFeedback,
    /// An object is left alone once it has this IoU: saves time when only NoC is wanted, and rules out mIoU@k.
    pub stop_at_iou: Option<f64>,
    /// Whether the IoU of the boundaries is measured, too.
    pub boundary: Boundary,
    /// Objects in one call of the segmenter; no number depends on it, memory does.
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

/// How an object is first pointed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With a click.
    Click,
    /// With the tight box of its mask, which stays for all rounds.
    Box,
}

/// Where the first click lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FirstClick {
    /// At the pixel farthest from the object's edge.
    Centre,
    /// Anywhere on the object, by the seed and the names of data set, image and object.
    Random {
        /// Another seed, another click.
        seed: u64,
    },
}

/// What is asked of the first prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstMasks {
    /// One mask, as of an unambiguous prompt.
    Single,
    /// The most confident of three.
    MostConfident,
    /// The most confident of three goes on; the best of the three by IoU is noted as the oracle.
    MostConfidentAndOracle,
}

/// What a round sees of the round before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskFeedback {
    /// The logits of its mask.
    Logits,
    /// Nothing; only the clicks add up.
    Nothing,
}

/// Whether boundaries are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// No.
    Skip,
    /// In every round.
    Measure,
}

/// What is new in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Box,
    Click,
    Refinement,
}

impl Protocol {
    /// Refuses settings that cannot be run or that would have no effect.
    ///
    /// # Errors
    ///
    /// With the setting, the rule and what came.
    pub fn check(&self) -> Result<(), EvalError> {
        let refuse =
            |key, expected: &str, got: String| Err(EvalError::Option { key, expected: expected.to_owned(), got });
        if self.start == Start::Click && self.n_clicks == 0 {
            return refuse("n_clicks", "at least 1 when start = \"click\"", "0".to_owned());
        }
        if self.start == Start::Box && self.first_click != FirstClick::Centre {
            return refuse(
                "first_click",
                "\"centre\" when start = \"box\"",
                "a random one, which would not be used".to_owned(),
            );
        }
        if self.objects_per_call == 0 {
            return refuse("objects_per_call", "at least 1", "0".to_owned());
        }
        if self.n_refinements > 0 && self.mask_feedback == MaskFeedback::Nothing {
            let got = format!("{}: without the mask a refinement repeats the same prompt", self.n_refinements);
            return refuse("n_refinements", "0 when mask_feedback = \"nothing\"", got);
        }
        match self.stop_at_iou {
            Some(iou) if !(iou > 0.0 && iou <= 1.0) => refuse("stop_at_iou", "above 0 and at most 1", format!("{iou}")),
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

    /// What is asked for in this round (from 0).
    pub(crate) fn selection(&self, round: usize) -> MaskSelection {
        match self.first_masks {
            _ if round > 0 => MaskSelection::Single,
            FirstMasks::Single => MaskSelection::Single,
            FirstMasks::MostConfident => MaskSelection::MostConfident,
            FirstMasks::MostConfidentAndOracle => MaskSelection::All,
        }
    }
}

/// One object on its way through the rounds.
pub(crate) struct Trial<'a, L> {
    pub(crate) task: &'a ImageTask<'a>,
    pub(crate) task_index: usize,
    target: &'a Target<'a>,
    clicker: Clicker,
    truth_boundary: Option<Mask>,
    clicks: Vec<Click>,
    box_xyxy_px: Option<[f32; 4]>,
    feedback: Option<L>,
    new_prompt: RoundPrompt,
    pub(crate) prediction: Mask,
    rounds: Vec<Round>,
    pub(crate) is_over: bool,
}

impl<'a, L> Trial<'a, L> {
    pub(crate) fn new(
        task: &'a ImageTask<'a>,
        task_index: usize,
        target: &'a Target<'a>,
        protocol: &Protocol,
    ) -> Result<Self, EvalError> {
        let expected_hw = task.size_hw();
        let check = |what: String, got_hw: [usize; 2]| {
            if got_hw == expected_hw {
                return Ok(());
            }
            Err(EvalError::Size { image: task.name.to_owned(), what, expected_hw, got_hw })
        };
        check(format!("the mask of object {}", target.id), target.mask.size_hw())?;
        if let Some(ignore) = task.ignore {
            check("the mask of ignored pixels".to_owned(), ignore.size_hw())?;
        }
        let truth = target.mask.to_mask();
        let ignore = task.ignore.map(|ignore| ignore.to_mask());
        let empty = |what| EvalError::EmptyObject { image: task.name.to_owned(), object_id: target.id, what };
        if target.mask.is_empty() {
            return Err(empty("empty"));
        }
        if ignore.as_ref().is_some_and(|ignore| truth.pixels().iter().zip(ignore.pixels()).all(|(t, i)| !t | i)) {
            return Err(empty("wholly ignored"));
        }
        let truth_boundary = (protocol.boundary == Boundary::Measure).then(|| boundary(&truth));
        Ok(Self {
            task,
            task_index,
            target,
            clicker: Clicker::new(truth, ignore),
            truth_boundary,
            clicks: Vec::new(),
            box_xyxy_px: None,
            feedback: None,
            new_prompt: RoundPrompt::Refinement,
            prediction: Mask::empty(expected_hw),
            rounds: Vec::new(),
            is_over: false,
        })
    }

    /// Decides what is new in this round.
    pub(crate) fn prepare(&mut self, step: Step, protocol: &Protocol) {
        self.new_prompt = match step {
            Step::Box => {
                self.box_xyxy_px = tight_box_xyxy_px(self.target.mask);
                RoundPrompt::Box
            }
            Step::Refinement => RoundPrompt::Refinement,
            Step::Click => {
                let click = match protocol.first_click {
                    FirstClick::Random { seed } if self.rounds.is_empty() => {
                        let id = self.target.id.to_le_bytes();
                        let name = [self.task.data_set.as_bytes(), self.task.name.as_bytes(), &id];
                        self.clicker.random_click(seed, &name)
                    }
                    _ => None,
                };
                let click = click.unwrap_or_else(|| self.clicker.next_click(&self.prediction));
                self.clicks.push(click);
                RoundPrompt::Click(click)
            }
        };
    }

    pub(crate) fn prompt(&self) -> Prompt<'_, L> {
        Prompt { clicks: &self.clicks, box_xyxy_px: self.box_xyxy_px, logits: self.feedback.as_ref() }
    }

    /// Takes an answer; the candidates have been checked.
    pub(crate) fn score(&mut self, mut candidates: Vec<Candidate<L>>, selection: MaskSelection, protocol: &Protocol) {
        let qualities: Vec<f32> = candidates.iter().map(|candidate| candidate.predicted_iou).collect();
        let chosen = crate::segmenter::most_confident(&qualities);
        let ious: Vec<f64> = candidates.iter().map(|candidate| self.clicker.iou(&candidate.mask)).collect();
        let oracle_iou = (selection == MaskSelection::All).then(|| ious.iter().copied().fold(0.0, f64::max));
        let Candidate { mask, predicted_iou, logits } = candidates.swap_remove(chosen);
        let boundary_iou =
            self.truth_boundary.as_ref().map(|truth| ratio(truth, &boundary(&mask), self.clicker.ignore()));
        self.rounds.push(Round {
            prompt: self.new_prompt,
            iou: ious[chosen],
            predicted_iou: f64::from(predicted_iou),
            oracle_iou,
            boundary_iou,
        });
        self.is_over = protocol.stop_at_iou.is_some_and(|stop| ious[chosen] >= stop);
        self.prediction = mask;
        self.feedback = (protocol.mask_feedback == MaskFeedback::Logits).then_some(logits);
    }

    pub(crate) fn into_record(self) -> (ObjectRecord, Mask) {
        let area_px = self.target.mask.area_px();
        let record = ObjectRecord {
            data_set: self.task.data_set.to_owned(),
            image: self.task.name.to_owned(),
            object_id: self.target.id,
            class: self.target.class.map(str::to_owned),
            area_px,
            size: SizeBucket::of(area_px),
            rounds: self.rounds,
        };
        (record, self.prediction)
    }
}

/// As `sam_image::boundary_iou` takes it. Ignored pixels are left out afterwards: they must not become an edge.
fn boundary(mask: &Mask) -> Mask {
    mask_boundary(mask, boundary_thickness_px(mask.size_hw(), DILATION_RATIO))
}
