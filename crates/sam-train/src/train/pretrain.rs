//! `task = "pretrain"`: a plan becomes a run folder, as in a training.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::tensor::Device;
use burn::train::Interrupter;
use sam_data::loader::{LoaderOptions, Samples, Subset};
use sam_data::random::{Purpose, RandomStream};
use sam_data::{ImageTree, SourceOptions};
use sam_files::Fingerprint;
use sam_learn::options::PretrainOptions;
use sam_learn::record::SavedState;
use sam_learn::task::HeldOut;
use sam_learn::{Outcome, Pretraining, RunInputs, measure_pretraining, pretrain, pretrain_on, profile_pretraining};
use sam_model::MaskedAutoencoder;
use sam_model::init::initialise_mae;
use sam_model::weights::{Dtype, ExportFormat, ExportReport, MaeCheckpoint, MaeExportOptions, MaeParts, export_mae};

use crate::bench::{Benched, Work};
use crate::cli::RunArguments;
use crate::config::data_source::DataSource;
use crate::config::pretrain::{HeldOutPlan, SourceKind};
use crate::config::{PretrainPlan, TRAIN, Task, VALIDATION};
use crate::failure::{BadInput, Failure};
use crate::progress::Waiting;
use crate::survey::DropOption;
use crate::team::Team;
use crate::train::console::Kind;
use crate::train::estimate::{RunLength, measured};
use crate::train::inputs::open_devices;
use crate::train::run_data::{Identity, RunData};
use crate::train::run_folder::RunFolder;

use crate::train::session::{RunSession, Sections, of_learning, print_lines, use_threads};
use crate::train::{checkpoint_file, load_report_lines};

/// The encoder alone under timm's names, for other programs.
const ENCODER_FILE: &str = "encoder.pth";

/// The opened inputs of a plan.
struct Opened {
    mae: MaskedAutoencoder,
    /// On which it trains; the weights are on the first.
    devices: Vec<Device>,
    samples: Arc<dyn Samples>,
    held_out: Option<HeldOut>,
    /// Messages to print before the run starts.
    notes: Vec<String>,
    /// Data sets on disk.
    data: Vec<RunData>,
}

impl Opened {
    fn open(plan: &PretrainPlan) -> Result<Self> {
        let (mut notes, mut data) = (Vec::new(), Vec::new());
        let devices = open_devices(&plan.run, &mut notes)?;
        let mae = open_model(plan, &devices[0], &mut notes)?;
        let (samples, held_out) = open_data(plan, &mut notes, &mut data)?;
        Ok(Self { mae, devices, samples, held_out, notes, data })
    }

    fn estimate(&self, plan: &PretrainPlan) -> Result<Vec<String>, Failure> {
        let measured = measured(|| {
            let inputs = RunInputs::unobserved(
                Arc::clone(&self.samples),
                loader_options(plan, &self.samples),
                Interrupter::new(),
            );
            let held_out = self.held_out.clone();
            measure_pretraining(self.mae.clone(), Pretraining { options: options(plan), inputs, held_out })
        })?;
        let length = RunLength {
            run: &plan.run,
            optimiser: &plan.optimiser,
            schedule: &plan.schedule,
            validation: &plan.validation,
            n_exports: 1,
            n_images: self.samples.n_samples(),
            embeddings: None,
        };
        Ok(measured.map_or_else(Vec::new, |measured| length.lines(&measured)))
    }
}

/// Runs a pre-training.
pub(crate) fn run_plan(
    plan: &PretrainPlan,
    folder: RunFolder,
    arguments: &RunArguments,
    team: &Team,
) -> Result<(), Failure> {
    let sections = Sections { run: &plan.run, log: &plan.log, validation: &plan.validation };
    let mut session = RunSession::new(folder, sections, arguments, team)?;
    let opened = Opened::open(plan).bad_input()?;
    session.announce(&opened.notes, &opened.data)?;
    session.announce_end(plan.schedule.steps);
    session.estimate(|| opened.estimate(plan))?;
    session.start(&Task::Pretrain.to_toml(plan)?, &opened.data)?;
    let loader = loader_options(plan, &opened.samples);
    let inputs = session.inputs(opened.samples, loader);
    let pretraining = Pretraining { options: options(plan), inputs, held_out: opened.held_out };
    let learn = |resume: Option<&SavedState>| pretrain_on(&opened.devices, &opened.mae, pretraining, resume);
    session.run(learn, |outcome| finish(&session, outcome))
}

