//! What is kept of an image so that it need not be computed again: candidates, which suffice for other thresholds, and with texts
//! all masks with their vectors of CLIP, which suffice for other texts and another threshold of theirs.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use half::f16;
use sam_files::write_atomically;
use sam_image::Rle;
use sam_infer::automatic::{AutomaticMask, Candidates, Generated, Removed, Seen};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::{CANDIDATES, Description, OutFolder, SCORED};
use super::inputs::Input;
use super::record::Record;
use crate::mask_files::with_folder;
use crate::output::errors;

/// What is on disk of an image.
pub(crate) enum Known {
    Nothing,
    /// From an earlier run, good for these thresholds.
    Candidates(Candidates),
    /// All masks of these thresholds, whatever texts describe them.
    Masks(Generated, Seen),
    /// Masks, of which only pictures are missing.
    Record(Record),
}

/// Vectors of masks, by COCO's string of the mask.
#[derive(Debug, Default)]
pub(crate) struct Vectors(HashMap<String, Vec<f32>>);

/// Candidates on disk.
#[derive(Serialize, Deserialize)]
struct KeptCandidates {
    /// Of what changes a candidate.
    signature: String,
    /// Size of the image's file.
    bytes: Option<u64>,
    candidates: Candidates,
}

/// All masks of an image with their vectors.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptMasks {
    /// Of what changes a mask, texts aside.
    signature: String,
    /// Size of the image's file.
    bytes: Option<u64>,
    /// Fingerprint of the CLIP.
    clip: String,
    image_hw: [usize; 2],
    removed: Removed,
    seen: Seen,
    masks: Vec<KeptMask>,
}

#[derive(Serialize, Deserialize)]
struct KeptMask {
    /// COCO's string.
    counts: String,
    box_xyxy_px: [usize; 4],
    predicted_iou: f32,
    /// `None` for NaN, which JSON lacks.
    stability: Option<f32>,
    point_xy_px: [f64; 2],
    crop_xyxy_px: [usize; 4],
    candidate: usize,
    /// Four hexadecimal digits of f16 for every value; `None` for an empty mask.
    vector: Option<String>,
}

impl Vectors {
    pub(crate) fn of(&self, mask: &Rle) -> Option<Vec<f32>> {
        if self.0.is_empty() { None } else { self.0.get(&mask.to_coco_string()).cloned() }
    }

    /// A vector as it is kept.
    pub(crate) fn rounded(vector: &[f32]) -> Vec<f32> {
        vector.iter().map(|&value| f16::from_f32(value).to_f32()).collect()
    }
}

fn to_text(vector: &[f32]) -> String {
    vector.iter().map(|&value| format!("{:04x}", f16::from_f32(value).to_bits())).collect()
}

fn from_text(text: &str) -> Option<Vec<f32>> {
    let value = |digits: &[u8; 4]| {
        let bits = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        Some(f16::from_bits(bits).to_f32()).filter(|value| value.is_finite())
    };
    let (digits, rest) = text.as_bytes().as_chunks::<4>();
    if rest.is_empty() { digits.iter().map(value).collect() } else { None }
}

impl KeptMasks {
    /// All masks that were found, with their vectors of this CLIP.
    pub(crate) fn new(
        description: &Description,
        found: &Generated,
        seen: Seen,
        vectors: &[Option<Vec<f32>>],
    ) -> Option<Self> {
        let (texts, first) = (description.texts.as_ref()?, found.masks.first());
        let masks = found.masks.iter().zip(vectors).map(|(mask, vector)| KeptMask {
            counts: mask.rle.to_coco_string(),
            box_xyxy_px: mask.box_xyxy_px,
            predicted_iou: mask.predicted_iou,
            stability: Some(mask.stability).filter(|score| !score.is_nan()),
            point_xy_px: mask.point_xy_px,
            crop_xyxy_px: mask.crop_xyxy_px,
            candidate: mask.candidate,
            vector: vector.as_deref().map(to_text),
        });
        Some(Self {
            signature: description.found_signature(),
            bytes: None,
            clip: texts.clip.clone(),
            image_hw: first.map_or([0; 2], |mask| mask.rle.size_hw()),
            removed: found.removed,
            seen,
            masks: masks.collect(),
        })
    }

    pub(crate) fn write(mut self, folder: &OutFolder, input: &Input) -> anyhow::Result<()> {
        self.bytes = input.n_bytes();
        write(folder, SCORED, input, &self)
    }

