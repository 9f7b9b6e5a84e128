//! The inputs of a training: device, weights and data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::Device;
use sam_data::loader::{ErrorPolicy, LoaderOptions, Samples, Subset};
use sam_data::{DataError, ImageTree, Joined, OnBad, Share, Source, Split, SplitOrigin, SplitRule};
use sam_eval::EvalSet;
use sam_infer::clip::Clip;
use sam_infer::{DeviceError, DeviceName};
use sam_learn::Distillation;
use sam_learn::embeddings::FrozenEmbeddings;
use sam_learn::optim::adapt;
use sam_learn::options::{LossResolution, RunOptions};
use sam_learn::task::Validation as Validated;
use sam_learn::texts::config_of;
use sam_model::device_check::check_backward;
use sam_model::lora::AdapterFile;
use sam_model::weights::{Checkpoint, Layout, LoadOptions, LoadReport, fingerprint};
use sam_model::{ImageEncoderConfig, Sam, SamConfig, TextPromptConfig};

use crate::config::also::{ALSO, AlsoPlan};
use crate::config::data_source::{DataSource, Validation, WeightedSource};
use crate::config::files::FilesPlan;
use crate::config::model::ModelPlan;
use crate::config::pretrain::SourceKind;
use crate::config::run::protocols;
use crate::config::{CLIP, Plan, TEACHER, TRAIN, TrainPlan, VALIDATION};
use crate::names::unique;
use crate::survey::{DataLosses, Purpose, SurveyedSource, lines};
use crate::team::device_of_process;
use crate::train::run_data::{Identity, RunData};
use crate::train::run_folder::PLAN;
use crate::train::session::advised;
use crate::train::teacher::{Taught, open_teacher, teachers_sets};
use crate::train::texts::{open_clip, validation_texts};

/// Key of the validation images that are part of the training data.
const SPLIT: &str = "data.split";

/// The opened inputs of a plan.
pub(crate) struct OpenedInputs {
    pub(crate) sam: Sam,
    /// On which it trains; the weights are on the first.
    pub(crate) devices: Vec<Device>,
    /// Of a distillation.
    pub(crate) teacher: Option<Sam>,
    /// Of text prompts.
    pub(crate) clip: Option<Clip>,
    pub(crate) samples: Arc<dyn Samples>,
    pub(crate) loader: LoaderOptions,
    pub(crate) validation: Option<Validated>,
    /// Data sets on disk, and the networks beside the one that learns.
    pub(crate) data: Vec<RunData>,
    /// Messages to print before the run starts.
    pub(crate) notes: Vec<String>,
    /// What the data sets lose.
    pub(crate) losses: Vec<DataLosses>,
}

impl OpenedInputs {
    /// Opens everything; nothing is written.
    pub(crate) fn open(plan: &TrainPlan) -> Result<Self> {
        let mut notes = Vec::new();
        let devices = open_devices(&plan.run, &mut notes)?;
        let device = devices[0].clone();
        let OpenedData { train: samples, shares, mut validation, record } = OpenedData::open(plan, &mut notes)?;
        let DataRecord { losses, mut data } = record;
        let clip = plan.prompts.text.as_ref();
        let clip = clip.map(|text| open_clip(text, &device, &mut notes)).transpose()?;
        if let (Some(clip), Some(text)) = (&clip, &plan.prompts.text) {
            let identity = Identity::weights(clip.fingerprint());
            data.push(RunData { key: CLIP.to_owned(), path: text.clip.clone(), identity });
        }
        if let (Some(clip), Some(validation)) = (&clip, &mut validation) {
            validation.text = validation_texts(plan, clip, &validation.sets, &mut notes)?;
        }
        let sam = open_model(plan, &device, clip.as_ref().map(config_of), &mut notes)?;
        let (sam, teacher) = match &plan.distil {
            Some(distil) => {
                let Taught { student, teacher } = open_teacher(plan, distil, sam, &mut notes)?;
                let identity = Identity::weights(fingerprint(&teacher));
                data.push(RunData { key: TEACHER.to_owned(), path: distil.teacher.clone(), identity });
                if let Some(validation) = &mut validation {
                    validation.also.extend(teachers_sets(&validation.sets, &teacher));
                }
                (student, Some(teacher))
            }
            None => (sam, None),
        };
        let mask_side_px = match plan.loss.resolution {
            LossResolution::Low => sam.config().low_res_side(),
            LossResolution::Full => sam.image_size(),
        };
        let loader = plan.data.loader_options(plan.run.seed, sam.image_size(), mask_side_px);
        let loader = LoaderOptions { shares, shards: samples.shard_order(), ..loader };
        Ok(Self { sam, devices, teacher, clip, samples, loader, validation, data, notes, losses })
    }

