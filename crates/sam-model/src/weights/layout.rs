//! One key table per published layout, all against the official keys.
//!
//! A row pairs two patterns. `*` stands for one part between dots, a final `**` for the rest of the key. Rows are tried in
//! order. The tables hold no shapes: those come from the model.

use std::collections::BTreeMap;

use super::state_dict::TensorInfo;

/// A published naming scheme of a segmenter's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `segment_anything`'s state dict: ours, candle's, and of programs built on them.
    Official,
    /// `transformers.SamModel`.
    HuggingFace,
    /// A masked autoencoder: an encoder for initialisation, not a segmenter.
    Mae,
    /// A TinyViT that classifies, in the names of its authors (`wkcn/TinyViT`): an encoder for initialisation.
    TinyVit,
    /// The same in timm's names.
    TimmTinyVit,
}

pub(crate) type Row = (&'static str, &'static str);

/// Module path to official key, where the reference has indices instead of names.
pub(crate) const MODULE_TO_OFFICIAL: &[Row] = &[
    ("image_encoder.neck.conv1.**", "image_encoder.neck.0.**"),
    ("image_encoder.neck.norm1.**", "image_encoder.neck.1.**"),
    ("image_encoder.neck.conv2.**", "image_encoder.neck.2.**"),
    ("image_encoder.neck.norm2.**", "image_encoder.neck.3.**"),
    // TinyViT: activations have a place in its stem, and its first layer is of another kind than the others.
    ("image_encoder.patch_embed.seq.1.**", "image_encoder.patch_embed.seq.2.**"),
    ("image_encoder.conv_layer.**", "image_encoder.layers.0.**"),
    ("image_encoder.window_layers.0.**", "image_encoder.layers.1.**"),
    ("image_encoder.window_layers.1.**", "image_encoder.layers.2.**"),
    ("image_encoder.window_layers.2.**", "image_encoder.layers.3.**"),
    ("prompt_encoder.mask_downscaling.conv1.**", "prompt_encoder.mask_downscaling.0.**"),
    ("prompt_encoder.mask_downscaling.norm1.**", "prompt_encoder.mask_downscaling.1.**"),
    ("prompt_encoder.mask_downscaling.conv2.**", "prompt_encoder.mask_downscaling.3.**"),
    ("prompt_encoder.mask_downscaling.norm2.**", "prompt_encoder.mask_downscaling.4.**"),
    ("prompt_encoder.mask_downscaling.conv3.**", "prompt_encoder.mask_downscaling.6.**"),
    ("mask_decoder.output_upscaling.conv1.**", "mask_decoder.output_upscaling.0.**"),
    ("mask_decoder.output_upscaling.norm1.**", "mask_decoder.output_upscaling.1.**"),
    ("mask_decoder.output_upscaling.conv2.**", "mask_decoder.output_upscaling.3.**"),
    // Our own masked autoencoder has timm's names.
    ("blocks.*.mlp.lin1.**", "blocks.*.mlp.fc1.**"),
    ("blocks.*.mlp.lin2.**", "blocks.*.mlp.fc2.**"),
    ("decoder_blocks.*.mlp.lin1.**", "decoder_blocks.*.mlp.fc1.**"),
    ("decoder_blocks.*.mlp.lin2.**", "decoder_blocks.*.mlp.fc2.**"),
    // Both towers of CLIP, in OpenAI's names.
    ("text.transformer.resblocks.*.norm1.**", "transformer.resblocks.*.ln_1.**"),
    ("text.transformer.resblocks.*.attn.qkv.weight", "transformer.resblocks.*.attn.in_proj_weight"),
    ("text.transformer.resblocks.*.attn.qkv.bias", "transformer.resblocks.*.attn.in_proj_bias"),
    ("text.transformer.resblocks.*.attn.proj.**", "transformer.resblocks.*.attn.out_proj.**"),
    ("text.transformer.resblocks.*.norm2.**", "transformer.resblocks.*.ln_2.**"),
    ("text.transformer.resblocks.*.mlp.lin1.**", "transformer.resblocks.*.mlp.c_fc.**"),
    ("text.transformer.resblocks.*.mlp.lin2.**", "transformer.resblocks.*.mlp.c_proj.**"),
    ("text.token_embedding", "token_embedding.weight"),
    ("text.**", "**"),
    ("visual.transformer.resblocks.*.norm1.**", "visual.transformer.resblocks.*.ln_1.**"),
    ("visual.transformer.resblocks.*.attn.qkv.weight", "visual.transformer.resblocks.*.attn.in_proj_weight"),
    ("visual.transformer.resblocks.*.attn.qkv.bias", "visual.transformer.resblocks.*.attn.in_proj_bias"),
    ("visual.transformer.resblocks.*.attn.proj.**", "visual.transformer.resblocks.*.attn.out_proj.**"),
    ("visual.transformer.resblocks.*.norm2.**", "visual.transformer.resblocks.*.ln_2.**"),
    ("visual.transformer.resblocks.*.mlp.lin1.**", "visual.transformer.resblocks.*.mlp.c_fc.**"),
    ("visual.transformer.resblocks.*.mlp.lin2.**", "visual.transformer.resblocks.*.mlp.c_proj.**"),
    ("**", "**"),
];

