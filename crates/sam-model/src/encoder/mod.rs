//! The image encoder: SAM's plain ViT or MobileSAM's TinyViT, in the same slot of a segmenter. Both end in the same neck and
//! give the same kind of embedding, so nothing after them knows which one it was.
//!
//! Shapes: `B` images, `S` image size in pixels, `G` grid size of the embedding, `C` channels of the last map before the neck.

mod block;
mod cost;
mod drop_path;
mod neck;
pub mod tiny_vit;
mod vit;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub(crate) use block::ENCODER_LAYER_NORM_EPS;
pub use block::{Block, BlockConfig};
pub use drop_path::DropPath;
pub use neck::Neck;
pub use tiny_vit::{BatchNormStatistics, TinyVit, TinyVitConfig};
pub use vit::{Vit, VitConfig};

pub(crate) use vit::PatchEmbed;

use crate::config::SizeChecks;
use crate::stage::{Stage, run};

/// Sizes of an image encoder. The fields of both kinds differ, so a file needs no word for which one it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageEncoderConfig {
    /// A plain ViT.
    Vit(VitConfig),
    /// A TinyViT.
    TinyVit(TinyVitConfig),
}

impl ImageEncoderConfig {
    /// Size of the square input in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.image_size,
            Self::TinyVit(tiny) => tiny.image_size,
        }
    }

    /// The same encoder for another size of input.
    pub fn set_image_size(&mut self, image_size: usize) {
        match self {
            Self::Vit(vit) => vit.image_size = image_size,
            Self::TinyVit(tiny) => tiny.image_size = image_size,
        }
    }

    /// Side of a cell of the embedding in pixels.
    pub fn patch_size(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.patch_size,
            Self::TinyVit(_) => TinyVitConfig::STRIDE,
        }
    }

    /// Size of the embedding in cells.
    pub fn grid_size(&self) -> usize {
        self.image_size() / self.patch_size()
    }

    /// Channels of the embedding.
    pub fn out_chans(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.out_chans,
            Self::TinyVit(tiny) => tiny.out_chans,
        }
    }

    /// Channels of the last map before the neck.
    pub fn embed_dim(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.embed_dim,
            Self::TinyVit(tiny) => tiny.last_dim(),
        }
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.depth,
            Self::TinyVit(tiny) => tiny.depth(),
        }
    }

    /// Drop path rate of the last block in training.
    pub fn drop_path_rate(&self) -> f64 {
        match self {
            Self::Vit(vit) => vit.drop_path_rate,
            Self::TinyVit(tiny) => tiny.drop_path_rate,
        }
    }

    /// Sets the drop path rate of the last block in training.
    pub fn set_drop_path_rate(&mut self, rate: f64) {
        match self {
            Self::Vit(vit) => vit.drop_path_rate = rate,
            Self::TinyVit(tiny) => tiny.drop_path_rate = rate,
        }
    }

    /// The sizes of a plain ViT, if it is one.
    pub fn vit(&self) -> Option<&VitConfig> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::TinyVit(_) => None,
        }
    }

    /// As [`ImageEncoderConfig::vit`], to change them.
    pub fn vit_mut(&mut self) -> Option<&mut VitConfig> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::TinyVit(_) => None,
        }
    }

    /// The sizes of a TinyViT, if it is one.
    pub fn tiny_vit(&self) -> Option<&TinyVitConfig> {
        match self {
            Self::Vit(_) => None,
            Self::TinyVit(tiny) => Some(tiny),
        }
    }

    /// As [`ImageEncoderConfig::tiny_vit`], to change them.
    pub fn tiny_vit_mut(&mut self) -> Option<&mut TinyVitConfig> {
        match self {
            Self::Vit(_) => None,
            Self::TinyVit(tiny) => Some(tiny),
        }
    }

    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    ///
    /// # Panics
    /// When sizes do not fit together; [`crate::SamConfig::check`] reports it beforehand.
    pub fn init(&self, device: &Device) -> ImageEncoder {
        match self {
            Self::Vit(vit) => ImageEncoder::Vit(vit.init(device)),
            Self::TinyVit(tiny) => ImageEncoder::TinyVit(tiny.init(device)),
        }
    }

    pub(crate) fn check(&self, checks: &mut SizeChecks) {
        match self {
            Self::Vit(vit) => vit.check(checks),
            Self::TinyVit(tiny) => tiny.check(checks),
        }
    }
}

