//! The floating-point operations of a step's phases, from the sizes of the network.

use sam_learn::{Phase, ProfiledStep};
use sam_model::{MaskedAutoencoder, Sam};

use crate::config::{PretrainPlan, TrainPlan};

/// Output tokens of a decoder pass are its own; these are those of its prompt: a point or a box with what pads it, and on average
/// half of the clicks to come.
const FIRST_TOKENS: f64 = 2.0;

/// What each phase of a step computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Forward, of an image.
    encoder: f64,
    /// The same of its gradients; `None` where that depends on which layers learn.
    encoder_backward: Option<f64>,
    /// Forward, of an object in all passes.
    decoder: f64,
    decoder_backward: Option<f64>,
}

impl Work {
    /// Of a training. `encodes`: whether the encoder runs in each step.
    pub(crate) fn of_training(sam: &Sam, plan: &TrainPlan, passes: usize, encodes: bool) -> Self {
        let encoder = if encodes { 2.0 * sam.config().image_encoder.multiply_adds() } else { 0.0 };
        let tokens = FIRST_TOKENS + passes.saturating_sub(1) as f64 / 2.0;
        let decoder = 2.0 * passes as f64 * sam.config().decoder_multiply_adds(tokens);
        let learns_whole = |part: &str| {
            plan.lora.is_none()
                && plan.optimiser.learn.is_empty()
                && !plan.optimiser.freeze.iter().any(|key| key.contains(part))
        };
        let is_frozen = plan.optimiser.freeze.iter().any(|key| key == "image_encoder") && plan.lora.is_none();
        let encoder_backward = match (is_frozen || !encodes, learns_whole("image_encoder")) {
            (true, _) => Some(0.0),
            (false, true) => {
                let recomputed = plan.run.activations == sam_learn::options::Activations::Recompute;
                Some(if recomputed { 3.0 * encoder } else { 2.0 * encoder })
            }
            (false, false) => None,
        };
        let decoder_backward = learns_whole("mask_decoder").then_some(2.0 * decoder);
        Self { encoder, encoder_backward, decoder, decoder_backward }
    }

    /// Of a pre-training.
    pub(crate) fn of_pretraining(mae: &MaskedAutoencoder, plan: &PretrainPlan) -> Self {
        let encoder = 2.0 * mae.config().multiply_adds(plan.mae.mask_ratio);
        let recomputed = plan.run.activations == sam_learn::options::Activations::Recompute;
        let encoder_backward = Some(if recomputed { 3.0 * encoder } else { 2.0 * encoder });
        Self { encoder, encoder_backward, decoder: 0.0, decoder_backward: Some(0.0) }
    }

    /// Floating-point operations of a phase of a step; `None` where they are not known, 0 where there are none to speak of.
    pub(super) fn of(&self, phase: Phase, step: &ProfiledStep) -> Option<f64> {
        let [images, objects] = [step.n_images, step.n_objects].map(|n| n as f64);
        match phase {
            Phase::EncoderForward => Some(images * self.encoder),
            Phase::EncoderBackward => Some(images * self.encoder_backward?),
            Phase::DecoderForward => Some(objects * self.decoder),
            Phase::DecoderBackward => Some(objects * self.decoder_backward?),
            Phase::Data | Phase::Prompts | Phase::Clip | Phase::Optimiser | Phase::Average => Some(0.0),
        }
    }
}
