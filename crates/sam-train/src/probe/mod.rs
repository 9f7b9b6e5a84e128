//! `sam-train probe`: what an encoder's frozen features know of what people have named.
//!
//! A falling loss proves little of a pre-training. Here nothing is trained but a linear layer: features of labelled images or
//! objects are taken, and nearest neighbours and that layer classify what they have not seen. The same encoder with random
//! weights, the pixels themselves and the most frequent class stand beside it.

mod arguments;
mod data;
mod encoders;
mod files;
mod table;

pub(crate) use arguments::ProbeArguments;

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{anyhow, bail};
use burn::tensor::Device;
use sam_data::OnBad;
use sam_data::loader::{ErrorPolicy, LoaderError};
use sam_eval::{Bootstrap, EvalError, Questions};
use sam_learn::LearnError;
use sam_learn::probe::{
    ExtractOptions, Extracted, Features, FrozenEncoder, Labels, Neighbours, classify_by_logistic_regression,
    classify_by_neighbours, extract, logistic, standardised,
};

use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::Progress;
use crate::target::check_results;

use data::{ProbeData, counted, listed};
use encoders::EncoderFile;
use files::{ProbeResults, RESULTS, Row, RowKind, Scores};

pub(crate) fn run(arguments: &ProbeArguments) -> Result<(), Failure> {
    arguments.check().bad_input()?;
    if let Some(out) = &arguments.out {
        check_results(out, &[RESULTS], arguments.force).bad_input()?;
    }
    let device = arguments.device.open().bad_input()?;
    let files = encoders::open(arguments).bad_input()?;
    let data = ProbeData::open(arguments).bad_input()?;
    if let Some(k) = arguments.neighbours {
        let n: usize = data.classes.iter().map(|class| class.n_train).sum();
        if k.get() > n {
            return Err(anyhow!("--neighbours must be at most the {n} samples that are learned from, got {k}"))
                .bad_input();
        }
    }
    data.tell(&mut output())?;

    let mut probe =
        Probe { arguments, data: &data, device: &device, left_out: Vec::new(), results: None, random: Vec::new() };
    for file in &files {
        probe.add(file)?;
    }
    let Some(mut results) = probe.results else { return Ok(()) };
    results.left_out = data.left_out.iter().chain(&probe.left_out).cloned().collect();
    results.about = about(arguments, &data);
    // Checkpoints first, then what they are compared with.
    results.rows.sort_by_key(|row| row.kind as usize);
    if let Some(out) = &arguments.out {
        results.write(out)?;
    }
    table::print(&results)?;
    if let Some(out) = &arguments.out {
        writeln!(output(), "all numbers: {}", out.join(RESULTS).display())?;
    }
    Ok(())
}

/// Rows under way.
struct Probe<'a> {
    arguments: &'a ProbeArguments,
    data: &'a ProbeData,
    device: &'a Device,
    left_out: Vec<String>,
    results: Option<ProbeResults>,
    /// What the answers of random weights were, by what decides them.
    random: Vec<(String, Answers)>,
}

/// Of both classifiers.
#[derive(Clone)]
struct Answers {
    neighbours: Vec<usize>,
    linear: Vec<usize>,
    penalty: f64,
}