    /// The segmenter whose embeddings a run may keep: the teacher, where there is one.
    pub(super) fn embedding_sam(&self) -> &Sam {
        self.teacher.as_ref().unwrap_or(&self.sam)
    }

    /// What is learned from the teacher, where there is one.
    pub(super) fn distillation(
        &self,
        plan: &TrainPlan,
        embeddings: Option<Arc<FrozenEmbeddings>>,
    ) -> Option<Distillation> {
        let (teacher, distil) = (self.teacher.clone()?, plan.distil.as_ref()?);
        Some(Distillation { teacher, options: distil.options.clone(), embeddings })
    }
}

/// A device with gradients. On any device other than the CPU, gradients are tested before they are trusted.
pub(crate) fn open_device(name: &str) -> Result<Device> {
    let name: DeviceName = name.parse()?;
    let device = name.open()?.autodiff();
    if name != DeviceName::Cpu {
        check_backward(&device).map_err(|fault| DeviceError::Wrong { device: name, fault })?;
    }
    Ok(device)
}

/// The devices of a run, at least one; sets the precision of the process.
pub(crate) fn open_devices(run: &RunOptions, notes: &mut Vec<String>) -> Result<Vec<Device>> {
    let names = match run.devices.as_slice() {
        [] | [_] => vec![device_of_process(&run.device)],
        several => several.to_vec(),
    };
    let devices = names.iter().map(|name| open_device(name)).collect::<Result<Vec<Device>>>()?;
    for (name, device) in names.iter().zip(&devices) {
        let in_use = run.precision.use_for_training(name.parse()?, device)?;
        notes.extend(in_use.note.filter(|note| !notes.contains(note)));
    }
    Ok(devices)
}

/// The network with its first weights; `text` is the text prompt that it learns, if any.
fn open_model(
    plan: &TrainPlan,
    device: &Device,
    text: Option<TextPromptConfig>,
    notes: &mut Vec<String>,
) -> Result<Sam> {
    match &plan.model {
        ModelPlan::Scratch(config) => {
            let config = SamConfig { text, ..config.clone() };
            let sam = sam_model::init::initialise(config.init(device)?, plan.run.seed);
            notes.push(format!("model: from scratch, {}", describe(&sam)));
            Ok(sam)
        }
        ModelPlan::Mae(from) | ModelPlan::TinyVit(from) => {
            let (init, expected) = match &plan.model {
                ModelPlan::TinyVit(_) => ("tiny_vit", "a TinyViT that classifies"),
                _ => ("mae", "a masked autoencoder"),
            };
            let checkpoint = Checkpoint::open(&checkpoint_file(&from.path))?;
            let file = checkpoint.dict.path.display();
            if checkpoint.kind() != expected {
                let instead = match checkpoint.is_segmenter() {
                    true => "give it as model.checkpoint",
                    false => "change model.init",
                };
                bail!("{file}: must be {expected} for model.init = \"{init}\", got {}; {instead}", checkpoint.kind());
            }
            let config = SamConfig { text, ..from.config.clone() };
            let options = LoadOptions { config, seed: plan.run.seed, ..checkpoint.default_options() };
            let (sam, report) = checkpoint.load_with(&options, device).with_context(|| format!("model.{init}"))?;
            notes.push(format!("model: {file}, {}", describe(&sam)));
            notes.extend(load_report_lines(&report));
            Ok(sam)
        }
        ModelPlan::Checkpoint(from) => {
            let file = checkpoint_file(&from.path);
            let checkpoint = Checkpoint::open(&file)?;
            if !checkpoint.is_segmenter() {
                let (init, sizes) = match checkpoint.layout {
                    Layout::Mae => ("mae", " and model.variant or [model.sizes]"),
                    _ => ("tiny_vit", ""),
                };
                bail!(
                    "{}: must be a segmenter for model.checkpoint, got {}; train a segmenter from it with \
                     model.init = \"{init}\", model.{init} = \"{}\"{sizes}",
                    file.display(),
                    checkpoint.kind(),
                    from.path.display()
                );
            }
            let mut options = checkpoint.default_options();
            options.seed = plan.run.seed;
            options.config.image_encoder.set_drop_path_rate(from.drop_path);
            options.config.mask_decoder.dropout = from.decoder_dropout;
            if let Some(batch_norm) = from.batch_norm {
                let Some(tiny) = options.config.image_encoder.tiny_vit_mut() else {
                    bail!("{}: model.batch_norm is for a TinyViT; this model has no batch norms", file.display());
                };
                tiny.batch_norm = batch_norm;
            }
            // A text prompt that does not learn any more stays what it is.
            if text.is_some() {
                options.config.text = text;
            }
            if let Some(image_size) = from.image_size {
                options.config.image_encoder.set_image_size(image_size);
            }
            options.config.check().with_context(|| format!("{}: model.image_size", file.display()))?;
            let (sam, report) = checkpoint.load_with(&options, device)?;
            notes.push(format!("model: {}, {}", file.display(), describe(&sam)));
            notes.extend(load_report_lines(&report));
            with_adapters(sam, plan, from.adapter.as_deref(), notes)
        }
    }
}

