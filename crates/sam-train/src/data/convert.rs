//! `sam-train data convert`: converts a data set and reports what the target format cannot represent.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sam_data::{Conversion, ConvertReport, DataError, OutsideImages, Selection, Source, convert_selection};

use crate::cli::ConvertArguments;
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::output;
use crate::progress::{Progress, Waiting};
use crate::survey::{DropOption, lines};

pub(crate) fn run(arguments: &ConvertArguments) -> Result<(), Failure> {
    let options = arguments.source.options().bad_input()?;
    let waiting = Waiting::reading(&arguments.path);
    let source = Source::open(&arguments.path, &options);
    let source = source.map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
    drop(waiting);
    let outside = if arguments.copy_outside { OutsideImages::Copy } else { OutsideImages::Refuse };
    let conversion = Conversion { to: arguments.to.into(), outside };
    let images: Vec<usize> = (0..source.len()).collect();
    let selection = Selection { images: &images, keeps: &|_, _| true };
    let report = converted(&source, &arguments.out, conversion, selection)?;
    for note in source.notes() {
        writeln!(output(), "note: {note}")?;
    }
    print_report(&report, &arguments.out)
}

/// Converts with progress, until Ctrl-C.
pub(crate) fn converted(
    source: &Source,
    out: &Path,
    conversion: Conversion,
    selection: Selection<'_>,
) -> Result<ConvertReport, Failure> {
    let interruption = Interruption::watch()?;
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let report = convert_selection(source, out, conversion, selection, &|done, total| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.get_or_insert_with(|| Progress::new("converting images", total as u64)).set(done as u64);
        if interruption.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    match report {
        Err(DataError::Stopped) => Err(Failure::Interrupted),
        report => report.map_err(|error| DropOption::Flag.advise(error)).bad_input(),
    }
}

/// What was written and lost, and how it is opened.
pub(crate) fn print_report(report: &ConvertReport, folder: &Path) -> Result<(), Failure> {
    let mut out = output();
    writeln!(out, "{} images with {} objects in {}", report.images, report.objects, folder.display())?;
    for line in lines("lost", &report.losses) {
        writeln!(out, "{line}")?;
    }
    for note in &report.notes {
        writeln!(out, "changed: {note}")?;
    }
    if report.notes.is_empty() && report.losses.is_empty() {
        writeln!(out, "nothing was lost")?;
    }
    for hint in &report.hints {
        writeln!(out, "next: {hint}")?;
    }
    Ok(())
}
