//! A network as stages that follow one another, for those who want to run them one at a time.

use burn::tensor::Tensor;

/// From the output of the stage before to its own.
pub type Stage<'a> = Box<dyn Fn(Tensor<4>) -> Tensor<4> + 'a>;

/// One after the other.
pub fn run(stages: &[Stage<'_>], input: Tensor<4>) -> Tensor<4> {
    stages.iter().fold(input, |x, stage| stage(x))
}
