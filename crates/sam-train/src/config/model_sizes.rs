//! `[model.sizes]` of a training: a network of one's own, around a plain ViT or a TinyViT.

use sam_model::{
    ImageEncoderConfig, MaskDecoderConfig, PromptEncoderConfig, SamConfig, SamConfigError, TinyVitConfig, VitConfig,
};

use super::model::Common;
use super::ranges::POSITIVE;
use super::reader::{Reader, Section};

/// The kind of image encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EncoderKind {
    Vit,
    TinyVit,
}

/// Keys that only a plain ViT has.
const OF_VIT: [&str; 5] = ["embed_dim", "depth", "global_attn_indexes", "patch_size", "window_size"];
/// Keys that only a TinyViT has.
const OF_TINY_VIT: [&str; 4] = ["embed_dims", "depths", "window_sizes", "mbconv_ratio"];

/// The defaults are common to all published models; those of a TinyViT are MobileSAM's.
pub(super) fn read_sizes(model: &Section<'_>, default: EncoderKind, common: Common) -> SamConfig {
    let is_given = model.is_given("sizes");
    let sizes = model.section("sizes");
    let kinds = [("vit", EncoderKind::Vit), ("tiny_vit", EncoderKind::TinyVit)];
    let typed = sizes.choice_if_given("encoder", &kinds);
    sizes.defaults_to("encoder", if default == EncoderKind::Vit { "\"vit\"" } else { "\"tiny_vit\"" });
    // A word that is neither is reported, and the other keys are then read as what they look like.
    let is_wrong = typed.is_none() && sizes.is_given("encoder");
    let looks_tiny = is_wrong && OF_TINY_VIT.iter().any(|key| sizes.is_given(key));
    let kind = typed.unwrap_or(if looks_tiny { EncoderKind::TinyVit } else { default });
    let is_vit = kind == EncoderKind::Vit;
    let out_chans = sizes.integer::<usize>("out_chans", 256, 1..);
    let vit = read_vit(&sizes, VitKeys { kind, is_required: is_given && is_vit && !is_wrong, out_chans, common });
    let tiny_vit = read_tiny_vit(&sizes, kind, out_chans, common);
    sizes.only_if(is_vit, "encoder", &OF_VIT, "encoder = \"vit\"");
    sizes.only_if(!is_vit, "encoder", &OF_TINY_VIT, "encoder = \"tiny_vit\"");
    SamConfig {
        image_encoder: match kind {
            EncoderKind::Vit => ImageEncoderConfig::Vit(vit),
            EncoderKind::TinyVit => ImageEncoderConfig::TinyVit(tiny_vit),
        },
        prompt_encoder: PromptEncoderConfig {
            embed_dim: out_chans,
            mask_in_chans: sizes.integer("mask_in_chans", 16, 1..),
        },
        mask_decoder: MaskDecoderConfig {
            transformer_dim: out_chans,
            depth: sizes.integer("decoder_depth", 2, 1..),
            num_heads: sizes.integer("decoder_heads", 8, 1..),
            mlp_dim: sizes.integer("decoder_mlp_dim", 2048, 1..),
            // As published: half the embedding dimension, three masks, a head of three layers of the decoder's dimension.
            cross_dim: out_chans / 2,
            num_multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden_dim: out_chans,
            dropout: common.decoder_dropout,
        },
        text: None,
    }
}

/// What the keys of a plain ViT depend on.
struct VitKeys {
    kind: EncoderKind,
    is_required: bool,
    out_chans: usize,
    common: Common,
}

fn read_vit(sizes: &Section<'_>, keys: VitKeys) -> VitConfig {
    let VitKeys { kind, is_required, out_chans, common } = keys;
    let required = |key: &str, what: &str, value: Option<usize>| {
        if is_required { sizes.required(key, what, value, 1) } else { value.unwrap_or(1) }
    };
    let embed_dim = sizes.integer_if_given("embed_dim", 1..);
    let embed_dim = required("embed_dim", "the embedding dimension of the encoder", embed_dim);
    let depth = sizes.integer_if_given("depth", 1..);
    let depth = required("depth", "the number of blocks of the encoder", depth);
    // Those of a TinyViT are a list under the same key.
    let num_heads = if kind == EncoderKind::Vit { sizes.integer_if_given("num_heads", 1..) } else { None };
    let num_heads = required("num_heads", "the attention heads of a block, which divide embed_dim", num_heads);
    let global = sizes.integers_if_given::<usize>("global_attn_indexes", 0..);
    let what = "the indices of the blocks with global attention, from 0";
    let global_attn_indexes =
        if is_required { sizes.required("global_attn_indexes", what, global, Vec::new()) } else { Vec::new() };
    let mlp_ratio = if kind == EncoderKind::Vit { sizes.float("mlp_ratio", 4.0, POSITIVE) } else { 4.0 };
    VitConfig {
        image_size: common.image_size,
        patch_size: sizes.integer("patch_size", 16, 1..),
        embed_dim,
        depth,
        num_heads,
        mlp_dim: (embed_dim as f64 * mlp_ratio) as usize,
        out_chans,
        window_size: sizes.integer("window_size", 14, 0..),
        global_attn_indexes,
        drop_path_rate: common.drop_path,
    }
}

fn read_tiny_vit(sizes: &Section<'_>, kind: EncoderKind, out_chans: usize, common: Common) -> TinyVitConfig {
    let published = TinyVitConfig::published();
    let is_read = kind == EncoderKind::TinyVit;
    let num_heads = if is_read { sizes.integers("num_heads", published.num_heads, 1..) } else { published.num_heads };
    let mlp_ratio = if is_read { sizes.integer("mlp_ratio", published.mlp_ratio, 1..) } else { published.mlp_ratio };
    TinyVitConfig {
        image_size: common.image_size,
        embed_dims: sizes.integers("embed_dims", published.embed_dims, 1..),
        depths: sizes.integers("depths", published.depths, 1..),
        num_heads,
        window_sizes: sizes.integers("window_sizes", published.window_sizes, 1..),
        mbconv_ratio: sizes.integer("mbconv_ratio", published.mbconv_ratio, 1..),
        mlp_ratio,
        out_chans,
        drop_path_rate: common.drop_path,
        batch_norm: common.batch_norm.unwrap_or_default(),
    }
}

/// Reports sizes that do not fit together.
pub(super) fn check_sizes(reader: &Reader<'_>, config: &SamConfig) {
    let problems = config.check().err().map_or(Vec::new(), |SamConfigError { problems }| problems);
    let (of_image, of_sizes): (Vec<String>, Vec<String>) =
        problems.into_iter().partition(|problem| problem.starts_with("image_size"));
    if !of_image.is_empty() {
        reader.object(&["model.image_size", "model.sizes"], format!("model.{}", of_image.join("; ")));
    }
    if !of_sizes.is_empty() {
        reader.object(&["model.sizes"], format!("model.sizes do not fit together: {}", of_sizes.join("; ")));
    }
}
