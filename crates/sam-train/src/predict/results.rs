//! What `predict` writes of several images: a PNG per mask and per image's classes, or one JSON file; overlays in any case.
//!
//! A class has one colour everywhere: that of its place in the sorted list of labels.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use sam_files::write_atomically_with;
use sam_image::{ImageError, LabelImage, RgbImage, Rle, mask_colour_rgb, save_mask_png, save_rgb_png};
use serde::Serialize;

use super::many::{Predicted, label};
use crate::cli::PredictFormat;
use crate::mask_files::{OVERLAY_LONGEST_PX, Segmentation, harmless, write_image};

const FOLDERS: [&str; 3] = ["masks", "classes", "overlays"];
const JSON_FILE: &str = "predictions.json";
const COCO_FILE: &str = "instances.json";

/// Refuses a folder with results of an earlier call, unless they may be replaced.
pub(super) fn check_out(out: &Path, force: bool) -> anyhow::Result<()> {
    if out.exists() && !out.is_dir() {
        bail!("--out {} is a file; it must be a folder", out.display());
    }
    match earlier(out).next() {
        Some(path) if !force => {
            bail!("{} is from an earlier call; choose another --out, or use --force to replace it", path.display())
        }
        _ => Ok(()),
    }
}

fn earlier(out: &Path) -> impl Iterator<Item = PathBuf> {
    let names = FOLDERS.iter().chain(&[JSON_FILE, COCO_FILE]);
    names.map(|name| out.join(name)).filter(|path| path.exists())
}

