//! Average recall of object proposals: AR@10, @100, @1000, by size and by LVIS frequency, class-agnostic.
//!
//! Source: SAM paper, appendix D.3; `COCOeval` of pycocotools 2.0.11 with `useCats = 0`, to which the numbers are equal to the last
//! bit. Sizes are those of the targets' areas. For a frequency, the targets are restricted to its categories, and the proposals
//! are all of the image: another target that a proposal fits is then no target at all.
//!
//! Equal to lvis 0.5.3 where that is right. It keeps 300 detections per image by default; it drops those whose
//! category is neither annotated nor verified to be absent in the image before it ignores categories; and without categories its
//! `_get_gt_dt` looks up category -1, so that it measures nothing at all (-1). Here, proposals have no category.
//!
//! Images are added one by one and only counts are kept, so that a data set of any size takes the same memory.

use sam_data::{CocoId, Sample};
use sam_image::{Rle, rle_iou_matrix};

use crate::error::EvalError;
use crate::metrics::average_precision::{
    AreaRange, DetectionView, N_IOU, TargetView, by_descending_score, iou_thresholds, match_image,
};
use crate::metrics::coco_json::{CocoAnnotation, GroundTruth, content};
use crate::metrics::lvis_ap::{Frequency, frequencies};
use crate::metrics::metric::{Metric, Metrics};
use crate::metrics::numpy_mean::numpy_mean;

/// An object that proposals should find.
#[derive(Clone, Debug)]
pub struct ProposalTarget {
    /// The mask.
    pub mask: Rle,
    /// Its area as the data set gives it, which decides its size.
    pub area_px2: f64,
    /// Neither found nor missed.
    pub is_ignored: bool,
    /// A region of several objects; also ignored.
    pub is_crowd: bool,
    /// The frequency of its category, if the data set has any.
    pub frequency: Option<Frequency>,
}

/// A proposed mask.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The mask.
    pub mask: Rle,
    /// Its rank among those of its image: the highest first.
    pub score: f64,
}

/// The targets that are counted.
const GROUPS: [Option<Frequency>; 4] =
    [None, Some(Frequency::Rare), Some(Frequency::Common), Some(Frequency::Frequent)];
const N_AREAS: usize = AreaRange::ALL.len();

/// The counts of a data set.
#[derive(Clone, Debug)]
pub struct ProposalRecall {
    /// Ascending.
    limits: Vec<usize>,
    iou_thresholds: Vec<f64>,
    /// Matched targets: `[group, area, limit]`, each by IoU threshold.
    n_found: Vec<[u64; N_IOU]>,
    /// `[group, area]`
    n_targets: Vec<u64>,
}

impl ProposalRecall {
    /// Without an image. `max_dets` are the limits on proposals per image, of which the highest is kept.
    ///
    /// # Errors
    ///
    /// When there is no limit, or one is 0.
    pub fn new(max_dets: &[usize]) -> Result<Self, EvalError> {
        let mut limits = max_dets.to_vec();
        limits.sort_unstable();
        limits.dedup();
        if limits.first().is_none_or(|&limit| limit == 0) {
            return Err(EvalError::option("max_dets", "one or more limits from 1", format!("{max_dets:?}")));
        }
        let n_found = vec![[0; N_IOU]; GROUPS.len() * N_AREAS * limits.len()];
        Ok(Self { limits, iou_thresholds: iou_thresholds(), n_found, n_targets: vec![0; GROUPS.len() * N_AREAS] })
    }

