//! `sam-train annotate auto`: the model labels the images that nobody has worked on (the automatic stage, arXiv 2304.02643,
//! section 4). Its masks are marked as automatic, validation images are left to people.

use std::io::Write;
use std::ops::ControlFlow;

use sam_engine::{
    Change, Identifier, ImageId, ImageState, MaskSource, NewMask, Operation, Project, PromptRecord, SeenImage,
    Segmentation, Store,
};
use sam_infer::Predictor;
use sam_infer::automatic::{AutomaticMask, Candidates};

use super::print_left_out;
use crate::cli::{AutomaticArguments, Verbosity};
use crate::export::{LABEL_WIDTH, print_load_report};
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::{errors, output};
use crate::progress::{self, Progress};
use crate::timing::timed;
use crate::train::checkpoint_file;

pub(super) fn run(arguments: &AutomaticArguments) -> Result<(), Failure> {
    if arguments.verbosity.level() == Verbosity::Quiet {
        progress::silence();
    }
    let (options, thresholds) = (arguments.masks.options(), arguments.masks.thresholds());
    thresholds.check().bad_input()?;
    options.check().bad_input()?;
    let project = Project::open(&arguments.project).bad_input()?;
    print_left_out(&project)?;
    let device = arguments.device.open().bad_input()?;
    let checkpoint = checkpoint_file(&project.checkpoint().bad_input()?.0);
    let (predictor, report) = timed("loaded", || Predictor::from_checkpoint(&checkpoint, &device)).bad_input()?;
    print_load_report(&mut errors(), &report, LABEL_WIDTH)?;
    let model = sam_engine::file_fingerprint(&checkpoint).bad_input()?;
    let mut store = Store::open(project).bad_input()?;
    let todo: Vec<usize> = (0..store.project().images().len())
        .filter(|&index| {
            let summary = store.summary(index);
            // An image with masks has been worked on, by a person or by this command.
            summary.n_masks == 0 && summary.state == ImageState::Todo && !store.project().is_validation(index)
        })
        .collect();
    let interruption = Interruption::watch()?;
    let mut progress = Progress::new("labelling images", todo.len() as u64);
    let (mut n_images, mut n_masks, mut n_without, mut unreadable) = (0, 0, 0, Vec::new());
    for (done, &index) in todo.iter().enumerate() {
        let name = store.project().images().name(index).to_owned();
        let path = store.project().images().path(index).bad_input()?;
        let image = match sam_data::read_image_file(&path, &sam_data::SourceOptions::default()) {
            Ok(image) => image,
            Err(error) => {
                unreadable.push(error.to_string());
                continue;
            }
        };
        let found = Candidates::find(&predictor, &image, &options, &mut |_| match interruption.is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        let ControlFlow::Continue(candidates) = found else {
            return Err(Failure::Stopped(format!(
                "stopped; {n_images} images are labelled; the same command resumes with the others"
            )));
        };
        let masks = candidates.generate(&thresholds)?.masks;
        let seen = SeenImage::of(&image);
        let operations = operations(&masks, &name, &model)?;
        store.apply_all(&operations, seen)?;
        (n_images, n_masks) = (n_images + 1, n_masks + masks.len());
        n_without += usize::from(masks.is_empty());
        progress.set(done as u64 + 1);
    }
    drop(progress);
    writeln!(output(), "{n_masks} automatic masks in {n_images} images, {n_without} images without any")?;
    for problem in &unreadable {
        writeln!(errors(), "left out: {problem}")?;
    }
    if n_images > n_without {
        writeln!(output(), "next: sam-train annotate {}, and review a sample of them", arguments.project.display())?;
    }
    Ok(())
}

/// One that adds each mask. Their ids follow from model and mask.
fn operations(masks: &[AutomaticMask], name: &str, model: &str) -> Result<Vec<Operation>, Failure> {
    let image = ImageId::of(name);
    let id = |what: &str, at: usize| {
        let text = format!("{what}-{image}-{model}-{at}");
        Identifier::try_from(text).map_err(|error| anyhow::anyhow!(error))
    };
    let mut operations = Vec::with_capacity(masks.len());
    for (at, mask) in masks.iter().enumerate().filter(|(_, mask)| !mask.rle.is_empty()) {
        let [x, y] = mask.point_xy_px;
        let mask = NewMask {
            uuid: id("auto", at)?,
            segmentation: Segmentation::of(&mask.rle),
            source: MaskSource::Automatic,
            class: None,
            prompts: PromptRecord { points: vec![[x, y, 1.0]], ..PromptRecord::default() },
            seconds: 0.0,
            predicted_iou: Some(f64::from(mask.predicted_iou)),
            model: Some(model.to_owned()),
        };
        operations.push(Operation { op: id("op-auto", at)?, image, base: 0, change: Change::Add { mask } });
    }
    Ok(operations)
}
