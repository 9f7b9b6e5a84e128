//! Writes scenes, or any samples, as files: COCO with PNG images, or SA-1B's pairs of JPEG and JSON.

use std::path::Path;

use image::ExtendedColorType;
use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;
use sam_image::{RgbImage, save_rgb_png};

use crate::convert::coco_writer::{CocoWriter, ImageEntry};
use crate::convert::sa1b_writer;
use crate::error::DataError;
use crate::filter::FilterCounts;
use crate::sample::Sample;
use crate::source::ImageObjects;

/// JPEG quality of SA-1B pairs: visually lossless, a third of the PNG.
const JPEG_QUALITY: u8 = 92;

/// Writes one part of a COCO data set: `ROOT/PART/NAME.png` and `ROOT/annotations/instances_PART.json`.
///
/// Categories get the ids 1, 2, .. in the order of `class_names`.
///
/// # Errors
///
/// When a file cannot be written, or there is an error instead of a sample.
pub fn write_coco(
    root: &Path,
    part: &str,
    samples: impl Iterator<Item = Result<Sample, DataError>>,
    class_names: &[String],
) -> Result<(), DataError> {
    let folder = root.join(part);
    create_folder(&folder)?;
    let mut writer = CocoWriter::new(root, class_names, false)?;
    for (id, sample) in (1..).zip(samples) {
        let sample = sample?;
        let file_name = format!("{}.png", sample.name);
        save_rgb_png(&sample.image, &folder.join(&file_name))?;
        writer.add(&ImageEntry { part, id, file_name: &file_name }, &annotations_of(sample))?;
    }
    writer.finish().map(drop)
}

/// Writes SA-1B pairs, `ROOT/sa_ID.jpg` and `ROOT/sa_ID.json`, with ids from `first_id`.
///
/// # Errors
///
/// When a file cannot be written, or there is an error instead of a sample.
pub fn write_sa1b(
    root: &Path,
    samples: impl Iterator<Item = Result<Sample, DataError>>,
    first_id: u64,
) -> Result<(), DataError> {
    create_folder(root)?;
    // Ids are unique over all images, as in the data set.
    let mut object_ids = first_id * 1000 + 1..;
    for (id, sample) in (first_id..).zip(samples) {
        let sample = sample?;
        let path = root.join(format!("sa_{id}.jpg"));
        save_jpeg(&sample.image, &path)?;
        let mut annotations = annotations_of(sample);
        for (object, id) in annotations.objects.iter_mut().zip(object_ids.by_ref()) {
            object.id = id;
        }
        sa1b_writer::write_json(&path, id, &annotations, &[])?;
    }
    Ok(())
}

fn annotations_of(sample: Sample) -> ImageObjects {
    ImageObjects {
        size_hw: [sample.image.height() as usize, sample.image.width() as usize],
        objects: sample.objects,
        ignore: sample.ignore,
        findings: Vec::new(),
        filtered: FilterCounts::default(),
    }
}

fn create_folder(path: &Path) -> Result<(), DataError> {
    std::fs::create_dir_all(path).map_err(|error| DataError::io(path, error))
}

fn save_jpeg(image: &RgbImage, path: &Path) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|source| DataError::Encode { path: path.to_path_buf(), source: Box::new(source) })?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| DataError::io(folder, error))?;
    }
    sam_files::write_unsynced(path, &bytes).map_err(|error| DataError::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sam_image::Rle;

    use crate::sample::Samples;
    use crate::source::Source;
    use crate::source_options::SourceOptions;
    use crate::synth::{SynthOptions, SynthScenes, class_names};

    /// The scenes of `datasets/synth`, as its README describes them.
    fn committed(first_index: u64, n_scenes: usize) -> SynthScenes {
        SynthScenes {
            seed: 1,
            first_index,
            n_scenes,
            options: SynthOptions { side_px_min: 128, side_px_max: 160, noise_levels: 0.8, ..SynthOptions::default() },
        }
    }

    fn samples(scenes: SynthScenes) -> impl Iterator<Item = Result<Sample, DataError>> {
        (0..scenes.n_scenes).map(move |index| Ok(scenes.scene(index)?.sample))
    }

    /// Masks with their classes and captions, in the source's order.
    fn masks(sample: &Sample) -> Vec<(Rle, Option<usize>, Vec<String>)> {
        let objects = sample.objects.iter();
        objects.map(|o| (o.mask.clone(), o.class, o.captions.clone())).collect()
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
            let (read, made) = (source.sample(index).expect("sound"), scenes.scene(index).expect("visible").sample);
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
            let (read, made) = (source.sample(index).expect("sound"), scenes.scene(index).expect("visible").sample);
            assert_eq!(read.image.dimensions(), made.image.dimensions());
            let made: Vec<Rle> = made.objects.into_iter().map(|o| o.mask).collect();
            let read: Vec<Rle> = read.objects.into_iter().map(|o| o.mask).collect();
            assert_eq!(read, made);
        }
    }

    #[test]
    fn the_committed_set_equals_the_generated_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/synth");
        let source = open(&root);
        let all = samples(committed(0, 36));
        for made in all.map(|made| made.expect("visible")) {
            let index = (0..source.len())
                .find(|&index| source.name(index).contains(&made.name))
                .unwrap_or_else(|| panic!("{} must be in {}", made.name, root.display()));
            let read = source.sample(index).expect("sound");
            assert_eq!(read.image, made.image, "{}", made.name);
            assert_eq!(masks(&read), masks(&made), "{}", made.name);
        }
    }

    #[test]
    fn the_committed_photographs_are_valid() {
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
