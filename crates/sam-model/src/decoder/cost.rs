//! What a mask decoder computes for one prompt, from its sizes alone.

use crate::config::SamConfig;

impl SamConfig {
    /// Multiplications of the mask decoder's products for one prompt of an object, each with its addition, as the network is defined:
    /// what several objects of an image share is counted for each. Norms, activations and the prompt encoder are not counted.
    ///
    /// # Arguments
    /// - `prompt_tokens`: tokens of the prompt; each point is one, a box two
    #[must_use]
    pub fn decoder_multiply_adds(&self, prompt_tokens: f64) -> f64 {
        let decoder = &self.mask_decoder;
        let [dim, mlp, cross] = [decoder.transformer_dim, decoder.mlp_dim, decoder.cross_dim].map(|size| size as f64);
        let masks = decoder.num_multimask_outputs as f64 + 1.0;
        let cells = (self.image_encoder.grid_size() as f64).powi(2);
        let tokens = 1.0 + masks + prompt_tokens;
        // Queries and the projection of one side, keys and values of the other; scores and their product with the values.
        let crossing = |queries: f64, keys: f64| {
            2.0 * queries * dim * cross + 2.0 * keys * dim * cross + 2.0 * queries * keys * cross
        };
        let among_tokens = tokens * 4.0 * dim * dim + 2.0 * tokens * tokens * dim;
        let layer = among_tokens + crossing(tokens, cells) + 2.0 * tokens * dim * mlp + crossing(cells, tokens);
        // Two transposed convolutions of 2 x 2, to a quarter and to an eighth of the channels; the product with the masks' weights.
        let upscaling = cells * dim * dim + 4.0 * cells * (dim / 4.0) * (dim / 8.0) * 4.0;
        let product = 16.0 * cells * masks * dim / 8.0;
        let hypernetworks = masks * (2.0 * dim * dim + dim * dim / 8.0);
        let hidden = decoder.iou_head_hidden_dim as f64;
        let iou_head = dim * hidden + (decoder.iou_head_depth as f64 - 2.0).max(0.0) * hidden * hidden + hidden * masks;
        decoder.depth as f64 * layer + crossing(tokens, cells) + upscaling + product + hypernetworks + iou_head
    }
}

#[cfg(test)]
mod tests {
    use crate::{SamConfig, Variant};

    /// The published decoder, whose products on 64 x 64 cells and 7 tokens were summed by hand.
    #[test]
    fn the_published_decoder_is_small_beside_its_encoder() {
        let config = SamConfig::published(Variant::VitB);
        let decoder = config.decoder_multiply_adds(2.0);
        // Per layer 2 x (2 x 4096 x 256 x 128) of keys, values and projections; upscaling 4096 x (256 x 256 x 1.5).
        let large = 2.0 * 2.0 * 2.0 * 4096.0 * 256.0 * 128.0 + 2.0 * 4096.0 * 256.0 * 128.0 + 4096.0 * 65536.0 * 1.5;
        assert!(decoder > large && decoder < 1.1 * large, "{decoder} {large}");
        assert!(decoder < 0.01 * config.image_encoder.multiply_adds());
        assert!(config.decoder_multiply_adds(12.0) > decoder);
    }
}
