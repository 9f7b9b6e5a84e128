//! Whole runs of the loop: they repeat to the bit, resume where they stopped, accumulate to the mean, overfit four images, and
//! report what went wrong.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::train::Interrupter;
use sam_data::loader::{LoaderOptions, ObjectLimits};
use sam_data::synth::{SynthOptions, SynthScenes};
use sam_eval::{EvalSet, FirstMasks, Protocol, Start};
use sam_infer::Precision;
use sam_learn::options::{
    Activations, IouSupervision, LogOptions, LoraOptions, LossOptions, LrDecay, OptimiserOptions, PromptOptions,
    PromptPreset, RunOptions, ScheduleOptions, TrainOptions, ValidationOptions,
};
use sam_learn::ranks::Alone;
use sam_learn::record::{Observer, RunEvent, SavedState};
use sam_learn::task::Validation;
use sam_learn::{Ending, LearnError, Outcome, RunInputs, Training, n_device_reads, train};
use sam_model::weights::StateDict;
use sam_model::{ImageEncoderConfig, MaskDecoderConfig, PromptEncoderConfig, Sam, SamConfig, VitConfig};
use serde_json::Value;

use crate::fixture::{assert_same_weights, device, path, repeats_to_the_bit, vit_config};

pub(crate) const SIDE: usize = 32;

pub(crate) fn small_sam(side: usize, dim: usize, width: usize) -> Sam {
    // Not zero on purpose: a run must repeat these draws, too.
    small_sam_with(side, dim, width, 0.1)
}

/// `dropped`: the rates of drop path and dropout.
pub(crate) fn small_sam_with(side: usize, dim: usize, width: usize, dropped: f64) -> Sam {
    let config = SamConfig {
        image_encoder: ImageEncoderConfig::Vit(VitConfig {
            image_size: side,
            patch_size: 8,
            embed_dim: dim,
            depth: 2,
            num_heads: 2,
            mlp_dim: 4 * dim,
            out_chans: width,
            window_size: 2,
            global_attn_indexes: vec![1],
            drop_path_rate: dropped,
        }),
        prompt_encoder: PromptEncoderConfig { embed_dim: width, mask_in_chans: 4 },
        mask_decoder: MaskDecoderConfig {
            transformer_dim: width,
            depth: 1,
            num_heads: 2,
            mlp_dim: 2 * width,
            cross_dim: width / 2,
            num_multimask_outputs: 3,
            iou_head_depth: 2,
            iou_head_hidden_dim: width,
            dropout: dropped,
        },
        text: None,
    };
    sam_model::init::initialise(config.init(&device().autodiff()).expect("sizes fit"), 3)
}

fn scenes(seed: u64, n_scenes: usize, side: usize) -> SynthScenes {
    let options = SynthOptions {
        side_px_min: side,
        side_px_max: side,
        n_shapes_min: 2,
        n_shapes_max: 3,
        thin_chance: 0.0,
        tiny_chance: 0.0,
        ..SynthOptions::default()
    };
    SynthScenes { seed, first_index: 0, n_scenes, options }
}

fn options(steps: u64) -> TrainOptions {
    TrainOptions {
        run: RunOptions {
            dir: PathBuf::new(),
            name: "test".into(),
            seed: 11,
            device: "cpu".into(),
            devices: Vec::new(),
            threads: 0,
            parallel: 1,
            precision: Precision::F32,
            activations: Activations::Keep,
        },
        prompts: PromptOptions { correction_clicks: 2, ..PromptOptions::preset(PromptPreset::Sam) },
        loss: LossOptions::default(),
        lora: None,
        optimiser: OptimiserOptions { lr: 1e-3, ema_decay: Some(0.9), layer_decay: 0.8, ..OptimiserOptions::default() },
        schedule: ScheduleOptions { steps, warmup_steps: 3, decay: LrDecay::Cosine { final_share: 0.1 } },
        validation: ValidationOptions {
            every_steps: 4,
            metric: "miou_1_oracle".into(),
            clicks: vec![1],
            boxes: true,
            texts: None,
            max_images: 0,
            patience: 0,
            baseline: true,
        },
        log: LogOptions { every_steps: 1, previews: 1, tensorboard: true },
    }
}

fn loader(images: usize) -> LoaderOptions {
    LoaderOptions {
        n_images: NonZeroUsize::new(images).expect("not zero"),
        side_px: SIDE,
        mask_side_px: SIDE / 2,
        objects: ObjectLimits { per_image_max: 3, ..ObjectLimits::default() },
        ..LoaderOptions::default()
    }
}

