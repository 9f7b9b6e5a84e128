//! The inputs of a training: device, weights and data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::Device;
use sam_data::loader::{LoaderOptions, Samples, Subset};
use sam_data::{Source, Split};
use sam_eval::EvalSet;
use sam_infer::{DeviceError, DeviceName};
use sam_learn::options::LossResolution;
use sam_learn::task::Validation as Validated;
use sam_model::Sam;
use sam_model::device_check::check_backward;
use sam_model::weights::{Checkpoint, LoadOptions, LoadReport};

use crate::config::data_source::{DataSource, Validation};
use crate::config::files::FilesPlan;
use crate::config::model::ModelPlan;
use crate::config::run::protocols;
use crate::config::{TRAIN, TrainPlan, VALIDATION};
use crate::train::run_data::RunData;

/// Key of the validation images that are part of the training data.
const SPLIT: &str = "data.split";

/// The opened inputs of a plan.
pub(crate) struct OpenedInputs {
    pub(crate) sam: Sam,
    pub(crate) samples: Arc<dyn Samples>,
    pub(crate) loader: LoaderOptions,
    pub(crate) validation: Option<Validated>,
    /// Data sets on disk.
    pub(crate) data: Vec<RunData>,
    /// Messages to print before the run starts.
    pub(crate) notes: Vec<String>,
}

impl OpenedInputs {
    /// Opens everything; nothing is written.
    pub(crate) fn open(plan: &TrainPlan) -> Result<Self> {
        let mut notes = Vec::new();
        let device = open_device(&plan.run.device)?;
        let mut data = Vec::new();
        let (samples, validation) = open_data(plan, &mut notes, &mut data)?;
        let sam = open_model(plan, &device, &mut notes)?;
        let mask_side_px = match plan.loss.resolution {
            LossResolution::Low => sam.config().low_res_side(),
            LossResolution::Full => sam.image_size(),
        };
        let loader = plan.data.loader_options(plan.run.seed, sam.image_size(), mask_side_px);
        Ok(Self { sam, samples, loader, validation, data, notes })
    }
}

/// A device with gradients. On any device other than the CPU, gradients are tested before they are trusted.
pub(super) fn open_device(name: &str) -> Result<Device> {
    let name: DeviceName = name.parse()?;
    let device = name.open()?.autodiff();
    if name != DeviceName::Cpu {
        check_backward(&device).map_err(|fault| DeviceError::Wrong { device: name, fault })?;
    }
    Ok(device)
}

fn open_model(plan: &TrainPlan, device: &Device, notes: &mut Vec<String>) -> Result<Sam> {
    match &plan.model {
        ModelPlan::Scratch(config) => {
            let sam = sam_model::init::initialise(config.init(device)?, plan.run.seed);
            notes.push(format!("model: from scratch, {}", describe(&sam)));
            Ok(sam)
        }
        ModelPlan::Mae(from) => {
            let checkpoint = Checkpoint::open(&pretrained_file(&from.path))?;
            let file = checkpoint.dict.path.display();
            if checkpoint.is_segmenter() {
                bail!(
                    "{file}: must be a masked autoencoder for model.init = \"mae\", got a segmenter; give it as model.checkpoint"
                );
            }
            let options =
                LoadOptions { config: from.config.clone(), seed: plan.run.seed, ..checkpoint.default_options() };
            let (sam, report) = checkpoint.load_with(&options, device).context("model.mae")?;
            notes.push(format!("model: {file}, {}", describe(&sam)));
            notes.extend(load_report_lines(&report));
            Ok(sam)
        }
        ModelPlan::Checkpoint(from) => {
            let checkpoint = Checkpoint::open(&from.path)?;
            let mut options = checkpoint.default_options();
            options.seed = plan.run.seed;
            options.config.image_encoder.drop_path_rate = from.drop_path;
            options.config.mask_decoder.dropout = from.decoder_dropout;
            if let Some(image_size) = from.image_size {
                options.config.image_encoder.image_size = image_size;
            }
            options.config.check().with_context(|| format!("{}: model.image_size", from.path.display()))?;
            let (sam, report) = checkpoint.load_with(&options, device)?;
            notes.push(format!("model: {}, {}", from.path.display(), describe(&sam)));
            notes.extend(load_report_lines(&report));
            Ok(sam)
        }
    }
}

/// The checkpoint of a pre-training run, or the file itself.
pub(crate) fn pretrained_file(path: &Path) -> PathBuf {
    let of_run = path.join(sam_learn::record::BEST_FILE);
    if of_run.is_file() { of_run } else { path.to_owned() }
}

/// A line for each kind of tensor, with those of all blocks on one line.
pub(crate) fn load_report_lines(report: &LoadReport) -> Vec<String> {
    let LoadReport { used, dropped, fresh, resized, assumed, surroundings } = report;
    let mut lines = vec![format!("model: {used} tensors are loaded")];
    lines.extend(surroundings.iter().map(|note| format!("model: {note}")));
    lines.extend(assumed.iter().map(|assumed| format!("model: assumed: {assumed}")));
    lines.extend(
        resized.iter().map(|table| format!("model: {} is resized {:?} to {:?}", table.key, table.from, table.to)),
    );
    let grouped = |what: &str, keys: &mut dyn Iterator<Item = &String>| -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        keys.for_each(|key| *counts.entry(pattern_of(key)).or_default() += 1);
        counts.into_iter().map(|(pattern, n)| format!("model: {what}: {pattern} ({n})")).collect()
    };
    lines.extend(grouped("fresh", &mut fresh.iter()));
    lines.extend(grouped("not used", &mut dropped.iter().map(|(key, _)| key)));
    lines
}

