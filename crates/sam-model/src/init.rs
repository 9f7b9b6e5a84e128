//! Parameters for training from scratch. The official code has none: its modules start from PyTorch's defaults and from
//! position tables at zero, and are then overwritten by a checkpoint.
//!
//! Per part:
//! - image encoder: as MAE (arXiv 2111.06377), which the published encoders were trained from: linear layers and the patch
//!   embedding, taken as one, Xavier uniform, absolute positions fixed sines and cosines, biases and relative position tables
//!   zero. (ViTDet's normal of 0.02 suits a dimension of 768 and is too small for small ones.) The neck's convolutions
//!   Kaiming normal over the fan-in, as a norm and no activation follows them;
//! - TinyViT as image encoder: its convolutions normal with the variance that preserves the signal's (twice 1/fan-in before a
//!   GELU), so that batch norms may keep their first statistics, mean zero and variance one; bottlenecks start as identities,
//!   biases of attention at zero;
//! - text prompts: standard normal, as they take vectors of unit length, bias and means zero;
//! - prompt encoder and mask decoder: linear layers and convolutions uniform with the variance that preserves the signal's
//!   variance (1/fan-in, twice that before a ReLU or GELU), embeddings and the position frequencies standard normal, biases
//!   zero. With PyTorch's defaults, a third of that variance, a mask's logits start at a few hundredths. The last layers of
//!   the heads start at a quarter of the standard deviation, so that masks start undecided;
//! - attention of the decoder: keys start equal to queries, so that equal positions attend to each other from the first step
//!   (mimetic initialisation, Trockman and Kolter 2023, arXiv 2305.09828): a click starts by attending to its own position;
//! - masked autoencoder: as its reference, which is the image encoder's rule for encoder and decoder; class and mask token
//!   from a normal of 0.02, positions fixed;
//! - normalisations: weights one, biases zero.
//!
//! Each tensor is a pure function of the seed and of its official key: it does not depend on the device, on the order of
//! creation, or on the rest of the model.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::mae::MaskedAutoencoder;
use crate::weights::ParameterPath;
use sam_files::Fingerprint;

/// Variance gain of a head's last layer, so that logits and scores start small.
const HEAD_GAIN: f32 = 1.0 / 16.0;

/// Standard deviation of a masked autoencoder's class and mask tokens (`models_mae.py::initialize_weights`).
const MAE_TOKEN_STD: f32 = 0.02;

/// The distribution of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Draw {
    Constant(f32),
    Normal { std: f32 },
    Uniform { bound: f32 },
    SinesAndCosines,
}

/// Fills every parameter of a SAM model from `seed`.
pub fn initialise<M: Module>(module: M, seed: u64) -> M {
    initialise_where(module, seed, |_| true)
}

/// Fills the parameters whose official keys satisfy `is_selected`, each with the values that [`initialise`] gives it.
pub(crate) fn initialise_where<M: Module>(module: M, seed: u64, is_selected: impl Fn(&str) -> bool) -> M {
    module.map(&mut Initialiser { path: ParameterPath::default(), seed, is_selected })
}

/// Fills every parameter of a masked autoencoder from `seed`, except its fixed positions.
pub fn initialise_mae(mae: MaskedAutoencoder, seed: u64) -> MaskedAutoencoder {
    initialise_where(mae, seed, |key| !key.ends_with("pos_embed"))
}