/// Official key to the key of `transformers.SamModel`.
const OFFICIAL_TO_HUGGING_FACE: &[Row] = &[
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    ("image_encoder.patch_embed.proj.**", "vision_encoder.patch_embed.projection.**"),
    ("image_encoder.blocks.*.norm1.**", "vision_encoder.layers.*.layer_norm1.**"),
    ("image_encoder.blocks.*.norm2.**", "vision_encoder.layers.*.layer_norm2.**"),
    ("image_encoder.blocks.*.attn.**", "vision_encoder.layers.*.attn.**"),
    ("image_encoder.blocks.*.mlp.**", "vision_encoder.layers.*.mlp.**"),
    ("image_encoder.neck.0.**", "vision_encoder.neck.conv1.**"),
    ("image_encoder.neck.1.**", "vision_encoder.neck.layer_norm1.**"),
    ("image_encoder.neck.2.**", "vision_encoder.neck.conv2.**"),
    ("image_encoder.neck.3.**", "vision_encoder.neck.layer_norm2.**"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.**", "prompt_encoder.point_embed.**"),
    ("prompt_encoder.not_a_point_embed.**", "prompt_encoder.not_a_point_embed.**"),
    ("prompt_encoder.no_mask_embed.**", "prompt_encoder.no_mask_embed.**"),
    ("prompt_encoder.mask_downscaling.0.**", "prompt_encoder.mask_embed.conv1.**"),
    ("prompt_encoder.mask_downscaling.1.**", "prompt_encoder.mask_embed.layer_norm1.**"),
    ("prompt_encoder.mask_downscaling.3.**", "prompt_encoder.mask_embed.conv2.**"),
    ("prompt_encoder.mask_downscaling.4.**", "prompt_encoder.mask_embed.layer_norm2.**"),
    ("prompt_encoder.mask_downscaling.6.**", "prompt_encoder.mask_embed.conv3.**"),
    ("mask_decoder.transformer.layers.*.norm1.**", "mask_decoder.transformer.layers.*.layer_norm1.**"),
    ("mask_decoder.transformer.layers.*.norm2.**", "mask_decoder.transformer.layers.*.layer_norm2.**"),
    ("mask_decoder.transformer.layers.*.norm3.**", "mask_decoder.transformer.layers.*.layer_norm3.**"),
    ("mask_decoder.transformer.layers.*.norm4.**", "mask_decoder.transformer.layers.*.layer_norm4.**"),
    ("mask_decoder.transformer.norm_final_attn.**", "mask_decoder.transformer.layer_norm_final_attn.**"),
    ("mask_decoder.transformer.**", "mask_decoder.transformer.**"),
    ("mask_decoder.iou_token.**", "mask_decoder.iou_token.**"),
    ("mask_decoder.mask_tokens.**", "mask_decoder.mask_tokens.**"),
    ("mask_decoder.output_upscaling.0.**", "mask_decoder.upscale_conv1.**"),
    ("mask_decoder.output_upscaling.1.**", "mask_decoder.upscale_layer_norm.**"),
    ("mask_decoder.output_upscaling.3.**", "mask_decoder.upscale_conv2.**"),
    ("mask_decoder.output_hypernetworks_mlps.*.layers.0.**", "mask_decoder.output_hypernetworks_mlps.*.proj_in.**"),
    ("mask_decoder.output_hypernetworks_mlps.*.layers.1.**", "mask_decoder.output_hypernetworks_mlps.*.layers.0.**"),
    ("mask_decoder.output_hypernetworks_mlps.*.layers.2.**", "mask_decoder.output_hypernetworks_mlps.*.proj_out.**"),
    ("mask_decoder.iou_prediction_head.layers.0.**", "mask_decoder.iou_prediction_head.proj_in.**"),
    ("mask_decoder.iou_prediction_head.layers.1.**", "mask_decoder.iou_prediction_head.layers.0.**"),
    ("mask_decoder.iou_prediction_head.layers.2.**", "mask_decoder.iou_prediction_head.proj_out.**"),
];

/// Official key to the key of a masked autoencoder (timm's names); tensors without a row are not in such a file.
const OFFICIAL_TO_MAE: &[Row] = &[
    ("image_encoder.pos_embed", "pos_embed"),
    ("image_encoder.patch_embed.**", "patch_embed.**"),
    ("image_encoder.blocks.*.norm1.**", "blocks.*.norm1.**"),
    ("image_encoder.blocks.*.norm2.**", "blocks.*.norm2.**"),
    ("image_encoder.blocks.*.attn.qkv.**", "blocks.*.attn.qkv.**"),
    ("image_encoder.blocks.*.attn.proj.**", "blocks.*.attn.proj.**"),
    ("image_encoder.blocks.*.mlp.lin1.**", "blocks.*.mlp.fc1.**"),
    ("image_encoder.blocks.*.mlp.lin2.**", "blocks.*.mlp.fc2.**"),
];

/// Official key to the key of a TinyViT that classifies.
const OFFICIAL_TO_TINY_VIT: &[Row] =
    &[("image_encoder.patch_embed.**", "patch_embed.**"), ("image_encoder.layers.**", "layers.**")];

/// The same in timm's names; what shrinks a map is at the start of a stage there, at the end of a layer here.
const OFFICIAL_TO_TIMM_TINY_VIT: &[Row] = &[
    ("image_encoder.patch_embed.seq.0.c.**", "patch_embed.conv1.conv.**"),
    ("image_encoder.patch_embed.seq.0.bn.**", "patch_embed.conv1.bn.**"),
    ("image_encoder.patch_embed.seq.2.c.**", "patch_embed.conv2.conv.**"),
    ("image_encoder.patch_embed.seq.2.bn.**", "patch_embed.conv2.bn.**"),
    ("image_encoder.layers.0.downsample.*.c.**", "stages.1.downsample.*.conv.**"),
    ("image_encoder.layers.0.downsample.*.bn.**", "stages.1.downsample.*.bn.**"),
    ("image_encoder.layers.1.downsample.*.c.**", "stages.2.downsample.*.conv.**"),
    ("image_encoder.layers.1.downsample.*.bn.**", "stages.2.downsample.*.bn.**"),
    ("image_encoder.layers.2.downsample.*.c.**", "stages.3.downsample.*.conv.**"),
    ("image_encoder.layers.2.downsample.*.bn.**", "stages.3.downsample.*.bn.**"),
    ("image_encoder.layers.*.blocks.*.attn.**", "stages.*.blocks.*.attn.**"),
    ("image_encoder.layers.*.blocks.*.mlp.**", "stages.*.blocks.*.mlp.**"),
    ("image_encoder.layers.*.blocks.*.*.c.**", "stages.*.blocks.*.*.conv.**"),
    ("image_encoder.layers.*.blocks.*.*.bn.**", "stages.*.blocks.*.*.bn.**"),
];

const SAME: &[Row] = &[("**", "**")];

/// The end of the keys of batch norms' counters of batches.
pub(super) const BATCH_COUNTER: &str = ".num_batches_tracked";

/// The classifier of a TinyViT in a checkpoint of MobileSAM.
pub(super) const TINY_VIT_CLASSIFIER: [&str; 2] = ["image_encoder.norm_head.", "image_encoder.head."];

/// Tensors that files of a layout may hold and that no model needs, each with the reason it is dropped.
const DROPPED: &[(&str, &str)] = &[
    ("pixel_mean", "constant of the preprocessing"),
    ("pixel_std", "constant of the preprocessing"),
    ("prompt_encoder.shared_embedding.positional_embedding", "a second copy of the position frequencies"),
];

const CLIP: &str = "a CLIP, which embeds texts and images and makes no masks; it is named beside a segmenter";

/// Keys that only files of other models have, with descriptions of these.
const FOREIGN: &[(&str, &str)] = &[
    ("image_encoder.trunk.**", "a SAM 2 checkpoint, which is not supported"),
    ("detector.**", "a SAM 3 checkpoint, which is not supported"),
    ("mask_decoder.hf_token.**", "an HQ-SAM checkpoint, which is not supported"),
    ("visual.**", CLIP),
    ("text_model.**", CLIP),
    ("vision_model.**", CLIP),
];

impl Layout {
    /// The layout's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Official => "official (segment_anything)",
            Layout::HuggingFace => "Hugging Face (transformers.SamModel)",
            Layout::Mae => "masked autoencoder",
            Layout::TinyVit => "TinyViT",
            Layout::TimmTinyVit => "TinyViT (timm)",
        }
    }

    fn table(self) -> &'static [Row] {
        match self {
            Layout::Official => SAME,
            Layout::HuggingFace => OFFICIAL_TO_HUGGING_FACE,
            Layout::Mae => OFFICIAL_TO_MAE,
            Layout::TinyVit => OFFICIAL_TO_TINY_VIT,
            Layout::TimmTinyVit => OFFICIAL_TO_TIMM_TINY_VIT,
        }
    }

    /// Whether a file of it holds a whole segmenter, not only an encoder to start one from.
    pub fn is_segmenter(self) -> bool {
        match self {
            Layout::Official | Layout::HuggingFace => true,
            Layout::Mae | Layout::TinyVit | Layout::TimmTinyVit => false,
        }
    }

    /// The layout's key of a tensor; `None` when the layout has no such tensor.
    pub fn key_from_official(self, official: &str) -> Option<String> {
        translate(self.table(), official)
    }

    /// The official key of a layout's tensor; `None` when the model has no such tensor.
    pub fn key_to_official(self, key: &str) -> Option<String> {
        self.table().iter().find_map(|(official, theirs)| rewrite(theirs, official, key))
    }

    /// The layout of a file's keys.
    pub(crate) fn recognise(tensors: &BTreeMap<String, TensorInfo>) -> Result<Layout, UnknownKeys> {
        if let Some(what) = of_another(FOREIGN, tensors) {
            return Err(UnknownKeys::OfAnother(what.into()));
        }
        let has = |key: &str| tensors.contains_key(key);
        let starts = |prefix: &str| tensors.keys().any(|key| key.starts_with(prefix));
        if starts("image_encoder.") || (starts("mask_decoder.") && starts("prompt_encoder.point_embeddings.")) {
            Ok(Layout::Official)
        } else if starts("vision_encoder.") {
            Ok(Layout::HuggingFace)
        } else if has("pos_embed") && has("patch_embed.proj.weight") && starts("blocks.") {
            Ok(Layout::Mae)
        } else if has("patch_embed.seq.0.c.weight") && starts("layers.") {
            Ok(Layout::TinyVit)
        } else if has("patch_embed.conv1.conv.weight") && starts("stages.") {
            Ok(Layout::TimmTinyVit)
        } else {
            let expected =
                "the keys of segment_anything, of transformers.SamModel, of a masked autoencoder or of a TinyViT";
            Err(UnknownKeys::unknown(tensors, expected))
        }
    }
}

