//! The output folder of an evaluation.
//!
//! For one checkpoint: `results.json` (which a later gate can read), `metrics.csv`, `rounds.csv`, `texts.csv`, `report.md`, `report.html`,
//! `junit.xml` with a gate, `segmentations.json` with detections, `edge_maps` with edges, `evaluate.toml` to run it again. With several checkpoints,
//! the results are in folders by their names.

use std::path::Path;

use anyhow::{Context, anyhow};
use sam_eval::{ComparisonRow, Gallery, Model, Report, Results, Table, Verdict, junit_xml};
use sam_files::write_atomically;

use crate::config::{EvaluatePlan, Task};
use crate::failure::Failure;
use crate::target::check_results;

const RESULTS: &str = "results.json";
const REPORT: &str = "report.html";

/// The results of one checkpoint.
pub(crate) struct ModelOutcome {
    pub(crate) name: String,
    pub(crate) results: Results,
    pub(crate) galleries: Vec<Gallery>,
    /// A COCO results file.
    pub(crate) segmentations: Option<String>,
    pub(crate) seconds: f64,
}

/// Rejects a folder with earlier results, unless they may be replaced.
pub(crate) fn check_out(plan: &EvaluatePlan, force: bool) -> anyhow::Result<()> {
    match &plan.run.measure.out {
        Some(out) => check_results(out, &[RESULTS, REPORT], force),
        None => Ok(()),
    }
}

pub(crate) fn write_results(out: &Path, plan: &EvaluatePlan, outcomes: &[ModelOutcome]) -> Result<(), Failure> {
    let folder = |outcome: &ModelOutcome| match outcomes.len() {
        1 => out.to_path_buf(),
        _ => out.join(folder_name(&outcome.name)),
    };
    for outcome in outcomes {
        let folder = folder(outcome);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        write(&folder.join(RESULTS), outcome.results.to_json()? + "\n")?;
        write(&folder.join("metrics.csv"), outcome.results.metrics_csv())?;
        if !outcome.results.runs.is_empty() {
            write(&folder.join("rounds.csv"), outcome.results.rounds_csv())?;
        }
        if let Some(texts) = &outcome.results.texts {
            write(&folder.join("texts.csv"), texts.csv())?;
        }
        if let Some(segmentations) = &outcome.segmentations {
            write(&folder.join("segmentations.json"), segmentations.clone())?;
        }
    }
    write(&out.join("evaluate.toml"), Task::Evaluate.to_toml(plan)?)?;
    Ok(())
}

/// A name without path separators, so that it stays in the folder.
pub(super) fn folder_name(name: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '.' | '-' | '_' | '(' | ')' | ' ');
    let name: String = name.chars().map(|letter| if plain(letter) { letter } else { '_' }).collect();
    let name = name.trim_matches(['.', ' ']).to_owned();
    if name.is_empty() { "model".to_owned() } else { name }
}

/// What a report shows beside the outcomes.
pub(crate) struct Shown<'a> {
    pub(crate) comparison: &'a [ComparisonRow],
    pub(crate) verdict: Option<&'a Verdict>,
    /// What the data sets lose.
    pub(crate) tables: &'a [Table],
}

pub(crate) fn write_reports(
    out: &Path,
    outcomes: &[ModelOutcome],
    shown: &Shown<'_>,
    seconds: f64,
) -> Result<(), Failure> {
    let models: Vec<Model<'_>> =
        outcomes.iter().map(|outcome| Model { name: &outcome.name, results: &outcome.results }).collect();
    let galleries: Vec<Gallery> = outcomes
        .iter()
        .flat_map(|outcome| outcome.galleries.iter().map(move |gallery| (outcome, gallery.clone())))
        .map(|(outcome, gallery)| match outcomes.len() {
            1 => gallery,
            _ => Gallery { title: format!("{}: {}", outcome.name, gallery.title), ..gallery },
        })
        .collect();
    let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name.as_str()).collect();
    let sets = outcomes.first().map_or_else(Vec::new, |outcome| {
        outcome.results.data_sets.iter().map(|data_set| data_set.name.as_str()).collect()
    });
    let title = format!("{} on {}", names.join(", "), sets.join(", "));
    let &Shown { comparison, verdict, tables } = shown;
    let report =
        Report { title: &title, models: &models, comparison, verdict, galleries: &galleries, tables, focus: None };
    write(&out.join("report.md"), report.markdown()?)?;
    write(&out.join(REPORT), report.html()?)?;
    if let Some(verdict) = verdict {
        write(&out.join("junit.xml"), junit_xml(&title, verdict, seconds))?;
    }
    Ok(())
}

fn write(path: &Path, content: String) -> anyhow::Result<()> {
    write_atomically(path, content).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Ok(())
}
