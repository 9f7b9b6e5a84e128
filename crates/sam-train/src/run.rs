//! From a command line to a run: a configuration becomes a plan, and the plan is run by its task.
//!
//! `sam-train --config` and `--resume` start here, and so do the commands `eval` and `probe`, whose options are a
//! configuration.

use std::io::Write;
use std::path::Path;

use anyhow::anyhow;
use sam_learn::ranks::gather;

use crate::cli::{RunArguments, Verbosity};
use crate::config::{Document, Paths, Plan, check_resume};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::team::{self, Team};
use crate::train::{self, RunFolder};
use crate::{eval, probe, progress};

/// Runs a configuration, or resumes a run.
pub(crate) fn run(arguments: &RunArguments, team: &Team) -> Result<(), Failure> {
    if team.ranks.n() > 1 && (arguments.check || arguments.dry_run) {
        return of_first(team, || run_own(arguments, &Team::alone()));
    }
    run_own(arguments, team)
}

/// Lets rank 0 do something that one process does; the others wait, and end as it does.
fn of_first(team: &Team, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let own = team.is_first().then(work);
    let code = own.as_ref().map(|own| own.as_ref().map_or_else(Failure::code, |()| 0));
    let code = gather(&*team.ranks, &code)?.into_iter().flatten().next().unwrap_or_default();
    // All have come: nobody need be ended.
    team.finish();
    match own {
        Some(own) => own,
        None if code == 0 => Ok(()),
        None => Err(Failure::OfFirst(code)),
    }
}

fn run_own(arguments: &RunArguments, team: &Team) -> Result<(), Failure> {
    match (&arguments.config, &arguments.resume) {
        (Some(config), None) => run_document(&load(config, &arguments.set)?, arguments, team),
        (config, Some(run)) => resume(run, config.as_deref(), arguments, team),
        (None, None) => Err(anyhow!("use --config FILE to start a run, or --resume RUN to resume one")).bad_input(),
    }
}

/// Reads a configuration, and says which of its keys the command line replaces.
fn load(config: &Path, sets: &[String]) -> Result<Document, Failure> {
    let document = Document::load(config, sets).bad_input()?;
    for note in &document.notes {
        writeln!(errors(), "{}note: {note}", team::prefix())?;
    }
    Ok(document)
}

/// Runs a configuration, whether it was a file or the options of a command.
pub(crate) fn run_document(document: &Document, arguments: &RunArguments, team: &Team) -> Result<(), Failure> {
    let (plan, resolved) = Plan::read_resolved(document, Paths::MustExist).bad_input()?;
    match &plan {
        Plan::Train(plan) if arguments.check => train::check(plan, &resolved),
        Plan::Pretrain(plan) if arguments.check => train::pretrain::check(plan, &resolved),
        Plan::Train(plan) if arguments.dry_run => train::dry_run(plan),
        Plan::Pretrain(plan) if arguments.dry_run => train::pretrain::dry_run(plan),
        Plan::Evaluate(_) | Plan::Probe(_) if arguments.dry_run => {
            Err(anyhow!("--dry-run is for training and pre-training; --check checks an evaluation or a probe"))
                .bad_input()
        }
        plan => run_plan(plan, None, arguments, team),
    }
}

/// A configuration may be given when it is that of the run, except for the keys that may change.
fn resume(run: &Path, config: Option<&Path>, arguments: &RunArguments, team: &Team) -> Result<(), Failure> {
    let folder = match team.is_first() {
        true => RunFolder::to_resume(run).bad_input()?,
        false => RunFolder::to_read(run),
    };
    let saved = |sets: &[String]| Plan::resumed(&folder.plan_path(), run, sets).bad_input();
    let plan = match config {
        None => saved(&arguments.set)?,
        Some(config) => {
            let document = load(config, &arguments.set)?;
            let mut plan = Plan::read(&document, Paths::MustExist).bad_input()?;
            plan.set_folder(run);
            reject_changes(&saved(&[])?, &plan, config)?;
            plan
        }
    };
    match plan.missing_data() {
        Some(missing) if !arguments.check => Err(anyhow!("{missing}")).bad_input(),
        _ => run_plan(&plan, Some(folder), arguments, team),
    }
}

fn reject_changes(saved: &Plan, asked: &Plan, config: &Path) -> Result<(), Failure> {
    let fixed = check_resume(saved, asked)?;
    if fixed.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = fixed.iter().map(|key| format!("\n  {key}")).collect();
    Err(anyhow!("{}: not the configuration of this run:{}", config.display(), lines.concat())).bad_input()
}

fn run_plan(plan: &Plan, resumed: Option<RunFolder>, arguments: &RunArguments, team: &Team) -> Result<(), Failure> {
    if arguments.verbosity.level() == Verbosity::Quiet || !team.is_first() {
        progress::silence();
    }
    if arguments.check {
        write!(output(), "{}", plan.to_toml()?)?;
        return Ok(());
    }
    let folder = |dir: &Path| match resumed {
        Some(folder) => Ok(folder),
        None if team.is_first() => RunFolder::to_create(dir, arguments.force).bad_input(),
        None => Ok(RunFolder::to_read(dir)),
    };
    match plan {
        Plan::Train(plan) => train::run_plan(plan, folder(&plan.run.dir)?, arguments, team),
        Plan::Pretrain(plan) => train::pretrain::run_plan(plan, folder(&plan.run.dir)?, arguments, team),
        Plan::Evaluate(plan) => eval::run_plan(plan, arguments),
        Plan::Probe(plan) => probe::run_plan(plan, arguments.force),
    }
}