fn inputs(loader: LoaderOptions) -> RunInputs {
    RunInputs {
        samples: Arc::new(scenes(1, 5, SIDE)),
        loader,
        interrupter: Interrupter::new(),
        observers: Vec::new(),
        ranks: Arc::new(Alone),
    }
}

pub(crate) struct Setting {
    pub(crate) options: TrainOptions,
    pub(crate) loader: LoaderOptions,
    /// After which step Ctrl-C comes.
    pub(crate) stop_after: Option<u64>,
    /// After which step the device has no memory left.
    pub(crate) full_after: Option<u64>,
}

impl Setting {
    pub(crate) fn new(steps: u64) -> Self {
        Self { options: options(steps), loader: loader(2), stop_after: None, full_after: None }
    }

    pub(crate) fn run(mut self, folder: &Path) -> Result<Outcome, LearnError> {
        self.options.run.dir = folder.to_owned();
        let resume = SavedState::newest(&folder.join("checkpoints"))?.intact;
        train(small_sam(SIDE, 16, 16), self.training(Interrupter::new()), resume.as_ref())
    }

    /// The inputs of a run by itself, in the folder of the options.
    pub(crate) fn training(self, interrupter: Interrupter) -> Training {
        let stop: Box<dyn Observer> = {
            let (interrupter, stop_after, full_after) = (interrupter.clone(), self.stop_after, self.full_after);
            Box::new(move |event: &RunEvent| {
                if let RunEvent::Step(record) = event
                    && Some(record.step) == full_after
                {
                    // As burn panics where it reads a result.
                    panic!(
                        "Error while reading data: WithContext {{ reason: \"out of device memory allocating 9 bytes\\n..\" }}"
                    );
                }
                if let RunEvent::Step(record) = event
                    && Some(record.step) == stop_after
                {
                    interrupter.stop(Some("the test"));
                }
            })
        };
        let protocols = vec![
            Protocol { n_clicks: 1, ..Protocol::default() }.into(),
            Protocol { start: Start::Box, n_clicks: 0, ..Protocol::default() }.into(),
        ];
        let sets = vec![EvalSet::new("scenes", Arc::new(scenes(2, 2, SIDE)), &[])];
        Training {
            options: self.options,
            inputs: RunInputs { interrupter, observers: vec![stop], ..inputs(self.loader) },
            validation: Some(Validation { sets, also: Vec::new(), protocols, text: None, n_threads: 1 }),
            embeddings: None,
            distillation: None,
            texts: None,
        }
    }
}

/// `metrics.jsonl` without times and memory.
fn lines(folder: &Path) -> Vec<BTreeMap<String, Value>> {
    let clock = ["elapsed_s", "eta_s", "images_per_s", "data_wait_share", "memory_mib", "took_s", "of_steps"];
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("written");
    text.lines()
        .map(|line| {
            let mut record: BTreeMap<String, Value> = serde_json::from_str(line).expect("JSON");
            record.retain(|key, _| !clock.contains(&key.as_str()));
            record
        })
        .collect()
}

pub(crate) fn assert_same_lines(one: &Path, other: &Path) {
    let (one, other) = (lines(one), lines(other));
    assert_eq!(one.len(), other.len(), "as many lines");
    for (one, other) in one.iter().zip(&other) {
        if repeats_to_the_bit() {
            assert_eq!(one, other);
            continue;
        }
        assert!(one.keys().eq(other.keys()), "{one:?} and {other:?}");
        // Scores of a few objects jump where a pixel flips, so only losses are compared.
        let loss = |line: &BTreeMap<String, Value>| line.get("loss").and_then(Value::as_f64);
        let (one, other) = (loss(one).unwrap_or(0.0), loss(other).unwrap_or(0.0));
        assert!((one - other).abs() <= 1e-2 * one.abs(), "a loss of {one} and one of {other}");
    }
}

pub(crate) fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).expect("written")
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The losses of each batch together and, unless it is the CPU, the norm of the step's gradients.
#[test]
fn a_step_waits_for_the_device_once_for_losses_and_once_for_the_norm() {
    let reads = |steps: u64, accumulation: usize| {
        let (folder, before) = (folder(), n_device_reads());
        let mut setting = Setting::new(steps);
        setting.options.optimiser.accumulation = accumulation;
        setting.run(folder.path()).expect("it runs");
        n_device_reads() - before
    };
    let of_norm = u64::from(!repeats_to_the_bit());
    for accumulation in [1, 2] {
        assert_eq!(reads(3, accumulation) - reads(2, accumulation), accumulation as u64 + of_norm);
    }
}

