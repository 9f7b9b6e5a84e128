//! `auto --text`: which masks a text describes. That is CLIP's opinion of what a mask covers, so any checkpoint will do.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, bail};
use burn::tensor::Device;
use sam_image::RgbImage;
use sam_infer::automatic::{AutomaticMask, Described, Generated, TextMatch};
use sam_infer::clip::Clip;
use serde::{Deserialize, Serialize};

use super::kept::Vectors;
use super::summary::TextCount;
use crate::cli::AutoTextArguments;
use crate::output::notes;
use crate::timing::timed;

/// The texts of a folder, and what decides on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TextDescription {
    /// Fingerprint of the CLIP.
    pub(crate) clip: String,
    pub(crate) texts: Vec<String>,
    /// A mask with a lower score for all texts is left out.
    pub(crate) min_score: f64,
}

/// Texts with their vectors.
pub(crate) struct Texts {
    clip: Clip,
    vectors: Vec<Vec<f32>>,
    description: TextDescription,
}

impl Texts {
    /// `None` when there are no texts.
    ///
    /// # Errors
    ///
    /// When a text is empty, too long or there twice, or the CLIP cannot be loaded.
    pub(crate) fn open(arguments: &AutoTextArguments, device: &Device) -> anyhow::Result<Option<Self>> {
        let (texts, path) = match (arguments.texts(), &arguments.clip) {
            (texts, Some(path)) if !texts.is_empty() => (texts, path),
            _ => return Ok(None),
        };
        let min_score = arguments.min_score();
        if !(-1.0..=1.0).contains(&min_score) {
            bail!("--text-min-score must be -1 to 1, as a cosine is, got {min_score}");
        }
        for (at, text) in texts.iter().enumerate() {
            if texts[..at].contains(text) {
                bail!("--text {text:?} is given twice");
            }
        }
        let clip = timed("loaded CLIP", || open_clip(path, device))?;
        let vectors = clip.texts(&texts).context("--text")?;
        let description = TextDescription { clip: format!("{:016x}", clip.fingerprint()), texts, min_score };
        Ok(Some(Self { clip, vectors, description }))
    }

    pub(crate) fn description(&self) -> &TextDescription {
        &self.description
    }

    /// Vectors of masks, which only those that are not `known` need CLIP for. `watch` is called with the number done and their total.
    pub(crate) fn vectors(
        &self,
        image: &RgbImage,
        masks: &[AutomaticMask],
        known: &Vectors,
        watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> ControlFlow<(), MaskVectors> {
        let of_width = |vector: &Vec<f32>| vector.len() == self.clip.width();
        let mut all: Vec<Option<Vec<f32>>> = masks.iter().map(|mask| known.of(&mask.rle).filter(of_width)).collect();
        let new: Vec<usize> = (0..all.len()).filter(|&at| all[at].is_none() && !masks[at].rle.is_empty()).collect();
        let of_new: Vec<_> = new.iter().map(|&at| &masks[at].rle).collect();
        let computed = self.clip.masks(image, &of_new, &mut |n_done| watch(n_done, new.len()))?;
        for (&at, vector) in new.iter().zip(computed) {
            // As they are kept: the same numbers whether they were just computed or read.
            all[at] = vector.map(|vector| Vectors::rounded(&vector));
        }
        ControlFlow::Continue(MaskVectors { all, n_new: new.len() })
    }

    /// The masks that a text describes.
    pub(crate) fn choose(&self, found: Generated, vectors: &MaskVectors) -> Described {
        found.described_by(&self.vectors, &vectors.all, self.description.min_score)
    }
}

fn open_clip(path: &Path, device: &Device) -> anyhow::Result<Clip> {
    let clip = Clip::open(path, device).with_context(|| format!("--clip {}", path.display()))?;
    for assumed in &clip.report().assumed {
        writeln!(notes(), "CLIP: assumed: {assumed}")?;
    }
    Ok(clip)
}

/// Vectors of the masks of an image; an empty mask has none.
pub(crate) struct MaskVectors {
    pub(crate) all: Vec<Option<Vec<f32>>>,
    /// Of these, computed now.
    pub(crate) n_new: usize,
}

/// What a record says of a mask's texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TextLabel {
    pub(crate) text: String,
    pub(crate) score: f64,
    /// Of all texts, in the order in which they were given.
    pub(crate) scores: Vec<f64>,
}

impl TextDescription {
    pub(crate) fn label(&self, found: &TextMatch) -> TextLabel {
        TextLabel {
            text: self.texts[found.text].clone(),
            score: f64::from(found.score()),
            scores: found.scores.iter().map(|&score| f64::from(score)).collect(),
        }
    }

    /// A count of masks for each text.
    pub(crate) fn counts(&self) -> Vec<TextCount> {
        self.texts.iter().map(|text| TextCount { text: text.clone(), masks: 0 }).collect()
    }
}
