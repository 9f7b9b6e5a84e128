//! What people type, as prompts: the CLIP of the model's texts, with the vectors of the newest texts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sam_infer::clip::{ClipError, ClipTexts};
use sam_infer::{Modality, Predictor, PromptError, TextVector};

/// Texts whose vectors are remembered, 3 kB each for ViT-L.
const REMEMBERED: usize = 1000;

/// A CLIP for what people type.
#[derive(Debug)]
pub struct Texts {
    clip: ClipTexts,
    /// Newest last.
    known: Mutex<VecDeque<(String, TextVector)>>,
}

impl Texts {
    /// With no text yet.
    #[must_use]
    pub fn new(clip: ClipTexts) -> Self {
        Self { clip, known: Mutex::default() }
    }

    /// Whether a model takes texts, and those of this CLIP.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn check(&self, model: &Predictor) -> Result<(), PromptError> {
        model.check_clip(&self.clip)
    }

    /// The vector of a text, computed once.
    pub(super) fn vector(&self, text: &str) -> Result<TextVector, ClipError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, vector)) = known().iter().find(|(other, _)| other == text) {
            return Ok(vector.clone());
        }
        // Without the lock, so that other texts need not wait.
        let values: Arc<[f32]> = self.clip.texts(&[text])?.concat().into();
        let vector = TextVector { values, modality: Modality::Text };
        let mut known = known();
        known.push_back((text.to_owned(), vector.clone()));
        if known.len() > REMEMBERED {
            known.pop_front();
        }
        Ok(vector)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sam_infer::DeviceName;

    use super::*;

    #[test]
    fn a_text_is_computed_once() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/clip/hf"));
        let texts = Texts::new(ClipTexts::open(folder, &DeviceName::Cpu.open().expect("a device")).expect("a CLIP"));
        let first = texts.vector("a wheel").expect("a vector");
        let again = texts.vector("a wheel").expect("a vector");
        assert!(Arc::ptr_eq(&first.values, &again.values), "the same one");
        assert_ne!(texts.vector("a window").expect("a vector"), first);
        for n in 0..REMEMBERED {
            texts.vector(&format!("{n}")).expect("a vector");
        }
        let known = texts.known.lock().expect("unlocked");
        assert_eq!(known.len(), REMEMBERED);
        assert!(known.iter().all(|(text, _)| text != "a wheel"), "the oldest is forgotten");
        assert!(texts.clip.texts(&["", "a"]).is_err());
    }
}
