//! Proposals: the masks of everything in an image, shown before a person adds the rest (semi-automatic stage, arXiv 2304.02643
//! section 4).
//!
//! The paper prefills what a box detector is confident of, and says no more about it. Here the masks come from a grid of points,
//! as in the automatic stage, without a threshold of the predicted IoU: it is moved on the page. What overlaps a mask of the image
//! or a rejected proposal is left out when somebody asks, so the network is asked once per image and model.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sam_files::{MAX_TEXT_BYTES, read_regular, write_atomically};
use sam_image::{Rle, rle_intersection_px, rle_iou};
use sam_infer::automatic::{Candidates, Floors, MasksPerPoint, Options, Thresholds};
use serde::{Deserialize, Serialize};

use super::{Encoded, Inference};
use crate::annotation::Segmentation;
use crate::error::EngineError;

/// A quarter of the points of the published code: a person waits. Small batches leave room for clicks.
pub(super) const OPTIONS: Options = Options {
    points_per_side: 16,
    points_per_batch: 16,
    crop_layers: 0,
    crop_overlap: 0.0,
    point_grid_downscale: 1,
    masks_per_point: MasksPerPoint::Three,
    stability_offset: 1.0,
    floors: Floors { predicted_iou: 0.0, stability: LOWEST_STABILITY },
};

/// Masks that change more with their threshold are noise.
const LOWEST_STABILITY: f64 = 0.6;
/// More help nobody; those that the model is most confident of are kept.
const MAX_PROPOSALS: usize = 300;
/// A proposal that shares more with a mask is that mask. IoU.
const SAME: f64 = 0.5;
/// A proposal that lies in the masks by more is a part of them.
const INSIDE: f64 = 0.9;
/// Images whose proposals are kept in memory.
const IN_MEMORY: usize = 8;
/// Size of the folder, beyond which the oldest files go.
const MAX_FOLDER_BYTES: u64 = 256 << 20;
/// Its folder in the project.
pub(crate) const FOLDER: &str = "proposals";

/// A mask that nobody has asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Derived from model, image and mask: the same proposal has the same id in every session.
    pub(crate) uuid: String,
    pub(crate) segmentation: Segmentation,
    pub(crate) predicted_iou: f32,
    pub(crate) stability: f32,
    pub(crate) area: usize,
}

/// The proposals of an image, by one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Version of the file.
    format: u32,
    model: String,
    /// The highest predicted IoU first.
    masks: Vec<Proposal>,
}

const FORMAT: u32 = 1;

impl Found {
    pub(super) fn of(candidates: &Candidates, model: &str) -> Result<Self, EngineError> {
        let thresholds = Thresholds {
            predicted_iou: 0.0,
            stability: LOWEST_STABILITY,
            // Of the paper, for SA-1B.
            max_image_share: Some(0.95),
            ..Thresholds::default()
        };
        let generated = candidates.generate(&thresholds);
        let mut masks = generated.map_err(|error| EngineError::Invalid(error.to_string()))?.masks;
        masks.retain(|mask| !mask.rle.is_empty());
        masks.sort_by(|a, b| b.predicted_iou.total_cmp(&a.predicted_iou));
        masks.truncate(MAX_PROPOSALS);
        let proposal = |mask: &sam_infer::automatic::AutomaticMask| {
            let segmentation = Segmentation::of(&mask.rle);
            let mut hash = sam_files::Fingerprint::new(0);
            hash.add_bytes(model.as_bytes());
            hash.add_bytes(segmentation.counts.as_bytes());
            Proposal {
                uuid: format!("proposal-{:016x}", hash.value()),
                segmentation,
                predicted_iou: mask.predicted_iou,
                stability: mask.stability,
                area: mask.rle.area_px(),
            }
        };
        let mut masks: Vec<Proposal> = masks.iter().map(proposal).collect();
        masks.dedup_by(|a, b| a.uuid == b.uuid);
        Ok(Self { format: FORMAT, model: model.to_owned(), masks })
    }

    /// Those of this model and these pixels, from the cache.
    pub(super) fn read(project: &Path, encoded: &Encoded, model: &str) -> Option<Self> {
        let bytes = read_regular(&file(project, encoded, model), MAX_TEXT_BYTES).ok()?;
        let found: Self = serde_json::from_slice(&bytes).ok()?;
        (found.format == FORMAT && found.model == model).then_some(found)
    }