/// As [`super::check()`].
pub(crate) fn check(plan: &PretrainPlan, resolved: &str) -> Result<(), Failure> {
    use_threads(plan.run.threads)?;
    let opened = Opened::open(plan).bad_input()?;
    super::check::print(&opened.notes, &opened.estimate(plan)?, resolved)
}

/// As [`super::dry_run`].
pub(crate) fn dry_run(plan: &PretrainPlan) -> Result<(), Failure> {
    use_threads(plan.run.threads)?;
    let opened = Opened::open(plan).bad_input()?;
    print_lines(&opened.notes)?;
    print_lines(&opened.estimate(plan)?)?;
    let learn = |shortened: &super::check::Shortened, resume: Option<&SavedState>| {
        let mut options = options(plan);
        shortened.apply(&mut options.run, &mut options.schedule, &mut options.validation);
        let inputs = shortened.inputs(&opened.samples, &loader_options(plan, &opened.samples));
        let held_out =
            opened.held_out.clone().map(|held_out| HeldOut { n_images: held_out.n_images.min(1), ..held_out });
        pretrain(opened.mae.clone(), Pretraining { options, inputs, held_out }, resume)
    };
    super::check::dry_run(&plan.run, learn, |folder, outcome| export_encoder(folder, outcome).map(drop))
}

/// As [`super::profile`].
pub(crate) fn profile(plan: &PretrainPlan, n_steps: usize) -> Result<Benched, Failure> {
    use_threads(plan.run.threads)?;
    let opened = Opened::open(plan).bad_input()?;
    let inputs =
        RunInputs::unobserved(Arc::clone(&opened.samples), loader_options(plan, &opened.samples), Interrupter::new());
    let work = Work::of_pretraining(&opened.mae, plan);
    let (device, what) = (opened.mae.device(), opened.notes.first().cloned().unwrap_or_default());
    let pretraining = Pretraining { options: options(plan), inputs, held_out: None };
    let profile = profile_pretraining(opened.mae, pretraining, n_steps).map_err(of_learning)?;
    Ok(Benched { what, device, device_name: plan.run.device.clone(), profile, work, shards: plan.run.parallel })
}

/// How the images are loaded, in the order of their shards if they are in the cloud.
fn loader_options(plan: &PretrainPlan, samples: &Arc<dyn Samples>) -> LoaderOptions {
    LoaderOptions { shards: samples.shard_order(), ..plan.loader_options() }
}

fn options(plan: &PretrainPlan) -> PretrainOptions {
    PretrainOptions {
        run: plan.run.clone(),
        mae: plan.mae.clone(),
        optimiser: plan.optimiser.clone(),
        schedule: plan.schedule.clone(),
        validation: plan.validation.clone(),
        log: plan.log.clone(),
    }
}

fn export_encoder(folder: &Path, outcome: &Outcome) -> Result<ExportReport> {
    let (mae, _) = MaeCheckpoint::open(&outcome.best)?.load(0, &burn::tensor::Device::flex())?;
    let options = MaeExportOptions { format: ExportFormat::Pth, dtype: Dtype::F32, parts: MaeParts::Encoder };
    Ok(export_mae(&mae, options, &folder.join(ENCODER_FILE))?)
}

/// Exports the encoder for other programs, and prints the next steps.
fn finish(session: &RunSession<'_>, outcome: &Outcome) -> Result<(), Failure> {
    let encoder = export_encoder(session.folder(), outcome)?;
    let shown = session.folder().display();
    let print = |text: String| session.console().print(Kind::Result, &text);
    print(format!("best checkpoint: {}", outcome.best.display()));
    print(format!("encoder only:    {} ({} tensors)", encoder.path.display(), encoder.tensors));
    print(format!("train from it:   model.init = \"mae\" and model.mae = \"{shown}\" in a training's configuration"));
    print(format!("probe it:        sam-train probe --checkpoint {shown} --data LABELLED"));
    Ok(())
}

fn open_model(plan: &PretrainPlan, device: &Device, notes: &mut Vec<String>) -> Result<MaskedAutoencoder> {
    let config = &plan.model.config;
    let [height, width] = config.image_size_hw;
    let kept = sam_model::RandomMasking::n_kept(config.n_patches(), plan.mae.mask_ratio);
    let what = format!(
        "ViT {} x {}, patch {}, {height} x {width} px; the encoder sees {kept} of {} patches",
        config.embed_dim,
        config.depth,
        config.patch_size,
        config.n_patches()
    );
    let Some(path) = &plan.model.mae else {
        notes.push(format!("model: from scratch, {what}"));
        return Ok(initialise_mae(config.init(device)?, plan.run.seed));
    };
    let file = checkpoint_file(path);
    let (mae, report) = MaeCheckpoint::open(&file)?.load_with(config, plan.run.seed, device)?;
    notes.push(format!("model: {}, {what}", file.display()));
    notes.extend(load_report_lines(&report));
    Ok(mae)
}

