//! The store: every annotation of a project, changed by operations only.
//!
//! An answer means that the disk has it. The truth is the image's JSON, replaced atomically with fsync, and it holds the ids of
//! its newest operations; the index in memory is made of these files at the start. The journal comes after: a process that is
//! killed in between loses a line of statistics and never a mask.

use std::path::{Path, PathBuf};

use sam_files::sweep_unfinished;
use sam_image::{RgbImage, Rle};
use sam_infer::image_fingerprint;
use serde::Serialize;
use serde_json::Map;

use crate::annotation::{AnnotationFile, ImageRecord, ImageState, MaskRecord, Segmentation};
use crate::error::EngineError;
use crate::images::ImageId;
use crate::journal::Journal;
use crate::operation::{Applied, Change, NewMask, Operation, Outcome};
use crate::project::Project;
use crate::rounds::MaskCounts;

/// Operations that an image remembers. A client sends one again within seconds or minutes.
const REMEMBERED: usize = 200;

/// The longest note.
const MAX_NOTE_CHARS: usize = 2000;

/// What the image of an operation is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenImage {
    /// Upright, `[height, width]`.
    pub size_hw: [usize; 2],
    /// Of its pixels: `sam_infer::image_fingerprint`.
    pub fingerprint: u64,
}

impl SeenImage {
    /// What an image is.
    #[must_use]
    pub fn of(image: &RgbImage) -> Self {
        let size_hw = [image.height() as usize, image.width() as usize];
        Self { size_hw, fingerprint: image_fingerprint(image) }
    }
}

/// The index's entry of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// As [`ImageRecord::revision`]; 0 without a file.
    pub revision: u64,
    /// How far it is.
    pub state: ImageState,
    /// Number of masks.
    pub n_masks: usize,
    /// Of these, masks that a person has made or seen.
    pub n_human: usize,
}

/// The annotations of an open project.
#[derive(Debug)]
pub struct Store {
    project: Project,
    index: Vec<Summary>,
    journal: Journal,
}

