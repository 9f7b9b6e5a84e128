//! `sam-train auto`: the masks of everything in images, without prompts.
//!
//! Three threads: the next image is decoded while this one is computed and the one before is written, so four images are in
//! memory at most, whatever their number.

mod folder;
mod inputs;
mod kept;
mod products;
mod record;
mod summary;
mod texts;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use anyhow::{Context, anyhow};
use sam_data::SourceOptions;
use sam_image::RgbImage;
use sam_infer::automatic::{
    AutomaticError, AutomaticMask, Candidates, Described, Generated, PointsDone, Seen, TextMatch,
};
use sam_infer::{Precision, Predictor};

use crate::cli::{AutoArguments, MaskFormat, Verbosity};
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::errors;
use crate::predict::open_predictor;
use crate::progress::{self, Progress};
use crate::train::checkpoint_file;
use folder::{ANNOTATIONS, Description, Finished, OutFolder};
use inputs::Input;
use kept::{KeptMasks, Known, Vectors, write_candidates};
use record::Record;
use summary::{Note, Summary};
use texts::{MaskVectors, TextDescription, Texts};

pub(crate) fn run(arguments: &AutoArguments) -> Result<(), Failure> {
    if arguments.verbosity.level() == Verbosity::Quiet {
        progress::silence();
    }
    let (options, thresholds) = (arguments.automatic(), arguments.masks.thresholds());
    thresholds.check().bad_input()?;
    options.check().bad_input()?;
    let reading = arguments.image_options().bad_input()?;
    let inputs = inputs::list(&arguments.images, &arguments.out, &reading).bad_input()?;
    let device = arguments.device.open().bad_input()?;
    // Before the checkpoint, as texts are what is typed.
    let texts = Texts::open(&arguments.texts, &device).bad_input()?;
    let predictor = open_predictor(&arguments.checkpoint, arguments.adapter.as_deref(), &device)?;
    let in_use = Precision::in_use();
    let description = Description {
        program: Description::version(),
        checkpoint: checkpoint_file(&arguments.checkpoint),
        weights: format!("{:016x}", predictor.weights_fingerprint()),
        intensity: format!("{:?}", reading.intensity),
        products: (in_use != Precision::F32).then(|| in_use.to_string()),
        options,
        thresholds,
        no_overlap: arguments.no_overlap,
        texts: texts.as_ref().map(|texts| texts.description().clone()),
    };
    let folder = OutFolder::open(&arguments.out, description, arguments.force).bad_input()?;
    let work = Work {
        arguments,
        inputs: &inputs,
        reading,
        description: folder.description().clone(),
        texts,
        interruption: Interruption::watch()?,
    };
    let (folder, summary) = work.run(&predictor, folder)?;
    if work.interruption.is_requested() {
        let Summary { finished, images, .. } = summary;
        return Err(Failure::Stopped(format!(
            "stopped; {finished} of {images} images are finished; the same command resumes with the others"
        )));
    }
    if arguments.format == MaskFormat::Coco {
        let is_finished = |input: &&Input| folder.finished(&input.name, &input.stem, input.n_bytes()).is_some();
        let finished: Vec<&Input> = inputs.iter().filter(is_finished).collect();
        products::write_coco(&folder, &finished, work.texts.as_ref().map(Texts::description))?;
    }
    summary.print(arguments.json)?;
    match summary.unreadable.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Failure::Run(anyhow!(
            "{} of {} images could not be read, the first is {}; the others are finished",
            summary.unreadable.len(),
            summary.images,
            first.name
        ))),
    }
}

/// An image that lacks something.
struct Todo {
    index: usize,
    /// Its masks, where only pictures are missing.
    record: Option<PathBuf>,
}

/// An image on its way to its masks.
struct Decoded {
    index: usize,
    image: anyhow::Result<(RgbImage, Known, Vectors)>,
}

/// An image with masks, to be written.
struct Computed {
    index: usize,
    image: RgbImage,
    masks: Masks,
}

enum Masks {
    Made(Box<Made>),
    Before(Record),
}

/// Masks that were just made.
#[derive(Default)]
struct Made {
    generated: Generated,
    seen: Seen,
    origin: Origin,
    /// What texts are of them, where there are texts.
    matches: BTreeMap<usize, TextMatch>,
    best_text_score: Option<f32>,
    /// To be kept.
    candidates: Option<Candidates>,
    all: Option<KeptMasks>,
}

/// What masks were made from.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Origin {
    #[default]
    Network,
    Candidates,
    Masks,
}

/// What is done, shared by the threads.
struct Work<'a> {
    arguments: &'a AutoArguments,
    inputs: &'a [Input],
    reading: SourceOptions,
    description: Description,
    texts: Option<Texts>,
    interruption: Interruption,
}