#[test]
fn runs_repeat_and_resume_to_the_bit() {
    let (whole, again, resumed) = (folder(), folder(), folder());
    let outcome = Setting::new(10).run(whole.path()).expect("it runs");
    assert_eq!((outcome.ending, outcome.progress.step), (Ending::Finished, 10));
    Setting::new(10).run(again.path()).expect("it runs");

    // Ctrl-C in the middle of an interval, at its end, and then until the end.
    for (stop_after, ending) in
        [(Some(2), Ending::Interrupted), (Some(8), Ending::Interrupted), (None, Ending::Finished)]
    {
        let outcome = Setting { stop_after, ..Setting::new(10) }.run(resumed.path()).expect("it resumes");
        assert_eq!((outcome.ending, outcome.progress.step), (ending, stop_after.unwrap_or(10)));
    }
    for other in [again.path(), resumed.path()] {
        assert_same_lines(whole.path(), other);
        for name in ["best.safetensors", "last.safetensors"] {
            assert_same_weights(&whole.path().join(name), &other.join(name));
        }
    }
    // Ten steps, the baseline, and validations after 4, 8 and 10.
    assert_eq!(lines(whole.path()).len(), 14);
    let left: Vec<_> = std::fs::read_dir(whole.path().join("checkpoints")).expect("a folder").flatten().collect();
    assert_eq!(left.len(), 2, "the newest save and the one before remain: {left:?}");
    assert!(std::fs::read_dir(whole.path().join("tensorboard")).expect("a folder").next().is_some());
}

#[test]
fn a_device_without_memory_is_an_error_that_loses_no_save() {
    let (whole, full) = (folder(), folder());
    Setting::new(6).run(whole.path()).expect("it runs");
    let error = Setting { full_after: Some(5), ..Setting::new(6) }.run(full.path()).expect_err("no memory");
    assert!(matches!(&error, LearnError::OutOfMemory { step: 6, .. }), "{error}");
    assert!(error.to_string().contains("(out of device memory allocating 9 bytes)"), "{error}");
    Setting::new(6).run(full.path()).expect("it resumes");
    assert_same_weights(&whole.path().join("last.safetensors"), &full.path().join("last.safetensors"));
}

/// Leftover of a process that was killed while saving; no process has this id.
const UNFINISHED: &str = "checkpoints/.writing-99999999-x";

#[test]
fn a_killed_run_resumes_from_its_last_save() {
    let (whole, killed) = (folder(), folder());
    Setting::new(6).run(whole.path()).expect("it runs");
    Setting { stop_after: Some(5), ..Setting::new(6) }.run(killed.path()).expect("it stops");
    // As after `kill -9` in step 6: lines of steps that were never saved, and a save that was never finished.
    let log = killed.path().join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&log).expect("written");
    text.push_str("{\"event\":\"step\",\"step\":6,\"loss\":1.0}\n{\"event\":\"st");
    std::fs::write(&log, text).expect("written");
    std::fs::create_dir(killed.path().join(UNFINISHED)).expect("made");
    Setting::new(6).run(killed.path()).expect("it resumes");
    assert_same_lines(whole.path(), killed.path());
    assert!(!killed.path().join(UNFINISHED).exists());
}

/// Objects have equal weights, whether they are in one batch or in two.
#[test]
fn two_batches_of_one_image_are_one_of_two() {
    let weights = |images: usize, accumulation: usize| {
        let run = folder();
        let mut setting = Setting { loader: loader(images), ..Setting::new(3) };
        setting.options.optimiser.accumulation = accumulation;
        setting.options.optimiser.ema_decay = None;
        setting.options.loss.iou_weight = 1.0;
        setting.options.run.dir = run.path().to_owned();
        let mut sam = small_sam(SIDE, 16, 16).config().clone();
        sam.image_encoder.set_drop_path_rate(0.0);
        sam.mask_decoder.dropout = 0.0;
        let sam = sam_model::init::initialise(sam.init(&device().autodiff()).expect("sizes fit"), 3);
        let training = Training {
            options: setting.options,
            inputs: inputs(setting.loader),
            validation: None,
            embeddings: None,
            distillation: None,
            texts: None,
        };
        train(sam, training, None).expect("it runs");
        let losses: Vec<f64> = lines(run.path()).iter().filter_map(|line| line["loss"].as_f64()).collect();
        let dict = StateDict::open(&run.path().join("last.safetensors")).expect("written");
        (losses, dict.read_f32("image_encoder.blocks.1.attn.qkv.weight").expect("f32"))
    };
    let ((one_losses, one), (two_losses, two)) = (weights(2, 1), weights(1, 2));
    assert_eq!(one_losses.len(), 3);
    for (a, b) in one_losses.iter().zip(&two_losses) {
        assert!((a - b).abs() < 1e-4 * a, "{one_losses:?} {two_losses:?}");
    }
    let off = one.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Three steps of at most 1e-3: rounding may flip the sign of a gradient near zero, and with it Adam's step.
    assert!(off < 2e-4, "weights differ by {off}");
}

