//! Whole pre-training runs: they repeat to the bit, resume where they stopped, learn, name unreadable images, and leave an
//! encoder that a segmenter starts from.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::train::Interrupter;
use sam_data::ImageTree;
use sam_data::loader::{ErrorPolicy, LoaderOptions, Samples};
use sam_data::synth::{SynthOptions, SynthScenes};
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_infer::Precision;
use sam_learn::options::{
    Activations, LogOptions, LrDecay, MaeObjective, OptimiserOptions, PretrainOptions, RECONSTRUCTION_LOSS, RunOptions,
    ScheduleOptions, ValidationOptions,
};
use sam_learn::ranks::Alone;
use sam_learn::record::{Observer, RunEvent, SavedState, Scores};
use sam_learn::task::HeldOut;
use sam_learn::{Ending, LearnError, Outcome, Pretraining, RunInputs, n_device_reads, pretrain};
use sam_model::weights::{Checkpoint, MaeCheckpoint, StateDict};
use sam_model::{MaeConfig, MaeTarget};
use serde_json::Value;

use crate::fixture::{device, repeats_to_the_bit};

/// Not square on purpose.
const SIZE_HW: [usize; 2] = [24, 32];

fn config() -> MaeConfig {
    MaeConfig {
        image_size_hw: SIZE_HW,
        patch_size: 8,
        embed_dim: 32,
        depth: 2,
        num_heads: 2,
        mlp_dim: 64,
        decoder_embed_dim: 16,
        decoder_depth: 1,
        decoder_num_heads: 2,
        decoder_mlp_dim: 32,
    }
}

fn scenes(seed: u64, n_scenes: usize) -> Arc<dyn Samples> {
    let options = SynthOptions { side_px_min: 40, side_px_max: 60, ..SynthOptions::default() };
    Arc::new(SynthScenes { seed, first_index: 0, n_scenes, options })
}

struct Setting {
    options: PretrainOptions,
    samples: Arc<dyn Samples>,
    images: usize,
    stop_after: Option<u64>,
    skipped: Arc<Mutex<Vec<String>>>,
}

impl Setting {
    fn new(steps: u64) -> Self {
        let optimiser = OptimiserOptions {
            lr: 2e-3,
            weight_decay: 0.05,
            betas: [0.9, 0.95],
            clip_norm: None,
            ema_decay: None,
            ..OptimiserOptions::default()
        };
        let options = PretrainOptions {
            run: RunOptions {
                dir: PathBuf::new(),
                name: "test".into(),
                seed: 4,
                device: "cpu".into(),
                devices: Vec::new(),
                threads: 0,
                parallel: 1,
                precision: Precision::F32,
                activations: Activations::Keep,
            },
            mae: MaeObjective { mask_ratio: 0.75, target: MaeTarget::NormalisedPixels },
            optimiser,
            schedule: ScheduleOptions { steps, warmup_steps: 2, decay: LrDecay::Cosine { final_share: 0.0 } },
            validation: ValidationOptions {
                every_steps: 4,
                metric: RECONSTRUCTION_LOSS.into(),
                clicks: Vec::new(),
                boxes: false,
                texts: None,
                max_images: 0,
                patience: 0,
                baseline: true,
            },
            log: LogOptions { every_steps: 1, previews: 2, tensorboard: true },
        };
        Self { options, samples: scenes(1, 6), images: 4, stop_after: None, skipped: Arc::default() }
    }

    fn run(mut self, folder: &Path) -> Result<Outcome, LearnError> {
        self.options.run.dir = folder.to_owned();
        let interrupter = Interrupter::new();
        let observer: Box<dyn Observer> = {
            let (interrupter, stop_after, skipped) = (interrupter.clone(), self.stop_after, self.skipped);
            Box::new(move |event: &RunEvent| match event {
                RunEvent::Step(record) if Some(record.step) == stop_after => interrupter.stop(Some("the test")),
                RunEvent::Skipped { reason, .. } => skipped.lock().expect("no panic").push(reason.clone()),
                _ => {}
            })
        };
        let loader = LoaderOptions {
            n_images: NonZeroUsize::new(self.images).expect("not zero"),
            augmentation: Augmentation {
                resized_crop: Some(ResizedCrop::of_pretraining(SIZE_HW)),
                horizontal_flip_chance: 0.5,
                ..Augmentation::default()
            },
            on_error: ErrorPolicy::Skip,
            ..LoaderOptions::default()
        };
        let resume = SavedState::newest(&folder.join("checkpoints"))?.intact;
        let pretraining = Pretraining {
            options: self.options,
            inputs: RunInputs {
                samples: self.samples,
                loader,
                interrupter,
                observers: vec![observer],
                ranks: Arc::new(Alone),
            },
            held_out: Some(HeldOut { samples: scenes(2, 5), n_images: 5 }),
        };
        let mae = config().init(&device().autodiff()).expect("sizes fit");
        pretrain(sam_model::init::initialise_mae(mae, 3), pretraining, resume.as_ref())
    }
}

/// `metrics.jsonl` without times and memory.
fn lines(folder: &Path) -> Vec<BTreeMap<String, Value>> {
    let clock = ["elapsed_s", "eta_s", "images_per_s", "data_wait_share", "memory_mib", "took_s", "of_steps"];
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("written");
    let lines = text.lines().map(|line| {
        let mut record: BTreeMap<String, Value> = serde_json::from_str(line).expect("JSON");
        record.retain(|key, _| !clock.contains(&key.as_str()));
        record
    });
    lines.collect()
}

fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let dict = StateDict::open(&folder.join("last.safetensors")).expect("written");
    dict.tensors.keys().map(|key| (key.clone(), dict.read_f32(key).expect("readable"))).collect()
}

