//! Simulated annotation: every object of some images, round by round, in as few calls of the segmenter as possible.
//!
//! Each image is embedded once. The objects then go through the rounds side by side, [`Protocol::objects_per_call`] at a
//! time: the annotators click (on all cores), the segmenter answers them all, the answers are scored (on all cores). What
//! one object gets never depends on the others.

use sam_image::{RgbImage, Rle};

use crate::error::EvalError;
use crate::object_record::ObjectRecord;
use crate::segmenter::{Candidate, MaskSelection, Segmenter};
use crate::trial::{Protocol, Step, Trial};

/// An image with the objects to be found in it.
#[derive(Clone, Copy, Debug)]
pub struct ImageTask<'a> {
    /// Name of the data set, for the report.
    pub data_set: &'a str,
    /// Name of the image within it.
    pub name: &'a str,
    /// Its pixels.
    pub image: &'a RgbImage,
    /// What is to be found, of the image's size.
    pub objects: &'a [Target<'a>],
    /// Pixels that do not count, of the image's size.
    pub ignore: Option<&'a Rle>,
}

impl ImageTask<'_> {
    /// `[height, width]`.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        [self.image.height() as usize, self.image.width() as usize]
    }
}

/// An object to be found.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The data set's own id.
    pub id: u64,
    /// Where it is.
    pub mask: &'a Rle,
    /// Name of its class, where there are classes.
    pub class: Option<&'a str>,
}

/// What came of an object.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its rounds.
    pub record: ObjectRecord,
    /// The mask of the last round, for galleries.
    pub final_mask: Rle,
}

/// Plays the protocol on all objects of these images; outcomes in the order of the tasks and their objects.
///
/// The embeddings of all tasks are kept at once: give as many images as their memory allows, usually one.
///
/// # Errors
///
/// When a mask is empty or of another size than its image, the protocol makes no sense, or the segmenter fails.
pub fn run_interactive<S: Segmenter>(
    segmenter: &S,
    protocol: &Protocol,
    tasks: &[ImageTask<'_>],
) -> Result<Vec<Outcome>, EvalError> {
    protocol.check()?;
    let embeddings = tasks.iter().map(|task| embed(segmenter, task)).collect::<Result<Vec<_>, _>>()?;
    let embeddings: Vec<&S::Embedding> = embeddings.iter().collect();
    play(segmenter, protocol, tasks, &embeddings, &mut |_| Ok(()))
}

/// Runs the image encoder.
pub(crate) fn embed<S: Segmenter>(segmenter: &S, task: &ImageTask<'_>) -> Result<S::Embedding, EvalError> {
    segmenter.embed(task.image).map_err(|source| EvalError::Segmenter { image: task.name.to_owned(), source })
}

/// As [`run_interactive`], on embeddings that are there. `after` hears how many objects are through, each time that some are;
/// what it does not want to go on ends it.
pub(crate) fn play<S: Segmenter>(
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
            play_round(segmenter, protocol, embeddings, &mut trials, (round, step))?;
        }
        outcomes.extend(trials.into_iter().map(|trial| {
            let (record, mask) = trial.into_record();
            Outcome { record, final_mask: Rle::from_mask(&mask) }
        }));
        after(chunk.len())?;
    }
    Ok(outcomes)
}

/// One prompt and one answer for every trial that is not over.
fn play_round<S: Segmenter>(
    segmenter: &S,
    protocol: &Protocol,
    embeddings: &[&S::Embedding],
    trials: &mut [Trial<'_, S::Logits>],
    (round, step): (usize, Step),
) -> Result<(), EvalError> {
    let mut active: Vec<&mut Trial<'_, S::Logits>> = trials.iter_mut().filter(|trial| !trial.is_over).collect();
    on_all_cores(&mut active, |trial| trial.prepare(step, protocol));

    let selection = protocol.selection(round);
    let prompts: Vec<_> = active.iter().map(|trial| (trial.task_index, trial.prompt())).collect();
    let answers = segmenter.segment(embeddings, &prompts, selection).map_err(|source| {
        let image = active.first().map_or("", |trial| trial.task.name).to_owned();
        EvalError::Segmenter { image, source }
    })?;
    if answers.len() != active.len() {
        let image = active.first().map_or("", |trial| trial.task.name).to_owned();
        let (expected, got) = (format!("one answer for each of {} objects", active.len()), answers.len().to_string());
        return Err(EvalError::Answer { image, expected, got });
    }
    for (trial, candidates) in active.iter().zip(&answers) {
        check_answer(candidates, selection, trial)?;
    }

    let mut scored: Vec<_> = active.into_iter().zip(answers).map(|(trial, answer)| (trial, Some(answer))).collect();
    on_all_cores(&mut scored, |(trial, answer)| {
        if let Some(answer) = answer.take() {
            trial.score(answer, selection, protocol);
        }
    });
    Ok(())
}

fn check_answer<L>(
    candidates: &[Candidate<L>],
    selection: MaskSelection,
    trial: &Trial<'_, L>,
) -> Result<(), EvalError> {
    let refuse = |expected: &str, got: String| {
        Err(EvalError::Answer { image: trial.task.name.to_owned(), expected: expected.to_owned(), got })
    };
    match (selection, candidates.len()) {
        (_, 0) => return refuse("at least one mask for each object", "none".to_owned()),
        (MaskSelection::All, _) | (_, 1) => {}
        (_, n) => return refuse("one mask for each object in this round", n.to_string()),
    }
    for candidate in candidates {
        let ([height, width], got_hw) = (trial.task.size_hw(), candidate.mask.size_hw());
        if got_hw != [height, width] {
            let got = format!("{} x {}", got_hw[0], got_hw[1]);
            return refuse(&format!("masks of the image's size, {height} x {width} (height x width)"), got);
        }
        if !candidate.predicted_iou.is_finite() {
            return refuse("a finite predicted IoU", candidate.predicted_iou.to_string());
        }
    }
    Ok(())
}

/// Runs independent work on the items, in stretches of equal length.
pub(crate) fn on_all_cores<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if n_threads < 2 {
        items.iter_mut().for_each(work);
        return;
    }
    let stretch = items.len().div_ceil(n_threads);
    std::thread::scope(|scope| {
        let mut stretches = items.chunks_mut(stretch);
        let own = stretches.next();
        for stretch in stretches {
            scope.spawn(|| stretch.iter_mut().for_each(&work));
        }
        own.into_iter().flatten().for_each(&work);
    });
}
