//! `sam-train predict`: an image and a prompt to masks that can be looked at.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use burn::tensor::Tensor;
use sam_image::{Mask, Overlay, PointLabel, RgbImage, decode_rgb, overlay, save_mask_png, save_rgb_png};
use sam_infer::{ImageEmbedding, Prediction, Predictor, Prompt};
use sam_model::MaskOutput;
use sam_model::weights::{Dtype, StateDict, write_atomically};

use crate::cli::PredictArguments;
use crate::export::print_load_report;
use crate::failure::{BadInput, Failure};
use crate::timing::timed;

pub(crate) fn run(arguments: &PredictArguments) -> Result<(), Failure> {
    let image = decode_rgb(&arguments.image).bad_input()?;
    clear_earlier_masks(&arguments.out, arguments.force).bad_input()?;
    let device = arguments.device.open().bad_input()?;
    let loaded = timed("loaded", || Predictor::from_checkpoint(&arguments.checkpoint, &device));
    let (predictor, report) = loaded.bad_input()?;
    print_load_report(&mut std::io::stderr(), &report)?;

    // The prompt is checked before the encoder takes its time.
    let prompt = read_prompt(arguments, predictor.config().low_res_side()).bad_input()?;
    let side = predictor.config().image_encoder.image_size;
    let size_hw = [image.height() as usize, image.width() as usize];
    prompt.to_model(&sam_image::ModelFrame::new(size_hw, side), predictor.config().low_res_side()).bad_input()?;

    let embedding = match &arguments.embedding {
        Some(path) => {
            let embedding = ImageEmbedding::load(path, &device).bad_input()?;
            check_embedding(&predictor, &embedding, size_hw, path).bad_input()?;
            embedding
        }
        None => timed("encoded", || {
            let embedding = predictor.embed(&image);
            // Reading one number waits for the device.
            let _ = embedding.tensor.clone().sum().into_scalar::<f32>();
            embedding
        }),
    };
    if let Some(path) = &arguments.save_embedding {
        embedding.save(path)?;
    }
    let output = if arguments.multimask { MaskOutput::Multi } else { MaskOutput::Single };
    let (prediction, masks) = timed("decoded", || {
        let prediction = predictor.predict(&embedding, &prompt, output)?;
        let masks = prediction.masks();
        Ok::<_, sam_infer::PromptError>((prediction, masks))
    })
    .bad_input()?;

    write_pictures(&arguments.out, &image, &prompt, &masks)?;
    if let Some(path) = &arguments.logits {
        write_logits(&prediction, path)?;
    }
    print_scores(&arguments.out, &prediction, &masks)
}

fn read_prompt(arguments: &PredictArguments, low_res_side: usize) -> anyhow::Result<Prompt> {
    let mask_logits = match &arguments.mask_input {
        Some(path) => Some(read_mask_input(path, low_res_side)?),
        None => None,
    };
    Ok(Prompt { points_xy_px: arguments.points.clone(), box_xyxy_px: arguments.box_xyxy_px, mask_logits })
}

/// The best mask of a file that `--logits` wrote.
fn read_mask_input(path: &Path, low_res_side: usize) -> anyhow::Result<Vec<f32>> {
    let dict = StateDict::open(path)?;
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
        Some(scores) if scores.shape == [masks] => {
            let scores = dict.read_f32("iou_predictions")?;
            (0..masks).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
        }
        _ => 0,
    };
    Ok(values[best * height * width..][..height * width].to_vec())
}

fn check_embedding(
    predictor: &Predictor,
    embedding: &ImageEmbedding,
    size_hw: [usize; 2],
    path: &Path,
) -> anyhow::Result<()> {
    if !predictor.made(embedding) {
        bail!("{}: the embedding was made by another checkpoint; make it anew with --save-embedding", path.display());
    }
    if embedding.frame.original_hw != size_hw {
        bail!(
            "{}: the embedding is of an image of {:?} (height, width), this one has {size_hw:?}",
            path.display(),
            embedding.frame.original_hw
        );
    }
    Ok(())
}

fn mask_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("mask_{index}.png"))
}

/// Masks of an earlier call would mix with the new ones.
fn clear_earlier_masks(folder: &Path, force: bool) -> anyhow::Result<()> {
    let earlier = (0..).map(|index| mask_path(folder, index)).take_while(|path| path.exists());
    for path in earlier {
        if !force {
            bail!("{} is of an earlier call; give another --out, or --force to replace it", path.display());
        }
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// A PNG per mask, and one picture with a panel per mask.
fn write_pictures(folder: &Path, image: &RgbImage, prompt: &Prompt, masks: &[Mask]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for (index, mask) in masks.iter().enumerate() {
        save_mask_png(mask, &mask_path(folder, index))?;
    }
    let label = |positive| if positive { PointLabel::Positive } else { PointLabel::Negative };
    let points: Vec<_> = prompt.points_xy_px.iter().map(|&(xy, positive)| (xy, label(positive))).collect();
    let boxes: Vec<[f32; 4]> = prompt.box_xyxy_px.into_iter().collect();
    let (width, height) = image.dimensions();
    let mut panels = RgbImage::new(width * masks.len() as u32, height);
    for (index, mask) in masks.iter().enumerate() {
        let drawn = Overlay { masks: std::slice::from_ref(mask), boxes_xyxy_px: &boxes, points_xy_px: &points };
        let panel = overlay(image, &drawn);
        for (x, y, pixel) in panel.enumerate_pixels() {
            panels.put_pixel(x + index as u32 * width, y, *pixel);
        }
    }
    save_rgb_png(&panels, &folder.join("overlay.png"))?;
    Ok(())
}

fn write_logits(prediction: &Prediction, path: &Path) -> anyhow::Result<()> {
    let tensor = |tensor: Tensor<3>| -> anyhow::Result<(Vec<usize>, Vec<u8>)> {
        let shape = tensor.dims().to_vec();
        Ok((shape, bytes_of(&tensor.into_data().try_to_vec::<f32>()?)))
    };
    let scores = &prediction.iou_predictions;
    let parts = [
        ("low_res_logits", tensor(prediction.low_res_logits.clone())?),
        ("logits", tensor(prediction.full_size_logits())?),
        ("iou_predictions", (vec![scores.len()], bytes_of(scores))),
    ];
    write_atomically(path, |temporary| {
        let failed = |error: safetensors::SafeTensorError| sam_model::weights::WeightsError::Io {
            path: path.to_owned(),
            source: std::io::Error::other(error),
        };
        let views = parts
            .iter()
            .map(|(name, (shape, bytes))| {
                let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
                Ok((*name, view.map_err(failed)?))
            })
            .collect::<Result<Vec<_>, sam_model::weights::WeightsError>>()?;
        safetensors::serialize_to_file(views, None::<HashMap<String, String>>, temporary).map_err(failed)
    })?;
    Ok(())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    debug_assert_eq!(Dtype::F32.size(), 4);
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn print_scores(folder: &Path, prediction: &Prediction, masks: &[Mask]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "mask  predicted_iou  area_px   area  file")?;
    for (index, (mask, score)) in masks.iter().zip(&prediction.iou_predictions).enumerate() {
        let area = mask.area_px();
        let share = 100.0 * area as f64 / mask.pixels().len() as f64;
        let file = mask_path(folder, index);
        writeln!(out, "{index:4}  {score:13.4}  {area:7}  {share:4.1}%  {}", file.display())?;
    }
    writeln!(out, "look at {}", folder.join("overlay.png").display())?;
    Ok(())
}
