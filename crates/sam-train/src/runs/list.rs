//! The list of runs below a folder.

use std::cmp::Ordering;
use std::path::Path;

use sam_eval::Better;
use sam_learn::record::duration;

use super::run::{Run, State};
use crate::cli::RunsArguments;
use crate::failure::Failure;
use crate::train::date_and_time;

/// The list as text or JSON.
pub(super) fn text(folder: &Path, mut runs: Vec<Run>, arguments: &RunsArguments) -> Result<String, Failure> {
    let metric = arguments.metric.as_deref();
    sort(&mut runs, metric);
    if arguments.json {
        return Ok(serde_json::to_string_pretty(&runs)? + "\n");
    }
    if runs.is_empty() {
        return Ok(format!("{}: no runs\n", folder.display()));
    }
    let lines: Vec<String> = runs.iter().map(|run| lines(run, metric)).collect();
    Ok(lines.concat())
}

/// Newest first, or best first by a metric; runs without it are last.
fn sort(runs: &mut [Run], metric: Option<&str>) {
    runs.sort_by(|a, b| {
        let newest = b.started_unix_s.cmp(&a.started_unix_s).then_with(|| a.folder.cmp(&b.folder));
        let Some(metric) = metric else { return newest };
        match [a, b].map(|run| run.before_and_best(Some(metric))[1]) {
            [Some(a_best), Some(b_best)] => match a.better(metric) {
                Better::Higher => b_best.total_cmp(&a_best),
                Better::Lower => a_best.total_cmp(&b_best),
            }
            .then(newest),
            [Some(_), None] => Ordering::Less,
            [None, Some(_)] => Ordering::Greater,
            [None, None] => newest,
        }
    });
}

/// A run in a few lines, within the 80 columns of a terminal where names are short.
fn lines(run: &Run, metric: Option<&str>) -> String {
    let started = run.started_unix_s.map_or_else(String::new, date_and_time);
    let of_steps = run.of_steps.map_or_else(String::new, |of_steps| format!(" of {of_steps}"));
    let facts = [
        run.task.clone(),
        run.state.name().to_owned(),
        format!("step {}{of_steps}", run.step),
        if run.elapsed_s > 0.0 { duration(run.elapsed_s) } else { String::new() },
        started,
    ];
    let facts: Vec<String> = facts.into_iter().filter(|fact| !fact.is_empty()).collect();
    let facts = if run.state == State::Damaged { run.state.name().to_owned() } else { facts.join(", ") };
    let mut lines = vec![format!("{}: {facts}", run.name)];
    if let Some(name) = metric.or(run.metric.as_deref()) {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let [before, best] = run.before_and_best(metric);
        let step = run.best.as_ref().map_or_else(String::new, |best| format!(" (step {})", best.step));
        let is_worse = before.zip(best).is_some_and(|(before, best)| match run.better(name) {
            Better::Higher => best <= before,
            Better::Lower => best >= before,
        });
        let worse = if is_worse { ", no better than before training" } else { "" };
        lines.push(format!("{name} {} -> {}{step}{worse}", shown(before), shown(best)));
    }
    lines.extend(run.notes.clone());
    let place = run.checkpoint.as_ref().unwrap_or(&run.folder);
    lines.push(place.display().to_string());
    lines.join("\n  ") + "\n"
}