/// A key with `*` for its indices; only the part for parts that are never pre-trained.
fn pattern_of(key: &str) -> String {
    let part = key.split('.').next().unwrap_or_default();
    if matches!(part, "prompt_encoder" | "mask_decoder") {
        return part.to_owned();
    }
    let parts = key.split('.').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

fn describe(sam: &Sam) -> String {
    use burn::module::Module;
    let config = &sam.config().image_encoder;
    let name = sam.config().variant().map_or_else(
        || format!("ViT {} x {}, patch {}", config.embed_dim, config.depth, config.patch_size),
        |variant| variant.name().to_owned(),
    );
    format!("{name}, {} px, {:.1} M parameters", config.image_size, sam.num_params() as f64 / 1e6)
}

fn open_data(
    plan: &TrainPlan,
    notes: &mut Vec<String>,
    data: &mut Vec<RunData>,
) -> Result<(Arc<dyn Samples>, Option<Validated>)> {
    let mut record = |key, files: &FilesPlan, source: &Source, indices: &[usize]| {
        data.push(RunData { key, path: files.path.clone(), identity: source.identity(indices) });
    };
    let (train, validation) = match &plan.data.train {
        DataSource::Synth(synth) => {
            notes.push(format!("trains on {} synthetic scenes", synth.n_scenes));
            (Arc::new(*synth) as Arc<dyn Samples>, None)
        }
        DataSource::Files(files) => {
            let source = open_files(files, notes)?;
            let split = match &plan.data.validation {
                Validation::Given => Some(Split::given(&source)?),
                Validation::Rule(rule) => Some(Split::by_rule(&source, rule)?),
                Validation::SplitFile(path) => Some(Split::load(&source, path)?),
                Validation::Files(_) | Validation::Synth(_) | Validation::Nothing => None,
            };
            let name = name_of(&files.path);
            match split {
                None => {
                    let n = source.len();
                    if n == 0 {
                        bail!("{}: there is no training image", files.path.display());
                    }
                    notes.push(format!("trains on {n} images of {}", files.path.display()));
                    record(TRAIN, files, &source, &Vec::from_iter(0..n));
                    (source as Arc<dyn Samples>, None)
                }
                Some(split) => {
                    let (train, val) = (split.train, split.val);
                    record(TRAIN, files, &source, &train);
                    record(SPLIT, files, &source, &val);
                    notes.push(format!(
                        "trains on {} images of {}, validates on {}",
                        train.len(),
                        files.path.display(),
                        val.len()
                    ));
                    let indices = train.iter().map(|&index| index as u32).collect();
                    let subset = Subset { samples: Arc::clone(&source) as Arc<dyn Samples>, indices };
                    let set = EvalSet { indices: val, ..EvalSet::new(&name, source.clone(), source.classes()) };
                    (Arc::new(subset) as Arc<dyn Samples>, Some(set))
                }
            }
        }
    };
    let set = match (&plan.data.validation, validation) {
        (Validation::Nothing, _) => {
            notes.push("validates on nothing: the last checkpoint is the best".to_owned());
            return Ok((train, None));
        }
        (_, Some(set)) => set,
        (Validation::Synth(synth), None) => {
            notes.push(format!("validates on {} synthetic scenes that are never trained on", synth.n_scenes));
            let scenes = Arc::new(*synth);
            EvalSet::new("scenes", scenes, &sam_data::synth::class_names())
        }
        (Validation::Files(files), None) => {
            let source = open_files(files, notes)?;
            notes.push(format!("validates on {} images of {}", source.len(), files.path.display()));
            record(VALIDATION, files, &source, &Vec::from_iter(0..source.len()));
            let classes = source.classes().to_vec();
            EvalSet::new(&name_of(&files.path), source, &classes)
        }
        (Validation::Given | Validation::Rule(_) | Validation::SplitFile(_), None) => {
            bail!("data.split needs data.train; synthetic scenes are held out by [data.validation_synth]")
        }
    };
    let set = if plan.validation.max_images > 0 { set.at_most(plan.validation.max_images) } else { set };
    if set.indices.is_empty() {
        return Err(anyhow!("there is no validation image; set data.validation, or a larger fraction in data.split"));
    }
    let validated = Validated { sets: vec![set], protocols: protocols(&plan.validation), n_threads: plan.data.workers };
    Ok((train, Some(validated)))
}

fn open_files(files: &FilesPlan, notes: &mut Vec<String>) -> Result<Arc<Source>> {
    let source = files.open()?;
    notes.extend(source.notes().iter().map(|note| format!("note: {note}")));
    Ok(source)
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
