//! Tokens and image attend to each other (`transformer.py`): the two-way blocks and the last attention.

use sam_model::SamConfig;

use super::prompts::PromptEmbeddings;
use crate::graph::{Graph, Value};

/// Epsilon of the transformer's norms: PyTorch's default, unlike the encoder's.
const TRANSFORMER_EPS: f32 = 1e-5;

/// What an attention reads.
struct Attended<'a> {
    queries: &'a Value,
    keys: &'a Value,
    values: &'a Value,
}

/// # Shapes
/// - returns tokens `[1, T, C]` and image `[1, P, C]`
pub(super) fn two_way(graph: &mut Graph<'_>, config: &SamConfig, prompts: &PromptEmbeddings) -> (Value, Value) {
    let sizes = &config.mask_decoder;
    let mut own = graph.values("iou_token.weight");
    own.extend(graph.values("mask_tokens.weight"));
    let own = graph.floats("output_tokens", vec![1, sizes.num_multimask_outputs + 2, sizes.transformer_dim], &own);
    let tokens = graph.concat(&[&own, &prompts.sparse], 1);
    graph.within("transformer", |graph| {
        // The initial tokens serve as the tokens' positions, which every attention adds again.
        let positions = Positions { tokens: tokens.clone(), image: prompts.positions.clone() };
        let (mut tokens, mut image) = (tokens, prompts.image.clone());
        for layer in 0..sizes.depth {
            (tokens, image) = graph.within(format!("layers.{layer}"), |graph| {
                block(graph, sizes.num_heads, layer == 0, (&tokens, &image), &positions)
            });
        }
        let queries = graph.add(&tokens, &positions.tokens);
        let keys = graph.add(&image, &positions.image);
        let attended = Attended { queries: &queries, keys: &keys, values: &image };
        let attended = attention(graph, "final_attn_token_to_image", sizes.num_heads, &attended);
        (norm_of_sum(graph, "norm_final_attn", &tokens, &attended), image)
    })
}

struct Positions {
    /// `[1, T, C]`.
    tokens: Value,
    /// `[1, P, C]`.
    image: Value,
}

/// Self-attention of tokens, attention of tokens to image, MLP of tokens, attention of image to tokens; each followed by its
/// norm.
fn block(
    graph: &mut Graph<'_>,
    heads: usize,
    is_first: bool,
    (tokens, image): (&Value, &Value),
    positions: &Positions,
) -> (Value, Value) {
    let tokens = if is_first {
        // Here the tokens are their own positions, so the reference adds neither these nor a residual.
        let attended = Attended { queries: tokens, keys: tokens, values: tokens };
        let attended = attention(graph, "self_attn", heads, &attended);
        graph.norm(&attended, "norm1", TRANSFORMER_EPS)
    } else {
        let positioned = graph.add(tokens, &positions.tokens);
        let attended = Attended { queries: &positioned, keys: &positioned, values: tokens };
        let attended = attention(graph, "self_attn", heads, &attended);
        norm_of_sum(graph, "norm1", tokens, &attended)
    };

    let positioned_image = graph.add(image, &positions.image);
    let positioned = graph.add(&tokens, &positions.tokens);
    let attended = Attended { queries: &positioned, keys: &positioned_image, values: image };
    let attended = attention(graph, "cross_attn_token_to_image", heads, &attended);
    let tokens = norm_of_sum(graph, "norm2", &tokens, &attended);

    let expanded = graph.within("mlp", |graph| {
        let hidden = graph.linear(&tokens, "lin1");
        let active = graph.relu(&hidden);
        graph.linear(&active, "lin2")
    });
    let tokens = norm_of_sum(graph, "norm3", &tokens, &expanded);

    let positioned = graph.add(&tokens, &positions.tokens);
    let attended = Attended { queries: &positioned_image, keys: &positioned, values: &tokens };
    let attended = attention(graph, "cross_attn_image_to_token", heads, &attended);
    let image = norm_of_sum(graph, "norm4", image, &attended);
    (tokens, image)
}

fn norm_of_sum(graph: &mut Graph<'_>, norm: &str, x: &Value, other: &Value) -> Value {
    let sum = graph.add(x, other);
    graph.norm(&sum, norm, TRANSFORMER_EPS)
}

/// Multi-head attention whose inner dimension may be smaller than its outer one.
///
/// # Shapes
/// - `queries`: `[1, T, C]`, `keys` and `values`: `[1, T', C]`
/// - returns `[1, T, C]`
fn attention(graph: &mut Graph<'_>, name: &str, heads: usize, attended: &Attended<'_>) -> Value {
    graph.within(name, |graph| {
        let inner = graph.shape("q_proj.weight")[0];
        let channels = inner / heads;
        let split = [1, 0, heads as i64, channels as i64];
        let mut projected = |x: &Value, name: &str, order: &[i64]| {
            let x = graph.linear(x, name);
            let x = graph.reshape_inferring(&x, split.to_vec(), 1);
            graph.transpose(&x, order)
        };
        let queries = projected(attended.queries, "q_proj", &[0, 2, 1, 3]); // [1, heads, T, channels]
        let keys = projected(attended.keys, "k_proj", &[0, 2, 3, 1]);
        let values = projected(attended.values, "v_proj", &[0, 2, 1, 3]);
        let queries = graph.scaled(&queries, (channels as f32).powf(-0.5));
        let scores = graph.matmul(&queries, &keys);
        let weights = graph.softmax(&scores);
        let attended = graph.matmul(&weights, &values);
        let attended = graph.transpose(&attended, &[0, 2, 1, 3]);
        let attended = graph.reshape_inferring(&attended, vec![1, 0, inner as i64], 1);
        graph.linear(&attended, "out_proj")
    })
}
