//! `sam-train annotate import`: masks of any data set that can be read become masks of a project.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use sam_data::{Source, SourceOptions};
use sam_engine::{Import, ImportReport, MaskSource, Project, Store};

use crate::cli::{ImportMasksArguments, ImportedAs};
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::output;
use crate::progress::{Progress, Waiting};
use crate::survey::{DropOption, Purpose, SurveyedSource, lines};

/// Images that are named; the rest is counted.
const SHOWN: usize = 10;

pub(crate) fn run(arguments: &ImportMasksArguments) -> Result<(), Failure> {
    let mut options = arguments.reading.options().bad_input()?;
    let project = Project::open(&arguments.project).bad_input()?;
    let waiting = Waiting::reading(&arguments.data);
    let open = |options: &SourceOptions| {
        Source::open(&arguments.data, options).map_err(|error| DropOption::Flag.advise(error)).bad_input()
    };
    let mut source = open(&options)?;
    if source.lacks_images() && options.images.is_none() {
        // Annotations that were exported without images are of the project's own.
        options.images = Some(project.folder().join(&project.settings().images));
        source = open(&options)?;
    }
    let source = Arc::new(source);
    let mut store = Store::open(project).bad_input()?;
    let import = Import::prepare(&store, &source).bad_input()?;
    drop(waiting);
    let surveyed = SurveyedSource::look_at(Arc::clone(&source), &import.images(), Purpose::Evaluation).bad_input()?;
    let import = import.only(|image| surveyed.survey.is_readable(image));
    for note in source.notes() {
        writeln!(output(), "note: {note}")?;
    }
    let interruption = Interruption::watch()?;
    let mut progress: Option<Progress> = None;
    let report = import.run(&mut store, &source, mask_source(arguments.imported_as), &mut |done, total| {
        progress.get_or_insert_with(|| Progress::new("importing images", total as u64)).set(done as u64);
        if interruption.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(progress);
    let report = report.map_err(|error| anyhow::Error::from(error).context("what is imported stays"))?;
    print_report(&report, &arguments.project)?;
    for line in lines("lost", &surveyed.survey.losses) {
        writeln!(output(), "{line}")?;
    }
    if report.is_stopped {
        return Err(Failure::Stopped("stopped; the same command imports the rest".to_owned()));
    }
    writeln!(output(), "next: sam-train annotate {}", arguments.project.display())?;
    Ok(())
}

fn mask_source(imported_as: Option<ImportedAs>) -> MaskSource {
    match imported_as {
        None => MaskSource::Imported,
        Some(ImportedAs::Accepted) => MaskSource::Accepted,
        Some(ImportedAs::Automatic) => MaskSource::Automatic,
    }
}

fn print_report(report: &ImportReport, project: &Path) -> Result<(), Failure> {
    let ImportReport { images, masks, classes, known, removed, ignore_regions, left_out, .. } = report;
    let mut out = output();
    writeln!(out, "{masks} masks in {images} images imported into {}", project.display())?;
    if !classes.is_empty() {
        writeln!(out, "new classes: {}", classes.join(", "))?;
    }
    if *known > 0 {
        writeln!(out, "{known} masks are there already")?;
    }
    if *removed > 0 {
        writeln!(out, "{removed} masks were imported before and removed since: not added again")?;
    }
    if *ignore_regions > 0 {
        writeln!(out, "lost: the ignore regions of {ignore_regions} images, which a project does not have")?;
    }
    if !left_out.is_empty() {
        writeln!(out, "not imported: {} images of the data set", left_out.len())?;
    }
    for (name, why) in left_out.iter().take(SHOWN) {
        writeln!(out, "    {name}: {why}")?;
    }
    if left_out.len() > SHOWN {
        writeln!(out, "    .. and {} more", left_out.len() - SHOWN)?;
    }
    Ok(())
}