    pub(super) fn write(&self, project: &Path, encoded: &Encoded) -> Result<(), EngineError> {
        let folder = project.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(EngineError::io(&folder))?;
        let path = file(project, encoded, &self.model);
        let text = serde_json::to_vec(self).map_err(|source| EngineError::Json { path: path.clone(), source })?;
        make_room(&folder, text.len() as u64);
        write_atomically(&path, text).map(drop).map_err(EngineError::io(&path))
    }

    /// What is neither a mask nor a rejected proposal.
    fn without(&self, taken: &[Rle]) -> Vec<Proposal> {
        let all = if taken.is_empty() { None } else { Rle::union(taken).ok() };
        let is_new = |proposal: &&Proposal| {
            let Ok(mask) = proposal.segmentation.to_rle() else { return false };
            let is_same = |other: &Rle| rle_iou(&mask, other).is_ok_and(|iou| iou > SAME);
            let is_inside = |all: &Rle| {
                let shared = rle_intersection_px(&mask, all).unwrap_or(0);
                shared as f64 > INSIDE * mask.area_px() as f64
            };
            !taken.iter().any(is_same) && !all.as_ref().is_some_and(is_inside)
        };
        self.masks.iter().filter(is_new).cloned().collect()
    }
}

/// By image and model, both as fingerprints.
fn file(project: &Path, encoded: &Encoded, model: &str) -> PathBuf {
    project.join(FOLDER).join(format!("{:016x}-{model}.json", encoded.embedding.image))
}

/// Removes the oldest files until there is room.
fn make_room(folder: &Path, needed: u64) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .filter_map(|entry| {
            let file = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((file.modified().ok()?, file.len(), entry.path()))
        })
        .collect();
    let mut size: u64 = files.iter().map(|(_, size, _)| size).sum();
    files.sort();
    for (_, bytes, path) in files {
        if size + needed <= MAX_FOLDER_BYTES {
            return;
        }
        // Left for the next time where it cannot be removed.
        let _ = std::fs::remove_file(path);
        size -= bytes;
    }
}

/// How far the proposals of an image are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum ProposalState {
    /// Nobody has asked for them.
    Absent,
    /// The image is being encoded, or another one is worked on.
    Waiting,
    /// The network is asked.
    Working {
        /// Part of the points.
        fraction: f64,
    },
    /// All are there.
    Ready {
        /// Fingerprint of the model.
        model: String,
        /// The highest predicted IoU first.
        masks: Vec<Proposal>,
    },
    /// They cannot be found.
    Failed {
        /// Why.
        message: String,
    },
}

/// The proposals that are asked for, worked on, and there.
#[derive(Default)]
pub(super) struct Proposals {
    /// The newest image that they are asked for.
    wanted: Option<usize>,
    working: Option<(usize, f64)>,
    /// Newest last.
    found: VecDeque<(usize, Found)>,
    failed: HashMap<usize, String>,
}

impl Proposals {
    /// The image to work on.
    pub(super) fn next(&self) -> Option<usize> {
        self.wanted.filter(|_| self.working.is_none())
    }

    pub(super) fn begin(&mut self, index: usize) {
        self.wanted = None;
        self.working = Some((index, 0.0));
    }

    /// Whether the work goes on: it is given up once another image's proposals are asked for.
    pub(super) fn progress(&mut self, index: usize, fraction: f64) -> bool {
        let goes_on = self.working.is_some_and(|(other, _)| other == index) && self.wanted.is_none();
        self.working = goes_on.then_some((index, fraction));
        goes_on
    }

    pub(super) fn finish(&mut self, index: usize, found: Found) {
        self.working = None;
        self.found.retain(|(other, _)| *other != index);
        self.found.push_back((index, found));
        while self.found.len() > IN_MEMORY {
            self.found.pop_front();
        }
    }

    pub(super) fn fail(&mut self, index: usize, message: String) {
        self.working = None;
        self.failed.insert(index, message);
    }

