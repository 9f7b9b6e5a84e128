//! SA-1B: the dict with `image` and `annotations`, beside each image.
//!
//! As in the data set, boxes come from inclusive indices: width and height are one less than the mask's. Scores are 1,
//! since the masks are annotations. Where a data set has classes, each mask has the key `class`, as in annotation projects.

use std::path::Path;

use sam_image::Rle;
use serde::Serialize;

use super::coco_writer::RleJson;
use super::image_files::Written;
use crate::error::DataError;
use crate::source::ImageObjects;

#[derive(Serialize)]
struct FileJson<'a> {
    image: ImageJson<'a>,
    annotations: Vec<AnnotationJson<'a>>,
}

#[derive(Serialize)]
struct ImageJson<'a> {
    image_id: u64,
    width: usize,
    height: usize,
    file_name: &'a str,
}

#[derive(Serialize)]
struct AnnotationJson<'a> {
    id: u64,
    segmentation: RleJson,
    bbox: [usize; 4],
    area: usize,
    predicted_iou: f64,
    stability_score: f64,
    crop_box: [usize; 4],
    point_coords: [[f64; 2]; 1],
    /// Our own key; null for an object without a class, absent where the data set has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<Option<&'a str>>,
}

/// Counts of what SA-1B cannot represent.
#[derive(Default)]
pub(super) struct Sa1bWriter {
    n_classes: u64,
    n_ignores: u64,
}

impl Sa1bWriter {
    pub(super) fn add(&mut self, written: &Written) {
        self.n_classes += written.annotations.objects.iter().filter(|object| object.class.is_some()).count() as u64;
        self.n_ignores += u64::from(written.annotations.ignore.is_some());
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.n_classes > 0 {
            notes.push(format!(
                "SA-1B has no classes: those of {} objects are in the key `class`, which few programs but this one read",
                self.n_classes
            ));
        }
        if self.n_ignores > 0 {
            notes.push(format!("SA-1B has no ignore regions: those of {} images were lost", self.n_ignores));
        }
        notes
    }
}

/// Writes the JSON beside an image; without classes, the file is as in SA-1B.
pub(crate) fn write_json(
    image_path: &Path,
    image_id: u64,
    annotations: &ImageObjects,
    classes: &[String],
) -> Result<(), DataError> {
    let [height, width] = annotations.size_hw;
    let path = image_path.with_extension("json");
    let file_name = image_path.file_name().unwrap_or_default().to_string_lossy();
    let file = FileJson {
        image: ImageJson { image_id, width, height, file_name: &file_name },
        annotations: annotations
            .objects
            .iter()
            .map(|object| {
                let [x, y, box_width, box_height] = object.mask.bbox_xywh_px();
                AnnotationJson {
                    id: object.id,
                    segmentation: RleJson::of(&object.mask),
                    bbox: [x, y, box_width.saturating_sub(1), box_height.saturating_sub(1)],
                    area: object.mask.area_px(),
                    predicted_iou: 1.0,
                    stability_score: 1.0,
                    crop_box: [0, 0, width, height],
                    point_coords: [point_inside(&object.mask)],
                    class: (!classes.is_empty()).then(|| object.class.map(|class| classes[class].as_str())),
                }
            })
            .collect(),
    };
    let text =
        serde_json::to_vec(&file).map_err(|source| DataError::Json { path: path.clone(), what: "SA-1B", source })?;
    sam_files::write_unsynced(&path, text).map_err(|error| DataError::io(&path, error))
}

/// The middle of the longest run within a column: a pixel of the mask away from its edge.
fn point_inside(mask: &Rle) -> [f64; 2] {
    let height = mask.size_hw()[0].max(1);
    let (mut at, mut best, mut best_len) = (0usize, 0usize, 0usize);
    for (run, &count) in mask.counts().iter().enumerate() {
        let count = count as usize;
        let len = count.min(height);
        if run % 2 == 1 && len > best_len {
            best_len = len;
            best = at + len / 2;
        }
        at += count;
    }
    [(best / height) as f64, (best % height) as f64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_point_is_a_pixel_of_the_mask() {
        for counts in [&[4u32, 2, 1, 2, 3][..], &[0, 12], &[11, 1], &[2, 5, 5]] {
            let mask = Rle::new([3, 4], counts).expect("valid");
            let [x, y] = point_inside(&mask);
            assert!(mask.to_mask().get(y as usize, x as usize), "{counts:?}");
        }
    }
}