    /// The vectors of this CLIP; none when a mask lacks one, as another width of it would.
    fn vectors(&self, clip: &str) -> Vectors {
        let of_mask = |mask: &KeptMask| Some((mask.counts.clone(), from_text(mask.vector.as_deref()?)?));
        match self.clip == clip {
            true => Vectors(self.masks.iter().filter_map(of_mask).collect()),
            false => Vectors::default(),
        }
    }

    fn found(self) -> anyhow::Result<(Generated, Seen)> {
        let mask = |mask: KeptMask| -> anyhow::Result<AutomaticMask> {
            Ok(AutomaticMask {
                rle: Rle::from_coco_string(self.image_hw, mask.counts.as_bytes())?,
                box_xyxy_px: mask.box_xyxy_px,
                predicted_iou: mask.predicted_iou,
                stability: mask.stability.unwrap_or(f32::NAN),
                point_xy_px: mask.point_xy_px,
                crop_xyxy_px: mask.crop_xyxy_px,
                candidate: mask.candidate,
            })
        };
        let masks = self.masks.into_iter().map(mask).collect::<Result<_, _>>()?;
        Ok((Generated { masks, removed: self.removed }, self.seen))
    }
}

impl Known {
    /// What an earlier run has left of an image that suffices now, with vectors of its masks.
    pub(crate) fn of(folder: &Path, input: &Input, description: &Description) -> (Self, Vectors) {
        let file = |kind: &str| folder.join(kind).join(format!("{}.json", input.stem));
        let scored: Option<KeptMasks> = read(&file(SCORED)).filter(|kept: &KeptMasks| kept.bytes == input.n_bytes());
        let clip = description.texts.as_ref().map(|texts| texts.clip.as_str());
        let vectors = match (&scored, clip) {
            (Some(kept), Some(clip)) => kept.vectors(clip),
            _ => Vectors::default(),
        };
        if let Some(kept) = scored.filter(|kept| kept.signature == description.found_signature()) {
            match kept.found() {
                Ok((found, seen)) => return (Self::Masks(found, seen), vectors),
                Err(error) => damaged(&file(SCORED), &error),
            }
        }
        let is_own =
            |kept: &KeptCandidates| kept.signature == description.network_signature() && kept.bytes == input.n_bytes();
        let kept = read(&file(CANDIDATES)).filter(is_own).map(|kept| kept.candidates);
        match kept.filter(|candidates| candidates.suffice_for(&description.thresholds)) {
            Some(candidates) => (Self::Candidates(candidates), vectors),
            None => (Self::Nothing, vectors),
        }
    }
}

/// Keeps the candidates of an image.
pub(crate) fn write_candidates(folder: &OutFolder, input: &Input, candidates: Candidates) -> anyhow::Result<()> {
    let signature = folder.description().network_signature();
    write(folder, CANDIDATES, input, &KeptCandidates { signature, bytes: input.n_bytes(), candidates })
}

fn write(folder: &OutFolder, kind: &str, input: &Input, what: &impl Serialize) -> anyhow::Result<()> {
    let path = with_folder(folder.path(kind, &input.stem, "json"))?;
    let text = serde_json::to_vec(what)?;
    write_atomically(&path, text).map(drop).with_context(|| format!("writing {}", path.display()))
}

/// A file that is there and whole.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    if !path.exists() {
        return None;
    }
    let text = sam_data::read_text(path, sam_files::MAX_FILE_BYTES).map_err(anyhow::Error::from);
    match text.and_then(|text| Ok(serde_json::from_str(&text)?)) {
        Ok(kept) => Some(kept),
        Err(error) => {
            damaged(path, &error);
            None
        }
    }
}

fn damaged(path: &Path, error: &anyhow::Error) {
    let _ = writeln!(errors(), "{}: {error:#}; it is computed again", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_kept_as_they_are_rounded() {
        let vector = [0.125, -0.333_333, 1.0, 0.0, -1.0, 6.1e-5];
        let text = to_text(&vector);
        assert_eq!(text.len(), 4 * vector.len());
        assert_eq!(from_text(&text), Some(Vectors::rounded(&vector)));
        // NaN, half a value, no digits, letters of several bytes.
        for damaged in ["7e01", "000", "00g0", "é00é00"] {
            assert_eq!(from_text(damaged), None, "{damaged}");
        }
    }
}
