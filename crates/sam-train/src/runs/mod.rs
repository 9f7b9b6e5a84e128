//! `sam-train runs`: the runs below a folder, or the differences of some.
//!
//! Everything is read from the files of the run folders, which are not changed: also while a run is working in its folder, and
//! when some of its files are damaged.

mod compare;
mod list;
mod run;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use sam_learn::record::is_headline;

use crate::cli::RunsArguments;
use crate::failure::{BadInput, Failure};
use crate::output::output;
use run::{Run, is_run};

/// Folders in folders, below which no run is looked for.
const MAX_DEPTH: usize = 8;

/// Lists or compares.
pub(crate) fn run(arguments: &RunsArguments) -> Result<(), Failure> {
    let text = match arguments.folders.as_slice() {
        [folder] => {
            let mut folders = Vec::new();
            find(folder, 0, &mut folders).with_context(|| folder.display().to_string()).bad_input()?;
            let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect();
            check_metric(&runs, arguments.metric.as_deref()).bad_input()?;
            list::text(folder, runs, arguments)?
        }
        folders => {
            for folder in folders {
                if !is_run(folder) {
                    let shown = folder.display();
                    return Err(anyhow!("{shown}: must be a run folder to be compared; there is no plan.toml in it"))
                        .bad_input();
                }
            }
            let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect();
            check_metric(&runs, arguments.metric.as_deref()).bad_input()?;
            compare::text(&runs, arguments)?
        }
    };
    write!(output(), "{text}")?;
    Ok(())
}

/// Run folders below a folder, itself included. Links and hidden folders are not followed.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if is_run(folder) {
        found.push(folder.to_owned());
        return Ok(());
    }
    let mut below: Vec<PathBuf> = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
            below.push(entry.path());
        }
    }
    below.sort();
    if depth < MAX_DEPTH {
        // What may not be read is not ours.
        below.iter().for_each(|folder| drop(find(folder, depth + 1, found)));
    }
    Ok(())
}

fn check_metric(runs: &[Run], metric: Option<&str>) -> anyhow::Result<()> {
    let Some(metric) = metric else { return Ok(()) };
    let mut names: Vec<&str> = runs.iter().flat_map(Run::metric_names).collect();
    names.sort_unstable();
    names.dedup();
    if names.contains(&metric) || runs.is_empty() {
        return Ok(());
    }
    let known = names.into_iter().filter(|name| is_headline(name)).collect::<Vec<_>>().join(", ");
    Err(anyhow!("--metric {metric}: must be a metric of a validation of these runs: {known}"))
}
