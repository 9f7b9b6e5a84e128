//! The sizes of a CLIP from its tensors; what these do not determine, from the JSON files that Hugging Face and open_clip
//! write beside them, or as all published models of OpenAI's have it, which is then said.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::config::{
    CLIP_LAYER_NORM_EPS, ClipConfig, ImageTowerConfig, OPENAI_MEAN, OPENAI_STD, TextTowerConfig, activation_name,
};
use super::keys::ClipLayout;
use crate::ops::mlp::Activation;
use crate::weights::{Shapes, TensorInfo, Unrecognised, WeightsError, json_beside};

/// Channels of a head in every published CLIP.
const HEAD_DIM: usize = 64;

/// What tensors do not determine of a tower.
#[derive(Clone, Copy, Debug, Default)]
struct TowerHints {
    heads: Option<usize>,
    activation: Option<Activation>,
    norm_eps: Option<f64>,
}

/// What the files beside the weights say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClipHints {
    text: TowerHints,
    image: TowerHints,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    /// The token whose row is a text's vector.
    pub(super) end_token: Option<u32>,
}

impl ClipHints {
    /// Reads the files beside the weights.
    ///
    /// # Errors
    /// When a file is damaged, or asks for something that this implementation does not compute.
    pub(super) fn beside(weights: &Path, layout: ClipLayout) -> Result<Self, WeightsError> {
        let mut hints = Self::default();
        let unsupported = |name: &str, problem: String| {
            WeightsError::Unsupported(format!("{}: {problem}", weights.with_file_name(name).display()))
        };
        match layout {
            ClipLayout::HuggingFace => {
                if let Some(config) = json_beside(weights, "config.json")? {
                    hints.read_hugging_face(&config).map_err(|problem| unsupported("config.json", problem))?;
                }
                let name = "preprocessor_config.json";
                if let Some(config) = json_beside(weights, name)? {
                    hints.read_preprocessor(&config).map_err(|problem| unsupported(name, problem))?;
                }
            }
            ClipLayout::OpenAi => {
                let name = "open_clip_config.json";
                if let Some(config) = json_beside(weights, name)? {
                    hints.read_open_clip(&config).map_err(|problem| unsupported(name, problem))?;
                }
            }
        }
        Ok(hints)
    }

    /// `config.json` of a `CLIPModel`. Fields that it lacks have their default in `transformers.CLIPConfig`.
    fn read_hugging_face(&mut self, config: &Value) -> Result<(), String> {
        for (tower, name) in [(&mut self.text, "text_config"), (&mut self.image, "vision_config")] {
            // Older files have the fields in a second object, which then counts.
            let older = &config[format!("{name}_dict")];
            let field = |key: &str| if older[key].is_null() { config[name][key].clone() } else { older[key].clone() };
            tower.heads = whole(&field("num_attention_heads"));
            tower.norm_eps = Some(field("layer_norm_eps").as_f64().unwrap_or(CLIP_LAYER_NORM_EPS));
            tower.activation = Some(match field("hidden_act").as_str() {
                None | Some("quick_gelu") => Activation::QuickGelu,
                Some("gelu") => Activation::Gelu,
                Some(other) => {
                    return Err(format!("{name}.hidden_act must be `quick_gelu` or `gelu`, got `{other}`"));
                }
            });
        }
        // The value 2 is a mistake of older files, which the reference ignores too.
        let end = whole(&config["text_config"]["eos_token_id"]).filter(|&end| end != 2);
        self.end_token = end.and_then(|end| u32::try_from(end).ok());
        Ok(())
    }

    /// `preprocessor_config.json`.
    fn read_preprocessor(&mut self, config: &Value) -> Result<(), String> {
        self.mean = triple(&config["image_mean"]);
        self.std = triple(&config["image_std"]);
        // `PIL.Image.BICUBIC`.
        match whole(&config["resample"]) {
            None | Some(3) => Ok(()),
            Some(other) => Err(format!("resample must be 3 (bicubic), got {other}")),
        }
    }

