//! The end of a run for a person: the scores before training, of the best and of the last checkpoint, and a warning when
//! training made the model worse.

use sam_eval::Better;
use sam_learn::Outcome;
use sam_learn::options::{EMBEDDING_MSE, RECONSTRUCTION_LOSS};
use sam_learn::record::{Progress, Scores, also_parts};

use super::lines::is_shown;

/// Widths of the columns: with names of up to 28 characters, the table fits into a terminal of 80.
const NAME: usize = 28;
const COLUMN: usize = 13;

/// What the run of a task measures itself by.
pub(crate) struct Measure<'a> {
    /// The metric that chooses the best checkpoint.
    pub(crate) metric: &'a str,
    pub(crate) better: Better,
}

/// The table: a row for each metric. `None` when nothing was validated.
pub(crate) fn table(progress: &Progress, measure: &Measure<'_>) -> Option<String> {
    let Progress { baseline, best, last, .. } = progress;
    let all = [("before", baseline), ("best", best), ("last", last)];
    let columns: Vec<(&str, &Scores)> =
        all.into_iter().filter_map(|(name, scores)| scores.as_ref().map(|scores| (name, scores))).collect();
    let first = columns.first()?.1;
    let has_change = baseline.is_some() && best.is_some();
    let row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>COLUMN$}")).collect();
        format!("{name:<NAME$}{cells}").trim_end().to_owned()
    };
    let change = |text: &str| has_change.then(|| text.to_owned());
    let heads = columns.iter().map(|(name, _)| (*name).to_owned());
    let mut lines = vec![row("", heads.chain(change("change")).collect())];
    let steps = columns.iter().map(|(_, scores)| format!("step {}", scores.step));
    lines.push(row("", steps.chain(change("best-before")).collect()));
    let mut data_set = "";
    for (name, _) in first.headlines().into_iter().filter(|(name, _)| is_shown(name)) {
        let shown_name = match also_parts(name) {
            Some((other, metric)) => {
                if other != data_set {
                    lines.push(format!("on {other}"));
                    data_set = other;
                }
                format!("  {metric}")
            }
            None => name.to_owned(),
        };
        let value = |scores: &Scores| scores.metrics.get(name).copied();
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let mut cells: Vec<String> = columns.iter().map(|(_, scores)| shown(value(scores))).collect();
        if let (Some(baseline), Some(best)) = (baseline, best) {
            let difference = value(best).zip(value(baseline)).map(|(best, before)| best - before);
            cells.push(difference.map_or_else(|| "-".to_owned(), |difference| format!("{difference:+.4}")));
        }
        let mark = if name == measure.metric { " *" } else { "" };
        lines.push(row(&format!("{shown_name}{mark}"), cells));
    }
    if best.is_some() {
        let direction = measure.better.name();
        lines.push(format!("* chooses the best checkpoint; {direction} is better"));
        if measure.metric != RECONSTRUCTION_LOSS {
            lines.push("miou_K: mean IoU after K clicks; miou_box: after a box; oracle: of the best of".to_owned());
            lines.push("the three masks, else of the most confident one".to_owned());
        }
    }
    Some(lines.join("\n"))
}

/// A plain warning when the best checkpoint is not better than the model before training, with what to try.
pub(crate) fn warning(outcome: &Outcome, measure: &Measure<'_>) -> Option<String> {
    let Progress { baseline, best, .. } = &outcome.progress;
    let value = |scores: &Option<Scores>| scores.as_ref()?.metrics.get(measure.metric).copied();
    let (before, after, step) = (value(baseline)?, value(best)?, best.as_ref()?.step);
    let is_better = match measure.better {
        Better::Higher => after > before,
        Better::Lower => after < before,
    };
    if is_better {
        return if measure.better == Better::Higher { mixed(&outcome.progress, measure) } else { None };
    }
    let how = if after == before { "no better" } else { "worse" };
    let advice = match measure.metric {
        RECONSTRUCTION_LOSS => "Try a third of optimiser.lr, or more schedule.steps",
        _ => {
            "Try a third of optimiser.lr, more images, or learn less (optimiser.freeze, [lora]). Look at the report: wrong or \
             incomplete masks in the data have this effect, too"
        }
    };
    let metric = measure.metric;
    Some(format!(
        "warning: the best checkpoint (step {step}) is {how} than the model before training: {metric} {after:.4}, before \
         {before:.4}. {advice}"
    ))
}

/// A warning when the chosen metric is better than before training and most of the others are worse.
fn mixed(progress: &Progress, measure: &Measure<'_>) -> Option<String> {
    let (before, best) = (progress.baseline.as_ref()?, progress.best.as_ref()?);
    let others = before.headlines().into_iter();
    let others: Vec<(&str, f64)> =
        others.filter(|&(name, _)| ![measure.metric, EMBEDDING_MSE].contains(&name) && is_shown(name)).collect();
    let others: Vec<(&str, f64)> = others.into_iter().filter(|(name, _)| also_parts(name).is_none()).collect();
    let worse: Vec<String> = others
        .iter()
        .filter_map(|&(name, before)| {
            let after = *best.metrics.get(name)?;
            (after < before).then(|| format!("{name} {before:.4} to {after:.4}"))
        })
        .collect();
    (2 * worse.len() > others.len()).then(|| {
        format!(
            "warning: {} is better than before training, but {} of {} others are worse: {}. A metric that is closer to how the model \
             will be used may choose a better checkpoint (validation.metric), and so may a smaller optimiser.lr",
            measure.metric,
            worse.len(),
            others.len(),
            worse.join(", ")
        )
    })
}

