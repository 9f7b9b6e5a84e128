//! Pairs images with label files: by stem, never by sort order.
//!
//! Two sorted lists of unequal length pair wrongly from the first gap on, unnoticed. Here a file without its
//! counterpart is a finding, and so are two label files with the same stem.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files::{self, FolderPair};
use crate::formats::names::Names;

/// Between the names of several label files; no file name has it.
const SEPARATOR: &str = "\0";

/// Images with their label files.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// Relative paths of images and labels (empty for an image without labels), and the folders they are relative to.
    images: Names,
    labels: Names,
    folder: Vec<u16>,
    splits: Vec<Option<&'static str>>,
    folders: Vec<FolderPair>,
    n_unlabelled: usize,
}

/// Treatment of images without labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unlabelled {
    /// The image is excluded with a finding.
    Error,
    /// The image is kept, without objects.
    Background,
    /// The image is not part of the data set: VOC has labels for a sixth of its images.
    Excluded,
}

/// The rule for pairing.
pub(crate) struct PairRule<'a> {
    /// Tells label files by relative path.
    pub(crate) is_label: &'a dyn Fn(&str) -> bool,
    pub(crate) unlabelled: Unlabelled,
    /// Whether label stems may carry a suffix such as `_mask`.
    pub(crate) allow_suffix: bool,
    /// Restricts to this part of the split.
    pub(crate) split: Option<&'a str>,
}

impl Pairs {
    pub(crate) fn find(
        folders: Vec<FolderPair>,
        rule: &PairRule<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<Self, DataError> {
        let mut pairs = Self::default();
        for folder in folders {
            pairs.add_folder(folder, rule, findings)?;
        }
        Ok(pairs)
    }

    fn add_folder(
        &mut self,
        pair: FolderPair,
        rule: &PairRule<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), DataError> {
        let is_shared = pair.images == pair.labels;
        let label_files = files::list_files(&pair.labels)?;
        let image_files = if is_shared { label_files.clone() } else { files::list_files(&pair.images)? };
        let stems_of_images: HashSet<String> =
            image_files.iter().filter(|name| files::is_image(name)).map(|name| normalised_stem(name)).collect();
        // In a folder shared with images, only a suffix or another extension distinguishes a label.
        let label_stem = |name: &str| -> Option<String> {
            if !(rule.is_label)(name) {
                return None;
            }
            let numbered = || {
                let stem = files::numbered_stem(name).filter(|_| rule.allow_suffix).map(files::normalised);
                stem.filter(|rest| stems_of_images.contains(rest))
            };
            if is_shared && files::is_image(name) {
                let unsuffixed = files::unsuffixed_stem(name).filter(|_| rule.allow_suffix).map(files::normalised);
                return unsuffixed.or_else(numbered);
            }
            let stem = normalised_stem(name);
            let unsuffixed = files::unsuffixed_stem_of_label(name).filter(|_| rule.allow_suffix).map(files::normalised);
            let suffixed = unsuffixed.filter(|rest| !stems_of_images.contains(&stem) && stems_of_images.contains(rest));
            let numbered = suffixed.is_none().then(numbered).flatten().filter(|_| !stems_of_images.contains(&stem));
            Some(suffixed.or(numbered).unwrap_or(stem))
        };
        let mut labels: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in &label_files {
            if let Some(stem) = label_stem(name) {
                labels.entry(stem).or_default().push(name);
            }
        }
        let is_label_too = |name: &str| is_shared && label_stem(name).is_some();
        let number = self.folders.len() as u16;
        let mut last: Option<(String, &str)> = None;
        for image in image_files.iter().filter(|name| files::is_image(name) && !is_label_too(name)) {
            let place = || pair.images.join(image).display().to_string();
            let stem = normalised_stem(image);
            if let Some((_, other)) = last.as_ref().filter(|(last_stem, _)| *last_stem == stem) {
                findings.push(Finding::new(
                    ProblemKind::ImageListedTwice,
                    place(),
                    format!("{other} has the same stem, so their labels cannot be distinguished"),
                ));
                continue;
            }
            last = Some((stem.clone(), image));
            let split = pair
                .split
                .as_deref()
                .and_then(files::split_name)
                .or_else(|| image.split_once('/').and_then(|(top, _)| files::split_name(top)));
            if rule.split.is_some() && rule.split != split {
                labels.remove(&stem);
                continue;
            }
            let found = labels.remove(&stem).unwrap_or_default();
            match (found.as_slice(), rule.unlabelled) {
                ([], Unlabelled::Excluded) => {
                    self.n_unlabelled += 1;
                    continue;
                }
                ([], Unlabelled::Background) => self.n_unlabelled += 1,
                ([], Unlabelled::Error) => {
                    let detail = format!("no label with stem {stem} in {}", pair.labels.display());
                    findings.push(Finding::new(ProblemKind::ImageUnpaired, place(), detail));
                    continue;
                }
                (all, _) if all.len() > 1 && all.iter().all(|label| files::numbered_stem(label).is_some()) => {}
                ([_, other, ..], _) => {
                    let detail = format!("{} and {other} are both its labels", found[0]);
                    findings.push(Finding::new(ProblemKind::LabelsPerImage, place(), detail));
                    continue;
                }
                _ => {}
            }
            self.images.push(image);
            self.labels.push(&found.join(SEPARATOR));
            self.folder.push(number);
            self.splits.push(split);
        }
        for name in labels.into_values().flatten() {
            if rule.split.is_some() && name.split_once('/').is_some_and(|(top, _)| files::split_name(top) != rule.split)
            {
                continue;
            }
            let detail = format!("no image with stem {} in {}", files::stem(name), pair.images.display());
            findings.push(Finding::new(
                ProblemKind::LabelUnpaired,
                pair.labels.join(name).display().to_string(),
                detail,
            ));
        }
        self.folders.push(pair);
        Ok(())
    }

    /// Number of images without labels that are not findings.
    pub(crate) fn n_unlabelled(&self) -> usize {
        self.n_unlabelled
    }

    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// The image's path relative to its folder, prefixed by the part if several folders are read.
    pub(crate) fn name(&self, index: usize) -> String {
        let image = self.images.get(index);
        match &self.folders[usize::from(self.folder[index])].split {
            Some(split) if self.folders.len() > 1 => format!("{split}/{image}"),
            _ => image.to_owned(),
        }
    }

    pub(crate) fn image_path(&self, index: usize) -> PathBuf {
        self.folders[usize::from(self.folder[index])].images.join(self.images.get(index))
    }

    /// `None` for an image without labels; the first of several.
    pub(crate) fn label_path(&self, index: usize) -> Option<PathBuf> {
        self.label_paths(index).into_iter().next()
    }

    /// The label files of an image: several where each holds one mask.
    pub(crate) fn label_paths(&self, index: usize) -> Vec<PathBuf> {
        let folder = &self.folders[usize::from(self.folder[index])].labels;
        let labels = self.labels.get(index).split(SEPARATOR).filter(|label| !label.is_empty());
        labels.map(|label| folder.join(label)).collect()
    }

    pub(crate) fn split(&self, index: usize) -> Option<&'static str> {
        self.splits[index]
    }