    /// Adds an image; ties between scores are decided by the order of the proposals.
    ///
    /// # Errors
    ///
    /// When masks have different sizes.
    pub fn add(&mut self, targets: &[ProposalTarget], mut proposals: Vec<Proposal>) -> Result<(), EvalError> {
        proposals.sort_by(|a, b| by_descending_score(a.score, b.score));
        proposals.truncate(self.limits.last().copied().unwrap_or(0));
        let view = |proposal: &Proposal| DetectionView {
            score: proposal.score,
            area_px2: proposal.mask.area_px() as f64,
            is_ignored_unmatched: false,
        };
        let detections: Vec<DetectionView> = proposals.iter().map(view).collect();
        let masks: Vec<Rle> = proposals.into_iter().map(|proposal| proposal.mask).collect();
        for (group, frequency) in GROUPS.into_iter().enumerate() {
            let of_group: Vec<&ProposalTarget> =
                targets.iter().filter(|target| frequency.is_none() || target.frequency == frequency).collect();
            if !of_group.is_empty() {
                self.add_group(group, &of_group, &masks, &detections)?;
            }
        }
        Ok(())
    }

    fn add_group(
        &mut self,
        group: usize,
        targets: &[&ProposalTarget],
        masks: &[Rle],
        detections: &[DetectionView],
    ) -> Result<(), EvalError> {
        let target_masks: Vec<Rle> = targets.iter().map(|target| target.mask.clone()).collect();
        let is_crowd: Vec<bool> = targets.iter().map(|target| target.is_crowd).collect();
        let ious = rle_iou_matrix(masks, &target_masks, &is_crowd)?;
        let view = |target: &&ProposalTarget| TargetView {
            area_px2: target.area_px2,
            is_ignored: target.is_ignored || target.is_crowd,
            is_crowd: target.is_crowd,
        };
        let views: Vec<TargetView> = targets.iter().map(view).collect();
        for (area, range) in AreaRange::ALL.into_iter().enumerate() {
            let matches = match_image(&self.iou_thresholds, range, &views, detections, &ious);
            self.n_targets[group * N_AREAS + area] += matches.n_targets as u64;
            for (at, &limit) in self.limits.iter().enumerate() {
                let found = &mut self.n_found[(group * N_AREAS + area) * self.limits.len() + at];
                for detection in matches.detections.iter().take(limit) {
                    for (t, found) in found.iter_mut().enumerate() {
                        *found += u64::from((detection.is_matched & !detection.is_ignored) >> t & 1);
                    }
                }
            }
        }
        Ok(())
    }

    /// The mean recall over the IoU thresholds; `None` without targets, or for another limit than those counted.
    #[must_use]
    pub fn average_recall(&self, frequency: Option<Frequency>, area: AreaRange, max_dets: usize) -> Option<f64> {
        let place = self.place(frequency, area)?;
        let at = self.limits.iter().position(|&limit| limit == max_dets)?;
        let n_targets = self.n_targets[place];
        let recall = |&n_found: &u64| n_found as f64 / n_targets as f64;
        let recalls: Vec<f64> = self.n_found[place * self.limits.len() + at].iter().map(recall).collect();
        if n_targets == 0 { None } else { numpy_mean(&recalls) }
    }

    fn place(&self, frequency: Option<Frequency>, area: AreaRange) -> Option<usize> {
        Some(GROUPS.iter().position(|&group| group == frequency)? * N_AREAS + area as usize)
    }

    /// The metrics `{prefix}_ar_10` and so on at each limit; `_ar_small`, `_ar_medium`, `_ar_large`, `_ar_rare`, `_ar_common` and
    /// `_ar_frequent` at the highest. Metrics without targets are omitted.
    ///
    /// # Errors
    ///
    /// Never in practice; names are all different.
    pub fn metrics(&self, prefix: &str) -> Result<Metrics, EvalError> {
        let mut metrics = Metrics::default();
        let mut add = |name: &str, frequency, area, limit| {
            let n_targets = self.place(frequency, area).map_or(0, |place| self.n_targets[place]) as usize;
            match self.average_recall(frequency, area, limit) {
                Some(value) => metrics.insert(&format!("{prefix}_ar_{name}"), Metric::fraction(value, n_targets)),
                None => Ok(()),
            }
        };
        for &limit in &self.limits {
            add(&limit.to_string(), None, AreaRange::All, limit)?;
        }
        let highest = self.limits.last().copied().unwrap_or(0);
        for (area, name) in [(AreaRange::Small, "small"), (AreaRange::Medium, "medium"), (AreaRange::Large, "large")] {
            add(name, None, area, highest)?;
        }
        for (frequency, name) in
            [(Frequency::Rare, "rare"), (Frequency::Common, "common"), (Frequency::Frequent, "frequent")]
        {
            add(name, Some(frequency), AreaRange::All, highest)?;
        }
        Ok(metrics)
    }
}

