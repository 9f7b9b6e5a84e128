//! `task = "probe"` and `sam-train probe`: how well an encoder's frozen features classify labelled images or objects.
//!
//! A falling loss says little about a pre-training. Here only a linear layer is trained: the features of labelled images or
//! objects are extracted, and nearest neighbours and that layer classify held-out ones. The same encoder with random
//! weights, the pixels themselves and the most frequent class are the baselines.

mod data;
mod encoders;
mod files;
mod table;

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;

use anyhow::{anyhow, bail};
use burn::tensor::Device;
use sam_data::OnBad;
use sam_data::loader::{ErrorPolicy, LoaderError};
use sam_eval::{Bootstrap, EvalError, LabelledObjects};
use sam_infer::Precision;
use sam_learn::LearnError;
use sam_learn::probe::{
    ExtractOptions, Extracted, Features, FrozenEncoder, LabelledFeatures, Labels, Neighbours,
    classify_by_logistic_regression, classify_by_neighbours, extract, n_logistic_fits, standardised,
};

use crate::config::ProbePlan;
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::progress::Progress;
use crate::target::check_results;

use data::{ProbeData, counted, listed};
use encoders::EncoderFile;
use files::{ProbeResults, RESULTS, Row, RowKind, Scores};

/// Runs a probe; `force` lets it replace earlier results.
pub(crate) fn run_plan(plan: &ProbePlan, force: bool) -> Result<(), Failure> {
    let out = plan.run.measure.out.as_deref();
    if let Some(out) = out {
        check_results(out, &[RESULTS], force).bad_input()?;
    }
    let device = plan.run.measure.open_device().bad_input()?;
    let files = encoders::open(plan).bad_input()?;
    let data = ProbeData::open(plan).bad_input()?;
    let n_train: usize = data.classes.iter().map(|class| class.n_train).sum();
    if let Some(k) = plan.probe.neighbours.filter(|&k| k > n_train) {
        let expected = format!("at most the number of training samples ({n_train})");
        return Err(anyhow!("probe.neighbours must be {expected}, got {k}")).bad_input();
    }
    data.print(&mut output())?;

    let mut probe =
        Probe { plan, data: &data, device: &device, excluded: Vec::new(), results: None, random: Vec::new() };
    for file in &files {
        probe.add(file)?;
    }
    let Some(mut results) = probe.results else { return Ok(()) };
    results.left_out = data.excluded.iter().chain(&probe.excluded).cloned().collect();
    results.about = about(plan, &data);
    // Checkpoints first, then the baselines.
    results.rows.sort_by_key(|row| row.kind as usize);
    if let Some(out) = out {
        results.write(out)?;
    }
    table::print(&results)?;
    if let Some(out) = out {
        writeln!(output(), "all numbers: {}", out.join(RESULTS).display())?;
    }
    Ok(())
}

/// The state of a probe.
struct Probe<'a> {
    plan: &'a ProbePlan,
    data: &'a ProbeData,
    device: &'a Device,
    excluded: Vec<String>,
    results: Option<ProbeResults>,
    /// Predictions with random weights, by architecture.
    random: Vec<(String, Predictions)>,
}

/// The predicted classes of both classifiers.
#[derive(Clone)]
struct Predictions {
    neighbours: Vec<usize>,
    linear: Vec<usize>,
    penalty: f64,
}

