//! What is made of the masks of an image: an overlay, a label image, a PNG per mask; and of all images a COCO file. All come
//! from the records on disk, so another `--format` needs no network.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, anyhow};
use sam_files::{remove_if_there, write_atomically, write_atomically_with, write_folder_atomically};
use sam_image::{LabelImage, RgbImage, Rle, mask_colour_rgb, save_mask_png, save_rgb_png};
use serde::Serialize;

use super::folder::{ANNOTATIONS, COCO_FILE, LABELS, MASKS, OVERLAYS, OutFolder};
use super::inputs::Input;
use super::record::Record;
use super::texts::TextDescription;
use crate::cli::MaskFormat;
use crate::mask_files::{OVERLAY_LONGEST_PX, Segmentation, with_folder, write_image};

/// Whether what a format asks for is there already.
pub(crate) fn has_product(folder: &OutFolder, stem: &str, format: MaskFormat) -> bool {
    match format {
        MaskFormat::Sa1b | MaskFormat::Coco => true,
        MaskFormat::Labels => folder.path(LABELS, stem, "png").is_file(),
        MaskFormat::Png => folder.path(MASKS, stem, "").join(METADATA).is_file(),
    }
}

pub(crate) fn has_overlay(folder: &OutFolder, stem: &str) -> bool {
    folder.path(OVERLAYS, stem, "png").is_file()
}

/// Removes what was made of earlier masks of an image, so that nothing contradicts the new ones.
pub(crate) fn remove_outdated(folder: &OutFolder, stem: &str) -> anyhow::Result<()> {
    let files = [folder.path(LABELS, stem, "png"), folder.path(OVERLAYS, stem, "png"), folder.file(COCO_FILE)];
    // Of the file of all images, another rank may be first.
    for path in &files {
        remove_if_there(path).with_context(|| format!("removing {}", path.display()))?;
    }
    remove_masks(&folder.path(MASKS, stem, ""))
}

fn remove_masks(path: &Path) -> anyhow::Result<()> {
    if path.join(METADATA).exists() {
        std::fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Writes the record of an image.
pub(crate) fn write_record(folder: &OutFolder, stem: &str, record: &Record) -> anyhow::Result<()> {
    let path = with_folder(folder.path(ANNOTATIONS, stem, "json"))?;
    let text = serde_json::to_vec(record)?;
    write_atomically(&path, text).map(drop).with_context(|| format!("writing {}", path.display()))
}

/// Writes the overlay of an image.
pub(crate) fn write_overlay(folder: &OutFolder, stem: &str, image: &RgbImage, record: &Record) -> anyhow::Result<()> {
    let masks = record.masks()?;
    let labels = label_image(record, &masks)?;
    let drawn = labels.overlay(image, OVERLAY_LONGEST_PX, &mask_colour_rgb);
    write_image(folder.path(OVERLAYS, stem, "png"), |temporary| save_rgb_png(&drawn, temporary))
}

/// Writes what a format asks for beside the record.
pub(crate) fn write_product(folder: &OutFolder, stem: &str, record: &Record, format: MaskFormat) -> anyhow::Result<()> {
    match format {
        MaskFormat::Sa1b | MaskFormat::Coco => Ok(()),
        MaskFormat::Labels => {
            let labels = label_image(record, &record.masks()?)?;
            write_image(folder.path(LABELS, stem, "png"), |temporary| labels.save_png(temporary))
        }
        MaskFormat::Png => {
            let path = with_folder(folder.path(MASKS, stem, ""))?;
            remove_masks(&path)?;
            let io = |error: std::io::Error| anyhow!(error).context(format!("writing {}", path.display()));
            write_folder_atomically(&path, io, |temporary| write_pngs(temporary, record))
        }
    }
}

fn label_image(record: &Record, masks: &[Rle]) -> anyhow::Result<LabelImage> {
    let size_hw = [record.image.height, record.image.width];
    Ok(LabelImage::of_smallest(size_hw, &masks.iter().collect::<Vec<_>>())?)
}

const METADATA: &str = "metadata.csv";

/// A PNG per mask with the file that `scripts/amg.py` writes beside them; with texts, it has two columns more.
fn write_pngs(folder: &Path, record: &Record) -> anyhow::Result<()> {
    let has_texts = record.annotations.iter().any(|mask| mask.text.is_some());
    let mut table = "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,\
                     crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
        .to_owned();
    table.push_str(if has_texts { ",text,text_score\n" } else { "\n" });
    for (id, (mask, rle)) in record.annotations.iter().zip(record.masks()?).enumerate() {
        save_mask_png(&rle.to_mask(), &folder.join(format!("{id}.png")))?;
        let ([x, y, width, height], [crop_x, crop_y, crop_width, crop_height]) = (mask.bbox, mask.crop_box);
        let [[point_x, point_y]] = mask.point_coords;
        write!(
            table,
            "{id},{},{x},{y},{width},{height},{point_x},{point_y},{},{},{crop_x},{crop_y},{crop_width},{crop_height}",
            mask.area, mask.predicted_iou, mask.stability_score
        )?;
        if let (Some(text), Some(score)) = (&mask.text, mask.text_score) {
            write!(table, ",\"{}\",{score}", text.replace('"', "\"\""))?;
        }
        table.push('\n');
    }
    let path = folder.join(METADATA);
    std::fs::write(&path, table).with_context(|| format!("writing {}", path.display()))
}

#[derive(Serialize)]
struct CocoImage<'a> {
    id: usize,
    file_name: &'a str,
    height: usize,
    width: usize,
}

#[derive(Serialize)]
struct CocoAnnotation<'a> {
    id: u64,
    image_id: usize,
    category_id: usize,
    iscrowd: u8,
    area: usize,
    /// COCO's own box.
    bbox: [usize; 4],
    segmentation: &'a Segmentation,
    /// The paper ranks masks by the mean of both scores.
    score: f64,
    predicted_iou: f64,
    stability_score: f64,
    /// The cosine of its category, which is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text_score: Option<f64>,
}

