//! `softmax(q k^T) v` with a backward pass of its own, in the operations of any of burn's backends: for devices without kernels of
//! ours, and for numbers that are not f32.
//!
//! burn's own backward pass keeps several N x M maps of every attention until it runs. This one keeps none: it saves the output and, by
//! row, the logarithm of the sum of exponentials, and computes the scores again in blocks of query rows (Dao 2022, arXiv 2205.14135,
//! appendix B.2, whose blocks are of keys, too).
//!
//! Shapes: `B` batch (images, windows or objects), `A` heads, `N` queries, `M` keys, `C` channels per head.

use std::ops::Range;

use burn::backend::Backend;
#[cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))]
use burn::backend::Cube;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};

use crate::ops::products::matmul_of;

/// `softmax(q k^T) v`, with scaled queries.
///
/// # Shapes
/// - `q`: `[B, A, N, C]`, `k`: `[B, A, M, C]`, `v`: `[B, A, M, C']`
/// - returns `[B, A, N, C']`
pub(super) fn attention_by_rows(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as RowAttention>::row_attention(q, k, v))
}

/// burn's extension point for operations that it does not know.
#[backend_extension(
    Autodiff: cfg(feature = "autodiff"),
    Flex,
    Cube: cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))
)]
trait RowAttention: Backend {
    /// See [`attention_by_rows`].
    fn row_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl RowAttention for Flex {
    fn row_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>([&q, &k, &v]).output
    }
}

#[cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))]
impl RowAttention for Cube {
    fn row_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>([&q, &k, &v]).output
    }
}

/// What a forward pass leaves for its backward pass.
#[derive(Clone, Debug)]
struct Attended<B: Backend> {
    /// `[B, A, N, C']`.
    output: FloatTensor<B>,
    /// Of the exponentials of each row of scores, `[B, A, N, 1]`.
    #[cfg_attr(not(feature = "autodiff"), expect(dead_code, reason = "backward passes are never run"))]
    log_sums: FloatTensor<B>,
}

/// Blocks of query rows, each with a bounded number of scores.
fn blocks<B: Backend>(q: &FloatTensor<B>, k: &FloatTensor<B>) -> impl Iterator<Item = Range<usize>> {
    let [batch, heads, queries, _] = q.shape().dims();
    let [_, _, keys, _] = k.shape().dims::<4>();
    let rows = (super::plain::SCORES_PER_BLOCK / (batch * heads * keys).max(1)).clamp(1, queries.max(1));
    (0..queries).step_by(rows).map(move |start| start..(start + rows).min(queries))
}

fn rows_of<B: Backend>(tensor: &FloatTensor<B>, rows: &Range<usize>) -> FloatTensor<B> {
    let [batch, heads, _, channels] = tensor.shape().dims();
    let slices = [0..batch, 0..heads, rows.clone(), 0..channels].map(Slice::from);
    B::float_slice(tensor.clone(), &slices)
}

fn transposed<B: Backend>(tensor: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_swap_dims(tensor.clone(), 2, 3)
}

fn forward<B: Backend>([q, k, v]: [&FloatTensor<B>; 3]) -> Attended<B> {
    let k_t = transposed::<B>(k); // [B, A, C, M]
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    for rows in blocks::<B>(q, k) {
        let scores = matmul_of::<B>(rows_of::<B>(q, &rows), k_t.clone()); // [B, A, rows, M]
        let largest = B::float_max_dim(scores.clone(), 3);
        let exponentials = B::float_exp(B::float_sub(scores, largest.clone()));
        let sums = B::float_sum_dim(exponentials.clone(), 3);
        outputs.push(B::float_div(matmul_of::<B>(exponentials, v.clone()), sums.clone()));
        log_sums.push(B::float_add(B::float_log(sums), largest));
    }
    Attended { output: joined::<B>(outputs), log_sums: joined::<B>(log_sums) }
}

fn joined<B: Backend>(mut parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    if parts.len() == 1 { parts.remove(0) } else { B::float_cat(parts, 2) }
}

