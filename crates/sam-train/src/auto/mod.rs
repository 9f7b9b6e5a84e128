//! `sam-train auto`: the masks of everything in images, without prompts.
//!
//! Three threads: the next image is decoded while this one is computed and the one before is written, so four images are in
//! memory at most, whatever their number.

mod folder;
mod inputs;
mod products;
mod record;
mod summary;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use anyhow::{Context, anyhow};
use sam_data::SourceOptions;
use sam_files::write_atomically;
use sam_image::RgbImage;
use sam_infer::Predictor;
use sam_infer::automatic::{AutomaticError, Candidates, Generated, PointsDone, Seen};
use serde::{Deserialize, Serialize};

use crate::cli::{AutoArguments, MaskFormat, Verbosity};
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::mask_files::with_folder;
use crate::output::errors;
use crate::predict::open_predictor;
use crate::progress::{self, Progress};
use crate::train::checkpoint_file;
use folder::{ANNOTATIONS, CANDIDATES, Description, Finished, OutFolder};
use inputs::Input;
use record::Record;
use summary::{Note, Summary};

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
    let predictor = open_predictor(&arguments.checkpoint, arguments.adapter.as_deref(), &device)?;
    let description = Description {
        program: Description::version(),
        checkpoint: checkpoint_file(&arguments.checkpoint),
        weights: format!("{:016x}", predictor.weights_fingerprint()),
        intensity: format!("{:?}", reading.intensity),
        options,
        thresholds,
        no_overlap: arguments.no_overlap,
    };
    let folder = OutFolder::open(&arguments.out, description, arguments.force).bad_input()?;
    let work = Work {
        arguments,
        inputs: &inputs,
        reading,
        description: folder.description().clone(),
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
        products::write_coco(&folder, &finished)?;
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

/// Candidates on disk.
#[derive(Serialize, Deserialize)]
struct StoredCandidates {
    /// Of what changes a candidate.
    signature: String,
    /// Size of the image's file.
    bytes: Option<u64>,
    candidates: Candidates,
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
    image: anyhow::Result<(RgbImage, Known)>,
}

/// What is on disk of an image.
enum Known {
    Nothing,
    /// From an earlier run, good for these thresholds.
    Candidates(Candidates),
    /// Masks, of which only pictures are missing.
    Record(Record),
}

/// An image with masks, to be written.
struct Computed {
    index: usize,
    image: RgbImage,
    /// To be kept.
    candidates: Option<Candidates>,
    masks: Masks,
}

enum Masks {
    Made { generated: Generated, seen: Seen, is_from_storage: bool },
    Before(Record),
}

/// What is done, shared by the threads.
struct Work<'a> {
    arguments: &'a AutoArguments,
    inputs: &'a [Input],
    reading: SourceOptions,
    description: Description,
    interruption: Interruption,
}

