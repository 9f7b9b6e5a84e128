//! Protocols over samples, for stand-alone evaluation and for the validation of a training run.
//!
//! Each image is embedded once for all protocols. Images with few objects share a decoder call. The results depend neither
//! on that nor on the order of the images.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use sam_image::Rle;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::eval_set::EvalImage;
use crate::metrics::click_metrics::{ClickMetrics, ClickMetricsConfig};
use crate::metrics::results::{Results, Run};
use crate::metrics::text_metrics::TEXT_MEASURES;
use crate::protocol::interactive::{embed, run_embedded};
use crate::protocol::object_record::ObjectRecord;
use crate::protocol::segmenter::Segmenter;
use crate::protocol::settings::Protocol;
use crate::protocol::task::{ImageTask, Outcome, Target};
use crate::protocol::text::{TextOutcome, TextProtocol, run_texts};
use crate::protocol::text_record::{TextCounts, TextRecord, TextRun};

/// Maximum number of embeddings in memory: 4 MiB each at the published sizes.
const IMAGES_AT_ONCE: usize = 16;

/// A protocol with its metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalProtocol {
    /// The protocol.
    pub protocol: Protocol,
    /// The metrics.
    pub click_metrics: ClickMetricsConfig,
}

impl From<Protocol> for EvalProtocol {
    /// Adds the metrics that are usually reported.
    fn from(protocol: Protocol) -> Self {
        let click_metrics = ClickMetricsConfig::for_protocol(&protocol);
        Self { protocol, click_metrics }
    }
}

/// How objects are prompted.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvalProtocols<'a> {
    /// Clicks and boxes, of every object.
    pub objects: &'a [EvalProtocol],
    /// Texts, of every image.
    pub text: Option<&'a TextProtocol>,
}

impl<'a> From<&'a [EvalProtocol]> for EvalProtocols<'a> {
    /// Without texts.
    fn from(objects: &'a [EvalProtocol]) -> Self {
        Self { objects, text: None }
    }
}

/// Progress of an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvalProgress {
    /// Completed images.
    pub n_images: usize,
    /// All images.
    pub of_images: usize,
    /// Completed objects, each counted once per protocol, and texts of images.
    pub n_objects: usize,
}

impl EvalProgress {
    /// Adds completed objects and reports the progress.
    pub(crate) fn report(
        &mut self,
        n_objects: usize,
        progress: &mut dyn FnMut(Self) -> ControlFlow<()>,
    ) -> Result<(), EvalError> {
        self.n_objects += n_objects;
        match progress(*self) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(EvalError::Interrupted { n_images: self.n_images, of_images: self.of_images })
            }
        }
    }
}

/// The outcome of an evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Metrics and records; [`Results::about`] is left to the caller.
    pub results: Results,
    /// The masks after the last round, for each run of the results, in the order of its records.
    pub final_masks: Vec<Vec<Rle>>,
    /// The most confident mask of each text alone, in the order of the records.
    pub text_masks: Vec<Rle>,
    /// Indices of the samples, by the names of data set and image.
    pub places: BTreeMap<(String, String), usize>,
}

/// The names of the metrics of texts.
#[must_use]
pub fn text_metric_names() -> Vec<String> {
    TEXT_MEASURES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The names of all metrics of these protocols over all objects. Validates the protocols.
///
/// # Errors
///
/// When a protocol is invalid, or two protocols have the same metric.
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

/// What an evaluation found on some of its images: parts that several processes computed become one evaluation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EvaluationPart {
    /// By protocol of objects.
    outcomes: Vec<Vec<Outcome>>,
    texts: Vec<TextOutcome>,
    /// By data set.
    left_out: BTreeMap<String, TextCounts>,
    places: Vec<((String, String), usize)>,
}

/// Runs the protocols on all objects of all images. `progress` is called after every embedded image and every decoder call,
/// and may interrupt the evaluation.
///
/// # Errors
///
/// When a protocol is invalid, a sample cannot be read or used, the segmenter fails, there is no object at all, or
/// `progress` interrupts ([`EvalError::Interrupted`]).
pub fn evaluate<S: Segmenter>(
    segmenter: &S,
    images: impl IntoIterator<Item = Result<EvalImage, EvalError>>,
    n_images: usize,
    protocols: EvalProtocols<'_>,
    progress: &mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
) -> Result<Evaluation, EvalError> {
    EvaluationPart::of(segmenter, images, n_images, protocols, progress)?.finish(protocols)
}