fn open_data(
    plan: &PretrainPlan,
    notes: &mut Vec<String>,
    data: &mut Vec<RunData>,
) -> Result<(Arc<dyn Samples>, Option<HeldOut>)> {
    let mut record = |key: &str, path: &Path, identity| {
        data.push(RunData { key: key.to_owned(), path: path.to_owned(), identity: Identity::Data(identity) });
    };
    let (samples, names): (Arc<dyn Samples>, Option<Names>) = match &plan.data.train {
        DataSource::Synth(synth) => (Arc::new(*synth), None),
        DataSource::Several(_) => bail!("a pre-training has one source of images: data.train"),
        DataSource::Files(files) if plan.data.kind == SourceKind::Images => {
            let _waiting = Waiting::reading(&files.path);
            let tree = Arc::new(ImageTree::open(&files.path, &files.options)?);
            record(TRAIN, &files.path, tree.identity());
            let names = Arc::clone(&tree);
            (tree, Some(Box::new(move |index| names.name(index).to_owned())))
        }
        DataSource::Files(files) => {
            let _waiting = Waiting::reading(&files.path);
            let source = files.open().map_err(|error| DropOption::Key.advise(error))?;
            record(TRAIN, &files.path, source.identity(&Vec::from_iter(0..source.len())));
            let names = Arc::clone(&source);
            (source, Some(Box::new(move |index| names.name(index))))
        }
    };
    let n = samples.n_samples();
    if n == 0 {
        bail!("data.train: there is no training image");
    }
    let (samples, held_out) = match (&plan.data.held_out, names) {
        (HeldOutPlan::Nothing, _) => (samples, None),
        (HeldOutPlan::Images(path), _) => {
            // Read as the training images are.
            let options = match &plan.data.train {
                DataSource::Files(files) => files.options.clone(),
                DataSource::Synth(_) | DataSource::Several(_) => SourceOptions::default(),
            };
            let tree = ImageTree::open(path, &options)?;
            record(VALIDATION, path, tree.identity());
            (samples, Some(Arc::new(tree) as Arc<dyn Samples>))
        }
        (HeldOutPlan::Synth(synth), _) => (samples, Some(Arc::new(*synth) as Arc<dyn Samples>)),
        (HeldOutPlan::Share(share), names) => hold_out(&samples, names, plan.run.seed, *share)?,
    };
    notes.push(format!("trains on {} images", samples.n_samples()));
    let held_out = held_out
        .map(|held_out| HeldOut { n_images: plan.validation.max_images.min(held_out.n_samples()), samples: held_out });
    notes.push(match &held_out {
        Some(held_out) => format!("validates on {} images that are never trained on", held_out.n_images),
        None => "validates on nothing: the last checkpoint is the best".to_owned(),
    });
    Ok((samples, held_out))
}

type Names = Box<dyn Fn(usize) -> String>;

/// Training and held-out images.
type Parts = (Arc<dyn Samples>, Option<Arc<dyn Samples>>);

/// Held out by a hash of the name, so that adding images never moves others.
fn hold_out(samples: &Arc<dyn Samples>, names: Option<Names>, seed: u64, share: f64) -> Result<Parts> {
    let place = |index: usize| {
        let key = names.as_ref().map_or(index as u64, |names| {
            let mut hash = Fingerprint::new(0);
            hash.add_bytes(names(index).as_bytes());
            hash.value()
        });
        RandomStream::new(seed, Purpose::Split, &[key]).unit()
    };
    let n = samples.n_samples();
    if n < 2 {
        bail!("data.hold_out: must leave images to train on and to validate on, got {n} in all; add images");
    }
    let mut places: Vec<(f64, u32)> = (0..n).map(|index| (place(index), index as u32)).collect();
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    // Neither part of a small data set is empty.
    let n_held_out = places.partition_point(|&(place, _)| place < share).clamp(1, n - 1);
    let [mut held_out, mut kept] = [&places[..n_held_out], &places[n_held_out..]]
        .map(|part| part.iter().map(|&(_, index)| index).collect::<Vec<_>>());
    held_out.sort_unstable();
    kept.sort_unstable();
    let subset = |indices| Arc::new(Subset { samples: Arc::clone(samples), indices }) as Arc<dyn Samples>;
    Ok((subset(kept), Some(subset(held_out))))
}
