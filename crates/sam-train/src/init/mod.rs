//! `sam-train init`: looks at a data set and a checkpoint, and writes a configuration that fits them.

mod text;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use sam_data::{CheckReport, Intensity, OnBad, ProblemKind, SourceOptions};
use sam_files::write_atomically;
use sam_learn::options::LossOptions;
use sam_model::weights::Checkpoint;

use crate::cli::{InitArguments, Preset};
use crate::config::Plan;
use crate::data::checked;
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::published::FIRST;
use crate::survey::{DropOption, problem_lines};
use crate::target::{Target, check_target};
use crate::train::{checkpoint_file, plan_of_run};

/// A network with fewer parameters computes several images in the time that a published one needs for a part of one.
const SMALL_PARAMETERS: usize = 20_000_000;

/// What the configuration depends on.
struct Seen<'a> {
    arguments: &'a InitArguments,
    data: CheckReport,
    intensity: Intensity,
    checkpoint: PathBuf,
    /// `None`: the file is not there yet.
    model: Option<Model>,
    /// The objective of the run that the checkpoint is from, if it is the folder of one.
    objective: Option<Objective>,
    /// Part of the images that is held out, where the data set has no part for validation.
    held_out: Option<f64>,
    n_train: u64,
}

/// What a checkpoint was trained with: with another loss it would first get worse.
struct Objective {
    loss: LossOptions,
    lr: f64,
}

/// What is known of a checkpoint.
#[derive(Clone, Copy)]
struct Model {
    image_size: usize,
    is_small: bool,
    has_learned: bool,
}

pub(crate) fn run(arguments: &InitArguments) -> Result<(), Failure> {
    if let Some(path) = &arguments.out {
        check_target(path, "--out", Target::File, arguments.force).bad_input()?;
    }
    let text = configuration(arguments)?;
    match &arguments.out {
        None => {
            write!(output(), "{text}")?;
            if !std::io::stdout().is_terminal() {
                writeln!(errors(), "next: sam-train --config FILE --check, then without --check")?;
            }
        }
        Some(path) => {
            write_atomically(path, &text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
            let shown = path.display();
            writeln!(output(), "wrote {shown}; next: sam-train --config {shown} --check, then without --check")?;
        }
    }
    Ok(())
}

/// The text of a configuration that fits the data and the checkpoint.
pub(crate) fn configuration(arguments: &InitArguments) -> Result<String, Failure> {
    let options = arguments.source.options().bad_input()?;
    let (data, intensity) = look_at(&arguments.data, &options).bad_input()?;
    require_usable(arguments, &data, &options).bad_input()?;
    let checkpoint = arguments.checkpoint.clone().unwrap_or_else(|| PathBuf::from(FIRST.name));
    let model = match arguments.preset {
        Preset::Scratch => None,
        _ => open_model(&checkpoint, arguments.checkpoint.is_some()).bad_input()?,
    };
    let objective = model.and_then(|_| objective_of(&checkpoint));
    let (held_out, n_train) = parts(&data, arguments.validation.is_some());
    Ok(Seen { arguments, data, intensity, checkpoint, model, objective, held_out, n_train }.text())
}

/// The contents of the data set; with the intensity that its images need.
fn look_at(path: &Path, options: &SourceOptions) -> anyhow::Result<(CheckReport, Intensity)> {
    let looked = |options: &SourceOptions| checked(path, options).map_err(|error| DropOption::Flag.advise(error));
    let report = looked(options)?;
    let deep = [ProblemKind::PixelsDark, ProblemKind::PixelsDeep, ProblemKind::PixelsNormalised];
    let is_deep = options.intensity == Intensity::AsIs && deep.into_iter().any(|kind| report.problem(kind).is_some());
    if !is_deep {
        return Ok((report, options.intensity));
    }
    let intensity = Intensity::Percentile;
    let report = looked(&SourceOptions { intensity, ..options.clone() })?;
    Ok((report, intensity))
}

fn require_usable(arguments: &InitArguments, data: &CheckReport, options: &SourceOptions) -> anyhow::Result<()> {
    let path = arguments.data.display();
    if data.objects == 0 {
        return Err(anyhow!("{path}: must have objects to learn from, got none; see `sam-train data check {path}`"));
    }
    if !data.has_errors() || options.bad == OnBad::Drop {
        return Ok(());
    }
    let problems: Vec<String> = data.problems.iter().flat_map(problem_lines).collect();
    Err(anyhow!(
        "{path}: has errors; fix them, or drop and count what is bad with --drop-bad:\n{}",
        problems.join("\n")
    ))
}

/// `None` when a checkpoint that nobody named does not exist.
fn open_model(path: &Path, is_named: bool) -> anyhow::Result<Option<Model>> {
    let file = checkpoint_file(path);
    if !file.exists() && !is_named {
        writeln!(
            errors(),
            "there is no {} here yet: {}; download it before the training, or give another with --checkpoint",
            path.display(),
            FIRST.advice()
        )?;
        return Ok(None);
    }
    let checkpoint = Checkpoint::open(&file)?;
    if !checkpoint.is_segmenter() {
        return Err(anyhow!("{}: must be a segmenter, got {}", file.display(), checkpoint.kind()));
    }
    let image_size = checkpoint.config.image_encoder.image_size();
    let shapes = checkpoint.dict.tensors.values().map(|tensor| tensor.shape.iter().product::<usize>());
    let n_parameters: usize = shapes.sum();
    let has_learned = has_learned(&checkpoint)?;
    Ok(Some(Model { image_size, is_small: n_parameters < SMALL_PARAMETERS, has_learned }))
}

/// Whether the weights were trained: the scales of norms begin at 1, and the first step moves them.
fn has_learned(checkpoint: &Checkpoint) -> anyhow::Result<bool> {
    // But for those of the classifier of a TinyViT, which no network has.
    let is_of_norm = |key: &str| key.contains("norm") && key.ends_with(".weight") && !key.contains("norm_head");
    for key in checkpoint.dict.tensors.keys().filter(|key| is_of_norm(key)) {
        if checkpoint.dict.read_f32(key)?.iter().any(|&scale| scale != 1.0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The objective of a run, for its folder; `None` for any other checkpoint.
fn objective_of(checkpoint: &Path) -> Option<Objective> {
    match plan_of_run(checkpoint)? {
        Plan::Train(plan) => Some(Objective { loss: plan.loss, lr: plan.optimiser.lr }),
        Plan::Pretrain(_) | Plan::Evaluate(_) | Plan::Probe(_) => None,
    }
}

/// The part that is held out where the data set has none for validation, and the number of training images.
fn parts(data: &CheckReport, has_validation: bool) -> (Option<f64>, u64) {
    let in_part = |part: &str| data.parts.get(part).copied().unwrap_or_default();
    let (train, val) = (in_part("train"), in_part("val"));
    let n = if train > 0 { train } else { data.images };
    if has_validation || (train > 0 && val > 0) {
        return (None, n);
    }
    // A few validation images say little, and a few training images teach little.
    let share = if n < 50 { 0.2 } else { 0.1 };
    (Some(share), n - ((n as f64 * share).round() as u64).clamp(1, n.max(2) - 1))
}
