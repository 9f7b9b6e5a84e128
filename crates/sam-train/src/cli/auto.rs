//! The arguments of `sam-train auto`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use sam_data::SourceOptions;
use sam_image::{DEFAULT_MAX_PIXELS, MAX_PIXELS};
use sam_infer::automatic::{Floors, Options as AutomaticOptions, Preset as AutomaticPreset, Thresholds};

use super::device::DeviceArguments;
use super::source::add_intensity;
use super::verbosity::VerbosityArguments;
use crate::config::{ConfigError, Options, files};

/// Candidates that are kept for other thresholds have scores above these: few masks are good below.
const OPEN_FLOORS: Floors = Floors { predicted_iou: 0.5, stability: 0.5 };

#[derive(Debug, Args)]
#[command(
    after_help = "The same command resumes where an earlier one stopped: finished images are skipped. Under mpirun \
                        or srun (a build with --features mpi), the images are divided among the processes. With \
                        --candidates, it may be given again with other thresholds, and then needs no network; with --text, with other texts, \
                        too.\n\
                        In DIR: annotations/ (a JSON per image as in SA-1B, whatever --format), overlays/ to look at, and \
                        what --format asks for: instances.json, labels/ or masks/."
)]
pub(crate) struct AutoArguments {
    /// Images, folders of images (at any depth, .tar shards included) or quoted patterns such as 'photos/*.jpg'
    #[arg(value_name = "IMAGE|FOLDER|GLOB", required = true)]
    pub(crate) images: Vec<PathBuf>,
    /// Checkpoint (.safetensors or .pth), Hugging Face folder, or folder of a run (its best checkpoint)
    #[arg(long, value_name = "IN")]
    pub(crate) checkpoint: PathBuf,
    /// Adapters to merge into it: a PEFT folder, the folder of a run with `lora`, or a .pth of SAMed
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
    /// Folder for the masks
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What is written beside annotations/ and overlays/
    #[arg(long, default_value = "sa1b")]
    pub(crate) format: MaskFormat,
    /// Keep the candidates (predicted IoU and stability above 0.5), so that thresholds can be moved without the network
    #[arg(long)]
    pub(crate) candidates: bool,
    /// Leave every pixel to the smallest mask that covers it
    #[arg(long)]
    pub(crate) no_overlap: bool,
    /// Write no overlays
    #[arg(long)]
    pub(crate) no_overlay: bool,
    /// Images of more than 8 bits: as_is, percentile, min_max or {"window":{"level":L,"width":W}} [default: as_is]
    #[arg(long, value_name = "RULE")]
    pub(crate) intensity: Option<String>,
    /// Reject images that declare more pixels, before they are decoded
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_PIXELS, value_parser = value_parser!(u64).range(1..=MAX_PIXELS))]
    pub(crate) max_pixels: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Print a summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Replace the masks of another checkpoint or of other options in DIR
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
    // Last, as what follows stands under their headings.
    #[command(flatten)]
    pub(crate) masks: AutomaticMaskArguments,
    #[command(flatten)]
    pub(crate) texts: AutoTextArguments,
}

/// What the network is asked, and which of its masks are kept.
#[derive(Debug, Args)]
pub(crate) struct AutomaticMaskArguments {
    #[command(flatten)]
    points: PointArguments,
    #[command(flatten)]
    filters: FilterArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Points and crops")]
struct PointArguments {
    /// All options at once: those of the published code, of SA-1B (the paper's appendix B: 3,072 points), or a quarter of the
    /// points
    #[arg(long, default_value = "default")]
    preset: AutoPreset,
    /// Points along each side of the image [default: 32]
    #[arg(long, value_name = "N")]
    points_per_side: Option<usize>,
    /// Points decoded together: memory against time [default: 64]
    #[arg(long, value_name = "N")]
    points_per_batch: Option<usize>,
    /// Layers of crops beside the whole image: 4 crops, 16 more, .. [default: 0]
    #[arg(long, value_name = "N")]
    crop_layers: Option<usize>,
    /// Overlap of the crops of the first layer, as a part of the shorter side [default: 0.3413]
    #[arg(long, value_name = "SHARE")]
    crop_overlap: Option<f64>,
    /// Each layer of crops has fewer points along a side by this factor [default: 1]
    #[arg(long, value_name = "FACTOR")]
    point_downscale: Option<usize>,
    /// Distance of the two levels of the stability score, in logits [default: 1]
    #[arg(long, value_name = "LOGITS")]
    stability_offset: Option<f32>,
}

/// Which masks are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Thresholds")]
struct FilterArguments {
    /// Masks have a higher predicted IoU; 0 keeps all [default: 0.88]
    #[arg(long, value_name = "IOU", allow_negative_numbers = true)]
    pred_iou: Option<f64>,
    /// Masks have this stability score or a higher one; 0 keeps all [default: 0.95]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    stability: Option<f64>,
    /// Masks whose boxes have a higher IoU are duplicates [default: 0.7]
    #[arg(long, value_name = "IOU")]
    box_nms: Option<f64>,
    /// The same between crops [default: 0.7]
    #[arg(long, value_name = "IOU")]
    crop_nms: Option<f64>,
    /// Fill holes and remove islands of fewer pixels [default: 0]
    #[arg(long, value_name = "PX")]
    min_area: Option<usize>,
    /// Remove masks that cover this part of the image or more [default: none; sa1b: 0.95]
    #[arg(long, value_name = "SHARE")]
    max_share: Option<f64>,
}

/// Texts that choose among the masks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Texts")]
pub(crate) struct AutoTextArguments {
    /// Keep the masks that this text describes, as CLIP sees it; repeatable: a mask has the text that describes it best. Takes any
    /// checkpoint
    #[arg(long = "text", value_name = "TEXT", requires = "clip")]
    texts: Vec<String>,
    /// The CLIP that compares them: a Hugging Face folder, or a file with the keys of OpenAI and open_clip
    #[arg(long, value_name = "DIR", requires = "texts")]
    pub(crate) clip: Option<PathBuf>,
    /// Masks whose best text has a lower cosine are left out. What is described has 0.2 to 0.3 in ViT-L/14; another value, or other
    /// texts, take neither network again [default: 0.2]
    #[arg(long, value_name = "COSINE", requires = "texts", allow_negative_numbers = true)]
    text_min_score: Option<f64>,
}

/// Below what ViT-L/14 gives to a text that describes an image, and above most that do not.
const TEXT_MIN_SCORE: f64 = 0.2;

impl AutoTextArguments {
    /// Without the space around them.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.texts.iter().map(|text| text.trim().to_owned()).collect()
    }