/// The image encoder.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a model has one, and it is never in a list")]
pub enum ImageEncoder {
    /// A plain ViT.
    Vit(Vit),
    /// A TinyViT.
    TinyVit(TinyVit),
}

impl ImageEncoder {
    /// # Shapes
    /// - `images`: `[B, 3, S, S]`, normalised and padded (see [`crate::Sam::preprocess`])
    /// - returns `[B, out_chans, G, G]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        run(&self.stages(), images)
    }

    /// The encoder as stages, the neck last.
    ///
    /// # Shapes
    /// - first input: `[B, 3, S, S]`, last output: `[B, out_chans, G, G]`
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let mut stages = self.stages_before_neck();
        stages.push(Box::new(|x| self.neck().forward(x)));
        stages
    }

    /// The last map before the neck.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, S, S]`
    /// - returns `[B, G, G, C]`
    pub fn features(&self, images: Tensor<4>) -> Tensor<4> {
        run(&self.stages_before_neck(), images)
    }

    /// The neck.
    pub fn neck(&self) -> &Neck {
        match self {
            Self::Vit(vit) => &vit.neck,
            Self::TinyVit(tiny) => &tiny.neck,
        }
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.neck().conv1.weight.lazy_device()
    }

    /// The plain ViT, if it is one.
    pub fn vit(&self) -> Option<&Vit> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::TinyVit(_) => None,
        }
    }

    /// The TinyViT, if it is one.
    pub fn tiny_vit(&self) -> Option<&TinyVit> {
        match self {
            Self::Vit(_) => None,
            Self::TinyVit(tiny) => Some(tiny),
        }
    }

    /// As [`ImageEncoder::tiny_vit`], to change it.
    pub fn tiny_vit_mut(&mut self) -> Option<&mut TinyVit> {
        match self {
            Self::Vit(_) => None,
            Self::TinyVit(tiny) => Some(tiny),
        }
    }

    fn stages_before_neck(&self) -> Vec<Stage<'_>> {
        match self {
            Self::Vit(vit) => vit.stages_before_neck(),
            Self::TinyVit(tiny) => tiny.stages_before_neck(),
        }
    }
}

/// By hand, as burn's derive enters a variant as if it were a field: saves of trainings that began before there was a second
/// kind of encoder have keys without it, and official keys have none either.
impl Module for ImageEncoder {
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::Vit(vit) => vit.collect_devices(devices),
            Self::TinyVit(tiny) => tiny.collect_devices(devices),
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Vit(vit) => Self::Vit(vit.fork(device)),
            Self::TinyVit(tiny) => Self::TinyVit(tiny.fork(device)),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Vit(vit) => Self::Vit(vit.to_device(device)),
            Self::TinyVit(tiny) => Self::TinyVit(tiny.to_device(device)),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Vit(vit) => Self::Vit(vit.train()),
            Self::TinyVit(tiny) => Self::TinyVit(tiny.train()),
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Vit(vit) => Self::Vit(vit.valid()),
            Self::TinyVit(tiny) => Self::TinyVit(tiny.valid()),
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Vit(vit) => Self::Vit(vit.materialize()),
            Self::TinyVit(tiny) => Self::TinyVit(tiny.materialize()),
        }
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        match self {
            Self::Vit(vit) => vit.visit(visitor),
            Self::TinyVit(tiny) => tiny.visit(visitor),
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        match self {
            Self::Vit(vit) => Self::Vit(vit.map(mapper)),
            Self::TinyVit(tiny) => Self::TinyVit(tiny.map(mapper)),
        }
    }
}

impl ModuleDisplayDefault for ImageEncoder {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Vit(vit) => content.add_single(vit).optional(),
            Self::TinyVit(tiny) => content.add_single(tiny).optional(),
        }
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for ImageEncoder {}