impl Work<'_> {
    /// Segments every image that is not finished.
    fn run(&self, predictor: &Predictor, mut folder: OutFolder) -> anyhow::Result<(OutFolder, Summary)> {
        let started = Instant::now();
        let mut summary = Summary { out: self.arguments.out.clone(), images: self.inputs.len(), ..Summary::default() };
        let todo = self.unfinished(&folder, &mut summary)?;
        let mut unreadable = Vec::new();
        let result = std::thread::scope(|scope| {
            let (to_compute, decoded) = sync_channel::<Decoded>(0);
            let (to_write, computed) = sync_channel::<Computed>(0);
            let (candidates, todo) = (folder.file(CANDIDATES), &todo);
            scope.spawn(move || {
                for todo in todo {
                    if to_compute.send(self.decode(todo, &candidates)).is_err() {
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
        if finished.masks == 0 {
            let reason = finished.seen.explain_none(&finished.removed, &self.description.thresholds);
            summary.without_masks.push(Note::new(&finished.name, reason));
        }
        if finished.seen.layers_left_out > 0 {
            let (left_out, asked) = (finished.seen.layers_left_out, self.description.options.crop_layers);
            let reason = format!("the image is too small for {left_out} of {asked} layers of crops");
            summary.fewer_crops.push(Note::new(&finished.name, reason));
        }
    }

    fn decode(&self, todo: &Todo, candidates: &Path) -> Decoded {
        let input = &self.inputs[todo.index];
        let image = input.read(&self.reading);
        let known = match &todo.record {
            Some(path) => Record::read(path).map(Known::Record),
            None => Ok(self
                .stored(input, &candidates.join(format!("{}.json", input.stem)))
                .map_or(Known::Nothing, Known::Candidates)),
        };
        Decoded { index: todo.index, image: image.and_then(|image| Ok((image, known?))) }
    }

    /// Candidates of an earlier run, where they are of this image and suffice for these thresholds.
    fn stored(&self, input: &Input, path: &Path) -> Option<Candidates> {
        if !path.exists() {
            return None;
        }
        let text = sam_data::read_text(path, sam_files::MAX_FILE_BYTES).map_err(anyhow::Error::from);
        let stored: StoredCandidates = match text.and_then(|text| Ok(serde_json::from_str(&text)?)) {
            Ok(stored) => stored,
            Err(error) => {
                let _ = writeln!(errors(), "{}: {error:#}; the network runs again", path.display());
                return None;
            }
        };
        let is_own = stored.signature == self.description.network_signature() && stored.bytes == input.n_bytes();
        (is_own && stored.candidates.suffice_for(&self.description.thresholds)).then_some(stored.candidates)
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
                Ok((image, known)) => {
                    let ControlFlow::Continue(computed) = self.compute(predictor, index, image, known)? else { break };
                    if !send(computed) {
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

    fn compute(
        &self,
        predictor: &Predictor,
        index: usize,
        image: RgbImage,
        known: Known,
    ) -> anyhow::Result<ControlFlow<(), Computed>> {
        let name = || self.inputs[index].name.clone();
        let (candidates, is_from_storage) = match known {
            Known::Record(record) => {
                let masks = Masks::Before(record);
                return Ok(ControlFlow::Continue(Computed { index, image, candidates: None, masks }));
            }
            Known::Candidates(candidates) => (candidates, true),
            Known::Nothing => match self.ask_network(predictor, &image).with_context(name)? {
                ControlFlow::Continue(candidates) => (candidates, false),
                ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
            },
        };
        let mut generated = candidates.generate(&self.description.thresholds).with_context(name)?;
        if self.description.no_overlap {
            generated = generated.without_overlap().with_context(name)?;
        }
        let seen = candidates.seen;
        let candidates = (self.arguments.candidates && !is_from_storage).then_some(candidates);
        let masks = Masks::Made { generated, seen, is_from_storage };
        Ok(ControlFlow::Continue(Computed { index, image, candidates, masks }))
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
        for Computed { index, image, candidates, masks } in computed {
            let input = &self.inputs[index];
            let AutoArguments { format, no_overlay, .. } = self.arguments;
            let size_hw = [image.height() as usize, image.width() as usize];
            let (record, finished) = match masks {
                Masks::Before(record) => (record, None),
                Masks::Made { generated, seen, is_from_storage } => {
                    if let Some(candidates) = candidates {
                        self.store(folder, input, candidates)?;
                    }
                    summary.from_candidates += usize::from(is_from_storage);
                    let record = Record::new(&input.name, size_hw, &generated.masks);
                    products::remove_outdated(folder, &input.stem)?;
                    products::write_record(folder, &input.stem, &record)?;
                    let finished = Finished {
                        name: input.name.clone(),
                        bytes: input.n_bytes(),
                        signature: self.description.mask_signature(),
                        masks: generated.masks.len(),
                        removed: generated.removed,
                        seen,
                    };
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

    fn store(&self, folder: &OutFolder, input: &Input, candidates: Candidates) -> anyhow::Result<()> {
        let path = with_folder(folder.path(CANDIDATES, &input.stem, "json"))?;
        let signature = self.description.network_signature();
        let stored = StoredCandidates { signature, bytes: input.n_bytes(), candidates };
        let text = serde_json::to_vec(&stored)?;
        write_atomically(&path, text).map(drop).with_context(|| format!("writing {}", path.display()))
    }
}
