//! Training steps, beside `benches/pytorch_training.py`: the same sizes, losses and number of passes.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use sam_learn::Target;
use sam_learn::optim::{EncoderLayers, choose_learning, clip_by_global_norm, optimiser_and_rates};
use sam_learn::options::{Activations, BoxOutput, LossOptions, LrDecay, OptimiserOptions, ScheduleOptions};
use sam_learn::prompts::{ClickSimulator, DrawnObject, PassKind, PromptDraws};
use sam_learn::task::{
    DecoderGradients, EncoderInput, SegmentationStep, ShardPools, StepLosses, StepOptions, TrainingBatch,
};
use sam_model::init::initialise;
use sam_model::{ImageEncoderConfig, MaskDecoderConfig, PromptEncoderConfig, Sam, SamConfig, Variant, VitConfig};

use crate::time;

/// Only `vit_b`'s decoder learns, at 1024 px, from one image with 8 objects in 11 passes.
pub(crate) fn decoder_step(runs: usize) -> Vec<f64> {
    let device = Device::flex().autodiff();
    let sam = SamConfig::published(Variant::VitB).init(&device).expect("published sizes fit");
    let options = OptimiserOptions { freeze: vec!["image_encoder".to_owned()], ..OptimiserOptions::default() };
    let sam = choose_learning(initialise(sam, 0), &options).expect("a part");
    let embeddings = Tensor::random([1, 256, 64, 64], Distribution::Normal(0.0, 1.0), &Device::flex());
    let (batch, options) = (batch(1, 8, 1024, 256), step_options(Activations::Keep));
    steps(runs, sam, |sam| {
        let simulator = simulator(8, &sam_passes(), &batch.target, 1024);
        let step = SegmentationStep { sam, batch: &batch, options: &options, dropout_seed: 0 };
        let embeddings = Tensor::from_inner(embeddings.clone());
        let DecoderGradients { mut sums, losses, .. } = step.decoder_gradients(embeddings, simulator);
        (sums.grads(), losses)
    })
}

/// Everything of a small model learns, in two shards side by side: 8 images of 64 px, 4 objects each, 4 passes.
pub(crate) fn small_step(runs: usize) -> Vec<f64> {
    let (side, dim, width) = (64, 96, 64);
    let config = SamConfig {
        image_encoder: ImageEncoderConfig::Vit(VitConfig {
            image_size: side,
            patch_size: 8,
            embed_dim: dim,
            depth: 4,
            num_heads: 4,
            mlp_dim: 4 * dim,
            out_chans: width,
            window_size: 0,
            global_attn_indexes: (0..4).collect(),
            drop_path_rate: 0.0,
        }),
        prompt_encoder: PromptEncoderConfig { embed_dim: width, mask_in_chans: 16 },
        mask_decoder: MaskDecoderConfig {
            transformer_dim: width,
            depth: 2,
            num_heads: 8,
            mlp_dim: 8 * width,
            cross_dim: width / 2,
            num_multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden_dim: 256,
            dropout: 0.0,
        },
        text: None,
    };
    let device = Device::flex().autodiff();
    let sam = initialise(config.init(&device).expect("sizes fit"), 0);
    let (batch, options) = (batch(8, 32, side, 32), step_options(Activations::Keep));
    let passes = [PassKind::First, PassKind::Click, PassKind::Click, PassKind::Click];
    let (draws, pools) = (draws(32, &passes, side), ShardPools::new(2).expect("two threads"));
    steps(runs, sam, |sam| {
        let step = SegmentationStep { sam, batch: &batch, options: &options, dropout_seed: 0 };
        step.gradients_in_shards(&draws, &pools)
    })
}

