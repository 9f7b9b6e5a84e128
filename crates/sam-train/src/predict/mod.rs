//! `sam-train predict`: masks for one image and one prompt, as PNG files; of several images, or of a file of prompts, see
//! [`many`].

mod many;
mod prompts;
mod results;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use burn::tensor::Device;
use sam_data::{read_image_file, read_mask_file};
use sam_files::write_atomically_with;
use sam_image::{Mask, ModelFrame, Overlay, PointLabel, RgbImage, overlay, paste, save_mask_png, save_rgb_png};
use sam_infer::{
    ImageEmbedding, Precision, Prediction, Predictor, Prompt, image_fingerprint, mask_as_logits, most_confident,
};
use sam_model::MaskOutput;
use sam_model::weights::{StateDict, host_values, write_f32_tensors};

use crate::cli::{PredictArguments, PredictFormat};
use crate::export::{LABEL_WIDTH, print_load_report};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, notes, output};
use crate::target::{Target, check_target};
use crate::texts::{open_clip, prompts_of};
use crate::timing::timed;
use crate::train::{adapter_folder, checkpoint_file};

/// A checkpoint or the best one of a run, with the adapters of a folder or of a run merged; says what was not simply loaded.
pub(crate) fn open_predictor(checkpoint: &Path, adapter: Option<&Path>, device: &Device) -> Result<Predictor, Failure> {
    let adapter = adapter.map(adapter_folder);
    let loaded = Predictor::from_adapted(&checkpoint_file(checkpoint), adapter.as_deref(), device);
    let (predictor, report) = loaded.bad_input()?;
    print_load_report(&mut notes(), &report, LABEL_WIDTH)?;
    Ok(predictor)
}

pub(crate) fn run(arguments: &PredictArguments) -> Result<(), Failure> {
    let [path] = arguments.image.as_slice() else {
        refuse_single_options(arguments).bad_input()?;
        return many::run(arguments);
    };
    if arguments.format != PredictFormat::Png || arguments.texts.len() > 1 {
        refuse_single_options(arguments).bad_input()?;
        return many::run(arguments);
    }
    check_targets(arguments).bad_input()?;
    let image = read_image_file(path, &arguments.image_options().bad_input()?).bad_input()?;
    let device = arguments.device.open().bad_input()?;
    let predictor = timed("loaded", || open_predictor(&arguments.checkpoint, arguments.adapter.as_deref(), &device))?;

    // The prompt is validated before the encoder runs, which takes seconds.
    let side = predictor.config().low_res_side();
    let size_hw = [image.height() as usize, image.width() as usize];
    let frame = ModelFrame::new(size_hw, predictor.config().image_encoder.image_size());
    let prompt = read_prompt(arguments, &frame, side).bad_input()?;
    let prompt = with_text(prompt, arguments, &predictor, &device).bad_input()?;
    prompt.to_model(&frame, predictor.config()).bad_input()?;

    let embedding = match &arguments.embedding {
        Some(path) => {
            let embedding = ImageEmbedding::load(path, &device).bad_input()?;
            check_embedding(&predictor, &embedding, &image, path).bad_input()?;
            embedding
        }
        None => timed("encoded", || {
            let embedding = predictor.embed(&image);
            // Reading a value waits for the device.
            let _ = embedding.tensor.clone().sum().into_scalar::<f32>();
            embedding
        }),
    };
    if let Some(path) = &arguments.save_embedding {
        embedding.save(path)?;
    }
    let output = output_of(&prompt, arguments.multimask);
    let (prediction, masks) = timed("decoded", || {
        let prediction = predictor.predict(&embedding, &prompt, output)?;
        let prediction = if arguments.multimask { prediction } else { prediction.most_confident() };
        let masks = prediction.masks();
        Ok::<_, sam_infer::PromptError>((prediction, masks))
    })
    .bad_input()?;
    if let Some(score) = prediction.iou_predictions.iter().find(|score| !score.is_finite()) {
        Err(anyhow!("{}: the model predicts an IoU of {score}", arguments.checkpoint.display()))?;
    }
    write_images(&arguments.out, &image, &prompt, &masks)?;
    if let Some(path) = &arguments.logits {
        write_logits(&prediction, path)?;
    }
    print_scores(&arguments.out, &prediction, &masks)
}

/// The masks to decode: a text alone is ambiguous, so the best of three is taken.
fn output_of(prompt: &Prompt, wants_three: bool) -> MaskOutput {
    if wants_three || prompt.is_text_alone() { MaskOutput::Multi } else { MaskOutput::Single }
}

