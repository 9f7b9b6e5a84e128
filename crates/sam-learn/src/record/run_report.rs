//! The report of a run: `report.html`, one file with its curves, numbers and previews, and `report.md` with the numbers.
//!
//! Everything is read from the run folder (`metrics.jsonl` and `previews/`), never from the memory of a session: so a
//! resumed run has the report of one that was never stopped, and a crash leaves the report of the last save.

use std::path::{Path, PathBuf};

use sam_eval::{Bootstrap, Gallery, GalleryItem, Model, Page, Report, Section, Table, compare, jpeg_data_uri};
use sam_files::write_atomically;
use sam_image::decode_rgb;

use super::events::ValidationRecord;
use super::previews;
use super::run_curves::charts;
use super::run_log::RunHistory;
use super::validation_details::{SavedDetails, Which};
use crate::error::LearnError;

/// The report for a browser.
pub const REPORT_FILE: &str = "report.html";

/// The report for the summary of a CI job, or a terminal.
const REPORT_MARKDOWN_FILE: &str = "report.md";

/// Rows of the table of validations; of more, a selection is shown.
const MAX_ROWS: usize = 60;

/// Content of a report beside the run's log and previews.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// The heading.
    pub title: String,
    /// The environment of the run, as names and values.
    pub about: Vec<(String, String)>,
    /// Tables of the program, such as what the data loses.
    pub tables: Vec<Table>,
    /// Text files, each with its title.
    pub texts: Vec<(String, String)>,
}

impl RunReport {
    /// Writes both files into the folder of a run. Damaged logs and previews are named in the report; the rest of it is
    /// written all the same.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), LearnError> {
        let page = self.page(folder)?;
        let html = page.html().map_err(|source| LearnError::Report { source })?;
        for (name, content) in [(REPORT_FILE, html), (REPORT_MARKDOWN_FILE, page.markdown())] {
            let path = folder.join(name);
            write_atomically(&path, &content).map_err(|source| LearnError::Write { path: path.clone(), source })?;
        }
        Ok(())
    }

    fn page(&self, folder: &Path) -> Result<Page, LearnError> {
        let mut unreadable = Vec::new();
        let history = RunHistory::read(folder).unwrap_or_else(|error| {
            unreadable.push(error.to_string());
            RunHistory::default()
        });
        let gallery = preview_gallery(folder, &history, &mut unreadable);
        let mut sections: Vec<Section> = [result(&history)].into_iter().flatten().map(Section::Table).collect();
        sections.push(Section::Charts { title: "Curves".to_owned(), charts: charts(&history) });
        sections.extend(findings(folder, &history, &mut unreadable));
        sections.extend(gallery.map(Section::Images));
        sections.extend(validations(&history).map(Section::Table));
        sections.push(Section::Table(self.run(&history, &unreadable)));
        sections.extend(self.tables.iter().cloned().map(Section::Table));
        sections
            .extend(self.texts.iter().map(|(title, text)| Section::Text { title: title.clone(), text: text.clone() }));
        Ok(Page { title: self.title.clone(), sections })
    }

    fn run(&self, history: &RunHistory, unreadable: &[String]) -> Table {
        let mut rows: Vec<[String; 2]> = Vec::new();
        let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
        if let Some(last) = history.steps.last() {
            row("steps", format!("{} of {}", last.step, last.of_steps));
            let n_images: usize = history.steps.iter().map(|record| record.n_images).sum();
            row("images trained on", n_images.to_string());
            let validating: f64 = history.validations.iter().map(|record| record.took_s).sum();
            // The time in a step's record does not include the validation after it.
            let after_last = history.validations.iter().filter(|record| record.scores.step >= last.step);
            let elapsed = last.elapsed_s + after_last.map(|record| record.took_s).sum::<f64>();
            row("time", format!("{}, {} of it for validation", duration(elapsed), duration(validating)));
            let training = (elapsed - validating).max(f64::MIN_POSITIVE);
            row("images per second, without validation", rate(n_images as f64 / training));
            let waits = history.steps.iter().map(|record| record.data_wait_share);
            let wait = waits.sum::<f64>() / history.steps.len() as f64;
            row("fraction of it waiting for data", format!("{:.1} %", 100.0 * wait));
            let memory = history.steps.iter().map(|record| record.memory_mib).fold(0.0, f64::max);
            row("peak memory after a step", format!("{memory:.0} MiB"));
        }
        if history.n_unreadable > 0 {
            row("unreadable lines of the log", history.n_unreadable.to_string());
        }
        unreadable.iter().for_each(|error| row("unreadable", error.clone()));
        self.about.iter().for_each(|(name, value)| row(name, value.clone()));
        let rows = rows.into_iter().map(Vec::from).collect();
        Table { title: "Run".to_owned(), note: String::new(), header: vec![String::new(), "value".to_owned()], rows }
    }
}

