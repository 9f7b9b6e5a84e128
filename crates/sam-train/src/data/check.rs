//! `sam-train data check`: contents and problems of a data set.

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use sam_data::{CheckReport, DataError, Severity, SourceOptions, check};
use sam_files::write_atomically;

use crate::cli::CheckArguments;
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::{Progress, Waiting};
use crate::survey::problem_lines;
use crate::target::{Target, check_target};

/// Number of classes printed; the JSON has all.
const CLASSES_SHOWN: usize = 12;

/// Width of the longest bar of the histogram.
const BAR: u64 = 40;

pub(crate) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    if let Some(path) = &arguments.json {
        check_target(path, "--json", Target::File, arguments.force).bad_input()?;
    }
    let options = arguments.source.options().bad_input()?;
    let report = checked(&arguments.path, &options).bad_input()?;
    print(&report)?;
    if let Some(path) = &arguments.json {
        write_json(&report, path)?;
    }
    if report.has_errors() {
        let errors: Vec<_> = report.problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        let count: u64 = errors.iter().map(|problem| problem.count).sum();
        let kinds = errors.len();
        Err(anyhow!("{}: {count} errors of {kinds} kinds; fix them as listed above", arguments.path.display()))
            .bad_input()?;
    }
    Ok(())
}

/// The report of a data set, with progress on standard error.
pub(crate) fn checked(path: &Path, options: &SourceOptions) -> Result<CheckReport, DataError> {
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let waiting = Mutex::new(Some(Waiting::reading(path)));
    check(path, options, &|done, total| {
        drop(waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.get_or_insert_with(|| Progress::new("checking images", total as u64)).set(done as u64);
    })
}

fn print(report: &CheckReport) -> Result<(), Failure> {
    let mut out = output();
    writeln!(out, "format   {}", report.format.name())?;
    for note in &report.notes {
        writeln!(out, "note     {note}")?;
    }
    let mut images = format!("{} ({} without objects", report.images, report.images_without_objects);
    if report.images_with_ignore > 0 {
        images += &format!(", {} with ignore regions", report.images_with_ignore);
    }
    if report.unreadable_images > 0 {
        images += &format!(", {} unreadable = {:.2} %", report.unreadable_images, report.unreadable_percent);
    }
    writeln!(out, "images   {images})")?;
    if let Some([[height, width], [max_height, max_width]]) = report.image_sizes_hw {
        writeln!(out, "sizes    {width} x {height} to {max_width} x {max_height} px")?;
    }
    for (part, count) in &report.parts {
        writeln!(out, "part     {part}: {count} images")?;
    }
    writeln!(out, "objects  {}", report.objects)?;
    if report.captions > 0 {
        writeln!(out, "captions {}, of {} objects", report.captions, report.objects_with_captions)?;
    }
    for class in report.classes.iter().take(CLASSES_SHOWN) {
        writeln!(out, "class    {}: {}", class.name, class.objects)?;
    }
    if report.classes.len() > CLASSES_SHOWN {
        writeln!(out, "class    and {} more", report.classes.len() - CLASSES_SHOWN)?;
    }
    print_sizes(&mut out, report)?;
    if report.problems.is_empty() {
        writeln!(out, "no problems")?;
    }
    for problem in &report.problems {
        for line in problem_lines(problem) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn print_sizes(out: &mut impl Write, report: &CheckReport) -> Result<(), Failure> {
    let most = report.sizes.iter().map(|bin| bin.objects).max().unwrap_or(0).max(1);
    writeln!(
        out,
        "size of objects where the longest side is {} px (side of a square of equal area):",
        report.model_side_px
    )?;
    for bin in &report.sizes {
        let range = match bin.to_px {
            Some(to) => format!("{} to {to}", bin.from_px),
            None => format!("{} and up", bin.from_px),
        };
        let bar = "#".repeat((bin.objects * BAR).div_ceil(most) as usize);
        writeln!(out, "  {range:>11} px {:7} {bar}", bin.objects)?;
    }
    Ok(())
}

fn write_json(report: &CheckReport, path: &Path) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report)?;
    write_atomically(path, text + "\n").map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    Ok(())
}
