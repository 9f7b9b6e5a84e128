//! `sam-train auto`: the masks of everything in images, without prompts.
//!
//! Three threads: the next image is decoded while this one is computed and the one before is written, so four images are in
//! memory at most, whatever their number. A fourth meets the other ranks, where `mpirun` or `srun` started several processes: each takes
//! its share of the images, and rank 0 alone speaks.

mod folder;
mod inputs;
mod kept;
mod products;
mod ranks;
mod record;
mod summary;
mod texts;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use anyhow::{Context, anyhow};
use sam_data::SourceOptions;
use sam_image::RgbImage;
use sam_infer::automatic::{
    AutomaticError, AutomaticMask, Candidates, Described, Generated, PointsDone, Seen, TextMatch,
};
use sam_infer::{Precision, Predictor};
use serde::{Deserialize, Serialize};

use crate::cli::{AutoArguments, MaskFormat, Verbosity};
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::{self, errors};
use crate::predict::open_predictor;
use crate::progress::{self, Progress};
use crate::team::{self, Team};
use crate::train::checkpoint_file;
use folder::{ANNOTATIONS, Description, Finished, OutFolder};
use inputs::Input;
use kept::{KeptMasks, Known, Vectors, write_candidates};
use ranks::{Meetings, News, check_ranks, of_first};
use record::Record;
use summary::{Note, Summary};
use texts::{MaskVectors, TextDescription, Texts};