impl EvaluationPart {
    /// As [`evaluate`], without metrics; there may be no object.
    ///
    /// # Errors
    ///
    /// As [`evaluate`].
    pub fn of<S: Segmenter>(
        segmenter: &S,
        images: impl IntoIterator<Item = Result<EvalImage, EvalError>>,
        n_images: usize,
        protocols: EvalProtocols<'_>,
        progress: &mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
    ) -> Result<Self, EvalError> {
        metric_names(protocols.objects)?;
        let objects_per_call =
            protocols.objects.iter().map(|protocol| protocol.protocol.objects_per_call).max().unwrap_or(1);
        let mut evaluator = Evaluator {
            segmenter,
            protocols,
            found: Self { outcomes: vec![Vec::new(); protocols.objects.len()], ..Self::default() },
            at: EvalProgress { of_images: n_images, ..EvalProgress::default() },
            progress,
        };
        let mut pending: Vec<EvalImage> = Vec::new();
        for image in images {
            let image = image?;
            if image.sample.objects.is_empty() {
                evaluator.at.n_images += 1;
                continue;
            }
            pending.push(image);
            let n_objects: usize = pending.iter().map(|image| image.sample.objects.len()).sum();
            if n_objects >= objects_per_call || pending.len() == IMAGES_AT_ONCE {
                evaluator.run(&pending)?;
                pending.clear();
            }
        }
        evaluator.run(&pending)?;
        Ok(evaluator.found)
    }

    /// Adds what was found on other images with the same protocols.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (own, others) in self.outcomes.iter_mut().zip(other.outcomes) {
            own.extend(others);
        }
        self.texts.extend(other.texts);
        for (data_set, counts) in other.left_out {
            self.left_out.entry(data_set).or_default().add(counts);
        }
        self.places.extend(other.places);
        self
    }

    /// The metrics; they depend on no order of the images.
    ///
    /// # Errors
    ///
    /// When there is no object at all.
    pub fn finish(self, protocols: EvalProtocols<'_>) -> Result<Evaluation, EvalError> {
        let (mut runs, mut final_masks) = (Vec::new(), Vec::new());
        for (EvalProtocol { protocol, click_metrics }, mut outcomes) in protocols.objects.iter().zip(self.outcomes) {
            if outcomes.is_empty() {
                return Err(EvalError::Nothing { metric: "an evaluation".to_owned() });
            }
            // The order of the run's records, so that masks and records match.
            outcomes.sort_by(|a, b| ObjectRecord::by_name(&a.record, &b.record));
            let (records, masks) = outcomes.into_iter().map(|outcome| (outcome.record, outcome.final_mask)).unzip();
            runs.push(Run::new(protocol.clone(), click_metrics.clone(), records)?);
            final_masks.push(masks);
        }
        let mut texts = self.texts;
        texts.sort_by(|a, b| TextRecord::by_name(&a.record, &b.record));
        let (records, text_masks) = texts.into_iter().map(|outcome| (outcome.record, outcome.mask)).unzip();
        let texts = match protocols.text {
            Some(protocol) => Some(TextRun::new(protocol.settings.clone(), self.left_out, records)?),
            None => None,
        };
        let results = Results::with_texts(BTreeMap::new(), runs, texts, &[])?;
        Ok(Evaluation { results, final_masks, text_masks, places: self.places.into_iter().collect() })
    }
}

struct Evaluator<'a, S> {
    segmenter: &'a S,
    protocols: EvalProtocols<'a>,
    found: EvaluationPart,
    at: EvalProgress,
    progress: &'a mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
}

impl<S: Segmenter> Evaluator<'_, S> {
    /// Runs all protocols on a batch of images.
    fn run(&mut self, images: &[EvalImage]) -> Result<(), EvalError> {
        let place = |image: &EvalImage| ((image.data_set.to_string(), image.sample.name.clone()), image.index);
        self.found.places.extend(images.iter().map(place));
        let targets: Vec<Vec<Target<'_>>> = images.iter().map(EvalImage::targets).collect();
        let tasks: Vec<ImageTask<'_>> =
            images.iter().zip(&targets).map(|(image, objects)| image.task(objects)).collect();
        let mut embeddings = Vec::with_capacity(tasks.len());
        for task in &tasks {
            embeddings.push(embed(self.segmenter, task)?);
            self.at.report(0, self.progress)?;
        }
        let embeddings: Vec<&S::Embedding> = embeddings.iter().collect();
        for (EvalProtocol { protocol, .. }, outcomes) in self.protocols.objects.iter().zip(&mut self.found.outcomes) {
            let mut after = |n_objects| self.at.report(n_objects, self.progress);
            outcomes.extend(run_embedded(self.segmenter, protocol, &tasks, &embeddings, &mut after)?);
        }
        if let Some(protocol) = self.protocols.text {
            for ((image, task), embedding) in images.iter().zip(&tasks).zip(&embeddings) {
                let mut after = |n_texts| self.at.report(n_texts, self.progress);
                let found = run_texts(self.segmenter, protocol, (image, task), embedding, &mut after)?;
                self.found.texts.extend(found.outcomes);
                self.found.left_out.entry(image.data_set.to_string()).or_default().add(found.left_out);
            }
        }
        self.at.n_images += images.len();
        self.at.report(0, self.progress)
    }
}
