//! `sam-train auto` through the real program: every format, going on where it stopped, thresholds moved, bad input.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sam_data::{Source, SourceOptions};
use sam_image::RgbImage;
use serde_json::Value;

use crate::cli::{Run, fixture, texts};
use crate::fixture::path;

/// A few points and thresholds that fit the small network of the fixtures.
const SMALL: [&str; 6] = ["--points-per-side", "5", "--pred-iou", "0.4", "--stability", "0.6"];

/// A folder `in` with pictures in two folders.
pub(crate) fn with_pictures() -> Run {
    let run = Run::new();
    std::fs::create_dir_all(run.path("in/more")).expect("made");
    for (name, picture) in [("in/a.png", "wide"), ("in/b.png", "middle"), ("in/more/a.png", "tall")] {
        std::fs::copy(path(&format!("automatic/{picture}.png")), run.path(name)).expect("copied");
    }
    run
}

pub(crate) fn arguments<'a>(checkpoint: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["auto", "--checkpoint", checkpoint, "--out", "out", "--stability-offset", "0.5"];
    let defaults = SMALL.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten().copied();
    base.into_iter().chain(defaults).chain(more.iter().copied()).collect()
}

pub(crate) fn weights() -> String {
    fixture("automatic/weights.safetensors")
}

pub(crate) fn summary(run: &Run, more: &[&str]) -> Value {
    let weights = weights();
    let text = run.ok(&[arguments(&weights, more), vec!["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .expect("JSON")
}

#[test]
fn masks_are_written_once_and_in_every_format() {
    let run = with_pictures();
    let first = summary(&run, &["in", "--candidates"]);
    assert_eq!((number(&first, "images"), number(&first, "finished"), number(&first, "finished_before")), (3, 3, 0));
    let n_masks = number(&first, "masks");
    assert!(n_masks >= 6, "{first}");
    let mut sum = 0;
    for stem in ["a", "b", "more/a"] {
        let record = json(&run.path(&format!("out/annotations/{stem}.json")));
        let masks = record["annotations"].as_array().expect("masks");
        sum += masks.len() as u64;
        for key in
            ["bbox", "area", "segmentation", "predicted_iou", "point_coords", "crop_box", "id", "stability_score"]
        {
            assert!(masks.iter().all(|mask| mask.get(key).is_some()), "{key}");
        }
        let name = record["image"]["file_name"].as_str().expect("a name");
        assert_eq!(name, format!("{stem}.png"));
        let (picture, overlay) = (run.path(&format!("in/{name}")), run.path(&format!("out/overlays/{stem}.png")));
        let size = |path: &Path| sam_image::decode_rgb(path).expect("an image").dimensions();
        assert_eq!(size(&picture), size(&overlay));
    }
    assert_eq!(sum, n_masks);
    let record = std::fs::read_to_string(run.path("out/annotations/a.json")).expect("there");

    // Finished images are skipped, also where another format is made of them.
    for (format, file) in
        [("labels", "labels/more/a.png"), ("png", "masks/more/a/metadata.csv"), ("coco", "instances.json")]
    {
        let again = summary(&run, &["in", "--format", format]);
        assert_eq!((number(&again, "finished_before"), number(&again, "masks")), (3, n_masks), "{format}");
        assert!(run.path(&format!("out/{file}")).is_file(), "{file}");
    }
    assert_eq!(std::fs::read_to_string(run.path("out/annotations/a.json")).expect("there"), record);
    let rows = std::fs::read_to_string(run.path("out/masks/a/metadata.csv")).expect("there").lines().count();
    assert_eq!(rows - 1, json(&run.path("out/annotations/a.json"))["annotations"].as_array().map_or(0, Vec::len));

    // Both are data sets that this program reads.
    let open = |path: &Path, images: Option<&str>| {
        let options = SourceOptions { images: images.map(Into::into), ..SourceOptions::default() };
        let source = Source::open(path, &options).expect("a data set");
        (0..source.len()).map(|index| source.sample(index).expect("a sample").objects.len() as u64).sum::<u64>()
    };
    assert_eq!(open(&run.path("out/instances.json"), Some(run.path("in").to_str().expect("UTF-8"))), n_masks);
    std::fs::create_dir_all(run.path("set")).expect("made");
    std::fs::rename(run.path("in"), run.path("set/images")).expect("moved");
    std::fs::create_dir_all(run.path("set/annotations/more")).expect("made");
    for stem in ["a", "b", "more/a"] {
        let name = format!("annotations/{stem}.json");
        std::fs::copy(run.path(&format!("out/{name}")), run.path(&format!("set/{name}"))).expect("copied");
    }
    assert!(open(&run.path("set"), None) > 0);
}

#[test]
fn thresholds_are_moved_without_the_network() {
    let run = with_pictures();
    let n_masks = number(&summary(&run, &["in", "--candidates", "--format", "labels"]), "masks");
    let strict = summary(&run, &["in", "--stability", "0.8", "--min-area", "9"]);
    assert_eq!((number(&strict, "from_candidates"), number(&strict, "finished")), (3, 3));
    assert!(number(&strict, "masks") < n_masks, "{strict}");
    assert!(!run.path("out/labels/a.png").exists(), "label images of other thresholds are gone");
    // An image that changed is asked about again, and candidates that were damaged, too.
    std::fs::copy(path("automatic/square.png"), run.path("in/b.png")).expect("copied");
    std::fs::write(run.path("out/candidates/a.json"), "{").expect("written");
    let back = summary(&run, &["in", "--candidates"]);
    assert_eq!((number(&back, "from_candidates"), number(&back, "finished")), (1, 3));
    // Lower than what was kept: the network is asked again.
    let open = summary(&run, &["in", "--pred-iou", "0.1", "--no-overlap"]);
    assert_eq!(number(&open, "from_candidates"), 0);
    let covered = |stem: &str| -> u64 {
        let record = json(&run.path(&format!("out/annotations/{stem}.json")));
        record["annotations"].as_array().expect("masks").iter().map(|mask| number(mask, "area")).sum()
    };
    assert!(covered("a") <= 40 * 64, "no two masks share a pixel");
}

#[test]
fn unreadable_images_are_named_and_the_others_finished() {
    let run = with_pictures();
    std::fs::write(run.path("in/cut.png"), &std::fs::read(run.path("in/a.png")).expect("there")[..60])
        .expect("written");
    std::fs::write(run.path("in/noise.jpg"), "no image").expect("written");
    let weights = weights();
    let output = run.sam_train(&arguments(&weights, &["in"]));
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(out.contains("3 of 5 images"), "{out}");
    for part in ["cut.png", "noise.jpg", "2 of 5 images could not be read", "the others are finished"] {
        assert!(err.contains(part), "must say `{part}`:\n{err}");
    }
    // Given by name, a missing one stops it at once.
    run.refused(&arguments(&weights, &["in/gone.png"]), &["in/gone.png", "no such file"]);
    run.refused(&arguments(&weights, &["in/*.tif"]), &["no file matches in/*.tif"]);
}

#[test]
fn an_image_without_masks_and_tiny_images_are_explained() {
    let run = Run::new();
    RgbImage::from_pixel(1, 1, [7, 7, 7].into()).save(run.path("one.png")).expect("written");
    std::fs::copy(path("automatic/wide.png"), run.path("wide.png")).expect("copied");
    let weights = weights();
    let output = run.sam_train(&arguments(&weights, &["*.png", "--pred-iou", "1.5", "--crop-layers", "2"]));
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("2 of 2 images, 0 masks"), "{out}");
    for part in [
        "no mask: wide.png: no mask is left of",
        "a predicted IoU of 1.5 or less, the highest is ",
        "boxes only",
        "fewer crops: one.png: the image is too small for 2 of 2 layers of crops",
    ] {
        assert!(err.contains(part), "must say `{part}`:\n{err}");
    }
    for (option, value, words) in [
        ("--points-per-side", "0", "points per side must be 1 to 256, got 0"),
        ("--crop-layers", "9", "crop layers must be 0 to 5"),
        ("--crop-overlap", "1", "crop overlap must be 0 or more and below 1"),
        ("--stability", "nan", "the stability must be a number"),
        ("--format", "yolo", "possible values"),
    ] {
        run.refused(&arguments(&weights, &["wide.png", option, value]), &[words]);
    }
}

#[test]
fn masks_of_another_checkpoint_are_not_mixed_with() {
    let run = with_pictures();
    let (trained, random) = (weights(), fixture("tiny_sam.safetensors"));
    let n_masks = number(&summary(&run, &["in"]), "masks");
    run.refused(&arguments(&random, &["in"]), &["is from another checkpoint", "weights.safetensors", "--force"]);
    run.refused(&arguments(&trained, &["in", "--crop-layers", "1"]), &["other options", "--force"]);
    run.refused(&arguments(&trained, &["in", "--box-nms", "0.5"]), &["other thresholds", "--candidates"]);
    std::fs::create_dir_all(run.path("full")).expect("made");
    std::fs::write(run.path("full/notes.txt"), "mine").expect("written");
    let mut into_full = arguments(&trained, &["in"]);
    into_full[4] = "full";
    run.refused(&into_full, &["holds other files"]);
    run.ok(&arguments(&random, &["in/a.png", "--force"]));
    assert!(!run.path("out/annotations/b.json").exists(), "masks of the other checkpoint are gone");
    let back = summary(&run, &["in", "--force"]);
    assert_eq!((number(&back, "masks"), number(&back, "finished_before")), (n_masks, 0));
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_said_and_the_rest_is_done_later() {
    let run = with_pictures();
    let weights = weights();
    let all = arguments(&weights, &["in", "--candidates", "--pred-iou", "0", "--stability", "0"]);
    let (code, err) = crate::train_cli::on_a_full_disk(&run, &all);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("error: writing out/candidates/") && !err.contains("panicked"), "{err}");
    assert!(!run.path("out/annotations/a.json").exists(), "nothing is finished");
    run.ok(&all);
    assert!(run.path("out/annotations/more/a.json").is_file());
    let left: Vec<_> = std::fs::read_dir(run.path("out/candidates"))
        .expect("there")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".writing")), "{left:?}");
}

