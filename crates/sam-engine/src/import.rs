//! Masks of another data set become masks of a project's images.
//!
//! Ids follow from the image's name and the mask, so a second import of the same masks, from whatever format, adds nothing
//! twice; a mask that somebody has removed since stays removed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use sam_data::{Counterpart, ImageObjects, ObjectMask, Source, SourceOptions, read_image_file};
use sam_files::Fingerprint;
use sam_infer::image_fingerprint;

use crate::annotation::{MaskSource, PromptRecord, Segmentation};
use crate::error::EngineError;
use crate::images::ImageId;
use crate::journal;
use crate::operation::{Change, Identifier, NewMask, Operation, Outcome};
use crate::store::{SeenImage, Store};

/// What an import has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Images that have got masks.
    pub images: u64,
    /// Masks that were added.
    pub masks: u64,
    /// Classes that the project did not have.
    pub classes: Vec<String>,
    /// Masks that are there already.
    pub known: u64,
    /// Masks of an earlier import that somebody has removed since.
    pub removed: u64,
    /// Images with an ignore region, which a project does not have.
    pub ignore_regions: u64,
    /// Images of the data set whose masks are not imported, with the reason.
    pub left_out: Vec<(String, String)>,
    /// Whether it was stopped before its end.
    pub is_stopped: bool,
}

/// An import that is prepared: which image of the data set is which of the project.
#[derive(Debug)]
pub struct Import {
    /// Index in the data set and in the project.
    pairs: Vec<(usize, usize)>,
    left_out: Vec<(String, String)>,
    /// The operations of earlier imports, those that images no longer remember included.
    earlier: HashSet<String>,
}

impl Import {
    /// Finds the images of a data set in a project.
    ///
    /// # Errors
    ///
    /// When the project's journal cannot be read, or no image of the data set is in the project.
    pub fn prepare(store: &Store, source: &Source) -> Result<Self, EngineError> {
        let files = store.project().images().named_files()?;
        let (mut pairs, mut left_out) = (Vec::new(), Vec::new());
        for (at, counterpart) in source.counterparts(&files).into_iter().enumerate() {
            let why = match counterpart {
                Counterpart::At(index) => {
                    pairs.push((at, index));
                    continue;
                }
                Counterpart::Absent => "no image of this name is in the project",
                Counterpart::Ambiguous => "several images have this name, so folders must be the same on both sides",
            };
            left_out.push((source.name(at), why.to_owned()));
        }
        if pairs.is_empty() {
            return Err(EngineError::Invalid(format!(
                "{}: its images must be those of the project, got none of its {}; it has {}, the project has {}",
                source.root().display(),
                source.len(),
                source.name(0),
                files[0].name
            )));
        }
        let earlier = journal::operations_of(store.project().folder(), OPERATION)?;
        Ok(Self { pairs, left_out, earlier })
    }

    /// Indices of the images of the data set that are in the project.
    #[must_use]
    pub fn images(&self) -> Vec<usize> {
        self.pairs.iter().map(|(at, _)| *at).collect()
    }

    /// Leaves out images of the data set, such as those that cannot be read.
    #[must_use]
    pub fn only(mut self, is_wanted: impl Fn(usize) -> bool) -> Self {
        self.pairs.retain(|(at, _)| is_wanted(*at));
        self
    }

