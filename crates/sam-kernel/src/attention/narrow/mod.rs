//! Attention between many rows and few tokens: the mask decoder's, from image to tokens and from tokens to image.
//!
//! The few tokens are tables that stay in the nearest cache, the many rows pass once, where they are, and no score leaves the cache.
//! The products are of f32 whatever is set for others: they are too small to gain from bf16.
//!
//! Letters: `R` rows, the side of which there are many; `L` lanes, a token each, in whole vectors; `A` heads, `C` channels of a head.

mod of_tokens;
mod to_tokens;

use of_tokens::{backward_of_tokens, forward_of_tokens};
use to_tokens::{backward_to_tokens, forward_to_tokens};

use super::cross::{CrossAttention, CrossGrads, CrossInputs};
use super::{AttentionOutput, OutputGrad};
use crate::vector::LANES;

/// Rows whose scores are computed together: of one head they stay in the first cache.
const ROWS: usize = 128;
/// The most tokens, and the most channels of a head.
const MOST: usize = 4 * LANES;

/// The side of which there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Few {
    Keys,
    Queries,
}

/// Whether these kernels are for an attention of such sizes, and which side is the narrow one.
pub(super) fn narrow_side(sizes: &CrossAttention) -> Option<Few> {
    let CrossAttention { objects, queries, keys, heads, channels } = *sizes;
    let is_empty = [objects, queries, keys, heads, channels].contains(&0);
    if is_empty || !channels.is_multiple_of(LANES) || channels > MOST {
        None
    } else if keys <= MOST {
        Some(Few::Keys)
    } else if queries <= MOST {
        Some(Few::Queries)
    } else {
        None
    }
}

/// [`CrossAttention::forward`]; of few keys, `log_sums` are the largest score and the reciprocal sum of exponentials relative to that,
/// `[O, N, A, 2]`: more exact than their logarithm where scores are large. Of few queries, `[O, N, A]`.
pub(super) fn forward(few: Few, sizes: &CrossAttention, inputs: CrossInputs<'_>) -> AttentionOutput {
    match few {
        Few::Keys => forward_to_tokens(sizes, inputs),
        Few::Queries => forward_of_tokens(sizes, inputs),
    }
}

/// [`CrossAttention::backward`], from the results of [`forward`].
pub(super) fn backward(
    few: Few,
    sizes: &CrossAttention,
    inputs: CrossInputs<'_>,
    output: OutputGrad<'_>,
) -> CrossGrads {
    match few {
        Few::Keys => backward_to_tokens(sizes, inputs, output),
        Few::Queries => backward_of_tokens(sizes, inputs, output),
    }
}

fn scale(sizes: &CrossAttention) -> f32 {
    (sizes.channels as f32).powf(-0.5)
}

/// Lanes of `n` tokens.
fn lanes(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// The objects of each sequence of the many rows.
fn objects_of_sequences(n_sequences: usize, objects: usize, index: Option<&[usize]>) -> Vec<Vec<usize>> {
    let mut of_sequences = vec![Vec::new(); n_sequences];
    for object in 0..objects {
        of_sequences[index.map_or(object, |index| index[object])].push(object);
    }
    of_sequences
}

/// The sequence of an object.
fn sequence<'a>(values: &'a [f32], len: usize, object: usize, index: Option<&[usize]>) -> &'a [f32] {
    &values[index.map_or(object, |index| index[object]) * len..][..len]
}

fn sequence_mut<'a>(values: &'a mut [f32], len: usize, object: usize, index: Option<&[usize]>) -> &'a mut [f32] {
    &mut values[index.map_or(object, |index| index[object]) * len..][..len]
}

/// Adds the sums of each head, times `scale`, to `[tokens, A * C]`.
fn add_sums(sums: &[f32], sizes: &CrossAttention, scale: f32, out: &mut [f32]) {
    let CrossAttention { heads, channels, .. } = *sizes;
    let of_heads = sums.chunks_exact(sums.len() / heads);
    for (head, sums) in of_heads.enumerate() {
        for (row, sums) in out.chunks_exact_mut(heads * channels).zip(sums.chunks_exact(channels)) {
            row[head * channels..][..channels].iter_mut().zip(sums).for_each(|(to, sum)| *to += scale * sum);
        }
    }
}