pub(crate) fn run(arguments: &AutoArguments, team: &Team) -> Result<(), Failure> {
    if arguments.verbosity.level() == Verbosity::Quiet || !team.is_first() {
        progress::silence();
    }
    if !team.is_first() {
        output::silence_notes();
    }
    let (options, thresholds) = (arguments.automatic(), arguments.masks.thresholds());
    thresholds.check().bad_input()?;
    options.check().bad_input()?;
    let reading = arguments.image_options().bad_input()?;
    let inputs = inputs::list(&arguments.images, &arguments.out, &reading).bad_input()?;
    let device = arguments.device.open_own().bad_input()?;
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
    check_ranks(team, arguments, &description, &inputs)?;
    let work = Work {
        arguments,
        inputs: &inputs,
        reading,
        description,
        texts,
        interruption: Interruption::watch()?,
        team,
        started: Instant::now(),
    };
    let (mut folder, todo, mut summary) = work.open()?;
    let News { finished, unreadable, from_candidates, from_masks, is_stopped, .. } =
        work.run(&predictor, &mut folder, &todo)?;
    // All have come to their end; what is left is for rank 0, and the others need not wait for it.
    team.finish();
    if !team.is_first() {
        return Ok(());
    }
    folder.add(finished)?;
    work.count_new(&folder, &todo, &mut summary);
    if is_stopped {
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
    (summary.from_candidates, summary.from_masks) = (from_candidates, from_masks);
    summary.unreadable = unreadable.into_iter().map(|(_, note)| note).collect();
    summary.seconds = work.started.elapsed().as_secs_f64();
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Todo {
    index: usize,
    /// It has masks, and only pictures are missing.
    has_masks: bool,
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
    team: &'a Team,
    started: Instant,
}

impl Work<'_> {
    /// The folder, the images that lack something, and what is there. Rank 0 finds that out, and opens the folder to the others.
    fn open(&self) -> Result<(OutFolder, Vec<Todo>, Summary), Failure> {
        let (root, ranks) = (&self.arguments.out, &*self.team.ranks);
        let texts = self.description.texts.as_ref().map(TextDescription::counts).unwrap_or_default();
        let mut summary = Summary { out: root.clone(), images: self.inputs.len(), texts, ..Summary::default() };
        if !self.team.is_first() {
            let (token, todo) = of_first::<(String, Vec<Todo>)>(ranks, None)?;
            let folder = OutFolder::follow(root, self.description.clone(), ranks.rank(), &token).bad_input()?;
            return Ok((folder, todo, summary));
        }
        let mut folder = OutFolder::open(root, self.description.clone(), self.arguments.force).bad_input()?;
        let todo = self.unfinished(&folder, &mut summary)?;
        if ranks.n() == 1 {
            return Ok((folder, todo, summary));
        }
        let (_, todo) = of_first(ranks, Some((folder.share()?, todo)))?;
        if self.arguments.verbosity.level() != Verbosity::Quiet {
            writeln!(errors(), "{} processes segment {} images together", ranks.n(), todo.len())?;
        }
        Ok((folder, todo, summary))
    }

    /// Segments this rank's share of the images, and returns what all ranks have done.
    fn run(&self, predictor: &Predictor, folder: &mut OutFolder, todo: &[Todo]) -> anyhow::Result<News> {
        let ranks = &*self.team.ranks;
        let own: Vec<Todo> = todo.iter().copied().skip(ranks.rank()).step_by(ranks.n()).collect();
        let meetings = &Meetings::new(self.team, &self.interruption);
        std::thread::scope(|scope| {
            // Before the thread that it ends.
            let _guard = meetings.guard();
            let (to_compute, decoded) = sync_channel::<Decoded>(0);
            let (to_write, computed) = sync_channel::<Computed>(0);
            let root = folder.file("");
            scope.spawn(move || {
                for todo in own {
                    if to_compute.send(self.decode(todo, &root)).is_err() {
                        break;
                    }
                }
            });
            let n_before = self.inputs.len() - todo.len();
            let meeting = scope.spawn(move || self.meet(meetings, n_before));
            let writer = scope.spawn(move || self.write_all(&computed, folder, meetings));
            let mut send = |computed| to_write.send(computed).is_ok();
            let computing = self.compute_all(predictor, &decoded, meetings, &mut send);
            drop((decoded, to_write));
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let own = computing.and(written);
            meetings.end(&own);
            let all = meeting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // The own error says more.
            own.and(all)
        })
    }

    /// Meets the other ranks until all have ended, and shows how far they are together.
    fn meet(&self, meetings: &Meetings<'_>, n_before: usize) -> anyhow::Result<News> {
        let total = self.inputs.len();
        // Of a single image, points are counted.
        let mut images = (total > 1).then(|| Progress::new("segmenting images", total as u64));
        meetings.hold(&mut |n_done| {
            if let Some(images) = &mut images {
                images.set((n_before + n_done) as u64);
            }
        })
    }

    /// Images that lack something; those that lack nothing are counted.
    fn unfinished(&self, folder: &OutFolder, summary: &mut Summary) -> anyhow::Result<Vec<Todo>> {
        let AutoArguments { format, no_overlay, .. } = self.arguments;
        let mut todo = Vec::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let Some(finished) = folder.finished(&input.name, &input.stem, input.n_bytes()) else {
                todo.push(Todo { index, has_masks: false });
                continue;
            };
            summary.finished_before += 1;
            self.count(summary, finished);
            if !no_overlay && !products::has_overlay(folder, &input.stem) {
                todo.push(Todo { index, has_masks: true });
            } else if !products::has_product(folder, &input.stem, *format) {
                let record = Record::read(&folder.path(ANNOTATIONS, &input.stem, "json"))?;
                products::write_product(folder, &input.stem, &record, *format)?;
            }
        }
        Ok(todo)
    }

    /// Counts what was finished since.
    fn count_new(&self, folder: &OutFolder, todo: &[Todo], summary: &mut Summary) {
        for todo in todo.iter().filter(|todo| !todo.has_masks) {
            let input = &self.inputs[todo.index];
            if let Some(finished) = folder.finished(&input.name, &input.stem, input.n_bytes()) {
                self.count(summary, finished);
            }
        }
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

    fn decode(&self, todo: Todo, folder: &Path) -> Decoded {
        let input = &self.inputs[todo.index];
        let image = input.read(&self.reading);
        let known = match todo.has_masks {
            true => Record::read(&folder.join(ANNOTATIONS).join(format!("{}.json", input.stem)))
                .map(|record| (Known::Record(record), Vectors::default())),
            false => Ok(Known::of(folder, input, &self.description)),
        };
        let image = image.and_then(|image| known.map(|(known, vectors)| (image, known, vectors)));
        Decoded { index: todo.index, image }
    }

    /// Computes images as they come, until there are no more, nobody writes them, or the user or another rank stops it.
    fn compute_all(
        &self,
        predictor: &Predictor,
        decoded: &Receiver<Decoded>,
        meetings: &Meetings<'_>,
        send: &mut dyn FnMut(Computed) -> bool,
    ) -> anyhow::Result<()> {
        for Decoded { index, image } in decoded {
            if meetings.is_stopped() {
                break;
            }
            match image {
                Ok((image, known, vectors)) => {
                    let masks = self.make(predictor, &image, known, &vectors, meetings);
                    let masks = masks.with_context(|| self.inputs[index].name.clone())?;
                    let ControlFlow::Continue(masks) = masks else { break };
                    if !send(Computed { index, image, masks }) {
                        break;
                    }
                }
                Err(error) => {
                    let name = &self.inputs[index].name;
                    writeln!(errors(), "{}not read: {name}: {error:#}", team::prefix())?;
                    let note = Note::new(name, format!("{error:#}"));
                    meetings.tell(|news| news.unreadable.push((index, note)));
                }
            }
            meetings.tell(|news| news.n_done += 1);
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
        meetings: &Meetings<'_>,
    ) -> anyhow::Result<ControlFlow<(), Masks>> {
        let mut candidates = None;
        let (generated, seen, origin) = match known {
            Known::Record(record) => return Ok(ControlFlow::Continue(Masks::Before(record))),
            Known::Masks(found, seen) => (found, seen, Origin::Masks),
            Known::Candidates(kept) => (kept.generate(&self.description.thresholds)?, kept.seen, Origin::Candidates),
            Known::Nothing => {
                let ControlFlow::Continue(new) = self.ask_network(predictor, image, meetings)? else {
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
            let ControlFlow::Continue(vectors) = self.vectors(texts, image, masks, vectors, meetings) else {
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
        meetings: &Meetings<'_>,
    ) -> ControlFlow<(), MaskVectors> {
        let mut progress: Option<Progress> = None;
        texts.vectors(image, masks, known, &mut |done, total| {
            if self.inputs.len() == 1 && total > 0 {
                let progress = progress.get_or_insert_with(|| Progress::new("comparing masks", total as u64));
                progress.set(done as u64);
            }
            if meetings.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn ask_network(
        &self,
        predictor: &Predictor,
        image: &RgbImage,
        meetings: &Meetings<'_>,
    ) -> Result<ControlFlow<(), Candidates>, AutomaticError> {
        let mut points: Option<Progress> = None;
        Candidates::find(predictor, image, &self.description.options, &mut |PointsDone { done, total }| {
            if self.inputs.len() == 1 {
                points.get_or_insert_with(|| Progress::new("segmenting points", total as u64)).set(done as u64);
            }
            if meetings.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// Writes everything of each image, then its line.
    fn write_all(
        &self,
        computed: &Receiver<Computed>,
        folder: &mut OutFolder,
        meetings: &Meetings<'_>,
    ) -> anyhow::Result<()> {
        for Computed { index, image, masks } in computed {
            let input = &self.inputs[index];
            let AutoArguments { format, no_overlay, .. } = self.arguments;
            let size_hw = [image.height() as usize, image.width() as usize];
            let (record, finished) = match masks {
                Masks::Before(record) => (record, None),
                Masks::Made(made) => {
                    meetings.tell(|news| {
                        news.from_candidates += usize::from(made.origin == Origin::Candidates);
                        news.from_masks += usize::from(made.origin == Origin::Masks);
                    });
                    let (record, finished) = self.write_made(folder, input, size_hw, *made)?;
                    (record, Some(finished))
                }
            };
            products::write_product(folder, &input.stem, &record, *format)?;
            if !no_overlay {
                products::write_overlay(folder, &input.stem, &image, &record)?;
            }
            if let Some(finished) = finished {
                folder.finish(&finished)?;
                meetings.tell(|news| news.finished.push(finished));
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
