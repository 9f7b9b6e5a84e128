//! CPU kernels over slices of f32: attention, normalisation, convolutions, linear layers with and without a low-rank adapter, the mask head, mask losses and AdamW, with
//! their backward passes.
//!
//! Knows slices and threads; knows no tensor, no network and no file. `sam-model` turns these functions into burn operations
//! with gradients. Results do not depend on the number of threads: sums over rows are made over chunks of a fixed size, and
//! the chunks are added in order.

pub mod adamw;
pub mod attention;
pub mod bottleneck;
pub mod convolution;
pub mod depthwise;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod low_rank;
pub mod mask_head;
pub mod mask_loss;
mod matmul;
pub mod mlp;
#[cfg(test)]
mod testing;
mod thin;
mod vector;

pub use matmul::{bf16_products, bf16_speedup, has_bf16_products, has_int8_products, set_bf16_products};
pub use vector::instruction_set;
