//! Texts of the data as prompts: gathered and encoded before the first image, as everything else is checked.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use burn::tensor::Device;
use sam_eval::{EvalSet, TextProtocol, TextSettings};
use sam_infer::PromptError;
use sam_infer::clip::ClipTexts;
use sam_model::weights::Checkpoint;

use super::data::OpenSet;
use crate::config::EvaluatePlan;
use crate::config::evaluate_text::EvaluateTextPlan;
use crate::data_texts::{Encoded, encode, gather};
use crate::failure::{BadInput, Failure};

/// The prompts of all images.
pub(super) struct TextTask {
    pub(super) protocol: TextProtocol,
    /// Pairs of an image and a text of it.
    pub(super) n_queries: usize,
    /// The CLIP, as the results name it.
    pub(super) clip: String,
}

impl TextTask {
    /// Gathers the texts and computes their vectors. The CLIP must be the one of every checkpoint.
    pub(super) fn open(
        plan: &EvaluatePlan,
        text: &EvaluateTextPlan,
        sets: &[OpenSet],
        checkpoints: &[Checkpoint],
        device: &Device,
    ) -> Result<Self, Failure> {
        // First, as it takes no time.
        if let Some(checkpoint) = checkpoints.iter().find(|checkpoint| checkpoint.config.text.is_none()) {
            return Err(PromptError::TakesNoText)
                .with_context(|| {
                    let path = checkpoint.dict.path.display();
                    format!("{path}: train one with [prompts.text], or put its .text.safetensors beside the checkpoint")
                })
                .bad_input();
        }
        let of_sets: Vec<EvalSet> = sets.iter().map(|set| set.set.clone()).collect();
        let texts = gather(&of_sets, text.texts).bad_input()?;
        let clip = ClipTexts::open(&text.clip, device).context("text.clip (--clip)").bad_input()?;
        let fingerprint = format!("{:016x}", clip.fingerprint());
        for checkpoint in checkpoints {
            check_clip(checkpoint, &clip, &fingerprint).bad_input()?;
        }
        let Encoded { vectors, n_unusable } = encode(&clip, &texts, &text.templates);
        let mut err = crate::output::errors();
        let n_texts = texts.captions.len() + texts.classes.len();
        writeln!(err, "texts: {n_texts} different ones, {} prompts of images", texts.n_queries)?;
        for assumed in &clip.report().assumed {
            writeln!(err, "texts: assumed: {assumed}")?;
        }
        if n_unusable > 0 {
            writeln!(
                err,
                "warning: {n_unusable} of {n_texts} texts are longer than this CLIP reads, and are left out"
            )?;
        }
        if texts.n_objects_without > 0 {
            writeln!(err, "texts: {} objects have none and are not asked for", texts.n_objects_without)?;
        }
        if n_unusable == n_texts {
            return Err(anyhow!(
                "{}: reads none of the {n_texts} texts of the data: all are too long",
                text.clip.display()
            ))
            .bad_input();
        }
        let settings = TextSettings {
            texts: text.texts,
            templates: text.templates.clone(),
            clip: fingerprint,
            mask_feedback: plan.protocol.mask_feedback,
        };
        let vectors = Arc::new(vectors);
        let protocol = TextProtocol { settings, vectors, texts_per_call: plan.run.batch_objects };
        let clip = format!("{}, {}", text.clip.display(), clip.config().description());
        Ok(Self { protocol, n_queries: texts.n_queries, clip })
    }
}

fn check_clip(checkpoint: &Checkpoint, clip: &ClipTexts, fingerprint: &str) -> anyhow::Result<()> {
    let Some(expected) = &checkpoint.config.text else { return Ok(()) };
    if expected.clip == fingerprint && expected.width == clip.width() {
        return Ok(());
    }
    let (expected, expected_width) = (expected.clip.clone(), expected.width);
    let (got, got_width) = (fingerprint.to_owned(), clip.width());
    Err(PromptError::OtherClip { expected, expected_width, got, got_width })
        .with_context(|| format!("text.clip (--clip) for {}", checkpoint.dict.path.display()))
}