/// What the best checkpoint has forgotten on data that is not the run's own.
pub(crate) fn forgetting(progress: &Progress, measure: &Measure<'_>) -> Vec<String> {
    let (Some(before), Some(best)) = (&progress.baseline, &progress.best) else { return Vec::new() };
    let fallen = |(name, &after): (&String, &f64)| {
        let (data_set, metric) = also_parts(name)?;
        let was = *before.metrics.get(name)?;
        let loss = match measure.better {
            Better::Higher => was - after,
            Better::Lower => after - was,
        };
        (metric == measure.metric && loss > FORGOTTEN).then(|| {
            format!(
                "warning: the best checkpoint has forgotten on {data_set}: {metric} {after:.4}, before {was:.4}. Train on such data, \
                 too ([[data.sources]]), with a smaller optimiser.lr, or with adapters ([lora])"
            )
        })
    };
    best.metrics.iter().filter_map(fallen).collect()
}

/// Smaller differences come and go between validations.
const FORGOTTEN: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;
    use sam_learn::Ending;
    use std::path::PathBuf;

    fn scores(step: u64, value: f64) -> Option<Scores> {
        let metrics = [("miou_1", value), ("miou_1_oracle", value), ("small/miou_1", value)];
        let metrics = metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Scores { step, metrics })
    }

    fn progress(before: f64, best: f64) -> Progress {
        let last = scores(1_000_000, best);
        Progress { baseline: scores(0, before), best: scores(400, best), last, ..Progress::default() }
    }

    const MEASURE: Measure<'static> = Measure { metric: "miou_1_oracle", better: Better::Higher };

    #[test]
    fn the_table_has_metrics_as_rows_and_fits_80_columns() {
        let table = table(&progress(0.25, 0.5), &MEASURE).expect("validated");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["before", "best", "last", "change"]);
        assert_eq!(rows[1], ["step", "0", "step", "400", "step", "1000000", "best-before"]);
        assert_eq!(rows[3], ["miou_1_oracle", "*", "0.2500", "0.5000", "0.5000", "+0.2500"]);
        assert_eq!(rows.len(), 7, "{table}");
        let mut progress = progress(0.25, 0.5);
        for (scores, value) in [(&mut progress.baseline, 0.75), (&mut progress.best, 0.5), (&mut progress.last, 0.25)] {
            let metrics = &mut scores.as_mut().expect("validated").metrics;
            metrics.insert("also:photographs of all kinds/miou_1_oracle".to_owned(), value);
        }
        let table = super::table(&progress, &MEASURE).expect("validated");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let at = table.lines().position(|line| line == "on photographs of all kinds").expect("a row of its own");
        let row: Vec<&str> = table.lines().nth(at + 1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(row, ["miou_1_oracle", "0.7500", "0.5000", "0.2500", "-0.2500"]);
        let warnings = forgetting(&progress, &MEASURE);
        assert!(warnings.len() == 1 && warnings[0].contains("forgotten on photographs of all kinds"), "{warnings:?}");
        assert!(forgetting(&progress, &Measure { better: Better::Lower, ..MEASURE }).is_empty());
        assert!(super::table(&Progress::default(), &MEASURE).is_none());
    }

    #[test]
    fn a_run_that_makes_the_model_worse_says_so() {
        let warned = |before, best, better| {
            let outcome = Outcome {
                ending: Ending::Finished,
                progress: progress(before, best),
                best: PathBuf::new(),
                last: PathBuf::new(),
            };
            warning(&outcome, &Measure { better, ..MEASURE })
        };
        let text = warned(0.5, 0.25, Better::Higher).expect("worse");
        for part in ["worse than the model before training", "0.2500", "0.5000", "optimiser.lr", "step 400"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(warned(0.5, 0.5, Better::Higher).expect("equal").contains("no better than"));
        assert!(warned(0.25, 0.5, Better::Lower).is_some());
        let mut mixed = progress(0.25, 0.5);
        for (scores, value) in [(&mut mixed.baseline, 0.75), (&mut mixed.best, 0.5)] {
            scores.as_mut().expect("validated").metrics.insert("miou_1".to_owned(), value);
        }
        let mixed = super::mixed(&mixed, &MEASURE).expect("the only other is worse");
        assert!(mixed.contains("1 of 1 others are worse: miou_1 0.7500 to 0.5000"), "{mixed}");
        assert!(warned(0.25, 0.5, Better::Higher).is_none() && warned(0.5, 0.25, Better::Lower).is_none());
    }
}