/// The adapters of an earlier training: as adapters where they learn on, else merged into the weights.
fn with_adapters(sam: Sam, plan: &TrainPlan, adapter: Option<&Path>, notes: &mut Vec<String>) -> Result<Sam> {
    let Some(path) = adapter else { return Ok(sam) };
    let file = AdapterFile::open(&adapter_folder(path)).context("model.adapter")?;
    let (sam, what) = match &plan.lora {
        Some(lora) => {
            let adapted = adapt(sam, lora, plan.run.seed, Some(&file));
            (adapted.map_err(|error| anyhow!("{}", advised(&error)))?, "continued")
        }
        None => (file.merge_into(sam).context("model.adapter")?, "merged"),
    };
    notes.push(format!("model: adapters of {} layers of {} are {what}", file.layers.len(), file.path.display()));
    Ok(sam)
}

/// The adapters of the best checkpoint of a run, for the path of its folder; any other path itself.
pub(crate) fn adapter_folder(path: &Path) -> PathBuf {
    let of_run = path.join(sam_learn::record::ADAPTER_FOLDER);
    if AdapterFile::is_folder_of(&of_run) { of_run } else { path.to_owned() }
}

/// The best checkpoint of a run or the one in use of an annotation project, for the path of its folder; any other path itself.
pub(crate) fn checkpoint_file(path: &Path) -> PathBuf {
    let best = |path: &Path| {
        let of_run = path.join(sam_learn::record::BEST_FILE);
        of_run.is_file().then_some(of_run)
    };
    // A damaged project is named when the folder cannot be opened as a checkpoint.
    let of_project = || {
        let in_use = sam_engine::Project::checkpoint_of(path).ok()??;
        Some(best(&in_use).unwrap_or(in_use))
    };
    best(path).or_else(of_project).unwrap_or_else(|| path.to_owned())
}

/// The plan of the run that a checkpoint is from: its folder, or a file in it.
pub(crate) fn plan_of_run(checkpoint: &Path) -> Option<Plan> {
    let folder = if checkpoint.is_dir() { checkpoint } else { checkpoint.parent()? };
    let file = folder.join(PLAN);
    if file.is_file() { Plan::saved(&file).ok() } else { None }
}

