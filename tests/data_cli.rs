//! The `data` commands through the real program: findings, previews, outputs, and errors for bad data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sam_data::{CheckReport, ProblemKind, Source, SourceOptions};
use sam_image::decode_rgb;

use crate::cli::Run;

pub(crate) fn datasets(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../datasets").join(name);
    path.display().to_string()
}

fn fixture(name: &str) -> String {
    crate::fixture::path("data").join(name).display().to_string()
}

/// Every mask of a data set as COCO strings, by image.
fn masks(path: &Path) -> BTreeMap<String, Vec<String>> {
    let source = Source::open(path, &SourceOptions::default()).expect("a sound data set");
    (0..source.len())
        .map(|index| {
            let objects = source.objects(index).expect("a sound sample").objects;
            let mut masks: Vec<String> = objects.iter().map(|object| object.mask.to_coco_string()).collect();
            masks.sort();
            let name = Path::new(&source.name(index)).file_stem().expect("a name").to_string_lossy().into_owned();
            (name, masks)
        })
        .collect()
}

#[test]
fn check_counts_and_accepts_the_committed_sets() {
    let run = Run::new();
    let text = run.ok(&["data", "check", &datasets("photos"), "--json", "photos.json"]);
    for part in ["format   coco", "images   7", "objects  29", "part     val: 2 images", "class    cup: 1"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json = std::fs::read_to_string(run.path("photos.json")).expect("written");
    let report: CheckReport = serde_json::from_str(&json).expect("a report");
    assert_eq!((report.images, report.objects, report.has_errors()), (7, 29, false));
    assert_eq!(report.sizes.iter().map(|bin| bin.objects).sum::<u64>(), 29);
    run.refused(&["data", "check", &datasets("photos"), "--json", "photos.json"], &["exists", "--force"]);
}

#[test]
fn check_reads_what_every_tool_writes() {
    let run = Run::new();
    let mut formats = BTreeMap::new();
    for entry in std::fs::read_dir(crate::fixture::path("data")).expect("committed fixtures") {
        let entry = entry.expect("an entry");
        if !entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let output = run.sam_train(&["data", "check", &fixture(&name)]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let format = text.lines().find_map(|line| line.strip_prefix("format   ")).map(str::to_owned);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panicked"), "{name}: {err}");
        *formats.entry(format.unwrap_or_else(|| panic!("{name} has no format: {err}"))).or_insert(0) += 1;
    }
    for format in ["coco", "label_images", "sa1b", "yolo_seg", "labelme"] {
        assert!(formats.contains_key(format), "{formats:?} must have {format}");
    }
}

#[test]
fn check_reports_problems_with_their_fixes() {
    let run = Run::new();
    let scenes =
        ["data", "synth", "--out", "scenes", "--train", "4", "--val", "0", "--max-side", "130", "--noise", "0"];
    run.ok(&scenes);
    let json = run.path("scenes/annotations/instances_train.json");
    let mut coco: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("written")).expect("JSON");
    let names: Vec<String> =
        (0..4).map(|at| coco["images"][at]["file_name"].as_str().expect("a name").to_owned()).collect();
    std::fs::remove_file(run.path(&format!("scenes/train/{}", names[0]))).expect("there");
    let cut = run.path(&format!("scenes/train/{}", names[1]));
    std::fs::write(&cut, &std::fs::read(&cut).expect("there")[..500]).expect("written");
    coco["annotations"][0]["category_id"] = 99.into();
    let last = coco["annotations"].as_array().expect("a list").len() - 1;
    coco["annotations"][last]["segmentation"]["counts"] = "04".into();
    std::fs::write(&json, coco.to_string()).expect("written");

    run.refused(&["data", "check", "scenes", "--json", "report.json"], &["errors of", "fix them"]);
    let report = std::fs::read_to_string(run.path("report.json")).expect("written despite the errors");
    let report: CheckReport = serde_json::from_str(&report).expect("a report");
    for kind in [ProblemKind::ImageMissing, ProblemKind::ImageUnreadable] {
        let problem = report.problem(kind).unwrap_or_else(|| panic!("{kind:?} must be found: {report:?}"));
        assert!(problem.count >= 1 && !problem.fix.is_empty() && !problem.examples.is_empty());
    }
    assert!(report.problems.len() >= 4, "category and mask, too: {:?}", report.problems);
    // Errors stop the other commands; with `--drop-bad`, bad objects are dropped and counted.
    run.refused(&["data", "preview", "scenes", "--out", "sheets"], &["annotation 1", "category_id", "data check"]);
    run.refused(&["data", "check", "nowhere"], &["nowhere"]);
    std::fs::create_dir(run.path("empty")).expect("made");
    run.refused(&["data", "check", "empty"], &["empty"]);
    run.refused(&["data", "check", "scenes", "--crowd", "maybe"], &["--crowd maybe", "instances"]);
}

#[test]
fn preview_has_a_row_per_image() {
    let run = Run::new();
    let arguments = ["data", "preview", &datasets("photos"), "--out", "sheets", "--count", "7", "--cell", "64"];
    let text = run.ok(&arguments);
    assert_eq!(text.matches(" row ").count(), 7, "{text}");
    let first = decode_rgb(&run.path("sheets/sheet_000.png")).expect("a PNG");
    assert_eq!(first.dimensions(), (4 * 68 + 4, 6 * 68 + 4));
    assert_eq!(decode_rgb(&run.path("sheets/sheet_001.png")).expect("a PNG").height(), 68 + 4);
    run.refused(&arguments, &["sheet_000.png", "--force"]);
    run.ok(&[&arguments[..], &["--force"]].concat());
    assert_eq!(decode_rgb(&run.path("sheets/sheet_000.png")).expect("a PNG"), first, "equal seeds give equal sheets");
}

#[test]
fn masks_survive_conversion() {
    let run = Run::new();
    let original = masks(Path::new(&datasets("photos")));
    for format in ["coco", "sa1b"] {
        let text = run.ok(&["data", "convert", &datasets("photos"), "--to", format, "--out", format]);
        assert!(text.contains("7 images with 29 objects"), "{text}");
        assert_eq!(masks(&run.path(format)), original, "{format}");
        run.refused(&["data", "convert", &datasets("photos"), "--to", format, "--out", format], &[format]);
    }
    // A label image has one id per pixel, and losses by overlap are reported.
    let text = run.ok(&["data", "convert", &datasets("photos"), "--to", "labels", "--out", "labels"]);
    assert!(text.contains("changed: each pixel has one id"), "{text}");
    // YOLO has a polygon per object: parts are joined, holes are filled and counted.
    let text = run.ok(&["data", "convert", &datasets("photos"), "--to", "yolo", "--out", "yolo"]);
    assert!(text.contains("7 images with 29 objects"), "{text}");
    let text = run.ok(&["data", "check", "yolo"]);
    for part in ["format   yolo_seg", "images   7", "objects  29", "part     val: 2 images"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn split_is_stable_when_files_are_added() {
    let run = Run::new();
    let split = |path: &str, name: &str, arguments: &[&str]| -> BTreeMap<String, Vec<String>> {
        let base = ["data", "split", path, "--out", name];
        run.ok(&[&base[..], arguments].concat());
        let text = std::fs::read_to_string(run.path(name)).expect("written");
        serde_json::from_str(&text).expect("three lists of names")
    };
    for (folder, scenes) in [("few", "20"), ("more", "32")] {
        let small = ["--max-side", "128", "--val", "0", "--noise", "0"];
        run.ok(&[&["data", "synth", "--out", folder, "--train", scenes], &small[..]].concat());
    }
    let rule = ["--val", "0.25", "--test", "0.25"];
    let (few, more) = (split("few", "few.json", &rule), split("more", "more.json", &rule));
    assert_eq!(more.values().map(Vec::len).sum::<usize>(), 32);
    for (part, images) in &few {
        assert!(!images.is_empty(), "{part} must have some of 20 images");
        assert!(images.iter().all(|image| more[part].contains(image)), "{part}: {images:?} must stay");
    }
    let given = split(&datasets("synth"), "given.json", &["--given"]);
    assert_eq!((given["train"].len(), given["val"].len()), (24, 12));
    run.refused(&["data", "split", &datasets("synth"), "--out", "given.json"], &["exists", "--force"]);
    run.refused(&["data", "split", &datasets("synth"), "--out", "x.json", "--val", "1.5"], &["1.5"]);
}

#[test]
fn synth_generates_the_committed_scenes() {
    let run = Run::new();
    run.ok(&["data", "synth", "--out", "scenes", "--seed", "1", "--max-side", "160", "--noise", "0.8"]);
    let committed = PathBuf::from(datasets("synth"));
    let checked = run.ok(&["data", "check", &datasets("synth")]);
    assert!(checked.contains("objects  228\ncaptions 350, of 228 objects\n"), "{checked}");
    for file in ["annotations/instances_train.json", "annotations/instances_val.json"] {
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("there");
        assert_eq!(read(run.path("scenes").join(file)), read(committed.join(file)), "{file}");
    }
    let mut compared = 0;
    for part in ["train", "val"] {
        for entry in std::fs::read_dir(committed.join(part)).expect("listed") {
            let path = entry.expect("an entry").path();
            let made = run.path("scenes").join(part).join(path.file_name().expect("a name"));
            assert_eq!(decode_rgb(&made).expect("made"), decode_rgb(&path).expect("committed"), "{}", made.display());
            compared += 1;
        }
    }
    assert_eq!(compared, 36);
    run.refused(&["data", "synth", "--out", "scenes"], &["not empty", "--force"]);
    run.refused(&["data", "synth", "--out", "s", "--train", "0", "--val", "0"], &["nothing to generate"]);
    let text = run.ok(&["data", "synth", "--out", "pairs", "--format", "sa1b", "--train", "3", "--val", "1"]);
    assert!(text.contains("train: 3 scenes"), "{text}");
    assert_eq!(masks(&run.path("pairs/train")).len(), 3);
}
