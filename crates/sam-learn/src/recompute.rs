//! Block checkpointing (Chen 2016, arXiv 1604.06174): on the way forward only the input of each stage is kept, on the way back
//! each is run again. One more forward pass buys the memory of all blocks but one.
//!
//! What a stage draws (dropped paths) is drawn again the same: the device's generator is seeded before each, as burn has one
//! generator for all.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use sam_model::Stage;

/// Stages that ran once.
pub(crate) struct Ran {
    /// Inputs of the stages, without gradients.
    inputs: Vec<Tensor<4>>,
    device: Device,
    seed: u64,
}

impl Ran {
    /// Runs stages one after the other; gives what comes out last, without gradients.
    ///
    /// # Arguments
    /// - `stages`: of a model after `no_grad`, which draws as one that learns but leaves no graph. The graph of one that
    ///   learns would stay, with all that its operations remember, until something else goes back: burn only then looks for
    ///   what nobody needs any more
    pub(crate) fn forward(stages: &[Stage<'_>], input: Tensor<4>, device: &Device, seed: u64) -> (Self, Tensor<4>) {
        let mut inputs = Vec::with_capacity(stages.len());
        let mut x = input;
        for (number, stage) in stages.iter().enumerate() {
            inputs.push(x.clone());
            device.seed(seed.wrapping_add(number as u64));
            x = stage(Tensor::from_inner(x)).inner();
        }
        (Self { inputs, device: device.clone(), seed }, x)
    }

    /// Adds the gradients of all parameters, given that of what came out last.
    ///
    /// # Arguments
    /// - `stages`: the same ones, of the model that learns
    pub(crate) fn backward<M: Module>(
        self,
        stages: &[Stage<'_>],
        d_output: Tensor<4>,
        model: &M,
        sums: &mut GradientsAccumulator<M>,
    ) {
        let mut d_output = d_output;
        for (number, (stage, input)) in stages.iter().zip(self.inputs).enumerate().rev() {
            self.device.seed(self.seed.wrapping_add(number as u64));
            let input = Tensor::from_inner(input);
            let input = if number > 0 { input.require_grad() } else { input };
            // The gradient of this sum with respect to the stage's output is `d_output`.
            let grads = (stage(input.clone()) * Tensor::from_inner(d_output)).sum().backward();
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
    use burn::tensor::Distribution;

    /// What a stage draws on the way forward it draws again on the way back, whatever was drawn in between.
    #[test]
    fn what_was_dropped_is_dropped_again() {
        let device = Device::flex().autodiff();
        let layers: Vec<Linear> = (0..3).map(|_| LinearConfig::new(4, 4).init(&device)).collect();
        let stage = |layer: &Linear, x: Tensor<4>| {
            let kept = Tensor::random([64, 1, 1, 1], Distribution::Bernoulli(0.5), &x.device());
            x.clone() + layer.forward(x) * kept
        };
        let input = Tensor::<4>::random([64, 1, 1, 4], Distribution::Default, &Device::flex());
        let weights = Tensor::<4>::random([64, 1, 1, 4], Distribution::Default, &Device::flex());

        // Seeded as `Ran` says it does, with everything kept.
        let mut x = Tensor::from_inner(input.clone());
        for (number, layer) in layers.iter().enumerate() {
            device.seed(7 + number as u64);
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
        let (ran, last) = Ran::forward(&stages(&untracked), input, &device, 7);
        last.into_data().assert_eq(&output, true);
        let mut sums = GradientsAccumulator::new();
        ran.backward(&stages(&layers), weights, &layers, &mut sums);
        let got = sums.grads();
        for layer in &layers {
            let of = |grads: &GradientsParams| grads.get::<2>(layer.weight.id).expect("it learns").into_data();
            of(&got).assert_approx_eq::<f32>(&of(&expected), burn::tensor::Tolerance::absolute(1e-6));
        }
    }
}
