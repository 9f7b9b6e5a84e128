//! scratch
use std::sync::Arc;
use burn::tensor::Device;
use sam_data::loader::{LoaderOptions, ObjectLimits};
use sam_data::synth::{SynthOptions, SynthScenes};
use sam_data::transforms::Augmentation;
use sam_eval::{EvalSet, Protocol, Start};
use sam_learn::options::*;
use sam_learn::*;
use sam_model::{ImageEncoderConfig, MaskDecoderConfig, PromptEncoderConfig, SamConfig};

fn v(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default)
}
fn u(name: &str, default: usize) -> usize {
    v(name, default as f64) as usize
}
fn main() {
    let device = Device::flex().autodiff();
    let (side, dim, depth, dec) = (u("SIDE", 64), u("DIM", 96), u("DEPTH", 4), u("DEC", 64));
    let config = SamConfig {
        image_encoder: ImageEncoderConfig {
            image_size: side, patch_size: u("PATCH", 8), embed_dim: dim, depth, num_heads: u("HEADS", 4), mlp_dim: u("MLP", 4) * dim,
            out_chans: dec, window_size: u("WINDOW", 0), global_attn_indexes: if u("WINDOW", 0) == 0 { (0..depth).collect() } else { vec![depth / 2 - 1, depth - 1] }, drop_path_rate: 0.0,
        },
        prompt_encoder: PromptEncoderConfig { embed_dim: dec, mask_in_chans: 16 },
        mask_decoder: MaskDecoderConfig {
            transformer_dim: dec, depth: 2, num_heads: u("DHEADS", 4), mlp_dim: u("DMLP", 256), cross_dim: u("CROSS", dec / 2),
            num_multimask_outputs: 3, iou_head_depth: 3, iou_head_hidden_dim: dec, dropout: 0.0,
        },
    };
    let sam = sam_model::init::initialise(config.init(&device).unwrap(), 1);
    let low = sam.config().low_res_side();
    let scenes = SynthOptions { side_px_min: u("SMIN", 64), side_px_max: u("SMAX", 64), noise_levels: v("NOISE", 5.0), thin_chance: v("THIN", 0.12), tiny_chance: v("TINY", 0.15), n_shapes_max: u("SHAPES", 7), ..SynthOptions::default() };
    let samples = Arc::new(SynthScenes { seed: 1, first_index: 0, n_scenes: u("SCENES", 20000), options: scenes });
    let val = Arc::new(SynthScenes { seed: 2, first_index: 0, n_scenes: u("VAL", 32), options: scenes });
    let limits = ObjectLimits { per_image_max: u("OBJ", 4), per_batch_max: u("OBJ", 4) * u("IMGS", 8), visible_px_min: u("VIS", 4), ..ObjectLimits::default() };
    let loader = LoaderOptions {
        seed: 0, n_images: u("IMGS", 8).try_into().unwrap(), side_px: side, mask_side_px: if u("FULL", 0) == 1 { side } else { low }, objects: limits,
        augmentation: Augmentation { horizontal_flip_chance: 0.5, vertical_flip_chance: 0.5, ..Augmentation::default() },
        n_workers: 1, n_prefetch_batches: 4, ..LoaderOptions::default()
    };
    let mut prompts = PromptOptions::preset(PromptPreset::Sam);
    prompts.correction_clicks = u("CLICKS", 2);
    prompts.mask_only_passes = u("MASKONLY", 0);
    let steps = u("STEPS", 300) as u64;
    let options = TrainOptions {
        seed: 0, prompts,
        loss: LossOptions { resolution: if u("FULL", 0) == 1 { LossResolution::Full } else { LossResolution::Low }, focal_weight: v("FOCAL", 20.0), focal_alpha: v("ALPHA", 0.25), iou_supervision: if u("IOUALL", 0) == 1 { IouSupervision::All } else { IouSupervision::Chosen }, ..LossOptions::default() },
        optimiser: OptimiserOptions { lr: v("LR", 1e-3), weight_decay: v("WD", 0.05), ema_decay: (v("EMA", 0.0) > 0.0).then(|| v("EMA", 0.0)), betas: [0.9, v("BETA2", 0.999)], clip_norm: Some(v("CLIP", 1.0)), ..OptimiserOptions::default() },
        schedule: ScheduleOptions { steps, warmup_steps: u("WARM", 50) as u64, decay: LrDecay::Cosine { final_share: 0.02 } },
        every_steps: u("EVERY", 300) as u64, baseline: false, metric: "miou_1_oracle".into(), patience: 0, n_previews: 4, tensorboard: false,
    };
    let click = Protocol { n_clicks: 3, ..Protocol::default() };
    let boxed = Protocol { start: Start::Box, n_clicks: 0, ..Protocol::default() };
    let folder = std::path::PathBuf::from(std::env::var("OUT").unwrap_or("/tmp/quick".into()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let every = u("LOG", 100) as u64;
    let training = Training {
        options, folder, samples, loader,
        validation: Some(Validation { sets: vec![EvalSet::new("val", val, &[])], protocols: vec![click.into(), boxed.into()], n_threads: 1 }),
        interrupter: Default::default(),
        listener: Arc::new(move |event: &RunEvent| match event {
            RunEvent::Step(r) if r.step % every == 0 => println!("{} loss {:.3} norm {:.2} {:.1} img/s wait {:.2} {:.0}s {:?}", r.step, r.loss, r.grad_norm, r.images_per_s, r.data_wait_share, r.elapsed_s, r.segmentation),
            RunEvent::Validated(r) => println!("== {} took {:.1}s {:?}", r.scores.step, r.took_s, ["miou_1", "miou_1_oracle", "miou_2", "miou_3", "miou_box"].map(|m| format!("{m} {:.3}", r.scores.metrics.get(m).copied().unwrap_or(-1.0)))),
            _ => {}
        }),
        terminal_view: false,
    };
    let outcome = train(sam, training, None).unwrap();
    println!("{:?}", outcome.ending);
}