impl Probe<'_> {
    /// Adds a checkpoint, and the baselines that are missing.
    fn add(&mut self, file: &EncoderFile) -> Result<(), Failure> {
        let encoder = file.load(self.plan.model.image_size, self.data.subject, self.device).bad_input()?;
        let architecture = architecture(&encoder);
        let is_known = self.random.iter().any(|(known, _)| *known == architecture);
        let is_first = self.results.is_none();
        let mut encoders = vec![encoder];
        if self.plan.probe.random && !is_known {
            encoders.push(encoders[0].with_random_weights(self.plan.run.seed));
        }
        let [train, val] = self.extract(&encoders, &file.name)?;
        let n_classes = self.data.classes.len();
        let questions = LabelledObjects { classes: &val.classes, images: &val.images, n_classes };
        let k = self
            .plan
            .probe
            .neighbours
            .unwrap_or_else(|| Neighbours::usual(train.classes.len(), n_classes).k)
            .min(train.classes.len());
        let mut results = match self.results.take() {
            Some(results) => results,
            None => {
                let frequent = vec![most_frequent(&train.classes, n_classes); val.classes.len()];
                let scores = questions.scores(&frequent, &Bootstrap::default()).map_err(Failure::of_evaluation)?;
                ProbeResults::new(self.data.classes.clone(), k, scores)
            }
        };
        let n_rows = encoders.len() + usize::from(is_first);
        let mut progress = Progress::new("fitting linear layers", (n_rows * n_logistic_fits()) as u64);
        let mut n_fits = 0;
        let mut predictions = |at: usize| {
            let on_fit = &mut || {
                n_fits += 1;
                progress.set(n_fits);
            };
            self.classify(&train, &train.features[at], &val.features[at], k, on_fit)
        };
        let of_checkpoint = predictions(0);
        let of_random = (encoders.len() > 1).then(|| predictions(1));
        // The pixels are the same for all checkpoints, so only the first adds them.
        let of_pixels = is_first.then(|| predictions(encoders.len()));
        drop(progress);
        if let Some(predictions) = of_random {
            let name = match self.plan.model.checkpoints.checkpoint.len() {
                1 => "random weights".to_owned(),
                _ => format!("random weights, sizes of {}", file.name),
            };
            let row = row(&name, RowKind::RandomWeights, &questions, &train.features[1], &predictions, None)?;
            let encoder = Some(format!("{}, seed {}", architecture_of(&encoders[0]), self.plan.run.seed));
            results.rows.push(Row { encoder, ..row });
            self.random.push((architecture.clone(), predictions));
        }
        let random = self.random.iter().find(|(known, _)| *known == architecture).map(|(_, answers)| answers);
        let of = row(&file.name, RowKind::Checkpoint, &questions, &train.features[0], &of_checkpoint, random)?;
        let encoder = Some(format!("{}, {}", file.path.display(), file.description()));
        results.rows.push(Row { encoder, ..of });
        if let (Some(predictions), Some(features)) = (of_pixels, train.features.last()) {
            results.rows.push(row("pixels", RowKind::Pixels, &questions, features, &predictions, None)?);
        }
        self.results = Some(results);
        Ok(())
    }

    /// The features of both parts.
    fn extract(&mut self, encoders: &[FrozenEncoder], name: &str) -> Result<[Extracted; 2], Failure> {
        let run = &self.plan.run;
        let options = ExtractOptions {
            pooling: self.plan.probe.token.into(),
            images_per_batch: run.batch_images.and_then(NonZeroUsize::new),
            n_workers: run.measure.workers,
            on_error: match self.plan.data.files.options.bad {
                OnBad::Refuse => ErrorPolicy::Stop,
                OnBad::Drop => ErrorPolicy::Skip,
            },
        };
        let parts = [&self.data.train, &self.data.val];
        let n_images: usize = parts.iter().map(|part| part.indices.len()).sum();
        if self.plan.model.checkpoints.checkpoint.len() > 1 {
            writeln!(errors(), "probing {name}")?;
        }
        let mut progress = Progress::new("extracting features of images", n_images as u64);
        let mut done = 0;
        let mut extracted = Vec::with_capacity(parts.len());
        for part in parts {
            let features = extract(encoders, part, &options, &mut |n| progress.set((done + n) as u64));
            extracted.push(features.map_err(unreadable)?);
            done += part.indices.len();
        }
        drop(progress);
        let Ok([train, val]) = <[Extracted; 2]>::try_from(extracted) else {
            return Err(Failure::Run(anyhow!("internal error: two parts have two lists of features")));
        };
        check(&train, &val, self.data).bad_input()?;
        // Another input size may lose other objects.
        let new: Vec<String> =
            excluded(&train, &val).into_iter().filter(|what| !self.excluded.contains(what)).collect();
        new.iter().try_for_each(|what| writeln!(output(), "excluded: {what}"))?;
        self.excluded.extend(new);
        Ok([train, val])
    }

    fn classify(
        &self,
        train: &Extracted,
        train_features: &Features,
        val_features: &Features,
        k: usize,
        on_fit: &mut dyn FnMut(),
    ) -> Predictions {
        let [learned, held_out] = standardised(train_features, val_features);
        let learned = LabelledFeatures { features: &learned, classes: &train.classes, images: &train.images };
        let neighbours = classify_by_neighbours(Neighbours { k }, learned, &held_out, self.device);
        let linear = classify_by_logistic_regression(learned, &held_out, self.device, on_fit);
        Predictions { neighbours, linear: linear.predicted, penalty: linear.penalty }
    }
}

fn row(
    name: &str,
    kind: RowKind,
    questions: &LabelledObjects<'_>,
    features: &Features,
    predictions: &Predictions,
    random: Option<&Predictions>,
) -> Result<Row, Failure> {
    let config = Bootstrap::default();
    let scores = |predicted: &[usize], others: Option<&Vec<usize>>| -> Result<Scores, EvalError> {
        let less_random = others.map(|others| questions.difference(predicted, others, &config)).transpose()?;
        Ok(Scores { scores: questions.scores(predicted, &config)?, less_random })
    };
    let neighbours = scores(&predictions.neighbours, random.map(|random| &random.neighbours));
    let linear = scores(&predictions.linear, random.map(|random| &random.linear));
    Ok(Row {
        name: name.to_owned(),
        kind,
        encoder: None,
        width: features.width,
        neighbours: neighbours.map_err(Failure::of_evaluation)?,
        linear: linear.map_err(Failure::of_evaluation)?,
        penalty: predictions.penalty,
    })
}

