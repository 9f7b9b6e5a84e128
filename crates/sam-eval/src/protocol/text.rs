//! Text to mask: each text of an image is a prompt, alone and then with one click where it failed.
//!
//! SAM's paper shows texts and the click that corrects them in a figure (arXiv 2304.02643, Fig. 12 and §7.5) and has no
//! numbers, so the protocol is ours. A text says one or several objects of its image, its targets; a mask is scored against
//! the target that it fits best. The text alone is ambiguous and gives three masks, of which the most confident one counts
//! and the best one is the oracle. The click is the simulated annotator's for the most confident mask and the target that it
//! fits best; text and click give one mask.
//!
//! Whether the model listens: the masks of other texts of the image, which say other objects, are scored against the same
//! target (`wrong_iou`), and each mask is compared with all objects of the image (`found_id`).

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use sam_image::{Mask, Rle, rle_iou};
use sam_infer::TextVector;
use serde::{Deserialize, Serialize};

use crate::data_texts::{PromptVectors, TextKind};
use crate::error::EvalError;
use crate::eval_set::EvalImage;
use crate::protocol::clicks::{Click, Clicker};
use crate::protocol::interactive::ask;
use crate::protocol::object_record::SizeBucket;
use crate::protocol::segmenter::{Candidate, MaskSelection, Prompt, Segmenter};
use crate::protocol::settings::MaskFeedback;
use crate::protocol::task::{ImageTask, runs};
use crate::protocol::text_record::{TextCounts, TextRecord, TextSettings};

/// Texts as prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct TextProtocol {
    /// What decides the results.
    pub settings: TextSettings,
    /// The vector of each text; a text without one is counted and not a prompt.
    pub vectors: Arc<PromptVectors>,
    /// Texts per call of the segmenter; affects memory, not results.
    pub texts_per_call: usize,
}

/// A text and its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TextOutcome {
    pub(crate) record: TextRecord,
    /// The most confident mask of the text alone.
    #[serde(with = "runs")]
    pub(crate) mask: Rle,
}

/// What the texts of one image gave.
pub(crate) struct ImageTexts {
    pub(crate) outcomes: Vec<TextOutcome>,
    pub(crate) left_out: TextCounts,
}

/// A text of an image with the objects that it says.
struct Query<'a> {
    kind: TextKind,
    text: String,
    vector: &'a TextVector,
    /// Indices of objects.
    targets: Vec<usize>,
}

/// The objects of an image without ignored pixels.
struct Scene<'a> {
    image: &'a EvalImage,
    ignore: Option<&'a Rle>,
    masks: Vec<Rle>,
}

/// The answer to a text alone.
struct First<L> {
    mask: Mask,
    /// Without ignored pixels.
    valid: Rle,
    predicted_iou: f64,
    logits: L,
    /// Index of the object among the targets that it fits best.
    target: usize,
    iou: f64,
    oracle_iou: f64,
    /// Index of the object that it fits best.
    found: Option<usize>,
    is_selective: Option<bool>,
}