impl Probe<'_> {
    /// A checkpoint, and what it is compared with where that is not there yet.
    fn add(&mut self, file: &EncoderFile) -> Result<(), Failure> {
        let encoder = file.load(self.arguments.image_size, self.data.subject, self.device).bad_input()?;
        let architecture = architecture(&encoder);
        let is_known = self.random.iter().any(|(known, _)| *known == architecture);
        let is_first = self.results.is_none();
        let mut encoders = vec![encoder];
        if !self.arguments.no_random && !is_known {
            encoders.push(encoders[0].with_random_weights(self.arguments.seed));
        }
        let [train, val] = self.extract(&encoders, &file.name)?;
        let n_classes = self.data.classes.len();
        let questions = Questions { classes: &val.classes, images: &val.images, n_classes };
        let k = self
            .arguments
            .neighbours
            .map_or(Neighbours::usual(train.classes.len(), n_classes).k, std::num::NonZeroUsize::get)
            .min(train.classes.len());
        let mut results = match self.results.take() {
            Some(results) => results,
            None => {
                let frequent = vec![most_frequent(&train.classes, n_classes); val.classes.len()];
                let scores = questions.scores(&frequent, &Bootstrap::default()).map_err(judged)?;
                ProbeResults::new(self.data.classes.clone(), k, scores)
            }
        };
        let n_rows = encoders.len() + usize::from(is_first);
        let mut progress = Progress::new("fitting linear layers", (n_rows * logistic::n_fits()) as u64);
        let mut n_fits = 0;
        let mut answers = |at: usize| {
            let on_fit = &mut || {
                n_fits += 1;
                progress.set(n_fits);
            };
            self.classify(&train, &train.features[at], &val.features[at], k, on_fit)
        };
        let of_checkpoint = answers(0);
        let of_random = (encoders.len() > 1).then(|| answers(1));
        // The pixels are the same for all checkpoints of one input; the first stands for them.
        let of_pixels = is_first.then(|| answers(encoders.len()));
        drop(progress);
        if let Some(answers) = of_random {
            let name = match self.arguments.checkpoints.len() {
                1 => "random weights".to_owned(),
                _ => format!("random weights, sizes of {}", file.name),
            };
            let row = row(&name, RowKind::RandomWeights, &questions, &train.features[1], &answers, None)?;
            let encoder = Some(format!("{}, seed {}", architecture_of(&encoders[0]), self.arguments.seed));
            results.rows.push(Row { encoder, ..row });
            self.random.push((architecture.clone(), answers));
        }
        let random = self.random.iter().find(|(known, _)| *known == architecture).map(|(_, answers)| answers);
        let of = row(&file.name, RowKind::Checkpoint, &questions, &train.features[0], &of_checkpoint, random)?;
        let encoder = Some(format!("{}, {}", file.path.display(), file.description()));
        results.rows.push(Row { encoder, ..of });
        if let (Some(answers), Some(features)) = (of_pixels, train.features.last()) {
            results.rows.push(row("pixels", RowKind::Pixels, &questions, features, &answers, None)?);
        }
        self.results = Some(results);
        Ok(())
    }

    /// Features of both parts.
    fn extract(&mut self, encoders: &[FrozenEncoder], name: &str) -> Result<[Extracted; 2], Failure> {
        let bad = self.arguments.source.options().bad_input()?.bad;
        let options = ExtractOptions {
            pooling: self.arguments.token.into(),
            images_per_batch: self.arguments.batch_images,
            n_workers: self.arguments.workers,
            on_error: match bad {
                OnBad::Refuse => ErrorPolicy::Stop,
                OnBad::Drop => ErrorPolicy::Skip,
            },
        };
        let parts = [&self.data.train, &self.data.val];
        let n_images: usize = parts.iter().map(|part| part.indices.len()).sum();
        if self.arguments.checkpoints.len() > 1 {
            writeln!(std::io::stderr(), "probing {name}")?;
        }
        let mut progress = Progress::new("taking features of images", n_images as u64);
        let mut done = 0;
        let mut extracted = Vec::with_capacity(parts.len());
        for part in parts {
            let features = extract(encoders, part, &options, &mut |n| progress.set((done + n) as u64));
            extracted.push(features.map_err(unreadable)?);
            done += part.indices.len();
        }
        drop(progress);
        let Ok([train, val]) = <[Extracted; 2]>::try_from(extracted) else {
            return Err(Failure::Run(anyhow!("internal error: two parts give two lists of features")));
        };
        check(&train, &val, self.data).bad_input()?;
        // Another size of the input may lose other objects.
        let new: Vec<String> =
            left_out(&train, &val).into_iter().filter(|what| !self.left_out.contains(what)).collect();
        new.iter().try_for_each(|what| writeln!(output(), "left out: {what}"))?;
        self.left_out.extend(new);
        Ok([train, val])
    }

    fn classify(
        &self,
        train: &Extracted,
        learned: &Features,
        judged: &Features,
        k: usize,
        on_fit: &mut dyn FnMut(),
    ) -> Answers {
        let [learned, judged] = standardised(learned, judged);
        let neighbours = classify_by_neighbours(Neighbours { k }, &learned, &train.classes, &judged, self.device);
        let linear =
            classify_by_logistic_regression(&learned, &train.classes, &train.images, &judged, self.device, on_fit);
        Answers { neighbours, linear: linear.predicted, penalty: linear.penalty }
    }
}

