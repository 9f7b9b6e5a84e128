//! CLIP at work: texts, masks and whole images to vectors of one space, for text prompts.
//!
//! A text prompt is the vector of a text; in training, the vector of a mask's crop stands in for it (Kirillov 2023, arXiv
//! 2304.02643 §D.5), so no caption is needed.
//!
//! ```
//! use burn::tensor::Device;
//! use sam_image::{RgbImage, bbox_to_rle};
//! use sam_infer::clip::{Background, Clip, MaskCrop};
//! # use std::path::Path;
//! # let folder = Path::new("../../tests/fixtures/clip/hf");
//! # let image = RgbImage::new(60, 40);
//!
//! let clip = Clip::open(folder, &Device::flex())?;
//! let texts = clip.texts(&["a wheel", "the whole car"])?;
//!
//! // How well does each text describe what a mask covers?
//! let mask = bbox_to_rle([40, 60], [10.0, 10.0, 30.0, 20.0])?;
//! let crop = MaskCrop::new(&image, &mask, 1.5, Background::Kept, clip.side_px(), clip.patch_px());
//! let vectors = clip.crops(&[crop]);
//! for text in &texts {
//!     let cosine: f32 = text.iter().zip(&vectors[0]).map(|(a, b)| a * b).sum();
//!     println!("{cosine:.3}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod crop;
mod masks;
mod preprocess;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use sam_image::RgbImage;
use sam_model::clip::{ClipCheckpoint, ClipConfig, ClipModel, ImageTower, TextTower, Tokenizer, TokenizerError};
use sam_model::weights::{LoadReport, WeightsError, host_values};

pub use crop::{Background, MaskCrop};
use preprocess::{normalised, shorter_side_centred};

/// Texts of equal length that are computed together.
const TEXTS_AT_ONCE: usize = 64;

/// Images that are computed together: enough for large matrix products, at 64 MB of tokens in ViT-L.
const IMAGES_AT_ONCE: usize = 16;

/// The text tower of a CLIP on a device, with its tokenizer.
#[derive(Debug)]
pub struct ClipTexts {
    tower: TextTower,
    config: ClipConfig,
    tokenizer: Tokenizer,
    fingerprint: u64,
    report: LoadReport,
}

/// Both towers of a CLIP on a device: what [`ClipTexts`] is, with the image tower beside it.
#[derive(Debug)]
pub struct Clip {
    texts: ClipTexts,
    visual: ImageTower,
    device: Device,
}

/// Why there is no CLIP, or no vector.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// The file cannot be read, or is no CLIP.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The text has no vector.
    #[error(transparent)]
    Text(#[from] TokenizerError),
}

