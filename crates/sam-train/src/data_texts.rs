//! The texts of data sets, and CLIP's vectors of them, for evaluations and validations with texts as prompts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use sam_eval::{DataTexts, EvalError, EvalSet, PromptVectors, TextSource, mean_direction};
use sam_infer::clip::ClipTexts;
use sam_infer::{Modality, TextVector};

use crate::progress::Progress;

/// Texts that are computed between two reports of the progress.
const TEXTS_AT_ONCE: usize = 64;

/// Gathers the texts of these sets, with progress.
pub(crate) fn gather(sets: &[EvalSet], source: TextSource) -> Result<DataTexts, EvalError> {
    let n_images: usize = sets.iter().map(|set| set.indices.len()).sum();
    let mut progress = Progress::new("reading texts of images", n_images as u64);
    DataTexts::of(sets, source, &mut |done| progress.set(done as u64))
}

/// Vectors of texts, and how many have none as they are longer than CLIP reads.
pub(crate) struct Encoded {
    pub(crate) vectors: PromptVectors,
    pub(crate) n_unusable: usize,
}

/// Computes the vectors of captions, and of class names as the mean over the templates.
pub(crate) fn encode(clip: &ClipTexts, texts: &DataTexts, templates: &[String]) -> Encoded {
    let framed = |class: &String| templates.iter().map(|template| template.replace("{}", class)).collect::<Vec<_>>();
    let of_classes: Vec<(&String, Vec<String>)> = texts.classes.iter().map(|class| (class, framed(class))).collect();
    let sentences = of_classes.iter().flat_map(|(_, sentences)| sentences.iter());
    let all: BTreeSet<&str> = texts.captions.iter().chain(sentences).map(String::as_str).collect();
    let all: Vec<&str> = all.into_iter().collect();
    let mut progress = Progress::new("computing vectors of texts", all.len() as u64);
    let mut found: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (done, chunk) in all.chunks(TEXTS_AT_ONCE).enumerate() {
        for (text, vector) in chunk.iter().zip(clip.usable_texts(chunk)) {
            found.extend(vector.map(|vector| (*text, vector)));
        }
        progress.set((done * TEXTS_AT_ONCE + chunk.len()) as u64);
    }
    let vector = |values: Vec<f32>| TextVector { values: Arc::from(values), modality: Modality::Text };
    let caption = |caption: &String| Some((caption.clone(), vector(found.get(caption.as_str())?.clone())));
    let class = |(class, sentences): &(&String, Vec<String>)| {
        let each: Option<Vec<Vec<f32>>> = sentences.iter().map(|text| found.get(text.as_str()).cloned()).collect();
        Some(((*class).clone(), vector(mean_direction(&each?))))
    };
    let vectors = PromptVectors {
        captions: texts.captions.iter().filter_map(caption).collect(),
        classes: of_classes.iter().filter_map(class).collect(),
    };
    let n_usable = vectors.captions.len() + vectors.classes.len();
    Encoded { n_unusable: texts.captions.len() + texts.classes.len() - n_usable, vectors }
}
