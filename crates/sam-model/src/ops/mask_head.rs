//! Image tokens to masks: two transposed convolutions that enlarge the map, and its product with the weights of each mask
//! (`mask_decoder.py`, `output_upscaling` and `hyper_in @ upscaled`).
//!
//! Shapes: `O` objects, `G` grid size, `C` dimension of a token, `M` masks.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sam_kernel::layer_norm::{Epilogue, LayerNorm};
use sam_kernel::mask_head::{MaskHead, MaskHeadGrads, MaskHeadParameterGrads, MaskHeadSizes};

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use super::gelu::gelu;
use super::layer_norm::{LAYER_NORM_2D_EPS, LayerNorm2d};
use super::patch_conv::PatchConvTranspose;
use super::products::matmul;

/// Channels after the two upscaling steps are this fraction of a token's dimension.
pub(crate) const UPSCALED_FRACTION: usize = 8;

/// Two transposed convolutions, each doubling height and width.
#[derive(Module, Debug)]
pub struct OutputUpscaling {
    /// `C` to `C / 4` channels.
    pub conv1: PatchConvTranspose,
    /// After `conv1`.
    pub norm1: LayerNorm2d,
    /// `C / 4` to `C / 8` channels.
    pub conv2: PatchConvTranspose,
}

impl OutputUpscaling {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn new(dim: usize, device: &Device) -> Self {
        Self {
            conv1: PatchConvTranspose::new(dim, dim / 4, 2, device),
            norm1: LayerNorm2d::new(dim / 4, device),
            conv2: PatchConvTranspose::new(dim / 4, dim / UPSCALED_FRACTION, 2, device),
        }
    }

    /// The product of the enlarged map with the weights of each mask. Where there is a kernel, the map itself is never
    /// stored.
    ///
    /// # Shapes
    /// - `x`: `[O, G, G, C]`, `weights`: `[O, M, C / 8]`
    /// - returns `[O, M, 4G, 4G]`
    pub fn masks(&self, x: Tensor<4>, weights: Tensor<3>) -> Tensor<4> {
        let [objects, height, width, _] = x.dims();
        let [_, masks, channels] = weights.dims();
        if is_fusible(&x) {
            let inputs = [
                x.into_dispatch(),
                weights.into_dispatch(),
                self.conv1.as_matrix().into_dispatch(),
                self.conv1.bias.val().into_dispatch(),
                self.norm1.weight.val().into_dispatch(),
                self.norm1.bias.val().into_dispatch(),
                self.conv2.as_matrix().into_dispatch(),
                self.conv2.bias.val().into_dispatch(),
            ];
            return fused(MaskHeadSizes { objects, grid: [height, width], masks }, inputs);
        }
        let upscaled = self.forward(x).reshape([objects, 16 * height * width, channels]);
        matmul(weights, upscaled.swap_dims(1, 2)).reshape([objects, masks, 4 * height, 4 * width])
    }

    /// # Shapes
    /// - `x`: `[O, G, G, C]`
    /// - returns `[O, 4G, 4G, C / 8]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        gelu(self.conv2.forward(self.norm1.forward_gelu(self.conv1.forward(x))))
    }
}

/// The parameters in the order of [`OutputUpscaling`]'s fields.
fn head([weight_1, bias_1, norm_weight, norm_bias, weight_2, bias_2]: [&[f32]; 6]) -> MaskHead<'_> {
    let eps = LAYER_NORM_2D_EPS as f32;
    let norm = LayerNorm { weight: norm_weight, bias: norm_bias, eps, epilogue: Epilogue::Gelu };
    MaskHead { weight_1, bias_1, norm, weight_2, bias_2 }
}

impl SliceOperation<8> for MaskHeadSizes {
    fn forward(&self, [tokens, mask_weights, parameters @ ..]: [&[f32]; 8]) -> SliceOutput {
        let [height, width] = self.grid;
        let values = head(parameters).forward(*self, tokens, mask_weights);
        SliceOutput::new(values, [self.objects, self.masks, 4 * height, 4 * width])
    }

    fn backward(&self, pass: BackwardInputs<'_, 8>) -> [Vec<f32>; 8] {
        let [tokens, mask_weights, parameters @ ..] = pass.inputs;
        let MaskHeadGrads { tokens, mask_weights, parameters } =
            head(parameters).backward(*self, tokens, mask_weights, pass.d_output);
        let MaskHeadParameterGrads { weight_1, bias_1, norm_weight, norm_bias, weight_2, bias_2 } = parameters;
        [tokens, mask_weights, weight_1, bias_1, norm_weight, norm_bias, weight_2, bias_2]
    }
}