impl Store {
    /// Reads every annotation file once, and mends what a killed process has left.
    ///
    /// # Errors
    ///
    /// When a file is damaged or cannot be read.
    ///
    /// # Panics
    ///
    /// When the project was opened only to be read.
    pub fn open(project: Project) -> Result<Self, EngineError> {
        assert!(project.is_locked(), "a project that is changed is locked");
        let folder = project.folder();
        for below in ["annotations", "images"] {
            sweep_tree(&folder.join(below));
        }
        let journal = Journal::open(folder)?;
        let mut store = Self { index: vec![Summary::default(); project.images().len()], project, journal };
        for index in 0..store.index.len() {
            match AnnotationFile::read(&store.project.annotation_path(index))? {
                Some(file) => {
                    store.link(index)?;
                    store.index[index] = summary(&file);
                }
                None => store.unlink(index)?,
            }
        }
        Ok(store)
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The index's entry of an image.
    #[must_use]
    pub fn summary(&self, index: usize) -> Summary {
        self.index[index]
    }

    /// The annotations of an image; `None` when nobody has worked on it.
    ///
    /// # Errors
    ///
    /// When its file is damaged.
    pub fn annotations(&self, index: usize) -> Result<Option<AnnotationFile>, EngineError> {
        AnnotationFile::read(&self.project.annotation_path(index))
    }

    /// The human masks of all images by their use, from the index.
    #[must_use]
    pub fn mask_counts(&self) -> MaskCounts {
        let mut counts = MaskCounts::default();
        for (index, summary) in self.index.iter().enumerate() {
            counts.add_masks(summary.n_human, self.project.is_validation(index));
        }
        counts
    }

    /// Adds a class to the project.
    ///
    /// # Errors
    ///
    /// As [`Project::add_class`].
    pub fn add_class(&mut self, name: &str) -> Result<(), EngineError> {
        self.project.add_class(name)
    }

    /// Carries out an operation. When this returns, it is on disk, or nothing has changed.
    ///
    /// # Errors
    ///
    /// When the operation is invalid, the image has changed since it was annotated, or the disk fails.
    pub fn apply(&mut self, operation: &Operation, seen: SeenImage) -> Result<Outcome, EngineError> {
        self.apply_all(std::slice::from_ref(operation), seen).map(|mut outcomes| outcomes.remove(0))
    }

    /// As [`Store::apply`] for operations on one image, which are written together.
    ///
    /// # Errors
    ///
    /// As [`Store::apply`]; nothing has changed when one of them is invalid.
    ///
    /// # Panics
    ///
    /// When they are of several images.
    pub fn apply_all(&mut self, operations: &[Operation], seen: SeenImage) -> Result<Vec<Outcome>, EngineError> {
        let Some(first) = operations.first() else { return Ok(Vec::new()) };
        assert!(operations.iter().all(|operation| operation.image == first.image), "operations on one image");
        let index = self.find(first.image)?;
        let path = self.project.annotation_path(index);
        let mut file = match AnnotationFile::read(&path)? {
            Some(file) => file,
            None => self.new_file(index, seen),
        };
        let (mut outcomes, mut noted) = (Vec::new(), Vec::new());
        for operation in operations {
            if let Some(before) = file.image.recent.iter().find(|applied| applied.op == operation.op) {
                outcomes.push(Outcome::Applied(before.clone()));
                continue;
            }
            require_same_image(&file.image, seen)?;
            let revision = file.image.revision + 1;
            if let Some(conflict) = self.change(&mut file, operation, revision)? {
                outcomes.push(conflict);
                continue;
            }
            file.image.revision = revision;
            let applied = Applied { op: operation.op.clone(), revision, state: file.image.state };
            file.image.recent.push(applied.clone());
            outcomes.push(Outcome::Applied(applied));
            noted.push((operation, revision));
        }
        if noted.is_empty() {
            return Ok(outcomes);
        }
        let n_old = file.image.recent.len().saturating_sub(REMEMBERED);
        file.image.recent.drain(..n_old);
        self.link(index)?;
        let written = make_folder_of(&path).and_then(|()| file.write(&path));
        if written.is_err() && self.index[index].revision == 0 {
            // A full disk: without its annotations, the image is no part of the data set.
            self.unlink(index)?;
        }
        written?;
        self.index[index] = summary(&file);
        self.journal.note(&noted, self.project.images().name(index))?;
        Ok(outcomes)
    }

    /// Changes the file in memory; returns the conflict that prevents it.
    fn change(
        &self,
        file: &mut AnnotationFile,
        operation: &Operation,
        revision: u64,
    ) -> Result<Option<Outcome>, EngineError> {
        let place = |uuid| file.annotations.iter().position(|mask| &mask.uuid == uuid);
        let at = operation.change.uuid().and_then(place);
        let conflict = |at: Option<usize>, file: &AnnotationFile| Outcome::Conflict {
            revision: file.image.revision,
            current: at.map(|at| Box::new(file.annotations[at].clone())),
        };
        match (&operation.change, at) {
            (Change::State { state }, _) => file.image.state = *state,
            (Change::Note { text }, _) => {
                let length = text.chars().count();
                if length > MAX_NOTE_CHARS {
                    let problem = format!("a note must have at most {MAX_NOTE_CHARS} letters, got {length}");
                    return Err(EngineError::Invalid(problem));
                }
                file.image.note.clone_from(text);
            }
            (Change::Reject { mask }, _) => {
                mask_of(&mask.segmentation, &file.image)?;
                file.image.rejected.retain(|other| other.uuid != mask.uuid);
                file.image.rejected.push(mask.clone());
            }
            (Change::Unreject { uuid }, _) => file.image.rejected.retain(|other| other.uuid != *uuid),
            (Change::Add { mask }, None) => {
                let id = file.annotations.iter().map(|mask| mask.id).max().unwrap_or(0) + 1;
                let record = self.record(mask, &file.image, id, revision)?;
                file.annotations.push(record);
                if file.image.state == ImageState::Todo {
                    file.image.state = ImageState::Open;
                }
            }
            (Change::Add { .. }, Some(_)) => return Ok(Some(conflict(at, file))),
            (Change::Replace { mask }, Some(there)) if file.annotations[there].revision <= operation.base => {
                let old = &file.annotations[there];
                let record = self.record(mask, &file.image, old.id, revision)?;
                file.annotations[there] = MaskRecord { rest: old.rest.clone(), ..record };
            }
            (Change::Delete { .. }, Some(there)) if file.annotations[there].revision <= operation.base => {
                file.annotations.remove(there);
            }
            (Change::Replace { .. } | Change::Delete { .. }, _) => return Ok(Some(conflict(at, file))),
        }
        Ok(None)
    }

    /// Checks what a client sent, and measures the mask.
    fn record(&self, mask: &NewMask, image: &ImageRecord, id: u64, revision: u64) -> Result<MaskRecord, EngineError> {
        let invalid = |problem: String| EngineError::Invalid(problem);
        let rle = mask_of(&mask.segmentation, image)?;
        mask.prompts.check()?;
        let classes = &self.project.settings().classes;
        if let Some(class) = mask.class.as_ref().filter(|class| !classes.contains(class)) {
            return Err(invalid(format!("`class` must be one of the project's {}, got {class:?}", classes.len())));
        }
        let score = mask.predicted_iou.unwrap_or(1.0);
        if !(mask.seconds >= 0.0 && mask.seconds.is_finite() && score.is_finite()) {
            return Err(invalid("`seconds` and `predicted_iou` must be finite numbers".to_owned()));
        }
        if let Some(model) = mask.model.as_ref().filter(|model| ImageId::parse(model).is_none()) {
            return Err(invalid(format!("`model` must be a fingerprint of 16 digits, got {model:?}")));
        }
        let [x, y, box_width, box_height] = rle.bbox_xywh_px();
        Ok(MaskRecord {
            id,
            segmentation: Segmentation::of(&rle),
            bbox: [x, y, box_width.saturating_sub(1), box_height.saturating_sub(1)],
            area: rle.area_px(),
            predicted_iou: score,
            stability_score: 1.0,
            crop_box: [0, 0, image.width, image.height],
            point_coords: vec![point_of(mask, &rle)],
            uuid: mask.uuid.clone(),
            revision,
            source: mask.source,
            class: mask.class.clone(),
            prompts: mask.prompts.clone(),
            seconds: mask.seconds,
            model: mask.model.clone(),
            rest: Map::new(),
        })
    }

    fn new_file(&self, index: usize, seen: SeenImage) -> AnnotationFile {
        let name = self.project.images().name(index);
        let image = ImageRecord {
            image_id: ImageId::of(name).number(),
            width: seen.size_hw[1],
            height: seen.size_hw[0],
            file_name: name.to_owned(),
            revision: 0,
            state: ImageState::Todo,
            fingerprint: format!("{:016x}", seen.fingerprint),
            note: String::new(),
            rejected: Vec::new(),
            recent: Vec::new(),
            rest: Map::new(),
        };
        AnnotationFile { image, annotations: Vec::new(), rest: Map::new() }
    }

    /// The index of an image that a client named.
    ///
    /// # Errors
    ///
    /// When there is no such image.
    pub fn find(&self, id: ImageId) -> Result<usize, EngineError> {
        let found = self.project.images().find(id);
        found.ok_or_else(|| EngineError::Invalid(format!("there is no image {id} in this project")))
    }

    fn link_path(&self, index: usize) -> PathBuf {
        self.project.folder().join("images").join(self.project.images().name(index))
    }

    /// Makes the image a part of the data set. Before its annotations: a link too many is removed at the next start.
    fn link(&self, index: usize) -> Result<(), EngineError> {
        let (link, target) = (self.link_path(index), self.project.images().path(index)?);
        if link.symlink_metadata().is_ok() {
            return Ok(());
        }
        make_folder_of(&link)?;
        make_link(&target, &link).map_err(EngineError::io(&link))
    }

    fn unlink(&self, index: usize) -> Result<(), EngineError> {
        let link = self.link_path(index);
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::Io { path: link, source: error })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
pub(crate) fn make_link(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Symbolic links need a right there that people seldom have.
#[cfg(not(unix))]
pub(crate) fn make_link(target: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::hard_link(target, link).or_else(|_| std::fs::copy(target, link).map(|_| ()))
}

pub(crate) fn make_folder_of(path: &Path) -> Result<(), EngineError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(EngineError::io(folder))
}

fn sweep_tree(folder: &Path) {
    sweep_unfinished(folder);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep_tree(&entry.path());
        }
    }
}