    pub(super) fn forget(&mut self, index: usize) {
        self.found.retain(|(other, _)| *other != index);
        self.failed.remove(&index);
    }

    /// Another model proposes other masks.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Inference {
    /// Asks for the proposals of an image, and for its embedding before.
    pub(crate) fn want_proposals(&self, index: usize) {
        let mut queue = self.shared.lock();
        let proposals = &mut queue.proposals;
        proposals.failed.remove(&index);
        let is_there = proposals.found.iter().any(|(other, _)| *other == index);
        let is_begun = proposals.working.is_some_and(|(other, _)| other == index);
        if !is_there && !is_begun {
            proposals.wanted = Some(index);
            if queue.encoded(index).is_none() && !queue.is_encoding(index) {
                queue.wanted = Some(index);
            }
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// How far the proposals of an image are; of those that are there, what is not `taken`.
    pub(crate) fn proposals(&self, index: usize, taken: &[Rle]) -> ProposalState {
        let queue = self.shared.lock();
        let proposals = &queue.proposals;
        if let Some(message) = proposals.failed.get(&index).or_else(|| queue.failed.get(&index)) {
            return ProposalState::Failed { message: message.clone() };
        }
        if let Some((_, found)) = proposals.found.iter().find(|(other, _)| *other == index) {
            let found = found.clone();
            drop(queue);
            return ProposalState::Ready { model: found.model.clone(), masks: found.without(taken) };
        }
        match proposals.working {
            Some((other, fraction)) if other == index => ProposalState::Working { fraction },
            _ if proposals.wanted == Some(index) => ProposalState::Waiting,
            _ => ProposalState::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use sam_image::Mask;

    use super::*;

    fn columns(from: usize, to: usize) -> Rle {
        Rle::from_mask(&Mask::from_fn([4, 20], |_, column| (from..to).contains(&column)))
    }

    fn found(masks: &[Rle]) -> Found {
        let proposal = |mask: &Rle| Proposal {
            uuid: format!("proposal-{}", mask.area_px()),
            segmentation: Segmentation::of(mask),
            predicted_iou: 0.9,
            stability: 0.9,
            area: mask.area_px(),
        };
        Found { format: FORMAT, model: "0".repeat(16), masks: masks.iter().map(proposal).collect() }
    }

    #[test]
    fn what_is_a_mask_or_a_part_of_one_is_not_proposed() {
        let found = found(&[columns(0, 10), columns(0, 3), columns(2, 13), columns(12, 20)]);
        let areas = |taken: &[Rle]| found.without(taken).iter().map(|proposal| proposal.area).collect::<Vec<_>>();
        assert_eq!(areas(&[]), [40, 12, 44, 32]);
        // The first is the mask itself, the second lies in it, the third has an IoU of 8/13 with it.
        assert_eq!(areas(&[columns(0, 10)]), [32]);
        // A part of the mask is there: the whole is something else.
        assert_eq!(areas(&[columns(0, 3)]), [40, 44, 32]);
        // Two masks that cover a proposal together.
        assert_eq!(areas(&[columns(10, 16), columns(16, 20)]), [40, 12, 44]);
    }

    #[test]
    fn work_ends_when_another_image_is_asked_for() {
        let mut proposals = Proposals { wanted: Some(3), ..Proposals::default() };
        assert_eq!(proposals.next(), Some(3));
        proposals.begin(3);
        assert_eq!(proposals.next(), None);
        assert!(proposals.progress(3, 0.5));
        proposals.wanted = Some(4);
        assert!(!proposals.progress(3, 0.75));
        assert_eq!(proposals.next(), Some(4));
        for index in 0..IN_MEMORY + 2 {
            proposals.finish(index, found(&[]));
        }
        assert_eq!(proposals.found.len(), IN_MEMORY);
    }

    #[test]
    fn the_oldest_files_make_room() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            let path = folder.path().join(name);
            let file = std::fs::File::create(&path).expect("made");
            file.set_len(MAX_FOLDER_BYTES / 2).expect("sparse");
            let age = if name == "a" { 100 } else { 10 };
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).expect("set");
        }
        make_room(folder.path(), 1);
        assert!(!folder.path().join("a").exists() && folder.path().join("b").exists());
    }
}
