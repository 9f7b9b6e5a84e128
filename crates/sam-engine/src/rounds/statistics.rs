//! How masks were made: from the journal, in which every operation has a line.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use sam_files::open_regular;
use serde::{Deserialize, Serialize};

use super::Rounds;
use crate::annotation::{AnnotationFile, MaskSource};
use crate::error::EngineError;
use crate::journal::JOURNAL_FILE;
use crate::operation::Identifier;
use crate::project::Project;

/// Masks of people since the last round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Masks that are there.
    pub masks: usize,
    /// Of these, proposals that were accepted as they were.
    pub accepted: usize,
    /// Mean of those that somebody has made or corrected; `None` without any.
    pub seconds_per_mask: Option<f64>,
    /// Clicks and boxes, likewise.
    pub clicks_per_mask: Option<f64>,
}

/// Human masks by their use, and the images that they are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskCounts {
    /// To learn from.
    pub train: usize,
    /// Images with these.
    pub train_images: usize,
    /// To measure models with.
    pub validation: usize,
    /// Images with these.
    pub validation_images: usize,
}

/// A line of the journal; those of other kinds lack most of it.
#[derive(Deserialize)]
struct Line {
    kind: String,
    uuid: Option<Identifier>,
    source: Option<MaskSource>,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    clicks: f64,
    #[serde(default)]
    boxes: f64,
}

impl Statistics {
    /// Of the masks since the last round that was collected, with the journal's length so far.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub fn since_last_round(project: &Path) -> Result<(Self, u64), EngineError> {
        Self::since(&project.join(JOURNAL_FILE), Rounds::of(project).journal_bytes())
    }

    /// Lines that cannot be read are the ends of killed processes: left out.
    fn since(journal: &Path, start: u64) -> Result<(Self, u64), EngineError> {
        let mut reader = match open_regular(journal) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Self::default(), 0)),
            Err(source) => return Err(EngineError::Io { path: journal.to_owned(), source }),
        };
        let failed = |source| EngineError::Io { path: journal.to_owned(), source };
        reader.seek(SeekFrom::Start(start)).map_err(failed)?;
        // The last line of every mask counts: a corrected one has the time of its corrections, too.
        let mut masks: HashMap<String, Line> = HashMap::new();
        let (mut end, mut bytes) = (start, Vec::new());
        loop {
            bytes.clear();
            let read = reader.read_until(b'\n', &mut bytes).map_err(failed)?;
            if read == 0 || bytes.last() != Some(&b'\n') {
                break;
            }
            end += read as u64;
            let Ok(line) = serde_json::from_slice::<Line>(&bytes) else { continue };
            let Some(uuid) = line.uuid.as_ref().map(|uuid| uuid.as_str().to_owned()) else { continue };
            match line.kind.as_str() {
                "add" | "replace" => drop(masks.insert(uuid, line)),
                "delete" => drop(masks.remove(&uuid)),
                _ => {}
            }
        }
        Ok((Self::of(masks.values()), end))
    }

    fn of<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let mut all = Self::default();
        let (mut made, mut seconds, mut clicks) = (0, 0.0, 0.0);
        for line in lines {
            let Some(source) = line.source.filter(|source| source.is_human()) else { continue };
            all.masks += 1;
            if source == MaskSource::Accepted {
                all.accepted += 1;
            } else {
                made += 1;
                seconds += line.seconds;
                clicks += line.clicks + line.boxes;
            }
        }
        let mean = |sum: f64| (made > 0).then(|| sum / made as f64);
        Self { seconds_per_mask: mean(seconds), clicks_per_mask: mean(clicks), ..all }
    }
}

/// Counts the human masks of a project by reading every annotation file.
///
/// # Errors
///
/// When a file is damaged.
pub fn mask_counts(project: &Project) -> Result<MaskCounts, EngineError> {
    let mut counts = MaskCounts::default();
    for index in 0..project.images().len() {
        if let Some(file) = project.annotations(index)? {
            counts.add(&file, project.is_validation(index));
        }
    }
    Ok(counts)
}

impl MaskCounts {
    pub(crate) fn add(&mut self, file: &AnnotationFile, is_validation: bool) {
        let n = file.annotations.iter().filter(|mask| mask.source.is_human()).count();
        self.add_masks(n, is_validation);
    }

    /// The human masks of an image.
    pub(crate) fn add_masks(&mut self, n: usize, is_validation: bool) {
        let (masks, images) = match is_validation {
            true => (&mut self.validation, &mut self.validation_images),
            false => (&mut self.train, &mut self.train_images),
        };
        *masks += n;
        *images += usize::from(n > 0);
    }

    /// What is missing for a round; `None` when it can begin.
    #[must_use]
    pub fn missing(&self, project: &Project) -> Option<String> {
        let wanted = &project.settings().round;
        let (masks, images) = (self.validation, self.validation_images);
        if self.train == 0 {
            return Some("there are no masks to learn from; commit some first".to_owned());
        }
        if masks >= wanted.min_validation_masks && images >= wanted.min_validation_images {
            return None;
        }
        let named = (0..project.images().len()).filter(|&index| project.is_validation(index));
        let names: Vec<&str> = named.take(5).map(|index| project.images().name(index)).collect();
        Some(format!(
            "the validation images have {masks} masks in {images} images, and a round needs {} masks in {} images to tell \
             whether a model is better; annotate more of them, such as {}",
            wanted.min_validation_masks,
            wanted.min_validation_images,
            if names.is_empty() { "none in so few images: add images".to_owned() } else { names.join(", ") },
        ))
    }
}