/// The prompt with the text of the command line, if there is one.
fn with_text(
    prompt: Prompt,
    arguments: &PredictArguments,
    predictor: &Predictor,
    device: &Device,
) -> anyhow::Result<Prompt> {
    let [text] = arguments.texts.as_slice() else { return Ok(prompt) };
    let clip = open_clip(arguments.clip.as_deref(), "--clip", predictor, device)?;
    Ok(Prompt { text: prompts_of(&clip, &[text])?.pop(), ..prompt })
}

/// Options that are about one object of one image.
fn refuse_single_options(arguments: &PredictArguments) -> anyhow::Result<()> {
    let given = [
        ("--mask-input", arguments.mask_input.is_some()),
        ("--logits", arguments.logits.is_some()),
        ("--embedding", arguments.embedding.is_some()),
        ("--save-embedding", arguments.save_embedding.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => bail!("{option} is for a single image with --format png"),
        None => Ok(()),
    }
}

/// Checks all output paths before anything is read or computed.
fn check_targets(arguments: &PredictArguments) -> anyhow::Result<()> {
    let files = [("--logits", &arguments.logits), ("--save-embedding", &arguments.save_embedding)];
    for (option, path) in files {
        if let Some(path) = path {
            check_target(path, option, Target::File, arguments.force)?;
        }
    }
    let earlier = earlier_images(&arguments.out)?;
    match earlier.first() {
        // An existing folder is fine as long as it holds no masks.
        None if arguments.out.is_dir() => Ok(()),
        None => check_target(&arguments.out, "--out", Target::Folder, arguments.force),
        Some(_) if arguments.force => Ok(()),
        Some(path) => {
            bail!("{} comes from an earlier run; give another --out, or --force to replace it", path.display())
        }
    }
}

fn read_prompt(arguments: &PredictArguments, frame: &ModelFrame, low_res_side: usize) -> anyhow::Result<Prompt> {
    let mask_logits = match &arguments.mask_input {
        Some(path) => Some(match read_mask_file(path, arguments.max_pixels)? {
            Some(mask) => logits_of(&mask, path, frame, low_res_side)?,
            None => read_mask_input(path, low_res_side)?,
        }),
        None => None,
    };
    Ok(Prompt { points_xy_px: arguments.points.clone(), box_xyxy_px: arguments.box_xyxy_px, mask_logits, text: None })
}

/// A mask image as a prompt; it must have the size of the image.
fn logits_of(mask: &Mask, path: &Path, frame: &ModelFrame, low_res_side: usize) -> anyhow::Result<Vec<f32>> {
    let ([height, width], [of_image_height, of_image_width]) = (mask.size_hw(), frame.original_hw);
    if mask.size_hw() != frame.original_hw {
        bail!(
            "{}: a mask image must have the size of the image, {of_image_height} x {of_image_width} (height x width), got \
             {height} x {width}",
            path.display()
        );
    }
    Ok(mask_as_logits(mask, frame, low_res_side))
}

/// The mask with the highest predicted IoU in a file that `--logits` wrote.
fn read_mask_input(path: &Path, low_res_side: usize) -> anyhow::Result<Vec<f32>> {
    let accepted = "a mask input is a file that `--logits` wrote, or a mask image (PNG, TIFF or GIF)";
    let dict = StateDict::open(path).with_context(|| accepted)?;
    let info = dict.tensors.get("low_res_logits").ok_or_else(|| {
        anyhow!("{}: a mask input must hold a tensor `low_res_logits`, as `--logits` writes it", path.display())
    })?;
    let [masks, height, width] = info.shape[..] else {
        bail!("{}: `low_res_logits` must be [masks, height, width], got {:?}", path.display(), info.shape);
    };
    if masks == 0 || [height, width] != [low_res_side; 2] {
        bail!(
            "{}: `low_res_logits` must hold masks of {low_res_side} x {low_res_side} for this model, got {:?}",
            path.display(),
            info.shape
        );
    }
    let values = dict.read_f32("low_res_logits")?;
    let best = match dict.tensors.get("iou_predictions") {
        Some(scores) if scores.shape == [masks] => most_confident(&dict.read_f32("iou_predictions")?),
        _ => 0,
    };
    Ok(values[best * height * width..][..height * width].to_vec())
}

fn check_embedding(
    predictor: &Predictor,
    embedding: &ImageEmbedding,
    image: &RgbImage,
    path: &Path,
) -> anyhow::Result<()> {
    if !predictor.is_own_embedding(embedding) {
        bail!(
            "{}: the embedding comes from another checkpoint; compute it again with --save-embedding",
            path.display()
        );
    }
    if embedding.image != image_fingerprint(image) {
        bail!("{}: the embedding is of another image; compute it again with --save-embedding", path.display());
    }
    let in_use = Precision::in_use();
    if let Some(precision) = embedding.precision.filter(|&precision| precision != in_use) {
        writeln!(
            errors(),
            "note: {}: the embedding was computed in {precision}, and {in_use} is in use",
            path.display()
        )?;
    }
    Ok(())
}

const OVERLAY: &str = "overlay.png";

fn mask_name(index: usize) -> String {
    format!("mask_{index}.png")
}

/// Image files of an earlier run, which would mix with the new ones.
fn earlier_images(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let is_ours = |name: &str| {
        let number = name.strip_prefix("mask_").and_then(|rest| rest.strip_suffix(".png"));
        name == OVERLAY || number.is_some_and(|number| number.parse::<usize>().is_ok())
    };
    let mut images = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            images.push(entry.path());
        }
    }
    images.sort();
    Ok(images)
}

