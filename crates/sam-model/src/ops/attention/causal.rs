//! Self-attention of each token to itself and those before it, in burn's operations: the texts of CLIP have at most 77
//! tokens, whose linear layers cost a hundred times as much.
//!
//! Shapes: `B` texts, `A` heads, `N` tokens, `C` channels per head.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};

use crate::ops::products::matmul;

/// # Shapes
/// - `qkv`: `[B, N, 3 * A * C]`, queries first, not scaled
/// - returns `[B, N, A * C]`
pub(crate) fn causal_attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, values] = qkv.dims();
    let channels = values / (3 * heads);
    let later: Vec<bool> = (0..tokens * tokens).map(|pair| pair % tokens > pair / tokens).collect();
    let later = Tensor::<4, Bool>::from_data(TensorData::new(later, [1, 1, tokens, tokens]), &qkv.device());
    let qkv = qkv.reshape([batch, tokens, 3, heads, channels]).permute([2, 0, 3, 1, 4]); // [3, B, A, N, C]
    let part = |index: usize| qkv.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
    let (q, k, v) = (part(0) * (channels as f64).powf(-0.5), part(1), part(2));
    let scores = matmul(q, k.swap_dims(2, 3)); // [B, A, N, N], query first
    let scores = scores.mask_fill(later.expand([batch, heads, tokens, tokens]), f32::NEG_INFINITY);
    matmul(softmax(scores, 3), v).swap_dims(1, 2).reshape([batch, tokens, heads * channels])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;
    use crate::testing::Random;

    #[test]
    fn a_token_sees_itself_and_those_before_it() {
        let (heads, tokens) = (2, 5);
        let qkv = Random::new(1).normal([3, tokens, 24], 1.0);
        let whole = causal_attention(qkv.clone(), heads);
        for n in 1..=tokens {
            let cut = causal_attention(qkv.clone().narrow(1, 0, n), heads);
            let expected = whole.clone().narrow(1, 0, n);
            cut.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
        }
        // Alone, a token gets its own value.
        let own = qkv.narrow(1, 0, 1).narrow(2, 16, 8);
        whole.narrow(1, 0, 1).into_data().assert_approx_eq::<f32>(&own.into_data(), Tolerance::absolute(1e-6));
    }
}