/// Where the best checkpoint fails on the validation data, beside the model before training.
fn findings(folder: &Path, history: &RunHistory, unreadable: &mut Vec<String>) -> Vec<Section> {
    let validations = &history.validations;
    let baseline = validations.iter().find(|record| record.is_baseline);
    let Some(best) = validations.iter().rev().find(|record| record.is_best) else { return Vec::new() };
    let mut read = |which: Which, record: Option<&ValidationRecord>| {
        let read = SavedDetails::read(folder, which, record?.scores.step);
        read.unwrap_or_else(|error| {
            unreadable.push(error.to_string());
            None
        })
    };
    let (before, found) = (read(Which::Baseline, baseline), read(Which::Best, Some(best)));
    let Some(found) = found else { return Vec::new() };
    let mut models: Vec<Model<'_>> = Vec::new();
    models.extend(before.as_ref().map(|before| Model { name: "before", results: &before.results }));
    models.push(Model { name: "best", results: &found.results });
    let results: Vec<_> = models.iter().map(|model| model.results).collect();
    // The validation data may have changed since the run began: then there is nothing to compare.
    let comparison = compare(&results, &Bootstrap::default()).or_else(|_| {
        models.retain(|model| model.name == "best");
        compare(&[&found.results], &Bootstrap::default())
    });
    let report = Report {
        title: "",
        models: &models,
        comparison: &comparison.unwrap_or_default(),
        verdict: None,
        galleries: &found.galleries,
        tables: &[],
        focus: Some(&best.metric),
    };
    report.findings().unwrap_or_else(|error| {
        unreadable.push(error.to_string());
        Vec::new()
    })
}

/// Baseline, best, last and the improvement; `None` when nothing was validated.
fn result(history: &RunHistory) -> Option<Table> {
    let validations = &history.validations;
    let baseline = validations.iter().find(|record| record.is_baseline);
    let best = validations.iter().rev().find(|record| record.is_best);
    let last = validations.iter().rev().find(|record| !record.is_baseline);
    let shown: Vec<(&str, &ValidationRecord)> = [("baseline", baseline), ("best", best), ("last", last)]
        .into_iter()
        .filter_map(|(name, record)| record.map(|record| (name, record)))
        .collect();
    let names = metric_names(shown.first()?.1);
    let metric = &shown[0].1.metric;
    let mut header: Vec<String> = std::iter::once(String::new()).collect();
    header.extend(shown.iter().map(|(name, record)| format!("{name} (step {})", record.scores.step)));
    let mut rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            let cells = shown.iter().map(|(_, record)| value_of(record, name));
            std::iter::once((*name).to_owned()).chain(cells).collect()
        })
        .collect();
    if let (Some(baseline), Some(best)) = (baseline, best) {
        header.push("change (best - baseline)".to_owned());
        for (name, row) in names.iter().zip(&mut rows) {
            let of = |record: &ValidationRecord| record.scores.metrics.get(*name).copied();
            let change = of(best).zip(of(baseline)).map(|(best, baseline)| format!("{:+.4}", best - baseline));
            row.push(change.unwrap_or_else(|| "–".to_owned()));
        }
    }
    let note = match best {
        Some(_) => format!("On validation data; best by {metric}."),
        None => "On validation data.".to_owned(),
    };
    let worse = best.zip(baseline).and_then(|(best, baseline)| best.improvement_on(&baseline.scores));
    let note = match worse {
        Some(change) if change <= 0.0 => {
            format!("{note} Training has not improved it: the best is no better than before.")
        }
        _ => note,
    };
    Some(Table { title: "Result".to_owned(), note, header, rows })
}