#[derive(Serialize)]
struct CocoCategory<'a> {
    id: usize,
    name: &'a str,
}

/// Writes one COCO file for all images with masks, with a category for each text; records are read one by one.
pub(crate) fn write_coco(folder: &OutFolder, inputs: &[&Input], texts: Option<&TextDescription>) -> anyhow::Result<()> {
    let names: Vec<&str> = texts.map_or(vec!["object"], |texts| texts.texts.iter().map(String::as_str).collect());
    let category =
        |text: Option<&String>| 1 + names.iter().position(|name| Some(*name) == text.map(String::as_str)).unwrap_or(0);
    let categories: Vec<CocoCategory<'_>> =
        names.iter().enumerate().map(|(at, name)| CocoCategory { id: at + 1, name }).collect();
    let head = format!("{{\"categories\":{},\"annotations\":[", serde_json::to_string(&categories)?);
    let path = folder.file(COCO_FILE);
    let io = |error: std::io::Error| anyhow!(error).context(format!("writing {}", path.display()));
    let write = |temporary: &Path| -> anyhow::Result<()> {
        let mut file = BufWriter::new(File::create(temporary).map_err(io)?);
        file.write_all(head.as_bytes()).map_err(io)?;
        let mut images = String::new();
        let mut id = 0;
        for (image, input) in inputs.iter().enumerate() {
            let record = Record::read(&folder.path(ANNOTATIONS, &input.stem, "json"))?;
            let [height, width] = [record.image.height, record.image.width];
            let entry = CocoImage { id: image + 1, file_name: &input.name, height, width };
            images.push_str(if image == 0 { "" } else { "," });
            images.push_str(&serde_json::to_string(&entry)?);
            for (mask, rle) in record.annotations.iter().zip(record.masks()?) {
                id += 1;
                let annotation = CocoAnnotation {
                    id,
                    image_id: image + 1,
                    category_id: category(mask.text.as_ref()),
                    iscrowd: 0,
                    area: mask.area,
                    bbox: rle.bbox_xywh_px(),
                    segmentation: &mask.segmentation,
                    score: (mask.predicted_iou + mask.stability_score) / 2.0,
                    predicted_iou: mask.predicted_iou,
                    stability_score: mask.stability_score,
                    text_score: mask.text_score,
                };
                file.write_all(if id == 1 { b"" } else { b"," }).map_err(io)?;
                serde_json::to_writer(&mut file, &annotation).map_err(|error| io(error.into()))?;
            }
        }
        file.write_all(format!("],\"images\":[{images}]}}\n").as_bytes()).map_err(io)?;
        file.flush().map_err(io)
    };
    write_atomically_with(&path, io, write).map(drop)
}