/// Runs all texts of an image. `after` receives the number of texts of each completed call; its error ends the run.
pub(crate) fn run_texts<S: Segmenter>(
    segmenter: &S,
    protocol: &TextProtocol,
    (image, task): (&EvalImage, &ImageTask<'_>),
    embedding: &S::Embedding,
    after: &mut dyn FnMut(usize) -> Result<(), EvalError>,
) -> Result<ImageTexts, EvalError> {
    let scene = Scene::new(image, task)?;
    let (queries, left_out) = queries(image, protocol);
    let mut firsts: Vec<First<S::Logits>> = Vec::with_capacity(queries.len());
    for chunk in queries.chunks(protocol.texts_per_call.max(1)) {
        let alone = |vector| (0, Prompt { clicks: &[], box_xyxy_px: None, logits: None, text: Some(vector) });
        let prompts: Vec<_> = chunk.iter().map(|query| alone(query.vector)).collect();
        let answers = ask(segmenter, &[embedding], &prompts, MaskSelection::All, &|_| task)?;
        let scored: Result<Vec<_>, EvalError> =
            chunk.par_iter().zip(answers).map(|(query, answer)| scene.first(query, answer)).collect();
        firsts.extend(scored?);
        after(chunk.len())?;
    }
    let mut clicked = Vec::with_capacity(queries.len());
    for (chunk, firsts) in
        queries.chunks(protocol.texts_per_call.max(1)).zip(firsts.chunks(protocol.texts_per_call.max(1)))
    {
        clicked.extend(run_click(segmenter, protocol, (&scene, task), embedding, (chunk, firsts))?);
    }
    let outcomes = queries.iter().enumerate().map(|(at, query)| {
        let record = scene.record(task, query, &firsts[at], clicked[at], wrong_iou(&scene, &queries, &firsts, at)?);
        Ok(TextOutcome { record, mask: Rle::from_mask(&firsts[at].mask) })
    });
    Ok(ImageTexts { outcomes: outcomes.collect::<Result<_, EvalError>>()?, left_out })
}

/// The texts of an image in the order of their names.
fn queries<'a>(image: &EvalImage, protocol: &'a TextProtocol) -> (Vec<Query<'a>>, TextCounts) {
    let mut targets: BTreeMap<(TextKind, String), Vec<usize>> = BTreeMap::new();
    let mut counts = TextCounts::default();
    for (at, object) in image.sample.objects.iter().enumerate() {
        let texts = protocol.settings.texts.texts_of(object, &image.classes);
        counts.objects_without_text += usize::from(texts.is_empty());
        for text in texts {
            let targets = targets.entry(text).or_default();
            // Two captions of an object may differ in case only.
            if targets.last() != Some(&at) {
                targets.push(at);
            }
        }
    }
    let mut queries = Vec::with_capacity(targets.len());
    for ((kind, text), targets) in targets {
        match protocol.vectors.get(kind, &text) {
            Some(vector) => queries.push(Query { kind, text, vector, targets }),
            None => counts.texts_without_vector += 1,
        }
    }
    (queries, counts)
}

