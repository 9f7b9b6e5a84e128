//! What is hot on the processor, over slices of f32: matrix products, attention, normalisation, activations, losses.
//!
//! Knows slices and threads; knows no tensor, no network and no file. `sam-model` and `sam-learn` give these functions to
//! burn as operations with gradients. Results do not depend on the number of threads: sums over rows are made in parts of
//! a fixed size, and the parts are added in order.

pub mod adamw;
pub mod attention;
pub mod layer_norm;
pub mod linear;
pub mod mask_head;
pub mod mask_loss;
pub mod perceptron;
pub mod product;
#[cfg(test)]
mod testing;
pub mod vector;