/// Errors that show only once images are decoded and resized.
fn check(train: &Extracted, val: &Extracted, data: &ProbeData) -> anyhow::Result<()> {
    if val.classes.is_empty() {
        bail!("no validation sample is left: {}", listed(&excluded(train, val)));
    }
    let mut has_sample = vec![false; data.classes.len()];
    train.classes.iter().for_each(|&class| has_sample[class] = true);
    let absent: Vec<String> = data
        .classes
        .iter()
        .zip(&has_sample)
        .filter(|(_, has_sample)| !**has_sample)
        .map(|(class, _)| class.name.clone())
        .collect();
    if !absent.is_empty() {
        bail!(
            "no training sample is left of {}: {} ({}); a larger image size (--image-size) shows small objects",
            counted(absent.len(), "class"),
            listed(&absent),
            listed(&excluded(train, val))
        );
    }
    Ok(())
}

fn excluded(train: &Extracted, val: &Extracted) -> Vec<String> {
    let [train, val] = [&train.dropped, &val.dropped];
    let mut lines = Vec::new();
    let n_unreadable = train.n_unreadable + val.n_unreadable;
    if n_unreadable > 0 {
        let names: Vec<String> = train.unreadable.iter().chain(&val.unreadable).cloned().collect();
        lines.push(format!("{} that cannot be decoded: {}", counted(n_unreadable, "image"), listed(&names)));
    }
    for (n, what) in [
        (train.without_class + val.without_class, "without one of these classes"),
        (train.too_small + val.too_small, "with no pixel left at the input size"),
    ] {
        if n > 0 {
            lines.push(format!("{} {what}", counted(n, "object")));
        }
    }
    lines
}

fn most_frequent(classes: &[usize], n_classes: usize) -> usize {
    let mut counts = vec![0usize; n_classes];
    classes.iter().for_each(|&class| counts[class] += 1);
    (1..n_classes).fold(0, |best, class| if counts[class] > counts[best] { class } else { best })
}

/// Everything that the results of random weights depend on.
fn architecture(encoder: &FrozenEncoder) -> String {
    match encoder {
        FrozenEncoder::Autoencoder(mae) => {
            let config = mae.config();
            let sizes = [config.patch_size, config.embed_dim, config.depth, config.num_heads, config.mlp_dim];
            format!("autoencoder {:?} {sizes:?}", config.image_size_hw)
        }
        FrozenEncoder::Segmenter(sam) => format!("segmenter {:?}", sam.config().image_encoder),
    }
}

/// A description for people.
fn architecture_of(encoder: &FrozenEncoder) -> String {
    let [height, width] = encoder.size_hw();
    let kind = match encoder {
        FrozenEncoder::Autoencoder(_) => "the encoder of a masked autoencoder",
        FrozenEncoder::Segmenter(_) => "the encoder of a segmenter",
    };
    format!("{kind}, {height} x {width} px, patch {}", encoder.patch_size())
}

fn about(plan: &ProbePlan, data: &ProbeData) -> BTreeMap<String, String> {
    let of = match &data.train.labels {
        Labels::Images(_) => "images",
        Labels::Objects(_) => "objects",
    };
    let validation = match (&plan.data.validation, &plan.data.selection.split_file, plan.data.hold_out) {
        (Some(path), ..) => path.display().to_string(),
        (_, Some(path), _) => format!("the part val of {}", path.display()),
        (.., Some(fraction)) => format!("{fraction} of the images, seed {}", plan.run.seed),
        _ => "the data set's own split, or a fraction of the images".to_owned(),
    };
    [
        ("program", concat!("sam-train ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("device", plan.run.measure.device.clone()),
        ("precision", Precision::in_use().to_string()),
        ("data", plan.data.files.path.display().to_string()),
        ("judged", validation),
        ("of", of.to_owned()),
        ("images_to_learn_from", data.train.indices.len().to_string()),
        ("images_to_judge", data.val.indices.len().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// An unreadable image is for the caller to fix.
fn unreadable(error: LearnError) -> Failure {
    match error {
        LearnError::Samples(error) => {
            // A probe has no steps, so only the source error, which names the file, is of interest.
            let what = match error {
                LoaderError::Sample { source, .. } => source.to_string(),
                error => error.to_string(),
            };
            Failure::Input(anyhow!("{what}; repair it, or skip such images with --drop-bad (data.bad = \"drop\")"))
        }
        error => Failure::Run(error.into()),
    }
}
