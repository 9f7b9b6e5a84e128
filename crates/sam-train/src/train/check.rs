//! `--check` and `--dry-run`: what a run would do, without a run folder.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use burn::train::Interrupter;
use sam_data::loader::{LoaderOptions, Samples};
use sam_learn::options::{LrDecay, RunOptions, ScheduleOptions, ValidationOptions};
use sam_learn::record::{CHECKPOINTS_FOLDER, SavedState, duration};
use sam_learn::{Ending, LearnError, Outcome, RunInputs};

use super::session::advised;
use super::stop::stop_on_ctrl_c;
use crate::failure::Failure;
use crate::output::output;

/// Steps of a dry run: one before the save that is resumed, one after it.
const STEPS: u64 = 2;

/// Prints a configuration with every default, after comments that say what the run will do and take.
pub(super) fn print(notes: &[String], estimate: &[String], resolved: &str) -> Result<(), Failure> {
    let mut out = output();
    notes.iter().chain(estimate).try_for_each(|line| writeln!(out, "# {line}"))?;
    write!(out, "\n{resolved}")?;
    Ok(())
}

/// How the options of a run are changed for a dry run.
pub(super) struct Shortened {
    folder: PathBuf,
    interrupter: Interrupter,
}

impl Shortened {
    pub(super) fn apply(
        &self,
        run: &mut RunOptions,
        schedule: &mut ScheduleOptions,
        validation: &mut ValidationOptions,
    ) {
        run.dir.clone_from(&self.folder);
        *schedule = ScheduleOptions { steps: STEPS, warmup_steps: 0, decay: LrDecay::Constant };
        (validation.every_steps, validation.baseline, validation.patience) = (1, false, 0);
    }

    pub(super) fn inputs(&self, samples: &Arc<dyn Samples>, loader: &LoaderOptions) -> RunInputs {
        RunInputs::unobserved(Arc::clone(samples), loader.clone(), self.interrupter.clone())
    }
}

/// Two steps with a validation and a save after each; the second again from the save of the first, which must give the same
/// checkpoint; and the exports. Everything lies in a folder beside the run's, which is removed whatever happens.
pub(super) fn dry_run(
    run: &RunOptions,
    learn: impl Fn(&Shortened, Option<&SavedState>) -> Result<Outcome, LearnError>,
    finish: impl FnOnce(&Path, &Outcome) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let began = Instant::now();
    // The disk of the run, as far as its folder exists.
    let beside = run.dir.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix(".dry-run-").tempdir_in(beside);
    let folder = folder.with_context(|| format!("{}: a folder cannot be made there", beside.display()))?;
    let shortened = Shortened { folder: folder.path().join("run"), interrupter: Interrupter::new() };
    stop_on_ctrl_c(&shortened.interrupter, &shortened.folder)?;
    let learn = |resume: Option<&SavedState>| -> Result<Outcome, Failure> {
        let outcome = learn(&shortened, resume).map_err(|error| anyhow!("{}", advised(&error)))?;
        if outcome.ending == Ending::Interrupted { Err(Failure::Interrupted) } else { Ok(outcome) }
    };
    std::fs::create_dir(&shortened.folder)?;
    let outcome = learn(None)?;
    finish(folder.path(), &outcome)?;
    let content = |path: &Path| sam_files::read_regular(path, u64::MAX);
    let last = content(&outcome.last)?;

    // As if the process had been killed after the first save.
    let saves = shortened.folder.join(CHECKPOINTS_FOLDER);
    let newest = SavedState::newest(&saves)?.intact.context("the run has no save")?;
    std::fs::remove_dir_all(newest.folder())?;
    let first = SavedState::newest(&saves)?.intact.context("the run has no save of its first step")?;
    let resumed = learn(Some(&first))?;
    let is_equal = content(&resumed.last)? == last;
    folder.close()?;

    let mut out = output();
    let took = duration(began.elapsed().as_secs_f64());
    writeln!(
        out,
        "dry run: {STEPS} steps, validation, saves, resume and exports work; they took {took}, nothing is left"
    )?;
    match (is_equal, run.device.as_str()) {
        (true, _) => writeln!(out, "dry run: the resumed run equals the other bit for bit")?,
        (false, "cpu") => {
            Err(anyhow!("the resumed run differs from the uninterrupted one, which is a fault of this program"))?
        }
        (false, device) => writeln!(out, "dry run: on {device}, the resumed run is not bit-equal to the other")?,
    }
    Ok(())
}
