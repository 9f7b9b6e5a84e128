//! Label images: 16-bit grey PNGs of instance ids under `masks`, beside `images`.
//!
//! Each pixel has one id. Where objects overlap, the smaller one is on top, as a part lies on its whole; hidden pixels
//! are counted. The source's ids are kept if they fit; otherwise the image's objects are numbered from 1.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::image_files::Written;
use crate::error::DataError;
use crate::source::ImageObjects;

/// The id of ignored pixels.
const VOID: u16 = u16::MAX;

/// Losses in one label image.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overlaps {
    hidden_objects: u64,
    covered_objects: u64,
    is_renumbered: bool,
}

#[derive(Default)]
pub(super) struct LabelsWriter {
    hidden_objects: u64,
    covered_objects: u64,
    n_renumbered: u64,
    n_classes: u64,
    n_ignores: u64,
}

impl LabelsWriter {
    pub(super) fn add(&mut self, written: &Written) {
        self.hidden_objects += written.overlaps.hidden_objects;
        self.covered_objects += written.overlaps.covered_objects;
        self.n_renumbered += u64::from(written.overlaps.is_renumbered);
        self.n_classes += written.annotations.objects.iter().filter(|object| object.class.is_some()).count() as u64;
        self.n_ignores += u64::from(written.annotations.ignore.is_some());
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.covered_objects > 0 {
            notes.push(format!(
                "each pixel has one id: {} objects lost pixels to smaller objects or ignore regions, {} of them completely",
                self.covered_objects, self.hidden_objects
            ));
        }
        if self.n_classes > 0 {
            notes.push(format!("ids are instances: the classes of {} objects were lost", self.n_classes));
        }
        if self.n_ignores > 0 {
            notes.push(format!(
                "ignore regions of {} images have the id {VOID}: read with void = {{ id = {VOID} }}",
                self.n_ignores
            ));
        }
        if self.n_renumbered > 0 {
            notes.push(format!(
                "ids of {} images do not fit 16 bits or are used twice: numbered from 1",
                self.n_renumbered
            ));
        }
        notes
    }
}

/// Writes the label image of one sample.
pub(super) fn write_labels(path: &Path, annotations: &ImageObjects) -> Result<Overlaps, DataError> {
    let objects = &annotations.objects;
    if objects.len() >= usize::from(VOID) {
        return Err(DataError::Content {
            path: path.to_path_buf(),
            what: "objects of one image".to_owned(),
            expected: format!("fewer than {VOID} for 16-bit ids"),
            got: objects.len().to_string(),
            fix: "convert to COCO or SA-1B instead".to_owned(),
        });
    }
    let mut sorted: Vec<u64> = objects.iter().map(|object| object.id).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let fits = sorted.len() == objects.len() && sorted.iter().all(|&id| (1..u64::from(VOID)).contains(&id));
    let mut by_area: Vec<usize> = (0..objects.len()).collect();
    by_area.sort_by_key(|&at| std::cmp::Reverse(objects[at].mask.area_px()));

    let [height, width] = annotations.size_hw;
    let mut labels = vec![0u16; height * width];
    let mut left_px: Vec<usize> = objects.iter().map(|object| object.mask.area_px()).collect();
    // The owner of each pixel as an index into `objects` plus 1, so that ids may be anything.
    let mut owner = vec![0u32; height * width];
    let regions = by_area.iter().map(|&at| (Some(at), &objects[at].mask));
    for (at, mask) in regions.chain(annotations.ignore.iter().map(|mask| (None, mask))) {
        let id = match at {
            Some(at) if fits => objects[at].id as u16,
            Some(at) => at as u16 + 1,
            None => VOID,
        };
        for (pixel, _) in mask.to_mask().pixels().iter().enumerate().filter(|(_, is_set)| **is_set) {
            if let Some(below) = owner[pixel].checked_sub(1) {
                left_px[below as usize] -= 1;
            }
            owner[pixel] = at.map_or(0, |at| at as u32 + 1);
            labels[pixel] = id;
        }
    }
    save_grey16(path, [height, width], &labels)?;
    let was_px = objects.iter().map(|object| object.mask.area_px());
    Ok(Overlaps {
        hidden_objects: left_px.iter().filter(|&&px| px == 0).count() as u64,
        covered_objects: left_px.iter().zip(was_px).filter(|&(&left, was)| left < was).count() as u64,
        is_renumbered: !fits && !objects.is_empty(),
    })
}

fn save_grey16(path: &Path, [height, width]: [usize; 2], labels: &[u16]) -> Result<(), DataError> {
    let encode = |source: png::EncodingError| DataError::Encode { path: path.to_path_buf(), source: Box::new(source) };
    let file = BufWriter::new(File::create(path).map_err(|error| DataError::io(path, error))?);
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut writer = encoder.write_header().map_err(encode)?;
    let bytes: Vec<u8> = labels.iter().flat_map(|id| id.to_be_bytes()).collect();
    writer.write_image_data(&bytes).map_err(encode)?;
    writer.finish().map_err(encode)
}
