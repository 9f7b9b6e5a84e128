//! Interactive segmentation of all objects of some images, in as few calls of the segmenter as possible.
//!
//! Each image is embedded once. The objects then run through the rounds in batches of [`Protocol::objects_per_call`]: the
//! annotators click (in parallel), the segmenter decodes all prompts, the answers are scored (in parallel). The result of
//! one object never depends on the others.

use rayon::prelude::*;
use sam_image::Rle;

use crate::error::EvalError;
use crate::protocol::segmenter::{Candidate, MaskSelection, Prompt, Segmenter};
use crate::protocol::settings::{Protocol, Step};
use crate::protocol::task::{ImageTask, Outcome};
use crate::protocol::trial::Trial;

/// Runs the protocol on all objects of these images. Returns the outcomes in the order of the tasks and their objects.
///
/// All embeddings are in memory at the same time, so pass few images per call, usually one.
///
/// # Errors
///
/// When a mask is empty or its size is not its image's, the protocol is invalid, or the segmenter fails.
pub fn run_interactive<S: Segmenter>(
    segmenter: &S,
    protocol: &Protocol,
    tasks: &[ImageTask<'_>],
) -> Result<Vec<Outcome>, EvalError> {
    protocol.check()?;
    let embeddings = tasks.iter().map(|task| embed(segmenter, task)).collect::<Result<Vec<_>, _>>()?;
    let embeddings: Vec<&S::Embedding> = embeddings.iter().collect();
    run_embedded(segmenter, protocol, tasks, &embeddings, &mut |_| Ok(()))
}

/// Runs the image encoder.
pub(crate) fn embed<S: Segmenter>(segmenter: &S, task: &ImageTask<'_>) -> Result<S::Embedding, EvalError> {
    segmenter.embed(task.image).map_err(|source| EvalError::Segmenter { image: task.name.to_owned(), source })
}

/// As [`run_interactive`], with embeddings. `after` receives the number of objects of each completed batch; its error ends
/// the run.
pub(crate) fn run_embedded<S: Segmenter>(
    segmenter: &S,
    protocol: &Protocol,
    tasks: &[ImageTask<'_>],
    embeddings: &[&S::Embedding],
    after: &mut dyn FnMut(usize) -> Result<(), EvalError>,
) -> Result<Vec<Outcome>, EvalError> {
    let all: Vec<(usize, usize)> =
        tasks.iter().enumerate().flat_map(|(t, task)| (0..task.objects.len()).map(move |o| (t, o))).collect();
    let mut outcomes = Vec::with_capacity(all.len());
    for chunk in all.chunks(protocol.objects_per_call) {
        let mut trials: Vec<Trial<'_, S::Logits>> = chunk
            .iter()
            .map(|&(t, o)| Trial::new(&tasks[t], t, &tasks[t].objects[o], protocol))
            .collect::<Result<_, _>>()?;
        for (round, step) in protocol.steps().into_iter().enumerate() {
            if trials.iter().all(|trial| trial.is_over) {
                break;
            }
            run_round(segmenter, protocol, embeddings, &mut trials, (round, step))?;
        }
        outcomes.extend(trials.into_iter().map(|trial| {
            let (record, mask) = trial.into_record();
            Outcome { record, final_mask: Rle::from_mask(&mask) }
        }));
        after(chunk.len())?;
    }
    Ok(outcomes)
}

/// Prompts, decodes and scores every trial that is not over.
fn run_round<S: Segmenter>(
    segmenter: &S,
    protocol: &Protocol,
    embeddings: &[&S::Embedding],
    trials: &mut [Trial<'_, S::Logits>],
    (round, step): (usize, Step),
) -> Result<(), EvalError> {
    let mut active: Vec<&mut Trial<'_, S::Logits>> = trials.iter_mut().filter(|trial| !trial.is_over).collect();
    active.par_iter_mut().for_each(|trial| trial.prepare(step, protocol));

    let selection = protocol.selection(round);
    let prompts: Vec<_> = active.iter().map(|trial| (trial.task_index, trial.prompt())).collect();
    let answers = ask(segmenter, embeddings, &prompts, selection, &|at| active[at].task)?;
    drop(prompts);

    active.into_par_iter().zip(answers).for_each(|(trial, answer)| trial.score(answer, selection, protocol));
    Ok(())
}

/// Decodes prompts and checks the answers: one for each, with as many masks as were selected, of the image's size.
/// `task` gives the image of a prompt, for messages.
pub(crate) fn ask<'a, S: Segmenter>(
    segmenter: &S,
    embeddings: &[&S::Embedding],
    prompts: &[(usize, Prompt<'_, S::Logits>)],
    selection: MaskSelection,
    task: &dyn Fn(usize) -> &'a ImageTask<'a>,
) -> Result<Vec<Vec<Candidate<S::Logits>>>, EvalError> {
    let first_image = || prompts.first().map_or("", |_| task(0).name).to_owned();
    let answers = segmenter
        .segment(embeddings, prompts, selection)
        .map_err(|source| EvalError::Segmenter { image: first_image(), source })?;
    if answers.len() != prompts.len() {
        let (expected, got) = (format!("one answer for each of {} objects", prompts.len()), answers.len().to_string());
        return Err(EvalError::Answer { image: first_image(), expected, got });
    }
    for (at, candidates) in answers.iter().enumerate() {
        check_answer(candidates, selection, task(at))?;
    }
    Ok(answers)
}

fn check_answer<L>(
    candidates: &[Candidate<L>],
    selection: MaskSelection,
    task: &ImageTask<'_>,
) -> Result<(), EvalError> {
    let reject = |expected: &str, got: String| {
        Err(EvalError::Answer { image: task.name.to_owned(), expected: expected.to_owned(), got })
    };
    match (selection, candidates.len()) {
        (_, 0) => return reject("at least one mask for each object", "none".to_owned()),
        (MaskSelection::All, _) | (_, 1) => {}
        (_, n) => return reject("one mask for each object in this round", n.to_string()),
    }
    for candidate in candidates {
        let ([height, width], got_hw) = (task.size_hw(), candidate.mask.size_hw());
        if got_hw != [height, width] {
            let got = format!("{} x {}", got_hw[0], got_hw[1]);
            return reject(&format!("masks of the image's size, {height} x {width} (height x width)"), got);
        }
        if !candidate.predicted_iou.is_finite() {
            return reject("a finite predicted IoU", candidate.predicted_iou.to_string());
        }
    }
    Ok(())
}
