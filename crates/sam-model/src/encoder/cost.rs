//! What an encoder computes for one image, from its sizes alone.

use super::ImageEncoderConfig;
use super::tiny_vit::TinyVitConfig;
use super::vit::VitConfig;

impl ImageEncoderConfig {
    /// Multiplications of the products and convolutions for one image, each with its addition; norms and activations are not
    /// counted, as is usual. Papers that count floating-point operations have twice the number.
    #[must_use]
    pub fn multiply_adds(&self) -> f64 {
        match self {
            Self::Vit(vit) => of_vit(vit),
            Self::TinyVit(tiny) => of_tiny_vit(tiny),
        }
    }
}

fn of_vit(vit: &VitConfig) -> f64 {
    let grid = vit.image_size / vit.patch_size;
    let [n, dim, out] = [grid * grid, vit.embed_dim, vit.out_chans].map(|size| size as f64);
    let patches = n * dim * 3.0 * (vit.patch_size * vit.patch_size) as f64;
    let block = |index: usize| {
        let is_global = vit.window_size == 0 || vit.global_attn_indexes.contains(&index);
        let window = if is_global { grid } else { vit.window_size };
        let attended = (grid.div_ceil(window) * window).pow(2) as f64;
        // Queries, keys, values and the projection; scores and their product with the values; relative positions.
        let attention = attended * (4.0 * dim * dim + 2.0 * dim * (window * window) as f64 + 2.0 * dim * window as f64);
        attention + 2.0 * n * dim * vit.mlp_dim as f64
    };
    patches + (0..vit.depth).map(block).sum::<f64>() + neck(n, dim, out)
}

fn of_tiny_vit(tiny: &TinyVitConfig) -> f64 {
    let dims = tiny.embed_dims.map(|dim| dim as f64);
    let pixels = |stride: usize| (tiny.image_size / stride).pow(2) as f64;
    // The last two layers have one grid.
    let strides = [4, 8, 16, 16];
    let mut sum = pixels(2) * 27.0 * dims[0] / 2.0 + pixels(4) * 9.0 * dims[0] / 2.0 * dims[0];
    let hidden = dims[0] * tiny.mbconv_ratio as f64;
    sum += tiny.depths[0] as f64 * pixels(4) * (2.0 * dims[0] * hidden + 9.0 * hidden);
    for layer in 1..4 {
        let [before, dim, n] = [dims[layer - 1], dims[layer], pixels(strides[layer])];
        // The way to this layer: two convolutions of one cell and a depthwise one between them.
        sum += pixels(strides[layer - 1]) * before * dim + n * (9.0 * dim + dim * dim);
        let window = tiny.window_sizes[layer - 1];
        let grid = tiny.image_size / strides[layer];
        let attended = (grid.div_ceil(window) * window).pow(2) as f64;
        let attention = attended * (4.0 * dim * dim + 2.0 * dim * (window * window) as f64);
        let mlp = 2.0 * n * dim * dim * tiny.mlp_ratio as f64;
        sum += tiny.depths[layer] as f64 * (attention + 9.0 * n * dim + mlp);
    }
    sum + neck(pixels(16), dims[3], tiny.out_chans as f64)
}

fn neck(n: f64, dim: f64, out: f64) -> f64 {
    n * (dim * out + 9.0 * out * out)
}

#[cfg(test)]
mod tests {
    use crate::{SamConfig, Variant};

    /// EdgeSAM (arXiv 2312.06660, table 1) has 2,734.8 G for SAM with ViT-H and 38.2 G for MobileSAM at 1024 px. Here the padding of
    /// windows and the relative positions count, too, as they are computed: about a tenth of ViT-H.
    #[test]
    fn counts_are_near_the_published_ones() {
        let giga = |variant| SamConfig::published(variant).image_encoder.multiply_adds() / 1e9;
        let vit_h = giga(Variant::VitH);
        assert!((2700.0..3000.0).contains(&vit_h), "{vit_h}");
        let mobile = giga(Variant::Mobile);
        assert!((34.0..40.0).contains(&mobile), "{mobile}");
        assert!(giga(Variant::VitB) < giga(Variant::VitL) && giga(Variant::VitL) < vit_h);
    }
}