impl Work<'_> {
    /// Segments every image that is not finished.
    fn run(&self, predictor: &Predictor, mut folder: OutFolder) -> anyhow::Result<(OutFolder, Summary)> {
        let started = Instant::now();
        let texts = self.description.texts.as_ref().map(TextDescription::counts).unwrap_or_default();
        let (out, images) = (self.arguments.out.clone(), self.inputs.len());
        let mut summary = Summary { out, images, texts, ..Summary::default() };
        let todo = self.unfinished(&folder, &mut summary)?;
        let mut unreadable = Vec::new();
        let result = std::thread::scope(|scope| {
            let (to_compute, decoded) = sync_channel::<Decoded>(0);
            let (to_write, computed) = sync_channel::<Computed>(0);
            let (root, todo) = (folder.file(""), &todo);
            scope.spawn(move || {
                for todo in todo {
                    if to_compute.send(self.decode(todo, &root)).is_err() {
                        break;
                    }
                }
            });
            let (folder, summary) = (&mut folder, &mut summary);
            let writer = scope.spawn(move || self.write_all(&computed, folder, summary));
            let n_before = self.inputs.len() - todo.len();
            let mut send = |computed| to_write.send(computed).is_ok();
            let computing = self.compute_all(predictor, &decoded, n_before, &mut unreadable, &mut send);
            drop((decoded, to_write));
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            computing.and(written)
        });
        result?;
        summary.unreadable = unreadable;
        summary.seconds = started.elapsed().as_secs_f64();
        Ok((folder, summary))
    }

    /// Images that lack something; those that lack nothing are counted.
    fn unfinished(&self, folder: &OutFolder, summary: &mut Summary) -> anyhow::Result<Vec<Todo>> {
        let AutoArguments { format, no_overlay, .. } = self.arguments;
        let mut todo = Vec::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let Some(finished) = folder.finished(&input.name, &input.stem, input.n_bytes()) else {
                todo.push(Todo { index, record: None });
                continue;
            };
            summary.finished_before += 1;
            self.count(summary, finished);
            let record = folder.path(ANNOTATIONS, &input.stem, "json");
            if !no_overlay && !products::has_overlay(folder, &input.stem) {
                todo.push(Todo { index, record: Some(record) });
            } else if !products::has_product(folder, &input.stem, *format) {
                products::write_product(folder, &input.stem, &Record::read(&record)?, *format)?;
            }
        }
        Ok(todo)
    }

    fn count(&self, summary: &mut Summary, finished: &Finished) {
        summary.finished += 1;
        summary.masks += finished.masks;
        summary.removed.add(&finished.removed);
        for (text, masks) in summary.texts.iter_mut().zip(&finished.of_texts) {
            text.masks += masks;
        }
        if finished.masks == 0 {
            let mut reason = finished.seen.explain_none(&finished.removed, &self.description.thresholds);
            if let Some(best) = finished.best_text_score {
                reason.push_str(&format!("; the best score of a text is {best:.3}: lower --text-min-score"));
            }
            summary.without_masks.push(Note::new(&finished.name, reason));
        }
        if finished.seen.layers_left_out > 0 {
            let (left_out, asked) = (finished.seen.layers_left_out, self.description.options.crop_layers);
            let reason = format!("the image is too small for {left_out} of {asked} layers of crops");
            summary.fewer_crops.push(Note::new(&finished.name, reason));
        }
    }

    fn decode(&self, todo: &Todo, folder: &Path) -> Decoded {
        let input = &self.inputs[todo.index];
        let image = input.read(&self.reading);
        let known = match &todo.record {
            Some(path) => Record::read(path).map(|record| (Known::Record(record), Vectors::default())),
            None => Ok(Known::of(folder, input, &self.description)),
        };
        let image = image.and_then(|image| known.map(|(known, vectors)| (image, known, vectors)));
        Decoded { index: todo.index, image }
    }

    /// Computes images as they come, until there are no more, nobody writes them, or the user stops it.
    fn compute_all(
        &self,
        predictor: &Predictor,
        decoded: &Receiver<Decoded>,
        n_before: usize,
        unreadable: &mut Vec<Note>,
        send: &mut dyn FnMut(Computed) -> bool,
    ) -> anyhow::Result<()> {
        let total = self.inputs.len();
        // Of a single image, points are counted.
        let mut images = (total > 1).then(|| Progress::new("segmenting images", total as u64));
        let mut n_done = n_before;
        for Decoded { index, image } in decoded {
            if self.interruption.is_requested() {
                break;
            }
            n_done += 1;
            match image {
                Ok((image, known, vectors)) => {
                    let masks = self.make(predictor, &image, known, &vectors);
                    let masks = masks.with_context(|| self.inputs[index].name.clone())?;
                    let ControlFlow::Continue(masks) = masks else { break };
                    if !send(Computed { index, image, masks }) {
                        break;
                    }
                }
                Err(error) => {
                    let name = &self.inputs[index].name;
                    writeln!(errors(), "not read: {name}: {error:#}")?;
                    unreadable.push(Note::new(name, format!("{error:#}")));
                }
            }
            if let Some(images) = &mut images {
                images.set(n_done as u64);
            }
        }
        Ok(())
    }

    /// Makes the masks of an image from what is there; `Break` when the user stops it.
    fn make(
        &self,
        predictor: &Predictor,
        image: &RgbImage,
        known: Known,
        vectors: &Vectors,
    ) -> anyhow::Result<ControlFlow<(), Masks>> {
        let mut candidates = None;
        let (generated, seen, origin) = match known {
            Known::Record(record) => return Ok(ControlFlow::Continue(Masks::Before(record))),
            Known::Masks(found, seen) => (found, seen, Origin::Masks),
            Known::Candidates(kept) => (kept.generate(&self.description.thresholds)?, kept.seen, Origin::Candidates),
            Known::Nothing => {
                let ControlFlow::Continue(new) = self.ask_network(predictor, image)? else {
                    return Ok(ControlFlow::Break(()));
                };
                let found = (new.generate(&self.description.thresholds)?, new.seen, Origin::Network);
                candidates = self.arguments.candidates.then_some(new);
                found
            }
        };
        let mut made = Made { generated, seen, origin, candidates, ..Made::default() };
        if let Some(texts) = &self.texts {
            let masks = &made.generated.masks;
            let ControlFlow::Continue(vectors) = self.vectors(texts, image, masks, vectors) else {
                return Ok(ControlFlow::Break(()));
            };
            if origin != Origin::Masks || vectors.n_new > 0 {
                made.all = KeptMasks::new(&self.description, &made.generated, seen, &vectors.all);
            }
            let Described { generated, matches, best_score } = texts.choose(made.generated, &vectors);
            made = Made { generated, matches, best_text_score: best_score, ..made };
        }
        // Last, as a mask that no text describes must not cut a hole into one that is kept.
        if self.description.no_overlap {
            made.generated = made.generated.without_overlap()?;
        }
        Ok(ControlFlow::Continue(Masks::Made(Box::new(made))))
    }

    fn vectors(
        &self,
        texts: &Texts,
        image: &RgbImage,
        masks: &[AutomaticMask],
        known: &Vectors,
    ) -> ControlFlow<(), MaskVectors> {
        let mut progress: Option<Progress> = None;
        texts.vectors(image, masks, known, &mut |done, total| {
            if self.inputs.len() == 1 && total > 0 {
                let progress = progress.get_or_insert_with(|| Progress::new("comparing masks", total as u64));
                progress.set(done as u64);
            }
            if self.interruption.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn ask_network(
        &self,
        predictor: &Predictor,
        image: &RgbImage,
    ) -> Result<ControlFlow<(), Candidates>, AutomaticError> {
        let mut points: Option<Progress> = None;
        Candidates::find(predictor, image, &self.description.options, &mut |PointsDone { done, total }| {
            if self.inputs.len() == 1 {
                points.get_or_insert_with(|| Progress::new("segmenting points", total as u64)).set(done as u64);
            }
            if self.interruption.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// Writes everything of each image, then its line.
    fn write_all(
        &self,
        computed: &Receiver<Computed>,
        folder: &mut OutFolder,
        summary: &mut Summary,
    ) -> anyhow::Result<()> {
        for Computed { index, image, masks } in computed {
            let input = &self.inputs[index];
            let AutoArguments { format, no_overlay, .. } = self.arguments;
            let size_hw = [image.height() as usize, image.width() as usize];
            let (record, finished) = match masks {
                Masks::Before(record) => (record, None),
                Masks::Made(made) => {
                    summary.from_candidates += usize::from(made.origin == Origin::Candidates);
                    summary.from_masks += usize::from(made.origin == Origin::Masks);
                    let (record, finished) = self.write_made(folder, input, size_hw, *made)?;
                    (record, Some(finished))
                }
            };
            products::write_product(folder, &input.stem, &record, *format)?;
            if !no_overlay {
                products::write_overlay(folder, &input.stem, &image, &record)?;
            }
            if let Some(finished) = finished {
                self.count(summary, &finished);
                folder.finish(finished)?;
            }
        }
        Ok(())
    }

    /// Writes the record of an image, and what is kept of it.
    fn write_made(
        &self,
        folder: &OutFolder,
        input: &Input,
        size_hw: [usize; 2],
        made: Made,
    ) -> anyhow::Result<(Record, Finished)> {
        let Made { generated, seen, matches, best_text_score, candidates, all, .. } = made;
        if let Some(candidates) = candidates {
            write_candidates(folder, input, candidates)?;
        }
        if let Some(all) = all {
            all.write(folder, input)?;
        }
        let texts = self.description.texts.as_ref();
        let label = |mask: &AutomaticMask| Some(texts?.label(matches.get(&mask.candidate)?));
        let record = Record::new(&input.name, size_hw, &generated.masks, &label);
        products::remove_outdated(folder, &input.stem)?;
        products::write_record(folder, &input.stem, &record)?;
        let mut of_texts = vec![0; texts.map_or(0, |texts| texts.texts.len())];
        let found = generated.masks.iter().filter_map(|mask| matches.get(&mask.candidate));
        found.for_each(|found| of_texts[found.text] += 1);
        let finished = Finished {
            name: input.name.clone(),
            bytes: input.n_bytes(),
            signature: self.description.mask_signature(),
            masks: generated.masks.len(),
            removed: generated.removed,
            seen,
            best_text_score,
            of_texts,
        };
        Ok((record, finished))
    }
}