struct Initialiser<F> {
    path: ParameterPath,
    seed: u64,
    is_selected: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Initialiser<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let key = self.path.official_key();
        if !(self.is_selected)(&key) {
            return param;
        }
        // In the checkpoint's layout, so that the fan-in is on the same axes for every kind of layer.
        let official_shape = self.path.official_shape(shape.as_slice());
        let draw = draw_for(&key, &official_shape);
        let values = match draw {
            Draw::SinesAndCosines => {
                let [_, height, width, channels] = official_shape[..] else {
                    unreachable!("absolute positions are [1, height, width, channels]")
                };
                sines_and_cosines([height, width], channels)
            }
            _ => draw_values(draw, shape.num_elements(), seed_of(self.seed, &source_key(&key))),
        };
        let values = self.path.from_official(values, &official_shape);
        let tensor = Tensor::from_data(TensorData::new(values, shape), &param.lazy_device());
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// The key whose values are used: the decoder's key projections get those of its query projections.
fn source_key(key: &str) -> String {
    match key.starts_with("mask_decoder.transformer") {
        true => key.replace(".k_proj.", ".q_proj."),
        false => key.to_owned(),
    }
}

fn draw_for(key: &str, official_shape: &[usize]) -> Draw {
    let last = key.rsplit('.').next().unwrap_or(key);
    let is_norm = key.contains("norm") || key.contains(".bn.") || is_sequential_norm(key);
    let is_position_table = last.starts_with("rel_pos");
    let tokens = ["_embed.weight", "iou_token.weight", "mask_tokens.weight"];
    let is_token = tokens.iter().any(|token| key.ends_with(token)) || key.contains("point_embeddings");
    if is_norm {
        // Bottlenecks of a TinyViT start as identities, as the reference has them.
        let is_last_of_branch = key.contains(".blocks.") && key.ends_with(".conv3.bn.weight");
        let is_one = (last == "weight" && !is_last_of_branch) || last == "running_var";
        return Draw::Constant(if is_one { 1.0 } else { 0.0 });
    }
    if is_position_table || last == "attention_biases" {
        return Draw::Constant(0.0);
    }
    if is_token || last == "positional_encoding_gaussian_matrix" {
        return Draw::Normal { std: 1.0 };
    }
    if key == "cls_token" || key == "mask_token" {
        return Draw::Normal { std: MAE_TOKEN_STD };
    }
    if key.starts_with("image_encoder.neck") {
        return Draw::Normal { std: (2.0 / fan_in(key, official_shape) as f32).sqrt() };
    }
    if key.starts_with("image_encoder.") && key.ends_with(".c.weight") {
        let gain = if is_before_gelu_of_tiny_vit(key) { 2.0 } else { 1.0 };
        return Draw::Normal { std: (gain / fan_in(key, official_shape) as f32).sqrt() };
    }
    if last == "pos_embed" {
        return Draw::SinesAndCosines;
    }
    if last == "bias" || last == "image_mean" || last == "text_mean" {
        return Draw::Constant(0.0);
    }
    // A vector of unit length becomes a token of unit variance, as all others.
    if key == "prompt_encoder.text_prompt.projection.weight" {
        return Draw::Normal { std: 1.0 };
    }
    let is_of_decoding_parts = key.starts_with("prompt_encoder") || key.starts_with("mask_decoder");
    if !is_of_decoding_parts {
        let both_fans = official_shape[0] + fan_in(key, official_shape);
        return Draw::Uniform { bound: (6.0 / both_fans as f32).sqrt() };
    }
    // The variance of a uniform is a third of its squared bound.
    let gain = match (is_before_activation(key), is_head(key)) {
        (true, _) => 2.0,
        (false, true) => HEAD_GAIN,
        (false, false) => 1.0,
    };
    let variance = gain / fan_in(key, official_shape) as f32;
    Draw::Uniform { bound: (3.0 * variance).sqrt() }
}

/// Whether a ReLU or GELU follows, possibly after a norm.
fn is_before_activation(key: &str) -> bool {
    let is_hidden = key.ends_with("layers.0.weight") || key.ends_with("layers.1.weight");
    key.ends_with("mlp.lin1.weight") || key.contains("output_upscaling") || (is_head(key) && is_hidden)
}

/// Whether a GELU follows a convolution of a TinyViT.
fn is_before_gelu_of_tiny_vit(key: &str) -> bool {
    key.contains(".conv1.") || key.contains(".conv2.") || key.contains("patch_embed.seq.0.")
}

/// Whether a parameter is of a head, which maps tokens to masks or scores.
fn is_head(key: &str) -> bool {
    key.contains("hypernetworks_mlps") || key.contains("iou_prediction_head")
}

/// Whether a parameter is of a norm whose key has an index instead of a name.
fn is_sequential_norm(key: &str) -> bool {
    let parts = ["neck.1.", "neck.3.", "mask_downscaling.1.", "mask_downscaling.4.", "output_upscaling.1."];
    parts.iter().any(|part| key.contains(part))
}

/// Number of inputs of one output. Transposed convolutions do not overlap: each output pixel depends on one input pixel.
fn fan_in(key: &str, official_shape: &[usize]) -> usize {
    match key.contains("output_upscaling") {
        true => official_shape[0],
        false => official_shape[1..].iter().product::<usize>().max(1),
    }
}

/// `count` values, uniform within `bound`: a function of `seed` and `key` alone.
pub(crate) fn uniform_values(bound: f32, count: usize, seed: u64, key: &str) -> Vec<f32> {
    draw_values(Draw::Uniform { bound }, count, seed_of(seed, key))
}

/// Mixes the seed and the key; stable across versions of this program and of Rust.
fn seed_of(seed: u64, key: &str) -> u64 {
    let mut hash = Fingerprint::new(seed);
    hash.add_bytes(key.as_bytes());
    hash.value()
}

fn draw_values(draw: Draw, count: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    match draw {
        Draw::Constant(value) => vec![value; count],
        Draw::Normal { std } => (0..count).map(|_| std * normal(&mut rng)).collect(),
        Draw::Uniform { bound } => (0..count).map(|_| rng.random_range(-bound..=bound)).collect(),
        Draw::SinesAndCosines => unreachable!("positions are not drawn"),
    }
}

/// MAE's fixed positions of a grid (`util/pos_embed.py`): the first half of the channels encodes the column, the second the
/// row, each half all sines before all cosines, with wavelengths from 2 pi to 10000 times 2 pi.
///
/// # Shapes
/// - returns `[H, W, C]`, row-major
///
/// # Panics
/// When `channels` is not a multiple of 4.
pub(crate) fn sines_and_cosines(grid_hw: [usize; 2], channels: usize) -> Vec<f32> {
    assert!(channels.is_multiple_of(4), "sines and cosines of two axes need a multiple of 4 channels, got {channels}");
    const LONGEST: f64 = 10_000.0;
    let quarter = channels / 4;
    let angle = |position: usize, frequency: usize| position as f64 / LONGEST.powf(frequency as f64 / quarter as f64);
    let mut values = Vec::with_capacity(grid_hw[0] * grid_hw[1] * channels);
    for (row, column) in (0..grid_hw[0]).flat_map(|row| (0..grid_hw[1]).map(move |column| (row, column))) {
        for position in [column, row] {
            values.extend((0..quarter).map(|frequency| angle(position, frequency).sin() as f32));
            values.extend((0..quarter).map(|frequency| angle(position, frequency).cos() as f32));
        }
    }
    values
}

/// Box-Muller; the second value is discarded, so that a draw depends on the generator's state alone.
pub(crate) fn normal(rng: &mut StdRng) -> f32 {
    let radius: f64 = 1.0 - rng.random::<f64>(); // (0, 1]
    let angle: f64 = rng.random::<f64>();
    ((-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SamConfig, Variant};
    use burn::tensor::Device;

    #[test]
    fn draws_have_the_expected_moments_and_limits() {
        let values = draw_values(Draw::Normal { std: 0.5 }, 100_000, 1);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 5e-3 && (variance.sqrt() - 0.5).abs() < 5e-3);
        let values = draw_values(Draw::Uniform { bound: 0.5 }, 10_000, 1);
        assert!(values.iter().all(|value| value.abs() <= 0.5) && values.iter().any(|value| value.abs() > 0.49));
    }

    #[test]
    fn every_part_has_its_rule() {
        let cases: [(&str, &[usize], Draw); 18] = [
            ("prompt_encoder.text_prompt.projection.weight", &[256, 768], Draw::Normal { std: 1.0 }),
            ("prompt_encoder.text_prompt.image_mean", &[768], Draw::Constant(0.0)),
            ("cls_token", &[1, 1, 8], Draw::Normal { std: 0.02 }),
            ("decoder_pred.weight", &[48, 48], Draw::Uniform { bound: 0.25 }),
            ("decoder_blocks.0.norm1.weight", &[8], Draw::Constant(1.0)),
            ("mask_decoder.mask_tokens.weight", &[4, 8], Draw::Normal { std: 1.0 }),
            (
                "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
                &[6, 12],
                Draw::Uniform { bound: 0.5 },
            ),
            ("mask_decoder.transformer.layers.0.cross_attn_image_to_token.v_proj.bias", &[6], Draw::Constant(0.0)),
            ("image_encoder.blocks.3.mlp.lin1.weight", &[64, 32], Draw::Uniform { bound: 0.25 }),
            ("image_encoder.pos_embed", &[1, 2, 2, 8], Draw::SinesAndCosines),
            ("image_encoder.blocks.3.attn.qkv.bias", &[96], Draw::Constant(0.0)),
            ("image_encoder.blocks.3.attn.rel_pos_h", &[27, 16], Draw::Constant(0.0)),
            ("image_encoder.neck.0.weight", &[8, 32, 1, 1], Draw::Normal { std: 0.25 }),
            ("image_encoder.neck.1.weight", &[8], Draw::Constant(1.0)),
            ("prompt_encoder.no_mask_embed.weight", &[1, 8], Draw::Normal { std: 1.0 }),
            ("prompt_encoder.mask_downscaling.4.bias", &[8], Draw::Constant(0.0)),
            ("mask_decoder.transformer.norm_final_attn.weight", &[8], Draw::Constant(1.0)),
            ("mask_decoder.iou_prediction_head.layers.0.weight", &[4, 24], Draw::Uniform { bound: 0.5 }),
        ];
        for (key, shape, expected) in cases {
            assert_eq!(draw_for(key, shape), expected, "{key}");
        }
    }

    /// MAE's formula written out: channels `[sin x, cos x, sin y, cos y]` of two frequencies, 1 and 1/100.
    #[test]
    fn positions_match_mae() {
        let values = sines_and_cosines([2, 3], 8);
        let at = |row: usize, column: usize| &values[(row * 3 + column) * 8..][..8];
        let (x, y) = (2.0f32, 1.0f32);
        let expected = [
            x.sin(),
            (x / 100.0).sin(),
            x.cos(),
            (x / 100.0).cos(),
            y.sin(),
            (y / 100.0).sin(),
            y.cos(),
            (y / 100.0).cos(),
        ];
        for (got, expected) in at(1, 2).iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{:?}", at(1, 2));
        }
        assert_eq!(at(0, 0), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn values_depend_on_the_seed_only() {
        let mut config = SamConfig::published(Variant::VitB);
        let vit = config.image_encoder.vit_mut().expect("a plain ViT");
        (vit.image_size, vit.patch_size, vit.embed_dim, vit.depth) = (32, 8, 16, 2);
        (vit.num_heads, vit.mlp_dim, vit.window_size, vit.global_attn_indexes) = (2, 32, 2, vec![1]);
        let weights = |seed| {
            let sam = initialise(config.init(&Device::flex()).expect("sizes fit"), seed);
            sam.mask_decoder.iou_token.weight.val().into_data()
        };
        assert_eq!(weights(7), weights(7));
        assert_ne!(weights(7), weights(8));
    }
}
