//! Sizes of a segmenter, the published ones, and the checks that they fit together (`build_sam.py`).

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::decoder::MaskDecoderConfig;
use crate::encoder::{ImageEncoderConfig, TinyVitConfig, VitConfig};
use crate::prompt::{MASK_PROMPT_PER_GRID, PromptEncoderConfig, TextPromptConfig};
use crate::sam::Sam;

/// The published model sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// 91 M parameters.
    VitB,
    /// 308 M parameters.
    VitL,
    /// 636 M parameters.
    VitH,
    /// MobileSAM: 10 M parameters, 6 M of them in its encoder, TinyViT-5M.
    Mobile,
}

impl Variant {
    /// All variants.
    pub const ALL: [Variant; 4] = [Variant::VitB, Variant::VitL, Variant::VitH, Variant::Mobile];

    /// Those with a plain ViT, which a masked autoencoder pre-trains, smallest first.
    pub const VITS: [Variant; 3] = [Variant::VitB, Variant::VitL, Variant::VitH];

    /// The name in the reference's `sam_model_registry`; MobileSAM's is `vit_t` there.
    pub fn name(self) -> &'static str {
        match self {
            Variant::VitB => "vit_b",
            Variant::VitL => "vit_l",
            Variant::VitH => "vit_h",
            Variant::Mobile => "mobile",
        }
    }
}

/// Sizes of a segmenter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    /// Image to embedding.
    pub image_encoder: ImageEncoderConfig,
    /// Prompts to embeddings.
    pub prompt_encoder: PromptEncoderConfig,
    /// Embeddings to masks.
    pub mask_decoder: MaskDecoderConfig,
    /// Text prompts; `None`: the model takes none, as the published ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextPromptConfig>,
}

impl SamConfig {
    /// One of the published sizes, at 1024 px (`build_sam.py`).
    pub fn published(variant: Variant) -> Self {
        let vit = |embed_dim: usize, depth: usize, num_heads: usize, global_attn_indexes: [usize; 4]| {
            ImageEncoderConfig::Vit(VitConfig {
                image_size: 1024,
                patch_size: 16,
                embed_dim,
                depth,
                num_heads,
                mlp_dim: 4 * embed_dim,
                out_chans: 256,
                window_size: 14,
                global_attn_indexes: global_attn_indexes.to_vec(),
                drop_path_rate: 0.0,
            })
        };
        Self {
            image_encoder: match variant {
                Variant::VitB => vit(768, 12, 12, [2, 5, 8, 11]),
                Variant::VitL => vit(1024, 24, 16, [5, 11, 17, 23]),
                Variant::VitH => vit(1280, 32, 16, [7, 15, 23, 31]),
                Variant::Mobile => ImageEncoderConfig::TinyVit(TinyVitConfig::published()),
            },
            prompt_encoder: PromptEncoderConfig { embed_dim: 256, mask_in_chans: 16 },
            mask_decoder: MaskDecoderConfig {
                transformer_dim: 256,
                depth: 2,
                num_heads: 8,
                mlp_dim: 2048,
                cross_dim: 128,
                num_multimask_outputs: 3,
                iou_head_depth: 3,
                iou_head_hidden_dim: 256,
                dropout: 0.0,
            },
            text: None,
        }
    }

    /// The published size this is, whatever its image size, its text prompts and how it learns (dropout, batch norm).
    pub fn variant(&self) -> Option<Variant> {
        Variant::ALL.into_iter().find(|&variant| {
            let mut published = Self::published(variant);
            published.image_encoder.set_image_size(self.image_encoder.image_size());
            published.image_encoder.set_drop_path_rate(self.image_encoder.drop_path_rate());
            let of_both = published.image_encoder.tiny_vit_mut().zip(self.image_encoder.tiny_vit());
            if let Some((published, tiny)) = of_both {
                published.batch_norm = tiny.batch_norm;
            }
            published.mask_decoder.dropout = self.mask_decoder.dropout;
            published.text.clone_from(&self.text);
            published == *self
        })
    }

    /// Size of the decoder's masks and of mask prompts in pixels: 256 at 1024.
    pub fn low_res_side(&self) -> usize {
        MASK_PROMPT_PER_GRID * self.image_encoder.grid_size()
    }

