//! Scenes, or any samples, as files: COCO with PNG images, or SA-1B's pairs of JPEG and JSON.
//!
//! Every mask is written as compressed RLE, which keeps holes and parts exactly. Nothing is a crowd. SA-1B's boxes are one
//! less in width and height than COCO's, as its own files have them.

use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;
use sam_image::{ImageError, RgbImage, Rle, save_rgb_png};
use serde::Serialize;

use crate::sample::Sample;

/// JPEG quality of SA-1B pairs: visually lossless, a third of the PNG.
const JPEG_QUALITY: u8 = 92;

/// Why a data set could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The image could not be encoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The JSON could not be made.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
}

#[derive(Serialize)]
struct CocoFile<'a> {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory<'a>>,
}

#[derive(Serialize)]
struct CocoImage {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Serialize)]
struct CocoAnnotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    segmentation: Segmentation,
    area: usize,
    bbox: [usize; 4],
    iscrowd: u8,
}

#[derive(Serialize)]
struct CocoCategory<'a> {
    id: u64,
    name: &'a str,
}

#[derive(Serialize)]
struct Segmentation {
    size: [usize; 2],
    counts: String,
}

#[derive(Serialize)]
struct Sa1bFile {
    image: Sa1bImage,
    annotations: Vec<Sa1bAnnotation>,
}

#[derive(Serialize)]
struct Sa1bImage {
    image_id: u64,
    width: u32,
    height: u32,
    file_name: String,
}

#[derive(Serialize)]
struct Sa1bAnnotation {
    id: u64,
    segmentation: Segmentation,
    bbox: [usize; 4],
    area: usize,
    predicted_iou: f64,
    stability_score: f64,
    crop_box: [u32; 4],
    point_coords: [[f64; 2]; 1],
}

impl From<&Rle> for Segmentation {
    fn from(mask: &Rle) -> Self {
        Self { size: mask.size_hw(), counts: mask.to_coco_string() }
    }
}

/// Writes one split of a COCO data set: `ROOT/SPLIT/NAME.png` and `ROOT/annotations/instances_SPLIT.json`.
///
/// Categories get the ids 1, 2, .. in the order of `class_names`; an object without class gets category 1.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_coco(
    root: &Path,
    split: &str,
    samples: impl Iterator<Item = Sample>,
    class_names: &[String],
) -> Result<(), WriteError> {
    let images_folder = root.join(split);
    let annotations_folder = root.join("annotations");
    create_folder(&images_folder)?;
    create_folder(&annotations_folder)?;
    let mut file = CocoFile { images: Vec::new(), annotations: Vec::new(), categories: Vec::new() };
    for (id, name) in (1..).zip(class_names) {
        file.categories.push(CocoCategory { id, name });
    }
    for (image_id, sample) in (1..).zip(samples) {
        let file_name = format!("{}.png", sample.name);
        save_rgb_png(&sample.image, &images_folder.join(&file_name))?;
        file.images.push(CocoImage {
            id: image_id,
            file_name,
            width: sample.image.width(),
            height: sample.image.height(),
        });
        for object in &sample.objects {
            file.annotations.push(CocoAnnotation {
                id: file.annotations.len() as u64 + 1,
                image_id,
                category_id: object.class.unwrap_or(0) as u64 + 1,
                segmentation: Segmentation::from(&object.mask),
                area: object.mask.area_px(),
                bbox: object.mask.bbox_xywh_px(),
                iscrowd: 0,
            });
        }
    }
    write_json(&annotations_folder.join(format!("instances_{split}.json")), &file)
}

/// Writes SA-1B pairs, `ROOT/sa_ID.jpg` and `ROOT/sa_ID.json`, with ids from `first_id`.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_sa1b(root: &Path, samples: impl Iterator<Item = Sample>, first_id: u64) -> Result<(), WriteError> {
    create_folder(root)?;
    let mut annotation_id = first_id * 1000;
    for (image_id, sample) in (first_id..).zip(samples) {
        let (width, height) = sample.image.dimensions();
        let file_name = format!("sa_{image_id}.jpg");
        save_jpeg(&sample.image, &root.join(&file_name))?;
        let mut annotations = Vec::with_capacity(sample.objects.len());
        for object in &sample.objects {
            let [x, y, box_width, box_height] = object.mask.bbox_xywh_px();
            annotation_id += 1;
            annotations.push(Sa1bAnnotation {
                id: annotation_id,
                segmentation: Segmentation::from(&object.mask),
                bbox: [x, y, box_width.saturating_sub(1), box_height.saturating_sub(1)],
                area: object.mask.area_px(),
                predicted_iou: 1.0,
                stability_score: 1.0,
                crop_box: [0, 0, width, height],
                point_coords: [point_inside(&object.mask)],
            });
        }
        let file = Sa1bFile { image: Sa1bImage { image_id, width, height, file_name }, annotations };
        write_json(&root.join(format!("sa_{image_id}.json")), &file)?;
    }
    Ok(())
}

