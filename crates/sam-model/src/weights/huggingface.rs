//! The two JSON files of a Hugging Face `SamModel` folder.
//!
//! All fields of `transformers.SamConfig` and `SamImageProcessor` are written; only those that tensors do not determine are
//! read. The decoder's epsilon is written as 1e-5, as in the official model; the class would default to 1e-6 and shift the
//! masks by about a hundredth. It is not read: converted official weights carry that default, but were trained with 1e-5.

use std::path::Path;

use serde_json::{Value, json};

use super::error::WeightsError;
use super::recognise::Hints;
use crate::config::SamConfig;
use crate::decoder::DECODER_LAYER_NORM_EPS;
use crate::encoder::ENCODER_LAYER_NORM_EPS;
use crate::ops::layer_norm::LAYER_NORM_2D_EPS;
use crate::preprocess::{PIXEL_MEAN, PIXEL_STD};

/// Reads the hints in the `config.json` beside a weights file; no hints when there is none.
pub(super) fn hints_beside(weights: &Path) -> Result<Hints, WeightsError> {
    let config = json_beside(weights, "config.json")?;
    let parts = ["mask_decoder_config", "num_attention_heads"];
    Ok(config.map(|config| Hints::from_json(&config, "vision_config", parts)).unwrap_or_default())
}

/// A JSON file beside a weights file, if there is one.
pub(crate) fn json_beside(weights: &Path, name: &str) -> Result<Option<Value>, WeightsError> {
    let path = weights.with_file_name(name);
    let text = match sam_files::read_text(&path, sam_files::MAX_TEXT_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(WeightsError::Io { path, source }),
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(config) => Ok(Some(config)),
        Err(error) => Err(WeightsError::NotACheckpoint { path, reason: format!("its {name} is damaged: {error}") }),
    }
}

/// Checks that `transformers.SamModel` can be built with these sizes.
pub(super) fn check_representable(config: &SamConfig) -> Result<(), WeightsError> {
    let Some(encoder) = config.image_encoder.vit() else {
        return Err(WeightsError::Unsupported(
            "transformers has no SamModel with a TinyViT as its encoder; export to safetensors or pth, which MobileSAM's own \
             package reads"
                .into(),
        ));
    };
    let decoder = &config.mask_decoder;
    let cross_rate = decoder.transformer_dim / decoder.cross_dim.max(1);
    if decoder.cross_dim * cross_rate != decoder.transformer_dim {
        return Err(WeightsError::Unsupported(format!(
            "a Hugging Face SamModel needs a decoder whose dimension {} is a multiple of its inner attention dimension {}",
            decoder.transformer_dim, decoder.cross_dim
        )));
    }
    if decoder.iou_head_depth != 3 {
        return Err(WeightsError::Unsupported(format!(
            "the Hugging Face key table has names for an IoU head of 3 layers, this one has {}; export to safetensors or \
             pth",
            decoder.iou_head_depth
        )));
    }
    if encoder.embed_dim % encoder.num_heads != 0 {
        return Err(WeightsError::Unsupported("the number of heads must divide the dimension".into()));
    }
    Ok(())
}

/// `config.json` of a `SamModel`.
///
/// # Panics
/// When [`check_representable`] refuses the sizes.
pub(super) fn config_json(config: &SamConfig, dtype: &str) -> Value {
    let (prompts, decoder) = (&config.prompt_encoder, &config.mask_decoder);
    let encoder = config.image_encoder.vit().expect("a SamModel has a plain ViT");
    json!({
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": dtype,
        "initializer_range": 0.02,
        "vision_config": {
            "model_type": "sam_vision_model",
            "hidden_size": encoder.embed_dim,
            "output_channels": encoder.out_chans,
            "num_hidden_layers": encoder.depth,
            "num_attention_heads": encoder.num_heads,
            "num_channels": 3,
            "image_size": encoder.image_size,
            "patch_size": encoder.patch_size,
            "hidden_act": "gelu",
            "layer_norm_eps": ENCODER_LAYER_NORM_EPS,
            "attention_dropout": 0.0,
            "initializer_range": 1e-10,
            "qkv_bias": true,
            "mlp_ratio": encoder.mlp_dim as f64 / encoder.embed_dim as f64,
            "mlp_dim": encoder.mlp_dim,
            "use_abs_pos": true,
            "use_rel_pos": true,
            "window_size": encoder.window_size,
            "global_attn_indexes": encoder.global_attn_indexes,
            "num_pos_feats": prompts.embed_dim / 2
        },
        "prompt_encoder_config": {
            "model_type": "sam_prompt_encoder",
            "hidden_size": prompts.embed_dim,
            "image_size": encoder.image_size,
            "patch_size": encoder.patch_size,
            "image_embedding_size": encoder.grid_size(),
            "mask_input_channels": prompts.mask_in_chans,
            "num_point_embeddings": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": LAYER_NORM_2D_EPS
        },
        "mask_decoder_config": {
            "model_type": "sam_mask_decoder",
            "hidden_size": decoder.transformer_dim,
            "hidden_act": "relu",
            "mlp_dim": decoder.mlp_dim,
            "num_hidden_layers": decoder.depth,
            "num_attention_heads": decoder.num_heads,
            "attention_downsample_rate": decoder.transformer_dim / decoder.cross_dim,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "iou_head_depth": decoder.iou_head_depth,
            "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
            "layer_norm_eps": DECODER_LAYER_NORM_EPS
        }
    })
}

/// `preprocessor_config.json` of a `SamProcessor`.
pub(super) fn preprocessor_json(config: &SamConfig) -> Value {
    let (image, mask) = (config.image_encoder.image_size(), config.low_res_side());
    let unit = |values: [f32; 3]| values.map(|value| (f64::from(value) / 255.0 * 1e6).round() / 1e6);
    json!({
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": {"longest_edge": image},
        "mask_size": {"longest_edge": mask},
        "resample": 2,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": unit(PIXEL_MEAN),
        "image_std": unit(PIXEL_STD),
        "do_pad": true,
        "pad_size": {"height": image, "width": image},
        "mask_pad_size": {"height": mask, "width": mask}
    })
}
