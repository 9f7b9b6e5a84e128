//! `sam-train annotate simulate`: labels an open project from the truth of a data set, as a person would.

use std::io::Write;
use std::ops::ControlFlow;

use anyhow::anyhow;
use sam_data::{Counterpart, Source, SourceOptions};
use sam_engine::{Annotator, Client, Project, Simulated, Truth};
use serde_json::json;

use crate::cli::SimulateArguments;
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::Progress;

pub(super) fn run(arguments: &SimulateArguments) -> Result<(), Failure> {
    if !(arguments.iou > 0.0 && arguments.iou <= 1.0) {
        Err(anyhow!("--iou must be above 0 and at most 1, got {}", arguments.iou)).bad_input()?;
    }
    let project = Project::read(&arguments.project).bad_input()?;
    let truth = truth(&project, arguments).bad_input()?;
    let mut client = Client::of_project(project.folder()).bad_input()?;
    let annotator = Annotator {
        wanted_iou: arguments.iou,
        max_clicks: arguments.clicks,
        max_masks: arguments.masks.unwrap_or(usize::MAX),
        uses_proposals: arguments.proposals,
    };
    let mut progress = Progress::new("labelling images", truth.len() as u64);
    let done = annotator.label(&mut client, &truth, &mut |done| {
        progress.set(done.images as u64);
        ControlFlow::Continue(())
    })?;
    drop(progress);
    print(arguments, &done)
}

/// The true masks of the project's images.
fn truth(project: &Project, arguments: &SimulateArguments) -> anyhow::Result<Truth> {
    let source = Source::open(&arguments.truth, &SourceOptions::default())?;
    let mut truth = Truth::new();
    let counterparts = source.counterparts(&project.images().named_files()?);
    for (index, counterpart) in counterparts.into_iter().enumerate() {
        let Counterpart::At(image) = counterpart else { continue };
        let class = |class: usize| source.classes().get(class).cloned();
        let objects = source.undecoded(index)?.objects.into_iter();
        let objects = objects.map(|object| (object.mask, object.class.and_then(class))).collect();
        truth.insert(project.images().name(image).to_owned(), objects);
    }
    if truth.is_empty() {
        let (truth, project) = (arguments.truth.display(), arguments.project.display());
        return Err(anyhow!("{truth}: must have masks of images of the same names as in {project}, got none"));
    }
    Ok(truth)
}

fn print(arguments: &SimulateArguments, done: &Simulated) -> Result<(), Failure> {
    let Simulated { images, masks, accepted, brushed, clicks, seconds, waited_s } = *done;
    let made = masks - accepted;
    let mean = |sum: f64, n: usize| if n > 0 { sum / n as f64 } else { 0.0 };
    if arguments.json {
        let result = json!({
            "images": images, "masks": masks, "accepted": accepted, "brushed": brushed, "clicks": clicks,
            "clicks_per_mask": mean(clicks as f64, made), "seconds_per_mask": mean(seconds, masks),
            "waited_s_per_click": mean(waited_s, clicks),
        });
        writeln!(output(), "{result}")?;
        return Ok(());
    }
    writeln!(
        output(),
        "{masks} masks in {images} images: {accepted} accepted proposals, {brushed} finished with the brush; {:.2} clicks and \
         {:.1} s per mask, {:.0} ms per click",
        mean(clicks as f64, made),
        mean(seconds, masks),
        1e3 * mean(waited_s, clicks)
    )?;
    Ok(())
}