/// The click of each text, and the IoU of text and click.
fn run_click<S: Segmenter>(
    segmenter: &S,
    protocol: &TextProtocol,
    (scene, task): (&Scene<'_>, &ImageTask<'_>),
    embedding: &S::Embedding,
    (queries, firsts): (&[Query<'_>], &[First<S::Logits>]),
) -> Result<Vec<(Click, f64)>, EvalError> {
    let objects = &scene.image.sample.objects;
    // Logits may not be shared by threads.
    let predictions: Vec<(usize, &Mask)> = firsts.iter().map(|first| (first.target, &first.mask)).collect();
    let clickers = predictions.into_par_iter().map(|(target, mask)| {
        let mut clicker = Clicker::new(objects[target].mask.to_mask(), scene.ignore.map(Rle::to_mask));
        let click = clicker.next_click(mask);
        (clicker, [click])
    });
    let clickers: Vec<(Clicker, [Click; 1])> = clickers.collect();
    let feeds_back = protocol.settings.mask_feedback == MaskFeedback::Logits;
    let prompts: Vec<_> = queries
        .iter()
        .zip(firsts)
        .zip(&clickers)
        .map(|((query, first), (_, clicks))| {
            let logits = feeds_back.then_some(&first.logits);
            (0, Prompt { clicks, box_xyxy_px: None, logits, text: Some(query.vector) })
        })
        .collect();
    let answers = ask(segmenter, &[embedding], &prompts, MaskSelection::Single, &|_| task)?;
    let scored =
        clickers.par_iter().zip(answers).map(|((clicker, clicks), answer)| (clicks[0], clicker.iou(&answer[0].mask)));
    Ok(scored.collect())
}

/// The mean IoU with a text's target of the masks of texts that say other objects.
fn wrong_iou<L>(
    scene: &Scene<'_>,
    queries: &[Query<'_>],
    firsts: &[First<L>],
    at: usize,
) -> Result<Option<f64>, EvalError> {
    let (mut sum, mut n) = (0.0, 0);
    for (other, first) in queries.iter().zip(firsts) {
        // A text that says one of the targets, too, is not wrong.
        if !other.targets.iter().any(|target| queries[at].targets.contains(target)) {
            sum += rle_iou(&first.valid, &scene.masks[firsts[at].target])?;
            n += 1;
        }
    }
    Ok((n > 0).then(|| sum / f64::from(n)))
}

impl<'a> Scene<'a> {
    fn new(image: &'a EvalImage, task: &ImageTask<'a>) -> Result<Self, EvalError> {
        let ignore = task.ignore;
        let expected_hw = task.size_hw();
        let masks = image.sample.objects.iter().map(|object| {
            let size_hw = object.mask.size_hw();
            if size_hw != expected_hw {
                let what = format!("the mask of object {}", object.id);
                return Err(EvalError::Size { image: task.name.to_owned(), what, expected_hw, got_hw: size_hw });
            }
            let mask = without(&object.mask, ignore)?;
            match mask.is_empty() {
                false => Ok(mask),
                true => {
                    let what = if object.mask.is_empty() { "empty" } else { "wholly ignored" };
                    Err(EvalError::EmptyObject { image: task.name.to_owned(), object_id: object.id, what })
                }
            }
        });
        let masks = masks.collect::<Result<_, _>>()?;
        Ok(Self { image, ignore, masks })
    }

    /// Scores the answer to a text alone.
    fn first<L>(&self, query: &Query<'_>, mut candidates: Vec<Candidate<L>>) -> Result<First<L>, EvalError> {
        let qualities: Vec<f32> = candidates.iter().map(|candidate| candidate.predicted_iou).collect();
        let chosen = sam_infer::most_confident(&qualities);
        let mut valid: Vec<Rle> = candidates
            .iter()
            .map(|candidate| without(&Rle::from_mask(&candidate.mask), self.ignore))
            .collect::<Result<_, _>>()?;
        let mut oracle_iou = 0f64;
        for mask in &valid {
            for &target in &query.targets {
                oracle_iou = oracle_iou.max(rle_iou(mask, &self.masks[target])?);
            }
        }
        let valid = valid.swap_remove(chosen);
        let ious: Vec<f64> = self.masks.iter().map(|mask| rle_iou(&valid, mask)).collect::<Result<_, _>>()?;
        // Of equals, the larger one: where a mask meets no target, all are.
        let fit = |&object: &usize| (ious[object], self.masks[object].area_px());
        let better = |a: &usize, b: &usize| {
            let ((a_iou, a_px), (b_iou, b_px)) = (fit(a), fit(b));
            a_iou.total_cmp(&b_iou).then(a_px.cmp(&b_px)).then(b.cmp(a))
        };
        let target = query.targets.iter().copied().max_by(better).unwrap_or(query.targets[0]);
        let is_target = |object: &usize| query.targets.iter().any(|&target| self.masks[target] == self.masks[*object]);
        let others: Vec<usize> = (0..ious.len()).filter(|object| !is_target(object)).collect();
        let best_other = others.iter().copied().max_by(better);
        let found = [Some(target), best_other].into_iter().flatten().filter(|&object| ious[object] > 0.0);
        let found = found.max_by(|&a, &b| ious[a].total_cmp(&ious[b]).then((a == target).cmp(&(b == target))));
        let is_selective = best_other.map(|other| ious[target] > ious[other]);
        let Candidate { mask, predicted_iou, logits } = candidates.swap_remove(chosen);
        let iou = ious[target];
        let predicted_iou = f64::from(predicted_iou);
        Ok(First { mask, valid, predicted_iou, logits, target, iou, oracle_iou, found, is_selective })
    }

    fn class_of(&self, object: usize) -> Option<String> {
        self.image.sample.objects[object].class.and_then(|class| self.image.classes.get(class)).cloned()
    }

    fn record<L>(
        &self,
        task: &ImageTask<'_>,
        query: &Query<'_>,
        first: &First<L>,
        (click, click_iou): (Click, f64),
        wrong_iou: Option<f64>,
    ) -> TextRecord {
        let object = &self.image.sample.objects[first.target];
        let class = self.class_of(first.target);
        let is_common = query.targets.iter().all(|&target| self.class_of(target) == class);
        let area_px = object.mask.area_px();
        TextRecord {
            data_set: task.data_set.to_owned(),
            image: task.name.to_owned(),
            text: query.text.clone(),
            kind: query.kind,
            class: class.filter(|_| is_common),
            n_targets: query.targets.len(),
            object_id: object.id,
            area_px,
            size: SizeBucket::of(area_px),
            iou: first.iou,
            predicted_iou: first.predicted_iou,
            oracle_iou: first.oracle_iou,
            wrong_iou,
            found_id: first.found.map(|found| self.image.sample.objects[found].id),
            found_class: first.found.and_then(|found| self.class_of(found)),
            is_selective: first.is_selective,
            click,
            click_iou,
        }
    }
}

/// A mask without the ignored pixels.
fn without(mask: &Rle, ignore: Option<&Rle>) -> Result<Rle, EvalError> {
    Ok(match ignore {
        Some(ignore) => mask.without(ignore)?,
        None => mask.clone(),
    })
}
