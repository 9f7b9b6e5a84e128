//! The two published naming schemes of a CLIP's tensors, against OpenAI's names, which the towers have.

use std::collections::BTreeMap;

use crate::weights::{Layout, Row, TensorInfo, UnknownKeys, of_another, rewrite, transpose};

/// A naming scheme of CLIP's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipLayout {
    /// `openai/CLIP` and `open_clip`.
    OpenAi,
    /// `transformers.CLIPModel`.
    HuggingFace,
}

/// OpenAI's key to the key of `transformers.CLIPModel`; `qkv_proj` stands for its three parts.
const OPENAI_TO_HUGGING_FACE: &[Row] = &[
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("transformer.resblocks.*.ln_1.**", "text_model.encoder.layers.*.layer_norm1.**"),
    ("transformer.resblocks.*.attn.in_proj_weight", "text_model.encoder.layers.*.self_attn.qkv_proj.weight"),
    ("transformer.resblocks.*.attn.in_proj_bias", "text_model.encoder.layers.*.self_attn.qkv_proj.bias"),
    ("transformer.resblocks.*.attn.out_proj.**", "text_model.encoder.layers.*.self_attn.out_proj.**"),
    ("transformer.resblocks.*.ln_2.**", "text_model.encoder.layers.*.layer_norm2.**"),
    ("transformer.resblocks.*.mlp.c_fc.**", "text_model.encoder.layers.*.mlp.fc1.**"),
    ("transformer.resblocks.*.mlp.c_proj.**", "text_model.encoder.layers.*.mlp.fc2.**"),
    ("ln_final.**", "text_model.final_layer_norm.**"),
    ("text_projection", "text_projection.weight"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    // So misspelt in the reference.
    ("visual.ln_pre.**", "vision_model.pre_layrnorm.**"),
    ("visual.transformer.resblocks.*.ln_1.**", "vision_model.encoder.layers.*.layer_norm1.**"),
    ("visual.transformer.resblocks.*.attn.in_proj_weight", "vision_model.encoder.layers.*.self_attn.qkv_proj.weight"),
    ("visual.transformer.resblocks.*.attn.in_proj_bias", "vision_model.encoder.layers.*.self_attn.qkv_proj.bias"),
    ("visual.transformer.resblocks.*.attn.out_proj.**", "vision_model.encoder.layers.*.self_attn.out_proj.**"),
    ("visual.transformer.resblocks.*.ln_2.**", "vision_model.encoder.layers.*.layer_norm2.**"),
    ("visual.transformer.resblocks.*.mlp.c_fc.**", "vision_model.encoder.layers.*.mlp.fc1.**"),
    ("visual.transformer.resblocks.*.mlp.c_proj.**", "vision_model.encoder.layers.*.mlp.fc2.**"),
    ("visual.ln_post.**", "vision_model.post_layernorm.**"),
    ("visual.proj", "visual_projection.weight"),
];

/// Tensors that files hold and no vector depends on, with the reasons they are dropped.
const DROPPED: [(&str, &str); 6] = [
    ("logit_scale", "the temperature of CLIP's training, which no vector depends on"),
    ("text_model.embeddings.position_ids", "counts the positions"),
    ("vision_model.embeddings.position_ids", "counts the positions"),
    ("input_resolution", "a size, which the tensors have too"),
    ("context_length", "a size, which the tensors have too"),
    ("vocab_size", "a size, which the tensors have too"),
];

/// Keys that only other models have, with what they are.
const FOREIGN: [(&str, &str); 7] = [
    ("logit_bias", "a SigLIP checkpoint"),
    ("visual.layer1.**", "a CLIP whose image tower is a ResNet"),
    ("visual.trunk.**", "a CLIP whose image tower is a model of timm"),
    ("text.transformer.**", "an open_clip model with a text tower of its own"),
    ("text_decoder.**", "a CoCa checkpoint"),
    ("text_model.head.**", "a SigLIP checkpoint"),
    ("vision_model.head.**", "a SigLIP checkpoint"),
];

impl ClipLayout {
    /// The layout's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            ClipLayout::OpenAi => "OpenAI (openai/CLIP, open_clip)",
            ClipLayout::HuggingFace => "Hugging Face (transformers.CLIPModel)",
        }
    }

    /// The layout of a file's keys.
    pub(super) fn recognise(tensors: &BTreeMap<String, TensorInfo>) -> Result<Self, UnknownKeys> {
        let has = |pattern: &str| tensors.keys().any(|key| rewrite(pattern, "**", key).is_some());
        let another = |what: String| Err(UnknownKeys::OfAnother(what));
        if let Some(what) = of_another(&FOREIGN, tensors) {
            return another(format!("{what}, which is not supported; take a CLIP of OpenAI's kind, as ViT-L/14@336px"));
        }
        let alone = |tower: &str, other: &str| {
            another(format!("a CLIP's {tower} tower alone; take the whole CLIP (`CLIPModel`), with its {other} tower"))
        };
        match [has("text_model.**"), has("vision_model.**"), has("visual.**"), has("transformer.resblocks.**")] {
            [true, true, ..] => Ok(Self::HuggingFace),
            [_, _, true, true] => Ok(Self::OpenAi),
            [true, ..] | [_, _, _, true] => alone("text", "image"),
            [_, true, ..] | [_, _, true, _] => alone("image", "text"),
            _ => match Layout::recognise(tensors) {
                Ok(Layout::Mae) => another("a masked autoencoder, not a CLIP".into()),
                Ok(_) => another("a segmenter (SAM), not a CLIP".into()),
                Err(_) => {
                    let expected = "the keys of openai/CLIP and open_clip, or of transformers.CLIPModel";
                    Err(UnknownKeys::unknown(tensors, expected))
                }
            },
        }
    }

    /// OpenAI's key of a file's tensor; `None` for parts of one and for tensors that the towers do not have.
    pub(super) fn to_openai(self, key: &str) -> Option<String> {
        match self {
            ClipLayout::OpenAi => Some(key.to_owned()),
            ClipLayout::HuggingFace => {
                OPENAI_TO_HUGGING_FACE.iter().find_map(|(openai, theirs)| rewrite(theirs, openai, key))
            }
        }
    }

    /// Where a tensor of OpenAI's key and shape is in a file.
    ///
    /// # Panics
    /// When the layout has no such tensor.
    pub(super) fn stored(self, openai: &str, shape: &[usize]) -> Stored {
        if self == ClipLayout::OpenAi {
            return Stored { keys: vec![openai.to_owned()], shape: shape.to_vec(), is_transposed: false };
        }
        let theirs = OPENAI_TO_HUGGING_FACE.iter().find_map(|(from, to)| rewrite(from, to, openai));
        let key = theirs.unwrap_or_else(|| unreachable!("the table has every tensor of the towers, `{openai}` not"));
        let mut shape = shape.to_vec();
        if key.contains(".qkv_proj.") {
            shape[0] /= 3;
            let keys = ["q_proj", "k_proj", "v_proj"].map(|part| key.replace("qkv_proj", part));
            return Stored { keys: keys.to_vec(), shape, is_transposed: false };
        }
        let is_transposed = is_projection(openai);
        if is_transposed {
            shape.reverse();
        }
        Stored { keys: vec![key], shape, is_transposed }
    }

    /// A tensor's shape in OpenAI's layout.
    pub(super) fn openai_shape(self, openai: &str, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if self == ClipLayout::HuggingFace && is_projection(openai) {
            shape.reverse();
        }
        shape
    }

    /// Why a tensor that the towers do not have may be ignored; `None` when it may not.
    pub(super) fn drop_reason(key: &str) -> Option<&'static str> {
        DROPPED.iter().find(|(dropped, _)| *dropped == key).map(|(_, reason)| *reason)
    }
}

/// The matrices from tokens to vectors, which OpenAI stores as `[in, out]` and Hugging Face as `[out, in]`.
fn is_projection(openai: &str) -> bool {
    openai == "text_projection" || openai == "visual.proj"
}

/// A tensor of the towers in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its parts, whose rows follow each other.
    pub(super) keys: Vec<String>,
    /// Shape of each part.
    pub(super) shape: Vec<usize>,
    is_transposed: bool,
}

impl Stored {
    /// OpenAI's values from those of the parts.
    pub(super) fn joined(&self, parts: Vec<Vec<f32>>) -> Vec<f32> {
        let values = parts.concat();
        if self.is_transposed { transpose(&values, self.shape[0], self.shape[1]) } else { values }
    }
}
