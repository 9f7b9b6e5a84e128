//! The arguments of `sam-train inspect` and `predict`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use sam_data::SourceOptions;
use sam_image::{DEFAULT_MAX_PIXELS, MAX_PIXELS};

use super::device::DeviceArguments;
use super::source::add_intensity;
use crate::config::{ConfigError, Options, files};

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Checkpoint (.safetensors or .pth), Hugging Face folder, folder of a run (its best checkpoint), adapters (PEFT
    /// folder, .pth of SAMed), or a CLIP (Hugging Face or open_clip)
    #[arg(value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// List every tensor with its type and shape
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArguments {
    /// Checkpoint (.safetensors or .pth), Hugging Face folder, or folder of a run (its best checkpoint)
    #[arg(long, value_name = "IN")]
    pub(crate) checkpoint: PathBuf,
    /// Adapters to merge into it: a PEFT folder, the folder of a run with `lora`, or a .pth of SAMed
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
    /// Image to segment: JPEG, PNG, TIFF, BMP, WebP or GIF; several get the same points or box
    #[arg(long, value_name = "PHOTO", num_args = 1.., required_unless_present = "prompts", conflicts_with = "prompts")]
    pub(crate) image: Vec<PathBuf>,
    /// Prompts of many images: JSON (a list of {"image", "points", "box", "text", "label"}), CSV (columns image, x, y, positive,
    /// x0, y0, x1, y1, text, object, label), or a COCO file, of which the boxes are taken
    #[arg(long, value_name = "FILE", conflicts_with_all = ["points", "box_xyxy_px", "mask_input", "logits", "embedding", "save_embedding"])]
    pub(crate) prompts: Option<PathBuf>,
    /// Folder of the images that --prompts names [default: that of FILE]
    #[arg(long, value_name = "DIR", requires = "prompts")]
    pub(crate) images: Option<PathBuf>,
    /// What is written: with several images or --prompts, png writes masks/, overlays/ and, with labels, classes/ in one colour
    /// per class; coco and json write one file for all, and overlays/
    #[arg(long, default_value = "png")]
    pub(crate) format: PredictFormat,
    /// A click in pixels of the image; add `,0` for a negative one; repeatable
    #[arg(long = "point", value_name = "X,Y[,0]", value_parser = parse_point, allow_hyphen_values = true)]
    pub(crate) points: Vec<([f32; 2], bool)>,
    /// A box in pixels of the image
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", value_parser = parse_box, allow_hyphen_values = true)]
    pub(crate) box_xyxy_px: Option<[f32; 4]>,
    /// What to segment, in words, alone or with points and a box; several are several objects. For a checkpoint that was trained
    /// with texts
    #[arg(long = "text", value_name = "TEXT", conflicts_with = "prompts")]
    pub(crate) texts: Vec<String>,
    /// The CLIP that the checkpoint was trained with: a Hugging Face folder, or a file with the keys of OpenAI and open_clip
    #[arg(long, value_name = "DIR")]
    pub(crate) clip: Option<PathBuf>,
    /// Refine an earlier mask: a file that `--logits` wrote (of several masks, the one with the best score), or a mask image
    /// (PNG, TIFF or GIF of the image's size: 0 and one other value), reduced to the decoder's resolution as logits of -10 to 10
    #[arg(long, value_name = "F")]
    pub(crate) mask_input: Option<PathBuf>,
    /// Predict three masks for an ambiguous prompt, instead of one
    #[arg(long)]
    pub(crate) multimask: bool,
    /// Folder for a PNG per mask and an overlay
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Also write `low_res_logits`, `logits` and `iou_predictions` to this safetensors file
    #[arg(long, value_name = "FILE")]
    pub(crate) logits: Option<PathBuf>,
    /// Load this image embedding instead of running the encoder
    #[arg(long, value_name = "FILE")]
    pub(crate) embedding: Option<PathBuf>,
    /// Save the image embedding for `--embedding`
    #[arg(long, value_name = "FILE", conflicts_with = "embedding")]
    pub(crate) save_embedding: Option<PathBuf>,
    /// An image of more than 8 bits: as_is, percentile, min_max or {"window":{"level":L,"width":W}} [default: as_is]
    #[arg(long, value_name = "RULE")]
    intensity: Option<String>,
    /// Reject an image that declares more pixels, before it is decoded
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_PIXELS, value_parser = value_parser!(u64).range(1..=MAX_PIXELS))]
    pub(crate) max_pixels: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Replace the masks of an earlier call in DIR, and existing files
    #[arg(long)]
    pub(crate) force: bool,
}

impl PredictArguments {
    /// The rule for images of more than 8 bits.
    pub(crate) fn image_options(&self) -> Result<SourceOptions, ConfigError> {
        let mut options = Options::of("sam-train predict");
        add_intensity(&mut options, self.intensity.as_ref());
        let options = files::load_options(&options.into_document())?;
        Ok(SourceOptions { max_pixels: self.max_pixels, ..options })
    }
}

/// The form of predicted masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PredictFormat {
    Png,
    /// instances.json with labels as categories and scores
    Coco,
    /// predictions.json: every object with its prompt, score and run lengths
    Json,
}

fn parse_point(text: &str) -> Result<([f32; 2], bool), String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let positive = match parts.get(2) {
        None | Some(&"1") => true,
        Some(&"0") => false,
        Some(_) => return Err("must be X,Y or X,Y,1 (positive) or X,Y,0 (negative)".into()),
    };
    match numbers(&parts[..parts.len().min(2)])?[..] {
        [x, y] if parts.len() <= 3 => Ok(([x, y], positive)),
        _ => Err("must be X,Y or X,Y,0".into()),
    }
}

fn parse_box(text: &str) -> Result<[f32; 4], String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    numbers(&parts)?.try_into().map_err(|_| "must be four numbers: X0,Y0,X1,Y1".into())
}

fn numbers(parts: &[&str]) -> Result<Vec<f32>, String> {
    parts.iter().map(|part| part.parse().map_err(|_| format!("`{part}` is not a number"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_boxes() {
        assert_eq!(parse_point("3,4.5"), Ok(([3.0, 4.5], true)));
        assert_eq!(parse_point("3, 4,0"), Ok(([3.0, 4.0], false)));
        for wrong in ["", "3", "3,x", "1,2,3", "1,2,0,0"] {
            assert!(parse_point(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_box("1,2,3,4"), Ok([1.0, 2.0, 3.0, 4.0]));
        assert!(parse_box("1,2,3").is_err());
    }
}
