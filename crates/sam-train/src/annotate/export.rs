//! `sam-train annotate export`: masks of a project in the formats of trainers and labelling programs.
//!
//! The project is only read, so an annotator may be open in it: every file is whole at any moment.

use std::io::Write;

use sam_data::{Conversion, OutsideImages, Selection};
use sam_engine::{ExportFilter, LeftOut, Project};
use serde::Serialize;

use crate::cli::ExportProjectArguments;
use crate::data::{converted, print_report};
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::Waiting;

pub(crate) fn run(arguments: &ExportProjectArguments) -> Result<(), Failure> {
    let project = Project::read(&arguments.project).bad_input()?;
    let filter = ExportFilter {
        states: arguments.state.iter().map(|state| (*state).into()).collect(),
        sources: (!arguments.source.is_empty()).then(|| arguments.source.iter().map(|one| (*one).into()).collect()),
    };
    let waiting = Waiting::reading(&arguments.project);
    let chosen = project.choose(&filter).bad_input()?;
    drop(waiting);
    if chosen.images.is_empty() {
        let stays: String = lines(&chosen.left_out).iter().map(|line| format!("\n  {line}")).collect();
        let project = arguments.project.display();
        Err(anyhow::anyhow!("{project}: no image is left to export; change --state or --source{stays}")).bad_input()?;
    }
    // Its images are links to the user's own folder.
    let conversion = Conversion { to: arguments.to.into(), outside: OutsideImages::Copy };
    let keeps = |image: usize, object: &sam_data::ObjectMask| chosen.keeps(image, object.id);
    let selection = Selection { images: &chosen.images, keeps: &keeps };
    let report = converted(&chosen.source, &arguments.out, conversion, selection)?;
    for line in lines(&chosen.left_out) {
        writeln!(output(), "{line}")?;
    }
    print_report(&report, &arguments.out)
}

/// What stays in the project.
fn lines(left_out: &LeftOut) -> Vec<String> {
    let LeftOut { untouched, states, without_masks, sources } = left_out;
    let mut lines = Vec::new();
    if *untouched > 0 {
        lines.push(format!("left out: {untouched} images that nobody has worked on"));
    }
    for (state, count) in states {
        lines.push(format!("left out: {count} images that are {}", word(state)));
    }
    for (source, count) in sources {
        lines.push(format!("left out: {count} masks that are {}", word(source)));
    }
    if *without_masks > 0 {
        lines.push(format!("left out: {without_masks} images whose masks are all left out"));
    }
    lines
}

/// The word of a state or source in the project's files.
fn word(value: &impl Serialize) -> String {
    serde_json::json!(value).as_str().unwrap_or_default().to_owned()
}
