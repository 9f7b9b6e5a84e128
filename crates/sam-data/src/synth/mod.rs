//! Synthetic scenes: small pictures in which segmenting by clicks is a real task, with masks that are exact.
//!
//! Textured shapes lie on one another, so masks are occluded; some carry parts, which carry parts, so that one click is
//! truly ambiguous (a disc on a plate on a cloth: each is an object, and the plate's mask *includes* the disc); some are
//! thin lines, some tiny, rings show through. A scene is a pure function of (seed, index, options), on every machine: a
//! test pins the first ones.
//!
//! Masks: an object covers its shape, clipped to the shape that it is a part of; of that, what a later shape that is not
//! its own part lies on is taken away. Colours are blurred by a pixel in half of the scenes, masks never.

mod output;
mod scene;
mod shape;
mod texture;

pub use output::{WriteError, write_coco, write_sa1b};
pub use scene::{Scene, SceneObject};
pub use shape::ShapeKind;

use crate::loader::{SampleError, Samples};
use crate::sample::Sample;

/// What scenes look like. Lengths are shares of the shorter side, so any size of image gives the same kind of picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SynthOptions {
    /// Smallest height and width.
    pub side_px_min: usize,
    /// Largest height and width; each is drawn by itself.
    pub side_px_max: usize,
    /// Fewest shapes that lie on the background (parts of shapes come on top).
    pub n_shapes_min: usize,
    /// Most shapes that lie on the background.
    pub n_shapes_max: usize,
    /// Chance that a filled shape carries a part, and a part another; at most three levels.
    pub nested_chance: f64,
    /// Chance that a shape on the background is a thin line.
    pub thin_chance: f64,
    /// Chance that a shape on the background is tiny: 2 to 4.5 % of the shorter side in radius.
    pub tiny_chance: f64,
    /// Deviation of the noise on every channel, in grey levels.
    pub noise_levels: f64,
    /// An object of which less than this is visible is left out of the scene.
    pub visible_px_min: usize,
    /// An object of which less than this share of its shape is visible is left out of the scene.
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

/// Names of the classes: the kinds of shapes.
#[must_use]
pub fn class_names() -> Vec<String> {
    ShapeKind::ALL.map(|kind| kind.name().to_owned()).to_vec()
}

/// Scenes as a data set, made when asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SynthScenes {
    /// Scenes of different seeds have nothing in common.
    pub seed: u64,
    /// Index of the first scene, so that sets of one seed can be kept apart.
    pub first_index: u64,
    /// How many scenes the set has.
    pub n_scenes: usize,
    /// What they look like.
    pub options: SynthOptions,
}

impl SynthScenes {
    /// A scene of the set, with what is known beyond a sample.
    #[must_use]
    pub fn scene(&self, index: usize) -> Scene {
        Scene::draw(self.seed, self.first_index + index as u64, &self.options)
    }
}

impl Samples for SynthScenes {
    fn n_samples(&self) -> usize {
        self.n_scenes
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        Ok(self.scene(index).sample)
    }
}