/// Everything learns, at 1024 px, from one image with one object in 11 passes; a TinyViT with frozen statistics.
pub(crate) fn whole_step(variant: Variant, runs: usize, activations: Activations) -> Vec<f64> {
    let device = Device::flex().autodiff();
    let sam = initialise(SamConfig::published(variant).init(&device).expect("published sizes fit"), 0);
    let (batch, options) = (batch(1, 1, 1024, 256), step_options(activations));
    steps(runs, sam, |sam| {
        let step = SegmentationStep { sam, batch: &batch, options: &options, dropout_seed: 0 };
        step.gradients(simulator(1, &sam_passes(), &batch.target, 1024))
    })
}

fn step_options(activations: Activations) -> StepOptions {
    StepOptions {
        box_output: BoxOutput::Three,
        loss: LossOptions::default(),
        is_encoder_frozen: false,
        activations,
        objects_at_once: None,
    }
}

/// Gradients, clipping and AdamW, again and again.
fn steps(runs: usize, sam: Sam, gradients: impl Fn(&Sam) -> (GradientsParams, StepLosses)) -> Vec<f64> {
    let schedule = ScheduleOptions { steps: 1000, warmup_steps: 0, decay: LrDecay::Constant };
    let (mut optimiser, mut rates) = optimiser_and_rates(
        &sam,
        EncoderLayers::of(&sam.config().image_encoder),
        &OptimiserOptions { lr: 1e-4, ..Default::default() },
        &schedule,
        0,
    );
    let mut sam = Some(sam);
    time(runs, || {
        let model = sam.take().expect("put back after every step");
        let (grads, losses) = gradients(&model);
        let _ = losses.read();
        let (grads, _) = clip_by_global_norm(&model, grads, Some(1.0));
        let model = optimiser.step(rates.step(), model, grads);
        // Reading one number waits for the device.
        let _ = model.mask_decoder.iou_token.weight.val().sum().into_scalar::<f32>();
        sam = Some(model);
    })
}

fn sam_passes() -> Vec<PassKind> {
    let mut passes = vec![PassKind::First];
    passes.extend([PassKind::Click; 8]);
    passes.extend([PassKind::MaskOnly; 2]);
    passes
}

/// Discs at different places.
fn batch(images: usize, objects: usize, side: usize, mask_side: usize) -> TrainingBatch {
    let device = Device::flex();
    let per_image = objects / images;
    let mut masks = Vec::with_capacity(objects * mask_side * mask_side);
    for object in 0..objects {
        let (x, y) = ((object * 7 % 11 + 2) as f32 / 14.0, (object * 5 % 13 + 2) as f32 / 16.0);
        for at in 0..mask_side * mask_side {
            let [dx, dy] = [(at % mask_side) as f32, (at / mask_side) as f32].map(|place| place / mask_side as f32);
            masks.push(f32::from(u8::from((dx - x).hypot(dy - y) < 0.15)));
        }
    }
    TrainingBatch {
        input: EncoderInput::Images(Tensor::random([images, 3, side, side], Distribution::Normal(0.0, 1.0), &device)),
        image_of_object: (0..objects).map(|object| object / per_image).collect(),
        target: Target {
            masks: Tensor::from_data(TensorData::new(masks, [objects, 1, mask_side, mask_side]), &device),
            valid: None,
        },
        embedding_target: None,
    }
}

fn simulator(objects: usize, passes: &[PassKind], target: &Target, side: usize) -> ClickSimulator {
    ClickSimulator::new(draws(objects, passes, side), target, side)
}

/// Every other object begins with a box.
fn draws(objects: usize, passes: &[PassKind], side: usize) -> PromptDraws {
    let (near, far) = (side as f32 * 0.2, side as f32 * 0.6);
    let objects = (0..objects).map(|object| DrawnObject {
        text: None,
        box_xyxy_px: (object % 2 == 0).then_some([near, near, far, far]),
        places: (0..passes.len()).map(|pass| [(pass * 3 + object) as f32 * 0.31 % 1.0, 0.5, 0.5]).collect(),
        from_object: vec![false; passes.len()],
    });
    PromptDraws { passes: passes.to_vec(), objects: objects.collect() }
}