/// Writes a PNG per mask and an overlay with one panel per mask, then removes the files of an earlier run.
fn write_images(folder: &Path, image: &RgbImage, prompt: &Prompt, masks: &[Mask]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let write = |name: &str, save: &dyn Fn(&Path) -> Result<(), sam_image::ImageError>| -> anyhow::Result<()> {
        let path = folder.join(name);
        let io = |error| anyhow!("{}: {error}", path.display());
        write_atomically_with(&path, io, |temporary| Ok(save(temporary)?))?;
        Ok(())
    };
    for (index, mask) in masks.iter().enumerate() {
        write(&mask_name(index), &|path| save_mask_png(mask, path))?;
    }
    let panels = panels(image, prompt, masks);
    write(OVERLAY, &|path| save_rgb_png(&panels, path))?;
    let written: Vec<PathBuf> = (0..masks.len()).map(|index| folder.join(mask_name(index))).collect();
    for path in earlier_images(folder)? {
        if !written.contains(&path) && !path.ends_with(OVERLAY) {
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The image once per mask, side by side, each with its mask and the prompt.
fn panels(image: &RgbImage, prompt: &Prompt, masks: &[Mask]) -> RgbImage {
    let label = |positive| if positive { PointLabel::Positive } else { PointLabel::Negative };
    let points: Vec<_> = prompt.points_xy_px.iter().map(|&(xy, positive)| (xy, label(positive))).collect();
    let boxes: Vec<[f32; 4]> = prompt.box_xyxy_px.into_iter().collect();
    let (width, height) = image.dimensions();
    let mut panels = RgbImage::new(width * masks.len() as u32, height);
    for (index, mask) in masks.iter().enumerate() {
        let drawn = Overlay { masks: std::slice::from_ref(mask), boxes_xyxy_px: &boxes, points_xy_px: &points };
        paste(&mut panels, &overlay(image, &drawn), index as u32 * width, 0);
    }
    panels
}

fn write_logits(prediction: &Prediction, path: &Path) -> anyhow::Result<()> {
    let full_size = prediction.full_size_logits();
    let (low_res_shape, shape) = (prediction.low_res_logits.dims(), full_size.dims());
    let (low_res, full_size) = (host_values(&prediction.low_res_logits), host_values(&full_size));
    let scores = &prediction.iou_predictions;
    let tensors: [(&str, &[usize], &[f32]); 3] = [
        ("low_res_logits", &low_res_shape, &low_res),
        ("logits", &shape, &full_size),
        ("iou_predictions", &[scores.len()], scores),
    ];
    let io = |error| anyhow!("{}: {error}", path.display());
    write_atomically_with(path, io, |temporary| write_f32_tensors(temporary, &tensors, HashMap::new()).map_err(io))?;
    Ok(())
}

fn print_scores(folder: &Path, prediction: &Prediction, masks: &[Mask]) -> Result<(), Failure> {
    let mut out = output();
    writeln!(out, "mask  predicted_iou  area_px   area  file")?;
    for (index, (mask, score)) in masks.iter().zip(&prediction.iou_predictions).enumerate() {
        let area = mask.area_px();
        let percent = 100.0 * area as f64 / mask.pixels().len() as f64;
        let file = folder.join(mask_name(index));
        writeln!(out, "{index:4}  {score:13.4}  {area:7}  {percent:4.1}%  {}", file.display())?;
    }
    writeln!(out, "look at {}", folder.join(OVERLAY).display())?;
    Ok(())
}