#[test]
fn a_resumed_pretraining_equals_an_uninterrupted_one() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let whole = Setting::new(10).run(folders[0].path()).expect("it runs");
    assert_eq!((whole.ending, whole.progress.step), (Ending::Finished, 10));
    let stopped = Setting { stop_after: Some(6), ..Setting::new(10) }.run(folders[1].path()).expect("it runs");
    assert_eq!((stopped.ending, stopped.progress.step), (Ending::Interrupted, 6));
    let resumed = Setting::new(10).run(folders[1].path()).expect("it resumes");
    assert_eq!(resumed.ending, Ending::Finished);
    assert_eq!(weights(folders[0].path()), weights(folders[1].path()), "to the bit");
    assert_eq!(lines(folders[0].path()), lines(folders[1].path()));
    let steps = lines(folders[0].path()).iter().filter(|line| line["event"] == "step").count();
    assert_eq!(steps, 10);
    for name in ["previews/step-00000010.png", "best.safetensors", "tensorboard"] {
        assert!(folders[0].path().join(name).exists(), "{name}");
    }
}

#[test]
fn pretraining_learns_and_a_segmenter_starts_from_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut setting = Setting { images: 8, samples: scenes(1, 64), ..Setting::new(60) };
    setting.options.validation.every_steps = 20;
    let outcome = setting.run(folder.path()).expect("it runs");
    let loss = |scores: &Option<Scores>| scores.as_ref().expect("validated").metrics["reconstruction_loss"];
    let (before, best) = (loss(&outcome.progress.baseline), loss(&outcome.progress.best));
    // A constant guess of each patch's mean has the loss 1 (with the unbiased variance a little less).
    assert!(before > 0.98 && best < 0.9 * before, "{before} to {best}");

    let written = MaeCheckpoint::open(&outcome.best).expect("recognised");
    assert_eq!(written.config, config());
    let mut checkpoint = Checkpoint::open(&outcome.best).expect("recognised");
    checkpoint.config.image_encoder.set_image_size(64);
    let (sam, report) = checkpoint.load_with(&checkpoint.default_options(), &device()).expect("it fits");
    assert_eq!((report.used, report.resized.len(), sam.image_size()), (2 * 12 + 3, 1, 64));
}

/// Two batches of half the images.
#[test]
fn accumulation_equals_a_larger_batch() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    Setting { images: 4, ..Setting::new(2) }.run(folders[0].path()).expect("it runs");
    let mut halves = Setting { images: 2, ..Setting::new(2) };
    halves.options.optimiser.accumulation = 2;
    halves.run(folders[1].path()).expect("it runs");
    let losses = |folder: &Path| -> Vec<f64> {
        let lines = lines(folder);
        lines
            .iter()
            .filter(|line| line["event"] == "step")
            .map(|line| line["loss"].as_f64().expect("a number"))
            .collect()
    };
    let [whole, halves] = [losses(folders[0].path()), losses(folders[1].path())];
    for (whole, halves) in whole.iter().zip(&halves) {
        assert!((whole - halves).abs() < 1e-5 * whole, "{whole} and {halves}");
    }
}

#[test]
fn unreadable_images_are_named_and_skipped() {
    let (data, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    for index in 0..5 {
        let scene = scenes(9, 5).sample(index).expect("a scene");
        scene.image.save(data.path().join(format!("{index}.png"))).expect("written");
    }
    std::fs::write(data.path().join("broken.png"), "not an image").expect("written");
    let tree = ImageTree::open(data.path(), &sam_data::SourceOptions::default()).expect("opens");
    assert_eq!(tree.len(), 6);
    let setting = Setting { samples: Arc::new(tree), ..Setting::new(4) };
    let skipped = Arc::clone(&setting.skipped);
    setting.run(folder.path()).expect("it runs");
    let skipped = skipped.lock().expect("no panic");
    assert!(!skipped.is_empty() && skipped.iter().all(|reason| reason.contains("broken.png")), "{skipped:?}");
}

/// The losses of all shards together and, unless it is the CPU, the norm of the gradients.
#[test]
fn a_step_of_pretraining_waits_for_the_device_once_for_the_loss_and_once_for_the_norm() {
    let reads = |steps: u64, n_shards: usize, activations: Activations| {
        let (folder, before) = (tempfile::tempdir().expect("a folder"), n_device_reads());
        let mut setting = Setting::new(steps);
        (setting.options.run.parallel, setting.options.run.activations) = (n_shards, activations);
        setting.run(folder.path()).expect("it runs");
        n_device_reads() - before
    };
    let of_norm = u64::from(!repeats_to_the_bit());
    for (n_shards, activations) in [(1, Activations::Keep), (1, Activations::Recompute), (2, Activations::Keep)] {
        assert_eq!(reads(3, n_shards, activations) - reads(2, n_shards, activations), 1 + of_norm);
    }
}

/// But for the rounding.
#[test]
fn activation_checkpointing_and_shards_do_not_change_the_loss() {
    let run = |n_shards: usize, activations: Activations| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut setting = Setting::new(4);
        (setting.options.run.parallel, setting.options.run.activations) = (n_shards, activations);
        setting.run(folder.path()).expect("it runs");
        lines(folder.path()).iter().filter_map(|line| line.get("loss")?.as_f64()).collect::<Vec<f64>>()
    };
    let stored = run(1, Activations::Keep);
    assert_eq!(stored.len(), 4);
    for other in [run(1, Activations::Recompute), run(3, Activations::Keep)] {
        assert_eq!(stored.len(), other.len());
        for (stored, other) in stored.iter().zip(&other) {
            assert!((stored - other).abs() < 1e-4 * stored, "{stored} and {other}");
        }
    }
}