/// A mask that a client sent, of the size of its image and with a pixel.
fn mask_of(segmentation: &Segmentation, image: &ImageRecord) -> Result<Rle, EngineError> {
    let (expected, got) = ([image.height, image.width], segmentation.size);
    if got != expected {
        return Err(EngineError::Invalid(format!(
            "a mask must have the size of its image, {expected:?} (height, width), got {got:?}"
        )));
    }
    let rle = segmentation.to_rle().map_err(|error| EngineError::Invalid(format!("`segmentation`: {error}")))?;
    if rle.is_empty() {
        return Err(EngineError::Invalid("a mask must have at least one pixel".to_owned()));
    }
    Ok(rle)
}

fn summary(file: &AnnotationFile) -> Summary {
    let ImageRecord { revision, state, .. } = file.image;
    let n_human = file.annotations.iter().filter(|mask| mask.source.is_human()).count();
    Summary { revision, state, n_masks: file.annotations.len(), n_human }
}

fn require_same_image(image: &ImageRecord, seen: SeenImage) -> Result<(), EngineError> {
    let shown = |[height, width]: [usize; 2], fingerprint: &str| {
        format!("{width} x {height} px with fingerprint {fingerprint}")
    };
    let was = shown([image.height, image.width], &image.fingerprint);
    let is = shown(seen.size_hw, &format!("{:016x}", seen.fingerprint));
    if was == is { Ok(()) } else { Err(EngineError::ImageChanged { name: image.file_name.clone(), was, is }) }
}

/// SA-1B's `point_coords`: where the person pointed first.
fn point_of(mask: &NewMask, rle: &Rle) -> [f64; 2] {
    let positive = mask.prompts.points.iter().find(|[_, _, label]| *label == 1.0);
    let middle = |[x0, y0, x1, y1]: [f64; 4]| [x0.midpoint(x1), y0.midpoint(y1)];
    match (positive, mask.prompts.box_xyxy_px) {
        (Some([x, y, _]), _) => [*x, *y],
        (None, Some(corners)) => middle(corners),
        (None, None) => {
            // The first pixel of the mask in its columns.
            let (at, height) = (rle.counts().first().copied().unwrap_or(0) as usize, rle.size_hw()[0].max(1));
            [(at / height) as f64, (at % height) as f64]
        }
    }
}

#[cfg(test)]
mod tests;