/// All validations, or a selection from a long run that includes the best.
fn validations(history: &RunHistory) -> Option<Table> {
    let all = &history.validations;
    let names = metric_names(all.first()?);
    let best = all.iter().rposition(|record| record.is_best);
    let every = all.len().div_ceil(MAX_ROWS);
    let is_shown = |at: usize| at.is_multiple_of(every) || at + 1 == all.len() || Some(at) == best;
    let rows: Vec<Vec<String>> = all
        .iter()
        .enumerate()
        .filter(|&(at, _)| is_shown(at))
        .map(|(at, record)| {
            let name = match (record.is_baseline, Some(at) == best) {
                (true, _) => "baseline",
                (false, true) => "best",
                (false, false) => "",
            };
            let mut row = row_of(name, record, &names);
            row.push(duration(record.took_s));
            row
        })
        .collect();
    let note = match rows.len() == all.len() {
        true => String::new(),
        false => format!("{} of {}; metrics.jsonl has them all.", rows.len(), all.len()),
    };
    let mut header = header("", &names);
    header.push("took".to_owned());
    Some(Table { title: "Validations".to_owned(), note, header, rows })
}

fn metric_names(record: &ValidationRecord) -> Vec<&str> {
    record.scores.headlines().into_iter().map(|(name, _)| name).collect()
}

fn header(first: &str, names: &[&str]) -> Vec<String> {
    [first, "step"].iter().chain(names).map(|&name| name.to_owned()).collect()
}

fn row_of(name: &str, record: &ValidationRecord, names: &[&str]) -> Vec<String> {
    let values = names.iter().map(|name| value_of(record, name));
    [name.to_owned(), record.scores.step.to_string()].into_iter().chain(values).collect()
}

fn value_of(record: &ValidationRecord, name: &str) -> String {
    record.scores.metrics.get(name).map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

/// Previews of the baseline, the best and the last validation; errors of those that cannot be read go to `unreadable`.
fn preview_gallery(folder: &Path, history: &RunHistory, unreadable: &mut Vec<String>) -> Option<Gallery> {
    let written = previews::written(folder).unwrap_or_else(|error| {
        unreadable.push(error.to_string());
        Vec::new()
    });
    let best = history.validations.iter().rev().find(|record| record.is_best).map(|record| record.scores.step);
    let mut chosen: Vec<(&str, &(u64, PathBuf))> = Vec::new();
    let mut choose = |what: &'static str, step: Option<u64>| {
        let found = written.iter().find(|(written, _)| Some(*written) == step);
        if let Some(found) = found.filter(|found| !chosen.iter().any(|(_, other)| other.0 == found.0)) {
            chosen.push((what, found));
        }
    };
    choose("the baseline", Some(0));
    choose("the best", best);
    // A run resumed from an earlier save finds previews of later steps.
    choose("the last", history.validations.last().map(|record| record.scores.step));
    chosen.sort_by_key(|(_, (step, _))| *step);
    let columns = match history.steps.last() {
        Some(record) if record.segmentation.is_none() => "input, visible patches, reconstruction",
        _ => "ground truth, then predictions from each kind of prompt",
    };
    let item = |(what, (step, path)): (&str, &(u64, PathBuf))| -> Result<GalleryItem, LearnError> {
        let image =
            decode_rgb(path).map_err(|error| LearnError::Read { path: path.clone(), reason: error.to_string() })?;
        let data_uri =
            jpeg_data_uri(&image, &path.display().to_string()).map_err(|source| LearnError::Report { source })?;
        Ok(GalleryItem { caption: format!("After step {step}, {what}."), data_uri })
    };
    let mut items = Vec::new();
    for result in chosen.into_iter().map(item) {
        match result {
            Ok(item) => items.push(item),
            Err(error) => unreadable.push(LearnError::to_string(&error)),
        }
    }
    let title = format!("Previews: {columns}");
    (!items.is_empty()).then_some(Gallery { title, items })
}