/// A run without dropout and drop path but what the adapters have, each batch in shards.
pub(crate) fn run_in_shards(run: &Path, n_shards: usize, lora: Option<LoraOptions>) -> Result<Outcome, LearnError> {
    let mut config = small_sam(SIDE, 16, 16).config().clone();
    config.image_encoder.set_drop_path_rate(0.0);
    config.mask_decoder.dropout = 0.0;
    let sam = sam_model::init::initialise(config.init(&device().autodiff()).expect("sizes fit"), 3);
    let mut options = TrainOptions { lora, ..options(3) };
    (options.run.dir, options.run.parallel) = (run.to_owned(), n_shards);
    train(
        sam,
        Training {
            options,
            inputs: inputs(loader(4)),
            validation: None,
            embeddings: None,
            distillation: None,
            texts: None,
        },
        None,
    )
}

/// Shards change the rounding and nothing else, and repeat to the bit.
#[test]
fn a_batch_in_shards_equals_the_batch() {
    let run_with = |n_shards: usize| {
        let run = folder();
        run_in_shards(run.path(), n_shards, None).expect("it runs");
        let losses: Vec<f64> = lines(run.path()).iter().filter_map(|line| line["loss"].as_f64()).collect();
        (losses, bytes(run.path(), "last.safetensors"))
    };
    let (whole, shards, again) = (run_with(1), run_with(3), run_with(3));
    assert!(!repeats_to_the_bit() || shards == again, "equal shards, equal runs");
    for (whole, shards) in whole.0.iter().zip(&shards.0) {
        assert!((whole - shards).abs() < 1e-4 * whole, "{whole} in one, {shards} in three");
    }
    // Each shard has draws of its own.
    let dropped = [(); 2].map(|()| {
        let (run, mut setting) = (folder(), Setting::new(2));
        setting.options.run.parallel = 2;
        setting.run(run.path()).expect("it runs");
        bytes(run.path(), "last.safetensors")
    });
    assert!(!repeats_to_the_bit() || dropped[0] == dropped[1], "equal seeds, equal draws");
}

/// Dropped paths and dropout included.
#[test]
fn a_run_with_activation_checkpointing_repeats_to_the_bit() {
    let run = || {
        let run = folder();
        let mut setting = Setting::new(4);
        setting.options.run.activations = Activations::Recompute;
        setting.run(run.path()).expect("it runs");
        run
    };
    let (one, other) = (run(), run());
    assert_same_weights(&one.path().join("last.safetensors"), &other.path().join("last.safetensors"));
}

/// The loss of the first twenty steps, saved in a file: any change of recipe, data or model shows here.
///
/// To save a new curve after an intended change: `KEEP_LOSS_CURVE=1 cargo test --release loss_curve`.
#[test]
fn the_loss_curve_equals_the_saved_one() {
    let run = folder();
    Setting::new(20).run(run.path()).expect("it runs");
    let losses: Vec<f64> = lines(run.path()).iter().filter_map(|line| line.get("loss")?.as_f64()).collect();
    let saved = path("training/loss_curve.json");
    if std::env::var_os("KEEP_LOSS_CURVE").is_some() {
        std::fs::write(&saved, serde_json::to_string_pretty(&losses).expect("numbers") + "\n").expect("written");
    }
    let expected: Vec<f64> = serde_json::from_str(&std::fs::read_to_string(&saved).expect("saved")).expect("numbers");
    assert_eq!(losses.len(), expected.len());
    for (step, (got, expected)) in losses.iter().zip(&expected).enumerate() {
        // CPUs with wider vectors add in another order, and twenty steps amplify that.
        assert!((got - expected).abs() < 5e-3 * expected, "step {}: {got}, saved {expected}", step + 1);
    }
}

#[test]
fn a_non_finite_loss_stops_the_run_and_names_step_and_samples() {
    let run = folder();
    let mut setting = Setting::new(8);
    setting.options.optimiser.lr = 1e38;
    setting.options.optimiser.clip_norm = None;
    setting.options.schedule.warmup_steps = 0;
    let error = setting.run(run.path()).expect_err("the run must diverge").to_string();
    for part in ["step 2", "scene", "learning rate"] {
        assert!(error.contains(part), "must say `{part}`: {error}");
    }
}

