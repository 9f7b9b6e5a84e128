//! Object proposals of data sets: their average recall, by size and, for the file of an LVIS data set, by frequency.

use std::collections::HashMap;
use std::sync::Arc;

use sam_data::{Format, read_text};
use sam_eval::{
    EvalError, EvalImage, GroundTruth, Metrics, ProposalRecall, ProposalTarget, ProposalTruth, proposal_targets,
    propose, read_images,
};
use sam_files::MAX_FILE_BYTES;
use sam_infer::Predictor;

use super::data::OpenSet;
use crate::config::EvaluatePlan;
use crate::config::zero_shot::ProposalsPlan;
use crate::failure::{BadInput, Failure};
use crate::progress::Progress;

/// What proposals are compared with.
pub(crate) struct ProposalTask {
    plan: ProposalsPlan,
    /// Of each data set, the file of annotations, if its path is one: areas and frequencies are then those of the file.
    truths: Vec<Option<GroundTruth>>,
    workers: usize,
}

impl ProposalTask {
    /// Reads the files of annotations.
    pub(crate) fn open(plan: &EvaluatePlan, task: &ProposalsPlan, sets: &[OpenSet]) -> Result<Self, Failure> {
        let truth = |(set, data): (&OpenSet, &crate::config::evaluate::EvaluateDataPlan)| {
            let path = &data.files.path;
            if set.source.format() != Format::Coco || !path.is_file() {
                return Ok(None);
            }
            let text = read_text(path, MAX_FILE_BYTES)?;
            let truth = GroundTruth::from_json(&path.display().to_string(), &text)?;
            // Found before an hour of work.
            ProposalTruth::new(&truth)?;
            anyhow::Ok(Some(truth))
        };
        let truths = sets.iter().zip(&plan.data).map(truth).collect::<Result<_, _>>().bad_input()?;
        Ok(Self { plan: task.clone(), truths, workers: plan.run.measure.workers })
    }

    /// Whether a data set says how frequent its categories are.
    pub(crate) fn has_frequencies(&self) -> bool {
        let has = |truth: &GroundTruth| truth.categories.iter().any(|category| category.frequency.is_some());
        self.truths.iter().flatten().any(has)
    }

    /// The metrics of each data set.
    pub(crate) fn evaluate(&self, predictor: &Predictor, sets: &[OpenSet]) -> Result<Vec<(String, Metrics)>, Failure> {
        let of_sets: Vec<_> = sets.iter().map(|set| set.set.clone()).collect();
        let place_of: HashMap<Arc<str>, usize> =
            of_sets.iter().enumerate().map(|(at, set)| (Arc::clone(&set.name), at)).collect();
        let truths: Vec<Option<ProposalTruth<'_>>> = self
            .truths
            .iter()
            .map(|truth| truth.as_ref().map(ProposalTruth::new).transpose())
            .collect::<Result<_, EvalError>>()
            .map_err(Failure::of_evaluation)?;
        let mut recalls = vec![ProposalRecall::new(&self.plan.max_dets).map_err(Failure::of_evaluation)?; sets.len()];
        let images = read_images(&of_sets, self.workers);
        let mut progress = Progress::new("proposals of images", images.n_images() as u64);
        for (done, image) in images.enumerate() {
            let image = image.map_err(Failure::of_evaluation)?;
            let set = place_of[&image.data_set];
            let targets = targets(&image, &sets[set], truths[set].as_ref()).map_err(Failure::of_evaluation)?;
            let proposals = propose(predictor, &image.sample.name, &image.sample.image, &self.plan.options());
            let proposals = proposals.map_err(Failure::of_evaluation)?;
            recalls[set].add(&targets, proposals).map_err(Failure::of_evaluation)?;
            progress.set(done as u64 + 1);
        }
        let metrics =
            |(set, recall): (&OpenSet, &ProposalRecall)| Ok((set.set.name.to_string(), recall.metrics("mask")?));
        sets.iter().zip(&recalls).map(metrics).collect::<Result<_, EvalError>>().map_err(Failure::of_evaluation)
    }
}

/// The targets of an image: those of its file, or its objects as they were read.
fn targets(
    image: &EvalImage,
    set: &OpenSet,
    truth: Option<&ProposalTruth<'_>>,
) -> Result<Vec<ProposalTarget>, EvalError> {
    match (truth, set.source.image_id(image.index)) {
        (Some(truth), Some(id)) => truth.of(&id),
        _ => Ok(proposal_targets(&image.sample)),
    }
}
