//! The text prompts of a training: its CLIP, and the vectors of its objects, which are computed before the first step.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use sam_data::loader::{LoaderOptions, Samples};
use sam_eval::{EvalSet, MaskFeedback, Protocol, TextProtocol, TextSettings};
use sam_infer::clip::Clip;
use sam_learn::options::TextOptions;
use sam_learn::texts::{Computed, TextNeeds, TextSurvey, TextVectors};
use sam_model::Sam;

use crate::config::{CLIP, TrainPlan};
use crate::data_texts::{Encoded, encode, gather};
use crate::embeddings::Surroundings;
use crate::progress::Progress;
use crate::train::inputs::OpenedInputs;

/// Of images and objects that are looked at or computed.
type Watch<'a> = &'a dyn Fn() -> ControlFlow<()>;

/// Opens the CLIP of a configuration, with a line about it.
pub(super) fn open_clip(options: &TextOptions, device: &Device, notes: &mut Vec<String>) -> Result<Clip> {
    let clip = Clip::open(&options.clip, &device.clone().inner()).context(CLIP)?;
    notes.push(format!("texts: {}, {}", options.clip.display(), clip.config().description()));
    notes.extend(clip.report().assumed.iter().map(|assumed| format!("texts: assumed: {assumed}")));
    Ok(clip)
}

/// The texts of the validation data as prompts, if the plan asks for them.
pub(super) fn validation_texts(
    plan: &TrainPlan,
    clip: &Clip,
    sets: &[EvalSet],
    notes: &mut Vec<String>,
) -> Result<Option<TextProtocol>> {
    let (Some(source), Some(options)) = (plan.validation.texts, &plan.prompts.text) else { return Ok(None) };
    let texts = gather(sets, source).context("validation.text")?;
    let Encoded { vectors, n_unusable } = encode(clip, &texts, &options.templates);
    let n_texts = texts.captions.len() + texts.classes.len();
    if n_unusable == n_texts {
        bail!("validation.text: all {n_texts} texts of the validation data are longer than this CLIP reads");
    }
    let left_out = match (n_unusable, texts.n_objects_without) {
        (0, 0) => String::new(),
        (n, without) => format!("; {n} texts are too long for this CLIP, and {without} objects have none"),
    };
    notes.push(format!("validates on {n_texts} different texts, too: {} prompts of images{left_out}", texts.n_queries));
    let settings = TextSettings {
        texts: source,
        templates: options.templates.clone(),
        clip: format!("{:016x}", clip.fingerprint()),
        mask_feedback: MaskFeedback::Logits,
    };
    let texts_per_call = Protocol::default().objects_per_call;
    Ok(Some(TextProtocol { settings, vectors: Arc::new(vectors), texts_per_call }))
}

/// Computes the vectors that a run lacks; `Break` when it is asked to stop meanwhile. A new run also learns the means of the
/// modalities, if it is to take vectors relative to them.
pub(super) fn fill(
    plan: &TrainPlan,
    inputs: &mut OpenedInputs,
    first_step: Option<u64>,
    surroundings: &Surroundings<'_>,
) -> Result<ControlFlow<String, Option<Arc<TextVectors>>>> {
    let (Some(options), Some(clip)) = (&plan.prompts.text, inputs.clip.take()) else {
        return Ok(ControlFlow::Continue(None));
    };
    let vectors = TextVectors::open(clip, options.clone(), Arc::clone(&inputs.samples), &plan.cache.dir)?;
    let watch: Watch<'_> = &|| match (surroundings.is_stopped)() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let needs = needs(plan, &inputs.loader, first_step.unwrap_or(0));
    let mut looking = None;
    let survey = vectors.survey(&needs, &mut |done, total| {
        looking.get_or_insert_with(|| Progress::new("looking for vectors of texts", total as u64)).set(done as u64);
        watch()
    })?;
    drop(looking);
    let ControlFlow::Continue(survey) = survey else { return Ok(ControlFlow::Break(String::new())) };
    let folder = vectors.folder().display().to_string();
    describe(options, &survey, &folder, surroundings)?;
    warn_of_mirrored_words(plan, &survey, surroundings);
    let ControlFlow::Continue(computed) = compute(&vectors, &survey, &needs, watch)? else {
        return Ok(ControlFlow::Break(format!(": what is computed is kept in {folder}")));
    };
    if computed.n_unusable_words > 0 {
        (surroundings.say)(&format!(
            "warning: {} captions are empty or longer than CLIP reads, and are no prompts",
            computed.n_unusable_words
        ));
    }
    if options.centre && first_step.is_none() {
        let sam = centred(inputs.sam.clone(), options, &vectors, &survey)?;
        inputs.sam = sam;
    }
    Ok(ControlFlow::Continue(Some(Arc::new(vectors))))
}