impl ClipTexts {
    /// Loads the text tower of a Hugging Face folder, or of a file with the keys of OpenAI and open_clip or of Hugging Face, in
    /// f32.
    ///
    /// # Errors
    /// When it is no CLIP, or one whose tensors do not fit.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ClipError> {
        let checkpoint = ClipCheckpoint::open(path)?;
        let (tower, fingerprint, report) = checkpoint.load_text(device)?;
        Ok(Self::new(checkpoint, tower, fingerprint, report))
    }

    fn new(checkpoint: ClipCheckpoint, tower: TextTower, fingerprint: u64, report: LoadReport) -> Self {
        let ClipCheckpoint { config, tokenizer, .. } = checkpoint;
        Self { tower, config, tokenizer, fingerprint, report }
    }

    /// A hash of all weights of both towers, sizes and the vocabulary: equal for the same CLIP in any layout of a file.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Length of the vectors.
    pub fn width(&self) -> usize {
        self.config.width
    }

    /// Both towers' sizes.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// What was made of the file's tensors, and what was assumed.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Vectors of texts, of unit length.
    ///
    /// # Errors
    /// On the first text that is empty or has too many tokens.
    pub fn texts(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>, ClipError> {
        let tokens = texts.iter().map(|text| self.tokenizer.encode(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        Ok(self.vectors_of(&tokens))
    }

    /// As [`ClipTexts::texts`], with `None` for a text that is empty or has too many tokens.
    pub fn usable_texts(&self, texts: &[impl AsRef<str>]) -> Vec<Option<Vec<f32>>> {
        let encoded: Vec<Option<Vec<u32>>> =
            texts.iter().map(|text| self.tokenizer.encode(text.as_ref()).ok()).collect();
        let usable: Vec<Vec<u32>> = encoded.iter().flatten().cloned().collect();
        let mut vectors = self.vectors_of(&usable).into_iter();
        encoded.into_iter().map(|tokens| tokens.and_then(|_| vectors.next())).collect()
    }

    /// Texts of equal length are computed together.
    fn vectors_of(&self, tokens: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let mut of_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, tokens) in tokens.iter().enumerate() {
            of_length.entry(tokens.len()).or_default().push(at);
        }
        let mut vectors = vec![Vec::new(); tokens.len()];
        for batch in of_length.values().flat_map(|places| places.chunks(TEXTS_AT_ONCE)) {
            let rows: Vec<&[u32]> = batch.iter().map(|&at| tokens[at].as_slice()).collect();
            for (&at, vector) in batch.iter().zip(unit_rows(self.tower.forward(&rows))) {
                vectors[at] = vector;
            }
        }
        vectors
    }
}

impl Deref for Clip {
    type Target = ClipTexts;

    fn deref(&self) -> &ClipTexts {
        &self.texts
    }
}

impl Clip {
    /// Loads both towers from what [`ClipTexts::open`] takes.
    ///
    /// # Errors
    /// When it is no CLIP, or one whose tensors do not fit.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ClipError> {
        let checkpoint = ClipCheckpoint::open(path)?;
        let (ClipModel { text, visual }, fingerprint, report) = checkpoint.load(device)?;
        Ok(Self { texts: ClipTexts::new(checkpoint, text, fingerprint, report), visual, device: device.clone() })
    }

    /// Size of the image tower's square input in pixels.
    pub fn side_px(&self) -> usize {
        self.config.image.side_px
    }

    /// Size of a patch of it in pixels.
    pub fn patch_px(&self) -> usize {
        self.config.image.patch_px
    }

    /// Vectors of masks, of unit length: of their crops, with an output token that attends in the last block to itself and
    /// the patches of the mask only.
    ///
    /// # Panics
    /// When a crop was made for another CLIP's sizes.
    pub fn crops(&self, crops: &[MaskCrop]) -> Vec<Vec<f32>> {
        let vectors = crops.chunks(IMAGES_AT_ONCE).flat_map(|batch| {
            let patches: Vec<&[bool]> = batch.iter().map(MaskCrop::patches).collect();
            let images: Vec<&RgbImage> = batch.iter().map(MaskCrop::image).collect();
            unit_rows(self.visual.forward(self.input(&images), Some(&patches)))
        });
        vectors.collect()
    }

    /// Vectors of whole images, of unit length, with CLIP's own preprocessing.
    pub fn images(&self, images: &[&RgbImage]) -> Vec<Vec<f32>> {
        let vectors = images.chunks(IMAGES_AT_ONCE).flat_map(|batch| {
            let squares: Vec<RgbImage> =
                batch.par_iter().map(|image| shorter_side_centred(image, self.side_px())).collect();
            unit_rows(self.visual.forward(self.input(&squares.iter().collect::<Vec<_>>()), None))
        });
        vectors.collect()
    }

    /// # Shapes
    /// - returns `[B, S, S, 3]`
    fn input(&self, squares: &[&RgbImage]) -> Tensor<4> {
        let side = self.side_px();
        for square in squares {
            let size = [square.width() as usize, square.height() as usize];
            assert_eq!(size, [side; 2], "this CLIP takes images of {side} px");
        }
        normalised(squares, &self.config.image, &self.device)
    }
}

/// The rows of a matrix, each of unit length.
fn unit_rows(vectors: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, width] = vectors.dims();
    let unit = |row: &[f32]| {
        let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        row.iter().map(|value| (f64::from(*value) / length.max(f64::MIN_POSITIVE)) as f32).collect()
    };
    host_values(&vectors).chunks_exact(width).map(unit).collect()
}