    /// Sets the parts from another source, such as a list file.
    pub(crate) fn set_splits(&mut self, split_of: impl Fn(&str) -> Option<&'static str>) {
        for index in 0..self.len() {
            self.splits[index] = split_of(self.images.get(index));
        }
    }

    /// Keeps only the images of one part.
    pub(crate) fn retain_split(&mut self, wanted: &str) {
        let kept: Vec<usize> = (0..self.len()).filter(|&index| self.splits[index] == Some(wanted)).collect();
        self.images = kept.iter().map(|&index| self.images.get(index).to_owned()).collect();
        self.labels = kept.iter().map(|&index| self.labels.get(index).to_owned()).collect();
        self.folder = kept.iter().map(|&index| self.folder[index]).collect();
        self.splits = kept.iter().map(|&index| self.splits[index]).collect();
    }
}

fn normalised_stem(name: &str) -> String {
    files::normalised(files::stem(name))
}

/// The folders of a data set, or those named by the options.
pub(crate) fn folders_of(root: &Path, images: Option<&Path>) -> Result<Vec<FolderPair>, DataError> {
    let Some(images) = images else {
        let found = files::folder_pairs(root)?;
        if !found.is_empty() {
            return Ok(found);
        }
        return Ok(vec![FolderPair { images: root.to_path_buf(), labels: root.to_path_buf(), split: None }]);
    };
    // If the images are given, the labels are in a label folder or in the root.
    let listing = files::Folder::list(root)?;
    let labels = files::LABEL_FOLDERS
        .iter()
        .find_map(|wanted| listing.folders.iter().find(|name| name.to_lowercase() == *wanted));
    Ok(vec![FolderPair {
        images: files::given_folder(root, images)?,
        labels: labels.map_or_else(|| root.to_path_buf(), |name| root.join(name)),
        split: None,
    }])
}