/// Why names of tensors are of no layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnknownKeys {
    /// They are those of another model: what it is.
    OfAnother(String),
    /// Nobody's that is known: a description of the file.
    Unknown(String),
}

impl UnknownKeys {
    /// Describes a file by its first tensors.
    pub(crate) fn unknown(tensors: &BTreeMap<String, TensorInfo>, expected: &str) -> Self {
        let some: Vec<_> = tensors.keys().take(4).map(|key| format!("`{key}`")).collect();
        let more = if tensors.len() > some.len() { ", .." } else { "" };
        let n = tensors.len();
        Self::Unknown(format!("holds {n} tensors ({}{more}) of no known layout; expected {expected}", some.join(", ")))
    }
}

/// The model of a table of key patterns that these tensors are of.
pub(crate) fn of_another(
    table: &[(&str, &'static str)],
    tensors: &BTreeMap<String, TensorInfo>,
) -> Option<&'static str> {
    let has = |pattern: &str| tensors.keys().any(|key| rewrite(pattern, "**", key).is_some());
    table.iter().find(|(pattern, _)| has(pattern)).map(|(_, what)| *what)
}

/// Why a tensor that the model does not have may be ignored; `None` when it may not.
pub(super) fn drop_reason(layout: Layout, key: &str) -> Option<&'static str> {
    if key.ends_with(BATCH_COUNTER) {
        return Some("a counter of batches, which nothing depends on");
    }
    if matches!(layout, Layout::TinyVit | Layout::TimmTinyVit) {
        let is_classifier = key.starts_with("head.") || key.starts_with("norm_head.");
        return is_classifier.then_some("a classifier");
    }
    if layout == Layout::Official && TINY_VIT_CLASSIFIER.iter().any(|part| key.starts_with(part)) {
        return Some("the classifier of a TinyViT, which MobileSAM does not use");
    }
    if layout == Layout::Mae {
        return Some(match key {
            "cls_token" => "SAM has no class token",
            _ if key.starts_with("norm.") || key.starts_with("fc_norm.") => "SAM has a neck instead of a last norm",
            _ if key.starts_with("decoder") || key == "mask_token" => "the autoencoder's decoder",
            _ if key.starts_with("head.") => "a classifier",
            _ => return None,
        });
    }
    DROPPED.iter().find(|(dropped, _)| *dropped == key).map(|(_, reason)| *reason)
}

