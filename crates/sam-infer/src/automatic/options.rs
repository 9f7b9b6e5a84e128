//! Options of automatic masks: what the network is asked, and which of its masks are kept.

use sam_model::MaskOutput;
use serde::{Deserialize, Serialize};

use super::error::AutomaticError;

/// Named sets of options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Those of the published code: 32 x 32 points, no crops, no cleaning.
    #[default]
    Default,
    /// Those of the paper for SA-1B (appendix B): 1,024 points on the image, 16 x 16 on each of 4 crops and 8 x 8 on each of
    /// 16; regions below 100 px removed, masks of almost the whole image and masks of less than 100 px, too.
    Sa1b,
    /// A quarter of the points of the published code.
    Fast,
}

/// What the network is asked. Another value needs the network again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Points along each side of the image.
    pub points_per_side: usize,
    /// Points that are decoded together: memory against the overhead of a call.
    pub points_per_batch: usize,
    /// Layers of crops beside the whole image; layer `n` has `2^n` crops along each side.
    pub crop_layers: usize,
    /// Overlap of the crops of the first layer, as a part of the image's shorter side.
    pub crop_overlap: f64,
    /// The points along a side are divided by it from layer to layer.
    pub point_grid_downscale: usize,
    /// Masks per point.
    pub masks_per_point: MasksPerPoint,
    /// Distance of the two levels of the stability score from the threshold of a mask, in logits.
    pub stability_offset: f32,
    /// Masks with a lower score are given up before they are upscaled or kept: [`super::Candidates::generate`] cannot go below.
    pub floors: Floors,
}

/// Masks that a point is decoded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasksPerPoint {
    /// The three of an ambiguous prompt.
    #[default]
    Three,
    /// The single one.
    One,
}

impl From<MasksPerPoint> for MaskOutput {
    fn from(masks: MasksPerPoint) -> Self {
        match masks {
            MasksPerPoint::Three => MaskOutput::Multi,
            MasksPerPoint::One => MaskOutput::Single,
        }
    }
}

/// Lowest scores of candidates; a floor of 0 or less keeps all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// Candidates have a higher predicted IoU.
    pub predicted_iou: f64,
    /// Candidates have this stability or a higher one.
    pub stability: f64,
}

/// Which candidates are kept as masks. Thresholds can be moved without the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Masks have a higher predicted IoU; 0 or less keeps all.
    pub predicted_iou: f64,
    /// Masks have this stability or a higher one; 0 or less keeps all.
    pub stability: f64,
    /// Of two masks of a crop whose boxes have a higher IoU, the one with the lower predicted IoU is a duplicate.
    pub box_nms: f64,
    /// Of two masks whose boxes have a higher IoU, the one from the larger crop is a duplicate.
    pub crop_nms: f64,
    /// Holes and islands with fewer pixels are removed; 0 keeps them.
    pub min_region_area: usize,
    /// Masks that cover this part of the image or more are removed; `None` keeps them.
    pub max_image_share: Option<f64>,
    /// Masks that are nothing but an island below `min_region_area`.
    pub small_masks: SmallMasks,
}

/// What becomes of a mask that is nothing but a small island.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmallMasks {
    /// Its largest island stays, as in the published code.
    #[default]
    Keep,
    /// It is removed, as from SA-1B.
    Remove,
}

/// Source: the defaults of `SamAutomaticMaskGenerator`.
impl Default for Options {
    fn default() -> Self {
        let thresholds = Thresholds::default();
        Self {
            points_per_side: 32,
            points_per_batch: 64,
            crop_layers: 0,
            crop_overlap: 512.0 / 1500.0,
            point_grid_downscale: 1,
            masks_per_point: MasksPerPoint::Three,
            stability_offset: 1.0,
            floors: thresholds.floors(),
        }
    }
}

/// Source: the defaults of `SamAutomaticMaskGenerator`.
impl Default for Thresholds {
    fn default() -> Self {
        Self {
            predicted_iou: 0.88,
            stability: 0.95,
            box_nms: 0.7,
            crop_nms: 0.7,
            min_region_area: 0,
            max_image_share: None,
            small_masks: SmallMasks::Keep,
        }
    }
}

