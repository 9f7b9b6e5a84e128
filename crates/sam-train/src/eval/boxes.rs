//! Detections of a data set with one annotation file: checked, used as box prompts, scored.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use sam_data::{CocoId, Source, read_text};
use sam_eval::{
    BoxPrompts, Detections, EvalError, GroundTruth, Metrics, PredictorSegmenter, mask_metrics, segment_boxes,
};
use sam_files::MAX_FILE_BYTES;
use sam_image::RgbImage;

use super::data::OpenSet;
use crate::config::EvaluatePlan;
use crate::config::evaluate::DetectionsPlan;
use crate::config::files::SelectionPlan;
use crate::failure::{BadInput, Failure};
use crate::progress::Progress;

/// Matching ground truth and detections, and their images.
pub(crate) struct BoxTask {
    truth: GroundTruth,
    detections: Detections,
    plan: DetectionsPlan,
    prompts: BoxPrompts,
    source: Arc<Source>,
    data_set: String,
    /// Index in the source by image id.
    index_of: HashMap<CocoId, usize>,
}

impl BoxTask {
    pub(crate) fn open(plan: &EvaluatePlan, task: &DetectionsPlan, set: &OpenSet) -> Result<Self, Failure> {
        let read = |path: &std::path::Path| {
            let name = path.display().to_string();
            read_text(path, MAX_FILE_BYTES).map(|text| (name, text)).bad_input()
        };
        let (name, text) = read(&plan.data[0].files.path)?;
        let mut truth = GroundTruth::from_json(&name, &text).bad_input()?;
        let (name, text) = read(&task.file)?;
        let mut detections = Detections::from_json(&name, &text).bad_input()?;
        drop(text);
        detections.check_against(&truth, task.categories).bad_input()?;
        if let Some(note) = detections.note_of_ids(&truth) {
            writeln!(crate::output::errors(), "note: {note}")?;
        }
        let index_of: HashMap<CocoId, usize> =
            set.set.indices.iter().filter_map(|&index| Some((set.source.image_id(index)?, index))).collect();
        if plan.data[0].selection != SelectionPlan::default() || index_of.len() < truth.images.len() {
            // Only the selected images that can be read are scored, with all their detections.
            truth = truth.of_images(|id| index_of.contains_key(id)).bad_input()?;
            detections.all.retain(|detection| index_of.contains_key(&detection.image_id));
        }
        Ok(Self {
            truth,
            detections,
            plan: task.clone(),
            prompts: BoxPrompts { n_refinements: task.refinements, boxes_per_call: plan.run.batch_objects },
            source: Arc::clone(&set.source),
            data_set: set.set.name.to_string(),
            index_of,
        })
    }

    pub(crate) fn data_set(&self) -> String {
        self.data_set.clone()
    }

    pub(crate) fn detections(&self) -> &Detections {
        &self.detections
    }

    /// The names that [`BoxTask::metrics`] will return; they do not depend on the detections.
    pub(crate) fn metric_names(&self) -> Result<Vec<String>, EvalError> {
        let none = Detections { name: self.detections.name.clone(), all: Vec::new() };
        Ok(self.metrics(&none)?.iter().map(|(name, _)| name.to_owned()).collect())
    }

    pub(crate) fn metrics(&self, found: &Detections) -> Result<Metrics, EvalError> {
        mask_metrics(&self.truth, found, self.plan.categories, &self.plan.max_dets)
    }

    /// A mask for every box.
    pub(crate) fn segment(&self, segmenter: &PredictorSegmenter) -> Result<Detections, Failure> {
        let mut progress = Progress::new("segmenting boxes", self.detections.all.len() as u64);
        let mut image = |id: &CocoId| self.image(id);
        let found = segment_boxes(segmenter, &self.detections, &self.prompts, &mut image, &mut |at| {
            progress.set(at.n_objects as u64);
            ControlFlow::Continue(())
        });
        found.map_err(Failure::of_evaluation)
    }

    fn image(&self, id: &CocoId) -> Result<RgbImage, EvalError> {
        let index = self.index_of.get(id).copied().ok_or_else(|| EvalError::Content {
            name: self.truth.name.clone(),
            what: format!("image {id}"),
            expected: "with the file_name of an image that exists".to_owned(),
            got: "one without".to_owned(),
        })?;
        let failed = |source| EvalError::Sample { data_set: self.data_set.clone(), index, source };
        Ok(self.source.sample(index).map_err(|error| failed(error.into()))?.image)
    }
}