    /// Checks that the sizes fit together, and reports all problems together.
    pub fn check(&self) -> Result<(), SamConfigError> {
        let (encoder, prompts, decoder) = (&self.image_encoder, &self.prompt_encoder, &self.mask_decoder);
        let mut checks = SizeChecks::default();
        for (name, size, limit) in [
            ("mask_in_chans", prompts.mask_in_chans, MAX_WIDTH),
            ("the decoder's mlp_dim", decoder.mlp_dim, MAX_WIDTH),
            ("cross_dim", decoder.cross_dim, MAX_WIDTH),
            ("iou_head_hidden_dim", decoder.iou_head_hidden_dim, MAX_WIDTH),
            ("the decoder's depth", decoder.depth, MAX_DEPTH),
            ("num_multimask_outputs", decoder.num_multimask_outputs, MAX_DEPTH),
            ("iou_head_depth", decoder.iou_head_depth, MAX_DEPTH),
            ("the width of text vectors", self.text.as_ref().map_or(1, |text| text.width), MAX_WIDTH),
        ] {
            checks.require(size <= limit, || format!("{name} must be at most {limit}, got {size}"));
        }
        let has_width = self.text.as_ref().is_none_or(|text| text.width > 0);
        checks.require(has_width, || "text vectors must have at least one value".to_owned());
        encoder.check(&mut checks);
        let channels = encoder.out_chans();
        checks.require(prompts.embed_dim == channels && decoder.transformer_dim == channels, || {
            format!(
                "the encoder's out_chans {}, the prompt encoder's embed_dim {} and the decoder's transformer_dim {} \
                     must be equal",
                channels, prompts.embed_dim, decoder.transformer_dim
            )
        });
        checks.require(divides(4, prompts.mask_in_chans), || {
            format!("mask_in_chans must be a multiple of 4, got {}", prompts.mask_in_chans)
        });
        check_decoder(decoder, &mut checks);
        checks.finish()
    }

    /// A model on `device` whose parameters are zero (norms: identity) until a checkpoint
    /// ([`crate::weights::Checkpoint`]) or [`crate::init::initialise`] fills them.
    pub fn init(&self, device: &Device) -> Result<Sam, SamConfigError> {
        self.check()?;
        let encoder = &self.image_encoder;
        Ok(Sam {
            image_encoder: encoder.init(device),
            prompt_encoder: self.prompt_encoder.init(
                self.text.as_ref(),
                encoder.image_size(),
                encoder.grid_size(),
                device,
            ),
            mask_decoder: self.mask_decoder.init(device),
            config: self.clone(),
        })
    }
}

fn check_decoder(decoder: &MaskDecoderConfig, checks: &mut SizeChecks) {
    checks.require(divides(8, decoder.transformer_dim), || {
        format!("transformer_dim must be a multiple of 8, got {}", decoder.transformer_dim)
    });
    checks.require(
        divides(decoder.num_heads, decoder.transformer_dim) && divides(decoder.num_heads, decoder.cross_dim),
        || {
            format!(
                "the decoder's num_heads {} must divide transformer_dim {} and cross_dim {}",
                decoder.num_heads, decoder.transformer_dim, decoder.cross_dim
            )
        },
    );
    checks.require(decoder.iou_head_depth > 0 && decoder.num_multimask_outputs > 0 && decoder.mlp_dim > 0, || {
        "iou_head_depth, num_multimask_outputs and the decoder's mlp_dim must be at least 1".into()
    });
    checks.require((0.0..1.0).contains(&decoder.dropout), || {
        format!("the decoder's dropout must be in [0, 1), got {}", decoder.dropout)
    });
}

/// Larger sizes indicate a damaged or hostile file; those of published models are far below.
pub(crate) const MAX_WIDTH: usize = 1 << 16;
pub(crate) const MAX_DEPTH: usize = 1000;
pub(crate) const MAX_IMAGE_SIZE: usize = 1 << 15;

/// A configuration whose sizes do not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("model sizes do not fit together: {}", problems.join("; "))]
pub struct SamConfigError {
    /// One sentence per problem.
    pub problems: Vec<String>,
}

/// Collects the problems of a configuration.
#[derive(Default)]
pub(crate) struct SizeChecks {
    problems: Vec<String>,
}

impl SizeChecks {
    pub(crate) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    pub(crate) fn finish(self) -> Result<(), SamConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(SamConfigError { problems: self.problems }) }
    }
}

/// Whether a positive size is a multiple of another.
pub(crate) fn divides(divisor: usize, value: usize) -> bool {
    divisor > 0 && value > 0 && value.is_multiple_of(divisor)
}

#[cfg(test)]
mod tests {
    use burn::module::Module;

    use super::*;

    #[test]
    fn published_sizes_have_the_published_number_of_elements() {
        // Totals of the official state dicts, from the shapes in `build_sam.py`.
        // MobileSAM's without its classifier and its counters of batches, which are no parameters here.
        let totals = [93_735_728, 312_343_088, 641_090_864, 10_140_231 - 321_640 - 27];
        for (variant, total) in Variant::ALL.into_iter().zip(totals) {
            let config = SamConfig::published(variant);
            let sam = config.init(&Device::flex()).expect("published sizes fit");
            assert_eq!(sam.num_params(), total, "{}", variant.name());
            assert_eq!(config.variant(), Some(variant));
        }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let mut config = SamConfig::published(Variant::VitB);
        let vit = config.image_encoder.vit_mut().expect("a plain ViT");
        vit.image_size = 1000;
        vit.num_heads = 7;
        vit.global_attn_indexes.push(99);
        config.mask_decoder.transformer_dim = 250;
        let error = config.check().expect_err("sizes do not fit");
        let text = error.to_string();
        for part in ["1000", "num_heads 7", "block 99", "250"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