/// Vectors in a folder that is soon removed, computed when a step asks for them.
pub(super) fn on_demand(
    options: Option<&TextOptions>,
    clip: Option<Clip>,
    samples: &Arc<dyn Samples>,
    folder: &Path,
) -> Result<Option<Arc<TextVectors>>> {
    let (Some(options), Some(clip)) = (options, clip) else { return Ok(None) };
    Ok(Some(Arc::new(TextVectors::open(clip, options.clone(), Arc::clone(samples), folder)?)))
}

fn needs<'a>(plan: &TrainPlan, loader: &'a LoaderOptions, first_step: u64) -> TextNeeds<'a> {
    let per_step = (plan.data.images_per_batch.get() * plan.optimiser.accumulation.max(1)) as u64;
    TextNeeds { loader, draws: first_step.saturating_mul(per_step)..plan.schedule.steps.saturating_mul(per_step) }
}

fn describe(options: &TextOptions, survey: &TextSurvey, folder: &str, surroundings: &Surroundings<'_>) -> Result<()> {
    let TextSurvey { n_objects, n_small, n_missing, n_words, .. } = *survey;
    let smallest = options.min_object_px;
    if n_objects == 0 && n_small > 0 {
        bail!(
            "prompts.text.min_object_px is {smallest}, and none of the {n_small} objects of the training data has as many pixels; \
             lower it"
        );
    }
    if options.words_chance > 0.0 && n_words == 0 && n_objects > 0 {
        bail!(
            "prompts.text.words_chance is {}, but the objects of the training data have neither captions nor classes; set it to 0, \
             or give data that has them",
            options.words_chance
        );
    }
    let say = |text: String| (surroundings.say)(&text);
    if n_small > 0 {
        say(format!(
            "texts: {n_small} objects below {smallest} px (prompts.text.min_object_px) get points and boxes only"
        ));
    }
    let words = if n_words > 0 { format!(" and {n_words} different words about them") } else { String::new() };
    let per_object = options.crops.per_object;
    match n_missing {
        0 => say(format!("texts: {per_object} vectors of each of {n_objects} objects{words} are in {folder}")),
        n => say(format!(
            "texts: {per_object} vectors of each of {n} of {n_objects} objects{words} to compute, to {folder}"
        )),
    }
    Ok(())
}

/// A caption with "left" is false of a mirrored image.
fn warn_of_mirrored_words(plan: &TrainPlan, survey: &TextSurvey, surroundings: &Surroundings<'_>) {
    let flips = &plan.data.augmentation;
    let kinds = [
        ("left or right", "horizontal_flip", flips.horizontal_flip),
        ("top or bottom", "vertical_flip", flips.vertical_flip),
    ];
    for ((sides, key, chance), n) in kinds.into_iter().zip(survey.n_sided_words) {
        if chance > 0.0 && n > 0 {
            (surroundings.say)(&format!(
                "warning: {n} of {} different words say {sides}, which data.augmentation.{key} makes false; set it to 0, or \
                 prompts.text.words = \"classes\"",
                survey.n_words
            ));
        }
    }
}

fn compute(
    vectors: &TextVectors,
    survey: &TextSurvey,
    needs: &TextNeeds<'_>,
    watch: Watch<'_>,
) -> Result<ControlFlow<Computed, Computed>> {
    let mut computing = None;
    Ok(vectors.compute(survey, needs.loader.on_error, &mut |done, total| {
        computing.get_or_insert_with(|| Progress::new("computing vectors of texts", total as u64)).set(done as u64);
        watch()
    })?)
}

/// The segmenter with the means of both modalities.
fn centred(sam: Sam, options: &TextOptions, vectors: &TextVectors, survey: &TextSurvey) -> Result<Sam> {
    let texts = match &options.centre_texts {
        Some(path) => {
            let read = sam_files::read_text(path, sam_files::MAX_TEXT_BYTES);
            let text = read.with_context(|| format!("prompts.text.centre_texts: {}", path.display()))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        None => vectors.class_texts(survey),
    };
    if texts.is_empty() {
        bail!(
            "prompts.text.centre needs texts for their mean, and the training data has no class names; give a file with a text on \
             each line as prompts.text.centre_texts"
        );
    }
    Ok(sam.with_text_means(vectors.means(survey, &texts)?))
}