/// The targets of an image without a file of annotations: areas are those of the masks, and pixels that are ignored are a crowd.
#[must_use]
pub fn proposal_targets(sample: &Sample) -> Vec<ProposalTarget> {
    let target = |mask: &Rle, is_crowd| ProposalTarget {
        mask: mask.clone(),
        area_px2: mask.area_px() as f64,
        is_ignored: false,
        is_crowd,
        frequency: None,
    };
    let objects = sample.objects.iter().map(|object| target(&object.mask, false));
    objects.chain(sample.ignore.iter().map(|ignore| target(ignore, true))).collect()
}

/// The targets of a COCO or LVIS file, by image.
#[derive(Clone, Debug)]
pub struct ProposalTruth<'a> {
    file: &'a GroundTruth,
    /// For each category; none where the file has no frequencies.
    frequencies: Option<Vec<Frequency>>,
    /// Annotations of each image.
    by_image: Vec<Vec<&'a CocoAnnotation>>,
}

impl<'a> ProposalTruth<'a> {
    /// Sorts the annotations by image. As the reference packages: in COCO, crowds are ignored; in LVIS, annotations with
    /// `ignore`, and those without an area do not exist.
    ///
    /// # Errors
    ///
    /// When some categories have a frequency and others have not.
    pub fn new(file: &'a GroundTruth) -> Result<Self, EvalError> {
        let has_frequency = file.categories.iter().any(|category| category.frequency.is_some());
        let frequencies = if has_frequency { Some(frequencies(file)?) } else { None };
        let mut by_image = vec![Vec::new(); file.images.len()];
        for object in &file.objects {
            if frequencies.is_none() || object.area_px2 > 0.0 {
                by_image[file.image_index[&object.image_id]].push(object);
            }
        }
        // By category, as in the reference: the order decides ties.
        by_image.iter_mut().for_each(|objects| objects.sort_by(|a, b| a.category_id.cmp(&b.category_id)));
        Ok(Self { file, frequencies, by_image })
    }

    /// Whether categories have frequencies.
    #[must_use]
    pub fn has_frequencies(&self) -> bool {
        self.frequencies.is_some()
    }

    /// The targets of an image.
    ///
    /// # Errors
    ///
    /// When there is no such image, or an annotation has no valid mask.
    pub fn of(&self, image_id: &CocoId) -> Result<Vec<ProposalTarget>, EvalError> {
        let name = &self.file.name;
        let Some(&image) = self.file.image_index.get(image_id) else {
            return Err(content(name, format!("image {image_id}"), "one of the file", "none of this id"));
        };
        let size_hw = [self.file.images[image].height, self.file.images[image].width];
        let target = |object: &&CocoAnnotation| {
            let what = format!("annotation {}", object.id);
            let Some(segmentation) = &object.segmentation else {
                return Err(content(name, what, "with a segmentation when masks are compared", "one without"));
            };
            let mask = segmentation.to_rle(name, &what, image_id, size_hw)?;
            let category = self.file.category_index[&object.category_id];
            let (area_px2, is_lvis) = (object.area_px2, self.frequencies.is_some());
            let is_crowd = !is_lvis && object.iscrowd != 0;
            let frequency = self.frequencies.as_ref().map(|frequencies| frequencies[category]);
            Ok(ProposalTarget { mask, area_px2, is_ignored: is_lvis && object.ignore != 0, is_crowd, frequency })
        };
        self.by_image[image].iter().map(target).collect()
    }
}
