//! Activation checkpointing (Chen 2016, arXiv 1604.06174): the forward pass stores only the input of each stage, and the
//! backward pass runs each stage again. One more forward pass buys the memory of all blocks but one.
//!
//! Random draws of a stage (dropped paths) are repeated in the backward pass: they are seeded before each stage.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use sam_model::{Stage, seed_dropout};

/// A forward pass of which only the inputs of the stages are stored.
pub(super) struct CheckpointedForward {
    /// Without autodiff.
    inputs: Vec<Tensor<4>>,
    seed: u64,
}

impl CheckpointedForward {
    /// Runs stages one after the other; returns the output of the last without autodiff, in the shape that it gives.
    ///
    /// # Arguments
    /// - `stages`: of a model after `no_grad`, which draws as one that learns but leaves no graph. The graph of one that
    ///   learns would stay, with all its saved activations, until the next backward pass: only then burn looks for nodes
    ///   that nobody needs any more
    /// - `input`: `[B, ..]`, without autodiff
    /// - `seed`: of the stages' random draws
    pub(super) fn run(stages: &[Stage<'_>], input: Tensor<4>, seed: u64) -> (Self, Tensor<4>) {
        let mut inputs = Vec::with_capacity(stages.len());
        let mut x = input;
        for (index, stage) in stages.iter().enumerate() {
            inputs.push(x.clone());
            seed_dropout(seed.wrapping_add(index as u64));
            x = stage(Tensor::from_inner(x)).inner();
        }
        (Self { inputs, seed }, x)
    }

    /// Adds the gradients of all parameters to `sums`, given that of the last stage's output.
    ///
    /// # Arguments
    /// - `stages`: the same ones, of the model that learns
    pub(super) fn backward<M: Module>(
        self,
        stages: &[Stage<'_>],
        d_output: Tensor<4>,
        model: &M,
        sums: &mut GradientsAccumulator<M>,
    ) {
        let mut d_output = d_output;
        for (index, (stage, input)) in stages.iter().zip(self.inputs).enumerate().rev() {
            seed_dropout(self.seed.wrapping_add(index as u64));
            let input = Tensor::from_inner(input);
            let input = if index > 0 { input.require_grad() } else { input };
            let output = stage(input.clone());
            if !output.is_tracked() {
                return; // The first stage is frozen.
            }
            // The gradient of this sum with respect to the stage's output is `d_output`.
            let grads = (output * Tensor::from_inner(d_output)).sum().backward();
            let d_input = input.grad(&grads);
            sums.accumulate(model, GradientsParams::from_grads(grads, model));
            match d_input {
                Some(d_input) => d_output = d_input,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, TensorData};
    use sam_model::DropPath;

    /// The backward pass repeats the draws of the forward pass, whatever was drawn in between.
    #[test]
    fn recomputed_stages_drop_the_same_samples() {
        let device = Device::flex().autodiff();
        let layers: Vec<Linear> = (0..3).map(|_| LinearConfig::new(4, 4).init(&device)).collect();
        let drop_path = DropPath::new(0.5);
        let stage = |layer: &Linear, x: Tensor<4>| x.clone() + drop_path.forward(layer.forward(x));
        let values = |slope: f32| {
            let values: Vec<f32> = (0..256).map(|at| (slope * at as f32).sin()).collect();
            Tensor::<4>::from_data(TensorData::new(values, [64, 1, 1, 4]), &Device::flex())
        };
        let (input, weights) = (values(0.7), values(1.3));

        // The same seeds, with all activations stored.
        let mut x = Tensor::from_inner(input.clone());
        for (index, layer) in layers.iter().enumerate() {
            seed_dropout(7 + index as u64);
            x = stage(layer, x);
        }
        let output = x.clone().inner().into_data();
        let grads = (x * Tensor::from_inner(weights.clone())).sum().backward();
        let expected = GradientsParams::from_grads(grads, &layers);

        let stages = |layers| -> Vec<Stage<'_>> {
            let layers: &Vec<Linear> = layers;
            layers.iter().map(|layer| Box::new(move |x| stage(layer, x)) as Stage<'_>).collect()
        };
        let untracked = layers.clone().no_grad();
        let (forward, last) = CheckpointedForward::run(&stages(&untracked), input, 7);
        last.into_data().assert_eq(&output, true);
        let mut sums = GradientsAccumulator::new();
        forward.backward(&stages(&layers), weights, &layers, &mut sums);
        let got = sums.grads();
        for layer in &layers {
            let grad = |grads: &GradientsParams| grads.get::<2>(layer.weight.id).expect("it learns").into_data();
            grad(&got).assert_approx_eq::<f32>(&grad(&expected), burn::tensor::Tolerance::absolute(1e-6));
        }
    }
}
