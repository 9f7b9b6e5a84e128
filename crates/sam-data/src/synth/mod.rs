//! Synthetic scenes: small images on which segmenting by clicks is a real task, with exact masks.
//!
//! Textured shapes overlap, so masks are occluded; some carry parts, which carry parts, so that one click is truly
//! ambiguous (a disc on a plate on a cloth: each is an object, and the plate's mask *includes* the disc); some are thin
//! lines, some tiny, and rings have holes. A scene is a pure function of (seed, index, options) on every machine; a
//! test pins the first ones.
//!
//! Masks: an object covers its shape, clipped to the shape it is a part of, minus all later shapes that are not its own
//! parts. Colours are blurred by a pixel in half of the scenes, masks never.

mod caption;
mod output;
mod scene;
mod shape;
mod texture;

pub use caption::{COLOUR_NAMES, PATTERN_NAMES};
pub use output::{write_coco, write_sa1b};
pub use scene::{Scene, SceneObject};
pub use shape::ShapeKind;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::sample::Sample;
use crate::sample::{SampleError, Samples};

/// Appearance of scenes. Lengths are fractions of the shorter side, so images of any size look alike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SynthOptions {
    /// Minimum height and width.
    pub side_px_min: usize,
    /// Maximum height and width; each is sampled independently.
    pub side_px_max: usize,
    /// Minimum number of shapes on the background, not counting parts of shapes.
    pub n_shapes_min: usize,
    /// Maximum number of shapes on the background.
    pub n_shapes_max: usize,
    /// Probability that a filled shape carries a part, and a part another; at most three levels.
    pub nested_chance: f64,
    /// Probability that a shape on the background is a thin line.
    pub thin_chance: f64,
    /// Probability that a shape on the background is tiny: 2 to 4.5 % of the shorter side in radius.
    pub tiny_chance: f64,
    /// Standard deviation of the noise on every channel, in grey levels.
    pub noise_levels: f64,
    /// Minimum visible area; objects below it are not part of the scene.
    pub visible_px_min: usize,
    /// Minimum visible fraction of a shape; objects below it are not part of the scene.
    pub visible_share_min: f64,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            side_px_min: 128,
            side_px_max: 192,
            n_shapes_min: 3,
            n_shapes_max: 7,
            nested_chance: 0.5,
            thin_chance: 0.12,
            tiny_chance: 0.15,
            noise_levels: 5.0,
            visible_px_min: 12,
            visible_share_min: 0.25,
        }
    }
}

/// Returns the names of the classes: the kinds of shapes.
#[must_use]
pub fn class_names() -> Vec<String> {
    ShapeKind::ALL.map(|kind| kind.name().to_owned()).to_vec()
}

/// Scenes as a data set, generated on demand.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SynthScenes {
    /// Random seed of the scenes.
    pub seed: u64,
    /// Index of the first scene, so that sets with the same seed can be disjoint.
    pub first_index: u64,
    /// Number of scenes.
    pub n_scenes: usize,
    /// Appearance of the scenes.
    #[serde(flatten)]
    pub options: SynthOptions,
}

impl SynthScenes {
    /// Generates a scene of the set, with its geometry.
    ///
    /// # Errors
    ///
    /// As [`Scene::draw`].
    pub fn scene(&self, index: usize) -> Result<Scene, DataError> {
        Scene::draw(self.seed, self.first_index.wrapping_add(index as u64), &self.options)
    }
}

impl Samples for SynthScenes {
    fn n_samples(&self) -> usize {
        self.n_scenes
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        Ok(self.scene(index)?.sample)
    }

    fn class_names(&self, _index: usize) -> &[String] {
        static NAMES: LazyLock<Vec<String>> = LazyLock::new(class_names);
        &NAMES
    }
}
