//! `sam-train predict` on several images: prompts from a file, or the same for every image; one encoding per image, whatever the
//! number of its objects.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use burn::tensor::Device;
use sam_data::{SourceOptions, read_image_file};
use sam_image::{MaskUpscaler, RgbImage, Rle, StabilityLevels};
use sam_infer::{MASK_THRESHOLD, MaskOutput, Predictor, Prompt};

use super::prompts::{self, ImagePrompts, PromptedObject};
use super::results::{self, Results};
use super::{open_predictor, output_of};
use crate::cli::PredictArguments;
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::{errors, output};
use crate::progress::Progress;
use crate::texts::{open_clip, prompts_of};
use crate::timing::timed;

/// Objects that are decoded and held as logits at once.
const OBJECTS_AT_ONCE: usize = 64;

/// The class of objects without a label.
pub(super) const NO_LABEL: &str = "object";

/// A predicted object.
pub(super) struct Predicted<'a> {
    /// Index in its image.
    pub(super) index: usize,
    pub(super) object: &'a PromptedObject,
    pub(super) predicted_iou: f32,
    pub(super) rle: Rle,
}

pub(super) fn run(arguments: &PredictArguments) -> Result<(), Failure> {
    let mut images = images(arguments).bad_input()?;
    results::check_out(&arguments.out, arguments.force).bad_input()?;
    let options = arguments.image_options().bad_input()?;
    let device = arguments.device.open().bad_input()?;
    let predictor = timed("loaded", || open_predictor(&arguments.checkpoint, arguments.adapter.as_deref(), &device))?;

    embed_texts(&mut images, arguments, &predictor, &device).bad_input()?;
    let folder = match (&arguments.images, &arguments.prompts) {
        (Some(folder), _) => folder.clone(),
        (None, Some(file)) => file.parent().unwrap_or(Path::new("")).to_owned(),
        (None, None) => PathBuf::new(),
    };
    let work = Work { arguments, images: &images, folder, options, interruption: Interruption::watch()? };
    let (mut totals, mut problems) = (Totals::default(), Vec::new());
    let written = Results::write(&arguments.out, arguments.format, &classes(&images), |results| {
        work.predict_all(&predictor, results, &mut totals, &mut problems)
    });
    let Totals { images: n, objects } = totals;
    if work.interruption.is_requested() {
        return Err(Failure::Stopped(format!("stopped after {n} of {} images", images.len())));
    }
    written?;
    writeln!(output(), "{objects} objects in {n} of {} images, in {}", images.len(), arguments.out.display())?;
    match problems.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Failure::Run(anyhow!(
            "{} images or prompts could not be used, the first is {first}; the others are done",
            problems.len()
        ))),
    }
}

/// The images with their prompts: those of the file, or each image with the same.
fn images(arguments: &PredictArguments) -> anyhow::Result<Vec<ImagePrompts>> {
    if let Some(path) = &arguments.prompts {
        return prompts::read(path);
    }
    let prompt =
        Prompt { points_xy_px: arguments.points.clone(), box_xyxy_px: arguments.box_xyxy_px, ..Prompt::default() };
    let texts = &arguments.texts;
    if prompt == Prompt::default() && texts.is_empty() {
        bail!("no prompt: give --point, --box or --text for all images, or --prompts with those of each");
    }
    if prompt != Prompt::default() && texts.len() > 1 {
        bail!("several texts are several objects, and a point or box is of one; give one --text with it, or --prompts");
    }
    let with =
        |text: &String| PromptedObject { label: Some(text.clone()), text: Some(text.clone()), prompt: prompt.clone() };
    let objects: Vec<PromptedObject> = match texts.as_slice() {
        [] => vec![PromptedObject { label: None, text: None, prompt }],
        texts => texts.iter().map(with).collect(),
    };
    let image = |path: &PathBuf| ImagePrompts { image: path.display().to_string(), objects: objects.clone() };
    Ok(arguments.image.iter().map(image).collect())
}

