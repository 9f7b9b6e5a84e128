//! Protocols over samples: what `sam-train eval` and the validation of a training run call.
//!
//! Each image is embedded once, whatever the number of protocols. Images with few objects share a call of the decoder. No
//! number depends on that, on the order of the images or on who reads them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use sam_image::Rle;

use crate::click_metrics::{ClickMetrics, ClickMetricsConfig};
use crate::error::EvalError;
use crate::eval_set::EvalImage;
use crate::interactive::{ImageTask, Outcome, Target, embed, play};
use crate::object_record::ObjectRecord;
use crate::results::{Results, Run};
use crate::segmenter::Segmenter;
use crate::trial::Protocol;

/// Embeddings that are kept at once: 4 MiB each at the published sizes.
const IMAGES_AT_ONCE: usize = 16;

/// A protocol with what is computed of it.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalProtocol {
    /// What is done.
    pub protocol: Protocol,
    /// What is computed.
    pub click_metrics: ClickMetricsConfig,
}

impl From<Protocol> for EvalProtocol {
    /// With the metrics that the field reports.
    fn from(protocol: Protocol) -> Self {
        let click_metrics = ClickMetricsConfig::for_protocol(&protocol);
        Self { protocol, click_metrics }
    }
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvalProgress {
    /// Images that are through.
    pub n_images: usize,
    /// All images.
    pub of_images: usize,
    /// Objects that are through; each counts once for every protocol.
    pub n_objects: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The numbers, and the records that they come from; what it is about is left to the caller.
    pub results: Results,
    /// The masks after the last round, for each of the results' runs in the order of its records.
    pub final_masks: Vec<Vec<Rle>>,
}

/// The names of all metrics that these protocols give, over all objects; checks the protocols on the way.
///
/// # Errors
///
/// When there is no protocol, one makes no sense, or two give the same metric.
pub fn metric_names(protocols: &[EvalProtocol]) -> Result<Vec<String>, EvalError> {
    let mut names: Vec<String> = Vec::new();
    for EvalProtocol { protocol, click_metrics } in protocols {
        for (name, _) in ClickMetrics::new(protocol, click_metrics)?.measures() {
            if names.contains(name) {
                return Err(EvalError::Duplicate { what: format!("metric {name}") });
            }
            names.push(name.clone());
        }
    }
    Ok(names)
}

/// Plays the protocols on all objects of all images. `progress` hears of every image that is embedded and every call's
/// objects, and may end it there.
///
/// # Errors
///
/// When a protocol makes no sense, a sample cannot be read or used, the segmenter fails, there is no object at all, or
/// `progress` ends it ([`EvalError::Interrupted`]).
pub fn evaluate<S: Segmenter>(
    segmenter: &S,
    images: impl IntoIterator<Item = Result<EvalImage, EvalError>>,
    n_images: usize,
    protocols: &[EvalProtocol],
    progress: &mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
) -> Result<Evaluation, EvalError> {
    metric_names(protocols)?;
    let objects_per_call = protocols.iter().map(|protocol| protocol.protocol.objects_per_call).max().unwrap_or(1);
    let mut evaluator = Evaluator {
        segmenter,
        protocols,
        outcomes: vec![Vec::new(); protocols.len()],
        at: EvalProgress { of_images: n_images, ..EvalProgress::default() },
        progress,
    };
    let mut waiting: Vec<EvalImage> = Vec::new();
    for image in images {
        let image = image?;
        if image.sample.objects.is_empty() {
            evaluator.at.n_images += 1;
            continue;
        }
        waiting.push(image);
        let n_objects: usize = waiting.iter().map(|image| image.sample.objects.len()).sum();
        if n_objects >= objects_per_call || waiting.len() == IMAGES_AT_ONCE {
            evaluator.play(&waiting)?;
            waiting.clear();
        }
    }
    evaluator.play(&waiting)?;
    evaluator.finish()
}

struct Evaluator<'a, S> {
    segmenter: &'a S,
    protocols: &'a [EvalProtocol],
    /// By protocol.
    outcomes: Vec<Vec<Outcome>>,
    at: EvalProgress,
    progress: &'a mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
}

impl<S: Segmenter> Evaluator<'_, S> {
    /// All protocols on some images, embedded together.
    fn play(&mut self, images: &[EvalImage]) -> Result<(), EvalError> {
        let targets: Vec<Vec<Target<'_>>> = images.iter().map(EvalImage::targets).collect();
        let task = |(image, objects)| task(image, objects);
        let tasks: Vec<ImageTask<'_>> = images.iter().zip(&targets).map(task).collect();
        let mut embeddings = Vec::with_capacity(tasks.len());
        for task in &tasks {
            embeddings.push(embed(self.segmenter, task)?);
            go_on(&mut self.at, self.progress, 0)?;
        }
        let embeddings: Vec<&S::Embedding> = embeddings.iter().collect();
        for (EvalProtocol { protocol, .. }, outcomes) in self.protocols.iter().zip(&mut self.outcomes) {
            let mut after = |n_objects| go_on(&mut self.at, self.progress, n_objects);
            outcomes.extend(play(self.segmenter, protocol, &tasks, &embeddings, &mut after)?);
        }
        self.at.n_images += images.len();
        go_on(&mut self.at, self.progress, 0)
    }

    fn finish(self) -> Result<Evaluation, EvalError> {
        let (mut runs, mut final_masks) = (Vec::new(), Vec::new());
        for (EvalProtocol { protocol, click_metrics }, mut outcomes) in self.protocols.iter().zip(self.outcomes) {
            if outcomes.is_empty() {
                return Err(EvalError::Nothing { metric: "an evaluation".to_owned() });
            }
            // The order of the run's records, so that masks stay beside them.
            outcomes.sort_by(|a, b| ObjectRecord::by_name(&a.record, &b.record));
            let (records, masks) = outcomes.into_iter().map(|outcome| (outcome.record, outcome.final_mask)).unzip();
            runs.push(Run::new(protocol.clone(), click_metrics.clone(), records)?);
            final_masks.push(masks);
        }
        Ok(Evaluation { results: Results::new(BTreeMap::new(), runs, &[])?, final_masks })
    }
}

fn task<'a>(image: &'a EvalImage, objects: &'a Vec<Target<'a>>) -> ImageTask<'a> {
    ImageTask {
        data_set: &image.data_set,
        name: &image.sample.name,
        image: &image.sample.image,
        objects,
        ignore: image.sample.ignore.as_ref(),
    }
}

/// Says how far it is, and ends where that is wanted.
fn go_on(
    at: &mut EvalProgress,
    progress: &mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
    n_objects: usize,
) -> Result<(), EvalError> {
    at.n_objects += n_objects;
    match progress(*at) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(EvalError::Interrupted { n_images: at.n_images, of_images: at.of_images }),
    }
}
