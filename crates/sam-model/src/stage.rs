//! A network as a sequence of stages, for callers that run them one at a time (activation checkpointing).

use burn::tensor::Tensor;

/// A function from the output of the previous stage to its own.
pub type Stage<'a> = Box<dyn Fn(Tensor<4>) -> Tensor<4> + 'a>;

/// Runs all stages in order.
pub(crate) fn run(stages: &[Stage<'_>], input: Tensor<4>) -> Tensor<4> {
    stages.iter().fold(input, |x, stage| stage(x))
}