/// Rewrites a key by the first row whose left pattern matches, to its right pattern.
pub(crate) fn translate(table: &[Row], key: &str) -> Option<String> {
    table.iter().find_map(|(from, to)| rewrite(from, to, key))
}

pub(crate) fn rewrite(from: &str, to: &str, key: &str) -> Option<String> {
    let mut captured = Vec::new();
    let mut rest = key;
    let mut pattern = from.split('.').peekable();
    while let Some(part) = pattern.next() {
        if part == "**" {
            captured.push(rest);
            rest = "";
            break;
        }
        let (head, tail) = rest.split_once('.').unwrap_or((rest, ""));
        let ends_together = pattern.peek().is_some() || tail.is_empty();
        if head.is_empty() || (part != "*" && part != head) || !ends_together {
            return None;
        }
        if part == "*" {
            captured.push(head);
        }
        rest = tail;
    }
    let is_whole = rest.is_empty() && captured.last().is_none_or(|last| !last.is_empty());
    let mut captured = captured.into_iter();
    let rewritten: Vec<&str> = to
        .split('.')
        .map(|part| if part.starts_with('*') { captured.next().unwrap_or_default() } else { part })
        .collect();
    is_whole.then(|| rewritten.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_keys_only() {
        assert_eq!(rewrite("a.*.b.**", "x.*.y.**", "a.3.b.c.d").as_deref(), Some("x.3.y.c.d"));
        assert_eq!(rewrite("a.b", "x", "a.b").as_deref(), Some("x"));
        assert_eq!(rewrite("a.b", "x", "a.b.c"), None);
        assert_eq!(rewrite("a.b.c", "x", "a.b"), None);
        assert_eq!(rewrite("a.b.**", "x.**", "a.b"), None);
        assert_eq!(rewrite("**", "**", "a.b").as_deref(), Some("a.b"));
    }

    #[test]
    fn tables_are_invertible() {
        for layout in [Layout::HuggingFace, Layout::Mae, Layout::TinyVit, Layout::TimmTinyVit] {
            for (official, _) in layout.table() {
                let key = official.replace("**", "weight").replace('*', "7");
                let there = layout.key_from_official(&key).expect("has a row");
                assert_eq!(layout.key_to_official(&there).as_deref(), Some(key.as_str()), "via {there}");
            }
        }
    }
}