fn row(
    name: &str,
    kind: RowKind,
    questions: &Questions<'_>,
    features: &Features,
    answers: &Answers,
    random: Option<&Answers>,
) -> Result<Row, Failure> {
    let config = Bootstrap::default();
    let scores = |answers: &[usize], others: Option<&Vec<usize>>| -> Result<Scores, Failure> {
        let less_random = others.map(|others| questions.difference(answers, others, &config)).transpose();
        Ok(Scores {
            scores: questions.scores(answers, &config).map_err(judged)?,
            less_random: less_random.map_err(judged)?,
        })
    };
    Ok(Row {
        name: name.to_owned(),
        kind,
        encoder: None,
        width: features.width,
        neighbours: scores(&answers.neighbours, random.map(|random| &random.neighbours))?,
        linear: scores(&answers.linear, random.map(|random| &random.linear))?,
        penalty: answers.penalty,
    })
}

/// What shows only once images are decoded and resized.
fn check(train: &Extracted, val: &Extracted, data: &ProbeData) -> anyhow::Result<()> {
    if val.classes.is_empty() {
        bail!("nothing is left to judge: {}", listed(&left_out(train, val)));
    }
    let mut is_learned = vec![false; data.classes.len()];
    train.classes.iter().for_each(|&class| is_learned[class] = true);
    let absent: Vec<String> = data
        .classes
        .iter()
        .zip(&is_learned)
        .filter(|(_, is_learned)| !**is_learned)
        .map(|(class, _)| class.name.clone())
        .collect();
    if !absent.is_empty() {
        bail!(
            "nothing is left to learn from of {}: {} ({}); a larger --image-size shows small objects",
            counted(absent.len(), "class"),
            listed(&absent),
            listed(&left_out(train, val))
        );
    }
    Ok(())
}

fn left_out(train: &Extracted, val: &Extracted) -> Vec<String> {
    let [train, val] = [&train.left_out, &val.left_out];
    let mut lines = Vec::new();
    let n_unreadable = train.n_unreadable + val.n_unreadable;
    if n_unreadable > 0 {
        let names: Vec<String> = train.unreadable.iter().chain(&val.unreadable).cloned().collect();
        lines.push(format!("{} that cannot be decoded: {}", counted(n_unreadable, "image"), listed(&names)));
    }
    for (n, what) in [
        (train.without_class + val.without_class, "of no class that is told apart"),
        (train.too_small + val.too_small, "of which nothing is left at the size of the input"),
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

/// All that decides what random weights see.
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

/// The same for people.
fn architecture_of(encoder: &FrozenEncoder) -> String {
    let [height, width] = encoder.size_hw();
    let kind = match encoder {
        FrozenEncoder::Autoencoder(_) => "the encoder of a masked autoencoder",
        FrozenEncoder::Segmenter(_) => "the encoder of a segmenter",
    };
    format!("{kind}, {height} x {width} px, patch {}", encoder.patch_size())
}

fn about(arguments: &ProbeArguments, data: &ProbeData) -> BTreeMap<String, String> {
    let of = match &data.train.labels {
        Labels::OfImages(_) => "images",
        Labels::OfObjects(_) => "objects",
    };
    let judged = match (&arguments.val, &arguments.split, arguments.hold_out) {
        (Some(path), ..) => path.display().to_string(),
        (_, Some(path), _) => format!("the part val of {}", path.display()),
        (.., Some(share)) => format!("{share} of the images, seed {}", arguments.seed),
        _ => "the split that the data comes with, or a share of it".to_owned(),
    };
    [
        ("program", concat!("sam-train ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("device", arguments.device.to_string()),
        ("data", arguments.data.display().to_string()),
        ("judged", judged),
        ("of", of.to_owned()),
        ("images_to_learn_from", data.train.indices.len().to_string()),
        ("images_to_judge", data.val.indices.len().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// An image that cannot be read is the caller's to mend.
fn unreadable(error: LearnError) -> Failure {
    match error {
        LearnError::Samples(error) => {
            // A probe has no steps: what the source says names the file.
            let what = match error {
                LoaderError::Sample { source, .. } => source.to_string(),
                error => error.to_string(),
            };
            Failure::Input(anyhow!("{what}; mend it, or leave such images out with --drop-bad"))
        }
        error => Failure::Run(error.into()),
    }
}

fn judged(error: EvalError) -> Failure {
    match error.is_bad_input() {
        true => Failure::Input(error.into()),
        false => Failure::Run(error.into()),
    }
}