/// Removes results of an earlier call.
fn remove_earlier(out: &Path) -> anyhow::Result<()> {
    for path in earlier(out) {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// The results while they are written.
pub(super) struct Results<'a> {
    out: &'a Path,
    format: PredictFormat,
    classes: &'a [String],
    file: Option<BufWriter<File>>,
    /// The `images` of a COCO file so far.
    images: Vec<String>,
    n_objects: u64,
}

/// An object of `predictions.json`.
#[derive(Serialize)]
struct ObjectJson<'a> {
    image: &'a str,
    /// Index in its image, in the order of the prompts.
    object: usize,
    label: Option<&'a str>,
    points: Vec<[f32; 3]>,
    #[serde(rename = "box")]
    box_xyxy_px: Option<[f32; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    predicted_iou: f32,
    area: usize,
    /// COCO's box of the mask.
    bbox: [usize; 4],
    segmentation: Segmentation,
}

#[derive(Serialize)]
struct CocoAnnotation {
    id: u64,
    image_id: usize,
    category_id: usize,
    iscrowd: u8,
    area: usize,
    bbox: [usize; 4],
    score: f32,
    segmentation: Segmentation,
}

impl<'a> Results<'a> {
    /// Calls `fill` with the open results; a file of all images appears once it is complete.
    pub(super) fn write<T>(
        out: &'a Path,
        format: PredictFormat,
        classes: &'a [String],
        fill: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
        remove_earlier(out)?;
        let mut results = Self { out, format, classes, file: None, images: Vec::new(), n_objects: 0 };
        let name = match format {
            PredictFormat::Png => return fill(&mut results),
            PredictFormat::Json => JSON_FILE,
            PredictFormat::Coco => COCO_FILE,
        };
        let path = out.join(name);
        let io = |error: std::io::Error| anyhow!(error).context(format!("writing {}", path.display()));
        let mut filled = None;
        write_atomically_with(&path, io, |temporary| {
            results.file = Some(BufWriter::new(File::create(temporary).map_err(io)?));
            results.begin().map_err(io)?;
            filled = Some(fill(&mut results)?);
            results.end().map_err(io)
        })?;
        Ok(filled.expect("it was filled"))
    }

    fn begin(&mut self) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.format == PredictFormat::Json {
            return file.write_all(b"[");
        }
        let category = |(index, name): (usize, &String)| serde_json::json!({"id": index + 1, "name": name});
        let categories: Vec<_> = self.classes.iter().enumerate().map(category).collect();
        write!(file, "{{\"categories\":{},\"annotations\":[", serde_json::json!(categories))
    }

    fn end(&mut self) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        match self.format {
            PredictFormat::Json => file.write_all(b"\n]\n")?,
            _ => writeln!(file, "],\"images\":[{}]}}", self.images.join(","))?,
        }
        file.flush()
    }

    /// Writes the objects of an image.
    pub(super) fn add(&mut self, name: &str, image: &RgbImage, objects: &[Predicted<'_>]) -> anyhow::Result<()> {
        let [height, width] = [image.height() as usize, image.width() as usize];
        self.images.push(
            serde_json::json!({"id": self.images.len() + 1, "file_name": name, "height": height, "width": width})
                .to_string(),
        );
        let class = |object: &Predicted<'_>| self.class(object);
        let class_of: Vec<usize> = objects.iter().map(class).collect();
        let masks: Vec<&Rle> = objects.iter().map(|object| &object.rle).collect();
        let labels = LabelImage::of_smallest([height, width], &masks)?;
        let has_labels = objects.iter().any(|object| object.object.label.is_some());
        // Objects without labels are told apart, those with labels by class.
        let colour = |object: usize| mask_colour_rgb(if has_labels { class_of[object] } else { object });
        let drawn = labels.overlay(image, OVERLAY_LONGEST_PX, &colour);
        self.image("overlays", name, "png", |path| save_rgb_png(&drawn, path))?;
        if self.format != PredictFormat::Png {
            return self.add_to_file(name, objects);
        }
        for object in objects {
            let mask = object.rle.to_mask();
            self.image("masks", &format!("{name}/{}", object.index), "png", |path| save_mask_png(&mask, path))?;
        }
        if has_labels {
            let palette: Vec<[u8; 3]> = (0..self.classes.len()).map(mask_colour_rgb).collect();
            self.image("classes", name, "png", |path| labels.save_class_png(&class_of, &palette, path))?;
        }
        Ok(())
    }

    fn class(&self, object: &Predicted<'_>) -> usize {
        let label = label(object.object);
        self.classes.iter().position(|class| class == label).expect("all labels are listed")
    }

    fn add_to_file(&mut self, name: &str, objects: &[Predicted<'_>]) -> anyhow::Result<()> {
        let image_id = self.images.len();
        for object in objects {
            self.n_objects += 1;
            let (area, bbox) = (object.rle.area_px(), object.rle.bbox_xywh_px());
            let segmentation = Segmentation::of(&object.rle);
            let text = if self.format == PredictFormat::Coco {
                serde_json::to_string(&CocoAnnotation {
                    id: self.n_objects,
                    image_id,
                    category_id: self.class(object) + 1,
                    iscrowd: 0,
                    area,
                    bbox,
                    score: object.predicted_iou,
                    segmentation,
                })?
            } else {
                let prompt = &object.object.prompt;
                let point = |&([x, y], positive): &([f32; 2], bool)| [x, y, f32::from(u8::from(positive))];
                serde_json::to_string(&ObjectJson {
                    image: name,
                    object: object.index,
                    label: object.object.label.as_deref(),
                    points: prompt.points_xy_px.iter().map(point).collect(),
                    box_xyxy_px: prompt.box_xyxy_px,
                    text: object.object.text.as_deref(),
                    predicted_iou: object.predicted_iou,
                    area,
                    bbox,
                    segmentation,
                })?
            };
            let separator = if self.n_objects == 1 { "\n" } else { ",\n" };
            let file = self.file.as_mut().expect("a file of this format is open");
            file.write_all(separator.as_bytes()).and_then(|()| file.write_all(text.as_bytes())).context("writing")?;
        }
        Ok(())
    }

    fn image(
        &self,
        folder: &str,
        name: &str,
        extension: &str,
        save: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> anyhow::Result<()> {
        let path = self.out.join(folder).join(harmless(Path::new(name)));
        write_image(path.with_added_extension(extension), save)
    }
}
