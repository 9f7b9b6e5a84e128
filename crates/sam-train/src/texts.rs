//! Texts as prompts: the CLIP that a checkpoint was trained with, and its vectors of what a user types.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use burn::tensor::Device;
use sam_infer::clip::ClipTexts;
use sam_infer::{Modality, Predictor, TextVector};

/// Opens the CLIP of a checkpoint's text prompts. `option` is what names it, such as `--clip`.
pub(crate) fn open_clip(
    path: Option<&Path>,
    option: &str,
    predictor: &Predictor,
    device: &Device,
) -> anyhow::Result<ClipTexts> {
    let path = path.ok_or_else(|| {
        anyhow!(
            "texts need the CLIP that the checkpoint was trained with: its Hugging Face folder or its file, as {option}"
        )
    })?;
    // First, as it takes no time.
    if predictor.config().text.is_none() {
        return Err(sam_infer::PromptError::TakesNoText)
            .context("train one with [prompts.text], or put its .text.safetensors beside the checkpoint");
    }
    let clip = ClipTexts::open(path, device).context(option.to_owned())?;
    predictor.check_clip(&clip).with_context(|| format!("{option} {}", path.display()))?;
    Ok(clip)
}

/// The prompts of texts.
pub(crate) fn prompts_of(clip: &ClipTexts, texts: &[&str]) -> anyhow::Result<Vec<TextVector>> {
    let vectors = clip.texts(texts)?;
    Ok(vectors.into_iter().map(|values| TextVector { values: Arc::from(values), modality: Modality::Text }).collect())
}
