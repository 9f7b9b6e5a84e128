//! The output folder of an evaluation.
//!
//! For one checkpoint: `results.json` (which a later gate can read), `metrics.csv`, `rounds.csv`, `report.md`, `report.html`,
//! `junit.xml` with a gate, `segmentations.json` with detections, `evaluate.toml` to run it again. With several checkpoints,
//! the results are in folders by their names.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use sam_eval::{
    ComparisonRow, EvalError, Evaluation, Extremes, Gallery, Model, Report, Results, Run, Start, Table, Verdict,
    gallery_item, junit_xml,
};
use sam_files::write_atomically;
use sam_image::Rle;

use super::data::OpenSet;
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
        if let Some(segmentations) = &outcome.segmentations {
            write(&folder.join("segmentations.json"), segmentations.clone())?;
        }
    }
    write(&out.join("evaluate.toml"), Task::Evaluate.to_toml(plan)?)?;
    Ok(())
}

/// A name without path separators, so that it stays in the folder.
fn folder_name(name: &str) -> String {
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
    let report = Report { title: &title, models: &models, comparison, verdict, galleries: &galleries, tables };
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

/// Previews of the worst and the best objects of each protocol.
pub(crate) fn galleries(evaluation: &Evaluation, sets: &[OpenSet], count: usize) -> Result<Vec<Gallery>, EvalError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut places: HashMap<(&str, String), (&OpenSet, usize)> = HashMap::new();
    for set in sets {
        for &index in &set.set.indices {
            places.insert((&set.set.name, set.source.name(index)), (set, index));
        }
    }
    let mut galleries = Vec::new();
    for (run, masks) in evaluation.results.runs.iter().zip(&evaluation.final_masks) {
        let extremes = Extremes::of(run, count);
        for (which, chosen) in [("Worst", &extremes.worst), ("Best", &extremes.best)] {
            let mut items = Vec::new();
            for &at in chosen {
                let record = &run.records[at];
                let Some((set, index)) = places.get(&(record.data_set.as_str(), record.image.clone())) else {
                    continue;
                };
                items.push(draw(set, *index, run, at, &masks[at])?);
            }
            if !items.is_empty() {
                let title = format!("{which} {}: prediction with prompts (left), ground truth (right)", moment(run));
                galleries.push(Gallery { title, items });
            }
        }
    }
    Ok(galleries)
}

fn moment(run: &Run) -> String {
    match (run.protocol.start, run.protocol.n_clicks) {
        (Start::Box, 0) => "with a box".to_owned(),
        (Start::Box, n) => format!("with a box and {n} clicks"),
        (Start::Click, 1) => "after 1 click".to_owned(),
        (Start::Click, n) => format!("after {n} clicks"),
    }
}

fn draw(set: &OpenSet, index: usize, run: &Run, at: usize, found: &Rle) -> Result<sam_eval::GalleryItem, EvalError> {
    let failed = |source| EvalError::Sample { data_set: set.set.name.to_string(), index, source };
    let sample = set.set.samples.sample(index).map_err(failed)?;
    let record = &run.records[at];
    let object = sample.objects.iter().find(|object| object.id == record.object_id);
    let object = object.ok_or_else(|| failed(format!("object {} no longer exists", record.object_id).into()))?;
    gallery_item(&sample.image, &object.mask, found, record)
}