/// A duration for people, such as `1 min 01 s`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest:02} s"),
        _ => format!("{hours} h {minutes:02} min"),
    }
}

/// A rate with at least two digits that count, as a large model takes a minute per image.
#[must_use]
pub fn rate(per_s: f64) -> String {
    match per_s {
        many if many >= 1.0 => format!("{many:.1}"),
        few if few >= 0.01 => format!("{few:.3}"),
        fewer if fewer > 0.0 => format!("{fewer:.1e}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Scores;

    fn validation(step: u64, value: f64, is_best: bool) -> ValidationRecord {
        let metrics = [("miou_1", value), ("small/miou_1", 0.0)].map(|(name, value)| (name.to_owned(), value));
        let scores = Scores { step, metrics: metrics.into_iter().collect() };
        ValidationRecord {
            scores,
            metric: "miou_1".to_owned(),
            is_best,
            is_baseline: step == 0,
            better: None,
            took_s: 61.0,
        }
    }

    #[test]
    fn the_result_is_baseline_best_and_last() {
        let validations = vec![
            validation(0, 0.1, false),
            validation(5, 0.5, true),
            validation(10, 0.7, true),
            validation(15, 0.6, false),
        ];
        let table = result(&RunHistory { validations, ..RunHistory::default() }).expect("validated");
        let steps = ["", "baseline (step 0)", "best (step 10)", "last (step 15)", "change (best - baseline)"];
        assert_eq!(table.header, steps);
        assert_eq!(table.rows, [["miou_1", "0.1000", "0.7000", "0.6000", "+0.6000"]]);
        assert_eq!(table.note, "On validation data; best by miou_1.");
        let worse = vec![validation(0, 0.5, false), validation(5, 0.4, true)];
        let table = result(&RunHistory { validations: worse, ..RunHistory::default() }).expect("validated");
        assert!(table.note.contains("no better than before"), "{}", table.note);
        assert!(result(&RunHistory::default()).is_none());
    }

    #[test]
    fn the_table_of_a_long_run_is_a_selection() {
        let validations: Vec<ValidationRecord> =
            (0..500).map(|at| validation(at, at as f64 / 1e3, at == 100 || at == 307)).collect();
        let table = validations_of(validations);
        assert!(table.rows.len() <= MAX_ROWS + 2, "{}", table.rows.len());
        let steps: Vec<&str> = table.rows.iter().map(|row| row[1].as_str()).collect();
        assert_eq!((steps[0], steps.last().copied()), ("0", Some("499")));
        let best: Vec<&Vec<String>> = table.rows.iter().filter(|row| row[0] == "best").collect();
        assert_eq!(best, [&["best", "307", "0.3070", "1 min 01 s"]]);
        assert!(table.note.ends_with("of 500; metrics.jsonl has them all."), "{}", table.note);
        assert_eq!(validations_of(vec![validation(0, 0.5, false)]).note, "");
    }

    fn validations_of(validations: Vec<ValidationRecord>) -> Table {
        super::validations(&RunHistory { validations, ..RunHistory::default() }).expect("not empty")
    }

    #[test]
    fn slow_steps_are_not_rounded_to_nothing() {
        assert_eq!([41.04, 1.0, 0.9, 0.0213, 0.004, 0.0].map(rate), ["41.0", "1.0", "0.900", "0.021", "4.0e-3", "0"]);
    }

    #[test]
    fn durations_are_formatted_for_people() {
        assert_eq!([duration(9.4), duration(61.0), duration(7322.0)], ["9 s", "1 min 01 s", "2 h 02 min"]);
    }
}