#[cfg(feature = "autodiff")]
mod backward {
    use burn::backend::Autodiff;
    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};

    use super::{
        Attended, Backend, FloatTensor, RowAttention, blocks, forward, joined, matmul_of, rows_of, transposed,
    };

    impl<B: RowAttention, C: CheckpointStrategy> RowAttention for Autodiff<B, C> {
        fn row_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
            let nodes = [q.node(), k.node(), v.node()];
            let inputs = [q, k, v].map(|input| input.into_primitive());
            let attended = forward::<B>(inputs.each_ref());
            match RowAttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => {
                    let output = attended.output.clone();
                    prepared.finish(SavedState { inputs, attended }, output)
                }
                OpsKind::UnTracked(prepared) => prepared.finish(attended.output),
            }
        }
    }

    #[derive(Debug)]
    struct RowAttentionBackward;

    #[derive(Clone, Debug)]
    struct SavedState<B: Backend> {
        inputs: [FloatTensor<B>; 3],
        attended: Attended<B>,
    }

    impl<B: Backend> Backward<B, 3> for RowAttentionBackward {
        type State = SavedState<B>;

        fn backward(self, ops: Ops<SavedState<B>, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
            let d_output = grads.consume::<B>(&ops.node);
            let d_inputs = gradients::<B>(&ops.state, &d_output);
            for (parent, d_input) in ops.parents.into_iter().zip(d_inputs) {
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, d_input);
                }
            }
        }
    }

    /// Gradients of queries, keys and values.
    fn gradients<B: Backend>(state: &SavedState<B>, d_output: &FloatTensor<B>) -> [FloatTensor<B>; 3] {
        let SavedState { inputs: [q, k, v], attended: Attended { output, log_sums } } = state;
        let (k_t, v_t) = (transposed::<B>(k), transposed::<B>(v));
        // By row, the sum of the probabilities times their gradients, `[B, A, N, 1]`.
        let means = B::float_sum_dim(B::float_mul(d_output.clone(), output.clone()), 3);
        let mut d_q = Vec::new();
        let mut sums: Option<[FloatTensor<B>; 2]> = None;
        for rows in blocks::<B>(q, k) {
            let [q, d_output, log_sums, means] =
                [q, d_output, log_sums, &means].map(|tensor| rows_of::<B>(tensor, &rows));
            let scores = matmul_of::<B>(q.clone(), k_t.clone());
            let probabilities = B::float_exp(B::float_sub(scores, log_sums)); // [B, A, rows, M]
            let d_v = matmul_of::<B>(transposed::<B>(&probabilities), d_output.clone());
            let d_probabilities = matmul_of::<B>(d_output, v_t.clone());
            let d_scores = B::float_mul(probabilities, B::float_sub(d_probabilities, means));
            d_q.push(matmul_of::<B>(d_scores.clone(), k.clone()));
            let d_k = matmul_of::<B>(transposed::<B>(&d_scores), q);
            sums = Some(match sums {
                None => [d_k, d_v],
                Some([sum_k, sum_v]) => [B::float_add(sum_k, d_k), B::float_add(sum_v, d_v)],
            });
        }
        let [d_k, d_v] = sums.expect("there is a query");
        [joined::<B>(d_q), d_k, d_v]
    }
}

#[cfg(all(test, feature = "autodiff"))]
mod tests {
    use burn::tensor::activation::softmax;
    use burn::tensor::{DType, Device, Tolerance};

    use super::*;
    use crate::ops::attention::plain::SCORES_PER_BLOCK;
    use crate::testing::Random;

    /// Output and gradients equal those of burn's own operations, in one block and in several of which the last is smaller.
    #[test]
    fn both_passes_equal_burns_own() {
        let mut random = Random::new(1);
        for [batch, heads, queries, keys] in [[2, 3, 5, 7], [1, 1, 2100, 9000]] {
            let many = batch * heads * queries * keys > SCORES_PER_BLOCK;
            assert_eq!(many, queries == 2100);
            let mut random = |rows: usize, channels: usize| {
                Tensor::from_inner(random.normal([batch, heads, rows, channels], 1.0)).cast(DType::F64)
            };
            let inputs = [random(queries, 4), random(keys, 4), random(keys, 3)];
            let weight = random(queries, 3);
            let of = |form: fn([Tensor<4>; 3]) -> Tensor<4>| {
                let inputs = inputs.clone().map(Tensor::require_grad);
                let output = form(inputs.clone());
                let grads = (output.clone() * weight.clone()).sum().backward();
                let mut found = vec![output.inner()];
                found.extend(inputs.iter().map(|input| input.grad(&grads).expect("tracked")));
                found.into_iter().map(|tensor| tensor.into_data()).collect::<Vec<_>>()
            };
            let expected = of(|[q, k, v]| softmax(q.matmul(k.swap_dims(2, 3)), 3).matmul(v));
            for (got, expected) in of(|[q, k, v]| attention_by_rows(q, k, v)).iter().zip(&expected) {
                got.assert_approx_eq::<f64>(expected, Tolerance::absolute(1e-10));
            }
        }
    }

    /// Scores far beyond the range of an exponential.
    #[test]
    fn large_scores_do_not_overflow() {
        let device = Device::flex().autodiff();
        let q = Tensor::<4>::from_data([[[[1000.0], [-1000.0]]]], &device).require_grad();
        let k = Tensor::<4>::from_data([[[[1.0], [0.9]]]], &device);
        let output = attention_by_rows(q.clone(), k.clone(), k);
        let values = output.clone().into_data().try_to_vec::<f32>().expect("f32");
        assert!((values[0] - 1.0).abs() < 1e-6 && (values[1] - 0.9).abs() < 1e-6, "{values:?}");
        let grad = q.grad(&output.sum().backward()).expect("tracked").into_data().try_to_vec::<f32>().expect("f32");
        assert!(grad.iter().all(|value| value.is_finite()), "{grad:?}");
    }
}