impl Preset {
    /// What the network is asked.
    pub fn options(self) -> Options {
        match self {
            Self::Default => Options::default(),
            Self::Sa1b => Options { crop_layers: 2, point_grid_downscale: 2, ..Options::default() },
            Self::Fast => Options { points_per_side: 16, ..Options::default() },
        }
    }

    /// Which masks are kept.
    pub fn thresholds(self) -> Thresholds {
        match self {
            Self::Default | Self::Fast => Thresholds::default(),
            Self::Sa1b => Thresholds {
                min_region_area: 100,
                max_image_share: Some(0.95),
                small_masks: SmallMasks::Remove,
                ..Thresholds::default()
            },
        }
    }
}

/// Larger grids are surely mistakes: 256 x 256 points are an hour of a laptop.
const MAX_POINTS_PER_SIDE: usize = 256;
const MAX_POINTS_PER_BATCH: usize = 1024;
/// Five layers are 1,365 encodings of an image.
const MAX_CROP_LAYERS: usize = 5;

impl Options {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// When one of them is outside its range, or a layer of crops is left without points.
    pub fn check(&self) -> Result<(), AutomaticError> {
        let whole = |name, got: usize, range: std::ops::RangeInclusive<usize>| match range.contains(&got) {
            true => Ok(()),
            false => Err(AutomaticError::option(name, format!("{} to {}", range.start(), range.end()), got)),
        };
        whole("points per side", self.points_per_side, 1..=MAX_POINTS_PER_SIDE)?;
        whole("points per batch", self.points_per_batch, 1..=MAX_POINTS_PER_BATCH)?;
        whole("crop layers", self.crop_layers, 0..=MAX_CROP_LAYERS)?;
        whole("the downscale factor of the point grid", self.point_grid_downscale, 1..=MAX_POINTS_PER_SIDE)?;
        if self.points_of_layer(self.crop_layers) == 0 {
            let expected = "small enough to leave every layer of crops a point".to_owned();
            return Err(AutomaticError::option(
                "the downscale factor of the point grid",
                expected,
                self.point_grid_downscale,
            ));
        }
        if !(0.0..1.0).contains(&self.crop_overlap) {
            return Err(AutomaticError::option(
                "the crop overlap",
                "0 or more and below 1".to_owned(),
                self.crop_overlap,
            ));
        }
        if !(self.stability_offset >= 0.0 && self.stability_offset.is_finite()) {
            let expected = "a number of 0 or more".to_owned();
            return Err(AutomaticError::option("the stability offset", expected, self.stability_offset));
        }
        finite("the lowest predicted IoU of candidates", self.floors.predicted_iou)?;
        finite("the lowest stability of candidates", self.floors.stability)
    }

    /// Points along a side in a layer of crops; layer 0 is the image.
    pub(super) fn points_of_layer(&self, layer: usize) -> usize {
        // In f64 as in the reference, which rounds towards zero.
        (self.points_per_side as f64 / (self.point_grid_downscale as f64).powi(layer as i32)) as usize
    }
}

impl Thresholds {
    /// Floors of candidates that these thresholds need.
    pub fn floors(&self) -> Floors {
        Floors { predicted_iou: self.predicted_iou, stability: self.stability }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// When one of them is not a number, or a share is not from 0 to 1.
    pub fn check(&self) -> Result<(), AutomaticError> {
        finite("the predicted IoU", self.predicted_iou)?;
        finite("the stability", self.stability)?;
        finite("the box IoU of duplicates", self.box_nms)?;
        finite("the box IoU of duplicates from different crops", self.crop_nms)?;
        match self.max_image_share {
            Some(share) if !(share > 0.0 && share.is_finite()) => {
                Err(AutomaticError::option("the largest part of the image", "above 0".to_owned(), share))
            }
            _ => Ok(()),
        }
    }
}

fn finite(name: &'static str, got: f64) -> Result<(), AutomaticError> {
    if got.is_finite() { Ok(()) } else { Err(AutomaticError::option(name, "a number".to_owned(), got)) }
}