#[test]
fn a_frozen_part_does_not_change() {
    let run = folder();
    let mut setting = Setting::new(2);
    setting.options.optimiser.freeze = vec!["image_encoder".into(), "*iou_prediction_head*".into()];
    setting.options.optimiser.ema_decay = None;
    setting.run(run.path()).expect("it runs");
    let dict = StateDict::open(&run.path().join("last.safetensors")).expect("written");
    let before = sam_model::weights::named_tensors(&small_sam(SIDE, 16, 16));
    let (mut same, mut changed) = (0, 0);
    for tensor in before {
        let is_same = dict.read_f32(&tensor.key).expect("f32") == tensor.values();
        let is_frozen = tensor.key.starts_with("image_encoder") || tensor.key.contains("iou_prediction_head");
        assert!(is_same || !is_frozen, "{} is frozen", tensor.key);
        if is_same { same += 1 } else { changed += 1 }
    }
    assert!(same > 40 && changed > 40, "{same} same, {changed} changed");
    let mut setting = Setting::new(2);
    setting.options.optimiser.freeze = vec!["image_encodr".into()];
    let error = setting.run(folder().path()).expect_err("a slip").to_string();
    assert!(error.contains("image_encodr") && error.contains("matches no parameter"), "{error}");
}

#[test]
fn a_run_stops_early_without_improvement() {
    let run = folder();
    let mut setting = Setting::new(40);
    setting.options.optimiser.lr = 0.0;
    setting.options.validation.patience = 2;
    let outcome = setting.run(run.path()).expect("it runs");
    assert_eq!((outcome.ending, outcome.progress.step), (Ending::EarlyStopped, 12));
    assert_eq!(outcome.progress.best.expect("the first").step, 4);
}

#[test]
fn a_model_overfits_four_images() {
    const SIDE: usize = 64;
    let run = folder();
    let mut options = options(OVERFIT_STEPS);
    options.prompts = PromptOptions { mask_only_passes: 0, ..PromptOptions::preset(PromptPreset::Box) };
    options.prompts.box_noise.side_share = 0.0;
    // Otherwise scores of masks that are never chosen are arbitrary, and so is the most confident mask.
    options.loss.iou_supervision = IouSupervision::All;
    options.optimiser = OptimiserOptions { lr: 3e-3, weight_decay: 0.0, ..OptimiserOptions::default() };
    options.schedule.warmup_steps = 20;
    options.validation.every_steps = OVERFIT_STEPS;
    options.validation.metric = "miou_box".into();
    options.validation.baseline = false;
    let mut config = small_sam(SIDE, 64, 32).config().clone();
    config.image_encoder.set_drop_path_rate(0.0);
    config.mask_decoder.dropout = 0.0;
    config.mask_decoder.depth = 2;
    config.mask_decoder.num_heads = 4;
    // Masks at the resolution of the images.
    let vit = vit_config(&mut config);
    (vit.patch_size, vit.window_size, vit.global_attn_indexes) = (4, 0, vec![0, 1]);
    let sam = sam_model::init::initialise(config.init(&device().autodiff()).expect("sizes fit"), 3);
    let samples = Arc::new(scenes(21, 4, SIDE));
    let last_step = Arc::new(AtomicU64::new(0));
    let protocols = vec![
        Protocol { start: Start::Box, n_clicks: 0, first_masks: FirstMasks::MostConfident, ..Protocol::default() }
            .into(),
    ];
    options.run.dir = run.path().to_owned();
    let training = Training {
        options,
        inputs: RunInputs {
            samples: samples.clone(),
            observers: vec![{
                let last_step = Arc::clone(&last_step);
                Box::new(move |event: &RunEvent| {
                    if let RunEvent::Step(record) = event {
                        last_step.store(record.step, Ordering::Relaxed);
                    }
                })
            }],
            ..inputs(LoaderOptions { side_px: SIDE, mask_side_px: SIDE, ..loader(4) })
        },
        validation: Some(Validation {
            sets: vec![EvalSet::new("the same", samples, &[])],
            also: Vec::new(),
            protocols,
            text: None,
            n_threads: 1,
        }),
        embeddings: None,
        distillation: None,
        texts: None,
    };
    let outcome = train(sam, training, None).expect("it runs");
    assert_eq!(last_step.load(Ordering::Relaxed), OVERFIT_STEPS);
    let metrics = outcome.progress.best.expect("validated").metrics;
    assert!(metrics["miou_box"] > 0.95, "{metrics:?}");
}

/// More than enough for four images.
const OVERFIT_STEPS: u64 = 700;