/// The middle of the mask's longest run; the corner for an empty mask.
fn point_inside(mask: &Rle) -> [f64; 2] {
    let height = mask.size_hw()[0].max(1);
    let (mut at, mut best) = (0usize, (0u32, 0usize));
    for pair in mask.counts().chunks_exact(2) {
        let start = at + pair[0] as usize;
        at = start + pair[1] as usize;
        if pair[1] > best.0 {
            best = (pair[1], start + pair[1] as usize / 2);
        }
    }
    [(best.1 / height) as f64, (best.1 % height) as f64]
}

fn create_folder(path: &Path) -> Result<(), WriteError> {
    std::fs::create_dir_all(path).map_err(|source| WriteError::Io { path: path.to_path_buf(), source })
}

fn save_jpeg(image: &RgbImage, path: &Path) -> Result<(), WriteError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|source| ImageError::Encode { path: path.to_path_buf(), source: Box::new(source) })?;
    write_bytes(path, &bytes)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let mut bytes =
        serde_json::to_vec(value).map_err(|source| WriteError::Json { path: path.to_path_buf(), source })?;
    bytes.push(b'\n');
    write_bytes(path, &bytes)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    std::fs::write(path, bytes).map_err(|source| WriteError::Io { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::Samples;
    use crate::source::{Source, SourceOptions};
    use crate::synth::{SynthOptions, SynthScenes, class_names};

    /// What `datasets/README.md` says about `datasets/synth`.
    fn committed(first_index: u64, n_scenes: usize) -> SynthScenes {
        SynthScenes {
            seed: 1,
            first_index,
            n_scenes,
            options: SynthOptions { side_px_min: 128, side_px_max: 160, noise_levels: 0.8, ..SynthOptions::default() },
        }
    }

    fn samples(scenes: SynthScenes) -> impl Iterator<Item = Sample> {
        (0..scenes.n_scenes).map(move |index| scenes.scene(index).sample)
    }

    /// Masks with their classes, in the source's order.
    fn masks(sample: &Sample) -> Vec<(Rle, Option<usize>)> {
        let objects = sample.objects.iter();
        objects.map(|o| (o.mask.clone(), o.class)).collect()
    }

    fn open(folder: &Path) -> Source {
        Source::open(folder, &SourceOptions::default()).expect("a data set just written")
    }

    #[test]
    fn coco_is_read_back_unchanged() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let scenes = committed(100, 5);
        write_coco(folder.path(), "train", samples(scenes), &class_names()).expect("written");
        let source = open(folder.path());
        assert_eq!(source.classes(), class_names());
        assert_eq!(source.len(), 5);
        for index in 0..5 {
            let (read, made) = (source.sample(index).expect("sound"), scenes.scene(index).sample);
            assert_eq!(read.image, made.image);
            assert_eq!(masks(&read), masks(&made));
            assert!(read.ignore.is_none());
        }
    }

    #[test]
    fn sa_1b_pairs_are_read_back_with_equal_masks() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let scenes = committed(200, 3);
        write_sa1b(folder.path(), samples(scenes), 1).expect("written");
        let source = open(folder.path());
        assert_eq!(source.len(), 3);
        for index in 0..3 {
            let (read, made) = (source.sample(index).expect("sound"), scenes.scene(index).sample);
            assert_eq!(read.image.dimensions(), made.image.dimensions());
            let made: Vec<Rle> = made.objects.into_iter().map(|o| o.mask).collect();
            let read: Vec<Rle> = read.objects.into_iter().map(|o| o.mask).collect();
            assert_eq!(read, made);
        }
    }

    #[test]
    fn points_lie_inside() {
        for object in samples(committed(0, 20)).flat_map(|sample| sample.objects) {
            let [x, y] = point_inside(&object.mask);
            assert!(object.mask.to_mask().get(y as usize, x as usize));
        }
    }

    #[test]
    fn the_committed_set_is_what_the_generator_makes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/synth");
        let source = open(&root);
        let all = samples(committed(0, 36));
        for made in all {
            let index = (0..source.len())
                .find(|&index| source.name(index).contains(&made.name))
                .unwrap_or_else(|| panic!("{} must be in {}", made.name, root.display()));
            let read = source.sample(index).expect("sound");
            assert_eq!(read.image, made.image, "{}", made.name);
            assert_eq!(masks(&read), masks(&made), "{}", made.name);
        }
    }

    #[test]
    fn the_committed_photographs_are_sound() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/photos");
        let source = open(&root);
        assert_eq!(Samples::n_samples(&source), 7);
        let samples: Vec<Sample> = (0..7).map(|index| source.sample(index).expect("sound")).collect();
        let n_objects: usize = samples.iter().map(|sample| sample.objects.len()).sum();
        assert_eq!(n_objects, 29);
        for sample in &samples {
            assert!(sample.ignore.is_none());
            assert!(sample.image.width().max(sample.image.height()) <= 384);
        }
    }
}