    /// Adds the masks. `progress` is called with the number of finished images and the total; after a break, what is finished
    /// stays, and the same import goes on.
    ///
    /// # Errors
    ///
    /// When an image of the data set cannot be read, a class has a name that a project cannot have, or the disk fails.
    pub fn run(
        self,
        store: &mut Store,
        source: &Source,
        mask_source: MaskSource,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<ImportReport, EngineError> {
        let mut report = ImportReport { left_out: self.left_out, ..ImportReport::default() };
        for (done, (at, index)) in self.pairs.iter().enumerate() {
            if progress(done, self.pairs.len()).is_break() {
                report.is_stopped = true;
                break;
            }
            let objects = source.objects(*at)?;
            report.ignore_regions += u64::from(objects.ignore.is_some());
            let masks = new_masks(store, *index, source.classes(), &objects, mask_source);
            let masks = without_known(store, *index, masks, &self.earlier, &mut report)?;
            if masks.is_empty() {
                continue;
            }
            match seen(store, *index, objects.size_hw) {
                Ok(seen) => add(store, *index, masks, seen, &mut report)?,
                Err(why) => report.left_out.push((source.name(*at), why)),
            }
        }
        Ok(report)
    }
}

/// The beginning of the ids of imports' operations, and of the masks that they add.
const OPERATION: &str = "import-op-";
const MASK: &str = "import-";

/// A mask with the id of the operation that adds it.
struct Addition {
    op: String,
    mask: NewMask,
}

fn new_masks(
    store: &Store,
    index: usize,
    classes: &[String],
    objects: &ImageObjects,
    source: MaskSource,
) -> Vec<Addition> {
    // Equal masks of one image are told apart by their order.
    let mut n_of: HashMap<u64, u64> = HashMap::new();
    let name = store.project().images().name(index);
    let of = |object: &ObjectMask| {
        let segmentation = Segmentation::of(&object.mask);
        let mut hash = Fingerprint::new(0);
        hash.add_bytes(name.as_bytes());
        hash.add_bytes(format!("{:?}", segmentation.size).as_bytes());
        hash.add_bytes(segmentation.counts.as_bytes());
        let n_before = n_of.entry(hash.value()).or_default();
        hash.add_word(*n_before);
        *n_before += 1;
        let uuid = Identifier::try_from(format!("{MASK}{:016x}", hash.value())).ok()?;
        let class = object.class.map(|class| classes[class].trim().to_owned()).filter(|class| !class.is_empty());
        let mask = NewMask {
            uuid,
            segmentation,
            source,
            class,
            prompts: PromptRecord::default(),
            seconds: 0.0,
            predicted_iou: None,
            model: None,
        };
        Some(Addition { op: format!("{OPERATION}{:016x}", hash.value()), mask })
    };
    objects.objects.iter().filter_map(of).collect()
}

/// Without what is there, and what was there once.
fn without_known(
    store: &Store,
    index: usize,
    mut masks: Vec<Addition>,
    earlier: &HashSet<String>,
    report: &mut ImportReport,
) -> Result<Vec<Addition>, EngineError> {
    let Some(file) = store.annotations(index)? else { return Ok(masks) };
    let there: HashSet<&str> = file.annotations.iter().map(|mask| mask.uuid.as_str()).collect();
    let recent: HashSet<&str> = file.image.recent.iter().map(|applied| applied.op.as_str()).collect();
    masks.retain(|addition| {
        let is_known = there.contains(addition.mask.uuid.as_str());
        let is_removed = !is_known && (recent.contains(addition.op.as_str()) || earlier.contains(&addition.op));
        report.known += u64::from(is_known);
        report.removed += u64::from(is_removed);
        !is_known && !is_removed
    });
    Ok(masks)
}

/// The project's image as it is now; or why the masks do not fit it.
fn seen(store: &Store, index: usize, size_hw: [usize; 2]) -> Result<SeenImage, String> {
    let images = store.project().images();
    let path = images.path(index).map_err(|error| error.to_string())?;
    let image = read_image_file(&path, &SourceOptions::default()).map_err(|error| error.to_string())?;
    let is_hw = [image.height() as usize, image.width() as usize];
    if is_hw != size_hw {
        return Err(format!(
            "its masks must have the size of the project's {}, {} x {} px (height x width), got {} x {}",
            images.name(index),
            is_hw[0],
            is_hw[1],
            size_hw[0],
            size_hw[1]
        ));
    }
    Ok(SeenImage { size_hw, fingerprint: image_fingerprint(&image) })
}

/// Adds the masks of one image, and classes that are new.
fn add(
    store: &mut Store,
    index: usize,
    masks: Vec<Addition>,
    seen: SeenImage,
    report: &mut ImportReport,
) -> Result<(), EngineError> {
    let classes: BTreeSet<&String> = masks.iter().filter_map(|addition| addition.mask.class.as_ref()).collect();
    for class in classes {
        if !store.project().settings().classes.contains(class) {
            store.add_class(class)?;
            report.classes.push(class.clone());
        }
    }
    let name = store.project().images().name(index).to_owned();
    let base = store.summary(index).revision;
    let mut operations = Vec::with_capacity(masks.len());
    for Addition { op, mask } in masks {
        let op = Identifier::try_from(op).map_err(EngineError::Invalid)?;
        operations.push(Operation { op, image: ImageId::of(&name), base, change: Change::Add { mask } });
    }
    match store.apply_all(&operations, seen) {
        Ok(outcomes) => {
            let n_added = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Applied(_))).count() as u64;
            report.masks += n_added;
            report.images += u64::from(n_added > 0);
            Ok(())
        }
        Err(error @ EngineError::ImageChanged { .. }) => {
            report.left_out.push((name, error.to_string()));
            Ok(())
        }
        Err(error) => Err(error),
    }
}