    pub(crate) fn min_score(&self) -> f64 {
        self.text_min_score.unwrap_or(TEXT_MIN_SCORE)
    }
}

/// The form of masks on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MaskFormat {
    /// Nothing more: annotations/ is SA-1B's form
    Sa1b,
    /// One instances.json for all images
    Coco,
    /// A 16-bit PNG per image: 1 + the index of the smallest mask at a pixel
    Labels,
    /// A folder per image with a PNG per mask and metadata.csv, as the published script writes them
    Png,
}

/// Named sets of options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AutoPreset {
    Default,
    Sa1b,
    Fast,
}

impl From<AutoPreset> for AutomaticPreset {
    fn from(preset: AutoPreset) -> Self {
        match preset {
            AutoPreset::Default => Self::Default,
            AutoPreset::Sa1b => Self::Sa1b,
            AutoPreset::Fast => Self::Fast,
        }
    }
}

impl AutoArguments {
    /// The rule for images of more than 8 bits.
    pub(crate) fn image_options(&self) -> Result<SourceOptions, ConfigError> {
        let mut options = Options::of("sam-train auto");
        add_intensity(&mut options, self.intensity.as_ref());
        let options = files::load_options(&options.into_document())?;
        Ok(SourceOptions { max_pixels: self.max_pixels, ..options })
    }

    /// What the network is asked.
    pub(crate) fn automatic(&self) -> AutomaticOptions {
        let options = self.masks.options();
        let needed = options.floors;
        let floors = match self.candidates {
            true => Floors {
                predicted_iou: needed.predicted_iou.min(OPEN_FLOORS.predicted_iou),
                stability: needed.stability.min(OPEN_FLOORS.stability),
            },
            false => needed,
        };
        AutomaticOptions { floors, ..options }
    }
}

impl AutomaticMaskArguments {
    /// Which masks are kept.
    pub(crate) fn thresholds(&self) -> Thresholds {
        let preset = AutomaticPreset::from(self.points.preset).thresholds();
        let given = &self.filters;
        Thresholds {
            predicted_iou: given.pred_iou.unwrap_or(preset.predicted_iou),
            stability: given.stability.unwrap_or(preset.stability),
            box_nms: given.box_nms.unwrap_or(preset.box_nms),
            crop_nms: given.crop_nms.unwrap_or(preset.crop_nms),
            min_region_area: given.min_area.unwrap_or(preset.min_region_area),
            max_image_share: given.max_share.or(preset.max_image_share),
            ..preset
        }
    }

    /// What the network is asked: masks below the thresholds are given up early.
    pub(crate) fn options(&self) -> AutomaticOptions {
        let preset = AutomaticPreset::from(self.points.preset).options();
        let given = &self.points;
        AutomaticOptions {
            points_per_side: given.points_per_side.unwrap_or(preset.points_per_side),
            points_per_batch: given.points_per_batch.unwrap_or(preset.points_per_batch),
            crop_layers: given.crop_layers.unwrap_or(preset.crop_layers),
            crop_overlap: given.crop_overlap.unwrap_or(preset.crop_overlap),
            point_grid_downscale: given.point_downscale.unwrap_or(preset.point_grid_downscale),
            stability_offset: given.stability_offset.unwrap_or(preset.stability_offset),
            floors: self.thresholds().floors(),
            ..preset
        }
    }
}
