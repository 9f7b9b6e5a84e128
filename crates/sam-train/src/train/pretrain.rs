//! `task = "pretrain"`: a plan becomes a run folder, as in a training.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use sam_data::loader::{Samples, Subset};
use sam_data::random::{Purpose, RandomStream};
use sam_data::{ImageTree, SourceOptions};
use sam_files::Fingerprint;
use sam_learn::options::PretrainOptions;
use sam_learn::task::HeldOut;
use sam_learn::{Outcome, Pretraining, pretrain};
use sam_model::MaskedAutoencoder;
use sam_model::init::initialise_mae;
use sam_model::weights::{Dtype, ExportFormat, MaeCheckpoint, MaeExportOptions, MaeParts, export_mae};

use crate::cli::RunArguments;
use crate::config::data_source::DataSource;
use crate::config::pretrain::{HeldOutPlan, SourceKind};
use crate::config::{PretrainPlan, TRAIN, Task, VALIDATION};
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::Waiting;
use crate::survey::DropOption;
use crate::train::inputs::open_device;
use crate::train::run_data::RunData;
use crate::train::run_folder::RunFolder;
use crate::train::session::RunSession;
use crate::train::{checkpoint_file, load_report_lines};

/// The encoder alone under timm's names, for other programs.
const ENCODER_FILE: &str = "encoder.pth";

/// Runs a pre-training.
pub(crate) fn run_plan(plan: &PretrainPlan, folder: RunFolder, arguments: &RunArguments) -> Result<(), Failure> {
    let mut session = RunSession::new(folder, &plan.run, &plan.log, arguments)?;
    let mut notes = Vec::new();
    let mae = open_model(plan, &mut notes).bad_input()?;
    let mut data = Vec::new();
    let (samples, held_out) = open_data(plan, &mut notes, &mut data).bad_input()?;
    session.start(&Task::Pretrain.to_toml(plan)?, &notes, &data)?;
    let pretraining = Pretraining {
        options: PretrainOptions {
            run: plan.run.clone(),
            mae: plan.mae.clone(),
            optimiser: plan.optimiser.clone(),
            schedule: plan.schedule.clone(),
            validation: plan.validation.clone(),
            log: plan.log.clone(),
        },
        inputs: session.inputs(samples, plan.loader_options()),
        held_out,
    };
    session.run(|resume| pretrain(mae, pretraining, resume), |outcome| finish(session.folder(), outcome))
}

/// Exports the encoder for other programs, and prints the next steps.
fn finish(folder: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let (mae, _) = MaeCheckpoint::open(&outcome.best)?.load(0, &burn::tensor::Device::flex())?;
    let options = MaeExportOptions { format: ExportFormat::Pth, dtype: Dtype::F32, parts: MaeParts::Encoder };
    let encoder = export_mae(&mae, options, &folder.join(ENCODER_FILE))?;
    let (mut out, shown) = (output(), folder.display());
    writeln!(out, "best checkpoint: {}", outcome.best.display())?;
    writeln!(out, "encoder only:    {} ({} tensors)", encoder.path.display(), encoder.tensors)?;
    writeln!(out, "train from it:   model.init = \"mae\" and model.mae = \"{shown}\" in a training's configuration")?;
    writeln!(out, "probe it:        sam-train probe --checkpoint {shown} --data LABELLED")?;
    Ok(())
}

fn open_model(plan: &PretrainPlan, notes: &mut Vec<String>) -> Result<MaskedAutoencoder> {
    let device = open_device(&plan.run.device)?;
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
        return Ok(initialise_mae(config.init(&device)?, plan.run.seed));
    };
    let file = checkpoint_file(path);
    let (mae, report) = MaeCheckpoint::open(&file)?.load_with(config, plan.run.seed, &device)?;
    notes.push(format!("model: {}, {what}", file.display()));
    notes.extend(load_report_lines(&report));
    Ok(mae)
}

fn open_data(
    plan: &PretrainPlan,
    notes: &mut Vec<String>,
    data: &mut Vec<RunData>,
) -> Result<(Arc<dyn Samples>, Option<HeldOut>)> {
    let mut record = |key, path: &Path, identity| data.push(RunData { key, path: path.to_owned(), identity });
    let (samples, names): (Arc<dyn Samples>, Option<Names>) = match &plan.data.train {
        DataSource::Synth(synth) => (Arc::new(*synth), None),
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
                DataSource::Synth(_) => SourceOptions::default(),
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
    let is_held_out = |index: usize| {
        let key = names.as_ref().map_or(index as u64, |names| {
            let mut hash = Fingerprint::new(0);
            hash.add_bytes(names(index).as_bytes());
            hash.value()
        });
        RandomStream::new(seed, Purpose::Split, &[key]).chance(share)
    };
    let all = 0..samples.n_samples() as u32;
    let (held_out, kept): (Vec<u32>, Vec<u32>) = all.partition(|&index| is_held_out(index as usize));
    if held_out.is_empty() || kept.is_empty() {
        bail!(
            "data.hold_out: {share} of {} images holds out {} and leaves {}; give another share",
            samples.n_samples(),
            held_out.len(),
            kept.len()
        );
    }
    let subset = |indices| Arc::new(Subset { samples: Arc::clone(samples), indices }) as Arc<dyn Samples>;
    Ok((subset(kept), Some(subset(held_out))))
}
