//! Which images and masks of a project leave it: by the state of the image and by who made the mask.
//!
//! A project is a data set, so conversion is that of any data set; this is the choice, and the count of what stays.

use std::collections::{BTreeMap, HashMap, HashSet};

use sam_data::{Format, Source, SourceOptions};

use crate::annotation::{ImageState, MaskSource};
use crate::error::EngineError;
use crate::images::ImageId;
use crate::project::Project;

/// What leaves the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFilter {
    /// Images of these states.
    pub states: Vec<ImageState>,
    /// Masks of these sources; `None`: of all.
    pub sources: Option<Vec<MaskSource>>,
}

impl Default for ExportFilter {
    fn default() -> Self {
        Self { states: vec![ImageState::Open, ImageState::Done], sources: None }
    }
}

/// A project as a data set, and what of it is chosen.
#[derive(Debug)]
pub struct Chosen {
    /// The project as a data set, with the project's classes in their order.
    pub source: Source,
    /// Indices of its images that leave.
    pub images: Vec<usize>,
    /// Number of masks that leave.
    pub n_masks: u64,
    /// What stays.
    pub left_out: LeftOut,
    /// The ids of the masks that leave, by index of the image.
    kept: HashMap<usize, HashSet<u64>>,
}

/// Counts of what stays in the project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Images that nobody has worked on.
    pub untouched: u64,
    /// Images of other states.
    pub states: BTreeMap<ImageState, u64>,
    /// Images of which every mask is of another source; without them, they would look like images without objects.
    pub without_masks: u64,
    /// Masks of other sources, in images of the right states.
    pub sources: BTreeMap<MaskSource, u64>,
}

impl Chosen {
    /// Whether a mask leaves.
    #[must_use]
    pub fn keeps(&self, image: usize, mask: u64) -> bool {
        self.kept.get(&image).is_some_and(|masks| masks.contains(&mask))
    }
}

impl Project {
    /// The project as a data set: its annotated images, and its classes in their order, those without masks included.
    ///
    /// # Errors
    ///
    /// When no image is annotated, or a file is damaged.
    pub fn data_set(&self) -> Result<Source, EngineError> {
        let classes = self.settings().classes.clone();
        let has_any = (0..self.images().len()).any(|index| self.annotation_path(index).is_file());
        if !has_any {
            let problem = "must have an annotated image, got none; annotate some first".to_owned();
            return Err(EngineError::Project { path: self.folder().to_owned(), problem });
        }
        let options = SourceOptions { format: Some(Format::Sa1b), classes, ..SourceOptions::default() };
        Ok(Source::open(self.folder(), &options)?)
    }

    /// Chooses what leaves the project.
    ///
    /// # Errors
    ///
    /// As [`Project::data_set`].
    pub fn choose(&self, filter: &ExportFilter) -> Result<Chosen, EngineError> {
        let source = self.data_set()?;
        let untouched = (self.images().len() - source.len().min(self.images().len())) as u64;
        let left_out = LeftOut { untouched, ..LeftOut::default() };
        let mut chosen = Chosen { images: Vec::new(), n_masks: 0, left_out, kept: HashMap::new(), source };
        for at in 0..chosen.source.len() {
            let found = self.images().find(ImageId::of(&chosen.source.name(at)));
            let file = found.map(|index| self.annotations(index)).transpose()?.flatten();
            // An image that has left the folder of images since; its link leads nowhere.
            let Some(file) = file else { continue };
            if !filter.states.contains(&file.image.state) {
                *chosen.left_out.states.entry(file.image.state).or_default() += 1;
                continue;
            }
            let is_wanted = |source: &MaskSource| filter.sources.as_ref().is_none_or(|wanted| wanted.contains(source));
            let (kept, others): (Vec<_>, Vec<_>) = file.annotations.iter().partition(|mask| is_wanted(&mask.source));
            others.iter().for_each(|mask| *chosen.left_out.sources.entry(mask.source).or_default() += 1);
            if kept.is_empty() && !others.is_empty() {
                chosen.left_out.without_masks += 1;
                continue;
            }
            chosen.n_masks += kept.len() as u64;
            chosen.kept.insert(at, kept.iter().map(|mask| mask.id).collect());
            chosen.images.push(at);
        }
        Ok(chosen)
    }
}
