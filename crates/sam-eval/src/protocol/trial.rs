//! One object under a protocol: its prompts, round by round, and the scores of the answers.
//!
//! Sources: RITM's `evaluate_sample` for the loop, SAM's Appendix D for the first round (three masks, the most confident or
//! the best) and `SamPredictor`'s notebook for the later ones (one mask, prompted with all clicks and the previous mask's
//! logits). There is no zoom-in and no flip; RITM's published numbers use both (`with_flip`).

use sam_image::{DILATION_RATIO, Mask, boundary_thickness_px, mask_boundary};

use crate::error::EvalError;
use crate::protocol::clicks::{Click, Clicker, ratio, tight_box_xyxy_px};
use crate::protocol::object_record::{ObjectRecord, Round, RoundPrompt, SizeBucket};
use crate::protocol::segmenter::{Candidate, MaskSelection, Prompt};
use crate::protocol::settings::{Boundary, FirstClick, MaskFeedback, Protocol, Step};
use crate::protocol::task::{ImageTask, Target};

/// The state of one object between rounds.
pub(crate) struct Trial<'a, L> {
    pub(crate) task: &'a ImageTask<'a>,
    pub(crate) task_index: usize,
    target: &'a Target<'a>,
    clicker: Clicker,
    target_boundary: Option<Mask>,
    clicks: Vec<Click>,
    box_xyxy_px: Option<[f32; 4]>,
    feedback: Option<L>,
    new_prompt: RoundPrompt,
    pub(crate) prediction: Mask,
    is_selective: Option<bool>,
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
        let target_mask = target.mask.to_mask();
        let ignore = task.ignore.map(|ignore| ignore.to_mask());
        let empty = |what| EvalError::EmptyObject { image: task.name.to_owned(), object_id: target.id, what };
        if target.mask.is_empty() {
            return Err(empty("empty"));
        }
        if ignore.as_ref().is_some_and(|ignore| target_mask.pixels().iter().zip(ignore.pixels()).all(|(t, i)| !t | i)) {
            return Err(empty("wholly ignored"));
        }
        let target_boundary = (protocol.boundary == Boundary::Measure).then(|| boundary(&target_mask));
        Ok(Self {
            task,
            task_index,
            target,
            clicker: Clicker::new(target_mask, ignore),
            target_boundary,
            clicks: Vec::new(),
            box_xyxy_px: None,
            feedback: None,
            new_prompt: RoundPrompt::Refinement,
            prediction: Mask::empty(expected_hw),
            is_selective: None,
            rounds: Vec::new(),
            is_over: false,
        })
    }

    /// Adds the new prompt of this round.
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
        Prompt { clicks: &self.clicks, box_xyxy_px: self.box_xyxy_px, logits: self.feedback.as_ref(), text: None }
    }

    /// Scores an answer, whose candidates have been validated.
    pub(crate) fn score(&mut self, mut candidates: Vec<Candidate<L>>, selection: MaskSelection, protocol: &Protocol) {
        let qualities: Vec<f32> = candidates.iter().map(|candidate| candidate.predicted_iou).collect();
        let chosen = sam_infer::most_confident(&qualities);
        let ious: Vec<f64> = candidates.iter().map(|candidate| self.clicker.iou(&candidate.mask)).collect();
        let oracle_iou = (selection == MaskSelection::All).then(|| ious.iter().copied().fold(0.0, f64::max));
        let Candidate { mask, predicted_iou, logits } = candidates.swap_remove(chosen);
        let boundary_iou = self
            .target_boundary
            .as_ref()
            .map(|target_mask| ratio(target_mask, &boundary(&mask), self.clicker.ignore()));
        if self.rounds.is_empty() {
            self.is_selective = self.is_selective(&mask, ious[chosen]);
        }
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

    /// Whether a mask fits its object better than any other object of the image; `None` where there is no other.
    fn is_selective(&self, mask: &Mask, iou: f64) -> Option<bool> {
        let mut others = self.task.objects.iter().filter(|other| other.mask != self.target.mask).peekable();
        others.peek()?;
        let (area, ignore) = (mask.area_px() as f64, self.clicker.ignore());
        let fits_less = |other: &Target<'_>| {
            // An IoU is at most the ratio of the areas: most objects need not be decoded.
            let other_area = other.mask.area_px() as f64;
            let is_out_of_reach = area.min(other_area) / area.max(other_area) < iou;
            ignore.is_none() && is_out_of_reach || ratio(&other.mask.to_mask(), mask, ignore) < iou
        };
        Some(others.all(fits_less))
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
            is_selective: self.is_selective,
            rounds: self.rounds,
        };
        (record, self.prediction)
    }
}

/// The boundary as in `sam_image::boundary_iou`. Ignored pixels are excluded afterwards: they must not become an edge.
fn boundary(mask: &Mask) -> Mask {
    mask_boundary(mask, boundary_thickness_px(mask.size_hw(), DILATION_RATIO))
}