/// Puts the vectors of all texts into the prompts.
fn embed_texts(
    images: &mut [ImagePrompts],
    arguments: &PredictArguments,
    predictor: &Predictor,
    device: &Device,
) -> anyhow::Result<()> {
    let objects = || images.iter().flat_map(|image| &image.objects);
    let texts: BTreeSet<String> = objects().filter_map(|object| object.text.clone()).collect();
    if texts.is_empty() {
        return Ok(());
    }
    let clip = open_clip(arguments.clip.as_deref(), "--clip", predictor, device)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let vectors: BTreeMap<&str, _> = texts.iter().copied().zip(prompts_of(&clip, &texts)?).collect();
    for object in images.iter_mut().flat_map(|image| &mut image.objects) {
        object.prompt.text = object.text.as_deref().and_then(|text| vectors.get(text).cloned());
    }
    Ok(())
}

/// All labels, sorted, so that a class has the same number whatever comes first.
fn classes(images: &[ImagePrompts]) -> Vec<String> {
    let labels = images.iter().flat_map(|image| &image.objects).map(|object| label(object).to_owned());
    labels.collect::<BTreeSet<String>>().into_iter().collect()
}

pub(super) fn label(object: &PromptedObject) -> &str {
    object.label.as_deref().unwrap_or(NO_LABEL)
}

/// What is done.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    images: usize,
    objects: usize,
}

struct Work<'a> {
    arguments: &'a PredictArguments,
    images: &'a [ImagePrompts],
    /// Of images with relative paths.
    folder: PathBuf,
    options: SourceOptions,
    interruption: Interruption,
}

impl Work<'_> {
    fn predict_all(
        &self,
        predictor: &Predictor,
        results: &mut Results<'_>,
        totals: &mut Totals,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let mut progress = Progress::new("predicting images", self.images.len() as u64);
        let mut report = |problem: String| -> anyhow::Result<()> {
            writeln!(errors(), "not used: {problem}")?;
            problems.push(problem);
            Ok(())
        };
        for (at, prompted) in self.images.iter().enumerate() {
            if self.interruption.is_requested() {
                // An error, so that no file of all images appears with a part of them.
                bail!("stopped");
            }
            match read_image_file(&self.folder.join(&prompted.image), &self.options) {
                Err(error) => report(error.to_string())?,
                Ok(image) => {
                    let predicted = self.predict(predictor, &image, prompted, &mut report)?;
                    results.add(&prompted.image, &image, &predicted).with_context(|| prompted.image.clone())?;
                    totals.images += 1;
                    totals.objects += predicted.len();
                }
            }
            progress.set(at as u64 + 1);
        }
        Ok(())
    }

    fn predict<'p>(
        &self,
        predictor: &Predictor,
        image: &RgbImage,
        prompted: &'p ImagePrompts,
        report: &mut dyn FnMut(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Predicted<'p>>> {
        let embedding = predictor.embed(image);
        let side = predictor.config().low_res_side();
        let mut valid = Vec::new();
        for (index, object) in prompted.objects.iter().enumerate() {
            match object.prompt.to_model(&embedding.frame, predictor.config()) {
                Ok(_) => valid.push((index, object)),
                Err(error) => report(format!("{}, object {index}: {error}", prompted.image))?,
            }
        }
        let upscaler = MaskUpscaler::new(side, &embedding.frame, embedding.frame.original_hw, [0, 0])?;
        let levels = StabilityLevels { threshold: MASK_THRESHOLD, offset: 0.0 };
        let mut predicted = Vec::with_capacity(valid.len());
        let output = |&(_, object): &(usize, &PromptedObject)| output_of(&object.prompt, self.arguments.multimask);
        // Those that are decoded alike together; the order of the file comes back at the end.
        valid.sort_by_key(|object| output(object) == MaskOutput::Multi);
        let alike = valid.chunk_by(|a, b| output(a) == output(b)).flat_map(|alike| alike.chunks(OBJECTS_AT_ONCE));
        for objects in alike {
            let output = output(&objects[0]);
            let asked: Vec<(usize, &Prompt)> = objects.iter().map(|(_, object)| (0, &object.prompt)).collect();
            for (prediction, &(index, object)) in
                predictor.predict_many(&[&embedding], &asked, output)?.iter().zip(objects)
            {
                let best = prediction.best();
                let predicted_iou = prediction.iou_predictions[best];
                if !predicted_iou.is_finite() {
                    bail!("{}: the model predicts an IoU of {predicted_iou}", self.arguments.checkpoint.display());
                }
                let rle = upscaler.upscale(&prediction.mask_logits(best), levels).rle;
                predicted.push(Predicted { index, object, predicted_iou, rle });
            }
        }
        predicted.sort_by_key(|object| object.index);
        Ok(predicted)
    }
}