/// A run that is killed, and one that is stopped, leave whole files only, and the next goes on.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let expected = with_pictures();
    let weights = weights();
    let whole = arguments(&weights, &["in", "--points-per-side", "12"]);
    expected.ok(&whole);
    let run = with_pictures();
    let finished = || std::fs::read_to_string(run.path("out/finished.jsonl")).map_or(0, |text| text.lines().count());
    for signal in ["-KILL", "-INT"] {
        let before = finished();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sam-train"))
            .args(&whole)
            .current_dir(run.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let begun = Instant::now();
        while finished() <= before && child.try_wait().expect("ours").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it finishes images");
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        let output = child.wait_with_output().expect("ours");
        let (_, err) = texts(&output);
        assert!(!err.contains("panicked"), "{err}");
        assert!(matches!(output.status.code(), None | Some(0 | 130)), "{err}");
        if output.status.code() == Some(130) {
            assert!(err.contains("of 3 images are finished; the same command resumes"), "{err}");
        }
    }
    run.ok(&whole);
    for name in ["annotations/a.json", "annotations/b.json", "annotations/more/a.json", "overlays/more/a.png"] {
        let read = |run: &Run| std::fs::read(run.path(&format!("out/{name}"))).expect("there");
        assert!(read(&run) == read(&expected), "{name}");
    }
}