/// A line for each kind of tensor, with those of all blocks on one line.
pub(crate) fn load_report_lines(report: &LoadReport) -> Vec<String> {
    let LoadReport { used, dropped, fresh, resized, assumed, notes } = report;
    let mut lines = vec![format!("model: {used} tensors are loaded")];
    lines.extend(notes.iter().map(|note| format!("model: {note}")));
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
    // One line for all counters of batch norms.
    if key.ends_with(".num_batches_tracked") {
        return "*.num_batches_tracked".to_owned();
    }
    let parts = key.split('.').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

pub(super) fn describe(sam: &Sam) -> String {
    use burn::module::Module;
    let config = &sam.config().image_encoder;
    let name = match (sam.config().variant(), config) {
        (Some(variant), _) => variant.name().to_owned(),
        (None, ImageEncoderConfig::Vit(vit)) => {
            format!("ViT {} x {}, patch {}", vit.embed_dim, vit.depth, vit.patch_size)
        }
        (None, ImageEncoderConfig::TinyVit(tiny)) => {
            let widths = tiny.embed_dims.map(|width| width.to_string());
            format!("TinyViT {}, {} blocks", widths.join("-"), tiny.depth())
        }
    };
    format!("{name}, {} px, {:.1} M parameters", config.image_size(), sam.num_params() as f64 / 1e6)
}

/// What is kept of the data sets on disk: for the report, and for a resume.
#[derive(Default)]
struct DataRecord {
    losses: Vec<DataLosses>,
    data: Vec<RunData>,
}

impl DataRecord {
    /// Records the identity of some images.
    fn identify(&mut self, key: &str, files: &FilesPlan, surveyed: &SurveyedSource, indices: &[usize]) {
        let key = key.to_owned();
        self.data.push(RunData {
            key,
            path: files.path.clone(),
            identity: Identity::Data(surveyed.source.identity(indices)),
        });
    }
}

/// Training and validation data, and what is known of them.
struct OpenedData {
    train: Arc<dyn Samples>,
    /// Of several data sets.
    shares: Vec<Share>,
    validation: Option<Validated>,
    record: DataRecord,
}

impl OpenedData {
    fn open(plan: &TrainPlan, notes: &mut Vec<String>) -> Result<Self> {
        let mut record = DataRecord::default();
        let TrainedSets { samples: train, shares, held_out: of_train } = match &plan.data.train {
            DataSource::Files(files) if plan.data.source == SourceKind::Images => {
                let tree = Arc::new(ImageTree::open(&files.path, &files.options)?);
                if tree.n_samples() == 0 {
                    bail!("{}: there is no training image", files.path.display());
                }
                record.data.push(RunData {
                    key: TRAIN.to_owned(),
                    path: files.path.clone(),
                    identity: Identity::Data(tree.identity()),
                });
                notes.push(format!("trains on {} images of {}", tree.n_samples(), files.path.display()));
                TrainedSets { samples: tree, shares: Vec::new(), held_out: Vec::new() }
            }
            DataSource::Synth(synth) => {
                notes.push(format!("trains on {} synthetic scenes", synth.n_scenes));
                TrainedSets { samples: Arc::new(*synth), shares: Vec::new(), held_out: Vec::new() }
            }
            DataSource::Files(files) => {
                let part = TrainedPart { files, split: Some(&plan.data.validation), keys: [TRAIN, SPLIT] };
                let (samples, held_out) = open_training(plan, &part, notes, &mut record)?;
                TrainedSets { samples, shares: Vec::new(), held_out: held_out.into_iter().collect() }
            }
            DataSource::Several(sources) => open_sources(plan, sources, notes, &mut record)?,
        };
        let sets = match &plan.data.validation {
            Validation::Nothing if !plan.also.is_empty() => {
                bail!(
                    "[[{ALSO}]] needs validation data of the run's own, which chooses the best checkpoint; none is given"
                )
            }
            Validation::Nothing => {
                notes.push("validates on nothing: the last checkpoint is the best".to_owned());
                return Ok(Self { train, shares, validation: None, record });
            }
            _ if !of_train.is_empty() => of_train,
            Validation::Synth(synth) => {
                notes.push(format!("validates on {} synthetic scenes that are never trained on", synth.n_scenes));
                let scenes = Arc::new(*synth);
                vec![HeldOut { set: EvalSet::new("scenes", scenes, &sam_data::synth::class_names()), surveyed: None }]
            }
            Validation::Files(files) => {
                let surveyed = open_files(plan, files, notes, &mut record)?;
                let source = Arc::clone(&surveyed.source);
                notes.push(format!("validates on {} images of {}", source.len(), files.path.display()));
                record.identify(VALIDATION, files, &surveyed, &Vec::from_iter(0..source.len()));
                let classes = source.classes().to_vec();
                let set = EvalSet::new(&name_of(&files.path), source, &classes);
                vec![HeldOut { set, surveyed: Some(surveyed.into()) }]
            }
            Validation::Auto
            | Validation::Given
            | Validation::Rule(_)
            | Validation::SplitFile(_)
            | Validation::OfSources => {
                bail!("data.split needs data.train; synthetic scenes are held out by [data.validation_synth]")
            }
        };
        let max_images = plan.validation.max_images.div_ceil(sets.len());
        let sets = sets.into_iter().map(|set| set.checked(max_images)).collect::<Result<_>>()?;
        let also = plan.also.iter().enumerate();
        let also = also.map(|(at, set)| open_also(plan, at, set, notes, &mut record)).collect::<Result<_>>()?;
        let (protocols, n_threads) = (protocols(&plan.validation), plan.data.workers);
        Ok(Self { train, shares, validation: Some(Validated { sets, also, protocols, text: None, n_threads }), record })
    }
}

/// Data that is validated on beside the run's own.
fn open_also(
    plan: &TrainPlan,
    at: usize,
    also: &AlsoPlan,
    notes: &mut Vec<String>,
    record: &mut DataRecord,
) -> Result<EvalSet> {
    let AlsoPlan { name, files, max_images } = also;
    let surveyed = open_files(plan, files, notes, record)?;
    let source = Arc::clone(&surveyed.source);
    record.identify(&format!("{ALSO}[{at}]"), files, &surveyed, &Vec::from_iter(0..source.len()));
    let classes = source.classes().to_vec();
    let set = EvalSet::new(name, source, &classes);
    let set = HeldOut { set, surveyed: Some(surveyed.into()) }.checked(*max_images)?;
    notes.push(format!("validates on {} images of {}, too, as \"{name}\"", set.indices.len(), files.path.display()));
    Ok(set)
}

/// All training data.
struct TrainedSets {
    samples: Arc<dyn Samples>,
    /// Of several data sets.
    shares: Vec<Share>,
    /// What they hold out.
    held_out: Vec<HeldOut>,
}

/// Several data sets with their shares of the draws, and what each holds out.
fn open_sources(
    plan: &TrainPlan,
    sources: &[WeightedSource],
    notes: &mut Vec<String>,
    record: &mut DataRecord,
) -> Result<TrainedSets> {
    let is_auto = plan.data.validation == Validation::OfSources && sources.iter().all(|source| source.split.is_none());
    let default = is_auto.then_some(&Validation::Auto);
    let total: f64 = sources.iter().map(|source| source.weight).sum();
    let (mut sets, mut shares, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
    for (at, WeightedSource { weight, files, split }) in sources.iter().enumerate() {
        let keys = [format!("data.sources[{at}]"), format!("data.sources[{at}].split")];
        let part = TrainedPart { files, split: split.as_ref().or(default), keys: [&keys[0], &keys[1]] };
        let (set, held) = open_training(plan, &part, notes, record)?;
        if let Some(note) = notes.last_mut() {
            note.push_str(&format!("; {:.1} % of the training images drawn", 100.0 * weight / total));
        }
        shares.push(Share { n_samples: set.n_samples(), weight: *weight, shards: set.shard_order() });
        sets.push(set);
        held_out.extend(held);
    }
    let names = |name: &dyn Fn(&HeldOut) -> String| held_out.iter().map(name).collect::<Vec<String>>();
    let paths = names(&|held: &HeldOut| {
        held.surveyed.as_ref().map_or_else(String::new, |surveyed| surveyed.source.root().display().to_string())
    });
    let names = unique(names(&|held: &HeldOut| held.set.name.to_string()), paths);
    for (held, name) in held_out.iter_mut().zip(names) {
        held.set.name = name.into();
    }
    Ok(TrainedSets { samples: Arc::new(Joined::new(sets)), shares, held_out })
}

/// The validation data, before its images are chosen.
struct HeldOut {
    set: EvalSet,
    /// What was seen of it, for data on disk.
    surveyed: Option<Arc<SurveyedSource>>,
}

impl HeldOut {
    /// At most `max_images` of the images that can be read (0: all); some must have an object.
    fn checked(self, max_images: usize) -> Result<EvalSet> {
        let Self { mut set, surveyed } = self;
        if set.indices.is_empty() {
            bail!("there is no validation image; set data.validation, or a larger fraction in data.split");
        }
        let remedy = "without one, nothing can be measured: give other validation data, or data.validation = \"none\"";
        if let Some(surveyed) = &surveyed {
            surveyed.require_objects(&set.indices, "to validate on", remedy)?;
            set.indices.retain(|&index| surveyed.survey.is_readable(index));
        }
        let set = if max_images > 0 { set.at_most(max_images) } else { set };
        if let Some(surveyed) = &surveyed {
            surveyed.require_objects(&set.indices, "to validate on (validation.max_images)", remedy)?;
        }
        Ok(set)
    }
}

/// A data set that is trained on, and perhaps in part held out.
struct TrainedPart<'a> {
    files: &'a FilesPlan,
    split: Option<&'a Validation>,
    /// The keys of the images that are trained on and of those that are held out.
    keys: [&'a str; 2],
}

/// Training data on disk, and the part of it that is held out.
fn open_training(
    plan: &TrainPlan,
    part: &TrainedPart<'_>,
    notes: &mut Vec<String>,
    record: &mut DataRecord,
) -> Result<(Arc<dyn Samples>, Option<HeldOut>)> {
    let TrainedPart { files, split, keys: [train_key, split_key] } = *part;
    let surveyed = Arc::new(open_files(plan, files, notes, record)?);
    let source = Arc::clone(&surveyed.source);
    let split = match split {
        Some(Validation::Auto) => Some(suggested(&source, notes)?),
        Some(Validation::Given) => Some(Split::given(&source)?),
        Some(Validation::Rule(rule)) => Some(Split::by_rule(&source, rule).map_err(advise_parts)?),
        Some(Validation::SplitFile(path)) => Some(Split::load(&source, path)?),
        Some(Validation::Files(_) | Validation::Synth(_) | Validation::Nothing | Validation::OfSources) | None => None,
    };
    let shown = files.path.display();
    let remedy = "nothing can be learned from them";
    let Some(split) = split else {
        let n = source.len();
        if n == 0 {
            bail!("{shown}: there is no training image");
        }
        let all = Vec::from_iter(0..n);
        surveyed.require_objects(&all, "to train on", remedy)?;
        record.identify(train_key, files, &surveyed, &all);
        notes.push(format!("trains on {n} images of {shown}"));
        return Ok((source, None));
    };
    let Split { train, val, .. } = split;
    surveyed.require_objects(&train, "to train on", remedy)?;
    record.identify(train_key, files, &surveyed, &train);
    record.identify(split_key, files, &surveyed, &val);
    notes.push(format!("trains on {} images of {shown}, validates on {}", train.len(), val.len()));
    let indices = train.iter().map(|&index| index as u32).collect();
    let subset = Subset { samples: Arc::clone(&source) as Arc<dyn Samples>, indices };
    let classes = source.classes().to_vec();
    let set = EvalSet { indices: val, ..EvalSet::new(&name_of(&files.path), source, &classes) };
    Ok((Arc::new(subset), Some(HeldOut { set, surveyed: Some(surveyed) })))
}

/// `data.split = "auto"`, and how it was decided.
fn suggested(source: &Source, notes: &mut Vec<String>) -> Result<Split> {
    let rule = SplitRule::default();
    let (split, origin) = Split::suggested(source, &rule)?;
    notes.push(match origin {
        SplitOrigin::Given => "data.split = \"auto\": the data set has its own train and val".to_owned(),
        SplitOrigin::Fractions => {
            format!("data.split = \"auto\": about {:.0} % of the images are held out for validation", 100.0 * rule.val)
        }
    });
    Ok(split)
}

/// Adds the keys that use the parts of a data set.
fn advise_parts(error: DataError) -> anyhow::Error {
    match error {
        DataError::OwnParts { .. } => {
            anyhow!(
                "{error}: data.split = \"given\"; or data.part = \"train\", of which data.split holds a fraction out"
            )
        }
        error => error.into(),
    }
}

fn open_files(
    plan: &TrainPlan,
    files: &FilesPlan,
    notes: &mut Vec<String>,
    record: &mut DataRecord,
) -> Result<SurveyedSource> {
    let skips_unreadable = plan.data.on_unreadable == ErrorPolicy::Skip || files.options.bad == OnBad::Drop;
    let surveyed = SurveyedSource::open(files, Purpose::Training { skips_unreadable })?;
    notes.extend(surveyed.source.notes().iter().map(|note| format!("note: {note}")));
    let name = files.path.display().to_string();
    notes.extend(lines(&name, &surveyed.survey.losses));
    record.losses.push(DataLosses { name, losses: surveyed.survey.losses.clone() });
    Ok(surveyed)
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