    /// `open_clip_config.json`. Fields that it lacks have their default in `open_clip.model.CLIPVisionCfg` and `CLIPTextCfg`.
    fn read_open_clip(&mut self, config: &Value) -> Result<(), String> {
        let model = &config["model_cfg"];
        for (place, expected) in [
            ("/model_cfg/vision_cfg/pool_type", "tok"),
            ("/model_cfg/text_cfg/pool_type", "argmax"),
            ("/preprocess_cfg/interpolation", "bicubic"),
            ("/preprocess_cfg/resize_mode", "shortest"),
        ] {
            match config.pointer(place).and_then(Value::as_str) {
                Some(got) if got != expected => {
                    return Err(format!("{} must be `{expected}`, got `{got}`", place[1..].replace('/', ".")));
                }
                _ => {}
            }
        }
        for (tower, field) in [("vision_cfg", "act_kwargs"), ("text_cfg", "act_kwargs")].into_iter().chain([
            ("vision_cfg", "norm_kwargs"),
            ("text_cfg", "norm_kwargs"),
            ("text_cfg", "no_causal_mask"),
        ]) {
            let value = &model[tower][field];
            if !value.is_null() && *value != Value::Bool(false) {
                return Err(format!("model_cfg.{tower}.{field} is not supported"));
            }
        }
        let is_quick = model["quick_gelu"].as_bool().unwrap_or(false);
        let activation = Some(if is_quick { Activation::QuickGelu } else { Activation::Gelu });
        let norm_eps = Some(CLIP_LAYER_NORM_EPS);
        self.text = TowerHints { heads: whole(&model["text_cfg"]["heads"]), activation, norm_eps };
        let (width, head) = (whole(&model["vision_cfg"]["width"]), whole(&model["vision_cfg"]["head_width"]));
        let heads = width.zip(head).map(|(width, head)| width / head.max(1));
        self.image = TowerHints { heads, activation, norm_eps };
        self.mean = triple(&config["preprocess_cfg"]["mean"]);
        self.std = triple(&config["preprocess_cfg"]["std"]);
        Ok(())
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

fn triple(value: &Value) -> Option<[f32; 3]> {
    let values: Option<Vec<f32>> = value.as_array()?.iter().map(|value| Some(value.as_f64()? as f32)).collect();
    values?.try_into().ok()
}

/// The sizes of a CLIP with tensors of these shapes, under OpenAI's keys, and the assumptions made, a sentence each.
pub(super) fn recognise(
    tensors: &BTreeMap<String, TensorInfo>,
    hints: &ClipHints,
) -> Result<(ClipConfig, Vec<String>), Unrecognised> {
    let tensors = Shapes { tensors };
    let mut assumed = Vec::new();
    let [vocabulary, dim] = tensors.shape::<2>("token_embedding.weight")?;
    let [context, _] = tensors.shape::<2>("positional_embedding")?;
    let mut tower = |name: &str, dim: usize, hints: TowerHints| TowerHints {
        heads: hints.heads.or_else(|| {
            let heads = (dim / HEAD_DIM).max(1);
            assumed
                .push(format!("{heads} attention heads in the {name} tower: as OpenAI's models of width {dim} have"));
            Some(heads)
        }),
        activation: hints.activation.or_else(|| {
            let name = format!("{} in the {name} tower", activation_name(Activation::QuickGelu));
            assumed
                .push(format!("{name}: as OpenAI's models have; others may have GELU, which the tensors do not tell"));
            Some(Activation::QuickGelu)
        }),
        norm_eps: hints.norm_eps,
    };
    let text_hints = tower("text", dim, hints.text);
    let text = TextTowerConfig {
        vocabulary,
        context,
        dim,
        depth: tensors.count("transformer.resblocks.")?,
        num_heads: text_hints.heads.unwrap_or(1),
        mlp_dim: tensors.axis("transformer.resblocks.0.mlp.c_fc.weight", 0)?,
        activation: text_hints.activation.unwrap_or(Activation::QuickGelu),
        norm_eps: text_hints.norm_eps.unwrap_or(CLIP_LAYER_NORM_EPS),
    };
    let [dim, _, _, patch_px] = tensors.shape::<4>("visual.conv1.weight")?;
    let positions_key = "visual.positional_embedding";
    let [positions, _] = tensors.shape::<2>(positions_key)?;
    let grid = positions.saturating_sub(1).isqrt();
    if grid == 0 || positions != 1 + grid * grid {
        let problem = format!("must be a class token's and those of a square of patches, got {positions} positions");
        return Err(Unrecognised::Odd(positions_key.into(), problem));
    }
    let image_hints = tower("image", dim, hints.image);
    let image = ImageTowerConfig {
        side_px: grid.saturating_mul(patch_px),
        patch_px,
        dim,
        depth: tensors.count("visual.transformer.resblocks.")?,
        num_heads: image_hints.heads.unwrap_or(1),
        mlp_dim: tensors.axis("visual.transformer.resblocks.0.mlp.c_fc.weight", 0)?,
        activation: image_hints.activation.unwrap_or(Activation::QuickGelu),
        norm_eps: image_hints.norm_eps.unwrap_or(CLIP_LAYER_NORM_EPS),
        mean: hints.mean.unwrap_or(OPENAI_MEAN),
        std: hints.std.unwrap_or(OPENAI_STD),
    };
    Ok((ClipConfig { width: tensors.axis("text_projection", 1)?, text, image }, assumed))
}
