//! What a data set loses is said in the same words and numbers by every command, and a set without objects is refused.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::cli::{Run, fixture, texts};

/// A training of two steps from a checkpoint, on the data set `cells`.
const CONFIG: &str = r#"
task = "train"
[run]
dir = "run"
device = "cpu"
[model]
init = "checkpoint"
checkpoint = "CHECKPOINT"
[data]
train = "cells"
EXTRA
images_per_step = 2
objects_per_step = 4
[schedule]
steps = 2
warmup_steps = 1
[validation]
every_steps = 2
clicks = [1]
metric = "miou_box"
"#;

fn save(path: &Path, level: u8) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    RgbImage::from_fn(64, 48, |x, y| Rgb([x as u8, y as u8, level])).save(path).expect("saved");
}

fn save_mask(path: &Path, is_object: impl Fn(u32, u32) -> bool) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    GrayImage::from_fn(64, 48, |x, y| Luma([u8::from(is_object(x, y))])).save(path).expect("saved");
}

fn configure(run: &Run, extra: &str) {
    let text = CONFIG.replace("CHECKPOINT", &fixture("tiny_sam.safetensors")).replace("EXTRA", extra);
    std::fs::write(run.path("train.toml"), text).expect("written");
}

/// Images with objects in `folder`; with `is_empty`, without.
fn cells(run: &Run, folder: &str, n: u8, is_empty: impl Fn(u8) -> bool) {
    for at in 0..n {
        save(&run.path(&format!("{folder}/images/{at}.png")), at + folder.len() as u8);
        save_mask(&run.path(&format!("{folder}/masks/{at}.png")), |x, _| !is_empty(at) && x > 30);
    }
}

#[test]
fn losses_are_the_same_in_every_command() {
    let run = Run::new();
    cells(&run, "cells", 16, |_| false);
    std::fs::write(run.path("cells/images/3.png"), "<html>").expect("written");
    let whole = std::fs::read(run.path("cells/images/4.png")).expect("saved");
    std::fs::write(run.path("cells/images/4.png"), &whole[..whole.len() / 2]).expect("written");
    let checkpoint = fixture("tiny_sam.safetensors");
    let head = "ERROR image_unreadable x2";
    let places = ["3.png", "an HTML page", "4.png"];
    let refusal = ["2 problems that would silently change the result", "3.png"];

    run.refused(&["data", "check", "cells"], &[]);
    let (checked, _) = texts(&run.sam_train(&["data", "check", "cells"]));
    assert!(checked.contains(head) && places.iter().all(|place| checked.contains(place)), "{checked}");

    let convert = ["data", "convert", "cells", "--to", "coco", "--out", "converted"];
    run.refused(&convert, &[&refusal[..], &["--drop-bad"]].concat());
    let text = run.ok(&[&convert[..], &["--drop-bad"]].concat());
    assert!(text.contains(head) && text.contains("14 images with 14 objects"), "{text}");

    let eval = ["eval", "--checkpoint", &checkpoint, "--data", "cells", "--clicks", "1", "--out", "out"];
    run.refused(&eval, &[&refusal[..], &["--drop-bad"]].concat());
    let output = run.sam_train(&[&eval[..], &["--drop-bad"]].concat());
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(err.contains(head) && places.iter().all(|place| err.contains(place)), "{err}");
    let report = std::fs::read_to_string(run.path("out/report.md")).expect("written");
    assert!(report.contains("Lost data of cells") && report.contains("image_unreadable"), "{report}");

    configure(&run, "split = { val = 0.4 }");
    let output = run.sam_train(&["--config", "train.toml"]);
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains(refusal[0]) && err.contains("data.bad = \"drop\"") && !err.contains("--drop-bad"), "{err}");
    assert!(!run.path("run").exists());
    configure(&run, "split = { val = 0.4 }\nbad = \"drop\"");
    let text = run.ok(&["--config", "train.toml"]);
    assert!(text.contains(head) && places.iter().all(|place| text.contains(place)), "{text}");
    let report = std::fs::read_to_string(run.path("run/report.md")).expect("written");
    assert!(report.contains("Lost data of") && report.contains("image_unreadable"), "{report}");
    let html = std::fs::read_to_string(run.path("run/report.html")).expect("written");
    assert!(html.contains("image_unreadable"), "report.html has the same table");
}

/// Nothing can be learned, or nothing measured: refused before the run folder is made.
#[test]
fn sets_without_objects_are_refused_before_the_first_step() {
    let run = Run::new();
    cells(&run, "cells", 6, |_| true);
    cells(&run, "validation", 6, |_| false);
    configure(&run, "validation = \"validation\"");
    run.refused(&["--config", "train.toml"], &["cells: none of the 6 images to train on has an object"]);
    std::fs::remove_dir_all(run.path("cells")).expect("removed");
    std::fs::remove_dir_all(run.path("validation")).expect("removed");
    cells(&run, "cells", 6, |_| false);
    cells(&run, "validation", 6, |_| true);
    run.refused(&["--config", "train.toml"], &["validation: none of the 6 images to validate on has an object"]);
    assert!(!run.path("run").exists());
    let checkpoint = fixture("tiny_sam.safetensors");
    run.refused(
        &["eval", "--checkpoint", &checkpoint, "--data", "validation"],
        &["none of the 6 images to evaluate on has an object"],
    );
    run.refused(&["data", "check", "validation"], &[]);
    // What was lost is the likely cause.
    std::fs::remove_dir_all(run.path("validation")).expect("removed");
    cells(&run, "validation", 6, |at| at != 2);
    std::fs::write(run.path("validation/images/2.png"), "").expect("written");
    configure(&run, "validation = \"validation\"\nbad = \"drop\"");
    run.refused(&["--config", "train.toml"], &["lost while reading: 6 images, 1 of them unreadable", "an empty file"]);
}
